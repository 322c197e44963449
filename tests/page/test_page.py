"""The page in a real browser."""

import re

import httpx2
import pytest
from conftest import PLAIN, tag
from playwright.sync_api import expect

from tests.service.conftest import AUTHENTICATED, TOKEN, assert_problem

LIVE_404 = "404 (Not Found)"  # Chromium logs this for /live while no release is live
UNAUTHORIZED_401 = "401 (Unauthorized)"
WRONG_TOKEN = "wrong-token-0123456789"  # noqa: S105 - not a secret


def live(page):
    return page.get_by_role("region", name="Live now")


def copy_button(page, number):
    return page.get_by_role("button", name=f"IMAGE_TAG={tag(number)}")


def open_notes(page):
    live(page).get_by_role("button", name="Notes").click()
    return page.get_by_role("dialog", name=f"Notes on {tag(12)}")


def fill_in_note(dialog, text, token=TOKEN):
    dialog.get_by_label("New note").fill(text)
    dialog.get_by_label("Token").fill(token)


def sign_in(page, token):
    page.get_by_role("textbox", name="Token").fill(token)
    page.get_by_role("button", name="Show the ledger").click()


# --- content


def test_live_release_is_shown_with_time_and_actor(site, visit, take_picture):
    page = visit(site)
    expect(live(page)).to_contain_text(tag(12))
    expect(live(page)).to_contain_text("by the deploy key")
    expect(live(page).get_by_role("time")).to_have_attribute("title", re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"))
    take_picture(page, "light")


def test_times_are_local(site, visit):
    site.record(13, hours=-1)
    pages = [visit(site, timezone_id=zone) for zone in ("Pacific/Kiritimati", "UTC")]
    times = [page.get_by_role("table").get_by_role("time").first.inner_text() for page in pages]
    assert times[0] != times[1]


def test_reason_of_a_refused_deploy_is_shown(site, visit, take_picture):
    site.record(13, "refused", reason="the api has exited", seconds={"pull": 2, "wait": 7})
    page = visit(site)
    newest = page.get_by_role("row").nth(1)
    expect(newest).to_contain_text("refused: the api has exited")
    expect(newest).to_contain_text(tag(13))
    expect(live(page)).to_contain_text(tag(12))
    expect(live(page)).to_contain_text(f"The last deploy ({tag(13)}) was refused: the api has exited")
    take_picture(page, "refused")
    site.record(14)
    page.clock.run_for(16_000)
    expect(page.get_by_role("row").nth(1)).to_contain_text(tag(14))
    expect(live(page).get_by_text("was refused")).to_be_hidden()


def test_refused_deploy_that_ended_before_the_live_one_is_not_the_last(site, visit):
    site.record(13, "refused", hours=2)  # recorded late: tag(12) went live 1.5 hours ago
    page = visit(site)
    expect(page.get_by_role("row").nth(1)).to_contain_text(tag(13))
    expect(live(page).get_by_text("was refused")).to_be_hidden()


def test_refused_deploy_that_ended_last_is_shown_even_if_another_was_recorded_later(site, visit):
    site.record(13, "refused", hours=1)
    site.record(14, "live", hours=30)
    expect(live(visit(site))).to_contain_text(f"The last deploy ({tag(13)}) was refused")


def test_chart_has_a_bar_for_each_deploy_and_an_accessible_name(site, visit):
    page = visit(site)
    expect(page.locator("#chart rect")).to_have_count(13)
    expect(page.locator("#chart rect.refused title")).to_have_text(re.compile(f"{tag(6)} refused, .*63 s"))
    summary = "last 13 deploys in seconds, .*: 11 went live, 1 refused, 1 rollback; .*longest 63 s"
    expect(page.get_by_role("img", name=re.compile(summary))).to_be_visible()


@pytest.mark.parametrize(("durations", "median"), [((10, 20), "15 s"), ((30, 10, 11), "11 s"), ((7,), "7 s")])
def test_chart_states_the_median_duration(empty, visit, durations, median):
    for number, seconds in enumerate(durations):
        empty.record(number, seconds={"wait": seconds})
    page = visit(empty)
    expect(page.get_by_role("img", name=re.compile(f"median {median}, longest"))).to_be_visible()


def test_dora_metrics_are_shown(site, visit):
    delivery = visit(site).get_by_role("region", name=re.compile("Delivery metrics, last 30 days"))
    for metric in ("2.6 a week", "9 min", "9.1%", "30 min"):
        expect(delivery).to_contain_text(metric)


def test_metrics_of_a_period_without_deploys_are_described_as_such(empty, visit):
    empty.record(12, hours=31 * 24)
    page = visit(empty)
    expect(page.get_by_role("rowheader")).to_have_count(1)
    expect(page.get_by_text("no data in this period")).to_have_count(4)


def test_seconds_of_each_step_are_reachable_by_keyboard(site, visit):
    page = visit(site)
    duration = page.get_by_role("row").nth(1).locator("summary")
    expect(duration).to_have_text(re.compile(r"^[\d.]+ s$"))
    duration.press("Enter")
    expect(page.get_by_role("row").nth(1)).to_contain_text("pull 1.2 s, migrate 0.6 s, start 0.9 s, wait 1.9 s")


def test_empty_ledger_explains_the_setup(empty, visit, take_picture):
    page = visit(empty)
    page.expected_errors.append(LIVE_404)
    expect(live(page)).to_contain_text(tag(12))
    expect(live(page)).to_contain_text(f"sets NOTIFY_URL={empty.url}/deploys and sets NOTIFY_TOKEN to one of")
    expect(page.get_by_text("no release to roll back to")).to_be_visible()
    expect(page.get_by_text("No deploys recorded yet.")).to_be_visible()
    expect(page.get_by_text("no data in this period")).to_have_count(4)
    take_picture(page, "empty")


def test_unrecorded_deploy_is_shown(site, visit):
    site.stop()
    site.start(RELEASE=tag(13))
    page = visit(site)
    expect(live(page)).to_contain_text(tag(13))
    expect(live(page)).to_contain_text(f"Last recorded live release: {tag(12)}")


def test_new_deploy_appears_and_is_announced(site, visit):
    page = visit(site)
    page.get_by_role("row").nth(1).get_by_role("button").focus()
    site.record(13, "refused", reason="no")
    page.clock.run_for(16_000)
    expect(page.get_by_role("row").nth(1)).to_contain_text(tag(13))
    expect(page.get_by_role("status").first).to_have_text(f"{tag(13)}: refused.")
    expect(page.get_by_role("row").nth(2).get_by_role("button")).to_be_focused()


def test_older_deploys_stay_when_new_ones_appear(site, visit):
    for hours in range(400, 415):
        site.record(1, "refused", hours)
    page = visit(site)
    expect(page.locator("tbody tr")).to_have_count(20)
    page.get_by_role("button", name="Older deploys").focus()
    page.get_by_role("button", name="Older deploys").evaluate("button => [1, 2].forEach(() => button.click())")
    expect(page.locator("tbody tr")).to_have_count(28)
    expect(page.get_by_role("button", name="Older deploys")).to_be_hidden()
    expect(page.get_by_role("row").nth(21).get_by_role("button")).to_be_focused()
    site.record(13, "refused")
    page.clock.run_for(16_000)
    expect(page.locator("tbody tr")).to_have_count(29)
    attempts = page.locator("tbody [data-key]").evaluate_all("all => all.map(each => each.dataset.key)")
    assert len(set(attempts)) == 29


def test_failure_to_load_older_deploys_says_how_to_retry(site, visit):
    for hours in range(400, 410):
        site.record(1, "refused", hours)
    page = visit(site)
    page.expected_errors.append("net::ERR_FAILED")
    page.route("**/deploys?before=*", lambda route: route.abort())
    page.get_by_role("button", name="Older deploys").click()
    expect(page.get_by_role("alert")).to_have_text(re.compile("did not respond.*To try again, select “Older deploys”"))
    expect(page.get_by_role("alert")).not_to_contain_text("Retrying")
    page.unroute("**/deploys?before=*")
    page.get_by_role("button", name="Older deploys").click()
    expect(page.locator("tbody tr")).to_have_count(23)


def respond_with_empty_page(route):
    route.fulfill(json={"items": [], "next": None})


def test_empty_page_of_older_deploys_is_not_an_error(site, visit):
    for hours in range(400, 410):
        site.record(1, "refused", hours)
    page = visit(site)
    page.route("**/deploys?before=*", respond_with_empty_page)
    page.get_by_role("button", name="Older deploys").click()
    expect(page.get_by_role("button", name="Older deploys")).to_be_hidden()
    expect(page.get_by_role("row").last.get_by_role("button")).to_be_focused()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_recorded_text_is_never_rendered_as_html(site, visit):
    site.record(13, "refused", reason="<img src=x onerror=alert(1)> <b>bold</b>", actor="<i>me</i>")
    newest = visit(site).get_by_role("row").nth(1)
    expect(newest).to_contain_text("<img src=x onerror=alert(1)> <b>bold</b>")
    expect(newest).to_contain_text("<i>me</i>")
    expect(newest.locator("img, i")).to_have_count(0)


# --- rollback


def test_button_copies_the_exact_line(site, visit):
    page = visit(site, permissions=["clipboard-read", "clipboard-write"])
    copy_button(page, 11).click()
    expect(copy_button(page, 11)).to_contain_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == f"IMAGE_TAG={tag(11)}"
    expect(page.get_by_role("status").first).to_contain_text("run deploy.sh")


def test_button_copies_over_plain_http_without_the_clipboard_api(site, visit):
    site.url = site.url.replace("localhost", PLAIN)
    page = visit(site)
    assert page.evaluate("[isSecureContext, navigator.clipboard]") == [False, None]
    copy_button(page, 10).click()
    expect(copy_button(page, 10)).to_contain_text("Copied")
    note = open_notes(page).get_by_label("New note")
    note.press("Control+V")
    expect(note).to_have_value(f"IMAGE_TAG={tag(10)}")


def test_refused_and_live_releases_are_not_rollback_candidates(site, visit):
    page = visit(site)
    page.get_by_text("Older releases").click()
    expect(copy_button(page, 1)).to_be_visible()
    expect(copy_button(page, 6)).to_have_count(0)
    expect(copy_button(page, 12)).to_have_count(0)


def test_copy_button_is_reachable_by_keyboard(site, visit):
    page = visit(site, permissions=["clipboard-read", "clipboard-write"])
    for _ in range(2):  # past the Notes button of the live release
        page.keyboard.press("Tab")
    focused = page.locator(":focus")
    expect(focused).to_have_accessible_name(f"Copy IMAGE_TAG={tag(11)}")
    assert focused.evaluate("it => getComputedStyle(it).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(copy_button(page, 11)).to_contain_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == f"IMAGE_TAG={tag(11)}"


# --- notes


def test_note_with_a_wrong_token_is_rejected_with_the_reason(site, visit, take_picture):
    page = visit(site)
    page.expected_errors.append(UNAUTHORIZED_401)
    dialog = open_notes(page)
    expect(dialog.get_by_text("No notes yet.")).to_be_visible()
    fill_in_note(dialog, "held back for the demo", WRONG_TOKEN)
    dialog.get_by_role("button", name="Add the note").click()
    expect(dialog.get_by_role("status")).to_have_text("Not added: a valid bearer token is required.")
    take_picture(page, "notes", full_page=False)
    assert site.read_notes(12) == []
    dialog.get_by_label("Token").fill(TOKEN)
    dialog.get_by_role("button", name="Add the note").click()
    expect(dialog.get_by_role("listitem")).to_have_count(1)
    expect(dialog.get_by_role("listitem")).to_contain_text("held back for the demo")
    assert site.read_notes(12) == ["held back for the demo"]


def test_double_click_adds_one_note(site, visit):
    page = visit(site)
    dialog = open_notes(page)
    fill_in_note(dialog, "once")
    dialog.get_by_role("button", name="Add the note").dblclick()
    expect(dialog.get_by_role("status")).to_have_text("Note added.")
    expect(dialog.get_by_role("listitem")).to_have_count(1)
    assert site.read_notes(12) == ["once"]


def test_note_sent_again_after_a_lost_response_is_added_once(site, visit):
    page = visit(site)
    page.expected_errors.append("net::ERR_FAILED")

    def drop_response(route):
        if route.request.method == "POST":
            route.fetch()
            route.abort()
        else:
            route.continue_()

    page.route("**/notes", drop_response)
    dialog = open_notes(page)
    fill_in_note(dialog, "once")
    dialog.get_by_role("button", name="Add the note").click()
    expect(dialog.get_by_role("status")).to_contain_text("You can send it again; it will be added only once.")
    page.unroute("**/notes")
    dialog.get_by_role("button", name="Add the note").click()
    expect(dialog.get_by_role("status")).to_have_text("Note added.")
    expect(dialog.get_by_role("listitem")).to_have_count(1)
    assert site.read_notes(12) == ["once"]
    fill_in_note(dialog, "once")  # a second note with the same text
    dialog.get_by_role("button", name="Add the note").click()
    expect(dialog.get_by_role("listitem")).to_have_count(2)


def test_note_with_an_incomplete_response_is_unconfirmed(site, visit):
    page = visit(site)

    def truncate_response(route):
        if route.request.method == "POST":
            route.fetch()
            route.fulfill(status=201, body='{"id"')
        else:
            route.continue_()

    page.route("**/notes", truncate_response)
    dialog = open_notes(page)
    fill_in_note(dialog, "once")
    dialog.get_by_role("button", name="Add the note").click()
    message = "Not confirmed: the response was incomplete. You can send it again; it will be added only once."
    expect(dialog.get_by_role("status")).to_have_text(message)
    page.unroute("**/notes")
    dialog.get_by_role("button", name="Add the note").click()
    expect(dialog.get_by_role("status")).to_have_text("Note added.")
    assert site.read_notes(12) == ["once"]


def test_draft_for_one_release_is_not_added_to_another(site, visit):
    page = visit(site)
    held = []
    page.route(
        f"**/{tag(12)}/notes", lambda route: held.append(route) if route.request.method == "POST" else route.continue_()
    )
    dialog = open_notes(page)
    fill_in_note(dialog, "for the first")
    dialog.get_by_role("button", name="Add the note").click()
    expect(dialog.get_by_role("status")).to_have_text("Sending…")
    dialog.get_by_role("button", name="Close").click()
    page.get_by_role("button", name=f"Notes on {tag(11)}").last.click()
    dialog = page.get_by_role("dialog", name=f"Notes on {tag(11)}")
    expect(dialog.get_by_label("New note")).to_have_value("")
    fill_in_note(dialog, "for the second")
    with page.expect_response(f"**/{tag(12)}/notes"):
        held[0].continue_()
    expect(dialog.get_by_label("New note")).to_have_value("for the second")
    dialog.get_by_role("button", name="Add the note").click()
    expect(dialog.get_by_role("listitem")).to_have_count(1)
    assert (site.read_notes(12), site.read_notes(11)) == (["for the first"], ["for the second"])


def test_token_is_stored_in_memory_only(site, visit):
    page = visit(site)
    dialog = open_notes(page)
    fill_in_note(dialog, "x")
    dialog.get_by_role("button", name="Add the note").click()
    expect(dialog.get_by_role("listitem")).to_have_count(1)
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
    page.reload()
    assert open_notes(page).get_by_label("Token").input_value() == ""


def test_page_warns_about_tokens_over_plain_http(site, visit):
    warning = "This page was loaded over plain HTTP: anyone on the network path can read the token."
    expect(open_notes(visit(site)).get_by_text(warning)).to_be_hidden()
    site.url = site.url.replace("localhost", PLAIN)
    dialog = open_notes(visit(site))
    expect(dialog.get_by_text(warning)).to_be_visible()
    expect(dialog.get_by_label("Token")).to_have_accessible_description(re.compile(f"{warning}$"))


def test_focus_moves_to_the_last_note_when_the_older_button_disappears(site, visit):
    for number in range(21):
        site.add_note(12, f"note {number}")
    dialog = open_notes(visit(site))
    dialog.get_by_role("button", name="Older notes").press("Enter")
    expect(dialog.get_by_role("listitem")).to_have_count(21)
    expect(dialog.get_by_role("listitem").last).to_be_focused()


def test_empty_page_of_older_notes_is_not_an_error(site, visit):
    for number in range(21):
        site.add_note(12, f"note {number}")
    page = visit(site)
    page.route("**/notes?before=*", respond_with_empty_page)
    dialog = open_notes(page)
    dialog.get_by_role("button", name="Older notes").press("Enter")
    expect(dialog.get_by_role("listitem").last).to_be_focused()
    expect(dialog.get_by_role("listitem")).to_have_count(20)
    expect(dialog.get_by_role("status")).to_have_text("")


def test_escape_closes_the_notes_and_restores_the_focus(site, visit):
    page = visit(site)
    open_notes(page)
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(live(page).get_by_role("button", name="Notes")).to_be_focused()


# --- failures and access


def test_api_outage_and_recovery_are_shown(site, visit, take_picture):
    page = visit(site)
    page.expected_errors.append("502 (Bad Gateway)")
    site.stop()
    page.clock.run_for(16_000)
    expect(page.get_by_role("alert")).to_contain_text("The request to the API failed", timeout=15_000)
    expect(page.get_by_role("alert")).to_contain_text("The data below is from")
    expect(live(page)).to_contain_text(tag(12))
    expect(page.get_by_role("alert")).to_contain_text(re.compile(r"the API is unavailable, request \w+\)"))
    take_picture(page, "down")
    site.start()
    page.clock.run_for(11_000)
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.get_by_role("status").first).to_have_text("The API is available again.")


def test_page_recovers_when_the_api_was_down_at_first(site, visit):
    site.stop()
    page = visit(site, ready="request to the API failed")
    page.expected_errors.append("502 (Bad Gateway)")
    expect(page.get_by_role("alert")).to_contain_text(re.compile(r"request \w+\)\. Retrying every 10 s\.$"))
    site.start()
    page.clock.run_for(11_000)
    expect(live(page)).to_contain_text(tag(12))


def test_hidden_page_sends_no_requests(site, visit):
    page = visit(site)
    hide = "hidden => { Object.defineProperty(document, 'hidden', {get: () => hidden, configurable: true}) }"
    page.evaluate(hide, True)
    page.clock.run_for(60_000)
    before = len(page.requested_urls)
    page.clock.run_for(60_000)
    assert len(page.requested_urls) == before
    page.evaluate(hide, False)
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.get_by_text("as of")).to_be_visible()
    assert len(page.requested_urls) > before


def test_protected_ledger_asks_for_a_token(site, visit, take_picture):
    site.stop()
    site.start(READ_ACCESS="token")
    page = visit(site, ready="requires a token")
    page.expected_errors.append(UNAUTHORIZED_401)
    expect(live(page)).to_contain_text(tag(12))
    expect(page.get_by_role("table")).to_be_hidden()
    take_picture(page, "locked")
    sign_in(page, WRONG_TOKEN)
    expect(page.get_by_role("alert")).to_have_text("Access denied: a valid bearer token is required.")
    page.get_by_role("textbox", name="Token").fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.get_by_role("table")).to_be_visible()
    expect(page.get_by_role("heading", name="This ledger requires a token")).to_be_hidden()
    expect(copy_button(page, 11)).to_be_visible()


def test_responses_to_an_earlier_token_are_ignored(site, visit):
    site.stop()
    site.start(READ_ACCESS="token")
    page = visit(site, ready="requires a token")
    page.expected_errors.append(UNAUTHORIZED_401)
    held = []

    def hold_first_with_wrong_token(route):
        if WRONG_TOKEN in route.request.headers.get("authorization", "") and not held:
            held.append(route)
        else:
            route.continue_()

    page.route("**/*", hold_first_with_wrong_token)
    sign_in(page, WRONG_TOKEN)
    sign_in(page, TOKEN)
    expect(page.get_by_role("table")).to_be_visible()
    with page.expect_response(lambda response: response.status == 401):
        held[0].continue_()
    with page.expect_response(lambda response: response.url.endswith("/figures") and response.ok):
        page.clock.run_for(16_000)
    expect(page.get_by_role("heading", name="This ledger requires a token")).to_be_hidden()


def test_ledger_is_hidden_when_its_token_is_revoked(site, visit):
    site.stop()
    site.start(READ_ACCESS="token")
    page = visit(site, ready="requires a token")
    page.expected_errors.append(UNAUTHORIZED_401)
    sign_in(page, TOKEN)
    expect(page.get_by_role("table")).to_be_visible()
    site.stop()
    new = TOKEN[::-1]
    site.start(API_TOKEN=new)
    page.clock.run_for(16_000)
    expect(page.get_by_role("alert")).to_have_text("Access denied: a valid bearer token is required.")
    expect(page.get_by_role("table")).to_be_hidden()
    expect(page.get_by_role("heading", name="Roll back")).to_be_hidden()
    expect(page.get_by_text("as of")).to_be_hidden()
    sign_in(page, new)
    expect(page.get_by_role("table")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_empty_ledger_explains_the_setup_after_signing_in(empty, visit):
    empty.stop()
    empty.start(READ_ACCESS="token")
    page = visit(empty, ready="requires a token")
    page.expected_errors += [UNAUTHORIZED_401, LIVE_404]
    expect(live(page)).not_to_contain_text("NOTIFY_URL")
    sign_in(page, TOKEN)
    expect(live(page)).to_contain_text(f"NOTIFY_URL={empty.url}/deploys")


# --- accessibility

# Returns the WCAG contrast of each visible text with its background.
CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true})
  const rgb = (color) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1)
    return [...canvas.getImageData(0, 0, 1, 1).data]
  }
  const light = (color) => rgb(color).slice(0, 3).map((part) => part / 255)
    .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0)
  const behind = (node) => rgb(getComputedStyle(node).backgroundColor)[3] || node === document.documentElement
    ? getComputedStyle(node).backgroundColor : behind(node.parentElement)
  const own = (node) => [...node.childNodes].some((each) => each.nodeType === 3 && each.data.trim())
  return [...document.body.querySelectorAll("*")].filter((node) => own(node) && node.checkVisibility())
    .map((node) => {
      const style = getComputedStyle(node)
      const pair = [light(node.closest("svg") ? style.fill : style.color), light(behind(node))].sort((a, b) => b - a)
      return [(pair[0] + 0.05) / (pair[1] + 0.05), node.outerHTML.slice(0, 80)]
    })
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_contrast_is_at_least_4_5(site, visit, take_picture, scheme):
    page = visit(site, color_scheme=scheme)
    page.get_by_text("Older releases").click()
    found = page.evaluate(CONTRASTS)
    assert len(found) > 100
    assert not [each for each in found if each[0] < 4.5]
    page.get_by_text("Older releases").click()
    take_picture(page, scheme)
    open_notes(page)
    assert not [each for each in page.evaluate(CONTRASTS) if each[0] < 4.5]


def test_page_fits_a_phone(site, visit, take_picture):
    site.record(13, "refused", reason=f"https://example.com/{'long' * 60}")
    page = visit(site, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True, color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    take_picture(page, "phone")
    small = page.get_by_role("button").evaluate_all("all => all.filter(it => it.offsetHeight < 40).length")
    assert small == 0
    dialog = open_notes(page)
    expect(dialog).to_be_in_viewport(ratio=1)
    take_picture(page, "phone-notes", full_page=False)


def test_structure_for_screen_readers(site, visit):
    page = visit(site)
    expect(page.get_by_role("banner")).to_have_count(1)
    expect(page.get_by_role("main")).to_have_count(1)
    assert page.get_by_role("heading").all_inner_texts() == [
        "Quai release ledger",
        "Live now",
        "Roll back",
        "Deploys",
        "Delivery metrics, last 30 days",
    ]
    expect(page.get_by_role("table", name="Deploys, newest first")).to_be_visible()
    assert page.get_by_role("columnheader").all_inner_texts() == ["Release", "Outcome", "Ended", "Duration", "Notes"]
    expect(page.get_by_role("rowheader")).to_have_count(13)
    for control in page.get_by_role("button").all():
        expect(control).to_have_accessible_name(re.compile("(Copy IMAGE_TAG=|Notes on )[0-9a-f]{40}"))
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(it => it.id)")
    assert len(ids) == len(set(ids))
    assert page.evaluate("document.documentElement.lang") == "en"


def test_table_keeps_its_semantics_on_a_phone(site, visit):
    page = visit(site, viewport={"width": 360, "height": 740})
    expect(page.get_by_role("rowheader")).to_have_count(13)
    expect(page.get_by_role("columnheader")).to_have_count(5)


def test_page_has_no_motion(site, visit):
    page = visit(site)
    durations = "[style.transitionDuration, style.animationDuration]"
    moving = f"all => all.map(it => getComputedStyle(it)).filter(style => {durations}.some(parseFloat)).length"
    assert page.locator("*").evaluate_all(moving) == 0


def test_front_sends_a_strict_content_security_policy(read_page):
    headers, page = read_page("/")
    policy = dict(each.strip().split(" ", 1) for each in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["trusted-types"] == policy["form-action"] == "'none'"
    assert {policy[f"{each}-src"] for each in ("script", "style", "connect", "img")} == {"'self'"}
    assert headers["Referrer-Policy"] == "no-referrer"
    assert not re.search(r"<style|style=|<script>|\son\w+=|https?://", page)


def test_errors_of_the_front_are_problems(site, front):
    long = {"text": "x" * 2_000_000}
    with httpx2.Client(base_url=site.url, timeout=20) as client:
        page = client.get("/")
        assert_problem(client.post(f"/releases/{tag(12)}/notes", json=long, headers=AUTHENTICATED), 413)
        site.stop()
        response = client.get("/live")
    problem = assert_problem(response, 502)
    assert problem["detail"] == "the API is unavailable"
    assert response.headers["Content-Security-Policy"] == page.headers["Content-Security-Policy"]
    for name in ("Server", "Via"):
        assert name not in response.headers
        assert name not in page.headers
    assert f'"err_id":"{problem["request_id"]}"' in front.log.read_text()

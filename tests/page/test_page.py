"""What people do with the page, in a real browser."""

import re

import httpx2
import pytest
from conftest import PLAIN, tag
from playwright.sync_api import expect

from tests.service.conftest import AUTHENTICATED, TOKEN, is_problem

LIVE_404 = "404 (Not Found)"  # Chromium's line for /live when nothing is live: expected of an empty ledger
REFUSED_401 = "401 (Unauthorized)"


def live(page):
    return page.get_by_role("region", name="Live now")


def copy_button(page, number):
    return page.get_by_role("button", name=f"IMAGE_TAG={tag(number)}")


def open_notes(page):
    live(page).get_by_role("button", name="Notes").click()
    return page.get_by_role("dialog", name=f"Notes on {tag(12)}")


def write(dialog, text, token=TOKEN):
    dialog.get_by_label("A new note").fill(text)
    dialog.get_by_label("Token").fill(token)


# --- what is shown


def test_it_says_what_is_live_since_when_and_by_whom(site, visit, picture):
    page = visit(site)
    expect(live(page)).to_contain_text(tag(12))
    expect(live(page)).to_contain_text("by the deploy key")
    expect(live(page).get_by_role("time")).to_have_attribute("title", re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"))
    picture(page, "light")


def test_times_are_those_of_the_reader(site, visit):
    site.record(13, hours=-1)
    there = visit(site, timezone_id="Pacific/Kiritimati").get_by_role("table").get_by_role("time").first.inner_text()
    here = visit(site, timezone_id="UTC").get_by_role("table").get_by_role("time").first.inner_text()
    assert there != here


def test_it_says_why_a_release_was_refused(site, visit, picture):
    site.record(13, "refused", reason="the new container is crashing", seconds={"pull": 2, "wait": 7})
    page = visit(site)
    newest = page.get_by_role("row").nth(1)
    expect(newest).to_contain_text("refused: the new container is crashing")
    expect(newest).to_contain_text(tag(13))
    expect(live(page)).to_contain_text(tag(12))
    expect(live(page)).to_contain_text(f"of {tag(13)}, was refused: the new container is crashing")
    picture(page, "refused")
    site.record(14)
    page.clock.run_for(16_000)
    expect(page.get_by_role("row").nth(1)).to_contain_text(tag(14))
    expect(live(page).get_by_text("was refused")).to_be_hidden()


def test_the_chart_has_a_bar_for_each_deploy_and_says_the_same_in_words(site, visit):
    page = visit(site)
    expect(page.locator("#chart rect")).to_have_count(13)
    expect(page.locator("#chart rect.refused title")).to_have_text(re.compile(f"{tag(6)} refused, .*63 s"))
    words = "each of the last 13 deploys took.* 11 went live, 1 refused, 1 rolled back to; .*longest 63 s"
    expect(page.get_by_role("img", name=re.compile(words))).to_be_visible()


def test_the_figures_are_those_of_the_api(site, visit):
    delivery = visit(site).get_by_role("region", name=re.compile("Delivery, last 30 days"))
    for figure in ("2.6 a week", "9 min", "9.1 %", "30 min"):
        expect(delivery).to_contain_text(figure)


def test_the_seconds_of_each_step_are_there_without_a_mouse(site, visit):
    page = visit(site)
    took = page.get_by_role("row").nth(1).locator("summary")
    expect(took).to_have_text(re.compile(r"^[\d.]+ s$"))
    took.press("Enter")
    expect(page.get_by_role("row").nth(1)).to_contain_text("pull 1.2, migrate 0.6, start 0.9, wait 1.9")


def test_an_empty_ledger_says_what_to_do(empty, visit, picture):
    page = visit(empty)
    page.expected.append(LIVE_404)
    expect(live(page)).to_contain_text(tag(12))
    expect(live(page)).to_contain_text(f"NOTIFY_URL={empty.url}/deploys")
    expect(page.get_by_text("nothing to go back to")).to_be_visible()
    expect(page.get_by_text("No deploy was recorded yet.")).to_be_visible()
    expect(page.get_by_text("no data yet")).to_have_count(4)
    picture(page, "empty")


def test_a_deploy_that_the_ledger_was_not_told_of_is_not_hidden(site, visit):
    site.stop()
    site.start(RELEASE=tag(13))
    page = visit(site)
    expect(live(page)).to_contain_text(tag(13))
    expect(live(page)).to_contain_text(f"the last that it knows of is {tag(12)}")


def test_it_shows_a_new_deploy_by_itself_and_says_so(site, visit):
    page = visit(site)
    page.get_by_role("row").nth(1).get_by_role("button").focus()
    site.record(13, "refused", reason="no")
    page.clock.run_for(16_000)
    expect(page.get_by_role("row").nth(1)).to_contain_text(tag(13))
    expect(page.get_by_role("status").first).to_have_text(f"{tag(13)} refused.")
    expect(page.get_by_role("row").nth(2).get_by_role("button")).to_be_focused()


def test_older_deploys_stay_when_newer_ones_come(site, visit):
    for hours in range(400, 415):
        site.record(1, "refused", hours)
    page = visit(site)
    expect(page.locator("tbody tr")).to_have_count(20)
    page.get_by_role("button", name="Older deploys").dblclick()
    expect(page.locator("tbody tr")).to_have_count(28)
    expect(page.get_by_role("button", name="Older deploys")).to_be_hidden()
    expect(page.get_by_role("row").nth(21).get_by_role("button")).to_be_focused()
    site.record(13, "refused")
    page.clock.run_for(16_000)
    expect(page.locator("tbody tr")).to_have_count(29)
    attempts = page.locator("tbody [data-key]").evaluate_all("all => all.map(each => each.dataset.key)")
    assert len(set(attempts)) == 29


def test_what_was_recorded_is_shown_as_text_only(site, visit):
    site.record(13, "refused", reason="<img src=x onerror=alert(1)> <b>bold</b>", actor="<i>me</i>")
    newest = visit(site).get_by_role("row").nth(1)
    expect(newest).to_contain_text("<img src=x onerror=alert(1)> <b>bold</b>")
    expect(newest).to_contain_text("<i>me</i>")
    expect(newest.locator("img, i")).to_have_count(0)


# --- rolling back


def test_the_button_copies_the_exact_line(site, visit):
    page = visit(site, permissions=["clipboard-read", "clipboard-write"])
    copy_button(page, 11).click()
    expect(copy_button(page, 11)).to_contain_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == f"IMAGE_TAG={tag(11)}"
    expect(page.get_by_role("status").first).to_contain_text("run deploy.sh")


def test_it_copies_over_plain_http_too_where_no_page_has_a_clipboard(site, visit):
    site.url = site.url.replace("localhost", PLAIN)
    page = visit(site)
    assert page.evaluate("[isSecureContext, navigator.clipboard]") == [False, None]
    copy_button(page, 10).click()
    expect(copy_button(page, 10)).to_contain_text("Copied")
    note = open_notes(page).get_by_label("A new note")
    note.press("Control+V")
    expect(note).to_have_value(f"IMAGE_TAG={tag(10)}")


def test_what_was_refused_or_is_live_cannot_be_rolled_back_to(site, visit):
    page = visit(site)
    page.get_by_text("Releases before these").click()
    expect(copy_button(page, 1)).to_be_visible()
    expect(copy_button(page, 6)).to_have_count(0)
    expect(copy_button(page, 12)).to_have_count(0)


def test_the_keyboard_alone_reaches_the_line(site, visit):
    page = visit(site, permissions=["clipboard-read", "clipboard-write"])
    for _ in range(2):  # past the notes of what is live
        page.keyboard.press("Tab")
    focused = page.locator(":focus")
    expect(focused).to_have_accessible_name(f"Copy IMAGE_TAG={tag(11)}")
    assert focused.evaluate("it => getComputedStyle(it).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(copy_button(page, 11)).to_contain_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == f"IMAGE_TAG={tag(11)}"


# --- notes


def test_a_note_with_a_wrong_token_is_not_left_and_the_reason_is_shown(site, visit, picture):
    page = visit(site)
    page.expected.append(REFUSED_401)
    dialog = open_notes(page)
    expect(dialog.get_by_text("No note yet.")).to_be_visible()
    write(dialog, "held back for the demo", "wrong-token-0123456789")
    dialog.get_by_role("button", name="Leave the note").click()
    expect(dialog.get_by_role("status")).to_have_text("Not left: a valid bearer token is needed.")
    picture(page, "notes", full_page=False)
    assert site.notes(12) == []
    dialog.get_by_label("Token").fill(TOKEN)
    dialog.get_by_role("button", name="Leave the note").click()
    expect(dialog.get_by_role("listitem")).to_have_count(1)
    expect(dialog.get_by_role("listitem")).to_contain_text("held back for the demo")
    assert site.notes(12) == ["held back for the demo"]


def test_a_double_click_leaves_one_note(site, visit):
    page = visit(site)
    dialog = open_notes(page)
    write(dialog, "once")
    dialog.get_by_role("button", name="Leave the note").dblclick()
    expect(dialog.get_by_role("status")).to_have_text("The note is left.")
    expect(dialog.get_by_role("listitem")).to_have_count(1)
    assert site.notes(12) == ["once"]


def test_a_note_whose_answer_was_lost_is_sent_again_and_left_once(site, visit):
    page = visit(site)
    page.expected.append("net::ERR_FAILED")

    def lose(route):
        if route.request.method == "POST":
            route.fetch()
            route.abort()
        else:
            route.continue_()

    page.route("**/notes", lose)
    dialog = open_notes(page)
    write(dialog, "once")
    dialog.get_by_role("button", name="Leave the note").click()
    expect(dialog.get_by_role("status")).to_contain_text("Send it again: it will not be left twice.")
    page.unroute("**/notes")
    dialog.get_by_role("button", name="Leave the note").click()
    expect(dialog.get_by_role("status")).to_have_text("The note is left.")
    expect(dialog.get_by_role("listitem")).to_have_count(1)
    assert site.notes(12) == ["once"]
    write(dialog, "once")  # on purpose
    dialog.get_by_role("button", name="Leave the note").click()
    expect(dialog.get_by_role("listitem")).to_have_count(2)


def test_a_note_whose_answer_was_cut_off_is_not_called_lost(site, visit):
    page = visit(site)

    def cut(route):
        if route.request.method == "POST":
            route.fetch()
            route.fulfill(status=201, body='{"id"')
        else:
            route.continue_()

    page.route("**/notes", cut)
    dialog = open_notes(page)
    write(dialog, "once")
    dialog.get_by_role("button", name="Leave the note").click()
    told = "Not left: the answer was cut off. Send it again: it will not be left twice."
    expect(dialog.get_by_role("status")).to_have_text(told)
    page.unroute("**/notes")
    dialog.get_by_role("button", name="Leave the note").click()
    expect(dialog.get_by_role("status")).to_have_text("The note is left.")
    assert site.notes(12) == ["once"]


def test_what_is_typed_for_one_release_is_not_left_on_another(site, visit):
    page = visit(site)
    held = []
    page.route(
        f"**/{tag(12)}/notes", lambda route: held.append(route) if route.request.method == "POST" else route.continue_()
    )
    dialog = open_notes(page)
    write(dialog, "of the first")
    dialog.get_by_role("button", name="Leave the note").click()
    expect(dialog.get_by_role("status")).to_have_text("Sending…")
    dialog.get_by_role("button", name="Close").click()
    page.get_by_role("button", name=f"Notes on {tag(11)}").last.click()
    dialog = page.get_by_role("dialog", name=f"Notes on {tag(11)}")
    expect(dialog.get_by_label("A new note")).to_have_value("")
    write(dialog, "of the second")
    with page.expect_response(f"**/{tag(12)}/notes"):
        held[0].continue_()
    expect(dialog.get_by_label("A new note")).to_have_value("of the second")
    dialog.get_by_role("button", name="Leave the note").click()
    expect(dialog.get_by_role("listitem")).to_have_count(1)
    assert (site.notes(12), site.notes(11)) == (["of the first"], ["of the second"])


def test_the_token_is_nowhere_but_in_the_memory_of_the_page(site, visit):
    page = visit(site)
    dialog = open_notes(page)
    write(dialog, "x")
    dialog.get_by_role("button", name="Leave the note").click()
    expect(dialog.get_by_role("listitem")).to_have_count(1)
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
    page.reload()
    assert open_notes(page).get_by_label("Token").input_value() == ""


def test_it_warns_of_a_token_that_would_be_sent_in_the_clear(site, visit):
    warning = "This page came over plain HTTP: anybody on the way can read the token."
    expect(open_notes(visit(site)).get_by_text(warning)).to_be_hidden()
    site.url = site.url.replace("localhost", PLAIN)
    dialog = open_notes(visit(site))
    expect(dialog.get_by_text(warning)).to_be_visible()
    expect(dialog.get_by_label("Token")).to_have_accessible_description(re.compile(f"{warning}$"))


def test_the_focus_is_not_lost_with_the_button_for_older_notes(site, visit):
    for number in range(21):
        site.leave_note(12, f"note {number}")
    dialog = open_notes(visit(site))
    dialog.get_by_role("button", name="Older notes").press("Enter")
    expect(dialog.get_by_role("listitem")).to_have_count(21)
    expect(dialog.get_by_role("listitem").last).to_be_focused()


def test_escape_closes_the_notes_and_gives_the_focus_back(site, visit):
    page = visit(site)
    open_notes(page)
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(live(page).get_by_role("button", name="Notes")).to_be_focused()


# --- when it is not as it should be


def test_it_says_when_the_api_does_not_answer_and_when_it_does_again(site, visit, picture):
    page = visit(site)
    page.expected.append("502 (Bad Gateway)")
    site.stop()
    page.clock.run_for(16_000)
    expect(page.get_by_role("alert")).to_contain_text("The API does not answer", timeout=15_000)
    expect(page.get_by_role("alert")).to_contain_text("What is shown is of")
    expect(live(page)).to_contain_text(tag(12))
    expect(page.get_by_role("alert")).to_contain_text(re.compile(r"no answer from the API, request \w+\)"))
    picture(page, "down")
    site.start()
    page.clock.run_for(11_000)
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.get_by_role("status").first).to_have_text("The API answers again.")


def test_it_comes_up_by_itself_when_the_api_was_down_from_the_start(site, visit):
    site.stop()
    page = visit(site, ready="does not answer")
    page.expected.append("502 (Bad Gateway)")
    site.start()
    page.clock.run_for(11_000)
    expect(live(page)).to_contain_text(tag(12))


def test_nothing_is_asked_while_nobody_looks(site, visit):
    page = visit(site)
    hide = "hidden => { Object.defineProperty(document, 'hidden', {get: () => hidden, configurable: true}) }"
    page.evaluate(hide, True)
    page.clock.run_for(60_000)
    before = len(page.asked)
    page.clock.run_for(60_000)
    assert len(page.asked) == before
    page.evaluate(hide, False)
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.get_by_text("as of")).to_be_visible()
    assert len(page.asked) > before


def test_a_ledger_that_wants_a_token_asks_for_it(site, visit, picture):
    site.stop()
    site.start(READ_ACCESS="token")
    page = visit(site, ready="wants a token")
    page.expected.append(REFUSED_401)
    expect(live(page)).to_contain_text(tag(12))
    expect(page.get_by_role("table")).to_be_hidden()
    picture(page, "locked")
    page.get_by_role("textbox", name="Token").fill("wrong-token-0123456789")
    page.get_by_role("button", name="Show the ledger").click()
    expect(page.get_by_role("alert")).to_have_text("Not shown: a valid bearer token is needed.")
    page.get_by_role("textbox", name="Token").fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.get_by_role("table")).to_be_visible()
    expect(page.get_by_role("heading", name="This ledger wants a token")).to_be_hidden()
    expect(copy_button(page, 11)).to_be_visible()


# --- for everybody

# The contrast of each visible text with what is behind it, as WCAG computes it.
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
def test_all_text_can_be_read(site, visit, picture, scheme):
    page = visit(site, color_scheme=scheme)
    page.get_by_text("Releases before these").click()
    found = page.evaluate(CONTRASTS)
    assert len(found) > 100
    assert not [each for each in found if each[0] < 4.5]
    page.get_by_text("Releases before these").click()
    picture(page, scheme)
    open_notes(page)
    assert not [each for each in page.evaluate(CONTRASTS) if each[0] < 4.5]


def test_it_fits_a_phone(site, visit, picture):
    site.record(13, "refused", reason=f"https://example.com/{'long' * 60}")
    page = visit(site, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True, color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    picture(page, "phone")
    small = page.get_by_role("button").evaluate_all("all => all.filter(it => it.offsetHeight < 40).length")
    assert small == 0
    dialog = open_notes(page)
    expect(dialog).to_be_in_viewport(ratio=1)
    picture(page, "phone-notes", full_page=False)


def test_a_screen_reader_finds_its_way(site, visit):
    page = visit(site)
    expect(page.get_by_role("banner")).to_have_count(1)
    expect(page.get_by_role("main")).to_have_count(1)
    assert page.get_by_role("heading").all_inner_texts() == [
        "Quai release ledger",
        "Live now",
        "Roll back",
        "Deploys",
        "Delivery, last 30 days",
    ]
    expect(page.get_by_role("table", name="Each deploy, the last one first")).to_be_visible()
    assert page.get_by_role("columnheader").all_inner_texts() == ["Release", "Outcome", "Ended", "Took", "Notes"]
    expect(page.get_by_role("rowheader")).to_have_count(13)
    for control in page.get_by_role("button").all():
        expect(control).to_have_accessible_name(re.compile("(Copy IMAGE_TAG=|Notes on )[0-9a-f]{40}"))
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(it => it.id)")
    assert len(ids) == len(set(ids))
    assert page.evaluate("document.documentElement.lang") == "en"


def test_a_phone_reads_the_table_as_a_table_too(site, visit):
    page = visit(site, viewport={"width": 360, "height": 740})
    expect(page.get_by_role("rowheader")).to_have_count(13)
    expect(page.get_by_role("columnheader")).to_have_count(5)


def test_nothing_moves_for_who_wants_no_motion(site, visit):
    page = visit(site, reduced_motion="reduce")
    moving = "all => all.filter(it => parseFloat(getComputedStyle(it).transitionDuration)).length"
    assert page.locator("*").evaluate_all(moving) == 0
    assert page.evaluate("document.getAnimations().length") == 0


def test_the_front_lets_the_page_do_nothing_but_what_it_does(served):
    headers, page = served("/")
    policy = dict(each.strip().split(" ", 1) for each in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["trusted-types"] == policy["form-action"] == "'none'"
    assert {policy[f"{each}-src"] for each in ("script", "style", "connect", "img")} == {"'self'"}
    assert headers["Referrer-Policy"] == "no-referrer"
    assert not re.search(r"<style|style=|<script>|\son\w+=|https?://", page)


def test_what_the_front_cannot_serve_is_a_problem_too(site, front):
    long = {"text": "x" * 2_000_000}
    with httpx2.Client(base_url=site.url, timeout=20) as client:
        page = client.get("/")
        is_problem(client.post(f"/releases/{tag(12)}/notes", json=long, headers=AUTHENTICATED), 413)
        site.stop()
        answer = client.get("/live")
    away = is_problem(answer, 502)
    assert away["detail"] == "the front gets no answer from the API"
    assert answer.headers["Content-Security-Policy"] == page.headers["Content-Security-Policy"]
    assert not {"Server", "Via"} & {*answer.headers, *page.headers}
    assert f'"err_id":"{away["request_id"]}"' in front.log.read_text()

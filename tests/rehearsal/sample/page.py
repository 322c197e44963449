"""The page and its headers, which belong to a release."""

from tests.rehearsal.application import Request
from tests.rehearsal.client import send_once
from tests.rehearsal.failures import expect
from tests.rehearsal.rehearsal import Rehearsal
from tests.rehearsal.variants import deploy_and_expect_live

CHANGED_PAGE = (
    "RUN sed -i 's|</title>|, rehearsed</title>|' /release/front/page/index.html",
    "RUN sed -i 's/Referrer-Policy no-referrer/Referrer-Policy same-origin/' /release/front/Caddyfile",
)


def page_change(rehearsal: Rehearsal) -> None:
    """A change of the page and the Caddyfile goes live with its release, and is rolled back with it."""
    previous = rehearsal.server.setting("IMAGE_TAG")

    def expect_page(policy: str, *, changed: bool) -> None:
        page = send_once(rehearsal.server, Request("/"))
        found = page.headers["Referrer-Policy"], "rehearsed</title>" in page.body
        expect(found == (policy, changed), f"expected {(policy, changed)}, found {found}")

    expect_page("no-referrer", changed=False)
    deploy_and_expect_live(rehearsal, "changed page", *CHANGED_PAGE)
    expect_page("same-origin", changed=True)
    rehearsal.server.set(IMAGE_TAG=previous)
    rehearsal.deploy_by_hand()
    expect_page("no-referrer", changed=False)

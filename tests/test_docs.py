"""The documentation keeps up with the code: links lead somewhere, and quoted messages exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Messages of other programs.
FOREIGN = {
    "Host key verification failed.",
    "Permission denied (publickey)",
    "DEPLOY_KEY is missing or empty",  # put together from its parts
    "port is already allocated",
    "address already in use",
}


def anchors(page):
    headings = re.findall("^#+ (.*)", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith("http"):
            file, _, anchor = target.partition("#")
            linked = (page.parent / file).resolve() if file else page
            assert linked.exists(), target
            assert not anchor or anchor in anchors(linked), target


def test_quoted_messages_exist():
    sources = [path for path in (ROOT / "scripts").rglob("*") if path.suffix in (".py", ".sh")]
    # Without the ends of the string literals that a message is put together from.
    text = re.sub(r'"\s*f?"', "", "\n".join(path.read_text() for path in [*sources, ROOT / "noxfile.py"]))
    rows = re.findall(r"^\| (`[^|]*) \|", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE)
    messages = [message for row in rows for message in re.findall("`([^`]+)`", row)]
    assert len(messages) > 20
    for message in set(messages) - FOREIGN:
        parts = [part.strip() for part in re.split(r"\.\.\.|\d+|quai-front-|api|front|/version|/healthz", message)]
        for part in filter(None, parts):
            assert part in text, f"{message!r}: no message has {part!r}"

"""The documentation matches the code: links, quoted messages and names of scenarios exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
REHEARSAL = ROOT / "tests/rehearsal"
PAGES = [ROOT / "README.md", REHEARSAL / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Quoted messages that no source file contains as they are.
OTHER_MESSAGES = {  # of other programs, except where noted
    "Host key verification failed.",
    "Permission denied (publickey)",
    "DEPLOY_KEY is missing or empty",  # ours, with a variable name
    "port is already allocated",
    "address already in use",
}


def anchors(page):
    headings = re.findall("^#+ (.*)", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_point_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith("http"):
            file, _, anchor = target.partition("#")
            linked = (page.parent / file).resolve() if file else page
            assert linked.exists(), target
            assert not anchor or anchor in anchors(linked), target


def test_quoted_messages_exist():
    sources = [path for path in (ROOT / "scripts").rglob("*") if path.suffix in (".py", ".sh")]
    # Join the string literals that a message consists of.
    text = re.sub(r'"\s*f?"', "", "\n".join(path.read_text() for path in [*sources, ROOT / "noxfile.py"]))
    rows = re.findall(r"^\| (`[^|]*) \|", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE)
    messages = [message for row in rows for message in re.findall("`([^`]+)`", row)]
    assert len(messages) > 20
    for message in set(messages) - OTHER_MESSAGES:
        parts = [part.strip() for part in re.split(r"\.\.\.|\d+|quai-front-|api|front|/version|/healthz", message)]
        for part in filter(None, parts):
            assert part in text, f"{message!r}: no message has {part!r}"


def test_files_and_scenarios_of_the_rehearsal_exist():
    page = (REHEARSAL / "README.md").read_text()
    files_part, _, incidents_part = page.partition("\n## Incidents")
    files = re.findall("`([^`]+)`", "\n".join(re.findall(r"^\| (`.*?) \|", files_part, re.MULTILINE)))
    incidents = re.findall(r"^\| .* \| (.*) \|$", incidents_part, re.MULTILINE)
    assert len(files) > 15
    assert len(incidents) > 20
    assert [name for name in files if not (REHEARSAL / name).exists()] == []
    code = "\n".join(path.read_text() for path in REHEARSAL.rglob("*.py"))
    for file in set(re.findall("`(tests/[^`]+)`", "\n".join(incidents))):
        code += (ROOT / file).read_text()
    known = {*re.findall(r"^def (\w+)", code, re.MULTILINE), *re.findall('"([a-z ]+)"', code), "status"}
    assert set(re.findall("`([a-z_ ]+)`", "\n".join(incidents))) - known == set()

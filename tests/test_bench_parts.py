"""The comparison of ways: its figures, its tables and its picture, from made-up traffic."""

import json
import re
import xml.etree.ElementTree as ET

import pytest

from scripts.runner.process import ROOT
from tests.rehearsal.bench_report import (
    MARKERS,
    figures,
    markdown,
    new_bytes,
    only_new_seconds,
    put_into,
    replica_table,
    size,
    span,
    table_text,
    way_table,
)
from tests.rehearsal.picture import picture
from tests.rehearsal.traffic import Summary

OLD, NEW = "a" * 40, "b" * 40


def answer(at, tag=None, **more):
    record = {"at": at, "late": 0.0, "seconds": 0.5, "method": "GET", "status": 200, "error": None}
    return {**record, "tag": tag, "note": None, **more}


def mark(began, ended, old=OLD, new=NEW):
    return {"began": began, "ended": ended, "old": old, "new": new}


def test_both_answer_until_the_old_one_is_gone():
    records = [answer(99, OLD), answer(101, OLD), answer(102, NEW), answer(103, OLD), answer(104, NEW), answer(105)]
    assert only_new_seconds(records, mark(100, 110), 120) == 3.5


def test_nobody_answers_until_the_new_one_does():
    records = [answer(100.1, OLD), answer(101, status=502), answer(102, NEW)]
    assert only_new_seconds(records, mark(100, 101), 120) == 2.5


def test_the_next_replacement_is_not_counted():
    records = [answer(101, NEW), answer(121, OLD)]
    assert only_new_seconds(records, mark(100, 110), 120) == 1.5


def test_a_new_one_that_never_answers_has_no_seconds():
    assert only_new_seconds([answer(101, OLD)], mark(100, 110), 120) is None


def test_figures_of_two_replacements():
    posts = [answer(100 + n, method="POST", status=201, note=f"note {n}") for n in range(4)]
    records = [*posts, answer(101, OLD), answer(102, NEW, seconds=0.75), answer(103, status=502)]
    records += [answer(121, NEW), answer(123, OLD)]
    marks = [mark(100, 106.25), mark(120, 127, NEW, OLD)]
    got = figures(Summary(records), marks, ["note 0", "note 1", "note 1", "note 3"])
    assert got == {
        "requests": 9,
        "failed": 1,
        "acknowledged": 4,
        "lost": 1,
        "doubled": 1,
        "longest_seconds": 0.75,
        "only_new_seconds": [2.75, 3.5],
        "command_seconds": [6.25, 7],
    }


def test_blobs_that_the_registry_has_are_not_sent():
    base, code, settings = ({"digest": f"sha256:{n}", "size": n} for n in (5000, 70, 3))
    before = {"config": settings, "layers": [base, {"digest": "sha256:old", "size": 60}]}
    after = {"config": {"digest": "sha256:new", "size": 4}, "layers": [base, code, code]}
    assert new_bytes(before, after) == 74
    assert new_bytes(before, before) == 0


def test_seconds_and_bytes_have_units():
    assert [span(values) for values in ([], [None], [1.21, None, 1.24], [10, 9.96, 2])] == [
        *("-", "-", "1.2 s", "2.0 to 10.0 s"),
    ]
    assert [size(count) for count in (950, 31_400, 239_000_000)] == ["0.9 kB", "31.4 kB", "239.0 MB"]


def result() -> dict:
    good = {"error": None, "requests": 2260, "failed": 371, "acknowledged": 400, "lost": 0, "doubled": 1}
    good |= {"longest_seconds": 1.518, "only_new_seconds": [1.11, 1.34], "command_seconds": [0.5, 0.5]}
    ways = [{"name": "plain", "what": "`compose` <up>", **good}]
    ways += [{"name": "swarm", "what": "Swarm", "error": "no | swarm here"}]
    ways += [{"name": "this", "what": "`deploy.sh`", **good, "failed": 0}]
    replicas = [{"replicas": 1, **good, "command_seconds": [8.44, 7.0]}, {"replicas": 2, "error": "too many"}]
    replicas += [{"replicas": 4, **good, "command_seconds": [18.44, 17.0]}]
    told = {"date": "2026-11-22", "command": "scripts/nox -s bench", "machine": "2 cores", "stand_ins": False}
    told |= {"rate": 120.0, "replacements": 2, "ways": ways, "replicas": replicas}
    return told | {"code_change_bytes": 31_400, "image_bytes": 239_000_000, "base_bytes": 178_000_000}


def test_the_terminal_table_is_aligned_and_says_what_was_not_measured():
    heads, plain, swarm, ours = table_text(way_table(result())).splitlines()
    assert len(heads) == len(plain) == len(ours)
    assert re.split(" {2,}", plain) == [
        *("`compose` <up>", "371 / 2,260", "0", "1", "1.52 s", "1.1 to 1.3 s", "0.5 s"),
    ]
    assert swarm.split(maxsplit=1) == ["Swarm", "not measured: no | swarm here"]
    assert swarm.index("not measured") == heads.index("failed / requests")
    assert table_text(replica_table(result())).splitlines()[1].split()[:5] == ["1", "8.4", "s", "7.0", "s"]
    assert "\033" not in table_text(way_table(result()))


def test_markdown_has_tables_date_and_command():
    text = markdown(result(), "bench.svg")
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert [len(table) for table in tables] == [5, 5]
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    assert "| `deploy.sh` | 0 / 2,260 |" in text
    assert "sends 31.4 kB, compressed, to the registry" in text
    assert "239.0 MB uncompressed, 61.0 MB more than its base of 178.0 MB" in text
    assert "2026-11-22 by `scripts/nox -s bench`" in text
    assert "stand-ins" not in text
    assert "stand-ins" in markdown(result() | {"stand_ins": True}, "bench.svg")


def test_what_is_between_the_markers_is_replaced():
    readme = f"before\n{MARKERS[0]}\nold \\1\n{MARKERS[1]}\nafter\n"
    assert put_into(readme, "new \\2\n") == f"before\n{MARKERS[0]}\nnew \\2\n{MARKERS[1]}\nafter\n"
    with pytest.raises(ValueError, match="one pair of"):
        put_into("no markers", "new")


def test_the_readme_has_the_markers():
    readme = (ROOT / "docs/benchmarks.md").read_text()
    assert put_into(put_into(readme, "x\n"), "") == put_into(readme, "")


@pytest.mark.parametrize("change", [{}, {"replicas": []}, {"ways": []}])
def test_the_picture_is_well_formed_and_fetches_nothing(change):
    drawn = picture(json.loads(json.dumps(result() | change)))
    words = [element.text for element in ET.fromstring(drawn).iter() if element.tag.endswith("text")]  # noqa: S314
    assert ("compose <up>" in words) == ("371 of 2,260" in words) == bool((result() | change)["ways"])
    assert "href" not in drawn
    assert drawn.count("://") == 1

"""The benchmark's options, tables, picture and files, from synthetic figures."""

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET

import pytest

from scripts.runner.process import ROOT
from tests.rehearsal.bench.options import DEPLOY_PROGRAMS, STRATEGIES, parse_options
from tests.rehearsal.bench.picture import picture
from tests.rehearsal.bench.releases import crash_lines
from tests.rehearsal.bench.report import (
    MARKERS,
    crash_table,
    good_table,
    insert,
    kill_table,
    load_table,
    markdown,
    paragraph,
    replica_ratios,
    replica_table,
    size,
    span,
    startup_table,
    table_text,
    terminal,
)
from tests.rehearsal.sample.upgrade import version_1_lines

TAG = "a" * 40


def test_seconds_and_bytes_have_units():
    assert [span(values) for values in ([], [None], [1.21, None, 1.24], [10, 9.96, 2])] == [
        *("-", "-", "1.2 s", "2.0 to 10.0 s"),
    ]
    assert [size(count) for count in (950, 31_400, 239_000_000)] == ["0.9 kB", "31.4 kB", "239.0 MB"]


def result() -> dict:
    counts = {"error": None, "requests": 2260, "failed": 371, "acknowledged": 400, "lost": 0, "duplicated": 1}
    counts["longest_seconds"] = 1.518
    good = counts | {"only_new_seconds": [3.11, 3.34], "command_seconds": [8.5, 8.5]}
    good |= {"startup_seconds": [2.0, 2.0], "watch_seconds": 5}
    crash = counts | {"failed": 900, "exit_code": 0, "update_status": "", "running": "new release, crash-looping"}
    crash["answered_by_new"] = 1354
    kill = counts | {"failed": 12, "exit_code": 1, "update_status": "", "running": "new release"}
    kill |= {"killed_after_seconds": 0.44}
    missing = {"error": "no | swarm here"}
    strategies = [{"name": "plain", "label": "`compose` <up>", **good, "crash": crash, "kill": kill}]
    strategies += [{"name": "swarm", "label": "Swarm", **missing, "kill": missing}]
    strategies[-1]["crash"] = crash | {"update_status": "rollback_completed", "running": "old release"}
    strategies += [{"name": "this", "label": "`deploy.sh`", **good, "failed": 0}]
    strategies[-1] |= {"crash": crash | {"failed": 1}, "kill": kill | {"failed": 2, "exit_code": 0}}
    ours = {"strategy": "this", "label": "`deploy.sh`"}
    replicas = [{**ours, "replicas": 1, **good, "command_seconds": [8.44, 7.0]}]
    replicas += [{**ours, "replicas": 2, "error": "too many"}]
    replicas += [{**ours, "replicas": 4, **good, "command_seconds": [12.66, 17.0]}]
    run = {"date": "2026-11-22", "command": "scripts/nox -s bench", "machine": "2 cores", "stand_ins": False}
    run |= {"rate": 120.0, "replacements": 2, "crash_seconds": 2, "pause_seconds": 5}
    run |= {"window_seconds": {"crash": 15, "kill": 5}, "strategies": strategies, "replicas": replicas}
    return run | {"code_change_bytes": 31_400, "image_bytes": 239_000_000, "base_bytes": 178_000_000}


def cells(line: str) -> list[str]:
    return re.split(" {2,}", line)


def test_the_terminal_table_is_aligned_and_names_what_was_not_measured():
    heads, plain, swarm, ours = table_text(good_table(result())).splitlines()
    assert len(heads) == len(plain) == len(ours)
    assert cells(plain) == ["`compose` <up>", "371 / 2,260", "0", "1", "1.52 s", "3.1 to 3.3 s", "8.5 s"]
    assert swarm.split(maxsplit=1) == ["Swarm", "not measured: no | swarm here"]
    assert swarm.index("not measured") == heads.index("failed / requests")
    assert table_text(replica_table(result())).splitlines()[1].split()[:5] == ["1", "8.4", "s", "7.0", "s"]
    assert "\033" not in terminal(result())


def test_the_tables_of_incidents_say_what_runs_afterwards():
    heads, plain, swarm, _ = table_text(crash_table(result())).splitlines()
    assert cells(plain) == ["`compose` <up>", "1,354", "900 / 2,260", "0", "1", "1.52 s", "new release, crash-looping"]
    assert cells(swarm)[-1] == "old release; update: rollback completed"
    assert heads.index("running afterwards") == plain.index("new release") == swarm.index("old release")
    _, plain, swarm, ours = table_text(kill_table(result())).splitlines()
    assert cells(plain)[1:] == ["0.4 s", "12 / 2,260", "0", "1", "1.52 s", "new release; the second command failed"]
    assert cells(swarm)[1] == "not measured: no | swarm here"
    assert cells(ours)[-1] == "new release"


def test_deploy_programs_are_compared_with_the_startup():
    assert startup_table(result())[1:] == [["`deploy.sh`", "2.0 s", "1.6 times the startup", "1.5 s"]]
    first = result()["strategies"][2] | {"name": "v1", "label": "v1", "command_seconds": [9.0]}
    assert [row[0] for row in startup_table({"strategies": [first, *result()["strategies"]]})[1:]] == [
        *("v1", "`deploy.sh`"),
    ]


def test_replica_table_shows_the_slowest_startup():
    rows = replica_table(result())
    assert rows[1][rows[0].index("slowest startup")] == "2.0 s"


def test_highest_replica_count_is_compared_with_lowest():
    assert replica_ratios(result()) == [
        "A deploy of 4 replicas by `deploy.sh` takes 1.5 times as long as with 1 replica."
    ]
    first = [one | {"strategy": "v1", "label": "v1"} for one in result()["replicas"]]
    both = {"replicas": [*first, *result()["replicas"]]}
    assert len(replica_ratios(both)) == 2
    assert [row[0] for row in replica_table(both)[1:]] == [
        *("1, version 1", "2, version 1", "4, version 1", "1", "2", "4"),
    ]
    assert replica_ratios({"replicas": result()["replicas"][:2]}) == []


def test_the_load_table_has_the_columns_of_the_page():
    rows = load_table([{"what": "the page", "rate": 2930.4, "p50_ms": 10.2, "p99_ms": 44.8}])
    assert rows == [["", "requests/s", "p50", "p99"], ["the page", "2,930", "10 ms", "45 ms"]]
    page = (ROOT / "docs/benchmarks.md").read_text()
    assert f"| {' | '.join(rows[0])} |".replace("|  |", "| |") in page


def test_markdown_has_tables_date_and_command():
    text = markdown(result(), "bench.svg")
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert [len(table) for table in tables] == [5, 5, 5, 3, 5]
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    assert "|---|--:|--:|--:|--:|--:|---|" in text
    assert "| `deploy.sh` | 0 / 2,260 |" in text
    assert "31.4 kB (compressed) are pushed to the registry" in text
    assert "239.0 MB uncompressed, 61.0 MB more than its base of 178.0 MB" in text.replace("\n", " ")
    assert "Measured on 2026-11-22 by `scripts/nox -s bench`." in text
    assert max(len(line) for line in text.splitlines() if not line.startswith("|")) <= 120
    assert "stand-ins" not in text
    assert "2 cores, stand-ins for the base images" in markdown(result() | {"stand_ins": True}, "bench.svg")


def test_sections_without_figures_are_left_out():
    text = markdown(result() | {"replicas": [], "strategies": result()["strategies"][:1]}, "bench.svg")
    assert "Replicas" not in text
    assert "startup" not in text
    assert "Replicas" not in terminal(result() | {"replicas": []})


def test_the_page_and_the_report_use_the_same_columns():
    page = (ROOT / "docs/benchmarks.md").read_text()
    for rows in (good_table(result()), replica_table(result())):
        assert f"| {' | '.join(rows[0])} |" in page


def test_paragraphs_break_between_words_but_not_in_code():
    text = paragraph("one two `three four five` (`six seven`) eight.", 16)
    assert text.splitlines() == ["one two", "`three four five`", "(`six seven`)", "eight."]


def test_the_text_between_the_markers_is_replaced():
    page = f"before\n{MARKERS[0]}\nold \\1\n{MARKERS[1]}\nafter\n"
    assert insert(page, "new \\2\n") == f"before\n{MARKERS[0]}\nnew \\2\n{MARKERS[1]}\nafter\n"
    with pytest.raises(ValueError, match="one pair of"):
        insert("no markers", "new")


def test_the_page_has_the_markers():
    page = (ROOT / "docs/benchmarks.md").read_text()
    assert insert(insert(page, "x\n"), "") == insert(page, "")


@pytest.mark.parametrize("change", [{}, {"replicas": []}, {"strategies": []}])
def test_the_picture_is_well_formed_and_fetches_nothing(change):
    drawn = picture(json.loads(json.dumps(result() | change)))
    words = [element.text for element in ET.fromstring(drawn).iter() if element.tag.endswith("text")]  # noqa: S314
    measured = bool((result() | change)["strategies"])
    assert ("compose <up>" in words) == ("371 of 2,260" in words) == ("900 of 2,260" in words) == measured
    assert words.count("not measured") == 3 * measured
    assert words.count("new release, crash-looping") == 2 * measured
    assert "href" not in drawn
    assert drawn.count("://") == 1


def test_options_are_checked():
    options = parse_options(["--strategies", "plain,v1", "--replicas", "", "--replica-strategies", "v1,this"], None)
    assert (options.strategies, options.replicas) == (["plain", "v1"], [])
    assert "v1" not in parse_options([], None).strategies
    for wrong in (["--strategies", "magic"], ["--replica-strategies", "plain"], ["--replicas", "x"], ["--rate", "0"]):
        with pytest.raises(SystemExit):
            parse_options(wrong, None)


def test_strategies_sh_has_a_case_for_each_strategy():
    script = (ROOT / "tests/rehearsal/bench/strategies.sh").read_text()
    function = re.search(r"^replace\(\) \{\n(.*?)^\}", script, re.MULTILINE | re.DOTALL)[1]
    cases = [pattern.split(" | ") for pattern in re.findall(r"^    (\S.*?)\) ", function, re.MULTILINE)]
    assert sorted(name for names in cases for name in names) == sorted(STRATEGIES)
    assert list(DEPLOY_PROGRAMS) in cases
    assert re.findall(r"\$strategy =~ \^\((.*?)\)\$", script) == ["|".join(DEPLOY_PROGRAMS)] * 2


def written(folder, strategy: str) -> tuple[str, str]:
    """The compose file and the Caddyfile that strategies.sh writes for a strategy."""
    if (ROOT / "docker-compose.prod.yml").read_text().startswith("{"):
        pytest.skip("the rehearsal changed the compose file, and wrote it as JSON")
    shutil.copytree(ROOT / "service/front", folder / "releases" / TAG / "front")
    shutil.copy(ROOT / "docker-compose.prod.yml", folder)
    script = str(ROOT / "tests/rehearsal/bench/strategies.sh")
    subprocess.run([script, "write_files", strategy, TAG], cwd=folder, check=True)
    return (folder / "bench.yml").read_text(), (folder / "releases/bench/front/Caddyfile").read_text()


@pytest.mark.parametrize(
    ("strategy", "duration"), [("plain", None), ("retry", "30s"), ("start-first", "5s"), ("swarm", "5s")]
)
def test_only_the_api_depends_on_the_release(tmp_path, strategy, duration):
    compose, caddyfile = written(tmp_path, strategy)
    services = compose.partition("\nservices:\n")[2]
    assert "DEPLOY_ID" not in services
    assert "./releases/bench/front:/front:ro" in services
    assert "API_HOST: api\n" in services
    assert "labels:" not in services
    assert services.count("IMAGE_TAG") == 0
    assert "reverse_proxy api:8000 {" in caddyfile
    assert "lb_policy" not in caddyfile
    assert "fail_duration" not in caddyfile
    assert re.findall(r"lb_try_duration (\w+)", caddyfile) == ([duration] if duration else [])


def test_a_stack_has_writable_file_systems_and_no_virtual_addresses(tmp_path):
    compose, _ = written(tmp_path, "swarm")
    assert "read_only: true" not in compose
    assert '- {target: 80, published: "${HTTP_PORT:-80}", mode: host}' in compose
    assert compose.count("endpoint_mode: dnsrr") == len(re.findall(r"^ +deploy:$", compose, re.MULTILINE)) > 0


def test_release_of_version_1_has_its_files_and_no_program():
    lines = version_1_lines()
    assert lines[0] == "RUN rm -r /release/server"
    assert lines[1].startswith("HEALTHCHECK ")
    assert [re.search(r"/release/(\S+)", line)[1] for line in lines[2:]] == ["deploy.sh", "docker-compose.prod.yml"]
    assert all(line.endswith("\nEND_OF_FILE") and line.count("END_OF_FILE") == 2 for line in lines[2:])
    assert lines[3].count("    environment:\n      RELEASE: ${IMAGE_TAG}\n      API_HOST: api-${DEPLOY_ID:-0}\n") == 1


def test_the_release_that_crashes_runs_code_that_compiles():
    copy, command = crash_lines()
    code = re.fullmatch(r"COPY <<'END' (\S+)\n(.*)\nEND", copy, re.DOTALL)
    assert code[1] in command
    assert "service.wait(2)" in code[2]
    compile(code[2], code[1], "exec")

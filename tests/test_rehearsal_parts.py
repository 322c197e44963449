"""The load generator, the report and other parts of the rehearsal, without Docker."""

import json
import os
import re
import subprocess
import sys
import time

import pytest

from tests.rehearsal.__main__ import parse_options
from tests.rehearsal.fakes import sample_run
from tests.rehearsal.points import describe_request
from tests.rehearsal.report import (
    add_figures,
    build_bins,
    build_verdict,
    count_replacements,
    has_passed,
    last_deploy_seconds,
    print_table,
    write_report,
)
from tests.rehearsal.scenarios import SCENARIOS
from tests.rehearsal.scenarios.endurance import omit_repetitions
from tests.rehearsal.scenarios.mutants import MUTANTS
from tests.rehearsal.traffic import ROOT


def test_report_finds_one_failure_in_thousands(tmp_path):
    run, records = sample_run()
    write_report(run, records, tmp_path / "report")
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    first, second = (scenario["figures"] for scenario in report["run"]["scenarios"])
    assert report["passed"] is False
    assert first == {"requests": 2000, "failed": 0, "acknowledged": 400, "longest_ms": 4, "late_ms": 1}
    assert second == {"requests": 2000, "failed": 1, "acknowledged": 399, "longest_ms": 250, "late_ms": 1}
    assert [failure["at"] for failure in report["failures"]] == [1012.5]
    assert sum(report["bins"]["failed"]) == report["bins"]["failed"][125] == 1
    assert [release["tag"] for release in report["bins"]["releases"]] == ["a" * 40, "b" * 40]
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count('<li class="failure">') == 1
    assert "Failed: 1 of 4,000 requests failed, 0 of 799 acknowledged writes were lost, 0 duplicated" in page
    assert "during 1 release replacement. Failed scenarios: second." in page
    assert "a &lt;machine&gt;" in page
    assert page.count("</script>") == 1
    assert "://" not in page  # the page makes no requests


def test_report_of_a_passed_run(tmp_path):
    run, records = sample_run()
    del records[2500]
    run["scenarios"][1] |= {"passed": True, "error": None}
    write_report(run, records, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert json.loads((tmp_path / "report.json").read_text())["passed"] is True
    assert '<li class="failure">' not in page
    assert "Passed: 0 of 3,999 requests failed" in page
    assert "Failed scenarios" not in page


def test_each_request_is_in_one_bin():
    run, records = sample_run()
    bins = build_bins(run, records)
    tagged = sum(sum(release["counts"]) for release in bins["releases"])
    assert tagged + sum(bins["untagged"]) + sum(bins["failed"]) == len(records)
    assert (bins["max_ms"][124], bins["max_ms"][125], bins["p99_ms"][125]) == (4, 250, 4)


def test_table_for_the_terminal(capsys):
    run, records = sample_run()
    print_table(add_figures(run, records))
    headings, first, second, error, total = capsys.readouterr().out.splitlines()
    assert headings.split()[:4] == ["scenario", "result", "requests", "failed"]
    assert headings.split("  ")[-3:] == ["longest (ms)", "last deploy (s)", "live at the end"]
    assert first.split() == ["first", "passed", "2,000", "0", "400", "-", "-", "4", "-", "aaaaaaa"]
    assert second.split() == ["second", "FAILED", "2,000", "1", "399", "-", "-", "250", "4.2", "bbbbbbb"]
    assert error.strip() == "one request failed"
    assert total.split()[1:] == ["FAILED", "4,000", "1", "799", "0", "0", "250"]
    print_table(run)
    assert "\033" not in capsys.readouterr().out


def test_only_the_last_complete_deploy_is_timed():
    def steps(*names):
        return [{"name": name, "at": 10.0 * at} for at, name in enumerate(names)]

    assert last_deploy_seconds(steps("repair", "live", "repair", "wait", "refused", "repair")) == 20
    assert last_deploy_seconds(steps("repair", "wait")) is None
    assert last_deploy_seconds([]) is None


def test_replacements_are_the_deploys_that_went_live_after_the_first():
    outcomes = ("refused", "live", "refused", "rollback", "rolled_back")
    assert count_replacements([{"outcome": outcome} for outcome in outcomes]) == 2
    assert count_replacements([]) == 0


def test_uncounted_writes_and_violated_invariants_are_reported(capsys):
    run, records = sample_run()
    uncounted = add_figures(run, records) | {"lost": None, "duplicated": None}
    assert "the 799 acknowledged writes were not counted" in build_verdict(uncounted)
    print_table(uncounted)
    total = capsys.readouterr().out.splitlines()[-1]
    assert re.split(" {2,}", total)[-4:] == ["799", "not counted", "not counted", "250"]
    reads = [record for record in records if record["method"] == "GET"]
    assert "requests failed, writes were not counted" in build_verdict(add_figures(run, reads) | {"lost": None})
    good = records[:2000]
    passed = [scenario | {"passed": True} for scenario in run["scenarios"]]
    run = add_figures(run | {"scenarios": passed, "violations": []}, good)
    assert has_passed(run)
    violated = run | {"violations": ["two schedulers"]}
    assert not has_passed(violated)
    assert "Violated invariants: two schedulers." in build_verdict(violated)


def test_each_mutant_replaces_one_check_and_compiles():
    assert len(MUTANTS) > 30
    assert len({(module, check, replacement) for _, module, check, replacement, _ in MUTANTS}) == len(MUTANTS)
    for name, module, check, replacement, scenario in MUTANTS:
        code = (ROOT / f"scripts/server/{module}.py").read_text()
        assert code.count(check) == 1, name
        compile(code.replace(check, replacement), f"{module}.py", "exec")
        assert scenario in SCENARIOS, name


@pytest.mark.parametrize(
    "rejected",
    [
        "--only code nope: no name contains 'nope'; the names are: first_deploy, code_change",
        "--mutants nope: no name contains 'nope'; the names are: the lock, ",
        "--part 1/2: --part requires --kills",
        "--only code --kills 0: not allowed with argument --only",
        "--rate 0: expected --rate above 0",
        "--kills -1: expected --rate above 0, --kills of 0 or more",
        "--soak 0: expected --rate above 0, --kills of 0 or more, --soak of 1 or more",
        "--kills 2 --part 4/4: --part 4/4 of --kills 2 has no kill",
        "--kills 2 --part 3/2: expected K/M with 1 <= K <= M",
    ],
)
def test_options_without_effect_are_rejected(rejected, capsys):
    arguments, _, message = rejected.partition(": ")
    with pytest.raises(SystemExit, match="2"):
        parse_options(arguments.split())
    assert message in capsys.readouterr().err


def test_parts_of_the_kill_matrix_are_accepted():
    assert parse_options(["--kills", "2", "--part", "3/4"]).part == (3, 4)
    assert parse_options(["--kills", "0", "--part", "4/4"]).part == (4, 4)


def test_points_py_records_how_the_program_treats_a_signal(tmp_path):
    (tmp_path / "server").mkdir()
    program = (
        "import os, signal; signal.signal(signal.SIGTERM, lambda *_: os._exit(3)); os.mkdir('new'); os.rmdir('new')"
    )
    (tmp_path / "server/__main__.py").write_text(program)

    def call(**variables):
        command, environment = (
            [sys.executable, ROOT / "tests/rehearsal/points.py", "-m", "server"],
            os.environ | variables,
        )
        code = subprocess.run(command, cwd=tmp_path, env=environment, start_new_session=True, check=False).returncode
        return code, (tmp_path / "mark").read_text() if (tmp_path / "mark").exists() else ""

    began = time.monotonic()
    assert call(POINTS="points") == (0, "")
    [line] = (tmp_path / "points").read_text().splitlines()
    seconds, point = line.split(" ", 1)
    assert began - 0.001 <= float(seconds) <= time.monotonic() + 0.001
    assert call(AT="another point", SIGNAL="KILL", MARK="mark") == (0, "")
    assert call(AT=point, SIGNAL="TERM", MARK="mark") == (3, "handled")
    assert call(AT=point, SIGNAL="KILL", MARK="mark") == (-9, "default")


def test_a_point_that_repeats_the_end_of_the_previous_action_is_omitted():
    recorded = [
        (0.0, "before pull"),
        (0.0, "after start of pull"),
        (0.0, "before rename"),  # in another thread
        (0.0, "after rename"),
        (2.0, "after end of pull"),
        (2.1, "before create"),
        (2.1, "after answer to POST"),
        (4.1, "before probe"),  # it has waited
        (4.1, "before rmtree"),
        (4.1, "before probe"),
    ]
    points = [point for _, point in recorded if point != "before create"][:-1]
    assert omit_repetitions(recorded) == points


def test_points_have_the_same_name_in_each_deploy():
    assert describe_request("DELETE /services/ibai4w5ferlsdvz83rh0m38dz?force=1 HTTP/1.1") == "DELETE /services/ID"
    assert describe_request(f"POST /containers/{'0a' * 32}/stop HTTP/1.1") == "POST /containers/ID/stop"

"""The load generator, the report and other parts of the rehearsal, without Docker."""

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest

from tests.rehearsal.__main__ import parse_options
from tests.rehearsal.fakes import TAG, FaultyServer, FolderServer, sample_run, scheduled_rate, send_load
from tests.rehearsal.rehearsal import Rehearsal
from tests.rehearsal.report import (
    add_figures,
    build_bins,
    build_verdict,
    count_replacements,
    last_deploy_seconds,
    print_table,
    write_report,
)
from tests.rehearsal.scenarios import SCENARIOS
from tests.rehearsal.scenarios.mutants import MUTANTS
from tests.rehearsal.server import wait_for
from tests.rehearsal.traffic import ROOT, Traffic, lost_and_duplicated


@pytest.fixture
def server():
    with FaultyServer() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def test_load_has_the_requested_rate_and_mix(server, tmp_path):
    summary = send_load(server, tmp_path, requests=200, rate=500)
    kinds = Counter((record["method"], record["path"]) for record in summary.records)
    assert summary.failed == 0, summary.failures_between(0, time.time())
    assert summary.requests == len(server.received)
    assert server.connections <= 16
    assert 200 < summary.rate < 1000
    assert scheduled_rate(summary) == pytest.approx(500, rel=0.25)
    notes = f"/releases/{TAG}/notes"
    assert kinds.keys() == {("POST", notes), ("GET", notes), ("GET", "/version"), ("GET", "/")}
    posts = sum(record["method"] == "POST" for record in summary.records)
    assert posts == pytest.approx(summary.requests / 5, abs=4)
    assert kinds["GET", "/version"] == pytest.approx(summary.requests * 2 / 5, abs=4)
    assert {record["tag"] for record in summary.records} == {TAG, None}
    assert lost_and_duplicated(summary.acknowledged, server.stored) == (set(), set())


def test_closed_connections_are_failures_without_a_retry(server, tmp_path):
    server.fault = lambda number, method: "no response" if number % 20 == 0 else None
    summary = send_load(server, tmp_path)
    assert summary.requests == len(server.received)
    assert summary.failed == len(server.received) // 20 > 0
    assert not set(summary.acknowledged) ^ set(server.stored)
    failure = min(summary.failures_between(0, time.time()), key=lambda record: record["at"])
    assert failure["status"] is None
    assert "closed" in failure["error"]
    assert summary.failures_between(0, failure["at"]) == []


def test_wrong_status_and_incomplete_responses_are_failures(server, tmp_path):
    server.fault = lambda number, method: {0: "500", 9: "incomplete"}.get(number % 18)
    summary = send_load(server, tmp_path)
    failures = summary.failures_between(0, time.time())
    assert len(failures) == len(server.received) // 18 + (len(server.received) + 9) // 18
    assert {record["status"] for record in failures if record["error"] is None} == {500}
    assert any("IncompleteRead" in record["error"] for record in failures if record["error"])


def test_connection_close_header_is_not_a_failure(server, tmp_path):
    server.fault = lambda number, method: "connection close" if number % 5 == 0 else None
    summary = send_load(server, tmp_path)
    assert summary.failed == 0, summary.failures_between(0, time.time())
    assert server.connections > 16


def test_stalled_server_delays_requests_and_drops_none(server, tmp_path):
    def stall(number, method):
        if number == 40:
            time.sleep(0.3)  # while it holds the lock, so that every worker waits

    server.fault = stall
    summary = send_load(server, tmp_path, rate=500)
    assert summary.failed == 0, summary.failures_between(0, time.time())
    assert summary.longest_delay > 0.1
    assert summary.longest > 0.25
    assert summary.rate > 200
    assert scheduled_rate(summary) == pytest.approx(500, rel=0.25)


def test_lost_and_duplicated_notes_are_found(server, tmp_path):
    acknowledged = send_load(server, tmp_path, requests=20).acknowledged
    lost, duplicated = acknowledged[0], acknowledged[1]
    server.stored.remove(lost)
    server.stored += [duplicated, "never acknowledged", "never acknowledged"]
    assert lost_and_duplicated(acknowledged, server.stored) == ({lost}, {duplicated, "never acknowledged"})


def test_refused_connections_are_failures(tmp_path):
    with FaultyServer() as server:
        port = server.server_port
    traffic = Traffic(f"http://127.0.0.1:{port}", "a-token", TAG, 500, tmp_path / "requests.jsonl")
    traffic.start()
    time.sleep(0.05)
    summary = traffic.stop()
    assert summary.failed == summary.requests > 0


def test_early_exit_of_the_load_generator_is_an_error(server, tmp_path):
    url = f"http://127.0.0.1:{server.server_port}"
    traffic = Traffic(url, "a-token", TAG, 50, tmp_path / "requests.jsonl", seconds=0.01)
    traffic.start()
    deadline = time.monotonic() + 10
    while traffic.running and time.monotonic() < deadline:
        time.sleep(0.005)
    with pytest.raises(RuntimeError, match="exited early"):
        traffic.stop()


@pytest.mark.parametrize(
    "url",
    ["http://example.org", "http://192.0.2.1:80", "https://localhost", "http://", "http://127.evil.example"],
)
def test_load_is_sent_to_loopback_only(url, tmp_path):
    with pytest.raises(ValueError, match="loopback"):
        Traffic(url, "a-token", TAG, 1, tmp_path / "requests.jsonl")


def test_command_line_prints_help_and_rejects_other_hosts(tmp_path):
    def call(*arguments):
        command = [sys.executable, "-m", "tests.rehearsal.traffic", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)

    assert "--rate" in call("--help").stdout
    rejected = call("--base-url", "http://192.0.2.1", "--release-tag", TAG, "--records", str(tmp_path / "r"))
    assert rejected.returncode == 2
    assert "loopback" in rejected.stderr


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
    assert "the 799 acknowledged writes were not counted" in build_verdict(add_figures(*sample_run()) | {"lost": None})


def test_each_mutant_replaces_one_check_and_compiles():
    assert len(MUTANTS) > 30
    assert len({(module, check, replacement) for _, module, check, replacement, _ in MUTANTS}) == len(MUTANTS)
    for name, module, check, replacement, scenario in MUTANTS:
        code = (ROOT / f"scripts/server/{module}.py").read_text()
        assert code.count(check) == 1, name
        compile(code.replace(check, replacement), f"{module}.py", "exec")
        assert scenario in SCENARIOS, name


def test_failed_requests_of_all_loads_are_counted(server, tmp_path):
    rehearsal = Rehearsal(FolderServer(tmp_path), None, {}, 200)
    server.fault = lambda number, method: "500"
    rehearsal.server.url = f"http://127.0.0.1:{server.server_port}"
    rehearsal.server.set(API_TOKEN="a-token")  # noqa: S106 - a test
    rehearsal.commits["first"] = TAG
    rehearsal.start_traffic()
    for _ in range(2):
        received = len(server.received)
        wait_for("more requests", lambda received=received: len(server.received) > received)
        with rehearsal.without_traffic():
            assert rehearsal.count_failed_requests() == len(server.received) > received
    rehearsal.stop_traffic()
    assert rehearsal.count_failed_requests() == len(server.received)


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

    assert call(POINTS="points") == (0, "")
    [point] = (tmp_path / "points").read_text().splitlines()
    assert call(AT="another point", SIGNAL="KILL", MARK="mark") == (0, "")
    assert call(AT=point, SIGNAL="TERM", MARK="mark") == (3, "handled")
    assert call(AT=point, SIGNAL="KILL", MARK="mark") == (-9, "default")

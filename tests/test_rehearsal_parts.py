"""The rehearsal's traffic and report, against a small server that misbehaves on demand."""

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.rehearsal.report import add_figures, bins_of, print_table, write_report
from tests.rehearsal.traffic import ROOT, Summary, Traffic, lost_and_doubled

TAG = "0123456789abcdef0123456789abcdef01234567"


class Handler(BaseHTTPRequestHandler):
    """A front with one release behind it. `server.trouble` says what befalls the request of a number."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self):
        super().setup()
        self.server.connections += 1

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.server.lock:
            self.server.seen.append((self.command, self.path))
            trouble = self.server.trouble(len(self.server.seen), self.command)
            if self.command == "POST" and trouble != "hang up":
                self.server.stored.append(json.loads(body)["text"])
        if trouble == "hang up":
            self.close_connection = True
            return
        status = 500 if trouble == "500" else 201 if self.command == "POST" else 200
        answer = json.dumps({"tag": TAG}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer) + (trouble == "cut short")))
        if trouble in ("announced close", "cut short"):
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock, self.seen, self.stored, self.connections = threading.Lock(), [], [], 0
        self.trouble = lambda number, method: None

    def handle_error(self, *_):
        pass  # a reset by the client at the end of the traffic


@pytest.fixture
def server():
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


def drive(server, folder, requests=160, rate=200) -> Summary:
    url = f"http://127.0.0.1:{server.server_port}"
    traffic = Traffic(url, "a-token", TAG, rate, folder / "requests.jsonl")
    traffic.start()
    deadline = time.monotonic() + 20
    while len(server.seen) < requests and time.monotonic() < deadline:
        time.sleep(0.01)
    return traffic.stop()


def test_good_traffic(server, tmp_path):
    summary = drive(server, tmp_path)
    kinds = Counter((record["method"], record["path"]) for record in summary.records)
    assert summary.failed == 0
    assert summary.requests == len(server.seen)
    assert server.connections <= 16
    assert 80 < summary.rate < 280
    notes = f"/releases/{TAG}/notes"
    assert kinds.keys() == {("POST", notes), ("GET", notes), ("GET", "/version"), ("GET", "/")}
    assert summary.posts == pytest.approx(summary.requests / 5, abs=4)
    assert kinds["GET", "/version"] == pytest.approx(summary.requests * 2 / 5, abs=4)
    assert {r["tag"] for r in summary.records} == {TAG, None}
    assert lost_and_doubled(summary.acknowledged, server.stored) == (set(), set())


def test_hang_ups_are_failures_and_never_sent_again(server, tmp_path):
    server.trouble = lambda number, method: "hang up" if number % 20 == 0 else None
    summary = drive(server, tmp_path)
    assert summary.requests == len(server.seen)
    assert summary.failed == len(server.seen) // 20 > 0
    assert not set(summary.acknowledged) ^ set(server.stored)
    failure = summary.failures_between(0, time.time())[0]
    assert failure["status"] is None
    assert "closed" in failure["error"]
    assert summary.failures_between(0, failure["at"]) == []


def test_wrong_status_and_cut_answers_are_failures(server, tmp_path):
    server.trouble = lambda number, method: {0: "500", 9: "cut short"}.get(number % 18)
    summary = drive(server, tmp_path)
    failures = summary.failures_between(0, time.time())
    assert len(failures) == len(server.seen) // 18 + (len(server.seen) + 9) // 18
    assert {record["status"] for record in failures if record["error"] is None} == {500}
    assert any("IncompleteRead" in record["error"] for record in failures if record["error"])


def test_an_announced_close_is_no_failure(server, tmp_path):
    server.trouble = lambda number, method: "announced close" if number % 5 == 0 else None
    summary = drive(server, tmp_path)
    assert summary.failed == 0
    assert server.connections > 16


def test_a_stall_makes_requests_late_and_drops_none(server, tmp_path):
    def stall(number, method):
        if number == 40:
            time.sleep(0.6)  # with the lock held: every worker waits

    server.trouble = stall
    summary = drive(server, tmp_path)
    assert summary.failed == 0
    assert summary.latest > 0.2
    assert summary.longest > 0.5
    assert summary.rate > 80


def test_lost_and_doubled_notes_are_found(server, tmp_path):
    acknowledged = drive(server, tmp_path, requests=100).acknowledged
    lost, twice = acknowledged[0], acknowledged[1]
    server.stored.remove(lost)
    server.stored += [twice, "never acknowledged", "never acknowledged"]
    assert lost_and_doubled(acknowledged, server.stored) == ({lost}, {twice, "never acknowledged"})


def test_nobody_listening_is_recorded(tmp_path):
    with Server() as server:
        port = server.server_port
    traffic = Traffic(f"http://127.0.0.1:{port}", "a-token", TAG, 50, tmp_path / "requests.jsonl")
    traffic.start()
    time.sleep(0.3)
    summary = traffic.stop()
    assert summary.failed == summary.requests > 0


def test_traffic_that_ended_too_early_is_an_error(server, tmp_path):
    url = f"http://127.0.0.1:{server.server_port}"
    traffic = Traffic(url, "a-token", TAG, 50, tmp_path / "requests.jsonl", seconds=0.1)
    traffic.start()
    deadline = time.monotonic() + 10
    while traffic.running and time.monotonic() < deadline:
        time.sleep(0.02)
    with pytest.raises(RuntimeError, match="before it was told to"):
        traffic.stop()


@pytest.mark.parametrize(
    "url",
    ["http://example.org", "http://192.0.2.1:80", "https://localhost", "http://", "http://127.evil.example"],
)
def test_other_machines_get_no_traffic(url, tmp_path):
    with pytest.raises(ValueError, match="loopback"):
        Traffic(url, "a-token", TAG, 1, tmp_path / "requests.jsonl")


def test_help_and_refusal_on_the_command_line(tmp_path):
    def call(*arguments):
        command = [sys.executable, "-m", "tests.rehearsal.traffic", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)

    assert "--rate" in call("--help").stdout
    refused = call("--base-url", "http://192.0.2.1", "--release-tag", TAG, "--records", str(tmp_path / "r"))
    assert refused.returncode == 2
    assert "loopback" in refused.stderr


def rehearsal() -> tuple[dict, list[dict]]:
    """Two scenarios of ten seconds with 4,000 requests, one of which failed at 12.5 s."""
    records = []
    for number in range(4000):
        post, version = number % 5 == 0, number % 5 in (1, 3)
        record = {"at": 1000 + number * 0.005, "seconds": 0.004, "late": 0.001, "error": None, "note": None}
        record |= {"method": "POST" if post else "GET", "path": "/version" if version else "/<b>"}
        record |= {"status": 201 if post else 200, "tag": ("a" * 40 if number < 2000 else "b" * 40)}
        records.append(record if version else record | {"tag": None})
    records[2500] |= {
        "status": None,
        "error": "ConnectionResetError: </script>",
        "seconds": 0.25,
        "tag": None,
    }
    scenario = {
        "passed": True,
        "error": None,
        "live_before": None,
        "steps": [{"name": "switch", "at": 1010.0}],
    }
    first = scenario | {"name": "first", "started": 1000.0, "ended": 1010.0}
    first |= {"deploy_seconds": None, "live_after": "a" * 40}
    second = scenario | {"name": "second", "started": 1010.0, "ended": 1020.0}
    second |= {"deploy_seconds": 4.25, "live_after": "b" * 40, "passed": False, "error": "one request failed"}
    run = {"started": 1000.0, "ended": 1020.0, "machine": "a <machine>", "stand_ins": True, "replacements": 1}
    return run | {"scenarios": [first, second], "lost": 0, "doubled": 0}, records


def test_report_finds_one_failure_in_thousands(tmp_path):
    run, records = rehearsal()
    write_report(run, records, tmp_path / "report")
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    first, second = (scenario["figures"] for scenario in report["run"]["scenarios"])
    assert report["good"] is False
    assert first == {"requests": 2000, "failed": 0, "acknowledged": 400, "longest_ms": 4, "late_ms": 1}
    assert second == {"requests": 2000, "failed": 1, "acknowledged": 399, "longest_ms": 250, "late_ms": 1}
    assert [failure["at"] for failure in report["failures"]] == [1012.5]
    assert sum(report["bins"]["failed"]) == report["bins"]["failed"][125] == 1
    assert [release["tag"] for release in report["bins"]["releases"]] == ["a" * 40, "b" * 40]
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count('<li class="failure">') == 1
    assert "1 of 4,000 requests failed" in page
    assert "a &lt;machine&gt;" in page
    assert page.count("</script>") == 1
    assert "://" not in page  # nothing is fetched from anywhere


def test_report_of_a_good_run(tmp_path):
    run, records = rehearsal()
    del records[2500]
    run["scenarios"][1] |= {"passed": True, "error": None}
    write_report(run, records, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert json.loads((tmp_path / "report.json").read_text())["good"] is True
    assert '<li class="failure">' not in page
    assert "None of 3,999 requests failed" in page


def test_every_request_is_in_one_bin():
    run, records = rehearsal()
    bins = bins_of(run, records)
    tagged = sum(sum(release["counts"]) for release in bins["releases"])
    assert tagged + sum(bins["untagged"]) + sum(bins["failed"]) == len(records)
    assert (bins["max_ms"][124], bins["max_ms"][125], bins["p99_ms"][125]) == (4, 250, 4)


def test_table_for_the_terminal(capsys):
    run, records = rehearsal()
    print_table(add_figures(run, records))
    heads, first, second, error, whole = capsys.readouterr().out.splitlines()
    assert heads.split()[:4] == ["scenario", "result", "requests", "failed"]
    assert first.split() == ["first", "passed", "2,000", "0", "400", "-", "-", "4", "-", "aaaaaaa"]
    assert second.split() == ["second", "FAILED", "2,000", "1", "399", "-", "-", "250", "4.2", "bbbbbbb"]
    assert error.strip() == "one request failed"
    assert whole.split()[2:] == ["FAILED", "4,000", "1", "799", "0", "0", "250"]
    print_table(run)
    assert "\033" not in capsys.readouterr().out

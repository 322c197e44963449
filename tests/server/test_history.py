"""deploys.log: what was live, rollback candidates and webhooks."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from server import history
from server.settings import read

from tests.server.conftest import NEW, OLD, THIRD, append

# How version 1 finds what was live.
VERSION_1 = re.compile('"time": "([^"]*)", "tag": "([0-9a-f]{40})", "outcome": "(live|rolled_back)", "by": "([^"]*)"')


def record(directory, **more):
    history.record(
        directory,
        **{
            "deploy_id": "200",
            "image": f"registry/quai:{NEW}",
            "outcome": "live",
            "actor": "a person",
            "reason": "",
            "committed": "2026-01-02T03:04:05Z",
            "seconds": {"pull": 1.2345, "watch": 5.0},
        }
        | more,
    )
    return json.loads((directory / "deploys.log").read_text().splitlines()[-1])


def test_an_attempt_is_one_line_of_json(directory):
    entry = record(directory)
    assert (entry["id"], entry["tag"], entry["outcome"], entry["reason"]) == ("200", NEW, "live", "")
    assert entry["seconds"] == {"pull": 1.23, "watch": 5.0}
    assert entry["text"] == f"registry/quai:{NEW} is live"
    assert VERSION_1.search((directory / "deploys.log").read_text().splitlines()[-1])


def test_a_reason_and_a_name_cannot_break_the_line(directory):
    entry = record(directory, outcome="refused", reason='a "quote"\nand a line\x00', actor='x", "tag": "y\n')
    assert entry["reason"] == 'a "quote" and a line'
    assert entry["by"] == "x tag y"
    assert len((directory / "deploys.log").read_text().splitlines()) == 2


def test_a_rollback_says_so(directory):
    assert record(directory, outcome="rollback")["text"].endswith("is live again (rollback)")


def test_rollback_candidates_are_distinct_and_newest_first(directory):
    for tag, outcome in ((NEW, "live"), (OLD, "rolled_back"), (THIRD, "live"), (NEW, "refused"), (NEW, "rollback")):
        append(directory, tag=tag, outcome=outcome)
    assert history.rollback_candidates(directory, NEW, 5) == [THIRD, OLD]
    assert history.rollback_candidates(directory, NEW, 1) == [THIRD]
    assert history.rollback_candidates(directory, THIRD, 5) == [NEW, OLD]


def test_truncated_line_is_skipped(directory):
    with (directory / "deploys.log").open("a") as log:
        log.write('{"id": "200", "ta\n[1]\n\n')
    assert [one.id for one in history.entries(directory)] == ["100"]


def test_truncated_line_does_not_swallow_the_next_one(directory):
    with (directory / "deploys.log").open("a") as log:
        log.write('{"id": "150", "ta')
    record(directory)
    assert [one.id for one in history.entries(directory)] == ["100", "200"]


def test_a_refused_attempt_was_never_live(directory):
    append(directory, id="200", tag=NEW, outcome="refused")
    assert history.find_live_entry(directory, "200") is None
    assert history.find_live_entry(directory, "100").tag == OLD


def test_ids_only_increase(directory):
    assert [history.new_id(directory, seconds) for seconds in (99, 100, 101, 200)] == ["101", "101", "101", "200"]


@pytest.fixture
def hook(directory):
    """NOTIFY_URL: it answers with `hook.status`, and keeps what it was sent."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.got.append((json.loads(body)["id"], self.headers["Authorization"]))
            self.send_response(server.status)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.got, server.status = [], 204
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    with (directory / ".env").open("a") as env:
        env.write(f"NOTIFY_URL=http://127.0.0.1:{server.server_port}/\nNOTIFY_TOKEN=a-token\n")
    yield server
    server.shutdown()
    server.server_close()


def notify(directory):
    history.notify(directory, read(directory))


def test_each_line_is_sent_once_and_none_from_before(directory, hook):
    append(directory, id="200")
    notify(directory)
    notify(directory)
    append(directory, id="300")
    notify(directory)
    assert hook.got == [("200", "Bearer a-token"), ("300", "Bearer a-token")]


def test_lines_from_the_time_without_a_url_are_not_sent(directory, hook):
    notify(directory)
    with_url = read(directory)
    (directory / ".env").write_text((directory / ".env").read_text() + "NOTIFY_URL=\n")
    append(directory, id="200")
    notify(directory)
    append(directory, id="300")
    history.notify(directory, with_url)
    assert [deploy for deploy, _ in hook.got] == ["100", "300"]


@pytest.mark.parametrize("status", [500, 503, 404, 429, 401, 302])
def test_what_could_not_be_sent_is_sent_with_the_next_deploy(directory, hook, status, capsys):
    append(directory, id="200")
    hook.status = status
    notify(directory)
    assert f"NOTIFY_URL returned {status}" in capsys.readouterr().out
    append(directory, id="300")
    hook.status, hook.got = 200, []
    notify(directory)
    assert [deploy for deploy, _ in hook.got] == ["200", "300"]


def test_what_is_rejected_as_malformed_is_not_sent_again(directory, hook):
    append(directory, id="200")
    hook.status = 422
    notify(directory)
    notify(directory)
    assert len(hook.got) == 1


def test_a_url_that_never_responds_does_not_fail_the_deploy(directory, hook, monkeypatch, capsys):
    monkeypatch.setattr(history, "NOTIFY_SECONDS", 0.2)
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as deaf:  # it accepts, and never answers
        with (directory / ".env").open("a") as env:
            env.write(f"NOTIFY_URL=http://127.0.0.1:{deaf.server_port}/\n")
        notify(directory)
    assert "NOTIFY_URL did not respond" in capsys.readouterr().out


def test_notified_file_is_replaced_not_overwritten(directory, hook):
    """The deploy user cannot write to a file that root created, for example during a restore."""
    (directory / "notified").write_text("0\n")
    inode = (directory / "notified").stat().st_ino
    notify(directory)
    assert (directory / "notified").stat().st_ino != inode
    assert (directory / "notified").read_text() == "1\n"


def test_a_new_log_is_sent_from_its_last_line(directory, hook):
    """The old log was lost or rotated; `notified` counted its lines."""
    (directory / "notified").write_text("50\n")
    notify(directory)
    append(directory, id="200")
    notify(directory)
    assert [deploy for deploy, _ in hook.got] == ["100", "200"]


def test_invalid_count_is_reported(directory, hook, capsys):
    (directory / "notified").write_text("many\n")
    notify(directory)
    assert f"cannot read or replace {directory}/notified (it must contain one number)" in capsys.readouterr().out
    assert hook.got == []

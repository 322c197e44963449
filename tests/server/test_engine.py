"""The engine's socket, commands with a deadline, the lock, and following a deploy."""

import fcntl
import json
import os
import signal
import socketserver
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from server import commands, engine, state
from server.engine import EngineError
from server.errors import Refused, TimedOut

from tests.server.conftest import ROOT

LISTED = {
    "Id": "abc",
    "Names": ["/quai-api-10"],
    "Labels": {"com.docker.compose.service": "api", "quai.deploy": "100", "quai.tag": "1" * 40},
    "State": "running",
    "Status": "Up 2 seconds (healthy)",
    "ImageID": "sha256:1",
    "NetworkSettings": {"Networks": {"data": {"IPAddress": ""}, "edge": {"IPAddress": "10.0.0.2"}}},
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(f"{self.command} {self.path.partition('?')[0]}")
        status, body = self.server.answers.get(self.path.partition("?")[0], (404, {"message": "no such thing"}))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    do_POST = do_DELETE = do_GET

    def address_string(self):
        return "socket"

    def log_message(self, *_):
        pass


@pytest.fixture
def docker(tmp_path, monkeypatch):
    """A fake engine with the responses that a test sets."""
    server = socketserver.ThreadingUnixStreamServer(str(tmp_path / "docker.sock"), Handler)
    server.asked, server.answers = [], {}
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    yield server
    server.shutdown()
    server.server_close()


def test_containers_are_listed_in_the_order_of_their_numbers(docker):
    second = LISTED | {"Names": ["/quai-api-9"], "Labels": {}, "NetworkSettings": None, "Status": "Up 2 seconds"}
    docker.answers["/containers/json"] = (200, [LISTED, second])
    first, last = engine.containers("quai", "quai.deploy")
    assert (first.name, first.deploy_id, first.address, first.is_ready) == ("quai-api-9", "", "", True)
    assert (last.name, last.deploy_id, last.address, last.is_ready) == ("quai-api-10", "100", "10.0.0.2", True)


@pytest.mark.parametrize(
    ("status", "ready"),
    [("Up 2 seconds", True), ("Up 2 seconds (healthy)", True), ("Up 2 seconds (health: starting)", False)],
)
def test_a_container_is_ready_when_its_health_check_says_so(docker, status, ready):
    docker.answers["/containers/json"] = (200, [LISTED | {"Status": status}])
    assert engine.containers("quai")[0].is_ready is ready


def test_engine_error_includes_its_message(docker):
    with pytest.raises(EngineError, match="GET /containers/abc/json of the Docker engine returned 404: no such thing"):
        engine.inspect("abc")
    assert engine.image("quai:1") is None


def test_unreachable_engine_is_reported(monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere")
    with pytest.raises(EngineError, match=r"the Docker engine is not responding: .*No such file"):
        engine.get("/info")


def test_removing_a_missing_container_is_not_an_error(docker):
    engine.remove(["abc", "def"])
    assert sorted(docker.asked) == sorted(
        f"{action}"
        for one in ("abc", "def")
        for action in (f"POST /containers/{one}/stop", f"DELETE /containers/{one}")
    )


def test_an_image_that_is_in_use_stays(docker):
    docker.answers["/images/quai%3A1"] = (409, {"message": "in use"})
    engine.untag("quai:1")
    assert docker.asked == ["DELETE /images/quai%3A1"]


def test_in_parallel_raises_the_first_exception():
    with pytest.raises(ZeroDivisionError):
        engine.in_parallel(lambda number: 1 // number, [1, 0, 2])
    called = []
    engine.in_parallel(called.append, [1, 2, 3])
    assert sorted(called) == [1, 2, 3]


def test_command_is_killed_after_its_time_limit(tmp_path):
    began = time.monotonic()
    with pytest.raises(TimedOut, match=r"'sleep 60' took more than 0\.2 s"):
        commands.run(["sleep", "60"], tmp_path, seconds=0.2)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("docker pull --quiet image", "docker pull"),
        ("/usr/lib/docker-compose --progress quiet --file a.yml up --detach api", "docker-compose up"),
        ("docker compose --progress quiet --file a.yml up", "docker compose"),
        ("/usr/bin/python3 -B -m server --help", "python3"),
    ],
)
def test_message_about_a_time_limit_names_the_command(tmp_path, monkeypatch, command, name):
    popen = commands.subprocess.Popen
    monkeypatch.setattr(commands.subprocess, "Popen", lambda _, **options: popen(["sleep", "60"], **options))
    with pytest.raises(TimedOut, match=rf"'{name}' took more than 0\.01 s"):
        commands.run(command.split(), tmp_path, seconds=0.01)


def test_meanwhile_can_abort_a_command(tmp_path):
    def no_more_room():
        raise Refused("the disk is almost full")

    with pytest.raises(Refused, match="the disk is almost full"), (tmp_path / "new").open("wb") as output:
        commands.run(["cat", "/dev/zero"], tmp_path, output=output, meanwhile=no_more_room)


def test_commands_inherit_neither_stdin_nor_the_lock(tmp_path):
    with state.lock(tmp_path, "a deploy"):
        done = commands.run(["sh", "-c", "cat; ls -l /proc/self/fd; exit 3"], tmp_path, capture=True)
    assert done.code == 3
    assert "deploy.lock" not in done.output


def test_the_lock_names_its_holder_and_is_released(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(state, "LOCK_SECONDS", 0.3)
    with state.lock(tmp_path, "a deploy"):
        held = (tmp_path / "deploy.lock").read_text()
        with (
            pytest.raises(Refused, match=f"another deploy is still running: a deploy, process {os.getpid()}"),
            state.lock(tmp_path, "another"),
        ):
            pass
    assert held.startswith(f"a deploy, process {os.getpid()}, since 20")
    assert "waiting up to 0.3 s for another deploy: a deploy" in capsys.readouterr().out
    with (tmp_path / "deploy.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


FOLLOW = """
import os, pathlib, sys, time
from server.follow import follow
def action():
    pathlib.Path("pid").write_text(f"{os.getpid()}")
    print("begun", flush=True)
    while not pathlib.Path("over").exists():
        time.sleep(0.01)
    print("over", flush=True)
    return 7
sys.exit(follow(pathlib.Path.cwd(), action))
"""


@pytest.fixture
def followed(tmp_path):
    """A follower process whose action has started."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "scripts")}
    with subprocess.Popen(
        [sys.executable, "-c", FOLLOW],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout.readline() == "begun\n"
        yield process
        (tmp_path / "over").touch()


def log_of(directory: Path) -> str:
    [log] = (directory / "logs").iterdir()
    return log.read_text()


def test_the_log_and_the_exit_code_are_those_of_the_action(followed, tmp_path):
    (tmp_path / "over").touch()
    assert followed.stdout.read() == "over\n"
    assert followed.wait(10) == 7
    assert log_of(tmp_path) == "begun\nover\n"


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("send", [os.kill, os.killpg])
def test_the_action_continues_when_its_follower_exits(followed, tmp_path, number, send):
    """A terminal sends Ctrl-C to all processes of its foreground group."""
    send(followed.pid, number)
    assert followed.wait(10) == (1 if number != signal.SIGKILL else -9)
    (tmp_path / "over").touch()
    deadline = time.monotonic() + 10
    while log_of(tmp_path) != "begun\nover\n":
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_the_action_interrupts_it(followed, tmp_path, number):
    os.kill(int((tmp_path / "pid").read_text()), number)
    assert followed.wait(10) == 1
    assert log_of(tmp_path) == "begun\n==> failed: Interrupted: interrupted\n"

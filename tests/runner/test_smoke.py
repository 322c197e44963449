"""The smoke test of the image: what it starts, and the requests that it sends."""

import importlib.util
import json
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType

import pytest

from scripts.runner import smoke
from scripts.runner.process import ROOT, Failure

RELEASE = {"labels": {"quai.deploy": "0"}}
SERVICES = {
    "api": {"labels": {"quai.deploy": "0", "quai.health-path": "/ready"}},
    "front": RELEASE,
    "worker": RELEASE,
    "proxy": {},
    "db": {},
    "migrate": {"deploy": {"replicas": 0}},
    "check": {"deploy": {"replicas": 0}},
    "shell": {"deploy": {"replicas": 0}},
}


def test_the_smoke_test_gets_new_secrets_and_free_ports():
    template = "# a\nAPI_TOKEN=change-me-to-a-long-token\nHTTP_PORT=80\nTITLE='a # b'\nIMAGE_TAG=\nX=${API_TOKEN}\n"
    assert "change-me" not in smoke.server_env('API_TOKEN="change-me"\n', "quai", "abc", {})
    first, second = (smoke.server_env(template, "quai", "abc", {"DB_IMAGE": "db"}) for _ in range(2))
    assert first != second
    unfinished = smoke.server_env("A=1\nB=2", "quai", "abc", {})
    assert unfinished.startswith("A=1\nB=2\nHTTPS_PORT=127.0.0.1:\n")
    assert re.sub("(?<=API_TOKEN=)[0-9a-f]{32}", "secret", first) == (
        "# a\nAPI_TOKEN=secret\nHTTP_PORT=127.0.0.1:\nTITLE='a # b'\nIMAGE_TAG=abc\nX=${API_TOKEN}\n"
        "DB_IMAGE=db\nHTTPS_PORT=127.0.0.1:\nIMAGE=quai\nLISTEN_ADDRESS=:80\n"
    )


@pytest.fixture
def docker(monkeypatch, tmp_path):
    """Replace docker with a list that records the smoke test's commands, in a directory with a .env.prod.

    A command that contains the word `docker.failing` fails with exit code 7. `docker.checks` is what the checks in the
    container return, `docker.state` and `docker.restarts` are how the container of the API is afterwards.
    """

    class Docker(list):
        failing = "none"
        checks = (0, "64 requests")
        state, restarts = MappingProxyType({"Running": True, "OOMKilled": False}), 0

        def __call__(self, *command, env=None, **_):
            self.append((command, env))
            if self.failing in command:
                raise subprocess.CalledProcessError(7, command)
            if "inspect" in command:
                found = {"Name": "/quai-api-1", "State": dict(self.state), "RestartCount": self.restarts}
                labels = {"com.docker.compose.service": "api"}
                return json.dumps([found | {"Config": {"Labels": labels}}])
            return json.dumps({"services": SERVICES}) if command[-1] == "json" else "1f"

        def check(self, command, env, **_):
            self.append((command, env))
            return subprocess.CompletedProcess(command, self.checks[0], self.checks[1], "")

    docker = Docker()
    for name in ("run", "show"):
        monkeypatch.setattr(smoke, name, docker)
    monkeypatch.setattr(smoke.subprocess, "run", docker.check)
    monkeypatch.setattr(smoke, "unpack_release", lambda image, folder: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env.prod").write_text("API_TOKEN=change-me\nAPI_PORT=8000\nDB_CONN=postgresql://${API_TOKEN}\n")
    return docker


def test_exported_settings_do_not_override_those_of_the_smoke_test(docker, monkeypatch):
    for name in ("DB_CONN", "API_TOKEN", "IMAGE_TAG", "COMPOSE_ENV_FILES"):
        monkeypatch.setenv(name, "mine")
    smoke.smoke_test("quai", "abc", {})
    assert "mine" not in {value for _, env in docker for value in (env or {}).values()}


def test_it_starts_what_a_deploy_starts_in_the_same_order(docker):
    smoke.smoke_test("quai", "abc", {})
    started = [command for command, _ in docker if "up" in command or command[-1] == "migrate"]
    assert [command[-1] for command in started] == ["db", "migrate", "worker"]
    assert started[2][-4:] == ("api", "front", "proxy", "worker")


def test_checks_get_the_health_path_of_the_compose_file(docker):
    smoke.smoke_test("quai", "abc", {})
    [checks] = [command for command, _ in docker if "-I" in command]
    assert list(checks[-4:]) == ["/ready", "", "abc", "8000"]


def test_failed_check_fails_the_smoke_test(docker):
    docker.checks = 1, "3 of 64 requests failed"
    with pytest.raises(Failure, match="the smoke test failed: 3 of 64 requests failed"):
        smoke.smoke_test("quai", "abc", {})
    assert "logs" in docker[-2][0]
    assert "down" in docker[-1][0]


@pytest.mark.parametrize(
    ("restarts", "is_out_of_memory", "cause"), [(1, False, "restarted"), (0, True, "ran out of memory")]
)
def test_api_that_does_not_survive_the_burst_fails_the_smoke_test(docker, restarts, is_out_of_memory, cause):
    docker.state, docker.restarts = {"Running": True, "OOMKilled": is_out_of_memory}, restarts
    with pytest.raises(Failure, match=rf"quai-api-1 {cause} \(64 requests\)"):
        smoke.smoke_test("quai", "abc", {})


@pytest.mark.parametrize(
    ("failing", "message"),
    [
        ("--wait-timeout", r"exit code 7 \(limit: 90 s\) from docker compose .* up "),
        ("migrate", "exit code 7 from docker compose .* run --rm -T migrate"),
        ("db", "exit code 7 from docker compose .* up .* db"),
    ],
)
def test_smoke_test_reports_the_failed_command(docker, failing, message):
    docker.failing = failing
    with pytest.raises(Failure, match=message):
        smoke.smoke_test("quai", "abc", {})
    commands = [command for command, _ in docker]
    assert "down" in commands[-1]


CHECKS = [{"Output": "/ did not respond: refused"}, {"Output": "/ready returned 400: Bad Request\n"}]


def test_smoke_test_names_the_files_that_the_application_cannot_write():
    logs = "OSError: [Errno 30] Read-only file system: '/app/logs'\nx\nOSError: Permission denied: '/app/logs'\n"
    assert smoke.describe_writes(logs).startswith("The application writes to /app/logs, but")
    assert smoke.describe_writes("ready\n") == ""


@pytest.mark.parametrize(
    ("state", "description"),
    [
        ({"Running": True, "Health": {"Status": "unhealthy", "Log": CHECKS}}, "unhealthy: /ready returned 400: Bad Re"),
        (
            {"Running": True, "Health": {"Status": "starting", "Log": CHECKS[:1]}},
            "starting: / did not respond: refused",
        ),
        ({"Running": False, "ExitCode": 137, "OOMKilled": True}, "not running, exit code 137: it ran out of memory"),
        ({"Running": False, "ExitCode": 3, "OOMKilled": False}, "not running, exit code 3: see its log above"),
    ],
)
def test_smoke_test_reports_why_a_container_is_unhealthy(docker, state, description):
    docker.failing, docker.state = "--wait-timeout", state
    with pytest.raises(Failure, match=f"\nquai-api-1 is {description}"):
        smoke.smoke_test("quai", "abc", {})
    assert [command[-1] for command, _ in docker if "logs" in command] == ["api", "api"]


def test_smoke_test_does_not_report_healthy_containers(docker):
    docker.failing = "--wait-timeout"
    with pytest.raises(Failure) as failure:
        smoke.smoke_test("quai", "abc", {})
    assert "quai-api-1 is" not in str(failure.value)


def test_smoke_test_runs_the_release_files_of_the_image(monkeypatch, tmp_path):
    commands = []
    monkeypatch.setattr(smoke, "run", lambda *command: commands.append(" ".join(command)) or "1f")
    smoke.unpack_release("quai:abc", tmp_path / "abc")
    assert commands == [
        "docker create quai:abc unused",
        f"docker cp --quiet 1f:/release {tmp_path / 'abc'}",
        "docker rm --force 1f",
    ]


class Application(BaseHTTPRequestHandler):
    """A server with keep-alive; at /overload it fails if it has more than 8 requests at the same time."""

    protocol_version = "HTTP/1.1"
    closes, release, running, lock = False, "abc", 0, threading.Lock()

    def do_GET(self):
        cls, status = type(self), 200
        with cls.lock:
            cls.running += 1
        time.sleep(0.02)
        with cls.lock:
            if self.path == "/overload" and cls.running > 8:
                status = 500
            cls.running -= 1
        self.send_response(status)
        self.send_header("X-Release", self.release)
        self.send_header("Content-Length", "2")
        if self.closes:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 100


@pytest.fixture
def checks(monkeypatch, tmp_path):
    """The program with the checks, and a server that is both the proxy and the API."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts/server"))
    spec = importlib.util.spec_from_file_location("smoke_checks", smoke.CHECKS)
    checks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(checks)
    sys.path.remove("/release/server")
    handler = type("Handler", (Application,), {})
    server = Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(checks, "API", "127.0.0.1")
    monkeypatch.setattr(checks, "PROXY", "127.0.0.1")
    monkeypatch.setattr(checks, "PROXY_PORT", server.server_port)
    monkeypatch.setattr(checks, "MARGIN", 0.1)
    monkeypatch.setattr(checks, "CADDYFILE", tmp_path / "Caddyfile")
    (tmp_path / "Caddyfile").write_text("transport http {\n\tkeepalive 1s # shorter\n}\n")
    checks.handler, checks.port = handler, str(server.server_port)
    yield checks
    server.shutdown()
    server.server_close()


def test_application_that_keeps_connections_open_passes(checks, capsys):
    assert checks.main("/", ":80", "abc", checks.port) == 0
    assert capsys.readouterr().out == "64 requests, 16 at a time, returned release abc\n"


def test_application_that_closes_idle_connections_too_early_fails(checks, capsys):
    checks.handler.timeout = 0.5
    assert checks.main("/", ":80", "abc", checks.port) == 1
    output = capsys.readouterr().out
    assert "closes idle connections too early, after less than 1.1 s; the front keeps them for 1 s" in output
    assert "gunicorn: --keep-alive 75" in output


def test_application_that_announces_the_end_of_each_connection_passes(checks):
    """As gunicorn's default worker does: the front does not use the connection again."""
    checks.handler.timeout, checks.handler.closes = 0.5, True
    assert checks.main("/", ":80", "abc", checks.port) == 0


def test_server_without_keep_alive_passes(checks):
    """HTTP/1.0 without a Connection header: the front does not use the connection again."""
    checks.handler.timeout, checks.handler.protocol_version = 0.5, "HTTP/1.0"
    assert checks.main("/", ":80", "abc", checks.port) == 0


def test_front_that_does_not_keep_connections_passes(checks, tmp_path):
    checks.handler.timeout = 0.5
    (tmp_path / "Caddyfile").write_text("keepalive off\n")
    assert checks.main("/", ":80", "abc", checks.port) == 0


@pytest.mark.parametrize("caddyfile", ["reverse_proxy api:8000\n", "keepalive {$KEEP_ALIVE}\n"])
def test_front_that_keeps_connections_for_an_unknown_time_fails(checks, tmp_path, capsys, caddyfile):
    (tmp_path / "Caddyfile").write_text(caddyfile)
    assert checks.main("/", ":80", "abc", checks.port) == 1
    assert "does not say how long the front keeps idle connections" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("caddyfile", "seconds"),
    [
        ("keepalive 500ms", 0.5),
        ("keepalive 1m30s # comment", 90),
        ("keepalive 1s\nkeepalive 2m\nkeepalive_interval 5m", 120),
        ("keepalive off", 0),
        ("keepalive {$KEEPALIVE:3s}", 3),
    ],
)
def test_duration_of_the_front_is_read_as_caddy_reads_it(checks, tmp_path, caddyfile, seconds):
    (tmp_path / "Caddyfile").write_text(caddyfile)
    assert checks.read_front_keep_alive() == seconds


def test_application_that_fails_requests_in_parallel_fails(checks, capsys):
    assert checks.main("/overload", ":80", "abc", checks.port) == 1
    assert re.search("[0-9]+ of 64 requests failed, 16 at a time: /overload returned 500: ok", capsys.readouterr().out)


def test_another_release_fails(checks, capsys):
    assert checks.main("/", ":80", "abd", checks.port) == 1
    assert "64 of 64 requests failed, 16 at a time: / returned release abc, expected abd" in capsys.readouterr().out

"""Probes of an application, as the deploy program and the health check of the API's container send them."""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from server.probe import Response, Site, main, parse_site, probe

from tests.server.conftest import ROOT


@pytest.mark.parametrize(
    ("address", "host", "is_https"),
    [
        (":80", "localhost", False),
        (":443", "localhost", True),
        ("", "localhost", False),
        ("api.example.com", "api.example.com", True),
        ("api.example.com, www.example.com", "api.example.com", True),
        ("https://api.example.com:8443", "api.example.com", True),
        ("http://api.example.com", "api.example.com", False),
        ("api.example.com:80", "api.example.com", False),
        ("http://:80", "localhost", False),
        ("*.example.com", "www.example.com", True),
        ("[::1]:8080", "[::1]", True),
        ("localhost", "localhost", True),
    ],
)
def test_site_of_an_address(address, host, is_https):
    assert parse_site(address) == (host, is_https)


class Application(BaseHTTPRequestHandler):
    """As Django with ALLOWED_HOSTS and SECURE_SSL_REDIRECT; /error fails, /moved redirects."""

    def do_GET(self):
        status = {"/error": 503, "/moved": 302}.get(self.path, 200)
        if self.headers["X-Forwarded-Proto"] != "https":
            status = 301
        if self.headers["Host"] != "shop.example.com":
            status = 400
        self.send_response(status)
        self.send_header("X-Release", "2" * 40)
        self.end_headers()
        self.wfile.write(b"why")

    def log_message(self, *_):
        pass


@pytest.fixture
def port():
    server = HTTPServer(("127.0.0.1", 0), Application)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_probe_looks_like_a_request_of_a_user(port):
    response = probe("127.0.0.1", port, "/health/", parse_site("shop.example.com"))
    assert (response.status, response.release, response.is_ready) == (200, "2" * 40, True)
    assert probe("127.0.0.1", port, "/health/", Site("127.0.0.1", True)).status == 400
    assert probe("127.0.0.1", port, "/health/", Site("shop.example.com", False)).status == 301


@pytest.mark.parametrize(("path", "is_ready"), [("/health/", True), ("/moved", True), ("/error", False), ("", True)])
def test_health_path_returns_2xx_or_3xx(port, path, is_ready):
    assert probe("127.0.0.1", port, path, Site("shop.example.com", True)).is_ready == is_ready


def test_without_a_health_path_any_status_below_500_counts(port):
    assert probe("127.0.0.1", port, "", Site("localhost", False)).is_ready
    assert not probe("127.0.0.1", port, "/health/", Site("localhost", False)).is_ready


def test_application_that_does_not_listen(port):
    response = probe("127.0.0.1", 1, "", Site("localhost", False))
    assert (response.status, response.is_ready) == (0, False)
    assert "did not respond: " in str(response)


@pytest.mark.parametrize(("path", "code", "output"), [("/health/", 0, ""), ("/error", 1, "/error returned 503: why\n")])
def test_health_check_of_the_container(port, path, code, output):
    command = [
        sys.executable,
        "-IS",
        ROOT / "scripts/server/probe.py",
        "127.0.0.1",
        str(port),
        path,
        "shop.example.com",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (code, output, "")


def test_each_address_of_a_host_is_probed(port, capsys):
    assert main("127.0.0.1", str(port), "/error", "https://shop.example.com", "--all") == 0
    found = {address: Response(*values) for address, values in json.loads(capsys.readouterr().out).items()}
    assert found == {"127.0.0.1": Response(503, "why", "2" * 40, False)}
    assert main("host.invalid", str(port), "/", ":80", "--all") == 0
    assert json.loads(capsys.readouterr().out) == {}

"""The verification at the public URL, and its deadline."""

import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from scripts.runner import verify
from scripts.runner.process import Failure
from scripts.runner.verify import Response


@contextmanager
def served(status=200, release="new"):
    """Serve this status and this release at a URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status if self.path == "/ready" else 200)
            self.send_header("Location", "/elsewhere")
            if release:
                self.send_header("X-Release", release)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/ready"
        server.shutdown()


def test_it_waits_until_the_release_is_served(monkeypatch):
    monkeypatch.setattr(verify, "POLL_SECONDS", 0.01)
    asked = []

    def fetch(url):
        asked.append(url)
        return Response(200, "new" if len(asked) == 3 else "old")

    verify.wait_for_release("https://api.example.com/", "/ready", "new", fetch_response=fetch)
    assert asked == ["https://api.example.com/ready"] * 3


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Response(200, "old"), "returned 200 from release old, expected release new"),
        (Response(503, "new"), "returned 503 from release new, expected release new"),
        (Response(200), "returned 200 from release unknown, expected release new"),
        (Response(0, reason="refused"), r"did not respond \(refused\)"),
    ],
)
def test_another_answer_is_a_failure_after_the_deadline(answer, message):
    began = time.monotonic()
    with pytest.raises(Failure, match=f"https://api.example.com/ready {message}"):
        verify.wait_for_release("https://api.example.com", "/ready", "new", 0.2, lambda url: answer)
    assert 0.2 <= time.monotonic() - began < 2


def test_without_a_health_path_any_status_below_500_counts():
    verify.wait_for_release("https://api.example.com", "", "new", 0.2, lambda url: Response(404, "new"))
    with pytest.raises(Failure, match="returned 502"):
        verify.wait_for_release("https://api.example.com", "", "new", 0.2, lambda url: Response(502, "new"))


@pytest.mark.parametrize("status", [200, 302, 404, 503])
def test_status_and_release_are_fetched(status):
    with served(status) as url:
        assert verify.fetch(url) == (status, "new", "")


def test_a_server_without_the_header():
    with served(release="") as url:
        assert verify.fetch(url) == (200, "", "")


def test_a_redirect_of_the_proxy_is_followed():
    with served(308, release="") as url:
        assert verify.fetch(url) == (200, "", "")


def test_a_closed_port_is_an_error():
    with served() as url:
        pass
    assert "refused" in verify.fetch(url).reason


def test_health_path_of_the_compose_file(monkeypatch, tmp_path):
    """Settings of the machine do not matter."""
    labels = '{"services": {"api": {"labels": {"quai.health-path": "/ready"}}}}'
    calls = []
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env.prod").write_text("API_TOKEN=change-me\n")
    monkeypatch.setenv("API_TOKEN", "mine")
    monkeypatch.setattr(verify, "run", lambda *command, env: calls.append(env) or labels)
    assert verify.health_path("abc") == "/ready"
    assert (calls[0]["IMAGE_TAG"], "API_TOKEN" in calls[0]) == ("abc", False)

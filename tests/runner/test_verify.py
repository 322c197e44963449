"""The verification at the public URL, and its deadline."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from scripts.runner import verify
from scripts.runner.process import Failure


@contextmanager
def served(body):
    """Serve this body at a URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/version"
        server.shutdown()


def test_it_waits_until_the_release_is_served(monkeypatch):
    monkeypatch.setattr(verify, "POLL_SECONDS", 0.01)
    asked = []

    def fetch(url):
        asked.append(url)
        return {"tag": "new" if len(asked) == 3 else "old"}

    assert verify.wait_for_release("https://api.example.com/", "new", fetch_json=fetch) == {"tag": "new"}
    assert asked == ["https://api.example.com/version"] * 3


def test_another_release_is_a_failure_after_the_deadline():
    began = time.monotonic()
    with pytest.raises(Failure, match=r"returned \{'tag': 'old'\}, expected new"):
        verify.wait_for_release("https://api.example.com", "new", 0.2, lambda url: {"tag": "old"})
    assert 0.2 <= time.monotonic() - began < 2


def test_an_object_is_fetched():
    with served(json.dumps({"tag": "new"}).encode()) as url:
        assert verify.fetch(url) == {"tag": "new"}


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'"new"'])
def test_anything_else_is_an_error(body):
    with served(body) as url:
        assert verify.fetch(url).keys() == {"error"}


def test_a_closed_port_is_an_error():
    with served(b"") as url:
        pass
    assert "refused" in verify.fetch(url)["error"]

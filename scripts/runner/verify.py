"""Verify that the public URL serves the release."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

from scripts.runner import project
from scripts.runner.process import Failure, run, say
from scripts.runner.settings import compose_environment, read_env_file

VERIFY_SECONDS = 30.0
POLL_SECONDS = 0.5
HEALTH_PATH = "quai.health-path"  # a label of the service api


class Response(NamedTuple):
    """A response of the public URL; status 0 and the reason without one. `release` is the header X-Release."""

    status: int
    release: str = ""
    reason: str = ""

    def __str__(self) -> str:
        """What was returned, for messages."""
        if not self.status:
            return f"did not respond ({self.reason})"
        return f"returned {self.status} from release {self.release or 'unknown'}"


def health_path(commit: str) -> str:
    """Return the health path that the compose file of production names; empty without one.

    The values that it requires are taken from the template of .env.
    """
    template = project.env_template()
    settings = read_env_file(Path(template))
    environment = compose_environment(settings) | {"IMAGE": "image", "IMAGE_TAG": commit}
    files = ("--env-file", template, "--file", project.compose_file())
    services = json.loads(run("docker", "compose", *files, "config", "--format", "json", env=environment))["services"]
    api = services.get("api", {})
    return str((api.get("labels") or {}).get(HEALTH_PATH, ""))


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect of the proxy, for example to HTTPS, but not one of the application."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """Return the next request; None to keep this response."""
        return None if "X-Release" in headers else super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(url: str) -> Response:
    """Request a URL once."""
    try:
        with urllib.request.build_opener(Redirects).open(url, timeout=5) as response:
            return Response(response.status, response.headers.get("X-Release", ""))
    except urllib.error.HTTPError as error:
        return Response(error.code, error.headers.get("X-Release", ""))
    except (OSError, ValueError, HTTPException) as error:
        return Response(0, reason=str(error))


def wait_for_release(
    public_url: str,
    path: str,
    commit: str,
    seconds: float = VERIFY_SECONDS,
    fetch_response: Callable[[str], Response] = fetch,
) -> None:
    """Poll the health path until this commit responds with a status below 400, or, without a health path, below 500.

    Raise Failure after `seconds`.
    """
    url = public_url.rstrip("/") + (path or "/")
    deadline = time.monotonic() + seconds
    while True:
        response = fetch_response(url)
        if response.release == commit and 200 <= response.status < (400 if path else 500):
            break
        if time.monotonic() >= deadline:
            raise Failure(f"{url} {response}, expected release {commit}: see docs/troubleshooting.md")
        time.sleep(min(POLL_SECONDS, seconds))
    say(f"{url} returned release {commit}")

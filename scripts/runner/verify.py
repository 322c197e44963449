"""Verify that the public URL serves the release."""

import json
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from typing import Any

from scripts.runner.process import Failure, say

VERIFY_SECONDS = 30.0
POLL_SECONDS = 0.5


def fetch(url: str) -> dict[str, Any]:
    """Return the JSON object at a URL, or {"error": reason} without one."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310 - PUBLIC_URL, set by the owner
            answer = json.load(response)
    except (OSError, ValueError, HTTPException) as error:
        return {"error": str(error)}
    return answer if isinstance(answer, dict) else {"error": f"not a JSON object: {answer!r}"}


def wait_for_release(
    public_url: str,
    commit: str,
    seconds: float = VERIFY_SECONDS,
    fetch_json: Callable[[str], dict[str, Any]] = fetch,
) -> dict[str, Any]:
    """Poll /version until it returns this commit, and return the answer. Raise Failure after `seconds`."""
    url = public_url.rstrip("/") + "/version"
    deadline = time.monotonic() + seconds
    while (answer := fetch_json(url)).get("tag") != commit:
        if time.monotonic() >= deadline:
            raise Failure(f"{url} returned {answer}, expected {commit}: see docs/troubleshooting.md")
        time.sleep(min(POLL_SECONDS, seconds))
    say(f"{url} returned {commit}")
    return answer

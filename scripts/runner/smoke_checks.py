"""Checks of a running release. The smoke test sends this program to Python in a container of the release's network.

Arguments: health path, SITE_ADDRESS, commit, API_PORT. Prints a problem on one line and exits with 1, or prints what
it checked and exits with 0. It must run on each Python version that an application may use.
"""

from __future__ import annotations

import re
import select
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, "/release/server")
from probe import Site, parse_site, probe  # type: ignore[import-not-found]

PROXY, PROXY_PORT, API = "proxy", 8080, "api"
BURST, CLIENTS = 64, 16  # requests, and how many of them at the same time
CADDYFILE = Path("/release/front/Caddyfile")
MARGIN = 0.5  # seconds
UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}  # seconds
DURATION = rf"(\d+(?:\.\d+)?)({'|'.join(UNITS)})"  # one part of a duration such as 1m30s
OPTIONS = "gunicorn: --keep-alive 75, uvicorn: --timeout-keep-alive 75, hypercorn: --keep-alive 75"


def check_burst(health_path: str, site: Site, commit: str) -> str:
    """Return why a request of a parallel burst failed; empty if none did."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        responses = list(pool.map(lambda _: probe(PROXY, PROXY_PORT, health_path, site), range(BURST)))
    failed = [response for response in responses if not response.is_ready or response.release != commit]
    if not failed:
        return ""
    what = f"{health_path or '/'} {failed[0]}"
    if failed[0].is_ready:
        what = f"{health_path or '/'} returned release {failed[0].release or 'none'}, expected {commit}"
    return f"{len(failed)} of {BURST} requests failed, {CLIENTS} at a time: {what}"


def read_front_keep_alive() -> float | None:
    """Return how many seconds the front keeps idle connections to the API, 0 for none; None if that is unknown."""
    longest = None
    # The value, or the default in {$KEEPALIVE:3s}.
    for value in re.findall(r"^\s*keepalive\s+(?:\{\$\w+:)?([^\s}]+)", CADDYFILE.read_text(), re.MULTILINE):
        parts = re.findall(DURATION, value)
        if value not in ("off", "".join(number + unit for number, unit in parts)):
            return None
        longest = max(longest or 0.0, sum(float(number) * UNITS[unit] for number, unit in parts))
    return longest


def check_keep_alive(port: int, health_path: str, site: Site, seconds: float | None) -> str:
    """Return why the API closes an idle connection too early, or why that is unknown; empty if it does not.

    A server that closes it before the front does loses POST requests: they are sent on the connection while it closes.
    """
    if seconds is None:
        return (
            f"{CADDYFILE} does not say how long the front keeps idle connections to the API (by default 2 minutes, "
            "longer than most servers do): set 'keepalive 3s' in the block 'transport http' of 'reverse_proxy'"
        )
    if not seconds:
        return ""
    scheme = "https" if site.is_https else "http"
    request = f"GET {health_path or '/'} HTTP/1.1\r\nHost: {site.host}\r\nX-Forwarded-Proto: {scheme}\r\n\r\n"
    with socket.create_connection((API, port), timeout=10) as connection:
        connection.sendall(request.encode())
        head = connection.recv(65536)
        if head.startswith(b"HTTP/1.0") or re.search(rb"^connection:\s*close", head, re.IGNORECASE | re.MULTILINE):
            return ""  # the front does not use the connection again
        is_open = True
        while is_open:
            if not select.select([connection], [], [], seconds + MARGIN)[0]:
                return ""  # still open
            try:
                is_open = bool(connection.recv(65536))  # the rest of the response
            except OSError:
                is_open = False
    return (
        f"the API closes idle connections too early, after less than {seconds + MARGIN:g} s; the front keeps them for "
        f"{seconds:g} s, so some POST requests would fail. Raise its keep-alive ({OPTIONS})"
    )


def main(health_path: str, site_address: str, commit: str, port: str) -> int:
    """Run all checks and return the exit code."""
    site, seconds = parse_site(site_address), read_front_keep_alive()
    if problem := check_burst(health_path, site, commit) or check_keep_alive(int(port), health_path, site, seconds):
        print(problem)
        return 1
    print(f"{BURST} requests, {CLIENTS} at a time, returned release {commit}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

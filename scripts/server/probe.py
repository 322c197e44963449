"""Requests a path of the application as a user's browser does: with the site's host, and as HTTPS if the site is.

The deploy program imports this module. It is also a program in the API's container, which may have another Python
version. `python probe.py HOST PORT HEALTH_PATH SITE_ADDRESS`, the health check, exits with 0 if the application is
ready; otherwise it prints the reason and exits with 1. With `--all` as a fifth argument, it requests each address of
the host, and prints the responses as JSON.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

PROBE_SECONDS = 10  # time limit of each connection, request and read of a probe
RELEASE_HEADER = "X-Release"  # set by the front: the release whose API answered


class Site(NamedTuple):
    """The host that users open, and whether they open it over HTTPS."""

    host: str
    is_https: bool


class Response(NamedTuple):
    """The response to a probe; status 0 and an error message if there was none. `release` is empty if unknown."""

    status: int
    text: str
    release: str = ""
    is_ready: bool = False

    def __str__(self) -> str:
        """What was returned, for messages."""
        return f"returned {self.status}: {self.text[:200]}" if self.status else f"did not respond: {self.text[:200]}"


def parse_site(address: str) -> Site:
    """Return the site of SITE_ADDRESS, written as in a Caddyfile; of several addresses, the first.

    An address without a host, such as ":80", has the host localhost; "*.example.com" has www.example.com.
    """
    first = re.split(r"[,\s]+", address.strip())[0]
    found = re.fullmatch(r"(?:(\w+)://)?(\[[^\]]*\]|[^:/]*)(?::(\d+))?.*", first)
    scheme, host, port = found.groups() if found else ("", "", "")
    is_https = scheme != "http" and port != "80" and bool(host or scheme or port == "443")
    return Site(host.replace("*", "www") or "localhost", is_https)


def probe(address: str, port: int, health_path: str, site: Site) -> Response:
    """Send one GET; status 0 means that there was no response within PROBE_SECONDS.

    The application is ready if the health path returns 2xx or 3xx. Without a health path (an empty string), any status
    below 500 on / counts: it proves only that the process answers.
    """
    headers = {"Host": site.host, "X-Forwarded-Proto": "https" if site.is_https else "http"}
    connection = http.client.HTTPConnection(address, port, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", health_path or "/", headers=headers)
        response = connection.getresponse()
        is_ready = 200 <= response.status < (400 if health_path else 500)
        text = response.read(10_000).decode(errors="replace")
        return Response(response.status, text, response.getheader(RELEASE_HEADER, ""), is_ready)
    except (OSError, http.client.HTTPException) as error:
        return Response(0, str(error) or type(error).__name__)
    finally:
        connection.close()


def probe_all(host: str, port: int, health_path: str, site: Site) -> dict[str, Response]:
    """Probe each address of a host at the same time; empty if it has none."""
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except OSError:
        return {}
    with ThreadPoolExecutor(len(found)) as pool:
        sent = {one: pool.submit(probe, one, port, health_path, site) for one in found}
    return {one: probing.result() for one, probing in sent.items()}


def main(host: str, port: str, health_path: str, site_address: str, option: str = "") -> int:
    """Probe the API of this container, and return the exit code of the health check."""
    if option == "--all":
        print(json.dumps(probe_all(host, int(port), health_path, parse_site(site_address))))
        return 0
    response = probe(host, int(port), health_path, parse_site(site_address))
    if not response.is_ready:
        print(f"{health_path or '/'} {response}")
    return int(not response.is_ready)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

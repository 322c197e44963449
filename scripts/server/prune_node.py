"""Removes images of old releases from the node that this runs on; nodes.prune starts it in a container on each one.

Arguments: the name of the releases' image, and the digests to keep. It must run on each Python version that an
application may use.
"""

from __future__ import annotations

import http.client
import json
import socket
import sys
from urllib.parse import quote, urlencode

SOCKET = "/var/run/docker.sock"
SECONDS = 60  # time limit of each read


class Connection(http.client.HTTPConnection):
    """A connection to the engine of this node."""

    def connect(self) -> None:
        """Connect to its socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(SECONDS)
        self.sock.connect(SOCKET)


def request(method: str, path: str) -> tuple[int, bytes]:
    """Return the status and the body of a response."""
    connection = Connection("localhost")
    connection.request(method, path)
    response = connection.getresponse()
    return response.status, response.read()


def find_old(images: list[dict[str, list[str] | None]], repository: str, keep: set[str]) -> list[str]:
    """Return the names, with digests, of the repository's images that are not kept."""
    names = [name for image in images for name in image.get("RepoDigests") or []]
    return sorted(name for name in names if name.partition("@")[0] == repository and name.partition("@")[2] not in keep)


def main(repository: str, *keep: str) -> int:
    """Remove the images that are not kept; those in use stay. Return the exit code."""
    status, body = request("GET", "/images/json?" + urlencode({"filters": json.dumps({"reference": [repository]})}))
    if status != 200:
        print(f"the engine returned {status}: {body.decode(errors='replace')}")
        return 1
    for name in find_old(json.loads(body), repository, set(keep)):
        status, body = request("DELETE", f"/images/{quote(name)}")
        print(f"{name}: {'removed' if status == 200 else body.decode(errors='replace').strip()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

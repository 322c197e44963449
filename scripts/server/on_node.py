"""Runs in a container on a node of a Swarm, and asks the engine of that node; nodes.py starts it.

    prune IMAGE DIGEST ...  remove the releases' images, except those with these digests
    explain TASK            print how the container of a task ended, and the output of its health checks

It must run on each Python version that an application may use.
"""

from __future__ import annotations

import http.client
import json
import socket
import sys
from typing import Any
from urllib.parse import quote, urlencode

SOCKET = "/var/run/docker.sock"
SECONDS = 60  # time limit of each read
OUT_OF_MEMORY = "out of memory: the kernel killed it (OOMKilled); its limit is {} MiB"


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


def get(path: str, **query: str) -> Any:
    """Return the decoded response. Exits with a message if it is an error."""
    status, body = request("GET", f"{path}?{urlencode(query)}")
    if status != 200:
        sys.exit(f"the engine returned {status}: {body.decode(errors='replace')}")
    return json.loads(body)


def prune(repository: str, *keep: str) -> None:
    """Remove the images that are not kept; those in use stay."""
    for name in find_old(get("/images/json", filters=json.dumps({"reference": [repository]})), repository, set(keep)):
        status, body = request("DELETE", f"/images/{quote(name)}")
        print(f"{name}: {'removed' if status == 200 else body.decode(errors='replace').strip()}")


def explain(task: str) -> None:
    """Print how the container of a task ended, and the output of its health checks."""
    filters = json.dumps({"label": [f"com.docker.swarm.task.id={task}"]})
    for container in get("/containers/json", all="true", filters=filters):
        found = get(f"/containers/{container['Id']}/json")
        print("\n".join(describe(found["State"], found["HostConfig"].get("Memory", 0) >> 20)))


def describe(state: dict[str, Any], limit: int) -> list[str]:
    """Describe the state of a container. `limit` is its memory limit in MiB."""
    lines = [] if state["Running"] else [f"exit code {state['ExitCode']}"]
    if state.get("OOMKilled"):
        lines.append(OUT_OF_MEMORY.format(limit))
    return lines + describe_checks(state)


def describe_checks(state: dict[str, Any]) -> list[str]:
    """Return the output of the last health checks of a container."""
    checks = (state.get("Health") or {}).get("Log") or []
    outputs = [check["Output"].strip().splitlines() for check in checks[-3:]]
    return [f"health check: {output[-1]}" for output in outputs if output]


if __name__ == "__main__":
    if sys.argv[1] == "prune":
        prune(*sys.argv[2:])
    else:
        explain(*sys.argv[2:])

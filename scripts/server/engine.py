"""The Docker engine, over its API socket: faster than the docker command for frequent calls."""

import http.client
import json
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

REQUEST_SECONDS = 60  # time limit of each read of a response
STOP_SECONDS = 4 * 3600  # time limit of stopping a container, grace period included: a job may take hours
SOCKET = "/var/run/docker.sock"
MAX_REQUESTS = 16  # at the same time


class EngineError(Exception):
    """The engine does not respond, or returns an error."""

    def __init__(self, message: str, status: int = 0) -> None:
        """`status` is the HTTP status of the response, 0 if there was none."""
        super().__init__(message)
        self.status = status


class Container(NamedTuple):
    """A container as the engine lists it. `deploy_id` and `tag` are empty outside of a release."""

    id: str
    name: str
    service: str
    deploy_id: str
    tag: str
    state: str
    image_id: str
    address: str
    status: str
    labels: Mapping[str, str]

    @property
    def is_running(self) -> bool:
        """Whether it is running, restarting or paused."""
        return self.state in ("running", "restarting", "paused")

    @property
    def is_ready(self) -> bool:
        """Whether it runs, and is healthy if it has a health check."""
        return self.state == "running" and ("(healthy)" in self.status or "(" not in self.status)


class _Connection(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.environ.get("DOCKER_HOST", "").removeprefix("unix://") or SOCKET)


def request(method: str, path: str, query: Mapping[str, str] | None = None, seconds: float = REQUEST_SECONDS) -> bytes:
    """Send one request to the engine and return the response body. Raises EngineError, including after `seconds`."""
    connection = _Connection("localhost", timeout=seconds)
    try:
        connection.request(method, path + (f"?{urlencode(query)}" if query else ""))
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise EngineError(f"the Docker engine is not responding: {error}") from None
    finally:
        connection.close()
    if response.status >= 400:
        try:
            message = json.loads(body)["message"]
        except (ValueError, LookupError, TypeError):
            message = body.decode(errors="replace")
        raise EngineError(
            f"{method} {path} of the Docker engine returned {response.status}: {message}", response.status
        )
    return body


def get(path: str, query: Mapping[str, str] | None = None) -> Any:
    """Return the decoded JSON response. Raises EngineError."""
    return json.loads(request("GET", path, query))


def containers(project: str, *labels: str) -> list[Container]:
    """Return the service containers of a Compose project, running or not, with these labels, sorted by name.

    A label is 'name' or 'name=value'. Containers of `docker compose run` are left out.
    """
    found = map(_container, _list(project, "com.docker.compose.oneoff=False", *labels))
    return sorted(found, key=lambda container: _natural_sort_key(container.name))


def one_shots(project: str, label: str) -> list[str]:
    """Return the ids of the containers of `docker compose run` with this label, running or not."""
    return [entry["Id"] for entry in _list(project, "com.docker.compose.oneoff=True", label)]


def _list(project: str, *labels: str) -> list[Any]:
    filters = {"label": [f"com.docker.compose.project={project}", *labels]}
    found: list[Any] = get("/containers/json", {"all": "true", "filters": json.dumps(filters)})
    return found


def _container(entry: Any) -> Container:
    labels = entry["Labels"]
    return Container(
        id=entry["Id"],
        name=(entry["Names"] or ["/"])[0].removeprefix("/"),
        service=labels.get("com.docker.compose.service", ""),
        deploy_id=labels.get("quai.deploy", ""),
        tag=labels.get("quai.tag", ""),
        state=entry["State"],
        image_id=entry["ImageID"],
        address=address(entry),
        status=entry["Status"],
        labels=labels,
    )


def address(entry: Any) -> str:
    """Return the address in one of the networks, from the entry or the inspect data of a container; "" without one."""
    networks = (entry.get("NetworkSettings") or {}).get("Networks") or {}
    addresses = [network.get("IPAddress") or network.get("GlobalIPv6Address") for network in networks.values()]
    return next(filter(None, addresses), "")


def _natural_sort_key(name: str) -> tuple[str, int]:
    """A sort key: quai-api-10 comes after quai-api-9."""
    stem, _, number = name.rpartition("-")
    return (stem, int(number)) if number.isdecimal() else (name, 0)


def inspect(container: str) -> Any:
    """Return the inspect data of a container. Raises EngineError."""
    return get(f"/containers/{container}/json")


def image(name: str) -> Any | None:
    """Return the inspect data of an image, by name or id; None if it is not on this server."""
    try:
        return get(f"/images/{quote(name)}/json")
    except EngineError as error:
        if error.status == 404:
            return None
        raise


def tags(repository: str) -> set[str]:
    """Return the tags of a repository that are on this server."""
    listed = get("/images/json", {"filters": json.dumps({"reference": [repository]})})
    return {name.rpartition(":")[2] for entry in listed for name in entry["RepoTags"] or []}


def in_parallel(action: Callable[[str], None], containers: Iterable[str]) -> None:
    """Call `action` for all containers at the same time. Wait for all, and raise the first exception."""
    with ThreadPoolExecutor(MAX_REQUESTS) as pool:
        list(pool.map(action, containers))


def remove(containers: Iterable[str]) -> None:
    """Stop containers, each within its own grace period, and remove them. Missing ones are ignored."""

    def stop_and_remove(container: str) -> None:
        stop(container)
        _tolerate((404, 409), "DELETE", f"/containers/{container}", {"v": "true"})

    in_parallel(stop_and_remove, containers)


def remove_now(container: str) -> None:
    """Remove a container at once, without a grace period."""
    _tolerate((404, 409), "DELETE", f"/containers/{container}", {"force": "true", "v": "true"})


def _tolerate(
    statuses: Sequence[int],
    method: str,
    path: str,
    query: Mapping[str, str] | None = None,
    seconds: float = REQUEST_SECONDS,
) -> None:
    try:
        request(method, path, query, seconds)
    except EngineError as error:
        if error.status not in statuses:
            raise


def stop(container: str) -> None:
    """Stop a container within its own grace period, and keep it."""
    _tolerate((304, 404), "POST", f"/containers/{container}/stop", seconds=STOP_SECONDS)


def stop_now(container: str) -> None:
    """Stop a container without a grace period, but do not remove it.

    For containers that do not serve yet: while a process starts, it may ignore the stop signal.
    """
    _tolerate((304, 404), "POST", f"/containers/{container}/stop", {"t": "0"})


def start(container: str) -> None:
    """Start a container that was created or stopped. Raises EngineError."""
    _tolerate((304,), "POST", f"/containers/{container}/start")


def untag(name: str) -> None:
    """Remove a tag, and the image if it was the last tag; images in use are kept."""
    _tolerate((404, 409), "DELETE", f"/images/{quote(name)}")


def remove_service(service: str) -> None:
    """Remove a service of Swarm, with its tasks; a missing one is ignored."""
    _tolerate((404,), "DELETE", f"/services/{service}")


def rename(container: str, name: str) -> None:
    """Give a container another name. Raises EngineError if the name is taken."""
    request("POST", f"/containers/{container}/rename", {"name": name})

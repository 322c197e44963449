"""The Docker engine: its socket for what is read and stopped often, the docker command for the rest."""

import http.client
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar
from urllib.parse import quote, urlencode

from server.errors import TimedOut

COMMAND_SECONDS = 600  # the longest that one docker command, or one request to the engine, may take
SOCKET = "/var/run/docker.sock"
CHILD_MARK = "QUAI_DEPLOY_IN"  # in the environment of each child process: the directory of the deploy
KILL_SECONDS = 10  # from SIGTERM to SIGKILL for a command that takes too long
PARALLEL = 16  # requests at the same time

Item = TypeVar("Item")
Result = TypeVar("Result")


class EngineError(Exception):
    """The engine does not answer, or answers with an error."""

    def __init__(self, message: str, status: int = 0) -> None:
        """`status` is the HTTP status of the answer, 0 without an answer."""
        super().__init__(message)
        self.status = status


class Container(NamedTuple):
    """A container as the engine lists it. `deploy` and `tag` are empty where the container is no release's."""

    id: str
    name: str
    service: str
    deploy: str
    tag: str
    state: str
    image_id: str
    address: str
    status: str
    labels: Mapping[str, str]

    @property
    def is_running(self) -> bool:
        """Whether it has a process, or gets one again by itself."""
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


def request(method: str, path: str, query: Mapping[str, str] | None = None) -> bytes:
    """Send one request to the engine and return the body of its answer. Raises EngineError."""
    connection = _Connection("localhost", timeout=COMMAND_SECONDS)
    try:
        connection.request(method, path + (f"?{urlencode(query)}" if query else ""))
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise EngineError(f"the Docker engine does not answer: {error}") from None
    finally:
        connection.close()
    if answer.status >= 400:
        try:
            message = json.loads(body)["message"]
        except (ValueError, LookupError, TypeError):
            message = body.decode(errors="replace")
        raise EngineError(f"the Docker engine answers {answer.status} to {method} {path}: {message}", answer.status)
    return body


def get(path: str, query: Mapping[str, str] | None = None) -> Any:
    """The JSON that the engine answers with. Raises EngineError."""
    return json.loads(request("GET", path, query))


def containers(project: str, *labels: str) -> list[Container]:
    """All containers of a Compose project, running or not, that have these labels ('name' or 'name=value')."""
    filters = {"label": [f"com.docker.compose.project={project}", *labels]}
    listed = get("/containers/json", {"all": "true", "filters": json.dumps(filters)})
    return sorted(map(_container, listed), key=lambda container: natural(container.name))


def _container(entry: Any) -> Container:
    labels = entry["Labels"]
    networks = (entry.get("NetworkSettings") or {}).get("Networks") or {}
    addresses = [network["IPAddress"] for network in networks.values() if network.get("IPAddress")]
    return Container(
        id=entry["Id"],
        name=(entry["Names"] or ["/"])[0].removeprefix("/"),
        service=labels.get("com.docker.compose.service", ""),
        deploy=labels.get("quai.deploy", ""),
        tag=labels.get("quai.tag", ""),
        state=entry["State"],
        image_id=entry["ImageID"],
        address=addresses[0] if addresses else "",
        status=entry["Status"],
        labels=labels,
    )


def natural(name: str) -> tuple[str, int]:
    """A sort key: quai-api-10 comes after quai-api-9."""
    stem, _, number = name.rpartition("-")
    return (stem, int(number)) if number.isdecimal() else (name, 0)


def inspect(container: str) -> Any:
    """Everything that the engine knows of a container. Raises EngineError."""
    return get(f"/containers/{container}/json")


def image(name: str) -> Any | None:
    """Everything that the engine knows of an image; None if it is not on this server."""
    try:
        return get(f"/images/{quote(name)}/json")
    except EngineError as error:
        if error.status == 404:
            return None
        raise


def tags(repository: str) -> set[str]:
    """The tags of a repository that are on this server."""
    listed = get("/images/json", {"filters": json.dumps({"reference": [repository]})})
    return {name.rpartition(":")[2] for entry in listed for name in entry["RepoTags"] or []}


def in_parallel(action: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Call `action` for each item at the same time; the results in order. Raises what the first failure raised."""
    todo = list(items)
    if len(todo) < 2:
        return [action(item) for item in todo]
    with ThreadPoolExecutor(min(len(todo), PARALLEL)) as pool:
        return list(pool.map(action, todo))


def remove(containers: Iterable[str]) -> None:
    """Stop containers, each within its own grace period, and remove them. Those that are gone are fine."""

    def stop_and_remove(container: str) -> None:
        _tolerate((304, 404), "POST", f"/containers/{container}/stop")
        _tolerate((404, 409), "DELETE", f"/containers/{container}", {"v": "true"})

    in_parallel(stop_and_remove, containers)


def kill(container: str) -> None:
    """Remove a container at once, without a grace period."""
    _tolerate((404, 409), "DELETE", f"/containers/{container}", {"force": "true", "v": "true"})


def _tolerate(statuses: Sequence[int], method: str, path: str, query: Mapping[str, str] | None = None) -> None:
    try:
        request(method, path, query)
    except EngineError as error:
        if error.status not in statuses:
            raise


def start(container: str) -> None:
    """Start a container that was created. Raises EngineError."""
    _tolerate((304,), "POST", f"/containers/{container}/start")


def untag(name: str) -> None:
    """Remove a tag, and the image if no other has it; one that is in use stays."""
    _tolerate((404, 409), "DELETE", f"/images/{quote(name)}")


def rename(container: str, name: str) -> None:
    """Give a container another name. Raises EngineError if the name is taken."""
    request("POST", f"/containers/{container}/rename", {"name": name})


class Finished(NamedTuple):
    """A command that has ended; what it printed is empty unless it was captured."""

    code: int
    output: str
    error: str


def run(
    command: Sequence[str],
    directory: Path,
    environment: Mapping[str, str] | None = None,
    *,
    seconds: float = COMMAND_SECONDS,
    output: int | IO[bytes] | None = None,
    quiet: bool = False,
    meanwhile: Callable[[], None] | None = None,
) -> Finished:
    """Run a command in `directory`; what it prints goes to the log of the deploy.

    With `output` its standard output goes there instead, with `quiet` everything is captured. `meanwhile` is
    called several times a second and may raise to end the command. Raises TimedOut after `seconds`.
    """
    pipe = subprocess.PIPE if quiet else None
    variables = {**(os.environ if environment is None else environment), CHILD_MARK: str(directory)}
    with subprocess.Popen(
        command,
        cwd=directory,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=output if pipe is None else pipe,
        stderr=pipe,
        text=True,
    ) as process:
        deadline = time.monotonic() + seconds
        try:
            while True:
                try:
                    out, err = process.communicate(timeout=0.2 if meanwhile else seconds)
                    return Finished(process.returncode, out or "", err or "")
                except subprocess.TimeoutExpired:
                    if time.monotonic() >= deadline:
                        raise TimedOut(f"'{Path(command[0]).name}' took more than {seconds:g} s") from None
                if meanwhile:
                    meanwhile()
        except BaseException:
            _end(process)
            raise


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(KILL_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def docker(directory: Path, *arguments: str, quiet: bool = False) -> Finished:
    """Run the docker command; see run."""
    return run(["docker", *arguments], directory, quiet=quiet)

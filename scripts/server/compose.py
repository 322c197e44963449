"""Docker Compose, with the compose file of one release and the server's .env."""

import copy
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from server import commands, engine
from server.errors import Interrupted, Refused
from server.settings import SWARM, Settings, inherited_environment

COMPOSE_FILE, SWARM_FILE = "docker-compose.prod.yml", "docker-compose.swarm.yml"
ONE_SHOT_LABEL = "quai.one-shot"  # a label of containers that a deploy starts for itself
# The plugin is run directly: it is faster than `docker compose`, and killing it leaves no orphan.
PLUGINS = (
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
)


@dataclass(frozen=True)
class Project:
    """One release in Compose: its compose file, its tag and the id of its deploy."""

    directory: Path
    settings: Settings
    tag: str
    deploy_id: str

    @property
    def release(self) -> Path:
        """The folder of the release's files."""
        return self.directory / "releases" / self.tag

    @property
    def files(self) -> tuple[str, ...]:
        """The names of its compose files."""
        return (COMPOSE_FILE, SWARM_FILE) if self.settings.engine == SWARM else (COMPOSE_FILE,)

    def environment(self) -> Mapping[str, str]:
        """Return the environment of Compose: the caller's variables could override .env, so few are passed on."""
        return {**inherited_environment(), "IMAGE_TAG": self.tag, "DEPLOY_ID": self.deploy_id}


def run(
    project: Project,
    *arguments: str,
    file: IO[bytes] | None = None,
    seconds: float = commands.COMMAND_SECONDS,
    output: IO[bytes] | None = None,
    capture: bool = False,
    meanwhile: Callable[[], None] | None = None,
) -> commands.Result:
    """Run a Compose command for the project, or for another compose file of it; see commands.run."""
    names = ["-"] if file else [str(project.release / name) for name in project.files]
    options = ("--progress", "quiet", "--project-directory", str(project.directory))
    files = (word for name in names for word in ("--file", name))
    return commands.run(
        [*_command(), *options, *files, *arguments],
        project.directory,
        project.environment(),
        seconds=seconds,
        input=file,
        output=output,
        capture=capture,
        meanwhile=meanwhile,
    )


def _command() -> list[str]:
    for folder in (f"{os.environ.get('HOME', '')}/.docker/cli-plugins", *PLUGINS):
        plugin = f"{folder}/docker-compose"
        if os.access(plugin, os.X_OK):
            return [plugin]
    return ["docker", "compose"]


def configuration(project: Project) -> dict[str, Any]:
    """Return the resolved compose file of the release.

    Raises Refused if the file and .env do not match. Only the name of a missing variable is shown:
    another message may quote a line of .env, with a secret in it.
    """
    if absent := [name for name in project.files if not (project.release / name).is_file()]:
        raise Refused(
            f"this release has no {absent[0]}, so it cannot run with ENGINE={project.settings.engine} in .env"
        )
    result = run(project, "config", "--format", "json", capture=True)
    if result.code:
        missing = [line for line in result.error.splitlines() if "required variable" in line]
        problem = missing[0].strip() if missing else "one of them cannot be parsed"
        raise Refused(f"docker-compose.prod.yml does not match .env: {problem}")
    found: dict[str, Any] = json.loads(result.output)
    return found


def require_same_networks(project: Project, new: Mapping[str, Any], live_tag: str) -> None:
    """Raise Refused if the release changes a network of the live one.

    Compose recreates a changed network, and stops everything that is attached to it. Swarm ignores the change.
    """
    live = Project(project.directory, project.settings, live_tag, project.deploy_id)
    pairs = [(live.release / name, project.release / name) for name in project.files]
    if any(not old.exists() for old, _ in pairs) or all(old.read_bytes() == new.read_bytes() for old, new in pairs):
        return
    try:
        before = configuration(live).get("networks", {})
    except Refused as error:
        raise Refused(
            f"{error}; this is the compose file of the live release: keep this setting until the new release is live"
        ) from None
    changed = [name for name, network in new.get("networks", {}).items() if before.get(name, network) != network]
    if changed:
        stop = (
            f"docker stack rm {project.settings.project}"
            if project.settings.engine == SWARM
            else "docker compose down --remove-orphans"
        )
        raise Refused(
            f"this release changes networks ({', '.join(changed)}), which would stop all containers on them: keep "
            f"their definitions, or plan an interruption: '{stop}' in {project.directory}, then deploy"
        )


def hashes(project: Project, *names: str) -> dict[str, str]:
    """Return the configuration hash of each of these services. Raises Refused."""
    result = run(project, "config", "--hash", ",".join(names), capture=True)
    if result.code:
        raise Refused("Compose cannot read the configuration of the live release")  # its message may quote .env
    lines = [line.split() for line in result.output.splitlines()]
    return {line[0]: line[1] for line in lines if len(line) == 2}


def pull_missing(project: Project, services: Mapping[str, Any]) -> None:
    """Pull those images of the services that are not on this server. Raises Refused."""
    images = {service["image"] for service in services.values() if "image" in service}
    if any(engine.image(image) is None for image in images):
        result = run(project, "pull", "--quiet", "--policy", "missing")
        if result.code:
            raise Refused("an image of docker-compose.prod.yml (such as DB_IMAGE) cannot be pulled: see above")


def start_missing(project: Project, names: Sequence[str], existing: Sequence[engine.Container]) -> None:
    """Start those services that are not both running and healthy. Raises Refused.

    A running container is not recreated. One that is not running is recreated if its definition has changed.
    """
    ready = {container.service for container in existing if container.is_ready}
    running = {container.service for container in existing if container.state == "running"}
    missing = [name for name in names if name not in ready]
    for group, options in (
        ([name for name in missing if name in running], ["--no-recreate"]),
        ([name for name in missing if name not in running], []),
    ):
        if group and run(project, "up", "--detach", "--no-deps", *options, "--wait", *group).code:
            raise Refused(f"{' and '.join(group)} did not start: see above")


def run_one_shot(
    project: Project,
    service: str,
    output: IO[bytes] | None = None,
    meanwhile: Callable[[], None] | None = None,
) -> int:
    """Run a one-shot service of the release and return its exit code. Raises TimedOut after MIGRATE_SECONDS."""
    seconds, is_stack = project.settings.migrate_seconds, project.settings.engine == SWARM
    try:
        with private_file(for_one_shots(configuration(project))) if is_stack else nullcontext() as file:
            command = one_shot_command(project, "--rm", service)
            return run(project, *command, file=file, seconds=seconds, output=output, meanwhile=meanwhile).code
    except (Refused, Interrupted):
        end_one_shots(project.settings)
        raise


def one_shot_command(project: Project, *words: str) -> tuple[str, ...]:
    """Return the arguments of Compose that run a one-shot: options, a service and its arguments."""
    return ("run", "-T", "--no-deps", "--label", f"{ONE_SHOT_LABEL}={project.deploy_id}", *words)


def for_one_shots(configuration: Mapping[str, Any], *, is_checked: bool = True) -> dict[str, Any]:
    """Return the compose file of one-shots on Swarm: they use the networks and volumes of the stack.

    They have no host name, which the DNS of the stack would know. Without `is_checked`, they have no health checks.
    """
    found = copy.deepcopy(dict(configuration))
    volumes = {volume["Name"] for volume in engine.get("/volumes")["Volumes"] or []}
    for kind in ("networks", "volumes"):
        for key, one in found.get(kind, {}).items():
            if kind == "networks" or one["name"] in volumes:
                found[kind][key] = {"external": True, "name": one["name"]}
    for service in found["services"].values():
        service.pop("hostname", None)
        if not is_checked:
            service["healthcheck"] = {"disable": True}
    return found


@contextmanager
def private_file(content: Any) -> Iterator[IO[bytes]]:
    """Provide a file without a name, because it contains secrets, with this content as JSON."""
    with tempfile.TemporaryFile() as file:
        file.write(json.dumps(content).encode())
        file.seek(0)
        yield file


def end_one_shots(settings: Settings) -> None:
    """Remove the one-shots of deploys, without a grace period.

    A migration may hold locks, and must not commit after the deploy has ended.
    """
    engine.in_parallel(engine.remove_now, engine.one_shots(settings.project, ONE_SHOT_LABEL))

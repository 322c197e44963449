"""Docker Compose, as a release's own compose file and the server's .env define the project."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from server import engine
from server.errors import Refused
from server.settings import Settings

ONE_SHOT = "quai.one-shot"  # the label of containers that a deploy starts to check, back up and migrate
ONE_SHOTS = ("check", "backup", "migrate")
# A plugin that runs without the docker command is faster, and no process of it outlives a kill.
PLUGINS = (
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
)


@dataclass(frozen=True)
class Project:
    """One release as Compose sees it: its file, its tag and the id of its deploy."""

    directory: Path
    settings: Settings
    tag: str
    deploy: str

    @property
    def release(self) -> Path:
        """The folder of the release's files."""
        return self.directory / "releases" / self.tag

    def environment(self) -> Mapping[str, str]:
        """The environment of Compose: variables that .env sets come from .env alone, but for these two."""
        inherited = {name: value for name, value in os.environ.items() if name not in self.settings.names}
        return {**inherited, "IMAGE_TAG": self.tag, "DEPLOY_ID": self.deploy}


def run(
    project: Project,
    *arguments: str,
    seconds: float = engine.COMMAND_SECONDS,
    output: int | IO[bytes] | None = None,
    quiet: bool = False,
    meanwhile: Callable[[], None] | None = None,
) -> engine.Finished:
    """Run a Compose command for the project; see engine.run."""
    options = ("--progress", "quiet", "--project-directory", str(project.directory))
    file = ("--file", str(project.release / "docker-compose.prod.yml"))
    command = [*_command(), *options, *file, *arguments]
    environment = project.environment()
    return engine.run(
        command, project.directory, environment, seconds=seconds, output=output, quiet=quiet, meanwhile=meanwhile
    )


def _command() -> list[str]:
    for folder in (f"{os.environ.get('HOME', '')}/.docker/cli-plugins", *PLUGINS):
        plugin = f"{folder}/docker-compose"
        if os.access(plugin, os.X_OK):
            return [plugin]
    return ["docker", "compose"]


def services(project: Project) -> dict[str, Any]:
    """The services of the release by name, as Compose resolves them.

    Raises Refused when the file and .env do not fit together. Only the name of a missing variable is shown:
    another message may quote a line of .env, with a secret in it.
    """
    done = run(project, "config", "--format", "json", quiet=True)
    if done.code:
        missing = [line for line in done.error.splitlines() if "required variable" in line]
        problem = missing[0].strip() if missing else "one of them cannot be read"
        raise Refused(f"docker-compose.prod.yml and .env do not fit together: {problem}")
    found: dict[str, Any] = json.loads(done.output)["services"]
    return found


def hashes(project: Project, *names: str) -> dict[str, str]:
    """The configuration hash of each of these services; empty when Compose cannot tell."""
    done = run(project, "config", "--hash", ",".join(names), quiet=True)
    lines = [line.split() for line in done.output.splitlines()]
    return {line[0]: line[1] for line in lines if len(line) == 2}


def pull_missing(project: Project, found: Mapping[str, Any]) -> None:
    """Pull the images of the services that are not on this server. Raises Refused."""
    images = {service["image"] for service in found.values() if "image" in service}
    if any(engine.image(image) is None for image in images):
        done = run(project, "pull", "--quiet", "--policy", "missing")
        if done.code:
            raise Refused("the image of another service cannot be pulled (FRONT_IMAGE, DB_IMAGE): see above")


def start_missing(project: Project, names: Sequence[str], existing: Sequence[engine.Container]) -> None:
    """Start those of these services that do not run or are not ready; none is recreated. Raises Refused."""
    ready = {container.service for container in existing if container.is_ready}
    if missing := [name for name in names if name not in ready]:
        done = run(project, "up", "--detach", "--no-deps", "--no-recreate", "--wait", *missing)
        if done.code:
            raise Refused(f"{' and '.join(missing)} did not start: see above")


def run_one_shot(
    project: Project,
    service: str,
    seconds: float = engine.COMMAND_SECONDS,
    output: int | IO[bytes] | None = None,
    meanwhile: Callable[[], None] | None = None,
) -> int:
    """Run a one-shot service of the release and return its exit code. Raises TimedOut after `seconds`."""
    label = f"{ONE_SHOT}={project.deploy}"
    command = ("run", "--rm", "-T", "--no-deps", "--label", label, service)
    return run(project, *command, seconds=seconds, output=output, meanwhile=meanwhile).code

"""Smoke test of the image: start its release with its docker-compose.prod.yml, and verify /version."""

import contextlib
import os
import re
import secrets
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from scripts.runner.process import Failure, run, say, show
from scripts.runner.settings import parse_env
from scripts.runner.verify import fetch

SMOKE_TEST_SECONDS = 90  # how long the containers may take to become healthy
COMPOSE_FILE = "docker-compose.prod.yml"
RELEASE = {"api", "front", "proxy"}
ONE_SHOTS = {"check", "backup", "migrate"}


def server_env(template: str, name: str, commit: str, bases: Mapping[str, str]) -> str:
    """Return a server's .env for this image: .env.prod with new secrets, and free ports of the loopback interface."""
    ports = {"HTTP_PORT": "127.0.0.1:", "HTTPS_PORT": "127.0.0.1:"}
    settings = {"IMAGE": name, "IMAGE_TAG": commit, **ports, **bases}

    def setting(line: re.Match[str]) -> str:
        value = settings.get(line["name"])
        if value is None:
            value = secrets.token_hex(16) if "change-me" in line["value"] else line["value"]
        return f"{line['name']}={value}"

    text = re.sub(r"^(?P<name>\w+)=(?P<value>.*)$", setting, template, flags=re.MULTILINE)
    missing = settings.keys() - parse_env(text).keys()
    return text + "".join(f"{key}={settings[key]}\n" for key in sorted(missing))


def compose_environment(names: Mapping[str, str], environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment without the variables that would override these settings of .env."""
    return {key: value for key, value in environment.items() if key not in names and not key.startswith("COMPOSE_")}


class Project:
    """A compose project in a temporary directory with the layout of a server."""

    def __init__(self, folder: Path, compose_file: Path, environment: Mapping[str, str]) -> None:
        """Describe the project; nothing is started."""
        self.command = [
            *("docker", "compose", "--progress=quiet", "--project-name", f"quai-image-{os.getpid()}"),
            *("--project-directory", str(folder), "--file", str(compose_file)),
        ]
        self.environment = environment

    def show(self, *command: str) -> None:
        """Run docker compose and show its output."""
        show(*self.command, *command, env=self.environment)

    def run(self, *command: str) -> str:
        """Run docker compose and return its output."""
        return run(*self.command, *command, env=self.environment)


def unpack_release(image: str, folder: Path) -> None:
    """Copy /release of the image into a folder that does not exist, as the deploy program does on the server."""
    container = run("docker", "create", image)
    try:
        run("docker", "cp", "--quiet", f"{container}:/release", str(folder))
    finally:
        run("docker", "rm", "--force", container)


@contextlib.contextmanager
def server_project(name: str, commit: str, bases: Mapping[str, str]) -> Iterator[Project]:
    """Provide a project for this image; its containers and volumes are removed at the end."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        (folder / "releases").mkdir()
        release = folder / "releases" / commit
        unpack_release(f"{name}:{commit}", release)
        (folder / "releases/upstream").write_text("front")
        text = server_env(Path(".env.prod").read_text(), name, commit, bases)
        (folder / ".env").write_text(text)
        settings = parse_env(text)
        environment = compose_environment(settings)
        # docker stack deploy must be able to read the same file.
        run("docker", "stack", "config", "--compose-file", str(release / COMPOSE_FILE), env={**environment, **settings})
        project = Project(folder, release / COMPOSE_FILE, environment)
        try:
            yield project
        finally:
            project.run("down", "--volumes", "--remove-orphans", "--timeout", "5")


def start(project: Project) -> str:
    """Start all services that a deploy starts, and return the address of the proxy."""
    services = set(project.run("config", "--services").split())
    if dependencies := services - RELEASE - ONE_SHOTS:
        project.show("up", "--detach", "--quiet-pull", "--wait", *sorted(dependencies))
    if "migrate" in services:
        project.show("run", "--rm", "-T", "migrate")
    limit = ("--wait", "--wait-timeout", str(SMOKE_TEST_SECONDS))
    project.show("up", "--detach", "--quiet-pull", *limit, *sorted(RELEASE))
    return project.run("port", "proxy", "80")


def smoke_test(name: str, commit: str, bases: Mapping[str, str]) -> None:
    """Migrate, start all services but the one-shots `check` and `backup`, and verify /version.

    Raise Failure unless the containers become healthy and /version returns the commit.
    """
    say(f"smoke-testing the image with {COMPOSE_FILE}")
    with server_project(name, commit, bases) as project:
        try:
            address = start(project)
        except subprocess.CalledProcessError as error:
            with contextlib.suppress(subprocess.CalledProcessError):  # the file may be invalid
                project.show("logs", "--tail", "50")
            limit = f" (limit: {SMOKE_TEST_SECONDS} s)" if "--wait-timeout" in error.cmd else ""
            raise Failure(
                f"the smoke test failed: exit code {error.returncode}{limit} from {shlex.join(error.cmd)}\n"
                "See the output and the logs above, fix the cause, and run 'scripts/nox -s image' again"
            ) from error
        answer = fetch(f"http://{address}/version")
    if answer.get("tag") != commit:
        raise Failure(f'/version returned {answer}, expected {commit}: "tag" must be the value of the variable RELEASE')
    say(f"the image is healthy, and /version returned {commit}")

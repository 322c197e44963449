"""Smoke test of the image: run it as docker-compose.prod.yml says, and verify /version."""

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from scripts.runner.process import Failure, run, say, show
from scripts.runner.settings import read_env_file
from scripts.runner.verify import fetch

BOOT_SECONDS = 90  # how long the image may take to become healthy
COMPOSE_FILE = "docker-compose.prod.yml"
RELEASE = {"api", "front", "proxy"}
ONE_SHOTS = {"check", "backup", "migrate"}


def server_settings(template: Mapping[str, str], name: str, commit: str, bases: Mapping[str, str]) -> dict[str, str]:
    """Return a server's .env for this image: .env.prod with new secrets, on free ports of the loopback interface."""
    settings = {key: secrets.token_hex(16) if "change-me" in value else value for key, value in template.items()}
    ports = {"HTTP_PORT": "127.0.0.1:", "HTTPS_PORT": "127.0.0.1:"}
    return settings | {"IMAGE": name, "IMAGE_TAG": commit} | ports | dict(bases)


class Project:
    """A compose project in a temporary directory that looks like a server's."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        """Describe the project; nothing is started."""
        self.command = [
            *("docker", "compose", "--progress=quiet", "--project-name", f"quai-image-{os.getpid()}"),
            *("--project-directory", str(folder), "--file", COMPOSE_FILE),
        ]
        # Variables of this environment must not override .env; Compose interpolates the rest.
        self.environment = {key: value for key, value in settings.items() if "${" not in value}

    def show(self, *command: str) -> None:
        """Run docker compose and show its output."""
        show(*self.command, *command, environment=self.environment)

    def run(self, *command: str) -> str:
        """Run docker compose and return its output."""
        return run(*self.command, *command, env={**os.environ, **self.environment})


@contextmanager
def server_project(name: str, commit: str, bases: Mapping[str, str]) -> Iterator[Project]:
    """Provide a project for this image; its containers and volumes are removed at the end."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree("service/front", Path(folder, "releases", commit, "front"))
        Path(folder, "releases/upstream").write_text("front")
        settings = server_settings(read_env_file(Path(".env.prod")), name, commit, bases)
        Path(folder, ".env").write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        # docker stack deploy must be able to read the same file.
        run("docker", "stack", "config", "--compose-file", COMPOSE_FILE, env={**os.environ, **settings})
        project = Project(Path(folder), settings)
        try:
            yield project
        finally:
            project.run("down", "--volumes", "--remove-orphans", "--timeout", "5")


def boot(name: str, commit: str, bases: Mapping[str, str]) -> None:
    """Run the image with all services of the compose file. Raise Failure unless it is healthy and answers."""
    say(f"booting the image as {COMPOSE_FILE} says")
    with server_project(name, commit, bases) as project:
        try:
            services = set(project.run("config", "--services").split())
            if dependencies := services - RELEASE - ONE_SHOTS:
                project.show("up", "--detach", "--quiet-pull", "--wait", *sorted(dependencies))
            if "migrate" in services:
                project.show("run", "--rm", "-T", "migrate")
            limit = ("--wait", "--wait-timeout", str(BOOT_SECONDS))
            project.show("up", "--detach", "--quiet-pull", *limit, *sorted(RELEASE))
            address = project.run("port", "proxy", "80")
        except subprocess.CalledProcessError as error:
            project.show("logs", "--tail", "50")
            raise Failure(
                f"the image does not become healthy within {BOOT_SECONDS} s: see its log above, fix it, and run"
                " 'scripts/nox -s image' again"
            ) from error
        answer = fetch(f"http://{address}/version")
    if answer.get("tag") != commit:
        raise Failure(f'/version answers {answer}, not {commit}: it must answer the variable RELEASE as "tag"')
    say(f"the image is healthy, and /version answers {commit}")

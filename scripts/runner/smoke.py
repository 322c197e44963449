"""Smoke test of the image: start its release with its docker-compose.prod.yml, and request it."""

import contextlib
import json
import os
import re
import secrets
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scripts.runner.process import Failure, run, say, show
from scripts.runner.project import env_template
from scripts.runner.settings import COMPOSE_FILE, compose_environment, parse_env
from scripts.runner.verify import HEALTH_PATH

SMOKE_TEST_SECONDS = 90  # how long the containers may take to become healthy
ONE_SHOTS = {"check", "backup", "migrate"}
PROFILE = "smoke-test"  # services that replace external ones, such as a managed database
CHECKS = Path(__file__).parent / "smoke_checks.py"


def server_env(template: str, name: str, commit: str, bases: Mapping[str, str]) -> str:
    """Return a server's .env for this image: .env.prod with new secrets, and free ports of the loopback interface."""
    ports = {"HTTP_PORT": "127.0.0.1:", "HTTPS_PORT": "127.0.0.1:"}
    # Plain HTTP on all names: the proxy must not request a certificate for the real domain.
    settings = {"IMAGE": name, "IMAGE_TAG": commit, "LISTEN_ADDRESS": ":80", **ports, **bases}

    def setting(line: re.Match[str]) -> str:
        value = settings.get(line["name"])
        if value is None:
            value = secrets.token_hex(16) if line["value"].lstrip("'\"").startswith("change-me") else line["value"]
        return f"{line['name']}={value}"

    text = re.sub(r"^(?P<name>\w+)=(?P<value>.*)$", setting, template, flags=re.MULTILINE)
    missing = settings.keys() - parse_env(text).keys()
    return text.rstrip("\n") + "\n" + "".join(f"{key}={settings[key]}\n" for key in sorted(missing))


class Project:
    """A compose project in a temporary directory with the layout of a server."""

    def __init__(self, folder: Path, compose_file: Path, settings: Mapping[str, str]) -> None:
        """Describe the project; nothing is started."""
        self.command = [
            *("docker", "compose", "--progress=quiet", "--project-name", f"quai-image-{os.getpid()}"),
            *("--project-directory", str(folder), "--file", str(compose_file), "--profile", PROFILE),
        ]
        self.settings, self.environment = settings, compose_environment(settings)

    def show(self, *command: str) -> None:
        """Run docker compose and show its output."""
        show(*self.command, *command, env=self.environment)

    def run(self, *command: str, **options: Any) -> str:
        """Run docker compose and return its output."""
        return run(*self.command, *command, env=self.environment, **options)

    def inspect(self, *services: str) -> Any:
        """Return the inspect data of the containers of these services, or of all."""
        return json.loads(run("docker", "inspect", *self.run("ps", "--all", "--quiet", *services).split()))

    def services(self) -> dict[str, Any]:
        """Return the resolved services of the compose file."""
        found: dict[str, Any] = json.loads(self.run("config", "--format", "json"))["services"]
        return found


def unpack_release(image: str, folder: Path) -> None:
    """Copy /release of the image into a folder that does not exist, as the deploy program does on the server."""
    container = run("docker", "create", image, "unused")  # an image may have no command; it never starts
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
        text = server_env(Path(env_template()).read_text(), name, commit, bases)
        (folder / ".env").write_text(text)
        project = Project(folder, release / COMPOSE_FILE, parse_env(text))
        try:
            yield project
        finally:
            project.run("down", "--volumes", "--remove-orphans", "--timeout", "5")


def release_services(services: Mapping[str, Any]) -> set[str]:
    """Return the services of the release, such as api, front and workers."""
    return {name for name in permanent_services(services) if "quai.deploy" in (services[name].get("labels") or {})}


def permanent_services(services: Mapping[str, Any]) -> set[str]:
    """Return the services that run permanently."""
    return {name for name in services if (services[name].get("deploy") or {}).get("replicas", 1)} - ONE_SHOTS


def start(project: Project, services: Mapping[str, Any]) -> None:
    """Start the services that the release needs, migrate, and start the release and the proxy."""
    release = release_services(services)
    if dependencies := permanent_services(services) - release - {"proxy"}:
        project.show("up", "--detach", "--quiet-pull", "--wait", *sorted(dependencies))
    if "migrate" in services:
        project.show("run", "--rm", "-T", "migrate")
    limit = ("--wait", "--wait-timeout", str(SMOKE_TEST_SECONDS))
    project.show("up", "--detach", "--quiet-pull", *limit, *sorted(release | {"proxy"}))


def find_problem(project: Project, services: Mapping[str, Any], commit: str) -> str:
    """Send requests through the proxy. Return why the release does not pass; empty if it does."""
    path = (services["api"].get("labels") or {}).get(HEALTH_PATH, "")
    if not path:
        say("no health path: any status below 500 on / counts as healthy, which only proves that the process answers")
    site, port = (project.settings.get(name, "") for name in ("SITE_ADDRESS", "API_PORT"))
    command = [*project.command, "run", "--rm", "-T", "--no-deps", "--entrypoint", "python3", "api", "-I", "-"]
    done = subprocess.run(
        [*command, path, site, commit, port],
        env=project.environment,
        input=CHECKS.read_text(),
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout.strip()
    if done.returncode:
        return output or done.stderr.strip()
    for found in project.inspect(*sorted(release_services(services))):
        is_out_of_memory = found["State"]["OOMKilled"]
        if found["RestartCount"] or is_out_of_memory:
            cause = "ran out of memory" if is_out_of_memory else "restarted"
            return f"{found['Name'].removeprefix('/')} {cause} ({output})"
    say(output)
    return ""


def describe_unhealthy(project: Project) -> dict[str, str]:
    """Return a line for each service with a container that is not healthy: its state, and its last health check."""
    lines = {}
    for found in project.inspect():
        state, health = found["State"], found["State"].get("Health") or {}
        status = health.get("Status", "healthy") if state["Running"] else f"not running, exit code {state['ExitCode']}"
        if status != "healthy":
            outputs = [check["Output"].strip() for check in health.get("Log") or []]
            cause = "it ran out of memory" if state.get("OOMKilled") else " ".join(outputs[-1:])
            service = found["Config"]["Labels"]["com.docker.compose.service"]
            lines[service] = f"{found['Name'].removeprefix('/')} is {status}: {cause or 'see its log above'}\n"
    return lines


def describe_writes(logs: str) -> str:
    """Return a line about the files that an application could not write, as its logs say; empty if there are none."""
    paths = sorted(set(re.findall(r"(?:Read-only file system|Permission denied): '([^']+)'", logs)))
    if not paths:
        return ""
    return (
        f"The application writes to {', '.join(paths)}, but the files of a release cannot change. Unless the folder"
        " contains code, add it to tmpfs of x-release in the compose file, such as /app/logs:uid=10001 (each release"
        " empties it), or mount a volume\n"
    )


def smoke_test(name: str, commit: str, bases: Mapping[str, str]) -> None:
    """Migrate, start all services but the one-shots `check` and `backup`, and send requests in parallel.

    Raise Failure unless the containers become healthy, and the health path returns this release under that load.
    """
    say(f"smoke-testing the image with {COMPOSE_FILE}")
    with server_project(name, commit, bases) as project:
        try:
            services = project.services()
            start(project, services)
        except subprocess.CalledProcessError as error:
            causes = ""
            with contextlib.suppress(subprocess.CalledProcessError):  # the file may be invalid
                unhealthy = describe_unhealthy(project)
                if unhealthy:
                    project.show("logs", "--tail", "50", *unhealthy)
                    causes = "".join(unhealthy.values()) + describe_writes(project.run("logs", *unhealthy))
            limit = f" (limit: {SMOKE_TEST_SECONDS} s)" if "--wait-timeout" in error.cmd else ""
            raise Failure(
                f"the smoke test failed: exit code {error.returncode}{limit} from {shlex.join(error.cmd)}\n"
                f"{causes}See the output and the logs above, fix the cause, and run 'scripts/nox -s image' again"
            ) from error
        if problem := find_problem(project, services, commit):
            project.show("logs", "--tail", "50", *sorted(release_services(services)))
            raise Failure(
                f"the smoke test failed: {problem}\n"
                "See the logs above, fix the cause, and run 'scripts/nox -s image' again"
            )
    say("the image is healthy")

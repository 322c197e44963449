# /// script
# dependencies = ["nox[uv]"]
# ///
"""What a developer can run, and what the workflows run."""

import json
import os
import re
import secrets
import shutil
import subprocess
import tempfile
import time
import urllib.request
from functools import partial
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_external_run = True
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "tests", "dockerlint"]

PROOF_SECONDS = 30  # how long the public address may take to answer with a new release
BOOT_SECONDS = 90  # how long an image may take to become healthy


def install(session: nox.Session, *groups: str, service: bool = False) -> None:
    """Install dependency groups of pyproject.toml, and what the service itself runs on."""
    if service:
        session.install("--require-hashes", "--requirement", "requirements.txt")
    if groups:
        session.install(*nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), *groups))


def files(*patterns: str) -> list[str]:
    """The files of the repository that match."""
    return sorted({str(path) for pattern in patterns for path in Path().glob(pattern)})


def needed(session: nox.Session, *names: str) -> dict[str, str]:
    """Variables of the environment; a missing one ends the session."""
    for name in names:
        if not os.environ.get(name):
            session.error(f"{name} is missing or empty: see 'Secrets and variables' in README.md")
    return {name: os.environ[name] for name in names}


def git(*command: str) -> str:
    """What git prints."""
    return subprocess.run(["git", *command], check=True, capture_output=True, text=True).stdout.strip()


def image_name() -> str:
    """The image's name without tag: IMAGE, or `quai` for a build that goes nowhere."""
    return os.environ.get("IMAGE", "").lower() or "quai"


@nox.session
def lint(session: nox.Session) -> None:
    """Check the Python, shell, workflow and compose files."""
    install(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("shellcheck", "scripts/nox", ".ci/run", *files("scripts/*.sh", "tests/**/*.sh"))
    session.run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *files(".github/workflows/*"))
    session.run("check-jsonschema", "--builtin-schema", "vendor.dependabot", ".github/dependabot.yml")
    session.run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", *files("docker-compose.*.yml"))
    session.run("zizmor", "--offline", "--quiet", "--persona", "pedantic", ".github")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the fast tests, which need no Docker."""
    install(session, "tests", service=True)
    session.run("pytest", *session.posargs)


@nox.session(default=False)
def postgres(session: nox.Session) -> None:
    """Run the service's tests against PostgreSQL, in a container, and whatever else its OpenAPI allows."""
    install(session, "tests", "properties", service=True)
    session.run("scripts/engine.sh", external=True, log=False)
    image = base_images(session, "DB_IMAGE", stand_ins=True).get("DB_IMAGE")
    if not image:
        session.skip("docker-compose.prod.yml has no database")
    name = f"quai-postgres-{os.getpid()}"
    password = secrets.token_hex(16)
    settings = {"POSTGRES_USER": "quai", "POSTGRES_DB": "quai", "POSTGRES_PASSWORD": password}
    variables = [f"--env={key}={value}" for key, value in settings.items()]
    docker = partial(session.run, "docker", external=True, silent=True, log=False)
    docker("run", "--detach", "--name", name, "--user=postgres", "--publish=127.0.0.1::5432", *variables, image)
    try:
        until_ready = "until pg_isready -q -h 127.0.0.1 -U quai -d quai; do sleep 0.2; done"
        docker("exec", name, "timeout", str(BOOT_SECONDS), "sh", "-c", until_ready)
        address = docker("port", name, "5432").split()[0]
        url = f"postgresql+psycopg://quai:{password}@{address}/quai"
        session.run("pytest", "tests/service", *session.posargs, env={"TEST_DB_CONN": url})
    finally:
        docker("rm", "--force", "--volumes", name)


@nox.session(default=False)
def page(session: nox.Session) -> None:
    """Use the page in Chromium as people do, and leave pictures of it in .nox/page-pictures."""
    if not Path("tests/page").exists():
        session.skip("tests/page went with its page")
    install(session, "tests", "dev", "page", service=True)
    session.run("pytest", "tests/page", *session.posargs)


@nox.session
def dockerlint(session: nox.Session) -> None:
    """Check the Dockerfiles."""
    install(session, "dockerlint")
    session.run("hadolint", *files("*Dockerfile", "tests/**/*Dockerfile"))


@nox.session(default=False, venv_backend="none")
def image(session: nox.Session) -> None:
    """Build the image of this commit, boot it and check it; `-- --push` pushes it, `-- --latest` moves latest to it."""
    unknown = set(session.posargs) - {"--push", "--latest", "--twice"}
    if unknown:
        session.error(f"unknown option {unknown.pop()}: 'nox -s image' takes --push, --latest and --twice")
    name, commit = image_name(), git("rev-parse", "HEAD")
    session.run("scripts/engine.sh", external=True, log=False)
    if "--latest" in session.posargs:
        docker_login(session, name)
        session.run("docker", "push", "--quiet", f"{name}:latest", external=True)
        return
    push = "--push" in session.posargs
    if push and git("status", "--porcelain"):
        session.error("the work tree differs from its commit, whose name the image would carry: commit first")
    bases = base_images(session, "PYTHON_IMAGE", "FRONT_IMAGE", "DB_IMAGE", stand_ins=not push)
    build(session, f"{name}:{commit}", commit, bases["PYTHON_IMAGE"])
    if "--twice" in session.posargs:
        ids = {build(session, f"{name}:{commit}", commit, bases["PYTHON_IMAGE"], "--no-cache") for _ in range(2)}
        if len(ids) > 1:
            session.error(f"the same commit gave two different images: {' and '.join(ids)}")
        session.log(f"built twice without cache, both times {ids.pop()}")
    session.run("docker", "tag", f"{name}:{commit}", f"{name}:latest", external=True)
    boot(session, name, commit, bases)
    if push:
        docker_login(session, name)
        session.run("docker", "push", "--quiet", f"{name}:{commit}", external=True)


def base_images(session: nox.Session, *names: str, stand_ins: bool) -> dict[str, str]:
    """Which image each variable names; where no registry answers, stand-ins unless the result is to be pushed."""
    command = ("python", "-m", "tests.rehearsal.images", *([] if stand_ins else ["--no-stand-ins"]), *names)
    printed = session.run(*command, external=True, log=False, silent=True, stderr=None)
    return dict(line.split("=", 1) for line in printed.splitlines())


def build(session: nox.Session, target: str, commit: str, python_image: str, *options: str) -> str:
    """Build `target` so that the same commit gives the same image, and give the image's id."""
    epoch = git("log", "-1", "--format=%ct")
    server, repository = os.environ.get("GITHUB_SERVER_URL", ""), os.environ.get("GITHUB_REPOSITORY", "")
    arguments = {
        "PYTHON_IMAGE": python_image,
        "SOURCE_DATE_EPOCH": epoch,
        "REVISION": commit,
        "SOURCE": f"{server}/{repository}" if repository else "",
        "CREATED": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(epoch))),
    }
    # A proxy that re-signs HTTPS is made known to pip by one of these.
    bundle = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    session.run(
        *("docker", "buildx", "build", "--load", "--provenance=false", "--tag", target),
        *(f"--build-arg={key}={value}" for key, value in arguments.items()),
        *([f"--secret=id=ca,src={bundle}"] if bundle else []),
        *options,
        ".",
        external=True,
    )
    return session.run("docker", "inspect", "--format={{.Id}}", target, external=True, silent=True, log=False).strip()


def boot(session: nox.Session, name: str, commit: str, bases: dict[str, str]) -> None:
    """Run the image as docker-compose.prod.yml says, with all that is beside it; ask it who it is."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree("service/front", Path(folder, "releases", commit, "front"))
        Path(folder, "releases/upstream").write_text("front")
        project = f"quai-image-{os.getpid()}"
        where = ("--project-name", project, "--project-directory", folder)
        # .env.prod as a server would have it, but on a port of this machine alone; empty is any.
        lines = re.findall(r"^(\w+)=(.*)$", Path(".env.prod").read_text(), flags=re.MULTILINE)
        settings = {key: secrets.token_hex(16) if "change-me" in value else value for key, value in lines}
        settings |= {"IMAGE": name, "IMAGE_TAG": commit, "HTTP_PORT": "127.0.0.1:", "HTTPS_PORT": "127.0.0.1:", **bases}
        Path(folder, ".env").write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        # Against variables of the same names in this environment; what is made of others, compose makes.
        plain = {key: value for key, value in settings.items() if "${" not in value}

        def compose(*command: str, **options) -> str:
            return session.run(
                *("docker", "compose", "--progress=quiet", *where, "--file", "docker-compose.prod.yml", *command),
                **{"env": plain, "external": True, "log": False, **options},
            )

        # docker stack deploy must be able to read the same file.
        session.run(
            *("docker", "stack", "config", "--compose-file", "docker-compose.prod.yml"),
            env=settings,
            external=True,
            silent=True,
            log=False,
        )
        session.log("booting it as docker-compose.prod.yml says")
        try:
            services = compose("config", "--services", silent=True).split()
            if beside := set(services) - {"api", "front", "proxy", "check", "backup", "migrate"}:
                compose("up", "--detach", "--quiet-pull", "--wait", *beside)
            if "migrate" in services:
                compose("run", "--rm", "-T", "migrate")
            up = ("up", "--detach", "--quiet-pull", "--wait", "--wait-timeout", str(BOOT_SECONDS))
            compose(*up, "api", "front", "proxy")
            address = compose("port", "proxy", "80", silent=True).strip()
            answer = ask(f"http://{address}/version")
            if answer.get("tag") != commit:
                session.error(f"/version answers {answer}, not {commit}")
            session.log(f"healthy, and /version answers {commit}")
        except nox.command.CommandFailed:
            compose("logs", "--tail", "50")
            session.error("the image does not become healthy: its log is above")
        finally:
            compose("down", "--volumes", "--remove-orphans", "--timeout", "5", silent=True)


def docker_login(session: nox.Session, name: str) -> None:
    """Log in to the image's registry, where REGISTRY_USER names somebody."""
    if os.environ.get("REGISTRY_USER"):
        given = needed(session, "REGISTRY_USER", "REGISTRY_PASSWORD")
        host = name.split("/")[0] if re.match(r"(localhost|[^/]*[.:][^/]*)/", name) else ""
        login = ["docker", "login", "--username", given["REGISTRY_USER"], "--password-stdin", *filter(None, [host])]
        if subprocess.run(login, input=given["REGISTRY_PASSWORD"], text=True, check=False).returncode:
            session.error(f"the registry {host or 'Docker Hub'} refuses REGISTRY_USER and REGISTRY_PASSWORD")


def ask(url: str) -> dict:
    """The JSON that a URL answers with; a reason under "error" when it does not."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return json.load(response)
    except (OSError, ValueError) as error:
        return {"error": str(error)}


@nox.session(default=False, venv_backend="none")
def deploy(session: nox.Session) -> None:
    """Ask the server to make this commit live, then prove it at the public address."""
    given = needed(session, "DEPLOY_HOST", "DEPLOY_USER", "DEPLOY_KEY", "DEPLOY_KNOWN_HOSTS", "PUBLIC_URL")
    commit, url = git("rev-parse", "HEAD"), given["PUBLIC_URL"].rstrip("/") + "/version"
    with tempfile.TemporaryDirectory() as folder:
        key, known_hosts = Path(folder, "key"), Path(folder, "known_hosts")
        key.touch(mode=0o600)
        key.write_text(given["DEPLOY_KEY"].strip() + "\n")
        known_hosts.write_text(given["DEPLOY_KNOWN_HOSTS"].strip() + "\n")
        options = ("BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=yes", "ServerAliveInterval=15")
        ssh = [
            *("ssh", "-T", "-F", "none", "-i", str(key), "-o", f"UserKnownHostsFile={known_hosts}"),
            *(word for option in options for word in ("-o", option)),
            *("-p", os.environ.get("DEPLOY_PORT") or "22", f"{given['DEPLOY_USER']}@{given['DEPLOY_HOST']}"),
        ]
        said = []
        with subprocess.Popen([*ssh, f"deploy {commit}"], stdout=subprocess.PIPE, text=True) as asked:
            for line in asked.stdout:
                print(line, end="", flush=True)
                said += [line.removeprefix("==> ").strip()] if line.startswith("==> ") else []
    # The last line and the exit code, so that a log cut short is not taken for a success.
    if asked.returncode or said[-1:] != [f"live: {commit}"]:
        reason = "\n\n".join(said[-2:]) or f"ssh ended with {asked.returncode} before the server said anything"
        summarize(f"### Not deployed: `{commit}`\n\n{reason}")
        session.error(
            f"{commit} was not deployed (exit code {asked.returncode}): see above, and 'Troubleshooting' in README.md"
        )
    deadline = time.monotonic() + PROOF_SECONDS
    while (answer := ask(url)).get("tag") != commit:
        if time.monotonic() > deadline:
            summarize(f"### Not proven: `{commit}`\n\nThe server says it is live, but {url} answers `{answer}`.")
            session.error(f"{url} answers {answer}, not {commit}: see 'Troubleshooting' in README.md")
        time.sleep(0.5)
    session.log(f"{url} answers {commit}")
    summarize(
        f"### Live: `{commit}`\n\n{url} answers with it, started at {answer.get('started_at', 'a time unknown')}."
    )


def summarize(text: str) -> None:
    """Add to the job's summary, where there is one."""
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(path).open("a") as summary:
            summary.write(text + "\n")


@nox.session(default=False)
def dev(session: nox.Session) -> None:
    """Serve the API and the page on this machine with live reload, as .env.dev says; no Docker."""
    install(session, "dev", service=True)
    read = (
        "import dotenv, os; print((dotenv.dotenv_values('.env.dev') | dotenv.dotenv_values() | os.environ)['API_PORT'])"
    )
    port = session.run("python", "-c", read, silent=True, log=False).strip()
    environment = {"APP_ENV": "dev", "API_PORT": port}
    if Path("service/migrate.py").exists():
        session.run("python", "-m", "service.migrate", env=environment)
    front = ["caddy", "run", "--watch", "--adapter", "caddyfile", "--config", "service/front/Caddyfile"]
    session.log(f"the page: http://localhost:8080; the API: http://localhost:{port}/docs; Ctrl-C ends both")
    path = os.pathsep.join([session.bin, os.environ["PATH"]])
    only_here = {"PAGE": "service/front/page", "API_HOST": "127.0.0.1", "BIND": "127.0.0.1"}
    with subprocess.Popen(front, env={**os.environ, **environment, **only_here, "PATH": path}) as caddy:
        try:
            session.run("python", "-m", "service", "--reload", "--host", "127.0.0.1", env=environment)
        finally:
            caddy.terminate()


def throwaway_server(session: nox.Session, module: str) -> None:
    """Run a module that makes a server of its own; its --help needs no engine."""
    install(session, "rehearse")
    if not {"--help", "-h"} & set(session.posargs):
        session.run("scripts/engine.sh", external=True, log=False)
    session.run("python", "-m", module, *session.posargs)


@nox.session(default=False)
def rehearse(session: nox.Session) -> None:
    """Rehearse production: merges go live on a throwaway server, with traffic on; `-- --help` tells more."""
    throwaway_server(session, "tests.rehearsal")


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Compare ways of replacing the container on a throwaway server, with traffic on; `-- --help` tells more."""
    throwaway_server(session, "tests.rehearsal.bench")


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Pin the service's dependencies again, with hashes, into requirements.txt."""
    install(session, "lock")
    session.run(
        *("uv", "pip", "compile", "--quiet", "--universal", "--python-version=3.11", "--generate-hashes"),
        *("--custom-compile-command=nox -s lock", "--group=service", "--output-file=requirements.txt"),
        *session.posargs,
    )


if __name__ == "__main__":
    nox.main()

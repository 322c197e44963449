"""The commands of this project: developers and workflows run the same ones."""

import sys
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_external_run = True
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "tests", "dockerlint"]

# How long a command may take to clean up after Ctrl-C.
CLEANUP_SECONDS = 60


def install(session: nox.Session, *groups: str, service: bool = False) -> None:
    """Install dependency groups of pyproject.toml, and the service's pinned dependencies."""
    if service:
        session.install("--require-hashes", "--requirement", "requirements.txt")
    if groups:
        session.install(*nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), *groups))


def files(*patterns: str) -> list[str]:
    """Return the files of the repository that match."""
    return sorted({str(path) for pattern in patterns for path in Path().glob(pattern)})


def run_module(session: nox.Session, module: str, *arguments: str, python: str = "python") -> None:
    """Run a module of this repository; after Ctrl-C, wait up to CLEANUP_SECONDS for it to clean up.

    `external=True` permits a Python outside the session's environment. `stderr=None` keeps stderr apart from stdout.
    """
    session.run(python, "-m", module, *arguments, external=True, stderr=None, interrupt_timeout=CLEANUP_SECONDS)


@nox.session
def lint(session: nox.Session) -> None:
    """Check the Python, shell, workflow and compose files."""
    install(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy", "scripts/server")  # checked as the top-level package `server`, as it runs on the server
    session.run("mypy", "--explicit-package-bases", "scripts/runner")
    session.run("shellcheck", "scripts/nox", ".ci/run", *files("scripts/**/*.sh", "tests/**/*.sh"))
    session.run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *files(".github/workflows/*"))
    session.run("check-jsonschema", "--builtin-schema", "vendor.dependabot", ".github/dependabot.yml")
    session.run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", *files("docker-compose.*.yml"))
    session.run("zizmor", "--offline", "--quiet", "--persona", "pedantic", ".github")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the fast tests, which need no Docker."""
    install(session, "tests", service=True)
    session.run("pytest", "--numprocesses=auto", "--dist=worksteal", *session.posargs)


@nox.session
def dockerlint(session: nox.Session) -> None:
    """Check the Dockerfiles."""
    install(session, "dockerlint")
    session.run("hadolint", *files("Dockerfile", "scripts/**/*Dockerfile", "tests/**/*Dockerfile"), *session.posargs)


@nox.session(default=False)
def postgres(session: nox.Session) -> None:
    """Run the service's tests and property-based API tests against PostgreSQL in a container."""
    install(session, "tests", "properties", service=True)
    run_module(session, "scripts.runner", "postgres", "pytest", "tests/service", *session.posargs)


@nox.session(default=False)
def page(session: nox.Session) -> None:
    """Test the page in Chromium, and save screenshots in .nox/page-pictures."""
    if not Path("tests/page").exists():
        session.skip("this repository has no tests/page")
    install(session, "tests", "dev", "page", service=True)
    session.run("pytest", "tests/page", *session.posargs)


@nox.session(default=False, venv_backend="none")
def image(session: nox.Session) -> None:
    """Build and smoke-test the image of this commit; `-- --help`: options to push it, build twice, or move `latest`."""
    run_module(session, "scripts.runner", "image", *session.posargs, python=sys.executable)


@nox.session(default=False, venv_backend="none")
def deploy(session: nox.Session) -> None:
    """Ask the server to deploy this commit, and verify it at the public URL."""
    run_module(session, "scripts.runner", "deploy", *session.posargs, python=sys.executable)


@nox.session(default=False)
def dev(session: nox.Session) -> None:
    """Serve the API and the page on this machine with live reload, without Docker."""
    install(session, "dev", service=True)
    run_module(session, "scripts.runner", "dev", *session.posargs)


@nox.session(default=False)
def rehearse(session: nox.Session) -> None:
    """Rehearse deploys on a throwaway server, under load; `-- --help` lists the options."""
    install(session, "rehearse")
    run_module(session, "tests.rehearsal", *session.posargs)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Compare deployment strategies on a throwaway server, under load; `-- --help` lists the options."""
    install(session, "rehearse")
    run_module(session, "tests.rehearsal.bench", *session.posargs)


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Pin the service's dependencies with hashes in requirements.txt."""
    install(session, "lock")
    session.run(
        *("uv", "pip", "compile", "--quiet", "--universal", "--python-version=3.11", "--generate-hashes"),
        *("--custom-compile-command=nox -s lock", "--group=service", "--output-file=requirements.txt"),
        *session.posargs,
    )

"""The commands of this project: developers and workflows run the same ones."""

import sys
from pathlib import Path

import nox

sys.path.append(str(Path(__file__).parent))  # for the import below
from scripts.runner import project

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_external_run = True
nox.options.error_on_missing_interpreters = True
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "tests", "dockerlint"]

# Dependency groups: those of the project, and the pinned tools of the pipeline.
PYPROJECT, PIPELINE = "pyproject.toml", "scripts/pyproject.toml"
PYTHON = project.python_constraint()
# How long a command may take to clean up after Ctrl-C.
CLEANUP_SECONDS = 60


def install(session: nox.Session, *groups: str, pyproject: str = PYPROJECT) -> None:
    """Install dependency groups."""
    session.install(*nox.project.dependency_groups(nox.project.load_toml(pyproject), *groups))


def install_project(session: nox.Session, *groups: str) -> None:
    """Install the project's locked dependencies, including those of its tests, and more dependency groups."""
    variables = project.install_variables(session.virtualenv.location)
    for command in project.install_commands(session.virtualenv.location):
        session.run_install(*command, env=variables, external=True, silent=True)
    if groups:
        install(session, *groups)


def files(*patterns: str) -> list[str]:
    """Return the files of the repository that match."""
    return sorted({str(path) for pattern in patterns for path in Path().glob(pattern)})


def run_with_cleanup(session: nox.Session, *command: str) -> None:
    """Run a command; after Ctrl-C, wait up to CLEANUP_SECONDS for it to clean up.

    `external=True` permits a Python outside the session's environment. `stderr=None` keeps stderr apart from stdout.
    """
    session.run(*command, external=True, stderr=None, interrupt_timeout=CLEANUP_SECONDS)


@nox.session
def lint(session: nox.Session) -> None:
    """Check the Python, shell, workflow and compose files."""
    install(session, "lint", pyproject=PIPELINE)
    install(session, "adopt")  # for the types of its libraries
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    mypy = ("mypy", f"--config-file={PIPELINE}")
    session.run(*mypy, "scripts/server")  # checked as the top-level package `server`, as it runs on the server
    others = ("--python-version=3.11", "--explicit-package-bases")
    session.run(*mypy, *others, "scripts/runner", "scripts/adopt")
    session.run("shellcheck", "scripts/nox", ".ci/run", *files("scripts/**/*.sh", "tests/**/*.sh"))
    session.run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *files(".github/workflows/*"))
    session.run("check-jsonschema", "--builtin-schema", "vendor.dependabot", ".github/dependabot.yml")
    session.run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", *files("docker-compose.*.yml"))
    session.run("zizmor", "--offline", "--quiet", "--persona", "pedantic", ".github")


@nox.session(python=PYTHON)
def tests(session: nox.Session) -> None:
    """Run the fast tests, which need no Docker."""
    install_project(session)
    session.run("pytest", "--numprocesses=auto", "--dist=worksteal", *session.posargs)


@nox.session
def dockerlint(session: nox.Session) -> None:
    """Check the Dockerfiles."""
    install(session, "dockerlint", pyproject=PIPELINE)
    session.run("hadolint", *files("Dockerfile", "scripts/**/*Dockerfile", "tests/**/*Dockerfile"), *session.posargs)


@nox.session(default=False, python=PYTHON)
def postgres(session: nox.Session) -> None:
    """Run the tests that use a database against PostgreSQL in a container, with property-based API tests."""
    install_project(session, "properties")
    url = "TEST_DB_CONN=postgresql+psycopg://{user}:{password}@{host}:{port}/{name}"
    pytest = ("pytest", "-m", "database", *session.posargs)
    run_with_cleanup(session, "python", "-m", "scripts.runner", "postgres", url, "--", *pytest)


@nox.session(default=False, python=PYTHON)
def page(session: nox.Session) -> None:
    """Test the page in Chromium, and the fronts in Caddy; save screenshots in .nox/page-pictures."""
    install_project(session, "caddy", "page")
    session.run("pytest", "tests/page", *session.posargs)


@nox.session(default=False, venv_backend="none")
def image(session: nox.Session) -> None:
    """Build and smoke-test the image of this commit; `-- --help`: options to push it, build twice, or move `latest`."""
    run_with_cleanup(session, sys.executable, "-m", "scripts.runner", "image", *session.posargs)


@nox.session(default=False, venv_backend="none")
def deploy(session: nox.Session) -> None:
    """Ask the server to deploy this commit, and verify it at the public URL."""
    run_with_cleanup(session, sys.executable, "-m", "scripts.runner", "deploy", *session.posargs)


@nox.session(default=False, python=PYTHON)
def dev(session: nox.Session) -> None:
    """Serve the API and the page on this machine with live reload, without Docker."""
    install_project(session, "caddy")
    run_with_cleanup(session, *project.dev_command(), *session.posargs)


@nox.session(default=False)
def adopt(session: nox.Session) -> None:
    """Add the pipeline to an existing repository, update it, or remove it; `-- --help` lists the options."""
    install(session, "adopt")
    run_with_cleanup(session, "python", "-m", "scripts.adopt", *session.posargs)


@nox.session(default=False)
def rehearse(session: nox.Session) -> None:
    """Rehearse deploys on a throwaway server, under load; `-- --help` lists the options."""
    install(session, "rehearse")
    run_with_cleanup(session, "python", "-m", "tests.rehearsal", *session.posargs)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Compare deployment strategies on a throwaway server, under load; `-- --help` lists the options."""
    install(session, "rehearse")
    run_with_cleanup(session, "python", "-m", "tests.rehearsal.bench", *session.posargs)


@nox.session(default=False, venv_backend="none")
def lock(session: nox.Session) -> None:
    """Pin the application's dependencies with hashes in requirements.txt."""
    session.run(
        *("uv", "pip", "compile", "--quiet", "--universal", f"--python-version={project.minimum_python()}"),
        *("--generate-hashes", "--custom-compile-command=nox -s lock", "--group=app", "--output-file=requirements.txt"),
        *session.posargs,
        external=True,
    )

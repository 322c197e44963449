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

# How long a command may take to clean up after Ctrl-C.
CLEANUP_SECONDS = 60


def run_pipeline(session: nox.Session, command: str) -> None:
    """Run a command of scripts/runner; after Ctrl-C, wait for it to clean up."""
    words = (sys.executable, "-m", "scripts.runner", command, *session.posargs)
    session.run(*words, external=True, stderr=None, interrupt_timeout=CLEANUP_SECONDS)


@nox.session
def lint(session: nox.Session) -> None:
    """Check the code with ruff, with the project's own configuration."""
    if not project.has_ruff_settings():
        session.skip("the project does not configure ruff")
    session.install(project.ruff_requirement())
    for command in project.ruff_commands():
        session.run(*command)


@nox.session(python=project.session_python())
def tests(session: nox.Session) -> None:
    """Run the project's tests."""
    command = project.test_command()
    if not command:
        session.skip("the project has no tests")
    variables = project.install_variables(session.virtualenv.location)
    for words in project.install_commands(session.virtualenv.location):
        session.run_install(*words, env=variables, external=True, silent=True)
    if project.lacks_pytest(command, session.virtualenv.location):
        session.install(*project.pins("pytest"))
    session.run(*command, *session.posargs, env=project.test_variables())


@nox.session
def dockerlint(session: nox.Session) -> None:
    """Check the Dockerfile; only errors fail."""
    session.install(*project.pins("dockerlint"))
    session.run("hadolint", "--failure-threshold=error", project.dockerfile())


@nox.session(default=False, venv_backend="none")
def image(session: nox.Session) -> None:
    """Build and smoke-test the image of this commit; options: `-- --help`."""
    run_pipeline(session, "image")


@nox.session(default=False, venv_backend="none")
def deploy(session: nox.Session) -> None:
    """Ask the server to deploy this commit, and verify it at the public URL."""
    run_pipeline(session, "deploy")

"""The registry's host, and the login."""

import subprocess

import pytest

from scripts.runner import registry
from scripts.runner.process import ROOT, Failure
from scripts.runner.settings import image_name

WORKFLOW = "of the workflow"


@pytest.mark.parametrize(
    ("image", "host"),
    [
        ("quai", ""),
        ("owner/quai", ""),
        ("localhost/quai", "localhost"),
        ("localhost:5000/quai", "localhost:5000"),
        ("registry:5000/owner/quai", "registry:5000"),
        ("ghcr.io/owner/quai", "ghcr.io"),
        ("registry.example.com/quai", "registry.example.com"),
        ("localhost.quai", ""),
    ],
)
def test_the_registry_is_the_host_before_the_first_slash(image, host):
    assert registry.registry_host(image) == host


@pytest.fixture
def logins(monkeypatch):
    """The commands that registry.py runs; `logins.exit_code` is their exit code."""

    class Logins(list):
        exit_code = 0

    logins = Logins()

    def record(command, **options):
        logins.append((command, options["input"]))
        return subprocess.CompletedProcess(command, logins.exit_code, "", "401 Unauthorized\n")

    monkeypatch.setattr(registry.subprocess, "run", record)
    monkeypatch.setenv("REGISTRY_USER", "someone")
    monkeypatch.setenv("REGISTRY_PASSWORD", "hush")
    monkeypatch.setenv("GITHUB_TOKEN", WORKFLOW)
    return logins


@pytest.mark.parametrize(("image", "host"), [("owner/quai", []), ("ghcr.io/owner/quai", ["ghcr.io"])])
def test_the_password_goes_through_stdin(logins, image, host):
    registry.log_in(image)
    command = ["docker", "login", "--username", "someone", "--password-stdin", *host]
    assert logins == [(command, "hush")]


@pytest.mark.parametrize("image", ["ghcr.io/owner/quai", "GHCR.io/owner/quai"])
def test_token_of_the_workflow_is_the_default_password_for_ghcr(logins, monkeypatch, image):
    monkeypatch.setenv("REGISTRY_PASSWORD", "")
    registry.log_in(image_name({"IMAGE": image}))
    assert logins == [(["docker", "login", "--username", "someone", "--password-stdin", "ghcr.io"], WORKFLOW)]


@pytest.mark.parametrize(
    "image", ["owner/quai", "registry.example.com/quai", "ghcr.io.example.com/quai", "ghcr.io:444/q"]
)
def test_token_of_the_workflow_is_not_sent_to_another_registry(logins, monkeypatch, image):
    monkeypatch.setenv("REGISTRY_PASSWORD", "")
    with pytest.raises(Failure, match="REGISTRY_PASSWORD is missing or empty"):
        registry.log_in(image)
    assert logins == []


def test_workflows_pass_their_token_in_github_token_only():
    """REGISTRY_PASSWORD: ${{ secrets.REGISTRY_PASSWORD || github.token }} would send it to any registry."""
    for workflow in (ROOT / ".github/workflows").glob("*.yml"):
        for line in workflow.read_text().splitlines():
            assert "github.token" not in line or line.strip().startswith("GITHUB_TOKEN: ${{ github.token }}")


def test_without_a_user_there_is_no_login(logins, monkeypatch):
    monkeypatch.setenv("REGISTRY_USER", "")
    registry.log_in("ghcr.io/owner/quai")
    assert logins == []


def test_rejected_login_reports_the_registry_and_the_variables(logins):
    logins.exit_code = 1
    with pytest.raises(Failure, match="rejected the login as someone: 401") as failure:
        registry.log_in("ghcr.io/owner/quai")
    assert {"ghcr.io", "REGISTRY_PASSWORD"} <= set(str(failure.value).replace(",", "").split())
    assert "hush" not in str(failure.value)


def test_latest_is_moved_without_a_build(monkeypatch):
    commands = []
    monkeypatch.setattr(registry, "run", lambda *command: commands.append(" ".join(command)))
    monkeypatch.setattr(registry, "log_in", lambda name: commands.append(f"log in to {name}"))
    registry.move_latest("quai", "abc")
    assert commands == [
        "log in to quai",
        "docker pull --quiet quai:abc",
        "docker tag quai:abc quai:latest",
        "docker push --quiet quai:latest",
    ]

"""The registry's host, and the login."""

import subprocess

import pytest

from scripts.runner import registry
from scripts.runner.process import Failure


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
    """The commands that registry.py runs; `logins.exit_code` is what they end with."""

    class Logins(list):
        exit_code = 0

    logins = Logins()

    def record(command, **options):
        logins.append((command, options["input"]))
        return subprocess.CompletedProcess(command, logins.exit_code, "", "401 Unauthorized\n")

    monkeypatch.setattr(registry.subprocess, "run", record)
    monkeypatch.setenv("REGISTRY_USER", "someone")
    monkeypatch.setenv("REGISTRY_PASSWORD", "hush")
    return logins


@pytest.mark.parametrize(("image", "host"), [("owner/quai", []), ("ghcr.io/owner/quai", ["ghcr.io"])])
def test_the_password_goes_through_stdin(logins, image, host):
    registry.log_in(image)
    command = ["docker", "login", "--username", "someone", "--password-stdin", *host]
    assert logins == [(command, "hush")]


def test_without_a_user_there_is_no_login(logins, monkeypatch):
    monkeypatch.setenv("REGISTRY_USER", "")
    registry.log_in("ghcr.io/owner/quai")
    assert logins == []


def test_a_refused_login_names_the_registry_and_the_variables(logins):
    logins.exit_code = 1
    with pytest.raises(Failure, match="refuses the login of someone: 401") as failure:
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

"""Which requests a person and a deploy key can make."""

import random

import pytest
from server import __main__
from server.__main__ import Command, main, parse
from server.errors import UsageError

from tests.server.conftest import NEW, OLD

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("arguments", "request_"),
    [
        ([], Command("reconcile")),
        (["deploy", COMMIT], Command("deploy", COMMIT)),
        (["status"], Command("status")),
        (["services"], Command("services")),
        (["--help"], Command("help")),
        (["-h"], Command("help")),
    ],
)
def test_a_person_may_request(arguments, request_):
    assert parse(arguments, "") == request_


@pytest.mark.parametrize("text", [f"deploy {COMMIT}", "status"])
def test_a_key_may_request(text):
    assert parse(["--ssh"], text).name == text.split()[0]


@pytest.mark.parametrize("text", ["", "services", "--help", "-h", "--ssh", f"deploy {COMMIT}\n", f"deploy {COMMIT} "])
def test_a_key_may_request_nothing_else(text):
    with pytest.raises(UsageError):
        parse(["--ssh"], text)


def test_deploy_key_can_make_no_other_request():
    """Ten thousand random strings of fragments that an attacker might try."""
    chance = random.Random(1)  # noqa: S311 - no secret
    pieces = [
        "deploy",
        "status",
        COMMIT,
        COMMIT[:-1],
        " ",
        "\n",
        ";",
        "$(id)",
        "`id`",
        "|",
        "--ssh",
        "\0",
        "é",
        "&",
        "'",
    ]
    for _ in range(10_000):
        text = "".join(chance.choices(pieces, k=chance.randint(1, 6)))
        if text not in ("status", f"deploy {COMMIT}"):
            with pytest.raises(UsageError):
                parse(["--ssh"], text)


def test_usage_error_is_one_line_and_status_2(tmp_path, capsys):
    assert main([str(tmp_path), "destroy"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "deploy.sh: unknown command 'destroy': see deploy.sh --help\n"
    assert captured.out == ""


@pytest.fixture
def deployed(directory, monkeypatch):
    """What a command line deploys; the current directory is restored."""
    got = []
    monkeypatch.chdir(directory)
    monkeypatch.setattr(__main__, "follow", lambda _, action: action())
    monkeypatch.setattr(
        __main__.deploy, "run", lambda _, tag, actor, refuse_older: got.append((tag, refuse_older)) or 0
    )
    return got


def test_a_tag_that_a_person_wrote_is_deployed_even_if_it_is_older(directory, deployed):
    text = (directory / ".env").read_text()
    (directory / ".env").write_text(text.replace(f"IMAGE_TAG={OLD}", f"IMAGE_TAG={NEW}"))
    assert main([str(directory)]) == 0
    assert deployed == [(NEW, False)]


def test_the_tag_of_the_live_release_is_read_again_under_the_lock(directory, deployed):
    """Another deploy may be running: a changed setting must not bring back the previous release."""
    assert main([str(directory)]) == 0
    assert deployed == [("", False)]


def test_the_tag_of_an_unrecorded_release_is_read_again_under_the_lock(directory, deployed):
    """At boot, after a power failure before the line was written: a deploy may be running."""
    (directory / "deploys.log").unlink()
    assert main([str(directory)]) == 0
    assert deployed == [("", False)]


def test_a_commit_is_deployed_unless_it_is_older(directory, deployed, monkeypatch):
    monkeypatch.setenv("SSH_ORIGINAL_COMMAND", f"deploy {COMMIT}")
    assert main([str(directory), "--ssh"]) == 0
    assert deployed == [(COMMIT, True)]

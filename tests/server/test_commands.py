"""What a person and what a key may request."""

import random

import pytest
from server.__main__ import Request, main, parse
from server.errors import UsageError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("arguments", "request_"),
    [
        ([], Request("reconcile")),
        (["deploy", COMMIT], Request("deploy", COMMIT)),
        (["status"], Request("status")),
        (["services"], Request("services")),
        (["--help"], Request("help")),
        (["-h"], Request("help")),
    ],
)
def test_a_person_may_request(arguments, request_):
    assert parse(arguments, "") == request_


@pytest.mark.parametrize("text", [f"deploy {COMMIT}", "status"])
def test_a_key_may_request(text):
    assert parse(["--ssh"], text).command == text.split()[0]


@pytest.mark.parametrize("text", ["", "services", "--help", "-h", "--ssh", f"deploy {COMMIT}\n", f"deploy {COMMIT} "])
def test_a_key_may_request_nothing_else(text):
    with pytest.raises(UsageError):
        parse(["--ssh"], text)


def test_no_other_text_is_a_request_of_a_key():
    """Ten thousand texts, made of what an attacker would try."""
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


def test_an_error_of_usage_is_one_line_and_status_2(tmp_path, capsys):
    assert main([str(tmp_path), "destroy"]) == 2
    captured = capsys.readouterr()
    assert (
        captured.err
        == "deploy.sh: 'destroy' is not 'status' or 'deploy <commit, 40 hex digits>'; see deploy.sh --help\n"
    )
    assert captured.out == ""

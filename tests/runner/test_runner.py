"""Environment variables, .env files, pinned images, and the command line."""

import subprocess
import sys

import pytest

from scripts.runner import base_images, deploy, postgres, settings
from scripts.runner.__main__ import parse
from scripts.runner.process import ROOT, Failure


def test_required_variables_are_returned():
    assert settings.required("A", "B", environment={"A": "1", "B": "2", "C": "3"}) == {"A": "1", "B": "2"}


def test_all_missing_variables_are_reported_with_their_page():
    with pytest.raises(Failure, match="A, C are missing or empty: set them as described in") as failure:
        settings.required("A", "B", "C", environment={"A": "", "B": "2"})
    section = settings.VARIABLES_PAGE.split("'")[1]
    assert section in str(failure.value)
    assert f"# {section}\n" in (ROOT / "docs/server.md").read_text()


@pytest.mark.parametrize(
    ("environment", "name"),
    [({}, "quai"), ({"IMAGE": ""}, "quai"), ({"IMAGE": "ghcr.io/Owner/Quai"}, "ghcr.io/owner/quai")],
)
def test_the_name_of_the_image_is_in_lower_case(environment, name):
    assert settings.image_name(environment) == name


def test_summary_is_written_on_github_only(tmp_path):
    deploy.summarize("nowhere", {})
    for text in ("one", "two"):
        deploy.summarize(text, {"GITHUB_STEP_SUMMARY": str(tmp_path / "summary")})
    assert (tmp_path / "summary").read_text() == "one\ntwo\n"


@pytest.mark.parametrize(
    ("line", "image"),
    [
        ("ARG DB_IMAGE=postgres:17.1@sha256:0a", "postgres:17.1@sha256:0a"),
        ("ARG DB_IMAGE=db\nFROM postgres:17.1@sha256:0a AS db\nFROM ${DB_IMAGE} AS two", "postgres:17.1@sha256:0a"),
        ("image: ${DB_IMAGE:-localhost:5000/db:17-alpine}", "localhost:5000/db:17-alpine"),
        ("image: ${OTHER_DB_IMAGE:-postgres:17}", None),
        ("image: postgres:17", None),
    ],
)
def test_the_pinned_image_is_found(tmp_path, line, image):
    (tmp_path / "file").write_text(f"# a comment\n{line}\n")
    assert base_images.pinned(tmp_path / "file", "DB_IMAGE") == image


@pytest.mark.parametrize("name", base_images.PINS)
def test_every_base_image_is_pinned_by_digest(name):
    file, stage = base_images.PINS[name]
    pinned = base_images.pinned(ROOT / file, name)
    assert pinned is None or "@sha256:" in pinned  # the sample does not use Redis
    assert f" AS {stage}\n" in (base_images.STAND_INS / "Dockerfile").read_text()


@pytest.fixture
def engine(monkeypatch):
    """An engine that has the images that the test names, and builds stand-ins."""
    available = set()
    for name in base_images.PINS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(base_images, "ensure_engine", lambda: None)
    monkeypatch.setattr(base_images, "_try_pull", lambda image: "" if image in available else "no route")
    monkeypatch.setattr(base_images, "_build_debian", lambda name: None)
    monkeypatch.setattr(base_images, "_build_stand_in", lambda stage, debian: f"stand-in {stage}")
    return available


def test_the_environment_takes_precedence_and_stand_ins_are_the_last_resort(engine, monkeypatch):
    monkeypatch.setenv("DB_IMAGE", "mirror/postgres:17")
    pinned = base_images.pinned(ROOT / "Dockerfile", "PYTHON_IMAGE")
    engine |= {"mirror/postgres:17", pinned}
    assert base_images.base_images() == {
        "PYTHON_IMAGE": pinned,
        "FRONT_IMAGE": "stand-in caddy",
        "DB_IMAGE": "mirror/postgres:17",
    }


def test_the_reason_for_stand_ins_is_shown(engine, capsys):
    base_images.base_images()
    image = base_images.pinned(ROOT / "Dockerfile", "PYTHON_IMAGE")
    assert f"cannot pull {image}: no route\n" in capsys.readouterr().out


def test_pushed_image_is_never_built_on_a_stand_in(engine):
    with pytest.raises(Failure, match=r"cannot be pulled, .* is not pushed.* set PYTHON_IMAGE to"):
        base_images.base_images(stand_ins=False)


def test_postgres_is_skipped_without_a_database(monkeypatch, capsys):
    monkeypatch.setattr(postgres, "base_images", lambda pins: {})
    assert postgres.run_with_postgres([sys.executable, "-c", "raise SystemExit(1)"], {}) == 0
    assert "skipped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=9000", "9000"),
        ("A=", ""),
        ("A = 9000", "9000"),
        ("  export A=9000", "9000"),
        ("A=9000 # mine", "9000"),
        ("A=9000#1", "9000#1"),
        ("A=a b  ", "a b"),
        ("A='9000' # mine", "9000"),
        ('A="a # b" # mine', "a # b"),
        (r'A="a \"b\""', 'a "b"'),
        (r"A='it\'s'", "it's"),
        ("A=${B}", "${B}"),
        ("A=1\nA=2", "2"),
        ("A=9000\r", "9000"),
    ],
)
def test_env_file_is_parsed_as_the_service_parses_it(tmp_path, line, value):
    (tmp_path / ".env").write_bytes(f"# A=comment\n{line}\nB=next\n".encode())
    assert settings.read_env_file(tmp_path / ".env") == {"A": value, "B": "next"}
    dotenv = pytest.importorskip("dotenv")
    assert dotenv.dotenv_values(tmp_path / ".env", interpolate=False) == {"A": value, "B": "next"}


def call(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "scripts.runner", *arguments],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_help_lists_the_commands():
    done = call("--help")
    assert done.returncode == 0
    assert {"image", "deploy", "postgres"} <= set(done.stdout.split())


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["no-such-command"],
        ["image", "--no-such-option"],
        ["image", "--push", "--latest"],
        ["image", "--latest", "--twice"],
        ["image", "--push", "--twice"],
        ["deploy", "now"],
        ["postgres"],
        ["postgres", "pytest"],
        ["postgres", "A", "--", "pytest"],
    ],
)
def test_invalid_usage_is_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        parse(arguments)
    assert end.value.code == 2
    assert "usage: python -m scripts.runner" in capsys.readouterr().err


def test_a_failure_is_exit_code_1_and_one_line():
    done = call("deploy")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("runner: DEPLOY_HOST, ")
    assert len(done.stderr.splitlines()) == 1

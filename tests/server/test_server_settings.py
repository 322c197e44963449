"""The server's .env: as Compose reads it, validated, and replaced atomically."""

import stat

import pytest
from server.errors import UsageError
from server.settings import parse, read, write_release

from tests.server.conftest import NEW, OLD


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=one", "one"),
        ("A = one two ", "one two"),
        ("A=one # a comment", "one"),
        ("A=one#two", "one#two"),
        ("A=# only a comment", ""),
        ("A=", ""),
        ("export A=one", "one"),
        ('A="one # two"', "one # two"),
        ('A="one" # a comment', "one"),
        (r'A="one\n\"two\" \\"', 'one\n"two" \\'),
        ("A='one ${B} # two'", "one ${B} # two"),
        ("A=${B}-$B", "bee-bee"),
        ('A="${B}"', "bee"),
        ("A=${MISSING}", ""),
        ("A=${MISSING:-x}${EMPTY:-y}${EMPTY-z}", "xy"),
        ("A=${B:+x}${EMPTY:+y}", "x"),
        ("A=a$$b", "a$b"),
        ("A=${OUTSIDE}", "from the environment"),
        ("A=first\nA=last", "last"),
    ],
)
def test_a_value_is_read_as_compose_reads_it(line, value):
    assert parse(f"B=bee\nEMPTY=\n{line}\n", {"OUTSIDE": "from the environment"})["A"] == value


def test_comments_and_other_lines_are_not_settings():
    assert parse("# A=one\n\nnot a setting\n  # B=two\nC=three") == {"C": "three"}


def test_a_reference_in_the_notification_token_is_resolved(directory):
    write(directory, API_TOKEN="secret-of-the-api", NOTIFY_TOKEN="${API_TOKEN}")  # noqa: S106 - no real secret
    assert read(directory).notify_token == "secret-of-the-api"  # noqa: S105 - no real secret


def test_empty_and_missing_settings_use_defaults(directory):
    text = (directory / ".env").read_text().replace("API_REPLICAS=1\n", "").replace("WATCH_SECONDS=5", "WATCH_SECONDS=")
    (directory / ".env").write_text(text)
    settings = read(directory)
    assert (settings.site_address, settings.watch_seconds) == (":80", 5)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("IMAGE", "", "the name of an image"),
        ("COMPOSE_PROJECT_NAME", "", "a name in lower case"),
        ("COMPOSE_PROJECT_NAME", "Quai", "a name in lower case"),
        ("WATCH_SECONDS", "0", "a whole number, 1 or more"),
        ("API_REPLICAS", "many", "a whole number, 1 or more"),
        ("NOTIFY_URL", "chat.example.com", "a URL (https://...)"),
    ],
)
def test_invalid_setting_is_reported_without_its_value(directory, name, value, message):
    write(directory, **{name: value})
    with pytest.raises(UsageError) as caught:
        read(directory)
    assert f"{name} in {directory}/.env must be {message}" in str(caught.value)
    assert len(value) < 4 or value not in str(caught.value)


@pytest.mark.parametrize("name", ["IMAGE_TAG", "DEPLOY_ID"])
def test_a_missing_line_that_a_deploy_writes_is_named(directory, name):
    text = (directory / ".env").read_text()
    (directory / ".env").write_text("\n".join(line for line in text.splitlines() if not line.startswith(name)))
    with pytest.raises(UsageError, match=f"the line {name}= is missing"):
        read(directory)


def test_a_secret_is_not_shown(directory):
    write(directory, NOTIFY_TOKEN="secret-of-the-chat")  # noqa: S106 - no real secret
    assert "secret-of-the-chat" not in repr(read(directory))


def test_writing_changes_two_lines_and_nothing_else(directory):
    before = (directory / ".env").read_text()
    write_release(directory, NEW, "200")
    after = (directory / ".env").read_text()
    assert after == before.replace(f"IMAGE_TAG={OLD}", f"IMAGE_TAG={NEW}").replace("DEPLOY_ID=100", "DEPLOY_ID=200")
    assert stat.S_IMODE((directory / ".env").stat().st_mode) == 0o600
    assert not (directory / ".env.new").exists()


def test_a_failed_write_changes_nothing(directory):
    before = (directory / ".env").read_text()
    (directory / ".env.new").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_release(directory, NEW, "200")
    assert (directory / ".env").read_text() == before


def test_a_tag_that_another_deploy_wrote_is_not_overwritten(directory):
    write_release(directory, NEW, "100", only_if=("f" * 40, "100"))
    write_release(directory, NEW, "100", only_if=(OLD, "99"))
    assert read(directory).image_tag == OLD
    write_release(directory, NEW, "100", only_if=(OLD, "100"))
    assert read(directory).image_tag == NEW


def write(directory, **settings):
    """Append lines to .env: the last assignment wins."""
    with (directory / ".env").open("a") as file:
        file.write("".join(f"{name}={value}\n" for name, value in settings.items()))


def test_unfinished_file_of_a_killed_deploy_is_removed(directory):
    """It holds the secrets of .env."""
    (directory / ".env.new").write_text("API_TOKEN=secret")
    before = (directory / ".env").read_text()
    write_release(directory, OLD, "100")
    assert not (directory / ".env.new").exists()
    assert (directory / ".env").read_text() == before

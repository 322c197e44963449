"""The build command, its arguments, and what may be pushed."""

import subprocess

import pytest

from scripts.runner import build
from scripts.runner.process import ROOT, Failure

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ARGUMENTS = {"POSITION": "7", "REVISION": COMMIT}


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with two commits on main and a merged branch of two more; the current directory."""
    monkeypatch.chdir(tmp_path)
    for variable in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(variable, raising=False)
    git("init", "--quiet", "--initial-branch=main")
    git("config", "user.name", "a")
    git("config", "user.email", "a@example.com")
    git("config", "commit.gpgsign", "false")
    commit("one")
    git("switch", "--quiet", "--create", "feature")
    commit("two")
    commit("three")
    git("switch", "--quiet", "main")
    git("merge", "--quiet", "--no-ff", "--message=merge", "feature")
    return tmp_path


def git(*command):
    subprocess.run(["git", *command], check=True, capture_output=True)


def commit(message):
    git("commit", "--quiet", "--allow-empty", f"--message={message}")


def test_position_counts_first_parent_commits_only(repository):
    assert build.release_position() == "2"


def test_a_shallow_clone_has_no_position_and_cannot_be_pushed(repository, monkeypatch):
    git("clone", "--quiet", "--depth=1", f"file://{repository}", "shallow")
    monkeypatch.chdir("shallow")
    assert build.release_position() == ""
    with pytest.raises(Failure, match="fetch-depth: 0"):
        build.require_pushable(build.release_position())


def test_dirty_working_tree_cannot_be_pushed(repository):
    build.require_pushable("2")
    (repository / "new").touch()
    with pytest.raises(Failure, match="uncommitted changes"):
        build.require_pushable("2")


def test_the_digest_of_the_migrations_changes_with_their_files_only(repository):
    def commit_file(name, text):
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text(text)
        git("add", ".")
        git("commit", "--quiet", "--message", name)
        return build.migrations_digest()

    assert build.migrations_digest() == ""
    digests = [
        commit_file("app/migrations/0001.py", "one"),
        commit_file("app/code.py", "one"),
        commit_file("migrations.py", "one"),
        commit_file("app/migrations/0002.py", "two"),
        commit_file("app/migrations/0001.py", "changed"),
        commit_file("alembic/versions/a.py", "one"),
    ]
    assert digests[0] == digests[1] == digests[2]
    assert len({"", *digests}) == 5


def test_build_arguments():
    environment = {"GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "example/quai"}
    assert build.build_arguments("python:3", COMMIT, 1700000000, "7", "abc", environment) == {
        "PYTHON_IMAGE": "python:3",
        "SOURCE_DATE_EPOCH": "1700000000",
        "REVISION": COMMIT,
        "SOURCE": "https://github.com/example/quai",
        "CREATED": "2023-11-14T22:13:20Z",
        "POSITION": "7",
        "MIGRATIONS": "abc",
    }


def test_the_source_is_empty_outside_github():
    assert build.build_arguments("python:3", COMMIT, 0, "7", "abc", {})["SOURCE"] == ""


def test_the_build_command_ends_with_the_options_and_the_context():
    command = build.build_command("quai:x", ARGUMENTS, ["--load"], {})
    assert command == [
        *("docker", "buildx", "build", "--provenance=false", "--tag", "quai:x"),
        *("--build-arg=POSITION=7", f"--build-arg=REVISION={COMMIT}", "--load", "."),
    ]


@pytest.mark.parametrize(
    ("environment", "bundle"),
    [
        ({"PIP_CERT": "/pip.crt", "SSL_CERT_FILE": "/ssl.crt"}, "/pip.crt"),
        ({"SSL_CERT_FILE": "/ssl.crt"}, "/ssl.crt"),
    ],
)
def test_a_bundle_of_certificates_is_passed_as_a_secret(environment, bundle):
    assert f"--secret=id=ca,src={bundle}" in build.build_command("quai:x", ARGUMENTS, [], environment)


def test_every_build_argument_is_declared_in_the_dockerfile():
    dockerfile = (ROOT / "Dockerfile").read_text()
    declared = {
        word.partition("=")[0]
        for line in dockerfile.splitlines()
        if line.startswith("ARG ")
        for word in line.split()[1:]
    }
    assert build.build_arguments("python:3", COMMIT, 0, "7", "abc", {}).keys() == declared
    assert "quai.position=${POSITION}" in dockerfile


def test_cache_is_read_from_a_separate_tag():
    assert build.cache_from("localhost:5000/quai") == "--cache-from=type=registry,ref=localhost:5000/quai:cache"


def test_failed_cache_push_is_reported_but_not_fatal(monkeypatch, capsys):
    def fail(*command):
        assert {"--push", "--cache-to=type=inline", "quai:cache"} <= set(command)
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(build, "run", fail)
    build.push_cache("quai", ARGUMENTS)
    assert "the next build uses an older cache, or none" in capsys.readouterr().out


def test_two_builds_with_different_ids_are_a_failure(monkeypatch):
    ids = iter(["sha256:a", "sha256:b", "sha256:c", "sha256:c"])
    monkeypatch.setattr(build, "build", lambda *_: next(ids))
    with pytest.raises(Failure, match="sha256:a and sha256:b"):
        build.require_reproducible("quai:x", ARGUMENTS)
    assert build.require_reproducible("quai:x", ARGUMENTS) == "sha256:c"

"""The build commands, the files and labels of a release, and what may be pushed."""

import os
import subprocess

import pytest

from scripts.runner import build
from scripts.runner.process import ROOT, Failure

COMMIT = "0123456789abcdef0123456789abcdef01234567"


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
    (repository / "__pycache__").mkdir()
    (repository / "__pycache__/module.pyc").touch()  # not in the image
    build.require_pushable("2")
    (repository / "new").touch()
    with pytest.raises(Failure, match=r"uncommitted changes.*:\n.. new"):
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


def test_labels_of_a_release():
    environment = {"GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "example/quai"}
    assert build.release_labels(COMMIT, 1700000000, "7", "abc", environment) == {
        "org.opencontainers.image.revision": COMMIT,
        "org.opencontainers.image.source": "https://github.com/example/quai",
        "org.opencontainers.image.created": "2023-11-14T22:13:20Z",
        "quai.position": "7",
        "quai.migrations": "abc",
    }


def test_unknown_labels_are_left_out_so_that_they_hide_none_of_the_application():
    labels = build.release_labels(COMMIT, 0, "", "", {})
    assert labels.keys() == {"org.opencontainers.image.revision", "org.opencontainers.image.created"}


@pytest.fixture
def pipeline(tmp_path, monkeypatch):
    """The files that a release is made of, as a checkout with another umask and of another time has them."""
    monkeypatch.chdir(tmp_path)
    files = {"docker-compose.prod.yml", "scripts/deploy.sh", "scripts/front/Caddyfile", "scripts/server/__main__.py"}
    for name in (*files, "scripts/server/__pycache__/a.pyc", ".env"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
        (tmp_path / name).chmod(0o600)
    (tmp_path / "scripts/server").chmod(0o700)
    return tmp_path


def test_the_files_of_a_release_do_not_depend_on_the_checkout(pipeline, tmp_path):
    (tmp_path / "staged").mkdir()
    old = os.umask(0o077)
    try:
        build.stage_release(tmp_path / "staged", 1700000000)
    finally:
        os.umask(old)
    staged = sorted((tmp_path / "staged").rglob("*"))
    assert {str(path.relative_to(tmp_path / "staged")): oct(path.stat().st_mode)[-3:] for path in staged} == {
        "release": "755",
        "release/deploy.sh": "755",
        "release/docker-compose.prod.yml": "644",
        "release/front": "755",
        "release/front/Caddyfile": "644",
        "release/server": "755",
        "release/server/__main__.py": "644",
    }
    assert {path.stat().st_mtime for path in staged} == {1700000000}
    assert (tmp_path / "staged/release/front/Caddyfile").read_text() == "scripts/front/Caddyfile"


def test_this_repository_has_the_files_of_a_release(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    build.stage_release(tmp_path, 0)
    assert {path.name for path in (tmp_path / "release").iterdir()} == {
        *("docker-compose.prod.yml", "docker-compose.swarm.yml", "deploy.sh", "front", "server"),
    }


FRONT = {"FRONT_IMAGE": "caddy:2"}


@pytest.fixture
def docker(monkeypatch, pipeline):
    """Record the commands that build.py runs."""
    commands = []

    def run(*command):
        commands.append(command)
        return {"context": "rootless", "image": "sha256:a\nsha256:b"}[command[1]]

    monkeypatch.setattr(build, "run", run)
    monkeypatch.setattr(build, "show", lambda *command: commands.append(command))
    for variable in ("PIP_CERT", "SSL_CERT_FILE"):
        monkeypatch.delenv(variable, raising=False)
    return commands


def test_the_release_is_built_on_the_image_of_the_application(docker):
    bases = {"PYTHON_IMAGE": "python:3", "DB_IMAGE": "postgres:17", **FRONT}
    assert build.build("quai:x", bases, 7, {"quai.position": "1"}, cache="quai:cache") == "sha256:a sha256:b"
    _, application, release, front, inspected = docker
    begin = ("docker", "buildx", "build", "--provenance=false", "--load", "--tag")
    arguments = ("--build-arg=PYTHON_IMAGE=python:3", "--build-arg=SOURCE_DATE_EPOCH=7", "--builder=rootless")
    reuse = ("--cache-to=type=inline", "--cache-from=type=registry,ref=quai:cache")
    assert application == (*begin, "quai:x-app", *arguments, *reuse, "--file=Dockerfile", ".")
    arguments = ("--build-arg=APP_IMAGE=quai:x-app", "--build-arg=FRONT_IMAGE=caddy:2")
    arguments += ("--build-arg=SOURCE_DATE_EPOCH=7", "--builder=rootless")
    arguments += (f"--file={ROOT}/scripts/runner/release.Dockerfile",)
    label = "--label=quai.position=1"
    assert release[:-1] == (*begin, "quai:x", *arguments, "--target=release", label)
    assert front[:-1] == (*begin, "quai:x-front", *arguments, "--target=front", label)
    assert inspected[-2:] == ("quai:x", "quai:x-front")


def test_a_fresh_build_uses_no_cache(docker):
    for fresh in (False, True):
        build.build("quai:x", FRONT, 7, {}, fresh=fresh)
    assert ["--no-cache" in command for command in docker if "build" in command] == [False] * 3 + [True] * 3
    assert not any(word.startswith("--cache-from") for command in docker for word in command)


def test_a_dockerfile_with_fixed_base_images_gets_no_base_image(docker):
    build.build("quai:x", FRONT, 7, {})
    assert "PYTHON_IMAGE" not in " ".join(docker[1])


def test_the_base_image_of_the_front_is_required(docker):
    with pytest.raises(Failure, match=r"docker-compose.prod.yml has no \$\{FRONT_IMAGE:-...\}"):
        build.build("quai:x", {}, 7, {})
    assert docker == []


@pytest.mark.parametrize(("variable", "name"), [("NETRC", "logins"), ("HOME", ".netrc")])
def test_logins_of_private_package_indexes_are_passed_as_a_secret(tmp_path, variable, name):
    (tmp_path / name).write_text("machine pypi.example.com login user password secret\n")
    environment = {variable: str(tmp_path / name if variable == "NETRC" else tmp_path)}
    option = f"--secret=id=netrc,src={tmp_path / name}"
    assert option in build.build_command("quai:x", ".", {}, [], environment)
    assert "netrc" not in " ".join(build.build_command("quai:x", ".", {}, [], {"HOME": str(tmp_path / "none")}))


@pytest.mark.parametrize(
    ("environment", "bundle"),
    [
        ({"PIP_CERT": "/pip.crt", "SSL_CERT_FILE": "/ssl.crt"}, "/pip.crt"),
        ({"SSL_CERT_FILE": "/ssl.crt"}, "/ssl.crt"),
    ],
)
def test_a_bundle_of_certificates_is_passed_as_a_secret(environment, bundle):
    assert f"--secret=id=ca,src={bundle}" in build.build_command("quai:x", ".", {}, [], environment)


def test_the_cache_is_the_image_of_the_application(monkeypatch):
    commands = []
    monkeypatch.setattr(build, "run", lambda *command: commands.append(" ".join(command)))
    build.push_cache("host/quai", "host/quai:abc")
    assert commands == ["docker tag host/quai:abc-app host/quai:cache", "docker push --quiet host/quai:cache"]


def test_failed_cache_push_is_reported_but_not_fatal(monkeypatch, capsys):
    def fail(*command):
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(build, "run", fail)
    build.push_cache("quai", "quai:abc")
    assert "the next build uses an older cache, or none" in capsys.readouterr().out


def test_two_builds_with_different_ids_are_a_failure(monkeypatch):
    ids = iter(["sha256:a sha256:f", "sha256:b sha256:f", "sha256:c sha256:f", "sha256:c sha256:f"])
    fresh = []
    monkeypatch.setattr(build, "build", lambda *_, **options: fresh.append(options["fresh"]) or next(ids))
    with pytest.raises(Failure, match="sha256:a sha256:f, but sha256:b sha256:f"):
        build.build_twice("quai:x", {}, 0, {})
    assert build.build_twice("quai:x", {}, 0, {}) == "sha256:c sha256:f"
    assert fresh == [True] * 4

"""A release: its order, its files, what is kept on the server, and disk space for dumps."""

import shutil
import sys

import pytest
from server import engine, migrations, release, state
from server.compose import Project
from server.errors import Refused

from tests.server.conftest import NEW, OLD, ROOT, THIRD, append


def image(position=None, created="2026-01-02T03:04:05Z"):
    labels = {release.CREATED: created} | ({} if position is None else {release.POSITION: str(position)})
    return {"Config": {"Labels": labels}}


@pytest.mark.parametrize(
    ("ours", "theirs", "older"),
    [
        (image(9), image(10), True),
        (image(10), image(9), False),
        (image(10), image(10), False),
        # The commit before came from a laptop whose clock is ten minutes fast.
        (image(11, "2026-01-02T03:04:05Z"), image(10, "2026-01-02T03:14:05Z"), False),
        # Images of version 1 have no position.
        (image(None, "2026-01-02T03:04:05Z"), image(10, "2026-01-02T03:04:06Z"), True),
        (image(10, "2026-01-02T03:04:06Z"), image(None, "2026-01-02T03:04:05Z"), False),
        (image(10), None, False),
        ({"Config": {"Labels": None}}, image(10), False),
    ],
)
def test_positions_decide_the_order_not_clocks(ours, theirs, older):
    assert release.is_older(ours, theirs) is older


@pytest.mark.parametrize(
    ("ours", "theirs", "same"), [("a", "a", True), ("a", "b", False), ("", "", False), ("a", None, False)]
)
def test_migrations_are_the_same_only_if_both_are_known(ours, theirs, same):
    def labelled(digest):
        return None if digest is None else {"Config": {"Labels": {release.MIGRATIONS: digest}}}

    assert release.has_same_migrations(labelled(ours), labelled(theirs)) is same


@pytest.fixture
def program(tmp_path):
    """A release's copy of the deploy program."""
    shutil.copy(ROOT / "scripts/deploy.sh", tmp_path)
    shutil.copytree(ROOT / "scripts/server", tmp_path / "server", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_a_program_that_runs_is_accepted(program):
    release.require_runnable_program(program)
    assert not list(program.rglob("__pycache__"))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("deploy.sh", "if\n", "unexpected end of file"),
        ("server/deploy.py", "def\n", "invalid syntax"),
        ("server/status.py", "import no_such_module\n", "No module named 'no_such_module'"),
    ],
)
def test_a_program_that_does_not_run_is_refused_and_says_why(program, file, text, message):
    with (program / file).open("a") as broken:
        broken.write(text)
    with pytest.raises(Refused, match=f"the deploy program of this release does not run on this server: .*{message}"):
        release.require_runnable_program(program)


def test_release_of_version_1_has_no_server_folder(program):
    shutil.rmtree(program / "server")
    release.require_runnable_program(program)


def test_old_python_is_reported(program):
    text = (program / "server/__init__.py").read_text()
    (program / "server/__init__.py").write_text(text.replace("(3, 10)", "(9, 0)"))
    with pytest.raises(Refused, match=f"Python 3.10 or later is required; this is {sys.version_info[0]}"):
        release.require_runnable_program(program)


def test_prune_keeps_what_a_rollback_needs(directory, settings, monkeypatch):
    """The live release, the last releases that were live, and anything that is not a release."""
    tags = {letter: letter * 40 for letter in "abcdef"}
    for tag in (*tags.values(), NEW, THIRD):
        append(directory, tag=tag)
        (directory / "releases" / tag).mkdir()
    (directory / "releases/setup").mkdir()
    (directory / f"releases/{OLD}.new").mkdir()
    state.link_current(directory, THIRD)
    removed, names = [], [*tags.values(), *(f"{tag}-front" for tag in (*tags.values(), THIRD))]
    monkeypatch.setattr(engine, "tags", lambda repository: {*names, OLD, NEW, THIRD, "latest"})
    monkeypatch.setattr(engine, "untag", removed.append)
    release.prune(directory, settings, THIRD)
    left = {folder.name for folder in (directory / "releases").iterdir()}
    assert left == {"setup", "current", THIRD, NEW, *(tags[letter] for letter in "cdef")}
    pruned = {OLD, tags["a"], f"{tags['a']}-front", tags["b"], f"{tags['b']}-front"}
    assert removed == [f"{settings.image}:{name}" for name in sorted(pruned)]


def test_nothing_is_pruned_without_an_engine(directory, settings, monkeypatch, capsys):
    def no_engine(repository):
        raise engine.EngineError("the Docker engine is not responding")

    monkeypatch.setattr(engine, "tags", no_engine)
    release.prune(directory, settings, NEW)
    assert (directory / "releases" / OLD).is_dir()
    assert "old releases were not pruned" in capsys.readouterr().out


@pytest.mark.parametrize("lines", [(), (NEW,)])
def test_nothing_is_pruned_after_the_log_was_lost(directory, settings, monkeypatch, lines):
    """Without it, nothing tells which releases a rollback needs; the first deploy after that writes one line."""
    (directory / "deploys.log").unlink()
    for tag in lines:
        append(directory, id="200", tag=tag)
    monkeypatch.setattr(engine, "tags", lambda repository: {OLD})
    monkeypatch.setattr(engine, "untag", lambda name: pytest.fail(name))
    release.prune(directory, settings, NEW)
    assert (directory / "releases" / OLD).is_dir()


@pytest.fixture
def dumps(tmp_path):
    """Three dumps of 10 MiB, oldest first."""
    for number in (98, 99, 100):
        with (tmp_path / f"{number:010}.dump").open("wb") as dump:
            dump.truncate(10 << 20)
    return tmp_path


@pytest.mark.parametrize(
    ("free", "keep", "live", "left"),
    [
        (112, 3, {"0000000100"}, ["0000000100", "0000000099", "0000000098"]),
        (111, 3, {"0000000100"}, ["0000000100", "0000000099"]),  # the oldest is deleted early enough
        (103, 3, {"0000000100"}, ["0000000100", "0000000099"]),
        (93, 1, {"0000000100"}, ["0000000100"]),  # the last one is never deleted
        (103, 1, {"0000000098"}, ["0000000100", "0000000099"]),  # nor is the first since the live deploy
    ],
)
def test_old_dumps_are_deleted_to_make_room(dumps, free, keep, live, left):
    migrations.make_room(dumps, keep, live, 100, lambda: free)
    assert [dump.stem for dump in migrations.dumps(dumps)] == left


@pytest.mark.parametrize(
    ("free", "keep", "live"),
    [(101, 3, {"0000000100"}), (111, 4, {"0000000100"}), (91, 1, {"0000000100"}), (101, 1, {"0000000098"})],
)
def test_without_room_for_a_dump_nothing_is_deleted(dumps, free, keep, live):
    with pytest.raises(Refused, match=f"{free} MiB is free on the disk, the dump needs about 12 MiB"):
        migrations.make_room(dumps, keep, live, 100, lambda: free)
    assert len(migrations.dumps(dumps)) == 3


def test_the_first_dump_since_the_live_deploy_is_kept(dumps):
    """Retries of a migration that fails half-way must not prune the only clean dump."""
    assert [dump.stem for dump in migrations.prunable(dumps, 1, {"0000000100"})] == ["0000000099", "0000000098"]
    assert [dump.stem for dump in migrations.prunable(dumps, 1, set())] == ["0000000099"]
    assert [dump.stem for dump in migrations.prunable(dumps, 1, {"0000000098"})] == ["0000000098"]


def test_dumps_of_other_programs_are_not_pruned(dumps):
    for name in ("2026-11-25", "nightly", "20261125", "20261125031500"):
        (dumps / f"{name}.dump").touch()
    assert [dump.stem for dump in migrations.prunable(dumps, 1, {"0000000100"})] == ["0000000099", "0000000098"]


@pytest.mark.parametrize(
    ("has_image", "has_files", "refused"), [(True, True, False), (True, False, True), (False, True, True)]
)
def test_only_a_release_that_is_not_on_the_server_needs_space(
    directory, settings, monkeypatch, has_image, has_files, refused
):
    """A rollback must work on a full disk."""
    tag = OLD if has_files else NEW
    monkeypatch.setattr(engine, "image", lambda name: {"Id": "sha256:0"} if has_image else None)
    monkeypatch.setattr(engine, "get", lambda path: {"DockerRootDir": str(directory)})
    monkeypatch.setattr(release, "free_mb", lambda *folders: settings.min_free_mb - 1)
    if refused:
        with pytest.raises(Refused, match=f"only {settings.min_free_mb - 1} MiB free on the disk; MIN_FREE_MB is"):
            release.pull(directory, settings, tag)
    else:
        assert release.pull(directory, settings, tag) == {"Id": "sha256:0"}


def test_partly_removed_release_is_not_mistaken_for_one(directory, settings, monkeypatch):
    """An interrupted removal leaves a folder name that no deploy mistakes for a release."""
    monkeypatch.setattr(engine, "tags", lambda repository: set())
    monkeypatch.setattr(engine, "untag", lambda name: None)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    (directory / "releases" / THIRD).mkdir()
    append(directory, tag=NEW)
    release.prune(directory, settings, OLD)
    assert {folder.name for folder in (directory / "releases").iterdir()} == {OLD, f"{THIRD}.new"}


API = {"labels": {"quai.health-path": ""}}


@pytest.mark.parametrize(("code", "pending"), [(0, False), (1, True), (3, True)])
def test_any_other_exit_code_than_0_means_pending_migrations(directory, settings, monkeypatch, code, pending):
    """As `manage.py migrate --check` and `alembic current --check-heads` exit."""
    monkeypatch.setattr(migrations.compose, "run_one_shot", lambda *_: code)
    services = {"check": {"labels": {"quai.incompatible-exit-code": "4"}}, "api": API}
    project = Project(directory, settings, NEW, "200")
    assert migrations.check_pending(project, services) is pending


@pytest.mark.parametrize(
    ("code", "message"),
    [(4, "cannot run on the database"), (127, "did not run"), (137, "did not run"), (-9, "did not run")],
)
def test_release_is_refused_if_its_check_says_so_or_does_not_run(directory, settings, monkeypatch, code, message):
    monkeypatch.setattr(migrations.compose, "run_one_shot", lambda *_: code)
    services = {"check": {"labels": {"quai.incompatible-exit-code": "4"}}, "api": API}
    with pytest.raises(Refused, match=message):
        migrations.check_pending(Project(directory, settings, NEW, "200"), services)
    if code == 4:
        assert migrations.check_pending(Project(directory, settings, NEW, "200"), {"check": {}, "api": API})


@pytest.mark.parametrize(("code", "pending"), [(0, False), (3, True), (1, None), (4, None)])
def test_exit_codes_of_version_1_keep_their_meaning(directory, settings, monkeypatch, code, pending):
    monkeypatch.setattr(migrations.compose, "run_one_shot", lambda *_: code)
    project = Project(directory, settings, NEW, "200")
    if pending is None:
        with pytest.raises(Refused, match="cannot run on the database"):
            migrations.check_pending(project, {"check": {}, "api": {}})
    else:
        assert migrations.check_pending(project, {"check": {}, "api": {}}) is pending


def test_release_without_a_check_has_pending_migrations(directory, settings):
    assert migrations.check_pending(Project(directory, settings, NEW, "200"), {})

"""The commands `adopt --update` and `adopt --remove`."""

import subprocess

import pytest

from scripts.adopt import generate, plan
from scripts.adopt.__main__ import main
from scripts.adopt.facts import Facts
from scripts.adopt.plan import RECORD
from scripts.runner.process import Failure
from tests.adopt.conftest import FLASK, adopt, files_of, run_git, state_of


def test_removal_restores_the_tree(make_project):
    folder = make_project(FLASK)
    adopt(folder)
    (folder / "app.py").write_text(FLASK["app.py"] + "# more\n")
    (folder / ".env.prod").write_text("mine\n")
    run_git(folder, "commit", "--quiet", "--all", "--message=work")
    main([str(folder), "--remove"])
    assert files_of(folder, "HEAD").keys() == files_of(folder, "main").keys()
    assert (folder / "app.py").read_text().endswith("# more\n")


@pytest.fixture
def newer_quai(monkeypatch, tmp_path):
    """Return a function that changes what this version of Quai would add."""
    files = dict(generate.pipeline_files())
    texts: dict[str, str] = {}

    def change(name: str, text: str | None) -> None:
        if text is None:
            del files[name]
            return
        path = tmp_path / "newer" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        files[name] = path

    original = generate.generate
    monkeypatch.setattr("scripts.adopt.update.pipeline_files", lambda: files)
    monkeypatch.setattr("scripts.adopt.update.generate_old", lambda record: original(Facts.from_json(record.facts)))
    monkeypatch.setattr("scripts.adopt.update.generate", lambda facts: original(facts) | texts)
    change.texts = texts
    return change


def test_update_replaces_adds_and_removes(make_project, newer_quai):
    folder = make_project(FLASK)
    adopt(folder)
    newer_quai("scripts/deploy.sh", "#!/bin/sh\n# newer\n")
    newer_quai("scripts/server/new.py", "x = 1\n")
    newer_quai("scripts/server/probe.py", None)
    main([str(folder), "--update"])
    assert (folder / "scripts/deploy.sh").read_text().endswith("# newer\n")
    assert (folder / "scripts/server/new.py").exists()
    assert not (folder / "scripts/server/probe.py").exists()
    assert run_git(folder, "rev-list", "--count", "feature/ci-cd-setup..HEAD") == "1"
    record = plan.read_record(folder)
    assert "scripts/server/new.py" in record.pipeline
    assert "Dockerfile" in record.configuration
    run_git(folder, "switch", "--quiet", "-c", "merged")
    run_git(folder, "branch", "--quiet", "-D", "feature/quai-update")
    main([str(folder), "--update"])
    assert run_git(folder, "rev-list", "--count", "feature/ci-cd-setup..HEAD") == "1"


def test_update_stops_at_an_edited_file(make_project, newer_quai):
    folder = make_project(FLASK)
    adopt(folder)
    (folder / "scripts/deploy.sh").write_text("mine\n")
    run_git(folder, "commit", "--quiet", "--all", "--message=edit")
    newer_quai("scripts/server/new.py", "x = 1\n")
    before = state_of(folder)
    with pytest.raises(Failure, match=r"edited since Quai added them: scripts/deploy\.sh"):
        main([str(folder), "--update"])
    assert state_of(folder) == before


def test_update_shows_the_change_of_the_configuration(make_project, newer_quai, capsys):
    folder = make_project(FLASK)
    adopt(folder)
    template = (folder / ".env.prod").read_text()
    (folder / ".env.prod").write_text(template.replace("KEEP_RELEASES=5", "KEEP_RELEASES=9"))
    run_git(folder, "commit", "--quiet", "--all", "--message=mine")
    newer_quai.texts[".env.prod"] = template + "NEW_SETTING=1\n"
    main([str(folder), "--update"])
    assert "+NEW_SETTING=1" in capsys.readouterr().out
    assert "NEW_SETTING" not in (folder / ".env.prod").read_text()
    subprocess.run(["git", "-C", str(folder), "apply", ".git/quai-update.patch"], check=True)
    text = (folder / ".env.prod").read_text()
    assert "KEEP_RELEASES=9" in text
    assert "NEW_SETTING=1" in text


def test_update_never_writes_conflict_markers(make_project, newer_quai, capsys):
    folder = make_project(FLASK)
    adopt(folder)
    template = (folder / ".env.prod").read_text()
    mine = template.replace("KEEP_RELEASES=5", "KEEP_RELEASES=9")
    (folder / ".env.prod").write_text(mine)
    run_git(folder, "commit", "--quiet", "--all", "--message=mine")
    newer_quai.texts[".env.prod"] = template.replace("KEEP_RELEASES=5", "KEEP_RELEASES=7")
    main([str(folder), "--update"])
    output = capsys.readouterr().out
    assert ".env.prod: you changed the same lines" in output
    assert "<<<<<<<" not in output
    assert (folder / ".env.prod").read_text() == mine


def test_a_damaged_record_is_an_error(make_project):
    folder = make_project(FLASK)
    adopt(folder)
    (folder / RECORD).write_text("{")
    run_git(folder, "commit", "--quiet", "--all", "--message=damage")
    with pytest.raises(Failure, match=r"\.quai\.json is damaged"):
        main([str(folder), "--update"])


def test_an_application_in_a_folder_is_updated_and_removed(monorepo, newer_quai, capsys):
    adopt(monorepo, "--app", "backend/api")
    newer_quai("scripts/deploy.sh", "#!/bin/sh\n# newer\n")
    newer_quai.texts[".env.prod"] = (monorepo / "backend/api/.env.prod").read_text() + "NEW=1\n"
    newer_quai.texts["new.toml"] = "x = 1\n"
    with pytest.raises(Failure, match="Add --app backend/api"):
        main([str(monorepo), "--update"])
    main([str(monorepo), "--app", "backend/api", "--update"])
    assert (monorepo / "backend/api/scripts/deploy.sh").read_text().endswith("# newer\n")
    run_git(monorepo, "apply", ".git/quai-update.patch")
    assert (monorepo / "backend/api/.env.prod").read_text().endswith("NEW=1\n")
    assert (monorepo / "backend/api/new.toml").read_text() == "x = 1\n"
    run_git(monorepo, "reset", "--quiet", "--hard")
    run_git(monorepo, "clean", "--quiet", "--force")
    main([str(monorepo), "--app", "backend/api", "--remove"])
    assert files_of(monorepo, "HEAD") == files_of(monorepo, "main")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"file": ".env.prod"', '"file": "../../x"'),
        ('"file": ".env.prod"', '"file": "/etc/x"'),
        ('"version": "', '"version": "--output=/tmp/x'),
    ],
)
def test_a_record_cannot_name_files_outside_the_repository(make_project, old, new):
    folder = make_project(FLASK)
    adopt(folder)
    record = folder / ".quai.json"
    assert old in record.read_text()
    record.write_text(record.read_text().replace(old, new))
    run_git(folder, "commit", "--quiet", "--all", "--message=edited")
    with pytest.raises(Failure, match=r"\.quai\.json is damaged"):
        main([str(folder), "--update"])

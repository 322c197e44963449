"""The command `adopt` on repositories: what it commits, and what it refuses."""

import os
from pathlib import Path

import pytest
import yaml

from scripts.adopt.plan import RECORD
from scripts.runner.process import Failure
from scripts.runner.project import compose_file, env_template
from tests.adopt.conftest import DJANGO, FLASK, adopt, files_of, run_git, state_of
from tests.rehearsal.repository import find_missing_file


def test_adds_one_commit_and_changes_no_file(make_project, capsys):
    folder = make_project(FLASK)
    adopt(folder)
    assert run_git(folder, "branch", "--show-current") == "feature/ci-cd-setup"
    assert run_git(folder, "rev-list", "--count", "main..HEAD") == "1"
    before, after = files_of(folder, "main"), files_of(folder, "HEAD")
    assert before.items() <= after.items()
    assert {
        "docker-compose.prod.yml",
        ".env.prod",
        "Dockerfile",
        ".github/workflows/cd.yml",
        RECORD,
    } <= after.keys() - before.keys()
    assert run_git(folder, "rev-parse", "dev") == run_git(folder, "rev-parse", "main")
    assert run_git(folder, "status", "--porcelain") == ""
    assert os.access(folder / "scripts/nox", os.X_OK)
    assert not list(folder.glob("scripts/adopt"))
    output = capsys.readouterr().out
    assert "app:app  (app.py:3)" in output
    assert "gh pr create --base dev" in output
    assert "adds" in (folder / ".git/quai-pull-request.md").read_text()


def test_the_pull_request_says_what_is_left_to_do(make_project):
    settings = "import os\nSECURE_SSL_REDIRECT = True\nA = os.environ['STRIPE_KEY']\nB = os.environ['SECRET_KEY']\n"
    folder = make_project(DJANGO | {"site1/settings.py": settings + "C = os.getenv('D')\n"})
    adopt(folder)
    text = (folder / ".git/quai-pull-request.md").read_text()
    assert "* for you to set: `STRIPE_KEY` (site1/settings.py:3)\n" in text
    assert "`SECRET_KEY` (site1/settings.py:4)" in text
    assert "default, which has to suit production: `D`\n" in text
    assert "`--site` enables HTTPS; it is required" in text
    assert "2. Set these there: STRIPE_KEY.\n" in text
    assert "5. Back up the database every night" in text


def test_a_second_run_changes_nothing(make_project, capsys):
    folder = make_project(FLASK)
    adopt(folder)
    before = state_of(folder)
    adopt(folder)
    assert state_of(folder) == before
    assert "was adopted already" in capsys.readouterr().out


def test_existing_branches_are_kept(make_project):
    folder = make_project(FLASK)
    run_git(folder, "branch", "dev")
    run_git(folder, "commit", "--quiet", "--allow-empty", "--message=more")
    dev = run_git(folder, "rev-parse", "dev")
    adopt(folder)
    assert run_git(folder, "rev-parse", "dev") == dev


def refusal(folder: Path, *options: str) -> str:
    """Return the message of a refused adoption that leaves everything as it was."""
    before = state_of(folder)
    with pytest.raises(Failure) as raised:
        adopt(folder, *options)
    assert state_of(folder) == before
    return str(raised.value)


def test_refuses_uncommitted_files(make_project):
    folder = make_project(FLASK)
    (folder / "new.py").write_text("")
    assert "1 file is not committed, for example new.py" in refusal(folder)


def test_an_empty_repository_gets_the_sample(make_project):
    folder = make_project({}, commit=False)
    adopt(folder)
    assert run_git(folder, "branch", "--format=%(refname:short)").split() == ["dev", "main"]
    assert (folder / "service/__main__.py").exists()
    assert os.access(folder / "scripts/nox", os.X_OK)
    assert run_git(folder, "status", "--porcelain") == ""


def test_refuses_a_repository_without_commits(make_project):
    folder = make_project(FLASK, commit=False)
    with pytest.raises(Failure, match=r"has no commits\. Commit your project first"):
        adopt(folder)


def test_refuses_a_folder_without_repository(tmp_path):
    with pytest.raises(Failure, match="is not a usable Git repository"):
        adopt(tmp_path)
    with pytest.raises(Failure, match="is not a folder"):
        adopt(tmp_path / "missing")


def test_refuses_a_subfolder(make_project):
    folder = make_project(FLASK | {"api/x.py": ""})
    with pytest.raises(Failure, match="is a folder of the repository"):
        adopt(folder / "api")


def test_refuses_an_existing_branch(make_project):
    folder = make_project(FLASK)
    run_git(folder, "branch", "feature/ci-cd-setup")
    assert "git branch --delete --force feature/ci-cd-setup" in refusal(folder)


@pytest.mark.parametrize("option", ["name=../../etc", "colour=red", "name", "application=os; import x"])
def test_refuses_an_invalid_answer(make_project, option):
    assert option.partition("=")[0] in refusal(make_project(FLASK), "--set", option)


def test_refuses_a_question_without_an_answer(make_project):
    message = refusal(make_project(FLASK | {"app2.py": FLASK["app.py"]}))
    assert "several applications" in message
    assert "--set application=VALUE" in message


def test_refuses_a_file_that_is_not_text(make_project):
    folder = make_project(FLASK)
    (folder / "requirements.txt").write_bytes(b"flask\xff\xfe")
    run_git(folder, "commit", "--quiet", "--all", "--message=binary")
    assert "cannot read requirements.txt: it is not UTF-8" in refusal(folder)


def test_refuses_a_link_out_of_the_repository(make_project, tmp_path):
    folder = make_project(FLASK)
    (tmp_path / "secret.txt").write_text("flask")
    (folder / "requirements.txt").unlink()
    (folder / "requirements.txt").symlink_to(tmp_path / "secret.txt")
    run_git(folder, "commit", "--quiet", "--all", "--message=link")
    assert "requirements.txt is a link to" in refusal(folder)


def test_refuses_to_write_through_a_link(make_project, tmp_path):
    folder = make_project(FLASK)
    (tmp_path / "outside").mkdir()
    (folder / "scripts").symlink_to(tmp_path / "outside")
    run_git(folder, "add", "--all")
    run_git(folder, "commit", "--quiet", "--message=link")
    assert "scripts must be a folder" in refusal(folder)
    assert not list((tmp_path / "outside").iterdir())


def test_refuses_a_file_that_the_pipeline_needs(make_project):
    assert "scripts/deploy.sh" in refusal(make_project(FLASK | {"scripts/deploy.sh": "mine\n"}))


def test_existing_files_get_an_alternative(make_project, capsys):
    own = {
        "Dockerfile": "FROM python:3.13\nCMD flask run\n",
        ".dockerignore": "data\n",
        "noxfile.py": "import nox\n",
        ".github/renovate.json": "{}\n",
        ".github/workflows/ci.yml": "on: push\n",
        ".github/workflows/cd.yml": "on: push\n",
        ".github/workflows/release.yml": "on: push\njobs:\n  - run: rsync -a . server:\n",
        "docker-compose.prod.yml": "services: {}\n",
        ".env.prod": "SECRET_KEY=1\n",
        "README.md": "# Shop\n",
    }
    folder = make_project(FLASK | own)
    adopt(folder)
    for name, text in own.items():
        assert (folder / name).read_text() == text
    assert "gunicorn" in (folder / "docker-compose.pipeline.yml").read_text()
    assert (folder / "Dockerfile.pipeline.dockerignore").read_text().startswith("data\n")
    names = {"Dockerfile.pipeline", "noxfile_pipeline.py", ".env.pipeline", ".github/workflows/pipeline.yml"}
    added = files_of(folder, "HEAD").keys()
    assert names <= added
    assert ".github/dependabot.yml" not in added
    output = capsys.readouterr().out
    assert "left alone: .github/workflows/release.yml: line 3 may deploy" in output
    assert "left alone: README.md" in output
    assert (compose_file(folder), env_template(folder)) == ("docker-compose.pipeline.yml", ".env.pipeline")


def test_workflows_with_any_name(make_project, capsys):
    folder = make_project(FLASK | {".github/workflows/déploiement.yml": "on: push\njobs: {x: {run: docker push x}}\n"})
    adopt(folder)
    assert "left alone: .github/workflows/déploiement.yml: line 2 may deploy" in capsys.readouterr().out


def test_a_workflow_that_cannot_be_read_is_named(make_project):
    folder = make_project(FLASK)
    (folder / ".github/workflows").mkdir(parents=True)
    (folder / ".github/workflows/x.yml").symlink_to("/etc/hostname")
    run_git(folder, "add", "--all")
    run_git(folder, "commit", "--quiet", "--message=link")
    assert "x.yml is a link to /etc/hostname" in refusal(folder)


def test_the_project_s_dockerfile_can_build_the_release(make_project):
    folder = make_project(FLASK | {"Dockerfile": "FROM python:3.13\nENTRYPOINT [run]\n", ".dockerignore": "data\n"})
    adopt(folder, "--set", "dockerfile=Dockerfile")
    assert not list(folder.glob("Dockerfile.*"))
    compose = yaml.safe_load((folder / "docker-compose.prod.yml").read_text())
    assert compose["services"]["api"]["entrypoint"] == []
    (folder / "other").mkdir()
    assert "at the top level" in refusal(make_project(FLASK, name="none"), "--set", "dockerfile=Dockerfile")


def test_an_application_in_a_folder_gets_the_pipeline_there(monorepo, capsys):
    assert "--app backend/api" in refusal(monorepo)
    adopt(monorepo, "--app", "backend/api/")
    added = files_of(monorepo, "HEAD").keys() - files_of(monorepo, "main").keys()
    workflows = {".github/workflows/ci.yml", ".github/workflows/cd.yml"}
    assert {name for name in added if not name.startswith("backend/api/")} == workflows | {".github/dependabot.yml"}
    updates = yaml.safe_load((monorepo / ".github/dependabot.yml").read_text())["updates"]
    assert [item["directory"] for item in updates] == ["/", "/backend/api", "/backend/api"]
    for name in workflows:
        content = yaml.safe_load((monorepo / name).read_text())
        assert content["defaults"]["run"]["working-directory"] == "backend/api"
    assert "COMPOSE_PROJECT_NAME=shop\n" in (monorepo / "backend/api/.env.prod").read_text()
    output = capsys.readouterr().out
    assert f"rehearse -- --repository {monorepo}/backend/api)" in output
    assert "backend/api/scripts/setup-server.sh --help" in output
    assert find_missing_file(monorepo / "backend/api") == ""


@pytest.mark.parametrize("name", ["..", ".git", "none", "app.py", "outside"])
def test_an_application_must_be_in_a_folder_of_the_repository(make_project, tmp_path, name):
    folder = make_project(FLASK)
    (folder / "outside").symlink_to(tmp_path)
    run_git(folder, "add", "--all")
    run_git(folder, "commit", "--quiet", "--message=link")
    assert f"--app {name}: expected a folder" in refusal(folder, "--app", name)

"""The applications in tests/apps, to which adopt adds the pipeline with one command."""

import re

import pytest

from scripts.adopt.detect import detect
from scripts.adopt.repository import Repository
from scripts.runner.process import ROOT
from tests.rehearsal.apps import APPS, REHEARSALS, app_names, list_files


@pytest.mark.parametrize("name", app_names())
def test_the_rehearsal_counts_in_the_database_of_the_application(make_project, name):
    files = {file: (APPS / name / file).read_text() for file in list_files(APPS / name)}
    facts = detect(Repository(make_project(files, name=name)), {})
    users = re.findall(r"psql -U (\S+) -d (\S+)", (REHEARSALS / f"{name}.toml").read_text())
    assert all(user == (facts.database_name, facts.database_name) for user in users)


def test_the_applications_have_no_files_of_the_pipeline():
    names = {path.name for path in (ROOT / "tests/apps").rglob("*")}
    assert not names & {"Dockerfile", "docker-compose.prod.yml", "noxfile.py", ".env.prod"}

"""The pipeline does not know the sample, and nothing that production or a workflow runs comes from tests/."""

import re

import pytest

from scripts.runner.process import ROOT

SAMPLE = r"\bservice/|-m service\b|^\s*(from|import) service\b|tests[/.]service|psql -U quai"


def files(*patterns):
    paths = [path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()]
    names = sorted(str(path.relative_to(ROOT)) for path in paths)
    assert names
    return [name for name in names if "cache" not in name]


@pytest.mark.parametrize("name", files("scripts/**/*", "noxfile.py", ".github/**/*"))
def test_the_pipeline_does_not_know_the_sample(name):
    assert re.findall(SAMPLE, (ROOT / name).read_text(), re.MULTILINE) == []


@pytest.mark.parametrize("name", files("scripts/**/*.py", ".github/workflows/*"))
def test_nothing_that_production_or_a_workflow_runs_comes_from_tests(name):
    assert not re.search(r"^\s*(from|import) tests\b|\btests/", (ROOT / name).read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", files("service/**/*.py"))
def test_the_sample_does_not_know_the_pipeline(name):
    assert not re.search(r"^\s*(from|import) (scripts|server|tests)\b", (ROOT / name).read_text(), re.MULTILINE)

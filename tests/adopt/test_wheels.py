"""The Python of the image, where a lock file has no wheels for the newest one."""

import pytest

from tests.adopt.conftest import FLASK

LOCK = """
[[package]]
name = "flask"
version = "3.1"
files = [{file = "flask-3.1-py3-none-any.whl"}]
[[package]]
name = "gunicorn"
version = "27.0.1"
dependencies = {fast = "*"}
[[package]]
name = "fast"
version = "1.2"
files = [{file = "fast-1.2-%s.whl"}, {file = "fast-1.2-cp314-cp314-win_amd64.whl"}, {file = "fast-1.2.tar.gz"}]
"""


@pytest.mark.parametrize(
    ("tags", "python"),
    [
        ("cp313-cp313-manylinux_2_17_x86_64", "3.13"),
        ("cp38-abi3-manylinux_2_17_x86_64", "3.13"),
        ("cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64", "3.11"),
        ("cp39-cp39-manylinux_2_17_x86_64", "3.13"),
    ],
)
def test_the_wheels_of_the_lock_file_decide_between_versions_of_python(facts_of, tags, python):
    pyproject = "[project]\nname = 'shop'\nrequires-python = '>=3.10'\ndependencies = ['flask', 'gunicorn']\n"
    facts = facts_of({"pyproject.toml": pyproject, "poetry.lock": LOCK % tags, "app.py": FLASK["app.py"]})
    assert facts.python == python
    assert ("fast 1.2 has no wheel for 3.13" in facts.findings["Python"].source) == (
        python != "3.13" or "cp39-" in tags
    )

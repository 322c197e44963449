"""What the noxfile reads from the files of a project: its Python, dependencies, tests and rules."""

import pytest

from scripts.runner import project
from scripts.runner.process import ROOT, Failure

PYPROJECT = "[project]\nname = 'a'\nversion = '1'\n"
HASHED = "flask==3 \\\n    --hash=sha256:00\n"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Return a function that writes files, empty ones or with the given texts, into the current directory."""
    monkeypatch.chdir(tmp_path)

    def write(*names, **texts):
        for name, text in {**dict.fromkeys(names, ""), **texts}.items():
            path = tmp_path / name.replace("pyproject_toml", "pyproject.toml")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write


@pytest.mark.parametrize(
    ("version_file", "requires", "python"),
    [
        (None, ">=3.11", ">=3.11"),
        (None, ">= 3.11, <3.14", ">=3.11,<3.14"),
        (None, None, None),
        ("3.13\n", None, "3.13"),
        ("3.13.2\n3.11\n", ">=3.11", "3.13"),
        ("python-3.12", None, "3.12"),
        ("pypy3.10", ">=3.11", ">=3.11"),
    ],
)
def test_the_python_of_the_project(write, version_file, requires, python):
    if version_file:
        write(**{".python-version": version_file})
    write(pyproject_toml=PYPROJECT + (f"requires-python = '{requires}'" if requires else ""))
    assert project.python_constraint() == python


def test_a_project_without_files_states_no_python(write):
    assert project.python_constraint() is None
    with pytest.raises(Failure, match="states no oldest Python"):
        project.minimum_python()


@pytest.mark.parametrize(
    ("requires", "oldest"), [(">=3.11", "3.11"), ("<4,>=3.12.1", "3.12"), ("~=3.10", "3.10"), ("==3.13.*", "3.13")]
)
def test_the_oldest_python(write, requires, oldest):
    write(pyproject_toml=f"{PYPROJECT}requires-python = '{requires}'")
    assert project.minimum_python() == oldest


def test_the_oldest_python_may_be_the_only_one(write):
    write(**{".python-version": "3.12.1"})
    assert project.minimum_python() == "3.12"


def test_an_upper_bound_alone_is_no_oldest_python(write):
    write(pyproject_toml=f"{PYPROJECT}requires-python = '<3.14'")
    with pytest.raises(Failure, match="requires-python"):
        project.minimum_python()


def commands():
    return [" ".join(command) for command in project.install_commands(".venv")]


def test_uv_installs_the_lock_file_with_the_groups_of_the_tests(write):
    write("uv.lock", "requirements.txt")
    assert commands() == ["uv sync --frozen"]
    write(pyproject_toml="[dependency-groups]\ntests = ['pytest']\ndocs = ['sphinx']\n")
    assert commands() == ["uv sync --frozen --group=tests"]
    write(pyproject_toml="[project]\nname = 'a'\n[project.optional-dependencies]\ndev = ['pytest']\nexcel = ['x']\n")
    assert commands() == ["uv sync --frozen --extra=dev"]


def test_poetry_exports_its_lock_file(write):
    write("poetry.lock", "requirements.txt")
    poetry, plugin = project.pins("poetry")
    exported = ".venv/poetry-requirements.txt"
    assert commands() == [
        f"uv tool run --from={poetry} --with={plugin} poetry export --all-groups --output={exported}",
        f"uv pip install --requirements={exported}",
    ]


def test_packages_in_src_can_be_imported_by_the_tests(write):
    assert project.test_variables() == {}
    write("src/app/__init__.py")
    assert project.test_variables() == {"PYTHONPATH": "src"}


def test_pdm_installs_the_project_if_it_is_a_package(write):
    write("pdm.lock", "requirements.txt")
    pdm, other = project.pins("pdm")
    run = f"uv tool run --from={pdm} --with={other} pdm sync"
    assert commands() == [f"{run} --no-self"]
    write(pyproject_toml="[build-system]\nrequires = ['pdm-backend']\n")
    assert commands() == [run]


@pytest.mark.parametrize(
    ("files", "development"),
    [
        (["requirements-dev.txt", "dev-requirements.txt"], "requirements-dev.txt"),
        (["dev-requirements.txt", "requirements-test.txt"], "requirements-test.txt"),
        (["requirements/test.txt", "requirements/dev.txt"], "requirements/dev.txt"),
        (["requirements/test.txt", "requirements/base.txt"], "requirements/test.txt"),
    ],
)
def test_the_first_file_with_development_dependencies_is_installed(write, files, development):
    write("requirements.txt", *files)
    assert commands() == [f"uv pip install --requirements={name}" for name in ("requirements.txt", development)]


def test_hashes_are_required_where_a_file_has_any(write):
    write("requirements-dev.txt", **{"requirements.txt": HASHED})
    assert commands() == [
        "uv pip install --requirements=requirements.txt --require-hashes",
        "uv pip install --requirements=requirements-dev.txt",
    ]


def test_groups_are_installed_with_requirements(write):
    write("requirements.txt", pyproject_toml="[dependency-groups]\ntest = []\ndev = []\nlint = []\n")
    assert commands() == [
        "uv pip install --requirements=requirements.txt",
        "uv pip install --group=dev --group=test",
    ]


def test_a_project_without_dependencies_is_a_failure(write):
    write(pyproject_toml=PYPROJECT)
    with pytest.raises(Failure, match=r"no uv.lock, poetry.lock, pdm.lock and no requirements.txt: create"):
        project.install_commands(".venv")


def test_every_tool_installs_into_the_environment_of_the_session():
    variables = project.install_variables("/env")
    assert {variables[name] for name in ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT")} == {"/env"}
    assert variables["UV_PYTHON"] == "/env/bin/python"
    assert variables["PDM_IGNORE_SAVED_PYTHON"] == "1"


PYTEST = ["python", "-m", "pytest"]
DJANGO = ["python", "manage.py", "test"]
MANAGE = "import django\n"
NESTED_DJANGO = ["python", "site/manage.py", "test", "site", "--top-level-directory", "site"]


@pytest.mark.parametrize(
    ("files", "python"),
    [
        ({}, None),
        ({"Dockerfile": "FROM debian\n"}, None),
        ({"Dockerfile": "ARG A=b\nFROM python:3.13.16-slim@sha256:0 AS b\n"}, "3.13"),
        ({"Dockerfile": "FROM mirror.example/python:3.12\n"}, "3.12"),
        ({"Dockerfile": "FROM python:3.13\n", "Dockerfile.pipeline": "FROM python:3.12\n"}, "3.12"),
        ({"Dockerfile": "FROM python:3.13\n", ".python-version": "3.12"}, "3.12"),
    ],
)
def test_the_tests_run_with_the_python_of_the_image_unless_the_project_states_one(write, files, python):
    write(**files)
    assert project.session_python() == python


def test_pytest_is_installed_only_if_a_project_lacks_it(tmp_path):
    assert project.lacks_pytest(["python", "-m", "pytest"], str(tmp_path))
    assert not project.lacks_pytest(["python", "manage.py", "test"], str(tmp_path))
    (tmp_path / "lib/python3.13/site-packages/pytest").mkdir(parents=True)
    assert not project.lacks_pytest(["python", "-m", "pytest"], str(tmp_path))


@pytest.mark.parametrize(
    ("files", "command"),
    [
        ({}, None),
        ({"app/main.py": ""}, None),
        ({"tests/test_a.py": ""}, PYTEST),
        ({"test_a.py": ""}, PYTEST),
        ({"app/test_a.py": ""}, PYTEST),
        ({"app/tests/test_a.py": ""}, PYTEST),
        ({"src/app/tests/test_a.py": ""}, PYTEST),
        ({"manage.py": MANAGE, "tests/test_a.py": ""}, DJANGO),
        ({"site/manage.py": MANAGE, "site/shop/tests.py": ""}, NESTED_DJANGO),
        ({"manage.py": "run()\n", "tests/test_a.py": ""}, PYTEST),
        ({".nox/tests/a.py": "", ".venv/test_a.py": ""}, None),
        ({"tests.py": ""}, [*PYTEST, "tests.py"]),
        ({"manage.py": MANAGE, "pytest.ini": ""}, PYTEST),
        ({"manage.py": MANAGE, "pyproject.toml": "[tool.pytest.ini_options]\ntestpaths = 'a'\n"}, PYTEST),
        ({"manage.py": MANAGE, "pyproject.toml": "[tool.pytest]\nstrict = true\n"}, PYTEST),
        ({"manage.py": MANAGE, "setup.cfg": "[tool:pytest]\n"}, PYTEST),
        ({"manage.py": MANAGE, "tox.ini": "[tox]\n[pytest]\n"}, PYTEST),
        ({"manage.py": MANAGE, "tox.ini": "[tox]\n", "setup.cfg": "[metadata]\n"}, DJANGO),
    ],
)
def test_the_command_that_runs_the_tests(write, files, command):
    write(**files)
    assert project.test_command() == command


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, False),
        ({"pyproject.toml": "[tool.black]\nline-length = 88\n"}, False),
        ({"pyproject.toml": "[tool.ruff]\nline-length = 88\n"}, True),
        ({"pyproject.toml": "[tool.ruff.lint]\nselect = ['E']\n"}, True),
        ({"ruff.toml": ""}, True),
        ({".ruff.toml": ""}, True),
    ],
)
def test_ruff_is_used_where_the_project_configures_it(write, files, expected):
    write(**files)
    assert project.has_ruff_settings() is expected


@pytest.mark.parametrize(
    ("file", "text", "version"),
    [
        ("uv.lock", '[[package]]\nname = "ruff"\nversion = "0.9.1"\nsource = {}\n', "0.9.1"),
        ("poetry.lock", '[[package]]\nname = "ruff"\nversion = "0.9.2"\n', "0.9.2"),
        ("requirements-dev.txt", "black==26.1\nruff==0.9.3  # lint\n", "0.9.3"),
        ("requirements-dev.txt", "ruff>=0.9\nnot-ruff==1\n", None),
        ("uv.lock", '[[package]]\nname = "ruff-lsp"\nversion = "0.9.1"\n', None),
    ],
)
def test_ruff_has_the_version_of_the_project(write, file, text, version):
    write(**{file: text})
    assert project.ruff_requirement() == (f"ruff=={version}" if version else project.pins("ruff")[0])


def test_rules_of_the_project_do_not_apply_to_the_pipeline(write):
    write("app/main.py", "wsgi.py", "noxfile.py", "scripts/runner/x.py", "scripts/own.py", ".venv/x.py", "README.md")
    assert [str(path) for path in project.own_files()] == ["app", "scripts/own.py", "wsgi.py"]
    for path in project.PIPELINE:
        assert (ROOT / path).exists() or path == "noxfile_pipeline.py"  # only where a project has its own noxfile


@pytest.mark.parametrize(
    ("settings", "expected"), [("[tool.ruff]", ["check"]), ("[tool.ruff.format]", ["check", "format"])]
)
def test_the_format_is_checked_only_if_the_project_configures_it(write, settings, expected):
    """Another formatter may be in use. Options that older versions of ruff lack are not used."""
    write("wsgi.py", pyproject_toml=f"{settings}\n")
    assert [command[1] for command in project.ruff_commands()] == expected
    assert all(command[-2:] == ["--force-exclude", "wsgi.py"] for command in project.ruff_commands())


def test_the_command_for_development(write):
    with pytest.raises(Failure, match=r"\[tool.quai\]"):
        project.dev_command()
    write(pyproject_toml="[tool.quai]\ndev = 'flask --app \"a b\" run'\n")
    assert project.dev_command() == ["flask", "--app", "a b", "run"]

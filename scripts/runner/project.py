"""What the noxfile reads from the project in the current directory: its Python, dependencies and tests.

All of it is read from the project's files. None of its code is imported.
"""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

from scripts.runner.process import ROOT, Failure

LOCK_FILES = ("uv.lock", "poetry.lock", "pdm.lock")
DEVELOPMENT_FILES = (
    *("requirements-dev.txt", "requirements-test.txt", "dev-requirements.txt"),
    *("requirements/dev.txt", "requirements/test.txt"),
)
DEVELOPMENT_GROUPS = ("dev", "test", "tests")
TEST_FILES = ("tests", "test_*.py", "*/tests", "*/test_*.py", "src/*/tests")
# Names of files of the pipeline. The first one is used next to a file of the project with the second name.
DOCKERFILES = ("Dockerfile.pipeline", "Dockerfile")
COMPOSE_FILES = ("docker-compose.pipeline.yml", "docker-compose.prod.yml")
ENV_TEMPLATES = (".env.pipeline", ".env.prod")
# Files of the pipeline, which the project's rules do not apply to.
PIPELINE = ("noxfile.py", "noxfile_pipeline.py", "scripts/runner", "scripts/server")


def read_toml(path: str | Path) -> dict[str, Any]:
    """Return the content of a TOML file; empty if there is no such file."""
    path = Path(path)
    return tomllib.loads(path.read_text()) if path.exists() else {}


def tool_settings(name: str) -> dict[str, Any]:
    """Return the table [tool.<name>] of pyproject.toml; empty if there is none."""
    settings: dict[str, Any] = read_toml("pyproject.toml").get("tool", {}).get(name, {})
    return settings


def pins(group: str) -> list[str]:
    """Return the pinned tools of a dependency group of the pipeline that includes no other group."""
    tools: list[str] = read_toml(ROOT / "scripts/pyproject.toml")["dependency-groups"][group]
    return tools


def python_constraint() -> str | None:
    """Return the project's Python for nox: `3.12`, or a range such as `>=3.11`; None if the project states neither.

    .python-version takes precedence over requires-python, as for uv. Any patch release of a version is accepted.
    """
    file = Path(".python-version")
    if file.exists() and (exact := re.match(r"\s*(?:python-?)?(\d+\.\d+)", file.read_text())):
        return exact[1]
    requires = read_toml("pyproject.toml").get("project", {}).get("requires-python", "")
    return requires.replace(" ", "") or None


def session_python() -> str | None:
    """Return the Python of the tests for nox: that of the project, else that of the image, so that both agree."""
    file = Path(dockerfile())
    image = re.search(r"^FROM\s+(?:\S+/)?python:(\d+\.\d+)", file.read_text(), re.MULTILINE) if file.exists() else None
    return python_constraint() or (image[1] if image else None)


def dockerfile(folder: Path = Path()) -> str:
    """Return the name of the Dockerfile of the release image."""
    return _first(folder, DOCKERFILES)


def compose_file(folder: Path = Path()) -> str:
    """Return the name of the compose file of production. In a release, it is docker-compose.prod.yml."""
    return _first(folder, COMPOSE_FILES)


def env_template(folder: Path = Path()) -> str:
    """Return the name of the template of a server's .env."""
    return _first(folder, ENV_TEMPLATES)


def _first(folder: Path, names: tuple[str, ...]) -> str:
    return next((name for name in names if (folder / name).exists()), names[-1])


def minimum_python() -> str:
    """Return the oldest Python in the project's range, for example `3.11`. Raise Failure without one."""
    if found := re.search(r"(?:^|>=|~=|==)(\d+\.\d+)", python_constraint() or ""):
        return found[1]
    raise Failure("pyproject.toml states no oldest Python: set requires-python in [project], for example '>=3.11'")


def install_variables(environment: str) -> dict[str, str]:
    """Return the environment variables with which `install_commands` install into a virtual environment."""
    return {
        "VIRTUAL_ENV": environment,
        "UV_PROJECT_ENVIRONMENT": environment,
        "UV_PYTHON": f"{environment}/bin/python",
        "PDM_IGNORE_SAVED_PYTHON": "1",
        "PDM_CHECK_UPDATE": "0",
    }


def install_commands(environment: str) -> list[list[str]]:
    """Return the commands that install the project's dependencies, with those for development, as its lock file says.

    `environment` is the folder of the virtual environment.

    Raise Failure if the project has no lock file and no requirements.txt.
    """
    pyproject = read_toml("pyproject.toml")
    groups = [name for name in DEVELOPMENT_GROUPS if name in pyproject.get("dependency-groups", {})]
    group_options = [f"--group={name}" for name in groups]
    extras = [
        name for name in DEVELOPMENT_GROUPS if name in pyproject.get("project", {}).get("optional-dependencies", {})
    ]
    extra_options = [f"--extra={name}" for name in extras]
    if Path("uv.lock").exists():
        return [["uv", "sync", "--frozen", *group_options, *extra_options]]
    if Path("poetry.lock").exists():
        # `poetry install` requires an interface of PyPI that mirrors of it lack.
        exported = f"{environment}/poetry-requirements.txt"
        return [
            [
                *run_tool("poetry"),
                "export",
                "--all-groups",
                *(f"--extras={name}" for name in extras),
                f"--output={exported}",
            ],
            ["uv", "pip", "install", f"--requirements={exported}"],
        ]
    if Path("pdm.lock").exists():
        self_options = [] if "build-system" in pyproject else ["--no-self"]
        return [[*run_tool("pdm"), "sync", *self_options, *(f"--group={name}" for name in extras)]]
    if not Path("requirements.txt").exists():
        raise Failure(f"the project has no {', '.join(LOCK_FILES)} and no requirements.txt: create one of them")
    files = ["requirements.txt", *[name for name in DEVELOPMENT_FILES if Path(name).exists()][:1]]
    commands = [["uv", "pip", "install", f"--requirements={name}", *hash_options(name)] for name in files]
    return [*commands, ["uv", "pip", "install", *group_options]] if groups else commands


def run_tool(name: str) -> list[str]:
    """Return the words that run a pinned tool in an environment of its own."""
    first, *others = pins(name)
    return ["uv", "tool", "run", f"--from={first}", *(f"--with={other}" for other in others), name]


def hash_options(file: str) -> list[str]:
    """Return the option that requires hashes if a requirements file has any."""
    return ["--require-hashes"] if "--hash=" in Path(file).read_text() else []


def test_command() -> list[str] | None:
    """Return the command that runs the project's tests; None if it has none."""
    pytest = ["python", "-m", "pytest"]
    if has_pytest_settings():
        return pytest
    for manage in [Path("manage.py"), *sorted(Path().glob("*/manage.py"))]:
        if manage.exists() and "django" in manage.read_text():
            folder = str(manage.parent)
            where = [] if folder == "." else [folder, "--top-level-directory", folder]
            return ["python", str(manage), "test", *where]
    found = (path for pattern in TEST_FILES for path in Path().glob(pattern))
    if any(not path.parts[0].startswith(".") for path in found):
        return pytest
    return [*pytest, "tests.py"] if Path("tests.py").exists() else None


def lacks_pytest(command: list[str], environment: str) -> bool:
    """Return whether a command needs pytest, and the virtual environment in this folder has none."""
    return "pytest" in command and not any(Path(environment).glob("lib/python*/site-packages/pytest"))


def has_pytest_settings() -> bool:
    """Return whether the project configures pytest."""
    sections = {"setup.cfg": "[tool:pytest]", "tox.ini": "[pytest]"}
    return (
        Path("pytest.ini").exists()
        or bool(tool_settings("pytest"))
        or any(Path(file).exists() and section in Path(file).read_text() for file, section in sections.items())
    )


def has_ruff_settings() -> bool:
    """Return whether the project configures ruff."""
    return Path("ruff.toml").exists() or Path(".ruff.toml").exists() or bool(tool_settings("ruff"))


def ruff_requirement() -> str:
    """Return ruff in the version that the project's lock file or requirements pin, else the pipeline's."""
    for name in (*LOCK_FILES, *DEVELOPMENT_FILES, "requirements.txt"):
        pinned = r'^(?:name = "ruff"\nversion = "|ruff==)([\w.]+)'
        if Path(name).exists() and (found := re.search(pinned, Path(name).read_text(), re.MULTILINE)):
            return f"ruff=={found[1]}"
    return pins("ruff")[0]


def ruff_commands() -> list[list[str]]:
    """Return the commands that check the project's files with ruff; the format only if the project configures it."""
    files = [str(path) for path in own_files()]
    formatting = [["ruff", "format", "--check", "--force-exclude", *files]] if "format" in ruff_settings() else []
    return [["ruff", "check", "--force-exclude", *files], *formatting]


def own_files() -> list[Path]:
    """Return the folders and Python files of the project, without those of the pipeline."""
    found = [*Path().iterdir(), *Path("scripts").glob("*")]
    return sorted(
        path
        for path in found
        if str(path) not in (*PIPELINE, "scripts")
        and not path.name.startswith(".")
        and (path.is_dir() or path.suffix in (".py", ".pyi", ".ipynb"))
    )


def ruff_settings() -> dict[str, Any]:
    """Return the project's settings of ruff; empty without any."""
    files = [path for path in (Path("ruff.toml"), Path(".ruff.toml")) if path.exists()]
    return read_toml(files[0]) if files else tool_settings("ruff")


def test_variables(source_folder: str = "src") -> dict[str, str]:  # noqa: PT028 - it is no test
    """Return the environment variables of the tests: packages in this folder can be imported, as in the image."""
    return {"PYTHONPATH": source_folder} if source_folder and Path(source_folder).exists() else {}


def dev_command() -> list[str]:
    """Return the command that serves the project for development. Raise Failure if pyproject.toml names none."""
    if command := tool_settings("quai").get("dev"):
        return shlex.split(command)
    raise Failure("pyproject.toml names no command for development: set it as 'dev' in [tool.quai]")

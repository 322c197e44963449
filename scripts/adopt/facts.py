"""The facts about an application: everything that the generated files depend on."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from scripts.adopt.environment import Setting
from scripts.adopt.evidence import Finding
from scripts.adopt.processes import Process


@dataclass(frozen=True)
class Facts:
    """What adopt found, and what the user decided. Commands are lists of words; empty: there is none."""

    name: str
    framework: str
    target: str  # module:name of the application; empty if only the command is known
    command: list[str]
    python: str
    dependency_file: str
    included_requirements: list[str]  # files that requirements.txt includes
    has_local_packages: bool  # requirements.txt lists some of the project: they are not installed
    build_packages: list[str]  # Debian packages that compile dependencies
    runtime_packages: list[str]  # Debian packages that dependencies need
    server: str  # to install in the image only
    health_path: str
    settings: list[Setting]
    database: str  # postgresql, external, or empty
    database_scheme: str  # of database URLs; empty if the driver is not one of PostgreSQL
    uses_redis: bool
    migrate: list[str]
    check: list[str]
    processes: list[Process]
    manage: str  # manage.py of a Django project
    settings_module: str  # of Django, if manage.py names another one than the application
    requires_https: bool  # plain HTTP is redirected
    static_root: str
    static_prefix: str  # the URL prefix of static files that the front serves
    source_folder: str = "src"  # on the import path, in addition to the top level; empty: only that
    folder: str = ""  # of the application in the repository; empty: the top level
    tests_need_database: bool = False
    has_own_dockerfile: bool = False  # the release image is built from the project's Dockerfile
    findings: dict[str, Finding] = field(default_factory=dict, compare=False)
    notes: list[str] = field(default_factory=list, compare=False)

    @property
    def has_database(self) -> bool:
        """Whether the service db exists; for an external database, it exists only in the smoke test."""
        return bool(self.database and self.database_scheme)

    @property
    def database_name(self) -> str:
        """The name of the database and of its user."""
        return self.name.replace("-", "_")

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON, without their sources."""
        values = dataclasses.asdict(self)
        del values["findings"], values["notes"]
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Facts":
        """Return the facts of `to_json`."""
        settings = [Setting(**item) for item in values["settings"]]
        processes = [Process(**{**item, "words": tuple(item["words"])}) for item in values["processes"]]
        return cls(**{**values, "settings": settings, "processes": processes})

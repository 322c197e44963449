"""The programs that run a release: Docker Compose on one server, or Docker Swarm on several (ENGINE in .env)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from server import rollout, swarm
from server.attempt import Attempt, Live
from server.compose import Project
from server.settings import SWARM, Settings


class Orchestrator(Protocol):
    """What a deploy requires of both. All functions raise Refused, EngineError or OSError."""

    def find_live(self, directory: Path, settings: Settings) -> Live:
        """Return the live release."""

    def clean_up(self, directory: Path, settings: Settings) -> Live:
        """Remove what an interrupted deploy left, and return the live release. The caller holds the lock."""

    def keep_live(self, attempt: Attempt) -> bool:
        """Return whether the requested release is live with these settings, and passes all checks."""

    def roll_out(self, attempt: Attempt, refuse_older: bool) -> str:
        """Run all steps up to, not including, the write of .env. Return the outcome."""

    def finish(self, attempt: Attempt) -> str:
        """Remove the previous release, and start singletons. Return a problem; empty without one."""

    def withdraw(self, attempt: Attempt) -> None:
        """Send requests to the release that was live."""

    def diagnose(self, attempt: Attempt) -> None:
        """Show why the new release failed."""

    def apply_services(self, project: Project, names: Sequence[str]) -> None:
        """Apply changed settings of services that a deploy does not replace."""

    def show_containers(self, directory: Path, settings: Settings) -> None:
        """Print what runs, and what is not where it should be."""


def choose(settings: Settings) -> Orchestrator:
    """Return the orchestrator of this server."""
    return swarm if settings.engine == SWARM else rollout

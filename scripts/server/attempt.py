"""One attempt to make a release live: what it works on, and the steps that it takes."""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from server import state
from server.compose import Project
from server.engine import Container
from server.settings import Settings
from server.state import say


class Live(NamedTuple):
    """The live release; all empty if there is none. It has no containers if they were removed by hand."""

    deploy_id: str
    tag: str
    containers: tuple[Container, ...]

    @property
    def front(self) -> str:
        """The network name that only its front has, unlike `front`; NO_FRONT if it has no containers."""
        return state.FRONT_PREFIX + self.deploy_id if self.containers else state.NO_FRONT


@dataclass
class Steps:
    """The steps of an attempt, printed when they begin and timed in seconds."""

    seconds: dict[str, float] = field(default_factory=dict)
    name: str = ""
    began: float = 0.0

    def begin(self, name: str, detail: str = "") -> None:
        """End the previous step and print the new one."""
        self.end()
        self.name, self.began = name, time.monotonic()
        say(f"{name} {detail}".strip())

    def end(self) -> None:
        """Record the duration of the current step."""
        if self.name:
            self.seconds[self.name] = self.seconds.get(self.name, 0.0) + time.monotonic() - self.began
        self.name = ""


@dataclass(frozen=True)
class Attempt:
    """One attempt to make a release live, and the release that was live when it began."""

    project: Project
    actor: str
    live: Live
    steps: Steps
    failed: list[str] = field(default_factory=list)  # services on a Swarm that failed while they served

    @property
    def directory(self) -> Path:
        """The directory of .env."""
        return self.project.directory

    @property
    def settings(self) -> Settings:
        """The settings at the start of this attempt."""
        return self.project.settings

    @property
    def tag(self) -> str:
        """The commit to make live."""
        return self.project.tag

    @property
    def image(self) -> str:
        """The full name of its image."""
        return self.settings.release_image(self.tag)

    def for_live_release(self) -> "Attempt":
        """Return a copy of this attempt with the deploy id of the live release."""
        return replace(self, project=replace(self.project, deploy_id=self.live.deploy_id))

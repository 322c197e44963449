"""The rollout: prepare, migrate, start next to the current release, prove, switch, watch."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from server import backup, compose, engine, health, history, release, state
from server.compose import Project
from server.engine import Container
from server.errors import Refused
from server.repair import Live, front_name, releases
from server.settings import Settings
from server.state import say


@dataclass
class Steps:
    """The steps of a deploy: announced when they begin, and timed in seconds."""

    seconds: dict[str, float] = field(default_factory=dict)
    name: str = ""
    began: float = 0.0

    def begin(self, name: str, detail: str = "") -> None:
        """End the step before, and announce this one."""
        self.end()
        self.name, self.began = name, time.monotonic()
        say(f"{name} {detail}".strip())

    def end(self) -> None:
        """Note how long the step took."""
        if self.name:
            self.seconds[self.name] = time.monotonic() - self.began
        self.name = ""


@dataclass(frozen=True)
class Deploy:
    """One attempt to make a release live, and what was live when it began."""

    project: Project
    by: str
    live: Live
    steps: Steps

    @property
    def directory(self) -> Path:
        """The directory of .env."""
        return self.project.directory

    @property
    def settings(self) -> Settings:
        """The settings that this attempt began with."""
        return self.project.settings

    @property
    def tag(self) -> str:
        """The commit to make live."""
        return self.project.tag

    @property
    def image(self) -> str:
        """The full name of its image."""
        return self.settings.release_image(self.tag)

    def containers(self, service: str = "") -> list[Container]:
        """The containers that this deploy created, of all services or of one."""
        own = [one for one in releases(self.settings) if one.deploy == self.project.deploy]
        return [one for one in own if service in ("", one.service)]


def roll_out(deploy: Deploy, forward: bool) -> tuple[Deploy, str]:
    """Everything up to the moment when .env is written: the deploy that is live then, and its outcome."""
    if unchanged := _find_unchanged(deploy):
        return unchanged, history.LIVE
    image, services, outcome = _prepare(deploy, forward)
    started = _start(deploy, services)
    deploy.steps.begin("wait", "until healthy")
    health.wait_until_healthy([one.id for one in started], deploy.settings)
    deploy.steps.begin("prove")
    started = deploy.containers()
    front = _prove(deploy, started, image)
    deploy.steps.begin("switch")
    state.point_to(deploy.directory, front_name(deploy.project.deploy))
    health.prove_version(_proxy(deploy), deploy.tag)
    deploy.steps.begin("watch")
    health.watch([one.id for one in started], front, deploy.settings)
    return deploy, outcome


def _find_unchanged(deploy: Deploy) -> Deploy | None:
    """The deploy that is live, when it has this tag and these settings, complete and healthy; else None."""
    live = deploy.live
    project = Project(deploy.directory, deploy.settings, deploy.tag, live.deploy)
    if live.tag != deploy.tag or not project.release.is_dir():
        return None
    if len(live.containers) != deploy.settings.api_replicas + 1:
        return None
    hashes = compose.hashes(project, "api", "front")
    if any(one.labels.get("com.docker.compose.config-hash") != hashes.get(one.service) for one in live.containers):
        return None
    try:
        health.wait_until_healthy([one.id for one in live.containers], deploy.settings)  # a server may be booting
    except Refused:
        return None
    image = engine.image(deploy.image)
    confirmed = Deploy(project, deploy.by, Live("", "", ()), deploy.steps)
    compose.start_missing(project, ["proxy"], engine.containers(deploy.settings.project))
    _prove(confirmed, confirmed.containers(), image)
    health.prove_version(_proxy(confirmed), deploy.tag)
    return confirmed


def _prepare(deploy: Deploy, forward: bool) -> tuple[Any, dict[str, Any], str]:
    """Everything that touches nothing: the image, the services of the release, and what success is called."""
    directory, current = deploy.directory, deploy.settings
    deploy.steps.begin("pull", deploy.image)
    release.check_disk(directory, current)
    image = release.pull(directory, deploy.image)
    outcome = history.LIVE
    live = engine.image(current.release_image(deploy.live.tag)) if deploy.live.tag else None
    if live and release.is_older(image, live):
        if forward:
            raise Refused(
                f"{deploy.tag} ({release.describe_order(image)}) is older than the live release "
                f"({release.describe_order(live)}): to roll back, set IMAGE_TAG in .env and run deploy.sh"
            )
        outcome = history.ROLLBACK
    release.unpack(directory, current, deploy.tag)
    services = compose.services(deploy.project)
    compose.pull_missing(deploy.project, services)
    return image, services, outcome


def _start(deploy: Deploy, services: dict[str, Any]) -> list[Container]:
    """Migrate if needed, and start the new containers next to the current ones; they get no requests yet."""
    existing = engine.containers(deploy.settings.project)
    others = [name for name in services if name not in ("api", "front", "proxy", *compose.ONE_SHOTS)]
    compose.start_missing(deploy.project, others, existing)
    state.point_to(deploy.directory, deploy.live.front)
    if "migrate" in services:
        deploy.steps.begin("migrate")
        _migrate_and_create(deploy, services)
        deploy.steps.begin("start")
    else:
        deploy.steps.begin("start")
        _create(deploy)
    created = deploy.containers()
    expected = deploy.settings.api_replicas + 1
    if len(created) != expected:
        raise Refused(
            f"{len(created)} containers have the label quai.deploy, not {expected}: see docker-compose.prod.yml"
        )
    engine.in_parallel(engine.start, [one.id for one in created])
    compose.start_missing(deploy.project, ["proxy"], existing)
    return created


def _migrate_and_create(deploy: Deploy, services: dict[str, Any]) -> None:
    """Look for pending migrations while the new containers are created; none starts before its migration."""
    calls: list[Callable[[], object]] = [
        lambda: backup.is_migration_pending(deploy.project, services),
        lambda: _create(deploy),
    ]
    # In a first deploy one after the other: both would create the networks.
    pending, _ = engine.in_parallel(_call, calls) if deploy.live.containers else map(_call, calls)
    if pending:
        backup.migrate(deploy.project, services)


def _call(action: Callable[[], object]) -> object:
    return action()


def _create(deploy: Deploy) -> None:
    """Create the new containers, without starting them."""
    existing = releases(deploy.settings)
    scale = [
        f"--scale={service}={sum(one.service == service for one in existing) + count}"
        for service, count in (("api", deploy.settings.api_replicas), ("front", 1))
    ]
    done = compose.run(deploy.project, "up", "--no-start", "--no-deps", "--no-recreate", *scale, "api", "front")
    if done.code:
        raise Refused("Compose cannot create the new containers: see above")


def _proxy(deploy: Deploy) -> Container:
    found = engine.containers(deploy.settings.project, "com.docker.compose.service=proxy")
    if not found:
        raise Refused("the proxy does not run: see docker-compose.prod.yml")
    return found[0]


def _prove(deploy: Deploy, started: list[Container], image: Any) -> Container:
    """Refused unless the image that was requested runs, and answers through its own front, which is returned."""
    for container in started:
        if container.service == "api" and container.image_id != image["Id"]:
            raise Refused(f"{container.name} does not run {deploy.image}")
    front = next(container for container in started if container.service == "front")
    health.prove_version(front, deploy.tag)
    return front

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
from server.repair import Live, front_name, release_containers
from server.settings import Settings
from server.state import say


@dataclass
class Steps:
    """The steps of a deploy, printed when they begin and timed in seconds."""

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
            self.seconds[self.name] = time.monotonic() - self.began
        self.name = ""


@dataclass(frozen=True)
class Deploy:
    """One attempt to make a release live, and what was live when it began."""

    project: Project
    actor: str
    live: Live
    steps: Steps

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

    def containers(self, service: str = "") -> list[Container]:
        """Return the containers that this deploy created, of all services or of one."""
        own = [one for one in release_containers(self.settings) if one.deploy_id == self.project.deploy_id]
        return [one for one in own if service in ("", one.service)]


@dataclass(frozen=True)
class Plan:
    """What `_prepare` found: the image, the services of the compose file, and the outcome of a success."""

    image: Any
    services: dict[str, Any]
    outcome: str
    has_same_migrations: bool


def roll_out(deploy: Deploy, refuse_older: bool) -> tuple[Deploy, str]:
    """Run all steps up to the write of .env. Return the deploy that is live then, and its outcome."""
    if unchanged := _find_unchanged(deploy):
        return unchanged, history.LIVE
    plan = _prepare(deploy, refuse_older)
    started = _start(deploy, plan)
    deploy.steps.begin("wait", "until healthy")
    health.wait_until_healthy(started, deploy.settings)
    deploy.steps.begin("prove")
    front = _verify(deploy, plan.image)
    deploy.steps.begin("switch")
    state.point_to(deploy.directory, front_name(deploy.project.deploy_id))
    health.verify_version(_proxy(deploy), deploy.tag)
    deploy.steps.begin("watch")
    health.watch(started, front, deploy.tag, deploy.settings)
    return deploy, plan.outcome


def _find_unchanged(deploy: Deploy) -> Deploy | None:
    """Return the live deploy if it has this tag and these settings, is complete, healthy and answers; else None."""
    live = deploy.live
    project = Project(deploy.directory, deploy.settings, deploy.tag, live.deploy_id)
    if live.tag != deploy.tag or not project.release.is_dir():
        return None
    if len(live.containers) != deploy.settings.api_replicas + 1:
        return None
    hashes = compose.hashes(project, "api", "front")
    if any(one.labels.get("com.docker.compose.config-hash") != hashes.get(one.service) for one in live.containers):
        return None
    unchanged = Deploy(project, deploy.actor, live, deploy.steps)
    try:
        # They may still be starting after a reboot.
        health.wait_until_healthy([one.id for one in live.containers], deploy.settings)
        compose.start_missing(project, ["proxy"], engine.containers(deploy.settings.project))
        _verify(unchanged, engine.image(deploy.image))
        health.verify_version(_proxy(unchanged), deploy.tag)
    except Refused as error:
        say(f"the live release is replaced: {error}")
        return None
    return unchanged


def _prepare(deploy: Deploy, refuse_older: bool) -> Plan:
    """Pull, check and unpack; nothing that runs is changed."""
    directory, current = deploy.directory, deploy.settings
    deploy.steps.begin("pull", deploy.image)
    release.check_disk(directory, current)
    image = release.pull(directory, deploy.image)
    outcome = history.LIVE
    live_api = next((one for one in deploy.live.containers if one.service == "api"), None)
    live = engine.image(live_api.image_id) if live_api else None
    if release.is_older(image, live):
        if refuse_older:
            raise Refused(
                f"{deploy.tag} ({release.describe_order(image)}) is older than the live release "
                f"({release.describe_order(live)}): to roll back, set IMAGE_TAG in .env and run deploy.sh"
            )
        outcome = history.ROLLBACK
    release.unpack(directory, current, deploy.tag)
    configuration = compose.configuration(deploy.project)
    if deploy.live.containers:
        compose.check_networks(deploy.project, configuration, deploy.live.tag)
    compose.pull_missing(deploy.project, configuration["services"])
    return Plan(image, configuration["services"], outcome, release.has_same_migrations(image, live))


def _start(deploy: Deploy, plan: Plan) -> list[str]:
    """Migrate if needed, and start the new containers next to the current ones; they get no requests yet.

    Return their ids.
    """
    existing = engine.containers(deploy.settings.project)
    others = [name for name in plan.services if name not in ("api", "front", "proxy", *compose.ONE_SHOTS)]
    compose.start_missing(deploy.project, others, existing)
    state.point_to(deploy.directory, deploy.live.front)
    if "migrate" in plan.services:
        deploy.steps.begin("migrate")
        started = _migrate_and_create(deploy, plan)
        deploy.steps.begin("start")
    else:
        deploy.steps.begin("start")
        started = _create(deploy)
    engine.in_parallel(engine.start, started)
    compose.start_missing(deploy.project, ["proxy"], existing)
    return started


def _migrate_and_create(deploy: Deploy, plan: Plan) -> list[str]:
    """Check for pending migrations while the new containers are created, and migrate if there are any.

    No release starts before its migrations. One with the migrations of the live release has none to wait for: it
    starts at once, and the check only confirms that.
    """
    ids: list[str] = []

    def check() -> bool:
        return backup.run_check(deploy.project, plan.services)

    def create() -> bool:
        ids.extend(_create(deploy))
        if plan.has_same_migrations:
            engine.in_parallel(engine.start, ids)
        return True

    calls: list[Callable[[], bool]] = [check, create]
    # In a first deploy one after the other: both would create the networks.
    is_pending = engine.in_parallel(lambda call: call(), calls)[0] if deploy.live.containers else check()
    if is_pending:
        engine.in_parallel(engine.stop_at_once, ids)
        backup.migrate(deploy.project, plan.services, deploy.live.deploy_id)
    if not deploy.live.containers:
        create()
    return ids


def _create(deploy: Deploy) -> list[str]:
    """Create the new containers, without starting them, and return their ids."""
    existing = release_containers(deploy.settings)
    scale = [
        f"--scale={service}={sum(one.service == service for one in existing) + count}"
        for service, count in (("api", deploy.settings.api_replicas), ("front", 1))
    ]
    done = compose.run(deploy.project, "up", "--no-start", "--no-deps", "--no-recreate", *scale, "api", "front")
    if done.code:
        raise Refused("Compose cannot create the new containers: see above")
    created = deploy.containers()
    expected = deploy.settings.api_replicas + 1
    if len(created) != expected:
        raise Refused(
            f"{len(created)} containers have the label quai.deploy, not {expected}: api and front in "
            "docker-compose.prod.yml need the labels quai.deploy and quai.tag"
        )
    return [one.id for one in created]


def _proxy(deploy: Deploy) -> Container:
    found = engine.containers(deploy.settings.project, "com.docker.compose.service=proxy")
    if not found:
        raise Refused("there is no container of the service proxy: see docker-compose.prod.yml")
    return found[0]


def _verify(deploy: Deploy, image: Any | None) -> Container:
    """Verify the image and the version of the deploy's containers, and return its front. Raises Refused."""
    started = deploy.containers()
    for container in started:
        if container.service == "api" and container.image_id != (image or {}).get("Id"):
            raise Refused(f"{container.name} does not run {deploy.image}")
    front = next((container for container in started if container.service == "front"), None)
    if front is None:
        raise Refused("there is no container of the service front")
    health.verify_version(front, deploy.tag)
    return front

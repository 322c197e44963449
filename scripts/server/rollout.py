"""The rollout: prepare, migrate, start next to the current release, verify, switch, watch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from server import compose, engine, health, history, migrations, release, state
from server.attempt import Attempt
from server.engine import Container
from server.errors import Refused
from server.repair import release_containers
from server.settings import Settings
from server.state import say


@dataclass(frozen=True)
class Plan:
    """What `_prepare` found: the services, the outcome to record, and whether the migrations are unchanged."""

    services: dict[str, Any]
    outcome: str
    has_same_migrations: bool


def confirm_live(attempt: Attempt) -> bool:
    """Return whether the live release can stay: it has this tag and these settings, and all its containers serve.

    Starts other services that are not running. Waits up to HEALTH_SECONDS: after a reboot all may still be starting.
    """
    live, settings = attempt.live, attempt.settings
    project = attempt.with_live_containers().project
    if live.tag != attempt.tag or not project.release.is_dir():
        return False
    running = [container for container in live.containers if container.is_running]
    if not len(running) == len(live.containers) == settings.api_replicas + 1:
        return False
    hashes = compose.hashes(project, "api", "front")
    for container in running:
        if container.labels.get("com.docker.compose.config-hash") != hashes.get(container.service):
            return False
    try:
        existing = engine.containers(settings.project)
        compose.start_missing(project, compose.other_services(compose.configuration(project)["services"]), existing)
        ids = [container.id for container in live.containers]
        health.wait_until_healthy(ids, settings, may_have_restarted=True)
        _verify(live.containers, attempt.image, attempt.tag)
        health.verify_version(_find_proxy(settings), attempt.tag)
    except Refused as error:
        say(f"the live release must be replaced: {error}")
        return False
    return True


def roll_out(attempt: Attempt, refuse_older: bool) -> str:
    """Run all steps up to, not including, the write of .env. Return the outcome. Raises Refused."""
    plan = _prepare(attempt, refuse_older)
    created = _start(attempt, plan)
    attempt.steps.begin("wait", "until healthy")
    health.wait_until_healthy(created, attempt.settings)
    attempt.steps.begin("verify")
    front = _verify(attempt.find_containers(), attempt.image, attempt.tag)
    attempt.steps.begin("switch")
    state.write_upstream(attempt.directory, state.FRONT_PREFIX + attempt.project.deploy_id)
    health.verify_version(_find_proxy(attempt.settings), attempt.tag)
    attempt.steps.begin("watch")
    health.watch(created, front, attempt.tag, attempt.settings)
    return plan.outcome


def _prepare(attempt: Attempt, refuse_older: bool) -> Plan:
    """Pull, check and unpack; nothing that is running is changed."""
    directory, settings = attempt.directory, attempt.settings
    attempt.steps.begin("pull", attempt.image)
    image = release.pull(directory, settings, attempt.tag)
    live_image, outcome = _find_live_image(attempt), history.LIVE
    if release.is_older(image, live_image):
        if refuse_older:
            raise Refused(
                f"{attempt.tag} ({release.describe_order(image)}) is older than the live release "
                f"({release.describe_order(live_image)}): to roll back, set IMAGE_TAG in .env and run deploy.sh"
            )
        outcome = history.ROLLBACK
    release.unpack(directory, settings, attempt.tag)
    configuration = compose.configuration(attempt.project)
    if attempt.live.containers:
        compose.check_networks(attempt.project, configuration, attempt.live.tag)
    compose.pull_missing(attempt.project, configuration["services"])
    return Plan(configuration["services"], outcome, release.has_same_migrations(image, live_image))


def _find_live_image(attempt: Attempt) -> Any | None:
    """Return the inspect data of the live release's image; None if there is none."""
    live = attempt.live
    ids = [container.image_id for container in live.containers if container.service == "api"]
    if not ids and not live.tag:
        return None
    return engine.image(ids[0] if ids else attempt.settings.release_image(live.tag))


def _start(attempt: Attempt, plan: Plan) -> list[str]:
    """Migrate if needed, and start the new containers next to the current ones. Return their ids.

    A release serves only after its migrations have run. If its migrations are those of the live release, it starts
    before the check. If the check finds a pending migration, the new containers are killed, and started again after
    the migration.
    """
    existing = engine.containers(attempt.settings.project)
    others = compose.other_services(plan.services)
    compose.start_missing(attempt.project, [name for name in others if name != "proxy"], existing)
    # From here on, both fronts have the network name `front`: use the name that only the current one has.
    state.write_upstream(attempt.directory, attempt.live.front)
    created: list[str] = []
    if plan.has_same_migrations:
        created = _create_and_start(attempt)
    if "migrate" in plan.services:
        attempt.steps.begin("migrate")
        if migrations.are_pending(attempt.project, plan.services):
            engine.in_parallel(engine.kill, created)
            migrations.migrate(attempt.project, plan.services)
            engine.in_parallel(engine.start, created)
    created = created or _create_and_start(attempt)
    compose.start_missing(attempt.project, ["proxy"], existing)
    return created


def _create_and_start(attempt: Attempt) -> list[str]:
    attempt.steps.begin("start")
    created = _create(attempt)
    engine.in_parallel(engine.start, created)
    return created


def _create(attempt: Attempt) -> list[str]:
    """Create the new containers, without starting them, and return their ids."""
    existing = release_containers(attempt.settings)
    scale = [
        f"--scale={service}={sum(container.service == service for container in existing) + count}"
        for service, count in (("api", attempt.settings.api_replicas), ("front", 1))
    ]
    result = compose.run(attempt.project, "up", "--no-start", "--no-deps", "--no-recreate", *scale, "api", "front")
    if result.code:
        raise Refused("Compose cannot create the new containers: see above")
    created = attempt.find_containers()
    expected = attempt.settings.api_replicas + 1
    if len(created) != expected:
        raise Refused(
            f"expected {expected} containers with the label quai.deploy, found {len(created)}: api and front in "
            "docker-compose.prod.yml need the labels quai.deploy and quai.tag"
        )
    return [container.id for container in created]


def _find_proxy(settings: Settings) -> Container:
    found = engine.containers(settings.project, "com.docker.compose.service=proxy")
    if not found:
        raise Refused("there is no container of the service proxy: see docker-compose.prod.yml")
    return found[0]


def _verify(containers: Sequence[Container], image: str, tag: str) -> Container:
    """Verify the image and the version of a release's containers, and return its front. Raises Refused."""
    image_id = (engine.image(image) or {}).get("Id")
    for container in containers:
        if container.service == "api" and container.image_id != image_id:
            raise Refused(f"{container.name} is not running {image}")
    front = next((container for container in containers if container.service == "front"), None)
    if front is None:
        raise Refused("there is no container of the service front")
    health.verify_version(front, tag)
    return front

"""The rollout with Docker Compose: migrate, start next to the current release, verify, switch, watch."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from server import commands, compose, diagnostics, engine, health, history, migrations, repair, roles, state
from server.attempt import Attempt, Live
from server.engine import Container
from server.errors import Refused
from server.plan import Plan, prepare
from server.settings import Settings
from server.state import say

STATUS = "table {{.Names}}\t{{.Status}}\t{{.Image}}"


def find_live(directory: Path, settings: Settings) -> Live:
    """Return the live release."""
    return repair.find_live(repair.release_containers(settings), settings.deploy_id, state.upstream(directory))


def clean_up(directory: Path, settings: Settings) -> Live:
    """Keep the live release, remove what an interrupted deploy left, and return the live release."""
    return repair.repair(directory, settings)


def find_containers(attempt: Attempt) -> list[Container]:
    """Return the containers of this release: those with this deploy id."""
    containers = repair.release_containers(attempt.settings)
    return [container for container in containers if container.deploy_id == attempt.project.deploy_id]


def keep_live(attempt: Attempt) -> bool:
    """Keep the live release if it has this tag and these settings, and all its containers run.

    Return whether it was kept. Starts other services that are not running. Waits up to HEALTH_SECONDS: after a reboot
    all may still be starting.
    """
    live, settings = attempt.live, attempt.settings
    project = attempt.for_live_release().project
    if live.tag != attempt.tag or not project.release.is_dir():
        return False
    entry = history.find_live_entry(attempt.directory, live.deploy_id)
    if entry and entry.tag != live.tag:
        say(
            f"the live containers have the tag {live.tag}, but deploys.log has {entry.tag} for their deploy: docker "
            f"compose was run by hand; deploying {live.tag} again"
        )
        return False
    services = compose.configuration(project)["services"]
    names = roles.release_services(services, attempt.image)
    running = [container for container in live.containers if container.is_running]
    if len(running) < len(live.containers) or Counter(container.service for container in running) != names:
        return False
    hashes = compose.hashes(project, *names)
    for container in running:
        if container.labels.get("com.docker.compose.config-hash") != hashes.get(container.service):
            say(f"the settings of {container.service} have changed: replacing the release")
            return False
    compose.start_missing(project, roles.other_services(services), engine.containers(settings.project))
    try:
        ids = [container.id for container in live.containers]
        health.wait_until_healthy(ids, settings, may_have_restarted=True)
        target = health.make_target(live.containers, settings, attempt.tag)
        _verify(live.containers, services, target)
        health.verify(_find_proxy(settings), target)
    except Refused as error:
        say(f"the live release fails a check ({error}): deploying it again")
        return False
    return True


def roll_out(attempt: Attempt, refuse_older: bool) -> str:
    """Run all steps up to, not including, the write of .env. Return the outcome. Raises Refused."""
    plan = prepare(attempt, refuse_older)
    if attempt.live.containers:
        compose.require_same_networks(attempt.project, plan.configuration, attempt.live.tag)
    serving = _start(attempt, plan)
    attempt.steps.begin("wait", "until healthy")
    health.wait_until_healthy(serving, attempt.settings)
    workers = _start_workers(attempt)
    attempt.steps.begin("verify")
    containers = find_containers(attempt)
    target = health.make_target(containers, attempt.settings, attempt.tag)
    front = _verify(containers, plan.services, target)
    attempt.steps.begin("switch")
    state.write_upstream(attempt.directory, state.FRONT_PREFIX + attempt.project.deploy_id)
    health.verify(_find_proxy(attempt.settings), target)
    attempt.steps.begin("watch")
    probe_front = partial(health.find_problem, front.name, front.address, target)
    health.watch(serving + workers, attempt.settings, probe_front, "after the switch")
    return plan.outcome


def _start(attempt: Attempt, plan: Plan) -> list[str]:
    """Migrate if needed, and start the new API and front next to the current ones. Return the ids of their containers.

    A release serves only after its migrations have run. If its migrations are those of the live release, it starts
    before the service `check`, to save time. If that finds a pending migration, the new containers are stopped, and
    started again after the migration.
    """
    existing = engine.containers(attempt.settings.project)
    # Not yet: the proxy (after the new containers), and services that no longer belong to the release (after their
    # previous containers have ended).
    started_later = {"proxy", *(container.service for container in attempt.live.containers)}
    others = [name for name in roles.other_services(plan.services) if name not in started_later]
    compose.start_missing(attempt.project, others, existing)
    # From here on, both fronts have the network name `front`: use the name that only the current one has.
    state.write_upstream(attempt.directory, attempt.live.front)
    created: list[str] = []
    if plan.has_same_migrations:
        created = _create_and_start(attempt, plan)
    if "migrate" in plan.services:
        attempt.steps.begin("migrate")
        if migrations.check_pending(attempt.project, plan.services):
            engine.in_parallel(engine.stop_now, created)
            migrations.migrate(attempt.project, plan.services)
            engine.in_parallel(engine.start, created)
    created = created or _create_and_start(attempt, plan)
    compose.start_missing(attempt.project, ["proxy"], existing)
    return created


def _create_and_start(attempt: Attempt, plan: Plan) -> list[str]:
    """Create the containers of all services of the release, and start those of the API and the front."""
    attempt.steps.begin("start")
    _create(attempt, plan.replicas)
    return _start_services(attempt, roles.SERVING)


def _create(attempt: Attempt, replicas: Mapping[str, int]) -> None:
    existing = Counter(container.service for container in engine.containers(attempt.settings.project))
    scale = [f"--scale={service}={existing[service] + count}" for service, count in replicas.items()]
    result = compose.run(attempt.project, "up", "--no-start", "--no-deps", "--no-recreate", *scale, *replicas)
    if result.code:
        raise Refused("Compose cannot create the new containers: see above")
    created = Counter(container.service for container in find_containers(attempt))
    if created != replicas:
        raise Refused(
            f"expected new containers with the label quai.deploy: {_describe(replicas)}; found: {_describe(created)}; "
            "each service of the release in docker-compose.prod.yml needs the labels quai.deploy and quai.tag"
        )


def _describe(replicas: Mapping[str, int]) -> str:
    return ", ".join(f"{count} of {service}" for service, count in replicas.items()) or "none"


def _start_services(attempt: Attempt, services: Collection[str]) -> list[str]:
    """Start the new containers of these services, and return their ids."""
    created = [container.id for container in find_containers(attempt) if container.service in services]
    engine.in_parallel(engine.start, created)
    return created


def _start_workers(attempt: Attempt) -> list[str]:
    """Start the workers next to the current ones, wait until they are healthy, and return their ids.

    Singletons start later, when the previous ones have ended.
    """
    containers = find_containers(attempt)
    later = roles.singletons([*containers, *attempt.live.containers])
    names = sorted({container.service for container in containers} - later - set(roles.SERVING))
    if not names:
        return []
    attempt.steps.begin("workers", ", ".join(names))
    started = _start_services(attempt, names)
    health.wait_until_healthy(started, attempt.settings)
    return started


def _find_proxy(settings: Settings) -> Container:
    found = engine.containers(settings.project, "com.docker.compose.service=proxy")
    if not found:
        raise Refused("there is no container of the service proxy: see docker-compose.prod.yml")
    return found[0]


def _verify(containers: Sequence[Container], services: Mapping[str, Any], target: health.Target) -> Container:
    """Verify the images of a release's containers and the response of its front; return the front. Raises Refused."""
    images = {container.service: services[container.service]["image"] for container in containers}
    ids = {image: (engine.image(image) or {}).get("Id") for image in set(images.values())}
    for container in containers:
        image = images[container.service]
        if container.image_id != ids[image]:
            raise Refused(f"{container.name} is not running {image}")
    front = next((container for container in containers if container.service == "front"), None)
    if front is None:
        raise Refused("there is no container of the service front")
    health.verify(front, target)
    return front


def finish(attempt: Attempt) -> str:
    """Remove the previous release. Return which singletons cannot be started, and why; empty if all were."""
    problem = repair.keep_only(attempt.directory, attempt.settings, attempt.project.deploy_id)
    _start_former_services(attempt)
    _rename_containers(attempt)
    return problem


def _start_former_services(attempt: Attempt) -> None:
    """Start services that belonged to the previous release, and are now services that a deploy does not replace."""
    former = {container.service for container in attempt.live.containers} - {
        container.service for container in find_containers(attempt)
    }
    if former:
        others = roles.other_services(compose.configuration(attempt.project)["services"])
        existing = engine.containers(attempt.settings.project)
        compose.start_missing(attempt.project, [name for name in others if name in former], existing)


def _rename_containers(attempt: Attempt) -> None:
    """Name the containers <project>-<service>-1, -2 and so on: Compose always counts up."""
    numbers = Counter[str]()
    for container in find_containers(attempt):
        numbers[container.service] += 1
        name = f"{attempt.settings.project}-{container.service}-{numbers[container.service]}"
        if container.name != name:
            engine.rename(container.id, name)


def withdraw(attempt: Attempt) -> None:
    """Send requests to the release that was live."""
    repair.move_upstream(attempt.directory, attempt.live.front)


def diagnose(attempt: Attempt) -> None:
    """Show why the new release failed."""
    created = find_containers(attempt)
    started = [found for found in created if found.state != "created" or found.service in roles.SERVING]
    diagnostics.show(attempt.directory, {container.name: container.id for container in started})


def apply_services(project: compose.Project, names: Sequence[str]) -> None:
    """Recreate those services that have changed settings. Raises Refused."""
    if compose.run(project, "up", "--detach", "--no-deps", "--wait", *names).code:
        raise Refused("some services are not healthy: see above")


def show_containers(directory: Path, settings: Settings) -> None:
    """Print all containers of the project, and whether a deploy is running."""
    upstream = state.upstream(directory)
    if upstream.startswith(state.FRONT_PREFIX):
        state.say(f"requests go to {upstream}: a deploy is running; if not, 'sudo {directory}/deploy.sh' cleans up")
    project = f"label=com.docker.compose.project={settings.project}"
    commands.docker(directory, "ps", "--all", "--filter", project, "--format", STATUS)

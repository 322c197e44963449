"""The plan of a rollout: the release is pulled, checked and unpacked. Nothing that is running is changed."""

from dataclasses import dataclass
from typing import Any

from server import compose, engine, history, release, roles
from server.attempt import Attempt
from server.errors import Refused
from server.state import say


@dataclass(frozen=True)
class Plan:
    """What is rolled out. `replicas` is the number of containers of each service of the release."""

    configuration: dict[str, Any]
    replicas: dict[str, int]
    outcome: str
    has_same_migrations: bool

    @property
    def services(self) -> dict[str, Any]:
        """The services of the resolved compose file."""
        services: dict[str, Any] = self.configuration["services"]
        return services


def prepare(attempt: Attempt, refuse_older: bool) -> Plan:
    """Pull, check and unpack the release. Raises Refused."""
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
    services = configuration["services"]
    replicas = roles.release_services(services, attempt.image)
    compose.pull_missing(attempt.project, services)
    if not roles.labels(services["api"]).get(roles.HEALTH_PATH_LABEL, "unknown"):
        say("no health path: any status below 500 on / counts as healthy, which only proves that the process answers")
    return Plan(configuration, replicas, outcome, release.has_same_migrations(image, live_image))


def _find_live_image(attempt: Attempt) -> Any | None:
    """Return the inspect data of the live release's image; None if there is none."""
    live = attempt.live
    ids = [container.image_id for container in live.containers if container.service == "api" and container.image_id]
    if not ids and not live.tag:
        return None
    return engine.image(ids[0] if ids else attempt.settings.release_image(live.tag))

"""The services of a release: api and front, workers, and singletons, such as a scheduler."""

from collections.abc import Iterable, Mapping
from typing import Any

from server.engine import Container
from server.errors import Refused

RELEASE_LABEL = "quai.deploy"  # a label of each service of a release; its value is the id of the deploy
TAG_LABEL = "quai.tag"  # a label of each service of a release; its value is the commit
SINGLETON_LABEL = "quai.single"  # a label of a singleton: two instances of it must never run at the same time
HEALTH_PATH_LABEL = "quai.health-path"  # a label of the API; its value is empty if there is no health path
SERVING = ("api", "front")
ONE_SHOTS = ("check", "backup", "migrate")


def release_services(services: Mapping[str, Any], image: str) -> dict[str, int]:
    """Return the services of a release, each with its number of containers.

    Raises Refused if the labels of a service are wrong: a deploy would leave it running, or run two instances of it.
    """
    found = {name: replicas(service) for name, service in services.items() if RELEASE_LABEL in labels(service)}
    requires_labels = not is_version_1(services)  # in version 1, workers were not part of a release
    for name, service in services.items():
        uses_image = service.get("image") == image and name not in ONE_SHOTS and replicas(service)
        lacks_labels = uses_image and name not in found and requires_labels
        if lacks_labels or (name in found and TAG_LABEL not in labels(service)):
            raise Refused(
                f"the service {name} uses the release's image: add the labels {RELEASE_LABEL} and {TAG_LABEL} to it in "
                "docker-compose.prod.yml, as on api (labels: *labels), so that each deploy replaces it"
            )
        if labels(service).get(SINGLETON_LABEL, "true") not in ("true", "false"):
            raise Refused(f'the label {SINGLETON_LABEL} of the service {name} must be "true" or "false"')
        if found.get(name, 0) > 1 and is_singleton(labels(service)):
            raise Refused(f"the service {name} has the label {SINGLETON_LABEL}: it cannot have {found[name]} replicas")
    for name in SERVING:
        if name not in found:
            raise Refused(f"docker-compose.prod.yml has no service {name} with the label {RELEASE_LABEL}")
    return {name: count for name, count in found.items() if count}


def is_version_1(services: Mapping[str, Any]) -> bool:
    """Return whether these services are those of a release of version 1: its api has no label quai.health-path."""
    return HEALTH_PATH_LABEL not in labels(services.get("api", {}))


def labels(service: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the labels of a service."""
    return service.get("labels") or {}


def replicas(service: Mapping[str, Any]) -> int:
    """Return the number of containers of a service in the compose file."""
    return int((service.get("deploy") or {}).get("replicas", service.get("scale", 1)))


def is_singleton(labels: Mapping[str, str]) -> bool:
    """Return whether at most one container of a service with these labels may run."""
    return labels.get(SINGLETON_LABEL) == "true"


def singletons(containers: Iterable[Container]) -> set[str]:
    """Return the services that have a container with the label of singletons.

    A release may add or remove the label: its previous containers count, too.
    """
    return {container.service for container in containers if is_singleton(container.labels)}


def other_services(services: Mapping[str, Any]) -> list[str]:
    """Return the services that a deploy does not replace, such as proxy and database."""
    return [
        name
        for name, service in services.items()
        if RELEASE_LABEL not in labels(service) and name not in ONE_SHOTS and replicas(service)
    ]

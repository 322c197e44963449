"""The file that `docker stack deploy` reads: services of the resolved compose file, with the rules of a release."""

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from server import commands, compose, engine, roles
from server.compose import Project
from server.errors import Refused

HASH = "quai.hash"  # a label of a service's containers: the digest of its configuration
MAIN_NODE = "node.labels.quai.main == true"  # the machine with the volumes and the singletons
# For the services of a release that are not singletons; docker-compose.swarm.yml takes precedence.
ROLLING = {"order": "start-first", "failure_action": "rollback", "monitor": "5s"}
ROLLBACK = {"order": "start-first", "failure_action": "continue", "monitor": "1s"}
BATCHES = 3  # a third of the tasks is replaced at a time
STOP_FIRST = {"order": "stop-first", "failure_action": "pause", "monitor": "5s"}
RESTART = {"condition": "any", "delay": "1s"}
# `docker stack deploy` rejects or ignores these; a tmpfs is converted to a volume.
UNSUPPORTED = ("depends_on", "restart", "security_opt", "network_mode", "tmpfs", "scale")


def build(
    configuration: Mapping[str, Any], names: Collection[str], directory: Path, *, may_roll_back: bool = True
) -> dict[str, Any]:
    """Return the file with these services of a resolved compose file, and all networks and volumes.

    Without `may_roll_back`, Swarm continues with the update of a release even if its tasks fail. Raises Refused.
    """
    services = {name: convert(name, configuration["services"][name], directory) for name in names}
    if not may_roll_back:
        for service in services.values():
            service["deploy"]["update_config"] = {
                **service["deploy"].get("update_config", {}),
                "failure_action": "continue",
            }
    return {
        "services": services,
        "networks": configuration.get("networks", {}),
        "volumes": configuration.get("volumes", {}),
    }


def check(project: Project, configuration: Mapping[str, Any], names: Collection[str]) -> None:
    """Raise Refused if `docker stack deploy` would not accept these services."""
    with compose.private_file(build(configuration, names, project.directory)) as file:
        words = ("docker", "stack", "config", "--compose-file=-")
        result = commands.run([*words], project.directory, input=file, capture=True)
    if result.code:
        raise Refused(f"Swarm does not accept docker-compose.prod.yml: {result.error.strip()}")


def convert(name: str, service: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """Return a service of a resolved compose file as `docker stack deploy` accepts it, with the rules of a release.

    `directory` is that of .env. Its folder releases is not mounted: it exists on this server only. Raises Refused.
    """
    for key in ("secrets", "configs"):  # `docker stack config` accepts them
        if service.get(key):
            raise Refused(f"{name} has {key}, which Swarm cannot change later: use settings in .env instead")
    found = {key: value for key, value in service.items() if key not in UNSUPPORTED and value is not None}
    tmpfs = service.get("tmpfs") or []
    folders = [folder.partition(":")[0] for folder in ([tmpfs] if isinstance(tmpfs, str) else tmpfs)]
    volumes = [
        {key: value for key, value in volume.items() if key != "bind"}
        for volume in service.get("volumes") or []
        if volume.get("source") != str(directory / "releases")
    ]
    found["volumes"] = volumes + [{"type": "tmpfs", "target": folder} for folder in folders]
    found["ports"] = [_port(name, port) for port in service.get("ports") or []]
    found["image"] = pinned(service["image"])
    deploy = {"endpoint_mode": "dnsrr", "restart_policy": RESTART, **(service.get("deploy") or {})}
    if "scale" in service:
        deploy.setdefault("replicas", roles.replicas(service))
    labels, placement = roles.labels(service), deploy.get("placement") or {}
    constraints = placement.get("constraints") or []
    has_data = any(volume["type"] != "tmpfs" for volume in volumes)  # on another node, it would be another volume
    if roles.is_singleton(labels) or (has_data and not constraints):
        deploy["placement"] = {**placement, "constraints": [*constraints, MAIN_NODE]}
    if roles.is_singleton(labels):
        deploy |= {"mode": "replicated", "update_config": STOP_FIRST, "rollback_config": STOP_FIRST}
    elif roles.RELEASE_LABEL in labels:
        parallel = {"parallelism": math.ceil(deploy.get("replicas", 1) / BATCHES)}
        deploy["update_config"] = {**ROLLING, **parallel, **(deploy.get("update_config") or {})}
        deploy["rollback_config"] = {**ROLLBACK, **parallel, **(deploy.get("rollback_config") or {})}
    return {**found, "deploy": deploy, "labels": {**labels, HASH: digest(name, service)}}


def _port(name: str, port: Mapping[str, Any]) -> dict[str, Any]:
    published = str(port.get("published", ""))
    if not published.isdecimal() or "host_ip" in port:
        raise Refused(
            f"the ports of {name} in docker-compose.prod.yml: Swarm publishes single ports, on all addresses of a "
            "machine; it accepts no range, and no address such as 127.0.0.1: if .env sets the port (HTTP_PORT), write "
            "only a number there; otherwise remove the ports in docker-compose.swarm.yml (ports: !reset [])"
        )
    return {**port, "published": int(published), "mode": "host"}


def digest(name: str, service: Mapping[str, Any]) -> str:
    """Return the digest of a service of a resolved compose file."""
    return hashlib.sha256(json.dumps([name, service], sort_keys=True).encode()).hexdigest()[:16]


def pinned(image: str) -> str:
    """Return the name of an image with the digest that this node pulled, so that all nodes run the same."""
    digests = (engine.image(image) or {}).get("RepoDigests") or []
    repository = image.rpartition(":")[0] if ":" in image.rpartition("/")[2] else image
    same = [digest.partition("@")[2] for digest in digests if digest.partition("@")[0] == repository]
    return f"{image}@{same[0]}" if same and "@" not in image else image

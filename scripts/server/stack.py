"""The stack of an application in Docker Swarm: converts its services, applies them, and waits for their tasks."""

import hashlib
import json
import math
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from server import commands, compose, engine, roles
from server.compose import Project
from server.errors import Refused
from server.settings import Settings

NAMESPACE = "com.docker.stack.namespace"  # a label of all services and tasks of a stack
HASH = "quai.hash"  # a label of a service: the digest of its configuration
MAIN_NODE = "node.labels.quai.main == true"  # the machine with the database's volume and the singletons
POLL_SECONDS = 0.2
# For the services of a release; docker-compose.swarm.yml takes precedence.
ROLLING = {"order": "start-first", "failure_action": "rollback", "monitor": "5s"}
BATCHES = 3  # a third of the tasks is replaced at a time
STOP_FIRST = {"order": "stop-first", "failure_action": "pause", "monitor": "5s"}
RESTART = {"condition": "any", "delay": "1s"}
# `docker stack deploy` rejects or ignores these.
UNSUPPORTED = ("depends_on", "restart", "security_opt", "network_mode", "tmpfs", "scale")
SHARED_FOLDER = 0o1777  # mode of a tmpfs: a task may run as any user


class Task(NamedTuple):
    """A task of a service: one container on one node. `desired` is the state that Swarm intends."""

    id: str
    service: str
    node: str
    node_id: str
    state: str
    desired: str
    error: str
    exit_code: int
    deploy_id: str
    tag: str

    @property
    def is_running(self) -> bool:
        """Whether it runs, is healthy, and is meant to stay. With a health check, it is healthy before it `runs`."""
        return self.state == self.desired == "running"

    @property
    def has_failed(self) -> bool:
        """Whether it ended, or could not start, without having been asked to stop."""
        return self.state in ("failed", "rejected")

    def __str__(self) -> str:
        """What happened to it, for messages."""
        code = f" (exit code {self.exit_code})" if self.exit_code and str(self.exit_code) not in self.error else ""
        return f"{self.service} on {self.node}: {self.error or self.state}{code}"


def convert(name: str, service: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """Return a service of a resolved compose file as `docker stack deploy` accepts it, with the rules of releases.

    `directory` is that of .env. Its folder releases is not mounted: it exists on this server only.
    """
    found = {key: value for key, value in service.items() if key not in UNSUPPORTED and value is not None}
    tmpfs = service.get("tmpfs") or []
    folders = [folder.partition(":")[0] for folder in ([tmpfs] if isinstance(tmpfs, str) else tmpfs)]
    volumes = [
        {key: value for key, value in volume.items() if key != "bind"}
        for volume in service.get("volumes") or []
        if volume.get("source") != str(directory / "releases")
    ]
    volumes += [{"type": "tmpfs", "target": folder, "tmpfs": {"mode": SHARED_FOLDER}} for folder in folders]
    found["volumes"] = volumes
    found["ports"] = [
        {**port, "published": int(port["published"]), "mode": "host"} for port in service.get("ports") or []
    ]
    found["image"] = pinned(service["image"])
    deploy = {"endpoint_mode": "dnsrr", "restart_policy": RESTART, **(service.get("deploy") or {})}
    if roles.is_singleton(roles.labels(service)):
        deploy["update_config"] = deploy["rollback_config"] = STOP_FIRST
        placement = deploy.get("placement") or {}
        deploy["placement"] = {**placement, "constraints": [*placement.get("constraints", []), MAIN_NODE]}
    elif roles.RELEASE_LABEL in roles.labels(service):
        parallel = {"parallelism": math.ceil(deploy.get("replicas", 1) / BATCHES)}
        rollback = {"order": "start-first", **parallel}
        deploy = {"update_config": {**ROLLING, **parallel}, "rollback_config": rollback, **deploy}
    found["deploy"] = {**deploy, "labels": {**(deploy.get("labels") or {}), HASH: digest(name, service)}}
    return found


def digest(name: str, service: Mapping[str, Any]) -> str:
    """Return the digest of a service of a resolved compose file."""
    return hashlib.sha256(json.dumps([name, service], sort_keys=True).encode()).hexdigest()[:16]


def pinned(image: str) -> str:
    """Return the name of an image with the digest that this node pulled, so that all nodes run the same."""
    digests = (engine.image(image) or {}).get("RepoDigests") or []
    repository = image.rpartition(":")[0] if ":" in image.rpartition("/")[2] else image
    same = [digest.partition("@")[2] for digest in digests if digest.partition("@")[0] == repository]
    return f"{image}@{same[0]}" if same and "@" not in image else image


def apply(project: Project, configuration: Mapping[str, Any], names: Collection[str]) -> None:
    """Create or update these services of the stack, and leave the others alone. Raises Refused.

    Swarm does the work afterwards: the exit code says only that it accepted the services.
    """
    stack = {
        "services": {name: convert(name, configuration["services"][name], project.directory) for name in names},
        "networks": configuration.get("networks", {}),
        "volumes": configuration.get("volumes", {}),
    }
    command = ("stack", "deploy", "--with-registry-auth", "--resolve-image=never", "--compose-file=-")
    words = ["docker", *command, project.settings.project]
    with compose.private_file(stack) as file:
        result = commands.run(words, project.directory, input=file, capture=True)
    if result.code:
        raise Refused(f"Swarm does not accept {' and '.join(names)}: {result.error.strip()}")


def services(settings: Settings) -> dict[str, Any]:
    """Return the services of the stack, by their name in the compose file."""
    return find_services(f"{NAMESPACE}={settings.project}", f"{settings.project}_")


def find_services(label: str, prefix: str = "") -> dict[str, Any]:
    """Return the services with this label, by their name without the prefix."""
    found = engine.get("/services", {"filters": json.dumps({"label": [label]}), "status": "true"})
    return {service["Spec"]["Name"].removeprefix(prefix): service for service in found}


def deploy_id(service: Mapping[str, Any]) -> str:
    """Return the id of the deploy of a service; empty if it is not part of a release."""
    return _labels(service["Spec"]["TaskTemplate"]).get(roles.RELEASE_LABEL, "")


def _labels(template: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the labels of the containers of a task, or of the tasks of a service."""
    return template["ContainerSpec"].get("Labels") or {}


def update_state(service: Mapping[str, Any]) -> str:
    """Return the state of the last update of a service; empty if it was not updated since it was created."""
    return str((service.get("UpdateStatus") or {}).get("State", ""))


def tasks(settings: Settings, found: Mapping[str, Any] | None = None) -> list[Task]:
    """Return the tasks of the stack that Swarm still knows, newest first. `found` are its services, if known."""
    return find_tasks(f"{NAMESPACE}={settings.project}", services(settings) if found is None else found)


def find_tasks(label: str, found: Mapping[str, Any]) -> list[Task]:
    """Return the tasks of the services found with this label, newest first."""
    names = {service["ID"]: name for name, service in found.items()}
    hosts = {node["ID"]: host_name(node) for node in engine.get("/nodes")}
    listed = engine.get("/tasks", {"filters": json.dumps({"label": [label]})})
    listed.sort(key=lambda task: str(task["CreatedAt"]), reverse=True)
    return [_task(task, names, hosts) for task in listed if task["ServiceID"] in names]


def host_name(node: Any) -> str:
    """Return the host name of a node; its id while it joins."""
    return str(node["Description"].get("Hostname") or node["ID"])


def _task(task: Any, names: Mapping[str, str], hosts: Mapping[str, str]) -> Task:
    labels, status = _labels(task["Spec"]), task["Status"]
    return Task(
        id=task["ID"],
        service=names[task["ServiceID"]],
        node=hosts.get(task.get("NodeID", ""), "no node"),
        node_id=task.get("NodeID", ""),
        state=status["State"],
        desired=task["DesiredState"],
        error=status.get("Err", ""),
        exit_code=(status.get("ContainerStatus") or {}).get("ExitCode") or 0,
        deploy_id=labels.get(roles.RELEASE_LABEL, ""),
        tag=labels.get(roles.TAG_LABEL, ""),
    )


def wait_until_updated(
    project: Project, names: Collection[str], *, is_new: bool = True, seconds: float | None = None
) -> None:
    """Return when all tasks of these services run as they were applied. Raises Refused, with why, if they do not.

    Swarm rolls back a service whose new tasks fail. If for `seconds` (HEALTH_SECONDS) no further task starts, and no
    node dies, the update has failed, too. Tasks of a release that is not new may have failed long ago.
    """
    limit = seconds or project.settings.health_seconds
    deadline, before = time.monotonic() + limit, (math.inf, 0)
    while missing := _count_missing(project, names, is_new):
        now = (sum(missing.values()), sum(node["Status"]["State"] == "ready" for node in engine.get("/nodes")))
        if now[0] < before[0] or now[1] != before[1]:  # Swarm moves the tasks of a dead node to others
            deadline, before = time.monotonic() + limit, now
        if time.monotonic() > deadline:
            raise Refused(f"the {next(iter(missing))} was not healthy within {limit:g} s (HEALTH_SECONDS in .env)")
        time.sleep(POLL_SECONDS)


def _count_missing(project: Project, names: Collection[str], is_new: bool) -> dict[str, int]:
    """Return the number of missing tasks of each service whose update has not completed. Raises Refused."""
    found = services(project.settings)
    listed, missing = tasks(project.settings, found), {}
    for name in names:
        current = deploy_id(found[name])
        own = [task for task in listed if task.service == name and task.deploy_id == current]
        update = update_state(found[name])
        failed = [task for task in listed if task.service == name and task.has_failed]
        if current not in ("", project.deploy_id):
            raise Refused(f"Swarm has rolled back the {name}{_describe(failed)}")
        if update in ("paused", "rollback_paused"):
            raise Refused(f"Swarm has stopped the update of the {name}{_describe(failed)}")
        # Swarm restarts the failed tasks of a service that it does not update.
        if is_new and current and not update and any(task.has_failed for task in own):
            raise Refused(f"the {name} has failed{_describe(failed)}")
        count = found[name]["ServiceStatus"]["DesiredTasks"] - sum(task.is_running for task in own)
        if count > 0 or update in ("updating", "rollback_started"):
            missing[name] = max(count, 0)
    return missing


def _describe(failed: Sequence[Task]) -> str:
    return f": {failed[0]}" if failed else ""


def remove(settings: Settings, names: Iterable[str]) -> None:
    """Remove services of the stack; missing ones are ignored. Raises EngineError."""
    found = services(settings)
    for name in names:
        if name in found:
            engine.remove_service(found[name]["ID"])

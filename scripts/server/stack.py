"""The stack of an application in Docker Swarm: applies its services, and reads services and tasks."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from server import commands, compose, engine, roles, stackfile
from server.compose import Project
from server.errors import Refused
from server.settings import Settings
from server.state import say

NAMESPACE = "com.docker.stack.namespace"  # a label of all services and tasks of a stack
SERVICE_NAME = "com.docker.swarm.service.name"  # a label of containers
JOB_LABEL = "quai.job"  # a label of services that a deploy creates for itself, and removes
POLL_SECONDS = 0.2
ENDED = ("complete", "failed", "rejected", "shutdown", "orphaned", "remove")  # states of a task
OUT_OF_SEQUENCE, UPDATE_TRIES = "update out of sequence", 3  # Swarm itself changed the service in the meantime


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
    hash: str = ""

    @property
    def is_running(self) -> bool:
        """Whether it runs, is healthy, and is meant to stay. With a health check, it is healthy before it `runs`."""
        return self.state == self.desired == "running"

    @property
    def is_starting(self) -> bool:
        """Whether its container has started, and is not healthy yet."""
        return self.state == "starting" and self.desired == "running"

    @property
    def has_failed(self) -> bool:
        """Whether it ended, or could not start, without having been asked to stop."""
        return self.state in ("failed", "rejected", "complete")

    def __str__(self) -> str:
        """What happened to it, for messages."""
        code = f" (exit code {self.exit_code})" if self.exit_code and str(self.exit_code) not in self.error else ""
        return f"{self.service} on {self.node}: {self.error or self.state}{code}"


def apply(
    project: Project, configuration: Mapping[str, Any], names: Collection[str], *, may_roll_back: bool = True
) -> None:
    """Create or update these services of the stack, and leave the others alone. Raises Refused.

    Swarm does the work afterwards: the exit code says only that it accepted the services.
    """
    command = ("stack", "deploy", "--with-registry-auth", "--resolve-image=never", "--compose-file=-")
    words = ["docker", *command, project.settings.project]
    for name in names:  # one at a time: a second update would make Swarm forget what the service was before
        content = stackfile.build(configuration, [name], project.directory, may_roll_back=may_roll_back)

        def deploy(content: Any = content) -> commands.Result:
            with compose.private_file(content) as file:
                return commands.run(words, project.directory, input=file, capture=True)

        result = _retry(deploy, f"Swarm does not accept {name}")
        for line in result.error.splitlines():
            if line.startswith("Ignoring"):
                say(f"{name}: {line}")


def _retry(action: Callable[[], commands.Result], problem: str) -> commands.Result:
    """Repeat a command if Swarm itself changes the service in the meantime. Return its result. Raises Refused."""
    for _ in range(UPDATE_TRIES):
        result = action()
        if OUT_OF_SEQUENCE not in result.error:
            break
    if result.code:
        raise Refused(f"{problem}: {result.error.strip()}")
    return result


def scale(project: Project, name: str, count: int) -> None:
    """Change the number of tasks of a service. Raises Refused."""
    words = ("service", "scale", "--detach", f"{project.settings.project}_{name}={count}")
    _retry(lambda: commands.docker(project.directory, *words, capture=True), f"Swarm does not scale {name}")


def roll_back(project: Project, name: str) -> None:
    """Let Swarm return a service to what it was before its last update, with its settings of that time."""
    words = ("service", "rollback", "--detach", "--quiet", f"{project.settings.project}_{name}")
    _retry(lambda: commands.docker(project.directory, *words, capture=True), f"Swarm does not roll back {name}")


def create_networks(project: Project, configuration: Mapping[str, Any], image: str) -> None:
    """Create the networks that the stack lacks: `docker stack deploy` creates those of its services only."""
    networks = configuration.get("networks", {})
    existing = {network["Name"] for network in engine.get("/networks")}
    missing = [key for key, one in networks.items() if one["name"] not in existing and not one.get("external")]
    if missing:
        labels = {JOB_LABEL: project.settings.project}
        service = {"image": image, "networks": missing, "deploy": {"replicas": 0, "labels": labels}}
        apply(project, {**configuration, "services": {"networks": service}}, ["networks"])
        end_jobs(project.settings)


def end_jobs(settings: Settings) -> None:
    """Remove the services that deploys created for themselves. Raises EngineError."""
    for job in find_services(f"{JOB_LABEL}={settings.project}").values():
        engine.remove_service(job["ID"])


def services(settings: Settings) -> dict[str, Any]:
    """Return the services of the stack, by their name in the compose file."""
    return find_services(f"{NAMESPACE}={settings.project}", f"{settings.project}_")


def find_services(label: str, prefix: str = "") -> dict[str, Any]:
    """Return the services with this label, by their name without the prefix."""
    found = engine.get("/services", {"filters": json.dumps({"label": [label]}), "status": "true"})
    return {service["Spec"]["Name"].removeprefix(prefix): service for service in found}


def labels(service: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the labels of the containers of a service."""
    return _labels(service["Spec"]["TaskTemplate"])


def environment(service: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the environment of the containers of a service; empty if there is no such service."""
    lines = service["Spec"]["TaskTemplate"]["ContainerSpec"].get("Env") or [] if service else []
    return dict(line.partition("=")[::2] for line in lines)


def deploy_id(service: Mapping[str, Any]) -> str:
    """Return the id of the deploy of a service; empty if it is not part of a release."""
    return labels(service).get(roles.RELEASE_LABEL, "")


def previous_deploy_id(service: Mapping[str, Any]) -> str | None:
    """Return the id of the deploy of a service before its last update.

    None if it was not updated, or if Swarm itself rolled it back.
    """
    previous = service.get("PreviousSpec")
    return _labels(previous["TaskTemplate"]).get(roles.RELEASE_LABEL, "") if previous else None


def replicas(service: Mapping[str, Any]) -> int | None:
    """Return the number of tasks of a service; None if each node runs one."""
    mode = service["Spec"]["Mode"].get("Replicated")
    return None if mode is None else int(mode.get("Replicas", 1))


def is_applied(service: Mapping[str, Any] | None, name: str, configured: Mapping[str, Any], count: int) -> bool:
    """Return whether a deployed service has the settings and the number of tasks of the compose file."""
    if service is None or labels(service).get(stackfile.HASH) != stackfile.digest(name, configured):
        return False
    return replicas(service) in (None, count)


def require_same_modes(project: Project, configured: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Raise Refused if a deployed service changes between replicated and global."""
    for name in configured.keys() & found.keys():
        mode = (configured[name].get("deploy") or {}).get("mode", "replicated")
        is_global = mode == "global" and not roles.is_singleton(roles.labels(configured[name]))
        if is_global != (replicas(found[name]) is None):
            raise Refused(
                f"Swarm cannot change the mode of {name} ({mode}): run 'docker service rm "
                f"{project.settings.project}_{name}', which ends its containers, then run the same command again"
            )


def is_singleton(service: Mapping[str, Any]) -> bool:
    """Return whether a deployed service has the label of singletons."""
    return roles.is_singleton(labels(service))


def _labels(template: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the labels of the containers of a task, or of the tasks of a service."""
    return template["ContainerSpec"].get("Labels") or {}


def update_state(service: Mapping[str, Any]) -> str:
    """Return the state of the last update of a service; empty if it was not updated since it was created."""
    return str((service.get("UpdateStatus") or {}).get("State", ""))


def is_updating(service: Mapping[str, Any]) -> bool:
    """Return whether Swarm is replacing the tasks of a service, or rolling it back."""
    return update_state(service) in ("updating", "rollback_started")


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
        hash=labels.get(stackfile.HASH, ""),
    )


def remove(settings: Settings, names: Iterable[str]) -> None:
    """Remove services of the stack; missing ones are ignored. Raises EngineError."""
    found = services(settings)
    for name in names:
        if name in found:
            engine.remove_service(found[name]["ID"])

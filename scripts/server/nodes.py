"""The machines of a Swarm: images are pulled and pruned on each one, and problems are described."""

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from server import commands, diagnostics, engine, release, stack, stackfile
from server.attempt import Attempt
from server.compose import Project
from server.errors import Refused
from server.settings import Settings
from server.state import say

CREATION_SECONDS = 5  # within which Swarm creates the tasks of a job
LOG_SECONDS = 20  # time limit of reading a log, or the state of a container, from another node
# What gives a job the engine of its node.
ENGINE_OPTIONS = (
    "--user=0",
    f"--mount=type=bind,source={engine.SOCKET},target={engine.SOCKET}",
    "--entrypoint=python3",
)
PROGRAM = ("-IS", "/release/server/on_node.py")


def is_available(node: Mapping[str, Any]) -> bool:
    """Return whether a node runs tasks: it is connected, and not drained or paused."""
    return bool(node["Status"]["State"] == "ready" and node["Spec"]["Availability"] == "active")


def pull(project: Project, images: Collection[str]) -> None:
    """Pull these images on each available node. Raises Refused with the nodes that cannot."""
    with _run(project, "pull", images, ["--entrypoint=true"], [], commands.COMMAND_SECONDS) as tasks:
        for task in tasks:
            if task.state == "rejected":  # a task whose image is there may fail: not all images have this command
                raise Refused(f"the node {task.node} cannot pull the release: {task.error}")


def prune(project: Project, image: str, keep: Iterable[str]) -> list[str]:
    """Remove the releases' images on each available node, except those with the digests to keep.

    `image` is the release whose program does it. Images in use are kept. Returns problems.
    """
    command = [*PROGRAM, "prune", project.settings.image, *sorted(keep)]
    with _run(project, "prune", [image], ENGINE_OPTIONS, command, commands.COMMAND_SECONDS) as tasks:
        return [str(task) for task in tasks if task.state != "complete"]


def explain(project: Project, task: stack.Task) -> None:
    """Print how the container of a task ended, and the output of its health checks. Raises Refused."""
    options = [*ENGINE_OPTIONS, f"--constraint=node.id=={task.node_id}"]
    image, command = project.settings.release_image(project.tag), [*PROGRAM, "explain", task.id]
    with _run(project, "explain", [image], options, command, LOG_SECONDS, {task.node_id}) as tasks:
        for one in tasks:
            print_log(project, one)


def print_log(project: Project, task: stack.Task) -> None:
    """Print the last lines of the log of a task, from whichever node. Raises TimedOut."""
    words = ("docker", "service", "logs", "--raw", "--tail", diagnostics.LOG_LINES, task.id)
    commands.run([*words], project.directory, seconds=LOG_SECONDS)


def prune_releases(attempt: Attempt) -> None:
    """Remove the images of old releases on each node. A failure does not fail the deploy."""
    settings = attempt.settings
    tags = release.kept_tags(attempt.directory, settings, attempt.tag)
    images = [f"{settings.release_image(tag)}{suffix}" for tag in tags for suffix in ("", release.FRONT_SUFFIX)]
    digests = {stackfile.pinned(image).partition("@")[2] for image in images} - {""}
    try:
        problems = prune(attempt.project, attempt.image, digests) if digests else []
    except (Refused, engine.EngineError) as error:
        problems = [str(error)]
    for problem in problems:
        say(f"old releases were not pruned: {problem}")


@contextmanager
def _run(
    project: Project,
    name: str,
    images: Collection[str],
    options: Collection[str],
    command: Collection[str],
    seconds: float,
    only: Collection[str] = (),
) -> Iterator[list[stack.Task]]:
    """Run a command in a container of each image on each available node, or `only` these. Provide the ended tasks.

    Raises Refused, also after `seconds`.
    """
    label = f"{stack.JOB_LABEL}={project.settings.project}"
    try:
        for number, image in enumerate(sorted(images)):
            words = [
                *("service", "create", "--detach", "--quiet", "--mode", "global-job", "--restart-condition", "none"),
                *("--with-registry-auth", "--no-resolve-image", "--label", label),
                *("--name", f"{project.settings.project}-{name}-{number}", *options),
            ]
            result = commands.docker(project.directory, *words, stackfile.pinned(image), *command, capture=True)
            if result.code:
                raise Refused(f"Swarm does not accept the job {name}: {result.error.strip()}")
        yield _wait(label, name, seconds, only)
    finally:
        stack.end_jobs(project.settings)


def _wait(label: str, name: str, seconds: float, only: Collection[str]) -> list[stack.Task]:
    """Return the tasks of the jobs when they have ended on each of these available nodes. Raises Refused after a limit.

    Swarm gives no task to a node that becomes available after a job was created, for example after a restart.
    """
    began = time.monotonic()
    while True:
        jobs, elapsed = stack.find_services(label), time.monotonic() - began
        tasks = stack.find_tasks(label, jobs)
        available = {node["ID"] for node in engine.get("/nodes") if is_available(node)}
        available &= set(only) or available
        known = {(task.service, task.node_id) for task in tasks}
        is_complete = all((job, node) in known for job in jobs for node in available)
        pending = [task for task in tasks if task.node_id in available and task.state not in stack.ENDED]
        if not pending and (is_complete or elapsed > CREATION_SECONDS):
            return tasks
        if elapsed > seconds:
            slow = ", ".join(sorted({task.node for task in pending}))
            raise Refused(f"{slow}: the job {name} took more than {seconds:g} s")
        time.sleep(stack.POLL_SECONDS)


def show(directory: Path, settings: Settings) -> None:
    """Print the nodes, the tasks of the stack, and what is not where it should be."""
    commands.docker(directory, "node", "ls", "--format", "table {{.Hostname}}\t{{.Status}}\t{{.Availability}}")
    tasks = "table {{.Name}}\t{{.Node}}\t{{.CurrentState}}\t{{.Image}}"
    commands.docker(directory, "stack", "ps", settings.project, "--filter", "desired-state=running", "--format", tasks)
    for problem in find_problems(settings):
        say(problem)


def find_problems(settings: Settings) -> list[str]:
    """Return what is not where it should be: nodes that run no tasks, missing tasks, updates that did not complete."""
    problems, services = [], stack.services(settings)
    listed = stack.tasks(settings, services)
    for node in engine.get("/nodes"):
        if not is_available(node):
            state = f"{node['Status']['State']}, {node['Spec']['Availability']}"
            problems.append(f"the node {stack.host_name(node)} runs no tasks: {state}")
    for name, service in services.items():
        desired = service["ServiceStatus"]["DesiredTasks"]
        running = sum(task.is_running for task in listed if task.service == name)
        update = stack.update_state(service)
        if stack.replicas(service) == 0:
            problems.append(f"{name} is scaled to 0: deploy.sh starts it")
        elif running < desired or not desired:
            failed = [task for task in listed if task.service == name and task.error]
            problems.append(f"{running} of {desired} tasks of {name} run{f': {failed[0]}' if failed else ''}")
        if update not in ("", "completed", "rollback_completed"):
            problems.append(
                f"the update of {name} has not completed: {update}; to see why, run 'docker service ps --no-trunc "
                f"{service['Spec']['Name']}'"
            )
    releases = {task.deploy_id for task in listed if task.is_running and task.deploy_id}
    if len(releases) > 1 or releases - {settings.deploy_id}:
        what = ", ".join(f"{task.service} of {task.tag[:7]}" for task in listed if task.is_running and task.deploy_id)
        problems.append(
            f"tasks of another release than that of .env run: {what}; if no deploy is running, run deploy.sh"
        )
    return problems

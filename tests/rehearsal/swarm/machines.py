"""Machines of a Swarm that die, are drained, added, restarted or cut off during a deploy, under load."""

import time
from collections.abc import Callable

from scripts.runner.process import run
from tests.rehearsal.failures import expect, say
from tests.rehearsal.rehearsal import Rehearsal
from tests.rehearsal.server import wait_for
from tests.rehearsal.swarm.cluster import Cluster
from tests.rehearsal.traffic import is_failed
from tests.rehearsal.variants import build_variant, deploy_and_expect_live

LAST = 2  # the number of the machine that gets no requests
NODE_LIMIT = 90  # seconds until Swarm has noticed that a machine died or came back
CUT_SECONDS = 30


def deploy_during(rehearsal: Rehearsal, name: str, event: Callable[[], object]) -> tuple[float, float]:
    """Deploy a variant during an event, and expect that it goes live: at once, or when it is repeated.

    Return when the event began and ended.
    """
    tag = build_variant(rehearsal, name)
    with rehearsal.start_deploy(tag) as deploy:
        deploy.read_until("==> switch")
        began = time.time()
        event()
        ended = time.time()
        done = deploy.finish()
    if done.returncode:
        say(f"{name}: refused; deploying again")
        done = rehearsal.deploy_by_key(tag)
        expect(done.returncode == 0, f"{name}: the repeated deploy was refused, too: {done.stdout}")
    rehearsal.expect_live(name)
    return began, ended


def count_in_flight(rehearsal: Rehearsal, began: float, ended: float) -> None:
    """Count the failed requests that were in flight between these times apart: a machine that dies cannot answer them.

    A request sent after that must not fail.
    """
    with rehearsal.without_traffic():
        lost = [one for one in rehearsal.records if is_failed(one) and one["at"] <= ended]
        lost = [one for one in lost if one["at"] + one["seconds"] >= began]
        rehearsal.records = [one for one in rehearsal.records if one not in lost]
    rehearsal.run["in_flight"] = rehearsal.run.get("in_flight", 0) + len(lost)
    say(f"{len(lost)} requests failed: in flight to a machine that died or was cut off")


def node_killed(rehearsal: Rehearsal) -> None:
    """A machine dies during a deploy; the release goes live on the others, and the machine comes back."""
    server = rehearsal.server
    times = deploy_during(rehearsal, "a machine dies", lambda: run("docker", "kill", server.machines[LAST]))
    count_in_flight(rehearsal, *times)
    expect("the node node3 runs no tasks: down" in server.ssh("status").stdout, "status does not name the machine")
    run("docker", "start", server.machines[LAST])
    wait_until_ready(server, "node3")
    deploy_and_expect_live(rehearsal, "after the machine came back")


def wait_until_ready(server: Cluster, node: str) -> None:
    """Wait until a machine runs tasks again."""
    form = "{{.Status.State}} {{.Spec.Availability}}"
    command = f"docker node inspect {node} --format '{form}'"
    wait_for(f"the machine {node}", lambda: server.exec(command) == "ready active", NODE_LIMIT)


def node_drained(rehearsal: Rehearsal) -> None:
    """A machine is drained during a deploy: its tasks move, and status names it."""
    server, drain = rehearsal.server, "docker node update --availability drain node3"
    try:
        deploy_during(rehearsal, "a machine is drained", lambda: server.exec(drain))
        found = [line for line in server.running() if line.split()[1] == "node3"]
        expect(not found, f"tasks run on the drained machine: {found}")
        expect("node3 runs no tasks: ready, drain" in server.ssh("status").stdout, "status does not name the machine")
    finally:
        server.exec("docker node update --availability active node3")
    deploy_and_expect_live(rehearsal, "after the machine was activated")


def node_added(rehearsal: Rehearsal) -> None:
    """A machine leaves, and a new one joins during a deploy; the next deploy uses it."""
    server = rehearsal.server

    def join() -> None:
        server.start_machine(LAST)
        server.add_machine(LAST, rehearsal.repository.folder)

    server.exec("docker node update --availability drain node3")
    # Its tasks finish their requests. Status no longer lists them.
    containers = ("docker", "exec", server.machines[LAST], "docker", "ps", "--quiet")
    wait_for("the end of the containers of node3", lambda: not run(*containers).strip(), NODE_LIMIT)
    server.remove_machine(LAST)
    deploy_and_expect_live(rehearsal, "on two machines")
    deploy_during(rehearsal, "a machine joins", join)
    deploy_and_expect_live(rehearsal, "on the new machine")
    found = [line for line in server.running() if line.split()[1] == "node3"]
    expect(bool(found), f"no task runs on the new machine: {server.running()}")


def manager_restarted(rehearsal: Rehearsal) -> None:
    """The main machine restarts during a deploy: the release of .env serves again, and the deploy can be repeated."""
    server, name = rehearsal.server, "the main machine restarts"

    def is_restored(tag: str) -> bool:
        return not server.find_problem(tag) and rehearsal.live_tag() == tag

    with rehearsal.without_traffic():  # the database is on this machine
        for step in ("==> wait", "==> switch api", "==> switch front"):
            live = server.setting("IMAGE_TAG")
            tag = build_variant(rehearsal, f"{name} at {step}")
            with rehearsal.start_deploy(tag) as deploy:
                deploy.read_until(step)
                run("docker", "restart", "--time", "0", server.name)
            run("docker", "restart", "--time", "0", f"{server.name}-registry")
            wait_for(f"the release of .env, after a restart at {step}", lambda live=live: is_restored(live), 180)
            done = rehearsal.deploy_by_key(tag)
            expect(done.returncode == 0, f"the deploy after a restart at {step} was refused: {done.stdout}")
            rehearsal.expect_live(f"{name} at {step}")


def network_cut(rehearsal: Rehearsal) -> None:
    """The network between two machines is cut for 30 s during a deploy: without, and with the main machine."""
    server, cut = rehearsal.server, "the network between two machines is cut"
    deploy_during(rehearsal, cut, lambda: server.cut_off(LAST, 1, CUT_SECONDS))
    deploy_and_expect_live(rehearsal, "after the network between two machines was cut")
    began, _ = deploy_during(rehearsal, f"{cut}, one is the main machine", lambda: server.cut_off(LAST, 0, CUT_SECONDS))
    # The API of the machine that is cut off answers the others, without the database.
    count_in_flight(rehearsal, began, began + CUT_SECONDS)
    wait_until_ready(server, "node3")
    deploy_and_expect_live(rehearsal, "after the network was cut")


def node_cannot_pull(rehearsal: Rehearsal) -> None:
    """A machine cannot pull the release: it is named, nothing is replaced, and the next deploy goes live."""
    name, server = "not on each machine", rehearsal.server
    tag = build_variant(rehearsal, name)
    with rehearsal.expect_unchanged("a release that a machine cannot pull"), server.without_registry(LAST):
        done = rehearsal.deploy_by_key(tag)
    message = "refused: the node node3 cannot pull the release"
    expect(done.returncode == 1 and message in done.stdout, f"not refused: {done.stdout}")
    done = rehearsal.deploy_by_key(tag)
    expect(done.returncode == 0, f"the repeated deploy was refused: {done.stdout}")
    rehearsal.expect_live(name)

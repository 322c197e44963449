"""Deploys to a Swarm of three machines, under load: refused releases, workers, settings, and moves."""

import time
from statistics import median

from tests.rehearsal.edits import (
    BROKEN_CADDYFILE,
    CRASH,
    ERROR_CADDYFILE,
    ERROR_SERVER,
    WORKER,
    Compose,
    add_worker,
    environment,
    failing_server,
    remove_health_check,
    run_python,
    wrap_command,
)
from tests.rehearsal.failures import expect, say
from tests.rehearsal.rehearsal import Rehearsal
from tests.rehearsal.scenarios.endurance import GOOD_RELEASES
from tests.rehearsal.scenarios.everyday import push_short_lived_release
from tests.rehearsal.scenarios.releases import FAILURE_SECONDS
from tests.rehearsal.server import DIR, wait_for
from tests.rehearsal.swarm.machines import NODE_LIMIT, node_drained, node_killed
from tests.rehearsal.variants import build_variant, deploy_and_expect_live, expect_refused

DEPLOYS = 20
SETTING = "REHEARSAL_SETTING"
REPLICAS = (3, 6, 12)


def first_deploy_to_swarm(rehearsal: Rehearsal) -> None:
    """First deploy to an empty Swarm, after a refused attempt."""
    server = rehearsal.server
    server.add_settings(rehearsal.application.settings)
    done = rehearsal.deploy_by_key(push_short_lived_release(rehearsal))
    expect(done.returncode == 1 and "==> still live: nothing" in done.stdout, f"not refused: {done.stdout}")
    services = rehearsal.services()
    expect(set(server.services()) == set(services.others), f"the refused release left {set(server.services())}")
    server.use_https()
    rehearsal.merge_and_expect_live("first", "The application")
    rehearsal.prepare()
    rehearsal.start_traffic()


def faulty_releases_on_swarm(rehearsal: Rehearsal) -> None:
    """Releases that fail in different ways are refused, before Swarm replaces a task if possible."""
    expect_refused(rehearsal, "crashes", "boom\nexit code 1\n", CRASH, last_step="wait")
    with rehearsal.server.settings(HEALTH_SECONDS="10"):
        expect_refused(rehearsal, "answers 500", "health check: ", run_python(ERROR_SERVER), last_step="wait")
    ends = run_python("import time; time.sleep(3)")
    expect_refused(rehearsal, "ends before it is healthy", "the api has exited", ends, last_step="wait")
    crashes = failing_server(FAILURE_SECONDS, ends=True)
    expect_refused(rehearsal, "crashes when it is healthy", "the api has exited", crashes, last_step="verify")
    expect_refused(rehearsal, "no health check", "api has no health check", remove_health_check, last_step="wait")
    message = "boom on node"  # from the log of the task on another machine
    expect_refused(rehearsal, "fails on other machines", message, fail_on_other_machines, last_step="switch")
    crash = run_python("raise SystemExit('boom')", "rehearsal-worker")
    worker = add_worker("rehearsal-worker", WORKER)
    expect_refused(rehearsal, "a worker crashes", "the rehearsal-worker has failed", worker, crash)
    expect_refused(rehearsal, "broken Caddyfile", "the front has exited", BROKEN_CADDYFILE, last_step="wait")
    expect_refused(rehearsal, "another Caddyfile", "returned 500", ERROR_CADDYFILE, last_step="verify")
    no_file = "RUN rm /release/docker-compose.swarm.yml"
    expect_refused(rehearsal, "no file for Swarm", "has no docker-compose.swarm.yml", no_file, last_step="pull")
    deploy_and_expect_live(rehearsal, "good after faulty releases")


def fail_on_other_machines(compose: Compose) -> None:
    """Let the API fail where Swarm starts it, except on the main machine."""
    environment(compose.api)["MACHINE"] = "{{.Node.Hostname}}"  # Swarm replaces this, Compose does not
    wrap_command('case "$MACHINE" in node*) echo "boom on $MACHINE"; exit 3 ;; esac; exec "$@"')(compose)


def workers_on_swarm(rehearsal: Rehearsal) -> None:
    """A worker and a scheduler are replaced with the release; the scheduler stops first, on the main machine."""
    edits = add_worker("rehearsal-worker", WORKER), add_worker("rehearsal-scheduler", WORKER, single=True)
    deploy_and_expect_live(rehearsal, "with a scheduler", *edits)
    deploy_and_expect_live(rehearsal, "with the next scheduler", *edits)
    nodes = {line.split()[1] for line in rehearsal.server.running() if line.startswith("rehearsal-scheduler ")}
    expect(nodes == {"server"}, f"the scheduler runs on {nodes}")
    form = "{{.DesiredState}} {{.CurrentState}}"
    tasks = rehearsal.server.exec(f"docker service ps {rehearsal.server.project}_rehearsal-scheduler --format '{form}'")
    expect(tasks.count("Running Running") == 1, f"the tasks of the scheduler: {tasks}")
    deploy_and_expect_live(rehearsal, "without a scheduler")
    left = [name for name in rehearsal.server.services() if name.startswith("rehearsal-")]
    expect(not left, f"services of the previous release are left: {left}")


def settings_on_swarm(rehearsal: Rehearsal) -> None:
    """A refusal restores the previous settings, networks cannot change, and `deploy.sh services` changes the proxy."""
    server, name = rehearsal.server, "with a setting"
    server.add_settings({SETTING: "before"})
    deploy_and_expect_live(rehearsal, name, add_setting)
    with server.settings(**{SETTING: "after"}):
        fails = (add_setting, fail_on_other_machines)
        expect_refused(rehearsal, "refused with other settings", "boom on node", *fails, last_step="switch")
        expect(f"{SETTING}=before" in server.environment("api"), f"the live release has {server.environment('api')}")
        rehearsal.deploy_by_hand()
        rehearsal.expect_live(name)
        expect(f"{SETTING}=after" in server.environment("api"), f"the settings are {server.environment('api')}")
    port = int(server.setting("API_PORT"))
    with server.settings(API_PORT=str(port + 1)):
        expect_refused(rehearsal, "another port", f"has changed from {port} to {port + 1}", last_step="pull")
    expect_refused(rehearsal, "another network", "changes networks (data)", change_network, last_step="pull")
    with server.settings(DB_IMAGE="127.0.0.1:1/none:1"):
        done = server.run(f"{DIR}/deploy.sh", "services")
        expect(done.returncode == 1 and "cannot be pulled" in done.stdout, f"not refused: {done.stdout}")
    with rehearsal.without_traffic(), server.settings(SITE_ADDRESS="http://:80"):
        output = server.exec(f"{DIR}/deploy.sh services")
        expect("==> done" in output, f"services did not finish: {output}")
        proxy = server.environment("proxy")
        expect("http://:80 {" in "\n".join(proxy), f"the proxy has {proxy}")
        proxies = [line.split() for line in server.running() if line.startswith("proxy ")]
        expect([line[3] for line in proxies] == ["Running", "Running"], f"the proxies are {proxies}")
    with rehearsal.without_traffic():
        server.exec(f"{DIR}/deploy.sh services")
    rehearsal.expect_only_release(server.setting("IMAGE_TAG"))


def add_setting(compose: Compose) -> None:
    """Add a setting to the API."""
    environment(compose.api)[SETTING] = f"${{{SETTING}:-}}"


def change_network(compose: Compose) -> None:
    """Change the options of a network."""
    compose.content["networks"]["data"] = {"internal": False}


def many_deploys(rehearsal: Rehearsal) -> None:
    """20 deploys, 5 refused releases, 5 rollbacks; a machine is drained, and one dies, during two more deploys."""
    server = rehearsal.server
    tags = [build_variant(rehearsal, f"{name} of many") for name in GOOD_RELEASES]
    for number in range(DEPLOYS):
        done = rehearsal.deploy_by_key(tags[number % len(tags)])
        expect(done.returncode == 0, f"deploy {number} was refused: {done.stdout}")
        rehearsal.expect_only_release(tags[number % len(tags)])
        if number % 4 == 1:
            expect_refused(rehearsal, "fails after many", "boom on node", fail_on_other_machines, last_step="switch")
        if number % 4 == 3:
            server.set(IMAGE_TAG=tags[0])
            rehearsal.deploy_by_hand()
            rehearsal.expect_only_release(tags[0])
    node_drained(rehearsal)
    node_killed(rehearsal)


def moving(rehearsal: Rehearsal) -> None:
    """A stack that is removed comes back, and moves to one server and back, as in docs/swarm.md: the data is kept."""
    server = rehearsal.server
    tag = server.setting("IMAGE_TAG")
    with rehearsal.without_traffic():  # each of these interrupts the site
        server.exec(f"docker stack rm {server.project}")
        rehearsal.deploy_by_hand()  # at once: the next database starts when the previous one has ended
        rehearsal.expect_only_release(tag)
        move_to_one_server(rehearsal)
        expect(rehearsal.live_tag() == tag, f"expected {tag} on one server, found {rehearsal.live_tag()}")
        server.set(ENGINE="swarm")
        done = server.run(f"{DIR}/deploy.sh")
        message = "containers of Compose are still there"
        expect(done.returncode == 1 and message in done.stdout, f"not refused: {done.stdout}{done.stderr}")
        expect(rehearsal.live_tag() == tag, "a refused move stopped the release")
        move_to_swarm(rehearsal)
        rehearsal.expect_only_release(tag)


def move_to_one_server(rehearsal: Rehearsal) -> None:
    """Move the application from the Swarm to its main machine."""
    server = rehearsal.server
    stack = f"label=com.docker.stack.namespace={server.project}"
    server.exec(f"docker stack rm {server.project}")
    left = f"docker ps --quiet --filter {stack}; docker network ls --quiet --filter {stack}"
    wait_for("the end of the stack", lambda: not server.exec(left), NODE_LIMIT)
    server.set(ENGINE="compose")
    rehearsal.deploy_by_hand()


def move_to_swarm(rehearsal: Rehearsal) -> None:
    """Move the application from the main machine to the Swarm."""
    server = rehearsal.server
    server.set(ENGINE="swarm")
    server.exec(f"cd {DIR}; docker compose down --remove-orphans")
    rehearsal.deploy_by_hand()


def seconds_by_replicas(rehearsal: Rehearsal) -> None:
    """Seconds of a deploy with 3, 6 and 12 replicas, on one server and on the Swarm."""
    server, seconds = rehearsal.server, dict[tuple[str, int], list[float]]()
    tags = [build_variant(rehearsal, f"{name} for seconds") for name in GOOD_RELEASES]

    def measure(engine: str, replicas: int) -> None:
        server.set(API_REPLICAS=str(replicas))
        rehearsal.deploy_by_hand()
        for tag in tags:
            began = time.monotonic()
            done = rehearsal.deploy_by_key(tag)
            expect(done.returncode == 0, f"refused with {replicas} replicas on {engine}: {done.stdout}")
            seconds.setdefault((engine, replicas), []).append(time.monotonic() - began)

    # Without traffic: one server does not answer at the address of the second machine.
    with rehearsal.without_traffic(), server.settings(API_REPLICAS="3", HEALTH_SECONDS="120"):
        for replicas in REPLICAS:
            measure("swarm", replicas)
        move_to_one_server(rehearsal)
        for replicas in REPLICAS:
            measure("compose", replicas)
        server.set(API_REPLICAS="3")
        move_to_swarm(rehearsal)
    rehearsal.deploy_by_hand()
    for (engine, replicas), values in seconds.items():
        say(f"{engine}, {replicas} replicas: {min(values):.1f} to {max(values):.1f} s")
    for replicas in REPLICAS:
        ratio = median(seconds["swarm", replicas]) / median(seconds["compose", replicas])
        say(f"{replicas} replicas: on the Swarm {ratio:.1f} times as long as on one server")

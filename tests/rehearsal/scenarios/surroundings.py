"""Faults around a deploy: registry, disk, connection, engine and server, under load."""

import json
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from scripts.runner.process import run
from tests.rehearsal.edits import CRASH
from tests.rehearsal.failures import Failed, expect
from tests.rehearsal.production import OTHER_PROJECT
from tests.rehearsal.rehearsal import Rehearsal
from tests.rehearsal.server import DIR, Server, wait_for
from tests.rehearsal.variants import build_variant, deploy_and_expect_live, expect_refused

# Prints the path, or "unauthorized", and the body of each webhook. At /hangs it does not answer.
WEBHOOK_RECEIVER = """
import sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        allowed = self.headers["Authorization"] == "Bearer " + sys.argv[2]
        print(self.path if allowed else "unauthorized", text, flush=True)
        time.sleep(300 * (self.path == "/hangs"))
        self.send_response(204)
        self.end_headers()
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver).serve_forever()
"""


@contextmanager
def without_registry(rehearsal: Rehearsal, command: str) -> Iterator[None]:
    """Stop or kill the registry, and start it again at the end."""
    registry = f"{rehearsal.server.name}-registry"
    try:
        run("docker", command, registry)
        yield
    finally:
        run("docker", "start", registry)
        rehearsal.server.wait_for_registry()


@contextmanager
def unwritable_env(server: Server) -> Iterator[None]:
    """Make .env impossible to replace: a folder has the name of the new file."""
    try:
        server.exec(f"mkdir {DIR}/.env.new")
        yield
    finally:
        server.exec(f"rmdir {DIR}/.env.new")


def registry_outage(rehearsal: Rehearsal) -> None:
    """The registry is down before or during the pull: the release is refused."""
    large = build_variant(rehearsal, "large image", "RUN head -c 256M /dev/urandom >/blob")
    with rehearsal.expect_unchanged("a registry outage during the pull"), rehearsal.start_deploy(large) as deploy:
        deploy.read_until("==> pull")
        with without_registry(rehearsal, "kill"):
            refused = deploy.finish()
    expect(
        refused.returncode != 0 and "cannot be pulled" in refused.stdout,
        f"not refused during a registry outage: {refused.stdout}",
    )
    tag = build_variant(rehearsal, "registry outage")
    with rehearsal.expect_unchanged("a registry outage before the pull"), without_registry(rehearsal, "stop"):
        refused = rehearsal.deploy_by_key(tag)
    expect(
        refused.returncode != 0 and "cannot be pulled" in refused.stdout,
        f"not refused after a registry outage began: {refused.stdout}",
    )


def concurrent_deploys(rehearsal: Rehearsal) -> None:
    """Two deploys that are requested at once run one after the other."""
    tags = build_variant(rehearsal, "first of two"), build_variant(rehearsal, "second of two")
    with rehearsal.start_deploy(tags[0]) as deploy:
        deploy.read_until("==> pull")
        second = rehearsal.deploy_by_key(tags[1])
        first = deploy.finish()
    expect(first.returncode == 0 and second.returncode == 0, f"one of two deploys at once failed: {second.stdout}")
    expect(
        f"waiting up to 900 s for another deploy: {tags[0]}" in second.stdout,
        f"the second deploy did not wait: {second.stdout}",
    )
    rehearsal.expect_live("second of two")


def unwritable_env_file(rehearsal: Rehearsal) -> None:
    """The new release serves, but .env cannot be written: refused, and the current release serves again."""
    server, tag = rehearsal.server, build_variant(rehearsal, "not written to .env")
    with rehearsal.expect_unchanged("a release that cannot be written to .env"), unwritable_env(server):
        done = rehearsal.deploy_by_key(tag)
    expect(
        done.returncode != 0 and "refused: cannot write .env" in done.stdout,
        f"not refused although .env could not be written: {done.stdout}",
    )
    # The same for a deploy of the live release, when .env names another one.
    live = server.setting("IMAGE_TAG")
    cause = "the live release, with an .env that cannot be written"
    with server.settings(IMAGE_TAG=tag), rehearsal.expect_unchanged(cause), unwritable_env(server):
        done = rehearsal.deploy_by_key(live)
    expect(
        done.returncode != 0 and f"==> still live: {live}" in done.stdout,
        f"a deploy of the live release was not refused: {done.stdout}",
    )
    done = rehearsal.deploy_by_key(tag)
    expect(done.returncode == 0, f"the repeated deploy failed: {done.stdout}")
    rehearsal.expect_only_release(tag)


def dropped_connection(rehearsal: Rehearsal) -> None:
    """The connection drops, or Ctrl-C is pressed: the deploy continues, and a second request reports it."""
    server = rehearsal.server

    def expect_continued(name: str, tag: str) -> None:
        second = rehearsal.deploy_by_key(tag)
        expect(
            second.returncode == 0 and f"live: {tag}" in second.stdout,
            f"{name}: the second request did not report the live release: {second.stdout}",
        )
        rehearsal.expect_live(name)
        logs = server.exec(f"grep -l 'live: {tag}' {DIR}/logs/*.log | wc -l")
        expect(logs == "2", f"{name}: expected 2 logs of the deploy, one for each request, found {logs}")

    name = "dropped connection"
    tag = build_variant(rehearsal, name)
    with rehearsal.start_deploy(tag) as deploy:
        deploy.read_until("==> start")
        deploy.kill()
    expect_continued(name, tag)
    name = "Ctrl-C"
    tag = build_variant(rehearsal, name)
    with rehearsal.start_deploy_by_hand("deploy", tag) as deploy:
        deploy.read_until("==> start")
        # A terminal sends it to all processes of its foreground group.
        group = server.exec("ps -o pgid= -p $(pgrep --oldest --uid deploy --full 'python3 -m server')").strip()
        server.exec(f"kill -INT -- -{group}")
        done = deploy.finish()
    expect("continues in the background" in done.stdout, f"Ctrl-C did not end deploy.sh: {done.stdout}")
    expect_continued(name, tag)


def webhooks(rehearsal: Rehearsal) -> None:
    """NOTIFY_URL hangs: the deploy still goes live, and the next deploy sends the missed webhook again."""
    server = rehearsal.server
    original = {name: server.setting(name) for name in ("NOTIFY_URL", "NOTIFY_TOKEN")}
    receiver, port, token = f"{server.name}-hook", 9000, secrets.token_hex(16)
    # It is in the server's network. Its log contains the webhooks that it received.
    options = ("--detach", "--name", receiver, "--network", f"container:{server.name}")
    program = ("python3", "-u", "-c", WEBHOOK_RECEIVER, str(port), token)
    run("docker", "run", *options, rehearsal.bases["PYTHON_IMAGE"], *program)
    try:
        server.set(NOTIFY_URL=f"http://127.0.0.1:{port}/hangs", NOTIFY_TOKEN=token)
        deploy_and_expect_live(rehearsal, "missed webhook")
        # As after the restore of docs/rollback-and-restore.md, which root runs.
        server.exec(f"chown root:root {DIR}/notified && chmod 644 {DIR}/notified")
        server.set(NOTIFY_URL=f"http://127.0.0.1:{port}/hook")
        expect_refused(rehearsal, "webhook of a refusal", "boom", CRASH)
        deploy_and_expect_live(rehearsal, "webhook")
        received = [line.split(" ", 1) for line in run("docker", "logs", receiver).splitlines()]
    finally:
        server.set(**original)
        run("docker", "rm", "--force", receiver)
    events = [(path, json.loads(text)) for path, text in received]
    found = [(path, event["tag"], event["outcome"]) for path, event in events]
    expected = [
        (path, rehearsal.commits[name], outcome)
        for path, name, outcome in (
            ("/hangs", "missed webhook", "live"),
            ("/hook", "missed webhook", "live"),
            ("/hook", "webhook of a refusal", "refused"),
            ("/hook", "webhook", "live"),
        )
    ]
    expect(found == expected, f"NOTIFY_URL received {found}, expected {expected}")


def pruning(rehearsal: Rehearsal) -> None:
    """The live release, the last KEEP_RELEASES and images of other projects are kept; the rest is pruned."""
    server, commits = rehearsal.server, rehearsal.commits
    names = ["pruned", "in another container", "rollback candidate", "live release"]
    image = server.image
    original = server.setting("KEEP_RELEASES")
    try:
        for name in names[:2]:
            deploy_and_expect_live(rehearsal, name)
        server.exec(f"docker run --detach --name {OTHER_PROJECT} {image}:{commits[names[1]]} sleep 600")
        server.exec(f"docker tag {image}:{commits[names[0]]} another/project:1")
        server.set(KEEP_RELEASES="1")
        for name in names[2:]:
            deploy_and_expect_live(rehearsal, name, plain_up=False)
        images = server.exec("docker images --format '{{.Repository}} {{.Tag}}'").splitlines()
        folders = server.exec(f"ls {DIR}/releases").split()
        containers = server.exec("docker ps --format '{{.Names}}'").splitlines()
    finally:
        server.exec(f"docker rm --force {OTHER_PROJECT} || true; docker rmi another/project:1 || true")
        server.set(KEEP_RELEASES=original)
    found = {line.split()[1] for line in images if line.startswith(f"{image} ")}
    # The image of a container that runs is kept; the other container has no front.
    expected = {commits[name] for name in names[1:]} | {f"{commits[name]}-front" for name in names[2:]}
    expect(found == expected, f"found the images {found}, expected {expected}")
    expect(
        "another/project 1" in images and OTHER_PROJECT in containers,
        f"the image or the container of another project was removed: {images}, {containers}",
    )
    found = {name for name in folders if len(name) == 40}
    expected = {commits[name] for name in names[2:]}
    expect(found == expected, f"found the releases {folders}, expected {expected}")


def engine_restarts(rehearsal: Rehearsal) -> None:
    """The engine restarts, between and during deploys: no request fails, and the next deploy goes live."""
    server = rehearsal.server
    restart, process_id = "kill -TERM $(cat /run/docker.pid)", "cat /run/docker.pid"

    def is_available() -> bool:
        engine = server.exec("docker version >/dev/null 2>&1 && echo yes || true")
        return bool(engine) and rehearsal.live_tag() is not None

    # The engine is also the DNS server of the containers.
    with rehearsal.send_only(lambda request: not request.needs_dns):
        before = server.exec(process_id)
        server.exec(restart)
        wait_for("the restarted engine", lambda: is_available() and server.exec(process_id) != before)
        for step in ("==> start", "==> watch"):
            tag = build_variant(rehearsal, f"engine restarts at {step}")
            with rehearsal.start_deploy(tag) as deploy:
                deploy.read_until(step)
                server.exec(restart)
                deploy.finish()
            wait_for("the engine", is_available)
            done = rehearsal.deploy_by_key(tag)
            expect(done.returncode == 0, f"the deploy after a restart of the engine at {step} failed: {done.stdout}")
            rehearsal.expect_only_release(tag)


def reboots(rehearsal: Rehearsal) -> None:
    """The server reboots, between and during deploys: the release of .env serves again by itself."""
    server = rehearsal.server

    def is_restored(tag: str) -> bool:
        try:
            rehearsal.expect_only_release(tag)
        except Failed:
            return False
        return True

    with rehearsal.without_traffic():
        for step in ("", "==> wait", "==> watch"):
            tag = server.setting("IMAGE_TAG")
            with ExitStack() as stack:
                if step:
                    deploy = rehearsal.start_deploy(build_variant(rehearsal, f"reboot at {step}"))
                    stack.enter_context(deploy).read_until(step)
                run("docker", "restart", "--time", "0", server.name)
            run("docker", "restart", "--time", "0", f"{server.name}-registry")
            moment = f"at {step}" if step else "between deploys"
            wait_for(f"the release of .env, after a reboot {moment}", lambda tag=tag: is_restored(tag), 180)

"""Faults around a deploy: registry, disk, connection, engine, database and server, under load."""

import json
import secrets
import time

from scripts.runner.process import run
from tests.rehearsal.dockerfiles import CRASH
from tests.rehearsal.rehearsal import SETTLE_SECONDS, Failed, Rehearsal, expect
from tests.rehearsal.server import DIR, wait_for
from tests.rehearsal.traffic import is_failed
from tests.rehearsal.variants import build_variant, deploy_and_expect_live, expect_refused, read_until

HOOK = """
import sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Hook(BaseHTTPRequestHandler):
    def do_POST(self):
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        allowed = self.headers["Authorization"] == "Bearer " + sys.argv[2]
        print(self.path if allowed else "nobody", text, flush=True)
        time.sleep(300 * (self.path == "/hangs"))
        self.send_response(204)
        self.end_headers()
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Hook).serve_forever()
"""


def registry_outage_and_lock(rehearsal: Rehearsal) -> None:
    """The registry is down before or during the pull: refused. Two deploys at once: one after the other."""
    heavy = build_variant(rehearsal, "heavy", "RUN head -c 256M /dev/urandom >/blob")
    with rehearsal.expect_unchanged("a registry that goes down"):
        cut = rehearsal.start_deploy(heavy)
        read_until(cut, "==> pull")
        run("docker", "kill", f"{rehearsal.server.name}-registry")
        said = cut.communicate(timeout=200)[0]
    run("docker", "start", f"{rehearsal.server.name}-registry")
    expect(cut.returncode != 0 and "cannot be pulled" in said, f"the registry went down: {said}")
    first, second = build_variant(rehearsal, "one of two"), build_variant(rehearsal, "two of two")
    run("docker", "stop", f"{rehearsal.server.name}-registry")
    with rehearsal.expect_unchanged("a registry that is down"):
        got = rehearsal.deploy_by_key(first)
    run("docker", "start", f"{rehearsal.server.name}-registry")
    expect(got.returncode != 0 and "cannot be pulled" in got.stdout, f"registry down: {got.stdout}")
    one = rehearsal.start_deploy(first)
    read_until(one, "==> pull")
    two = rehearsal.deploy_by_key(second)
    one.communicate(timeout=200)
    expect(one.returncode == 0 and two.returncode == 0, f"two at once: {two.stdout}")
    expect(
        f"waiting up to 900 s for another deploy: {first}" in two.stdout,
        f"the second deploy did not wait: {two.stdout}",
    )
    rehearsal.expect_live("two of two")


def unwritable_env_file(rehearsal: Rehearsal) -> None:
    """The new release serves, but .env cannot be written: refused, and the current release serves again."""
    tag = build_variant(rehearsal, "not written down")
    with rehearsal.expect_unchanged("a release that cannot be written to .env"):
        rehearsal.server.exec(f"mkdir {DIR}/.env.new")
        got = rehearsal.deploy_by_key(tag)
        rehearsal.server.exec(f"rmdir {DIR}/.env.new")
    expect(got.returncode != 0 and "refused: cannot write .env" in got.stdout, f".env was not written: {got.stdout}")
    # The release that is live already, too: .env names another one, and cannot be corrected.
    live = rehearsal.server.setting("IMAGE_TAG")
    rehearsal.server.set(IMAGE_TAG=tag)
    with rehearsal.expect_unchanged("the live release, with an .env that cannot be written"):
        rehearsal.server.exec(f"mkdir {DIR}/.env.new")
        got = rehearsal.deploy_by_key(live)
        rehearsal.server.exec(f"rmdir {DIR}/.env.new")
    expect(got.returncode != 0 and f"==> still live: {live}" in got.stdout, f"the live release again: {got.stdout}")
    rehearsal.server.set(IMAGE_TAG=live)
    got = rehearsal.deploy_by_key(tag)
    expect(got.returncode == 0, f"the same again: {got.stdout}")
    rehearsal.expect_only_release(tag)


def dropped_connection(rehearsal: Rehearsal) -> None:
    """The connection drops during a deploy: the deploy continues, and a second request reports it."""
    tag = build_variant(rehearsal, "cut off")
    deploy = rehearsal.start_deploy(tag)
    read_until(deploy, "==> start")
    deploy.kill()
    deploy.wait()
    got = rehearsal.deploy_by_key(tag)
    expect(got.returncode == 0 and f"live: {tag}" in got.stdout, f"asked again: {got.stdout}")
    rehearsal.expect_live("cut off")
    logs = rehearsal.server.exec(f"grep -l 'live: {tag}' {DIR}/logs/*.log | wc -l")
    expect(logs == "2", f"{logs} logs of the deploy were kept, of 2 attempts")


def webhooks(rehearsal: Rehearsal) -> None:
    """NOTIFY_URL hangs: the deploy still goes live. It answers again: missed webhooks are sent again."""
    usual = {name: rehearsal.server.setting(name) for name in ("NOTIFY_URL", "NOTIFY_TOKEN")}
    hook, port, token = f"{rehearsal.server.name}-hook", 9000, secrets.token_hex(16)
    # It shares the server's network, and keeps what it got in its log.
    shared = ("--network", f"container:{rehearsal.server.name}", rehearsal.bases["PYTHON_IMAGE"])
    run("docker", "run", "--detach", "--name", hook, *shared, "python3", "-u", "-c", HOOK, str(port), token)
    try:
        rehearsal.server.set(NOTIFY_URL=f"http://127.0.0.1:{port}/hangs", NOTIFY_TOKEN=token)
        deploy_and_expect_live(rehearsal, "told later")
        # As after the restore of docs/rollback-and-restore.md, which root runs.
        rehearsal.server.exec(f"chown root:root {DIR}/notified && chmod 644 {DIR}/notified")
        rehearsal.server.set(NOTIFY_URL=f"http://127.0.0.1:{port}/hook")
        expect_refused(rehearsal, "told as refused", "boom", CRASH)
        deploy_and_expect_live(rehearsal, "told once")
        told = [line.split(" ", 1) for line in run("docker", "logs", hook).splitlines()]
    finally:
        rehearsal.server.set(**usual)
        run("docker", "rm", "--force", hook)
    got = [(path, tell["tag"], tell["outcome"]) for path, text in told if (tell := json.loads(text))]
    wanted = [
        ("/hangs", "told later", "live"),
        ("/hook", "told later", "live"),
        ("/hook", "told as refused", "refused"),
        ("/hook", "told once", "live"),
    ]
    expect(
        got == [(path, rehearsal.commits[name], outcome) for path, name, outcome in wanted],
        f"NOTIFY_URL received: {got}",
    )


def pruning(rehearsal: Rehearsal) -> None:
    """The live release, the last KEEP_RELEASES and images of other projects are kept; the rest is pruned."""
    names = ["one to prune", "used elsewhere", "to go back to", "live now"]
    image = f"{rehearsal.server.registry}/quai"
    was = rehearsal.server.setting("KEEP_RELEASES")
    try:
        for name in names[:2]:
            deploy_and_expect_live(rehearsal, name)
        rehearsal.server.exec(f"docker run --detach --name elsewhere {image}:{rehearsal.commits[names[1]]} sleep 600")
        rehearsal.server.exec(f"docker tag {image}:{rehearsal.commits[names[0]]} another/project:1")
        rehearsal.server.set(KEEP_RELEASES="1")
        for name in names[2:]:
            got = rehearsal.deploy_by_key(build_variant(rehearsal, name))
            expect(got.returncode == 0, f"refused: {got.stdout}")
        kept = rehearsal.server.exec("docker images --format '{{.Repository}} {{.Tag}}'").splitlines()
        folders = rehearsal.server.exec(f"ls {DIR}/releases").split()
        runs = rehearsal.server.exec("docker ps --format '{{.Names}}'").splitlines()
    finally:
        rehearsal.server.exec("docker rm --force elsewhere || true; docker rmi another/project:1 || true")
        rehearsal.server.set(KEEP_RELEASES=was)
    tags = {line.split()[1] for line in kept if line.startswith(f"{image} ")}
    wanted = {rehearsal.commits[name] for name in names[1:]}
    expect(tags == wanted, f"the images kept are {tags}, not {wanted}")
    expect("another/project 1" in kept and "elsewhere" in runs, f"what another project uses is gone: {kept}, {runs}")
    expect(
        {name for name in folders if len(name) == 40} == {rehearsal.commits[name] for name in names[2:]},
        f"kept: {folders}",
    )


def engine_restarts(rehearsal: Rehearsal) -> None:
    """The engine restarts, between and during deploys: no request fails, and the next deploy goes live."""
    restart = "kill -TERM $(cat /run/docker.pid)"

    def answers() -> bool:
        return (
            bool(rehearsal.server.exec("docker version >/dev/null 2>&1 && echo yes || true"))
            and rehearsal.live_tag() is not None
        )

    before = rehearsal.server.exec("cat /run/docker.pid")
    rehearsal.server.exec(restart)
    wait_for("another engine", lambda: answers() and rehearsal.server.exec("cat /run/docker.pid") != before)
    for step in ("==> start", "==> watch"):
        tag = build_variant(rehearsal, f"engine restarts at {step}")
        deploy = rehearsal.start_deploy(tag)
        read_until(deploy, step)
        rehearsal.server.exec(restart)
        deploy.communicate(timeout=200)
        wait_for("the engine", answers)
        got = rehearsal.deploy_by_key(tag)
        expect(got.returncode == 0, f"after the engine restarted at {step}: {got.stdout}")
        rehearsal.expect_only_release(tag)


def reboots(rehearsal: Rehearsal) -> None:
    """The server reboots, between and during deploys: the release of .env serves again by itself."""
    with rehearsal.without_traffic():
        for step in ("at rest", "==> wait", "==> watch"):
            tag = rehearsal.server.setting("IMAGE_TAG")
            if step != "at rest":
                read_until(rehearsal.start_deploy(build_variant(rehearsal, f"reboots at {step}")), step)
            run("docker", "restart", "--time", "0", rehearsal.server.name)
            run("docker", "restart", "--time", "0", f"{rehearsal.server.name}-registry")
            came_back(rehearsal, tag, step)


def came_back(rehearsal: Rehearsal, tag: str, step: str) -> None:
    """Expect that the server returns to this release by itself."""

    def rests() -> bool:
        try:
            rehearsal.expect_only_release(tag)
        except Failed:
            return False
        return True

    wait_for(f"what .env says, after a reboot {step},", rests, 180)


def database_outage(rehearsal: Rehearsal) -> None:
    """The database stops during a deploy: refused; the next deploy starts it again."""
    with rehearsal.without_traffic():
        tag = build_variant(rehearsal, "database down")
        before = rehearsal.server.setting("IMAGE_TAG")
        deploy = rehearsal.start_deploy(tag)
        read_until(deploy, "==> start")
        rehearsal.server.exec("docker stop quai-db-1")
        said = deploy.communicate(timeout=200)[0]
        expect(deploy.returncode != 0 and "not healthy within" in said, f"the database was down: {said}")
        expect("the database is unavailable" in said, f"nothing tells why: {said}")
        expect(rehearsal.server.setting("IMAGE_TAG") == before, ".env was changed")
        got = rehearsal.deploy_by_key(tag)
        expect(got.returncode == 0, f"the next deploy: {got.stdout}")
        rehearsal.expect_only_release(tag)


def database_restart(rehearsal: Rehearsal) -> None:
    """The database restarts: 503 while it is unavailable, and no other container restarts."""
    looks = "docker inspect --format '{{.Name}} {{.State.StartedAt}}' $(docker ps --all --quiet) | grep -v quai-db-1"
    before = rehearsal.server.exec(looks)
    with rehearsal.without_traffic():
        rehearsal.start_traffic()
        try:
            rehearsal.server.exec(
                "docker restart quai-db-1; until docker exec quai-db-1 pg_isready -qh 127.0.0.1; do sleep 0.1; done"
            )
            back = time.time()
            time.sleep(SETTLE_SECONDS)
        finally:
            met = rehearsal.traffic.stop().records
    rehearsal.records += [record for record in met if not is_failed(record)]
    failed = [record for record in met if is_failed(record)]
    print(f"  {len(failed)} of {len(met)} requests failed while the database was away", flush=True)
    expect({record["status"] for record in failed} == {503}, f"while the database was away: {failed[:5]}")
    late = [record for record in failed if record["at"] > back]
    expect(not late, f"{len(late)} requests failed after the database was back: {late[:5]}")
    expect(rehearsal.server.exec(looks) == before, f"it was {before}, and is {rehearsal.server.exec(looks)}")
    expect(len(met) > rehearsal.rate * SETTLE_SECONDS, f"only {len(met)} requests")

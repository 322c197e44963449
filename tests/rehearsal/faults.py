"""Faulty releases and faults around a deploy, under load; no request may fail."""

import hashlib
import json
import re
import secrets
import subprocess
import time

from scripts.runner.process import ROOT, run
from tests.rehearsal.scenarios import SETTLED, Failed, Rehearsal, expect
from tests.rehearsal.server import DIR, wait_for
from tests.rehearsal.traffic import is_failed

SERVE_500 = """
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(500)
HTTPServer(("", 8000), Handler).serve_forever()
"""
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
# Healthy until it has been asked for its version twice: before and after the switch.
SERVE_SICK = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    asked = 0
    def do_GET(self):
        Handler.asked += self.path == "/version"
        self.send_response(503 if self.path == "/healthz" and Handler.asked > 1 else 200)
        self.end_headers()
        self.wfile.write(b'{"tag": "TAG"}')
ThreadingHTTPServer(("", 8000), Handler).serve_forever()
"""
HOLD_A_LOCK = """
import os, time, psycopg
connection = psycopg.connect(os.environ["DB_CONN"].replace("+psycopg", ""))
connection.execute("LOCK TABLE notes")
time.sleep(600)
"""
LOSE_NOTES = """
import sqlalchemy as sa
from alembic import op
revision, down_revision, floor = "0999", "0002", "0999"
def upgrade():
    op.execute("DELETE FROM notes")
    op.execute(sa.text("UPDATE schema_floor SET revision = :floor").bindparams(floor=floor))
"""

MOST = 120  # seconds that any one of these deploys may take, however busy the machine is
CRASH = """CMD ["python", "-c", "raise SystemExit('boom')"]"""


def variant(r: Rehearsal, name: str, *lines: str, position: int | None = None) -> str:
    """Push a release that differs from the last merge by some lines of a Dockerfile, and return its tag.

    `position` is its place on main, that of the last merge unless given.
    """
    base = next(r.commits[merge] for merge in ("forward", "page", "code", "first") if merge in r.commits)
    tag = hashlib.sha1(f"{name} {base}".encode(), usedforsecurity=False).hexdigest()
    image = f"{r.server.registry}/quai"
    dockerfile = [
        f"FROM {image}:{base}",
        f"ENV RELEASE={tag}",
        "USER root",
        *lines,
        "USER 10001:10001",
        *([] if position is None else [f"LABEL quai.position={position}"]),
    ]
    run("docker", "build", "--quiet", "--tag", f"{image}:{tag}", "-", input="\n".join(dockerfile))
    run("docker", "push", "--quiet", f"{image}:{tag}")
    r.commits[name] = tag
    return tag


def serve(name: str, code: str) -> tuple[str, str]:
    """Return Dockerfile lines of a release that serves with this code; TAG in it becomes the tag."""
    return f"COPY <<END /app/{name}.py{code.replace('TAG', '$RELEASE')}END", f'CMD ["python", "/app/{name}.py"]'


def python(code: str) -> str:
    """Return Dockerfile lines that make this code a pending migration."""
    check = 'import sys\nif "--check" in sys.argv: sys.exit(3)'
    return f"COPY <<END /app/service/migrate.py\n{check}\n{code}\nEND\nRUN rm -r /app/service/__pycache__"


def is_refused(r: Rehearsal, name: str, because: str, *lines: str) -> None:
    """Deploy such a release; it must be refused, with the evidence in its output."""
    tag = variant(r, name, *lines)
    began = time.monotonic()
    with r.refused(name):
        got = r.deploy_by_key(tag)
    expect(got.returncode != 0, f"{name}: went live: {got.stdout}")
    expect(time.monotonic() - began < MOST, f"{name}: refused after {time.monotonic() - began:.0f} s only")
    expect(because in got.stdout + got.stderr, f"{name}: the output does not say {because!r}: {got.stdout}{got.stderr}")


def goes_live(r: Rehearsal, name: str, *lines: str) -> None:
    """Deploy such a release; it must go live."""
    tag, began = variant(r, name, *lines), time.monotonic()
    got = r.deploy_by_key(tag)
    expect(got.returncode == 0, f"{name}: refused: {got.stdout}{got.stderr}")
    expect(time.monotonic() - began < MOST, f"{name}: live after {time.monotonic() - began:.0f} s only")
    r.is_live(name)


def until(deploy: subprocess.Popen, step: str) -> None:
    """Read the output of a deploy until a step begins."""
    said = ""
    while step not in said:
        line = deploy.stdout.readline()
        expect(bool(line), f"the deploy ended before {step!r}: {said}")
        said += line


def bad_releases(r: Rehearsal) -> None:
    """Releases that crash, answer 500, fail after the switch, or have broken files are refused."""
    is_refused(r, "crashes", "boom", CRASH)
    is_refused(r, "answers 500", "not healthy within", *serve("500", SERVE_500))
    # After some requests, so soon after the switch. What only reads is asked again.
    served = "[ $(wc -l </tmp/log) -gt 99 ]"
    ends = f'CMD ["sh", "-c", "python -m service >/tmp/log 2>&1 & until {served}; do sleep 0.1; done; kill $!; wait"]'
    with r.reading_only():
        is_refused(r, "ends", "the new api is crashing", ends)
    with r.reading_only():
        is_refused(r, "sick", "times in a row: /healthz of quai-front-", *serve("sick", SERVE_SICK))
    died = "exit code 3\n"
    is_refused(r, "dies with a code", died, """CMD ["python", "-c", "import sys, time; time.sleep(1); sys.exit(3)"]""")
    memory = "out of memory: the kernel killed it (OOMKilled), its limit is 5"
    is_refused(
        r,
        "takes too much memory",
        memory,
        """CMD ["python", "-c", "len(b'x' * (1 << 30)); import time; time.sleep(9)"]""",
    )
    is_refused(r, "cannot tell its health", "has no health check", "HEALTHCHECK NONE")
    is_refused(r, "lies", ", not ", "ENV RELEASE=somebody-else")
    is_refused(r, "broken compose file", "do not fit", "RUN echo 'services: [' >/release/docker-compose.prod.yml")
    is_refused(r, "broken Caddyfile", "the new front is crashing", "RUN echo '{' >>/release/front/Caddyfile")
    nowhere = "RUN printf ':8080 {\\nrespond 500\\n}\\n' >/release/front/Caddyfile"
    is_refused(r, "another Caddyfile", "answers 500", nowhere)
    is_refused(r, "broken deploy.sh", "deploy program does not run", "RUN echo 'if' >>/release/deploy.sh")
    is_refused(r, "no files", "/release", "RUN rm -r /release")
    goes_live(r, "good after bad")


def bad_migrations(r: Rehearsal) -> None:
    """Migrations that fail, hang or hold a lock are refused, and the lock is released."""
    r.server.set(MIGRATE_SECONDS="4")
    is_refused(r, "migration fails", "no such column", python("raise SystemExit('no such column')"))
    is_refused(r, "migration hangs", "took more than 4 s", python("import time; time.sleep(600)"))
    is_refused(r, "migration locks", "took more than 4 s", python(HOLD_A_LOCK))
    r.server.set(MIGRATE_SECONDS="300")
    dump_fills_the_disk(r)
    goes_live(r, "good after a bad migration")


def dump_fills_the_disk(r: Rehearsal) -> None:
    """A dump that would fill the disk is stopped, and one that is known to be too large does not start."""
    was, dumps = r.server.setting("MIN_FREE_MB"), f"ls {DIR}/backups"
    free = int(r.server.exec(f"df --output=avail --block-size=1M {DIR} | tail -n 1"))
    grows = (
        "sed -i 's|entrypoint: .pg_dump.*|entrypoint: [head, -c, 500G, /dev/zero]|' /release/docker-compose.prod.yml"
    )
    before = r.server.exec(dumps)
    try:
        r.server.set(MIN_FREE_MB=str(free - 1500))
        is_refused(r, "dump grows", "the dump was stopped: less than", python(""), f"RUN {grows}")
        r.server.exec(f"fallocate --length 4000M {DIR}/backups/9999999999.dump")
        r.server.set(MIN_FREE_MB=str(free - 5500))
        is_refused(r, "dump is large", "the dump takes about 4800 MB", python(""))
    finally:
        r.server.exec(f"rm --force {DIR}/backups/9999999999.dump")
        r.server.set(MIN_FREE_MB=was)
    expect(r.server.exec(dumps) == before, f"the dumps were {before} and are {r.server.exec(dumps)}")


def restores(r: Rehearsal) -> None:
    """A migration loses data, and no older release runs on its schema: the dump is restored."""

    def notes() -> str:
        return r.server.compose("exec -T db psql -U quai -d quai -At -c 'select count(*) from notes'").strip()

    with r.without_traffic():
        before, old = notes(), r.server.setting("IMAGE_TAG")
        goes_live(
            r, "loses notes", f"COPY <<END /app/service/migrations/versions/0999_lose_notes.py\n{LOSE_NOTES}\nEND"
        )
        expect(before != "0" and notes() == "0", f"{notes()} notes are left of {before}")
        with r.refused("a release that cannot run on the schema"):
            r.server.set(IMAGE_TAG=old)
            back = ["docker", "exec", r.server.name, f"{DIR}/deploy.sh"]
            got = subprocess.run(back, capture_output=True, text=True, check=False)
        told = "restore the backup" in got.stdout and "refused: this release cannot run on the database" in got.stdout
        dump = r.server.exec(f"cd {DIR}/backups; ls *.dump | tail -n 1")
        section = re.search(
            r"### How to restore .*?```console\n(.*?)```",
            (ROOT / "docs/rollback-and-restore.md").read_text(),
            re.DOTALL,
        )
        for line in section.group(1).replace("\\\n", "").splitlines():
            line = line.partition("   #")[0].replace("<id>", dump.removesuffix(".dump")).replace("<commit>", old)
            r.server.exec(f"cd {DIR}; {line}")
        expect(notes() == before, f"{notes()} notes came back, of {before}")
        r.told()
        r.at_rest(old)
        expect(told, f"it does not say what to do: {got.stdout}")


def odd_releases(r: Rehearsal) -> None:
    """A release that starts slowly goes live, and one that ignores SIGTERM is replaced."""
    r.server.set(HEALTH_SECONDS="60")
    goes_live(r, "slow", 'CMD ["sh", "-c", "sleep 20; exec python -m service"]')
    r.server.set(HEALTH_SECONDS="20")
    goes_live(r, "deaf", 'CMD ["sh", "-c", "trap : TERM; python -m service & while :; do wait; done"]')
    goes_live(r, "after deaf")


def bad_surroundings(r: Rehearsal) -> None:
    """The registry is down before or during the pull: refused. Two deploys at once: one after the other."""
    heavy = variant(r, "heavy", "RUN head -c 256M /dev/urandom >/blob")
    with r.refused("a registry that goes down"):
        cut = r.start_deploy(heavy)
        until(cut, "==> pull")
        run("docker", "kill", f"{r.server.name}-registry")
        said = cut.communicate(timeout=200)[0]
    run("docker", "start", f"{r.server.name}-registry")
    expect(cut.returncode != 0 and "cannot be pulled" in said, f"the registry went down: {said}")
    first, second = variant(r, "one of two"), variant(r, "two of two")
    run("docker", "stop", f"{r.server.name}-registry")
    with r.refused("a registry that is down"):
        got = r.deploy_by_key(first)
    run("docker", "start", f"{r.server.name}-registry")
    expect(got.returncode != 0 and "cannot be pulled" in got.stdout, f"registry down: {got.stdout}")
    one = r.start_deploy(first)
    until(one, "==> pull")
    two = r.deploy_by_key(second)
    one.communicate(timeout=200)
    expect(one.returncode == 0 and two.returncode == 0, f"two at once: {two.stdout}")
    expect(
        f"waiting up to 900 s for another deploy: {first}" in two.stdout,
        f"the second deploy did not wait: {two.stdout}",
    )
    r.is_live("two of two")


def unwritable(r: Rehearsal) -> None:
    """The new release serves, but .env cannot be written: refused, and the current release serves again."""
    tag = variant(r, "not written down")
    with r.refused("a release that cannot be written to .env"):
        r.server.exec(f"mkdir {DIR}/.env.new")
        got = r.deploy_by_key(tag)
        r.server.exec(f"rmdir {DIR}/.env.new")
    expect(got.returncode != 0 and "refused: cannot write .env" in got.stdout, f".env was not written: {got.stdout}")
    # The release that is live already, too: .env names another one, and cannot be corrected.
    live = r.server.setting("IMAGE_TAG")
    r.server.set(IMAGE_TAG=tag)
    with r.refused("the live release, with an .env that cannot be written"):
        r.server.exec(f"mkdir {DIR}/.env.new")
        got = r.deploy_by_key(live)
        r.server.exec(f"rmdir {DIR}/.env.new")
    expect(got.returncode != 0 and f"==> still live: {live}" in got.stdout, f"the live release again: {got.stdout}")
    r.server.set(IMAGE_TAG=live)
    got = r.deploy_by_key(tag)
    expect(got.returncode == 0, f"the same again: {got.stdout}")
    r.at_rest(tag)


def cut_off(r: Rehearsal) -> None:
    """The connection drops during a deploy: the deploy continues, and a second request reports it."""
    tag = variant(r, "cut off")
    deploy = r.start_deploy(tag)
    until(deploy, "==> start")
    deploy.kill()
    deploy.wait()
    got = r.deploy_by_key(tag)
    expect(got.returncode == 0 and f"live: {tag}" in got.stdout, f"asked again: {got.stdout}")
    r.is_live("cut off")
    logs = r.server.exec(f"grep -l 'live: {tag}' {DIR}/logs/*.log | wc -l")
    expect(logs == "2", f"{logs} logs of the deploy were kept, of 2 attempts")


def notified(r: Rehearsal) -> None:
    """NOTIFY_URL hangs: the deploy still goes live. It answers again: missed webhooks are sent again."""
    usual = {name: r.server.setting(name) for name in ("NOTIFY_URL", "NOTIFY_TOKEN")}
    hook, port, token = f"{r.server.name}-hook", 9000, secrets.token_hex(16)
    # It shares the server's network, and keeps what it got in its log.
    shared = ("--network", f"container:{r.server.name}", r.bases["PYTHON_IMAGE"])
    run("docker", "run", "--detach", "--name", hook, *shared, "python3", "-u", "-c", HOOK, str(port), token)
    try:
        r.server.set(NOTIFY_URL=f"http://127.0.0.1:{port}/hangs", NOTIFY_TOKEN=token)
        goes_live(r, "told later")
        # As after the restore of docs/rollback-and-restore.md, which root runs.
        r.server.exec(f"chown root:root {DIR}/notified && chmod 644 {DIR}/notified")
        r.server.set(NOTIFY_URL=f"http://127.0.0.1:{port}/hook")
        is_refused(r, "told as refused", "boom", CRASH)
        goes_live(r, "told once")
        told = [line.split(" ", 1) for line in run("docker", "logs", hook).splitlines()]
    finally:
        r.server.set(**usual)
        run("docker", "rm", "--force", hook)
    got = [(path, tell["tag"], tell["outcome"]) for path, text in told if (tell := json.loads(text))]
    wanted = [
        ("/hangs", "told later", "live"),
        ("/hook", "told later", "live"),
        ("/hook", "told as refused", "refused"),
        ("/hook", "told once", "live"),
    ]
    expect(got == [(path, r.commits[name], outcome) for path, name, outcome in wanted], f"NOTIFY_URL received: {got}")


def prunes(r: Rehearsal) -> None:
    """The live release, the last KEEP_RELEASES and images of other projects are kept; the rest is pruned."""
    names = ["one to prune", "used elsewhere", "to go back to", "live now"]
    image = f"{r.server.registry}/quai"
    was = r.server.setting("KEEP_RELEASES")
    try:
        for name in names[:2]:
            goes_live(r, name)
        r.server.exec(f"docker run --detach --name elsewhere {image}:{r.commits[names[1]]} sleep 600")
        r.server.exec(f"docker tag {image}:{r.commits[names[0]]} another/project:1")
        r.server.set(KEEP_RELEASES="1")
        for name in names[2:]:
            got = r.deploy_by_key(variant(r, name))
            expect(got.returncode == 0, f"refused: {got.stdout}")
        kept = r.server.exec("docker images --format '{{.Repository}} {{.Tag}}'").splitlines()
        folders = r.server.exec(f"ls {DIR}/releases").split()
        runs = r.server.exec("docker ps --format '{{.Names}}'").splitlines()
    finally:
        r.server.exec("docker rm --force elsewhere || true; docker rmi another/project:1 || true")
        r.server.set(KEEP_RELEASES=was)
    tags = {line.split()[1] for line in kept if line.startswith(f"{image} ")}
    wanted = {r.commits[name] for name in names[1:]}
    expect(tags == wanted, f"the images kept are {tags}, not {wanted}")
    expect("another/project 1" in kept and "elsewhere" in runs, f"what another project uses is gone: {kept}, {runs}")
    expect({name for name in folders if len(name) == 40} == {r.commits[name] for name in names[2:]}, f"kept: {folders}")


def engine_restarts(r: Rehearsal) -> None:
    """The engine restarts, between and during deploys: no request fails, and the next deploy goes live."""
    restart = "kill -TERM $(cat /run/docker.pid)"

    def answers() -> bool:
        return bool(r.server.exec("docker version >/dev/null 2>&1 && echo yes || true")) and r.live() is not None

    before = r.server.exec("cat /run/docker.pid")
    r.server.exec(restart)
    wait_for("another engine", lambda: answers() and r.server.exec("cat /run/docker.pid") != before)
    for step in ("==> start", "==> watch"):
        tag = variant(r, f"engine restarts at {step}")
        deploy = r.start_deploy(tag)
        until(deploy, step)
        r.server.exec(restart)
        deploy.communicate(timeout=200)
        wait_for("the engine", answers)
        got = r.deploy_by_key(tag)
        expect(got.returncode == 0, f"after the engine restarted at {step}: {got.stdout}")
        r.at_rest(tag)


def reboots(r: Rehearsal) -> None:
    """The server reboots, between and during deploys: the release of .env serves again by itself."""
    with r.without_traffic():
        for step in ("at rest", "==> wait", "==> watch"):
            tag = r.server.setting("IMAGE_TAG")
            if step != "at rest":
                until(r.start_deploy(variant(r, f"reboots at {step}")), step)
            run("docker", "restart", "--time", "0", r.server.name)
            run("docker", "restart", "--time", "0", f"{r.server.name}-registry")
            came_back(r, tag, step)


def came_back(r: Rehearsal, tag: str, step: str) -> None:
    """Expect that the server returns to this release by itself."""

    def rests() -> bool:
        try:
            r.at_rest(tag)
        except Failed:
            return False
        return True

    wait_for(f"what .env says, after a reboot {step},", rests, 180)


def database_down(r: Rehearsal) -> None:
    """The database stops during a deploy: refused; the next deploy starts it again."""
    with r.without_traffic():
        tag = variant(r, "database down")
        before = r.server.setting("IMAGE_TAG")
        deploy = r.start_deploy(tag)
        until(deploy, "==> start")
        r.server.exec("docker stop quai-db-1")
        said = deploy.communicate(timeout=200)[0]
        expect(deploy.returncode != 0 and "not healthy within" in said, f"the database was down: {said}")
        expect("the database is unavailable" in said, f"nothing tells why: {said}")
        expect(r.server.setting("IMAGE_TAG") == before, ".env was changed")
        got = r.deploy_by_key(tag)
        expect(got.returncode == 0, f"the next deploy: {got.stdout}")
        r.at_rest(tag)


def database_restarts(r: Rehearsal) -> None:
    """The database restarts: 503 while it is unavailable, and no other container restarts."""
    looks = "docker inspect --format '{{.Name}} {{.State.StartedAt}}' $(docker ps --all --quiet) | grep -v quai-db-1"
    before = r.server.exec(looks)
    with r.without_traffic():
        r.start_traffic()
        try:
            r.server.exec(
                "docker restart quai-db-1; until docker exec quai-db-1 pg_isready -qh 127.0.0.1; do sleep 0.1; done"
            )
            back = time.time()
            time.sleep(SETTLED)
        finally:
            met = r.traffic.stop().records
    r.records += [record for record in met if not is_failed(record)]
    failed = [record for record in met if is_failed(record)]
    print(f"  {len(failed)} of {len(met)} requests failed while the database was away", flush=True)
    expect({record["status"] for record in failed} == {503}, f"while the database was away: {failed[:5]}")
    late = [record for record in failed if record["at"] > back]
    expect(not late, f"{len(late)} requests failed after the database was back: {late[:5]}")
    expect(r.server.exec(looks) == before, f"it was {before}, and is {r.server.exec(looks)}")
    expect(len(met) > r.rate * SETTLED, f"only {len(met)} requests")


FAULTS = (
    bad_releases,
    bad_migrations,
    restores,
    odd_releases,
    bad_surroundings,
    unwritable,
    cut_off,
    notified,
    prunes,
    engine_restarts,
    reboots,
    database_down,
    database_restarts,
)

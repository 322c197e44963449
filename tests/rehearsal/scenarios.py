"""Everyday scenarios, in the order in which they run."""

import json
import re
import subprocess
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from itertools import pairwise

from scripts.runner.process import run
from tests.rehearsal.repository import STEP, Repository, runner_environment
from tests.rehearsal.server import DIR, Server
from tests.rehearsal.traffic import Summary, Traffic, lost_and_duplicated

NOBODYS = "0" * 40  # no commit
MOST_SECONDS = 8 * 3600.0  # of traffic
SETTLED = 2.0  # seconds of traffic after each scenario, so that what it broke later is seen, too


class Failed(Exception):
    """A scenario did not end as expected; the message says how."""


FAILURES = (Failed, OSError, ValueError, RuntimeError, TimeoutError, subprocess.SubprocessError)


def expect(true: bool, otherwise: str) -> None:
    """Raise Failed with the message `otherwise` unless the condition holds."""
    if not true:
        raise Failed(otherwise)


class Rehearsal:
    """One server and one repository, under load throughout; `run` is the data of the report."""

    kills, soak, seed = 8, 12, 1  # how many of each, 0 for every kill; and where chance starts
    part = (1, 1)  # which of how many parts of the kills

    def __init__(self, server: Server, repository: Repository, bases: dict[str, str], rate: float) -> None:
        self.server, self.repository, self.bases, self.rate = server, repository, bases, rate
        self.traffic: Traffic | None = None
        self.records: list[dict] = []
        self.commits: dict[str, str] = {}
        self.run = {"started": time.time(), "replacements": 0, "lost": 0, "duplicated": 0, "scenarios": []}

    def play(self, scenarios: Sequence[Callable[["Rehearsal"], None]], chosen: Sequence[str]) -> None:
        """Run the scenarios in order; a failure ends the run only in the first one."""
        for scenario in scenarios:
            if scenario is scenarios[0] or any(name in scenario.__name__ for name in chosen):
                self._play(scenario)
                if scenario is scenarios[0] and not self.run["scenarios"][0]["passed"]:
                    break
        self.run["ended"] = time.time()

    def _play(self, scenario: Callable[["Rehearsal"], None]) -> None:
        entry = {"name": scenario.__doc__.strip("."), "started": time.time(), "passed": False, "error": None}
        entry |= {"steps": [], "deploy_seconds": None, "live_before": self.live() if self.traffic else None}
        self.run["scenarios"].append(entry)
        print(f"rehearsal: {entry['name']} ...", flush=True)
        try:
            scenario(self)
            entry["passed"] = True
        except KeyError as name:
            entry["error"] = f"it needs the release {name}, which an earlier scenario makes: name that, too"
            print(f"rehearsal: FAILED: {entry['error']}", flush=True)
        except FAILURES as error:
            entry["error"] = str(error)
            print(f"rehearsal: FAILED: {error}", flush=True)
        if self.traffic:
            time.sleep(SETTLED)
        entry |= {"ended": time.time(), "live_after": self.live()}
        if entry["live_before"]:
            names = [step["name"] for step in entry["steps"]]
            self.run["replacements"] += list(pairwise(names)).count(("watch", "clean"))
        begun = [step["at"] for step in entry["steps"] if step["name"] == "repair"]
        over = [step["at"] for step in entry["steps"] if step["name"] in ("live", "refused")]
        if begun and over:
            entry["deploy_seconds"] = over[-1] - begun[0]

    def on_step(self, name: str) -> None:
        """Record when a step of the deploy began."""
        entry = self.run["scenarios"][-1]
        entry["steps"].append({"name": name, "at": time.time()})
        print(f"  {time.time() - entry['started']:4.0f} s  deploy.sh: {name}", flush=True)

    def get(self, path: str) -> str:
        """Return the body at a path of the public URL."""
        with urllib.request.urlopen(self.server.url + path, timeout=10) as response:  # noqa: S310 - loopback
            return response.read().decode()

    def live(self) -> str | None:
        """Return the tag that the public URL answers with; None without an answer."""
        try:
            return json.loads(self.get("/version"))["tag"]
        except (OSError, ValueError):
            return None

    def merge(self, name: str, message: str, date: str = "") -> tuple[int, str]:
        """Commit the changes and run cd.yml for the commit."""
        self.commits[name] = self.repository.commit(message, date)
        environment = {name: self.bases[name] for name in ("PYTHON_IMAGE", "FRONT_IMAGE", "DB_IMAGE")}
        # A runner that keeps nox's environments, so that each push does not make them again.
        environment["NOX_ENVIRONMENTS"] = str(self.repository.folder.parent / "environments")
        return self.repository.push(self.server.variables, self.server.secrets, environment, self.on_step)

    def merge_goes_live(self, name: str, message: str, date: str = "") -> None:
        """Merge; cd.yml must succeed, and the release must be live everywhere."""
        pushed = time.time()
        status, log = self.merge(name, message, date)
        live = [step["at"] for step in self.run["scenarios"][-1]["steps"] if step["name"] == "live"]
        if live and live[-1] > pushed:
            print(f"  {live[-1] - pushed:.0f} s from push to live", flush=True)
        expect(status == 0, f"cd.yml failed for a good release; its log is {self.repository.log}:\n{log[-3000:]}")
        self.is_live(name)
        newest, latest = self.server.tag_of(self.commits[name]), self.server.tag_of("latest")
        expect(newest == latest, "latest is not the image that went live")

    def deploy_by_hand(self) -> str:
        """Run deploy.sh on the server, as an administrator does after editing .env."""
        command = ["docker", "exec", self.server.name, f"{DIR}/deploy.sh"]
        printed = []
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as deploy:
            for line in deploy.stdout:
                printed.append(line)
                if step := STEP.search(line):
                    self.on_step(step.group(1))
        output = "".join(printed)
        expect(deploy.returncode == 0, f"deploy.sh failed ({deploy.returncode}): {output}")
        return output

    def start_deploy(self, tag: str) -> subprocess.Popen:
        """Request a deploy with the key, and return at once."""
        command = self.server.ssh_command(f"deploy {tag}")
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def deploy_by_key(self, tag: str) -> subprocess.CompletedProcess:
        """Request a deploy with the key, and wait for its end."""
        printed = []
        with self.start_deploy(tag) as deploy:
            for line in deploy.stdout:
                printed.append(line)
                if step := STEP.search(line):
                    self.on_step(step.group(1))
        return subprocess.CompletedProcess(deploy.args, deploy.returncode, "".join(printed), "")

    def is_live(self, name: str) -> None:
        """Expect that all sources name the same live release."""
        commit = self.commits[name]
        expect(self.live() == commit, f"the public address answers {self.live()}, not {commit}")
        self.at_rest(commit)
        expect(f"live: {commit}" in self.server.ssh("status").stdout, "status does not say what is live")
        before = self.server.containers()
        self.server.compose("up --detach")
        expect(self.server.containers() == before, "a plain 'docker compose up -d' changed the containers")

    def at_rest(self, commit: str) -> None:
        """Expect that the server runs this release and nothing else, as if no deploy had been interrupted."""
        looked = self.server.exec(
            f"cd {DIR}; . ./.env; echo $IMAGE_TAG $DEPLOY_ID $API_REPLICAS $(readlink releases/current)"
            " $(<releases/upstream);"
            "find . -name '*.new' -o -path './backups/new'; docker ps --all --format "
            """'{{.Names}} {{.Image}} {{.Status}} {{.Label "quai.deploy"}} {{.Label "quai.tag"}}' | sort"""
        ).splitlines()
        looked = [line for line in looked if "-backup-run-" not in line]  # of `own_backup`
        tag, deploy, replicas, files, pointer = looked[0].split(" ")
        expect((tag, files, pointer) == (commit, commit, "front"), f"expected only {commit}: {looked}")
        served = [line for line in looked[1:] if "-proxy-" not in line and "-db-" not in line]
        wanted = [f"quai-api-{number + 1}" for number in range(int(replicas))] + ["quai-front-1"]
        ours = [line for line in served if f":{commit} Up " in line or line.startswith("quai-front-1 ")]
        ready = [line for line in ours if " Up " in line and line.endswith(f"(healthy) {deploy} {commit}")]
        expect(served == ready and [line.split()[0] for line in ready] == wanted, f"not {wanted} of {commit}: {looked}")
        expect(len(looked) == len(wanted) + 3, f"there is more or less than that: {looked}")
        expect(self.live() == commit, f"the public address answers {self.live()}, not {commit}")

    def told(self) -> list[dict]:
        """Return the deploys in the ledger, oldest first. Raises Failed unless they are those of deploys.log."""
        logged = [json.loads(line) for line in self.server.exec(f"cat {DIR}/deploys.log").splitlines()]
        told = json.loads(self.get("/deploys?limit=100"))["items"][::-1]
        expect(
            [(one["attempt"], one["tag"], one["outcome"], one["reason"], one["actor"], one["seconds"]) for one in told]
            == [(one["id"], one["tag"], one["outcome"], one["reason"], one["by"], one["seconds"]) for one in logged],
            f"the log tells {logged}, the ledger {told}",
        )
        live = json.loads(self.get("/live"))["tag"]
        expect(live == self.live(), f"the ledger says that {live} is live, and {self.live()} answers")
        return told

    @contextmanager
    def refused(self, what: str):
        """Expect that production is the same before and after, to the container."""
        before = (self.live(), self.server.containers(), self.server.exec(f"cat {DIR}/.env {DIR}/releases/upstream"))
        link = self.server.exec(f"readlink {DIR}/releases/current")
        yield
        after = (self.live(), self.server.containers(), self.server.exec(f"cat {DIR}/.env {DIR}/releases/upstream"))
        expect(before == after, f"{what} changed production: {before} became {after}")
        expect(link == self.server.exec(f"readlink {DIR}/releases/current"), f"{what} changed the release's files")

    def start_traffic(self, *, writes: bool = True) -> None:
        """Start the load."""
        file = self.server.folder / "requests.jsonl"
        what = (self.server.setting("API_TOKEN"), self.commits["first"], self.rate, file, MOST_SECONDS)
        self.traffic = Traffic(self.server.url, *what, writes=writes)
        self.traffic.start()

    @contextmanager
    def without_traffic(self):
        """Pause the load: requests fail while the machine or the database is unavailable."""
        self.records += self.traffic.stop().records
        try:
            yield
        finally:
            self.start_traffic()

    @contextmanager
    def reading_only(self):
        """Send reads only: a process that crashes loses the writes in flight."""
        with self.without_traffic():
            self.start_traffic(writes=False)
            try:
                yield
            finally:
                self.records += self.traffic.stop().records

    def end_traffic(self) -> Summary:
        """Stop the load and compare the acknowledged writes with the database."""
        summary = Summary(self.records + self.traffic.stop().records)
        self.traffic = None
        stored = self.server.compose("exec -T db psql -U quai -d quai -At -c 'select text from notes'").splitlines()
        lost, duplicated = lost_and_duplicated(summary.acknowledged, stored)
        self.run |= {"lost": len(lost), "duplicated": len(duplicated)}
        return summary


# Healthy, and gone once it has been asked before and after the switch.
FIRST_THAT_ENDS = """
ARG BASE
FROM $BASE
COPY docker-compose.prod.yml scripts/deploy.sh /release/
COPY scripts/server /release/server
COPY service/front /release/front
WORKDIR /app
RUN mkdir service && touch service/migrate.py
COPY <<END ends.py
import http.server, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
class Handler(http.server.BaseHTTPRequestHandler):
    asked = 0
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"tag": "TAG"}')
        Handler.asked += 1
server = http.server.HTTPServer(("", 8000), Handler)
while Handler.asked < 2:
    server.handle_request()
print("boom")
END
HEALTHCHECK --start-period=60s --start-interval=1s CMD true
CMD ["python3", "ends.py"]
"""


def first_deploy(r: Rehearsal) -> None:
    """First deploy to an empty server, after a refused attempt."""
    r.server.set(NOTIFY_URL="http://127.0.0.1/deploys", NOTIFY_TOKEN="${API_TOKEN}")  # noqa: S106 - a reference
    tag = "1" * 40
    image = f"{r.server.registry}/quai:{tag}"
    options = ("--quiet", "--build-arg", f"BASE={r.bases['PYTHON_IMAGE']}", "--tag", image, "--file", "-")
    run("docker", "build", *options, str(r.repository.folder), input=FIRST_THAT_ENDS.replace("TAG", tag))
    run("docker", "push", "--quiet", image)
    refused = r.deploy_by_key(tag)
    expect(refused.returncode == 1 and "boom" in refused.stdout, f"not refused: {refused.stdout}{refused.stderr}")
    expect("refused: the new api is crashing\n==> still live: nothing" in refused.stdout, f"says {refused.stdout}")
    left = [line.split()[0] for line in r.server.containers()]
    expect(left == ["quai-db-1", "quai-proxy-1"], f"a first release that was refused left {left}")
    expect("live: nothing" in r.server.ssh("status").stdout, "status says that something is live")
    r.merge_goes_live("first", "The service")
    r.start_traffic()


def code_change(r: Rehearsal) -> None:
    """A code change."""
    r.repository.replace("service/app.py", 'title="Quai"', 'title="Quai, changed"')
    # Committed on a laptop whose clock is fast: the merges after it are not older for that.
    r.merge_goes_live("code", "Change the code", date=f"@{time.time() + 600:.0f} +0000")
    expect("Quai, changed" in r.get("/openapi.json"), "the code that answers is not the changed one")


def configuration_and_page_change(r: Rehearsal) -> None:
    """A change of docker-compose.prod.yml, the Caddyfile and the page."""
    r.repository.replace(
        "docker-compose.prod.yml",
        "memory: 512M, pids: 256}\n\n  # Run once",
        "memory: 500M, pids: 256}\n\n  # Run once",
    )
    r.repository.replace("service/front/page/index.html", "</title>", ", rehearsed</title>")
    r.repository.replace("service/front/Caddyfile", "Referrer-Policy no-referrer", "Referrer-Policy same-origin")
    proxy = [line for line in r.server.containers() if "-proxy-" in line]
    r.merge_goes_live("page", "Change the page, its headers and the memory limit")
    with urllib.request.urlopen(r.server.url, timeout=10) as page:  # noqa: S310 - loopback
        expect(page.headers["Referrer-Policy"] == "same-origin", "the Caddyfile that serves is not the changed one")
    expect("rehearsed</title>" in r.get("/"), "the page that is served is not the changed one")
    memory = r.server.exec("docker inspect --format '{{.HostConfig.Memory}}' $(docker ps -q --filter name=-api-)")
    expect(memory == str(500 * 2**20), f"the memory limit is {memory}")
    expect(proxy == [line for line in r.server.containers() if "-proxy-" in line], "the proxy was recreated")


def never_healthy(r: Rehearsal) -> None:
    """A release that is healthy in CI but never on the server."""
    add = "    if os.environ.get('APP_ENV') == 'prod' and not os.environ.get('PARTNER'):\n"
    add = add.replace("'", '"') + '        return "PARTNER is not set on this server"\n'
    r.repository.replace(
        "service/app.py",
        "def _unhealthy_reason(engine: Engine, required_revision: str) -> str | None:\n",
        "def _unhealthy_reason(engine: Engine, required_revision: str) -> str | None:\n" + add,
    )
    r.repository.replace("service/app.py", "import secrets\n", "import os\nimport secrets\n")
    r.repository.replace("docker-compose.prod.yml", "    API_TOKEN: $", "    PARTNER: ${PARTNER:-}\n    API_TOKEN: $")
    for name in (".env.example", ".env.prod"):
        path = r.repository.folder / name
        path.write_text(path.read_text() + "# Whom we call.\nPARTNER=somebody\n")
    with r.refused("a release that is never healthy"):
        status, log = r.merge("bad", "Call a partner")
    expect(status != 0, "cd.yml is green for a release that was refused")
    expect("==> refused:" in log, f"not refused by the server:\n{log[-3000:]}")
    expect("PARTNER is not set on this server" in log, "the log does not show why the release is not healthy")
    latest = r.server.tag_of("latest")
    expect(latest == r.server.tag_of(r.commits["page"]), "latest moved to a refused release")
    r.repository.git("revert", "--no-edit", "HEAD")


def roll_back(r: Rehearsal) -> None:
    """Rollback: edit IMAGE_TAG in .env and run deploy.sh."""
    expect(
        f"IMAGE_TAG={r.commits['code']}" in r.server.ssh("status").stdout, "status does not list the tag to go back to"
    )
    r.server.set(IMAGE_TAG=r.commits["code"])
    r.deploy_by_hand()
    r.is_live("code")
    expect("rehearsed</title>" not in r.get("/"), "the page did not go back with its release")


def roll_forward(r: Rehearsal) -> None:
    """Roll forward with the next merge."""
    r.merge_goes_live("forward", "Mend it")
    expect("rehearsed</title>" in r.get("/"), "the page did not come back with its release")


def order(r: Rehearsal) -> None:
    """The same deploy again is a no-op, an older commit is refused, changed settings are applied."""
    with r.refused("the same deploy again"):
        again = r.server.ssh(f"deploy {r.commits['forward']}")
    expect(again.returncode == 0 and f"==> live: {r.commits['forward']}" in again.stdout, f"not live: {again.stdout}")
    with r.refused("an older commit"):
        older = r.server.ssh(f"deploy {r.commits['code']}")
    expect(older.returncode != 0 and "older" in older.stdout, f"not refused as older: {older.stdout}")
    was = r.server.setting("API_TOKEN")
    r.server.set(API_TOKEN=f"{was},{'another-token-' * 3}")
    r.deploy_by_hand()
    r.is_live("forward")
    tokens = r.server.exec("docker exec quai-api-1 printenv API_TOKEN")
    expect(tokens == r.server.setting("API_TOKEN"), "a changed setting was not applied")
    r.server.set(API_TOKEN=was, API_REPLICAS="2")
    r.deploy_by_hand()
    r.is_live("forward")


def roll_back_under_load(r: Rehearsal) -> None:
    """Rollback and roll forward with two replicas and twice the load, by the commands that status prints."""
    more = Traffic(
        r.server.url, r.server.setting("API_TOKEN"), r.commits["first"], r.rate, r.server.folder / "more.jsonl"
    )
    more.start()
    try:
        for name in ("code", "forward"):
            told = r.server.ssh("status").stdout.splitlines()
            line = next(line for line in told if line.startswith("sudo sed") and r.commits[name] in line)
            began = time.monotonic()
            r.server.exec(line)
            print(
                f"  {time.monotonic() - began:.1f} s for {name}, two replicas, {2 * r.rate:.0f} requests/s", flush=True
            )
            r.is_live(name)
        r.server.set(API_REPLICAS="1")
        r.deploy_by_hand()
        r.is_live("forward")
    finally:
        r.records += more.stop().records


def public_lie(r: Rehearsal) -> None:
    """The public URL does not serve the release: the workflow fails."""
    given = r.server.variables | r.server.secrets | {"PUBLIC_URL": f"{r.server.url}/releases"}
    command = ["scripts/nox", "-s", "deploy"]
    environment = runner_environment() | given
    folder = r.repository.folder
    with r.refused("a deploy of what is live"):
        got = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    expect(got.returncode != 0 and f"not {r.commits['forward']}" in got.stderr, f"not red: {got.stdout}{got.stderr}")


def locked_down(r: Rehearsal) -> None:
    """The deploy key gives access to nothing else."""
    commit = r.commits["forward"]
    deploy = f"deploy {commit}"
    asked = ["id", "bash", "", "deploy", "deploy HEAD", "deploy $(id)", f"deploy {commit[:-1]}", f" {deploy}"]
    asked += [f"{deploy}; id", f"{deploy}\nid", f"{deploy} --force", "status; id", "status\nid", "--help"]
    asked += [f"cat {DIR}/.env", "scp -t /tmp", "internal-sftp"]
    with r.refused("something that the key must not do"):
        for command in asked:
            got = r.server.ssh(command)
            expect(
                got.returncode == 2 and "uid=" not in got.stdout,
                f"the key may do {command!r}: {got.stdout}{got.stderr}",
            )
        terminal = r.server.ssh("status", options=("-tt",))
        expect("PTY allocation request failed" in terminal.stderr, f"the key gets a terminal: {terminal.stderr}")
        subsystem = r.server.ssh("sftp", options=("-s",))
        expect(subsystem.returncode != 0, "the key gets sftp")
        reverse = r.server.ssh("status", options=("-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:80"))
        expect(reverse.returncode == 255, f"the key gets a reverse forward: {reverse.stderr}")
        through = r.server.ssh("status", options=("-W", "127.0.0.1:80"))
        expect("administratively prohibited" in through.stderr, f"the key gets a forward: {through.stderr}")


def wrong_input(r: Rehearsal) -> None:
    """Invalid arguments and settings get one clear message and change nothing."""
    wrong = {
        "IMAGE_TAG in": {"IMAGE_TAG": ""},
        "must be a commit": {"IMAGE_TAG": "latest"},
        "cannot be pulled": {"IMAGE_TAG": NOBODYS},
        "IMAGE in": {"IMAGE": ""},
        "set DB_CONN in .env": {"DB_CONN": ""},
        "set API_TOKEN in .env": {"API_TOKEN": ""},
        "API_REPLICAS in": {"API_REPLICAS": "many"},
        "NOTIFY_URL in": {"NOTIFY_URL": "chat.example.com"},
        "MIN_FREE_MB is 99999999": {"MIN_FREE_MB": "99999999", "IMAGE_TAG": r.commits["code"]},
    }
    for message, settings in wrong.items():
        was = {name: r.server.setting(name) for name in settings}
        with r.refused(str(settings)):
            r.server.set(**settings)
            command = ["docker", "exec", r.server.name, f"{DIR}/deploy.sh"]
            got = subprocess.run(command, capture_output=True, text=True, check=False)
            r.server.set(**was)
        output = got.stdout + got.stderr
        expect(got.returncode != 0, f"{settings} exits 0: {output}")
        told = [line for line in output.splitlines() if re.match("==> refused:|deploy.sh:", line) and message in line]
        expect(len(told) == 1, f"{settings} is not reported in one line with {message!r}: {output}")
    for message, command in {
        f"no .env in {DIR}": "mv .env .env.away",
        f"cannot read {DIR}/.env": "mv .env .env.away; install -m 000 -o deploy .env.away .env",
        "the line IMAGE_TAG= is missing": "cp -p .env .env.away; sed -i /^IMAGE_TAG=/d .env",
    }.items():
        with r.refused(command):
            r.server.exec(f"cd {DIR}; {command}")
            got = r.server.ssh(f"deploy {r.commits['code']}")
            r.server.exec(f"cd {DIR}; mv -f .env.away .env")
        expect(got.returncode == 2 and got.stderr.count(message) == 1, f"{command!r} is reported as: {got.stderr}")


SCENARIOS = (
    first_deploy,
    code_change,
    configuration_and_page_change,
    never_healthy,
    roll_back,
    roll_forward,
    order,
    roll_back_under_load,
    public_lie,
    locked_down,
    wrong_input,
)

"""What happens to a server between two Fridays, in the order in which it happens here."""

import json
import subprocess
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from itertools import pairwise

from tests.rehearsal.repository import STEP, Repository
from tests.rehearsal.server import DIR, Server
from tests.rehearsal.traffic import Summary, Traffic, lost_and_doubled

NOBODYS = "0" * 40  # no commit
SETTLED = 2.0  # seconds of traffic after each scenario, so that what it broke later is seen, too


class Failed(Exception):
    """A scenario did not end as it must; the message says how."""


def expect(true: bool, otherwise: str) -> None:
    """Raise Failed unless it is true."""
    if not true:
        raise Failed(otherwise)


class Rehearsal:
    """One server, one repository, traffic throughout; `run` is what the report tells."""

    def __init__(self, server: Server, repository: Repository, bases: dict[str, str], rate: float) -> None:
        self.server, self.repository, self.bases, self.rate = server, repository, bases, rate
        self.traffic: Traffic | None = None
        self.commits: dict[str, str] = {}
        self.run = {"started": time.time(), "replacements": 0, "lost": 0, "doubled": 0, "scenarios": []}

    def play(self, scenarios: Sequence[Callable[["Rehearsal"], None]], chosen: str) -> None:
        """Play the scenarios, in order; all but the first may fail without ending it."""
        for scenario in scenarios:
            if chosen in scenario.__name__ or scenario is scenarios[0]:
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
        except (Failed, OSError, ValueError, RuntimeError, TimeoutError, subprocess.SubprocessError) as error:
            entry["error"] = str(error)
            print(f"rehearsal: FAILED: {error}", flush=True)
        if self.traffic:
            time.sleep(SETTLED)
        entry |= {"ended": time.time(), "live_after": self.live()}
        if entry["live_before"]:
            names = [step["name"] for step in entry["steps"]]
            self.run["replacements"] += list(pairwise(names)).count(("watch", "live"))
        begun = [step["at"] for step in entry["steps"] if step["name"] == "repair"]
        over = [step["at"] for step in entry["steps"] if step["name"] in ("live", "refused")]
        if begun and over:
            entry["deploy_seconds"] = over[-1] - begun[0]

    def on_step(self, name: str) -> None:
        """Note when a step of deploy.sh began."""
        entry = self.run["scenarios"][-1]
        entry["steps"].append({"name": name, "at": time.time()})
        print(f"  {time.time() - entry['started']:4.0f} s  deploy.sh: {name}", flush=True)

    def get(self, path: str) -> str:
        """What the public address answers."""
        with urllib.request.urlopen(self.server.url + path, timeout=10) as response:  # noqa: S310 - loopback
            return response.read().decode()

    def live(self) -> str | None:
        """The tag that the public address answers with."""
        try:
            return json.loads(self.get("/version"))["tag"]
        except (OSError, ValueError):
            return None

    def merge(self, name: str, message: str) -> tuple[int, str]:
        """Commit what was changed, and run cd.yml for it."""
        self.commits[name] = self.repository.commit(message)
        environment = {name: self.bases[name] for name in ("PYTHON_IMAGE", "FRONT_IMAGE", "DB_IMAGE")}
        # A runner that keeps nox's environments, so that each push does not make them again.
        environment["NOX_ENVIRONMENTS"] = str(self.repository.folder.parent / "environments")
        return self.repository.push(self.server.variables, self.server.secrets, environment, self.on_step)

    def merge_goes_live(self, name: str, message: str) -> None:
        """Merge; cd.yml must be green, and everything must say that it is live."""
        status, log = self.merge(name, message)
        expect(status == 0, f"cd.yml failed for a good release; its log is {self.repository.log}:\n{log[-3000:]}")
        self.is_live(name)
        newest, latest = self.server.tag_of(self.commits[name]), self.server.tag_of("latest")
        expect(newest == latest, "latest is not the image that went live")

    def deploy_by_hand(self) -> str:
        """Run deploy.sh on the server, as its owner would after editing .env."""
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
        """Ask for a deploy with the key, and go on."""
        command = self.server.ssh_command(f"deploy {tag}")
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def deploy_by_key(self, tag: str) -> subprocess.CompletedProcess:
        """Ask for a deploy with the key, and hear how it ends."""
        printed = []
        with self.start_deploy(tag) as deploy:
            for line in deploy.stdout:
                printed.append(line)
                if step := STEP.search(line):
                    self.on_step(step.group(1))
        return subprocess.CompletedProcess(deploy.args, deploy.returncode, "".join(printed), "")

    def is_live(self, name: str) -> None:
        """Everything that can tell what is live tells the same."""
        commit = self.commits[name]
        expect(self.live() == commit, f"the public address answers {self.live()}, not {commit}")
        expect(self.server.setting("IMAGE_TAG") == commit, "IMAGE_TAG in .env is not what is live")
        images = [line for line in self.server.containers() if "-api-" in line or "-migrate-" in line]
        expect([line.split(":")[-1] for line in images] == [commit], f"containers besides the live one: {images}")
        expect(self.server.exec(f"cat {DIR}/releases/upstream") == "api", "the pointer is not at rest")
        expect(f"live: {commit}" in self.server.ssh("status").stdout, "status does not say what is live")
        before = self.server.containers()
        self.server.compose("up --detach")
        expect(self.server.containers() == before, "a plain 'docker compose up -d' changed the containers")

    @contextmanager
    def refused(self, what: str):
        """Production must be the same before and after, to the container."""
        before = (self.live(), self.server.containers(), self.server.exec(f"cat {DIR}/.env {DIR}/releases/upstream"))
        link = self.server.exec(f"readlink {DIR}/releases/current")
        yield
        after = (self.live(), self.server.containers(), self.server.exec(f"cat {DIR}/.env {DIR}/releases/upstream"))
        expect(before == after, f"{what} changed production: {before} became {after}")
        expect(link == self.server.exec(f"readlink {DIR}/releases/current"), f"{what} changed the release's files")

    def end_traffic(self) -> Summary:
        """Stop the traffic and count what it was promised against the database."""
        summary = self.traffic.stop()
        self.traffic = None
        stored = self.server.compose("exec -T db psql -U quai -d quai -At -c 'select text from notes'").splitlines()
        lost, doubled = lost_and_doubled(summary.acknowledged, stored)
        self.run |= {"lost": len(lost), "doubled": len(doubled)}
        return summary


def first_deploy(r: Rehearsal) -> None:
    """First deploy onto an empty server."""
    r.merge_goes_live("first", "The service")
    token, commit = r.server.setting("API_TOKEN"), r.commits["first"]
    request = urllib.request.Request(  # noqa: S310 - loopback
        f"{r.server.url}/releases",
        json.dumps({"tag": commit}).encode(),
        {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    urllib.request.urlopen(request, timeout=10).close()  # noqa: S310 - loopback
    r.traffic = Traffic(r.server.url, token, commit, r.rate, r.server.folder / "requests.jsonl")
    r.traffic.start()


def code_change(r: Rehearsal) -> None:
    """A code change."""
    r.repository.replace("service/app.py", 'title="Quai"', 'title="Quai, changed"')
    r.merge_goes_live("code", "Change the code")
    expect("Quai, changed" in r.get("/openapi.json"), "the code that answers is not the changed one")


def configuration_and_page_change(r: Rehearsal) -> None:
    """A change of docker-compose.prod.yml and of the page."""
    r.repository.replace(
        "docker-compose.prod.yml",
        "memory: 512M, pids: 256}\n\n  # Run once",
        "memory: 500M, pids: 256}\n\n  # Run once",
    )
    r.repository.replace("service/front/page/index.html", "</title>", ", rehearsed</title>")
    front = [line for line in r.server.containers() if "-front-" in line]
    r.merge_goes_live("page", "Change the page and the memory limit")
    expect("rehearsed</title>" in r.get("/"), "the page that is served is not the changed one")
    memory = r.server.exec("docker inspect --format '{{.HostConfig.Memory}}' $(docker ps -q --filter name=-api-)")
    expect(memory == str(500 * 2**20), f"the memory limit is {memory}")
    expect(front == [line for line in r.server.containers() if "-front-" in line], "the front was recreated")


def never_healthy(r: Rehearsal) -> None:
    """A release that is healthy in CI and never on the server."""
    add = "    if os.environ.get('APP_ENV') == 'prod' and not os.environ.get('PARTNER'):\n"
    add = add.replace("'", '"') + '        return "PARTNER is not set on this server"\n'
    r.repository.replace(
        "service/app.py",
        "def _why_not(engine, needed: str) -> str | None:\n",
        "def _why_not(engine, needed: str) -> str | None:\n" + add,
    )
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
    """Rollback: edit IMAGE_TAG in .env, run deploy.sh."""
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
    """The same again is a quick no-op, an older commit is refused, changed settings are applied."""
    with r.refused("the same deploy again"):
        again = r.server.ssh(f"deploy {r.commits['forward']}")
    expect(again.returncode == 0 and f"==> live: {r.commits['forward']}" in again.stdout, f"not live: {again.stdout}")
    with r.refused("an older commit"):
        older = r.server.ssh(f"deploy {r.commits['code']}")
    expect(older.returncode != 0 and "older" in older.stdout, f"not refused as older: {older.stdout}")
    r.server.set(API_REPLICAS="2")
    r.deploy_by_hand()
    running = r.server.exec("docker ps -q --filter name=-api- | wc -l")
    expect(running == "2", f"{running} containers after API_REPLICAS=2")
    r.server.set(API_REPLICAS="1")
    r.deploy_by_hand()
    r.is_live("forward")


def locked_down(r: Rehearsal) -> None:
    """The deploy key opens nothing else."""
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
    """Wrong arguments and settings get one clear line, and change nothing."""
    wrong = {
        "IMAGE_TAG in": {"IMAGE_TAG": ""},
        "'latest', not a commit": {"IMAGE_TAG": "latest"},
        "cannot be pulled": {"IMAGE_TAG": NOBODYS},
        "IMAGE is missing": {"IMAGE": ""},
        "set DB_CONN in .env": {"DB_CONN": ""},
        "set API_TOKEN in .env": {"API_TOKEN": ""},
        "API_REPLICAS in": {"API_REPLICAS": "many"},
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
        told = [line for line in output.splitlines() if message in line]
        expect(len(told) == 1, f"{settings} is not told in one line with {message!r}: {output}")


SCENARIOS = (
    first_deploy,
    code_change,
    configuration_and_page_change,
    never_healthy,
    roll_back,
    roll_forward,
    order,
    locked_down,
    wrong_input,
)

"""The rehearsal: one server and one repository under load, and what every scenario can expect."""

import json
import subprocess
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from itertools import pairwise

from tests.rehearsal.repository import STEP, Repository
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

    def merge_and_expect_live(self, name: str, message: str, date: str = "") -> None:
        """Merge; cd.yml must succeed, and the release must be live everywhere."""
        pushed = time.time()
        status, log = self.merge(name, message, date)
        live = [step["at"] for step in self.run["scenarios"][-1]["steps"] if step["name"] == "live"]
        if live and live[-1] > pushed:
            print(f"  {live[-1] - pushed:.0f} s from push to live", flush=True)
        expect(status == 0, f"cd.yml failed for a good release; its log is {self.repository.log}:\n{log[-3000:]}")
        self.expect_live(name)
        newest, latest = self.server.manifest(self.commits[name]), self.server.manifest("latest")
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

    def expect_live(self, name: str) -> None:
        """Expect that all sources name the same live release."""
        commit = self.commits[name]
        expect(self.live() == commit, f"the public address answers {self.live()}, not {commit}")
        self.expect_only_release(commit)
        expect(f"live: {commit}" in self.server.ssh("status").stdout, "status does not say what is live")
        before = self.server.containers()
        self.server.compose("up --detach")
        expect(self.server.containers() == before, "a plain 'docker compose up -d' changed the containers")

    def expect_only_release(self, commit: str) -> None:
        """Expect that the server runs this release and nothing else, as if no deploy had been interrupted."""
        looked = self.server.exec(
            f"cd {DIR}; . ./.env; echo $IMAGE_TAG $DEPLOY_ID $API_REPLICAS $(readlink releases/current)"
            " $(<releases/upstream);"
            "find . -name '*.new' -o -path './backups/new'; docker ps --all --format "
            """'{{.Names}} {{.Image}} {{.Status}} {{.Label "quai.deploy"}} {{.Label "quai.tag"}}' | sort"""
        ).splitlines()
        looked = [line for line in looked if "-backup-run-" not in line]  # of `manual_backup`
        tag, deploy, replicas, files, pointer = looked[0].split(" ")
        expect((tag, files, pointer) == (commit, commit, "front"), f"expected only {commit}: {looked}")
        served = [line for line in looked[1:] if "-proxy-" not in line and "-db-" not in line]
        wanted = [f"quai-api-{number + 1}" for number in range(int(replicas))] + ["quai-front-1"]
        ours = [line for line in served if f":{commit} Up " in line or line.startswith("quai-front-1 ")]
        ready = [line for line in ours if " Up " in line and line.endswith(f"(healthy) {deploy} {commit}")]
        expect(served == ready and [line.split()[0] for line in ready] == wanted, f"not {wanted} of {commit}: {looked}")
        expect(len(looked) == len(wanted) + 3, f"there is more or less than that: {looked}")
        expect(self.live() == commit, f"the public address answers {self.live()}, not {commit}")

    def expect_same_records(self) -> list[dict]:
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
    def expect_unchanged(self, what: str):
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

"""The class `Rehearsal`: it runs the scenarios, merges, deploys, and checks what the server runs."""

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException

from scripts.runner import base_images
from scripts.runner.project import compose_file
from tests.rehearsal.application import Application, Request
from tests.rehearsal.client import Client, check_invariant, send_once
from tests.rehearsal.edits import Compose, Edit, parse
from tests.rehearsal.failures import Commits, NotApplicable, describe_error, expect, say
from tests.rehearsal.production import ExpectedServices, find_problem, read_production, read_services
from tests.rehearsal.report import count_replacements, last_deploy_seconds
from tests.rehearsal.repository import STEP, Repository
from tests.rehearsal.running import RunningCommand
from tests.rehearsal.server import DIR, Server
from tests.rehearsal.swarm.cluster import Cluster
from tests.rehearsal.traffic import RELEASE_HEADER, Summary, Traffic

TRAFFIC_LIMIT = 8 * 3600.0  # seconds
SETTLE_SECONDS = 2.0  # of load after each scenario, so that its late failures are recorded, too


class Rehearsal:
    """One server and one repository, under load throughout; `run` is the data of the report."""

    def __init__(
        self,
        server: Server,
        repository: Repository,
        application: Application,
        bases: dict[str, str],
        rate: float,
        *,
        kills: int = 8,
        soak: int = 12,
        part: tuple[int, int] = (1, 1),
        seed: int = 1,
        mutants: Sequence[str] = ("",),
    ) -> None:
        """`kills` and `soak` are numbers of deploys (0 kills: at every point), `part` (2, 3) is the second of three
        parts of the kills, `seed` is the seed of random choices, `mutants` are parts of the names of mutants to test.
        """
        self.kills, self.soak, self.part, self.seed, self.mutants = kills, soak, part, seed, mutants
        self.server, self.repository, self.bases, self.rate = server, repository, bases, rate
        self.application = application
        self.traffic: Traffic | None = None
        self.records: list[dict] = []
        self.commits = Commits()
        self.run = {"started": time.time(), "replacements": 0, "scenarios": []}
        self.run |= {"lost": None, "duplicated": None, "violations": []}  # None: not counted

    def run_scenarios(self, scenarios: Sequence[Callable[["Rehearsal"], None]], names: Sequence[str]) -> None:
        """Run the first scenario, and those whose name contains one of `names`; only the first must pass."""
        for scenario in scenarios:
            if scenario is scenarios[0] or any(name in scenario.__name__ for name in names):
                self._run_scenario(scenario)
                if scenario is scenarios[0] and not self.run["scenarios"][0]["passed"]:
                    break
        self._end_last_scenario(time.time())

    def _run_scenario(self, scenario: Callable[["Rehearsal"], None]) -> None:
        started = time.time()
        self._end_last_scenario(started)
        entry = {"name": scenario.__doc__.strip("."), "started": started, "passed": False, "error": None}
        entry |= {"steps": [], "deploy_seconds": None, "live_before": self.live_tag() if self.commits else None}
        self.run["scenarios"].append(entry)
        print(f"rehearsal: {entry['name']} ...", flush=True)
        with self._record_failure(entry):
            if self.commits and not self.traffic:
                self.start_traffic()  # an earlier scenario failed to
            try:
                scenario(self)
            except NotApplicable as reason:
                entry["not_applicable"] = str(reason)
                say(f"not applicable: {reason}")
            entry["passed"] = True
        if not entry["passed"] and self.run["scenarios"][0]["passed"]:
            with self._record_failure(entry):
                self.deploy_by_hand()  # the scenario may have restored .env without a deploy
        if self.traffic:
            time.sleep(SETTLE_SECONDS)
            if not self.traffic.running:
                with self._record_failure(entry):
                    self.stop_traffic()
        entry |= {"live_after": self.live_tag(), "deploy_seconds": last_deploy_seconds(entry["steps"])}

    def _end_last_scenario(self, now: float) -> None:
        """Set the end of the run and of its last scenario: it ends where the next begins, so each request has one."""
        self.run["ended"] = now
        for entry in self.run["scenarios"][-1:]:
            entry["ended"] = now

    @contextmanager
    def _record_failure(self, entry: dict) -> Iterator[None]:
        """Record any exception as the failure of a scenario, so that the run continues and gets its report."""
        try:
            yield
        except Exception as error:
            message = describe_error(error)
            entry |= {"passed": False, "error": f"{entry['error']}; {message}" if entry["error"] else message}
            print(f"rehearsal: FAILED: {message}", flush=True)

    def on_step(self, name: str) -> None:
        """Record that a step of the deploy begins."""
        entry = self.run["scenarios"][-1]
        entry["steps"].append({"name": name, "at": time.time()})
        say(f"{time.time() - entry['started']:4.0f} s  deploy.sh: {name}")

    def get(self, path: str) -> str:
        """Return the body at a path of the public URL."""
        response = send_once(self.server, Request(path))
        expect(response.status < 400, f"GET {path} returned {response.status}: {response.body[:200]}")
        return response.body

    def live_tag(self) -> str | None:
        """Return the release that serves the health path at the public URL; None without one, and after an error."""
        try:
            response = send_once(self.server, Request(self.application.health_path or "/"))
        except (OSError, HTTPException):
            return None
        return response.headers[RELEASE_HEADER] if response.status < 500 else None

    def compose_file(self) -> Compose:
        """Return the compose file of the repository; the command of the image is not known."""
        return parse((self.repository.folder / compose_file(self.repository.folder)).read_text(), [])

    def change_compose_file(self, edit: Edit) -> None:
        """Change the compose file of the repository; it is not committed."""
        compose = self.compose_file()
        edit(compose)
        (self.repository.folder / compose_file(self.repository.folder)).write_text(compose.text() + "\n")

    def services(self) -> ExpectedServices:
        """Return the services of the compose file of the repository."""
        return read_services({"name": self.server.project} | self.compose_file().content)

    def merge(self, name: str, message: str, date: str = "") -> tuple[int, str]:
        """Commit the changes and run cd.yml for the commit; return its exit code and its log."""
        self.commits[name] = self.repository.commit(message, date)
        environment = {image: self.bases[image] for image in base_images.PINS if image in self.bases}
        environment |= self.server.trusted()
        # Keep nox's environments, so that each push does not create them again.
        environment["NOX_ENVIRONMENTS"] = str(self.repository.copy.parent / "environments")
        return self.repository.push(self.server.variables, self.server.secrets, environment, self.on_step)

    def merge_and_expect_live(self, name: str, message: str, date: str = "") -> None:
        """Merge; expect that cd.yml succeeds and that the release is live everywhere."""
        pushed = time.time()
        status, log = self.merge(name, message, date)
        live = [step["at"] for step in self.run["scenarios"][-1]["steps"] if step["name"] == "live"]
        if live and live[-1] > pushed:
            say(f"{live[-1] - pushed:.0f} s from push to live")
        expect(status == 0, f"cd.yml failed for a good release; its log is {self.repository.log}:\n{log[-3000:]}")
        self.expect_live(name)
        newest, latest = self.server.manifest(self.commits[name]), self.server.manifest("latest")
        expect(newest == latest, "latest is not the image that went live")

    def start_deploy(self, tag: str) -> RunningCommand:
        """Request a deploy with the key, and return at once: its steps are recorded while it runs."""
        return RunningCommand(self.server.ssh_command(f"deploy {tag}"), self._record_step)

    def deploy_by_key(self, tag: str) -> subprocess.CompletedProcess:
        """Request a deploy with the key, and wait for its end."""
        with self.start_deploy(tag) as deploy:
            return deploy.finish()

    def start_deploy_by_hand(self, *arguments: str) -> RunningCommand:
        """Run deploy.sh as root in a process group of its own, and return at once."""
        command = ("docker", "exec", self.server.name, "setsid", "--wait", f"{DIR}/deploy.sh", *arguments)
        return RunningCommand(command, self._record_step)

    def deploy_by_hand(self) -> str:
        """Run deploy.sh as root, as after an edit of .env; expect success, and return the output."""
        with self.start_deploy_by_hand() as deploy:
            done = deploy.finish()
        expect(done.returncode == 0, f"deploy.sh failed ({done.returncode}): {done.stdout}")
        return done.stdout

    def _record_step(self, line: str) -> None:
        if step := STEP.search(line):
            self.on_step(step.group(1))

    def expect_live(self, name: str) -> None:
        """Expect that the public URL, the server's files and `status` name this release.

        Also expect that a plain `docker compose up` changes nothing.
        """
        commit = self.commits[name]
        self._expect_live_tag(commit)
        self.expect_only_release(commit)
        expect(f"live: {commit}" in self.server.ssh("status").stdout, f"status does not report {commit} as live")
        if isinstance(self.server, Cluster):
            return
        before = self.server.containers()
        self.server.compose("up --detach")
        expect(self.server.containers() == before, "a plain 'docker compose up -d' changed the containers")

    def _expect_live_tag(self, commit: str) -> None:
        tag = self.live_tag()
        expect(tag == commit, f"the public URL returns {tag}, expected {commit}")

    def expect_only_release(self, commit: str) -> None:
        """Expect that the server runs this release and nothing else, as if no deploy had been interrupted."""
        server = self.server
        is_cluster = isinstance(server, Cluster)
        problem = server.find_problem(commit) if is_cluster else find_problem(read_production(server), commit)
        expect(not problem, problem)
        self._expect_live_tag(commit)

    @contextmanager
    def expect_unchanged(self, cause: str) -> Iterator[None]:
        """Expect that production is the same before and after: live tag, containers, .env, upstream and current."""
        before = self._production()
        expect(before[0] is not None, f"nothing is live before {cause}")
        yield
        after = self._production()
        expect(before == after, f"{cause} changed production: {before} became {after}")

    def _production(self) -> tuple:
        files = f"cat {DIR}/.env; cat {DIR}/releases/upstream 2>/dev/null || true; readlink {DIR}/releases/current"
        return self.live_tag(), self.server.containers(), self.server.exec(files)

    def prepare(self) -> None:
        """Run the commands that the application needs once, after the first deploy."""
        for command in self.application.prepare:
            say(f"docker compose {command}")
            self.server.compose(command)

    def build_traffic(self, name: str, is_sent: Callable[[Request], bool] = lambda request: True) -> Traffic:
        """Return a load of these requests with new credentials, whose records are written to a file with this name."""
        client, file = Client(self.server, self.application, self.commits["first"]), self.server.folder / name
        requests = list(filter(is_sent, client.fill_requests()))
        return Traffic(self.server.urls, requests, self.rate, file, TRAFFIC_LIMIT, ca=self.server.ca)

    def start_traffic(self, is_sent: Callable[[Request], bool] = lambda request: True) -> None:
        """Start the load."""
        traffic = self.build_traffic("requests.jsonl", is_sent)
        traffic.start()
        self.traffic = traffic

    def stop_traffic(self) -> None:
        """Stop the load and keep its records. RuntimeError if it exited early."""
        traffic, self.traffic = self.traffic, None
        self.stop_load(traffic)

    def stop_load(self, traffic: Traffic) -> None:
        """Stop this load and keep its records. RuntimeError if it exited early."""
        try:
            traffic.stop()
        finally:
            with suppress(OSError):
                self.records += Summary.read(traffic.records).records

    @contextmanager
    def without_traffic(self) -> Iterator[None]:
        """Pause the load: requests would fail while the machine or the database is unavailable.

        The jobs that it enqueued end first: one that is running then would fail, too.
        """
        try:
            self.stop_traffic()
            self._wait_for_jobs()
            yield
        finally:
            self.start_traffic()

    def _wait_for_jobs(self) -> None:
        """Wait until the acknowledged writes that are counted later, such as jobs, are stored."""
        counts = {name: count for name, count in self.application.counts.items() if count.wait}
        if counts:
            client = Client(self.server, self.application, self.commits["first"])
            acknowledged = Summary(self.records).acknowledged
            for name, count in counts.items():
                client.count_writes(count, acknowledged.get(name, []))

    @contextmanager
    def send_only(self, is_sent: Callable[[Request], bool]) -> Iterator[None]:
        """Send only these requests of the load; pause it if there are none."""
        with self.without_traffic():
            if any(map(is_sent, self.application.requests)):
                self.start_traffic(is_sent)
            try:
                yield
            finally:
                if self.traffic:
                    self.stop_traffic()

    def count_failed_requests(self) -> int:
        """Return how many requests have failed so far, including those of loads that were stopped."""
        current = Summary.read(self.traffic.records).records if self.traffic else []
        return Summary(self.records + current).failed

    def end_traffic(self) -> Summary:
        """Stop the load, count replacements and writes on the server. An error here fails the last scenario."""
        last = self.run["scenarios"][-1]
        if self.traffic:
            with self._record_failure(last):
                self.stop_traffic()
        self._end_last_scenario(time.time())
        with self._record_failure(last):
            self.run["replacements"] = count_replacements(self.server.deploy_log())
        summary = Summary(self.records)
        if self.records:
            if self.application.can_count:
                with self._record_failure(last):
                    client = Client(self.server, self.application, self.commits["first"])
                    self.run |= client.count_all_writes(summary.acknowledged)
            for invariant in self.application.invariants:
                with self._record_failure(last):
                    self.run["violations"] += check_invariant(self.server, invariant)
        return summary

"""One throwaway server on which the strategies replace one release with another, under load."""

import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from http.client import HTTPException
from statistics import median

from scripts.runner.process import ROOT, run
from tests.rehearsal import HERE
from tests.rehearsal.bench.figures import (
    Container,
    container,
    figures,
    incident_figures,
    new_bytes,
    seconds_until_switch,
)
from tests.rehearsal.bench.options import DEPLOY_PROGRAMS, STRATEGIES
from tests.rehearsal.bench.releases import crash_lines, sample_requests
from tests.rehearsal.report import describe_count
from tests.rehearsal.repository import Repository, runner_environment
from tests.rehearsal.sample.ledger import record_release
from tests.rehearsal.sample.upgrade import version_1_lines
from tests.rehearsal.server import DIR, Server, wait_for
from tests.rehearsal.traffic import Summary, Traffic
from tests.rehearsal.variants import build_image

SETTLE_SECONDS = 2.0  # of load before the first replacement, and after each
ANSWER_SECONDS = 60  # time limit for the first answer of a new release
PAUSE_SECONDS = 5  # between the kill of a deploy and its repetition
CRASH_WINDOW_SECONDS = 15  # of load after the end of a deploy of a bad release
KILL_WINDOW_SECONDS = 5  # of load after the end of a repeated deploy
KEEP_RELEASES = "20"  # so that no strategy has to pull a release again
ERRORS = (OSError, ValueError, LookupError, RuntimeError, subprocess.SubprocessError)
OUTPUT_LINES, OUTPUT_WIDTH = 5, 200  # what bench.json keeps of a command's output
SCRIPT = "/usr/local/lib/strategies.sh"  # on the server


class Bench:
    """The server, and for each strategy two good releases and one that crashes."""

    def __init__(self, server: Server, rate: float) -> None:
        self.server, self.rate = server, rate
        self.releases: dict[str, tuple[str, str]] = {}
        self.crash_tags: dict[str, str] = {}

    def make_releases(self, bases: dict[str, str], strategies: Sequence[str]) -> dict:
        """Build, smoke-test and push two commits as cd.yml does, and deploy both; return sizes in bytes."""
        repository = Repository(ROOT / ".nox/bench/repository", ROOT)
        self.server.start()
        self.server.set_up(repository.folder)
        self.server.push_base_images()
        self.server.set(HEALTH_SECONDS="120", KEEP_RELEASES=KEEP_RELEASES)
        run("docker", "cp", str(HERE / "bench/strategies.sh"), f"{self.server.name}:{SCRIPT}")
        variables = {"IMAGE": self.server.variables["IMAGE"], **bases}
        variables["NOX_ENVIRONMENTS"] = os.environ.get("NOX_ENVIRONMENTS", str(ROOT / ".nox"))
        tags = []
        for message in ("The service", "Change the code"):
            if tags:
                repository.replace("service/app.py", 'title="Quai"', 'title="Quai, changed"')
            tags.append(repository.commit(message))
            say(f"nox -s image -- --push: {message}")
            command = ("scripts/nox", "-s", "image", "--", "--push")
            run(*command, cwd=repository.folder, env=runner_environment() | variables)
        manifests = [json.loads(self.server.manifest(tag)) for tag in tags]
        images = (f"{variables['IMAGE']}:{tags[1]}", bases["PYTHON_IMAGE"])
        image, base = (int(run("docker", "image", "inspect", "--format={{.Size}}", name)) for name in images)
        self._derive_releases(tags, strategies)
        say("a first deploy of each release, so that all are on the server")
        for tag in dict.fromkeys(tag for pair in self.releases.values() for tag in pair):
            self.server.set(IMAGE_TAG=tag)
            self.server.exec(f"{DIR}/deploy.sh")
            if tag == tags[0]:
                record_release(self.server, tag)
        return {"code_change_bytes": new_bytes(*manifests), "image_bytes": image, "base_bytes": base}

    def _derive_releases(self, tags: Sequence[str], strategies: Sequence[str]) -> None:
        """Build the releases that differ from a commit by some lines of its Dockerfile."""
        build = partial(build_image, self.server.image, tags[1])
        self.releases = dict.fromkeys(STRATEGIES, (tags[0], tags[1]))
        self.crash_tags = dict.fromkeys(STRATEGIES, build("crashes", *crash_lines()))
        if "v1" in strategies:
            lines = version_1_lines()
            old, new = (build(f"version 1, {number}", *lines) for number in (1, 2))
            self.releases["v1"] = (old, new)
            self.crash_tags["v1"] = build("version 1, crashes", *lines, *crash_lines())
        else:
            del self.releases["v1"]

    def live_tag(self) -> str | None:
        """The tag that /version answers with; None without an answer."""
        with suppress(OSError, ValueError, LookupError, HTTPException):
            answer = urllib.request.urlopen(f"{self.server.url}/version", timeout=5)  # noqa: S310 - loopback
            with answer:
                return json.load(answer)["tag"]

    def run_script(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run strategies.sh on the server."""
        command = ("docker", "exec", "--workdir", DIR, self.server.name, SCRIPT, *arguments)
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)

    def expect_script(self, *arguments: str) -> str:
        """Run strategies.sh on the server and return its output. CalledProcessError, with all output, when it fails."""
        done = self.run_script(*arguments)
        if done.returncode:
            print(done.stdout + done.stderr, flush=True)
            done.check_returncode()
        return done.stdout

    def make_ready(self, strategy: str, replicas: int = 1) -> tuple[str, str]:
        """Make the first release of a strategy live, from any state; return both tags."""
        old, new = self.releases[strategy]
        images = (f"{self.server.image}:{tag}" for tag in (old, new, self.crash_tags[strategy]))
        self.expect_script("ready", strategy, old, str(replicas), *images)
        wait_for("the first release", lambda: self.live_tag() == old, ANSWER_SECONDS)
        return old, new

    def containers(self) -> list[Container]:
        """All containers of the server."""
        return [container(one) for one in json.loads(self.server.exec("docker inspect $(docker ps --all --quiet)"))]

    @contextmanager
    def load(self) -> Iterator[Callable[[], tuple[Summary, list[str]]]]:
        """Send requests; yield a function that stops them and returns the requests and the stored writes."""
        requests = sample_requests(self.releases["this"][0], self.server.setting("API_TOKEN"))
        file = self.server.folder / "requests.jsonl"
        # The header of the front does not tell which API answered: other strategies keep the front.
        traffic = Traffic([self.server.url], requests, self.rate, file, version_path="/version")

        def stop() -> tuple[Summary, list[str]]:
            summary = traffic.stop()
            select = "psql -U quai -d quai -At -c 'select text from notes'"
            stored = self.server.exec(f"docker exec $(docker ps --quiet --filter name=quai.db) {select}")
            return summary, stored.splitlines()

        traffic.start()
        try:
            time.sleep(SETTLE_SECONDS)
            yield stop
        finally:
            if traffic.running:
                traffic.stop()

    def measure_good(self, strategy: str, times: int, replicas: int = 1) -> dict:
        """Alternate between the two good releases."""
        tags, marks, startups, steps = self.make_ready(strategy, replicas), [], [], []
        with self.load() as stop:
            for number in range(times):
                old, new = tags[number % 2], tags[(number + 1) % 2]
                began = time.time()
                self.expect_script("replace", strategy, new)
                marks.append({"began": began, "ended": time.time(), "old": old, "new": new})
                wait_for(f"an answer of {new}", lambda new=new: self.live_tag() == new, ANSWER_SECONDS)
                startups += [one.startup_seconds for one in self.containers() if (one.service, one.tag) == ("api", new)]
                if strategy in DEPLOY_PROGRAMS:
                    steps.append(json.loads(self.server.exec(f"tail -n 1 {DIR}/deploys.log"))["seconds"])
                time.sleep(SETTLE_SECONDS)
            summary, stored = stop()
        watch = int(self.server.setting("WATCH_SECONDS"))
        more = {"startup_seconds": startups, "step_seconds": steps, "watch_seconds": watch}
        return figures(summary, marks, stored) | more

    def measure_crash(self, strategy: str) -> dict:
        """Replace the live release with one that is killed after CRASH_SECONDS, again and again."""
        old, _ = self.make_ready(strategy)
        incident = {"old": old, "new": self.crash_tags[strategy], "expected": old}
        with self.load() as stop:
            return self._finish(strategy, incident | {"start": time.time()}, CRASH_WINDOW_SECONDS, stop)

    def measure_kill(self, strategy: str, seconds: float) -> dict:
        """Kill a replacement after `seconds`, and repeat it PAUSE_SECONDS later."""
        old, new = self.make_ready(strategy)
        incident = {"old": old, "new": new, "expected": new}
        with self.load() as stop:
            incident["start"] = float(self.expect_script("kill", strategy, new, f"{seconds:.3f}").split()[-1])
            time.sleep(PAUSE_SECONDS)
            found = self._finish(strategy, incident, KILL_WINDOW_SECONDS, stop)
        return found | {"killed_after_seconds": round(seconds, 3)}

    def _finish(self, strategy: str, incident: dict, window_seconds: float, stop: Callable) -> dict:
        """Try to replace the live release, send requests for `window_seconds` more, and return the figures."""
        done = self.run_script("replace", strategy, incident["new"])
        incident["end"] = time.time()
        time.sleep(window_seconds)
        incident |= {"exit_code": done.returncode, "containers": self.containers()}
        summary, stored = stop()
        status = "docker service inspect --format '{{with .UpdateStatus}}{{.State}}{{end}}' quai_api"
        output = [line[:OUTPUT_WIDTH] for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        return {
            **incident_figures(summary, incident, stored),
            "update_status": self.server.exec(status) if strategy == "swarm" else "",
            "output": output[-OUTPUT_LINES:],
        }

    def measure(self, strategy: str, times: int) -> dict:
        """All figures of a strategy: of good replacements, of a release that crashes, of a deploy that is killed."""
        good = attempt(strategy, lambda: self.measure_good(strategy, times))
        crash = attempt(f"{strategy}, a release that crashes", lambda: self.measure_crash(strategy))
        kill = {"error": "not killed: its good replacements, which set the time of the kill, were not measured"}
        if not good["error"]:
            switches = [seconds_until_switch(steps) for steps in good["step_seconds"]]
            seconds = median(switches or good["command_seconds"]) / 2
            kill = attempt(f"{strategy}, killed after {seconds:.1f} s", lambda: self.measure_kill(strategy, seconds))
        return {"name": strategy, "label": STRATEGIES[strategy], **good, "crash": crash, "kill": kill}

    def measure_replicas(self, strategy: str, numbers: Sequence[int]) -> list[dict]:
        """The figures of one deploy and one rollback for each number of replicas."""
        return [
            {"strategy": strategy, "label": STRATEGIES[strategy], "replicas": number}
            | attempt(
                f"{strategy}, {describe_count(number, 'replica')}",
                lambda number=number: self.measure_good(strategy, 2, number),
            )
            for number in numbers
        ]


def say(text: str) -> None:
    """Print one line of progress."""
    print(f"bench: {text}", flush=True)


def attempt(name: str, action: Callable[[], dict]) -> dict:
    """The figures that `action` returns, with "error": None; or only the error."""
    say(f"{name} ...")
    try:
        found = action() | {"error": None}
    except ERRORS as error:
        failed = isinstance(error, subprocess.CalledProcessError)
        reason = f"a command failed with exit code {error.returncode}" if failed else repr(error)
        say(f"{name}: FAILED: {reason}{'; its output is above' if failed else ''}")
        return {"error": reason}
    afterwards = f"; afterwards: {found['running']}" if "running" in found else ""
    say(f"{name}: {found['failed']} of {found['requests']} requests failed{afterwards}")
    return found

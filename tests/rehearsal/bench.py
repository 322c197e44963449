"""Ways of replacing the container of an API, side by side on one throwaway server, with traffic on."""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path

from scripts.runner.base_images import PREFIX, base_images
from scripts.runner.process import ROOT, run
from tests.rehearsal import HERE, PINS
from tests.rehearsal.__main__ import use_docker_config
from tests.rehearsal.bench_report import (
    figures,
    load_table,
    markdown,
    new_bytes,
    put_into,
    replica_table,
    table_text,
    way_table,
)
from tests.rehearsal.load import CONNECTIONS, ROWS, measure_load
from tests.rehearsal.picture import picture
from tests.rehearsal.repository import Repository, runner_environment
from tests.rehearsal.server import DIR, Server, wait_for
from tests.rehearsal.traffic import Traffic

SETTLED = 2.0  # seconds of traffic before the first replacement, and after each
ANSWER_SECONDS = 60  # how long a new container may take to answer
TROUBLE = (OSError, ValueError, RuntimeError, subprocess.SubprocessError)
README_PICTURE = "tests/rehearsal/bench.svg"  # where README.md shows it from
SCRIPT = "/usr/local/lib/bench.sh"  # on the server
WAYS = {
    "plain": "`docker compose up -d`",
    "retry": "the same, the proxy retries for 30 s",
    "start-first": "start the new one, then stop the old one",
    "swarm": "Docker Swarm, start-first",
    "this": "`deploy.sh`",
}


class Bench:
    """One server, two releases that differ by a line of code."""

    def __init__(self, server: Server, rate: float) -> None:
        self.server, self.rate = server, rate
        self.tags: tuple[str, str] = ("", "")

    def make_releases(self, bases: dict[str, str]) -> dict:
        """Build, boot and push two commits as cd.yml does, and deploy both; gives the sizes in bytes."""
        repository = Repository(ROOT / ".nox/bench/repository")
        self.server.start()
        self.server.set_up(repository.folder)
        self.server.provide(bases)
        self.server.set(HEALTH_SECONDS="120")
        run("docker", "cp", str(HERE / "bench.sh"), f"{self.server.name}:{SCRIPT}")
        told = {"IMAGE": self.server.variables["IMAGE"], **bases}
        told["NOX_ENVIRONMENTS"] = os.environ.get("NOX_ENVIRONMENTS", str(ROOT / ".nox"))
        tags = []
        for message in ("The service", "Change the code"):
            if tags:
                repository.replace("service/app.py", 'title="Quai"', 'title="Quai, changed"')
            tags.append(repository.commit(message))
            say(f"nox -s image -- --push: {message}")
            command = ("scripts/nox", "-s", "image", "--", "--push")
            run(*command, cwd=repository.folder, env=runner_environment() | told)
        self.tags = (tags[0], tags[1])
        manifests = [json.loads(self.server.tag_of(tag)) for tag in self.tags]
        images = (f"{told['IMAGE']}:{tags[1]}", bases["PYTHON_IMAGE"])
        image, base = (int(run("docker", "image", "inspect", "--format={{.Size}}", name)) for name in images)
        say("a first deploy of each, so that the server has both")
        for tag in self.tags:
            self.server.exec(f"{DIR}/deploy.sh deploy {tag}")
        self.server.record_release(tags[0])
        return {"code_change_bytes": new_bytes(*manifests), "image_bytes": image, "base_bytes": base}

    def live(self) -> str | None:
        """The tag that the front answers with."""
        with suppress(OSError, ValueError, LookupError, HTTPException):
            answer = urllib.request.urlopen(f"{self.server.url}/version", timeout=5)  # noqa: S310 - loopback
            with answer:
                return json.load(answer)["tag"]

    def on_server(self, command: str) -> None:
        """Run bench.sh there."""
        self.server.exec(f"cd {DIR}; {SCRIPT} {command}")

    def measure(self, way: str, times: int, replicas: int = 1) -> dict:
        """Alternate between the two releases, with traffic on; gives the figures."""
        self.on_server(f"ready {way} {self.tags[0]} {replicas}")
        wait_for("the first release", lambda: self.live() == self.tags[0], ANSWER_SECONDS)
        token, marks = self.server.setting("API_TOKEN"), []
        traffic = Traffic(self.server.url, token, self.tags[0], self.rate, self.server.folder / "requests.jsonl")
        traffic.start()
        try:
            time.sleep(SETTLED)
            for number in range(times):
                old, new = self.tags[number % 2], self.tags[(number + 1) % 2]
                began = time.time()
                self.on_server(f"replace {way} {new}")
                marks.append({"began": began, "ended": time.time(), "old": old, "new": new})
                wait_for(f"an answer of {new}", lambda new=new: self.live() == new, ANSWER_SECONDS)
                time.sleep(SETTLED)
        finally:
            summary = traffic.stop()
        select = "psql -U quai -d quai -At -c 'select text from notes'"
        stored = self.server.exec(f"docker exec $(docker ps --quiet --filter name=quai.db) {select}").splitlines()
        return figures(summary, marks, stored)

    def ways(self, names: list[str], times: int) -> list[dict]:
        """The figures of each way; of one that fails, why."""
        return [{"name": n, "what": WAYS[n], **attempt(n, lambda n=n: self.measure(n, times))} for n in names]

    def replicas(self, counts: list[int]) -> list[dict]:
        """The figures of one deploy and one rollback for each number of replicas."""
        return [{"replicas": n, **attempt(f"{n} replicas", lambda n=n: self.measure("this", 2, n))} for n in counts]


def say(text: str) -> None:
    """Show progress."""
    print(f"bench: {text}", flush=True)


def attempt(name: str, play: Callable[[], dict]) -> dict:
    """The figures that it gives, and no error; or the error alone."""
    say(f"{name} ...")
    try:
        got = play() | {"error": None}
    except TROUBLE as error:
        ended = isinstance(error, subprocess.CalledProcessError)
        reason = f"a command ended with {error.returncode}" if ended else repr(error)
        say(f"{name}: FAILED: {reason}; what was printed is above")
        return {"error": reason}
    say(f"{name}: {got['failed']} of {got['requests']} requests failed")
    return got


def options_of(arguments: list[str]) -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(prog="nox -s bench --", description=__doc__)
    parser.add_argument("--replacements", type=int, default=5, metavar="N", help="of each way (default: 5)")
    parser.add_argument("--rate", type=float, default=120, help="requests a second (default: 120)")
    parser.add_argument("--ways", default=",".join(WAYS), help="which, with commas between (default: %(default)s)")
    parser.add_argument("--replicas", default="1,2,4,8", help="how many, with commas between (default: %(default)s)")
    parser.add_argument(
        "--load", type=int, metavar="SECONDS", help="only the requests a second that the service answers, with wrk"
    )
    parser.add_argument("--readme", action="store_true", help="put the tables and the picture into README.md")
    options = parser.parse_args(arguments)
    options.ways = [name for name in options.ways.split(",") if name]
    if unknown := set(options.ways) - WAYS.keys():
        parser.error(f"no way {unknown.pop()!r}: there are {', '.join(WAYS)}")
    try:
        options.replicas = [int(count) for count in options.replicas.split(",") if count]
    except ValueError:
        parser.error(f"--replicas {options.replicas!r} is not like 1,2,4,8")
    if min([options.replacements, options.rate, *options.replicas]) <= 0:
        parser.error("replacements, rate and replicas must be above 0")
    return options


def main() -> int:
    """Measure, and tell; 0 when each way could be measured."""
    options = options_of(sys.argv[1:])
    if options.readme:
        put_into((ROOT / "README.md").read_text(), "")  # that it can be done is known before it takes minutes
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    machine = f"{cores} cores, {platform.machine()}, {platform.system()}, load {load:.1f} before"
    say(machine + (": busy with something else, so seconds will be too long" if load > cores / 2 else ""))
    say("base images")
    bases = base_images(PINS)
    with tempfile.TemporaryDirectory(prefix="quai-") as folder:
        use_docker_config(Path(folder, "docker"))
        bench = Bench(Server(bases, Path(folder)), options.rate)
        try:
            say("a server, set up by scripts/setup-server.sh")
            if options.load:
                bench.make_releases(bases)
                say(f"{len(ROWS)} times {options.load} s of requests, over {CONNECTIONS} connections")
                print(table_text(load_table(measure_load(bench.server, options.load))))
                return 0
            result = {
                "date": datetime.now(UTC).strftime("%Y-%m-%d"),
                "command": shlex.join(["scripts/nox", "-s", "bench", *(["--", *sys.argv[1:]] if sys.argv[1:] else [])]),
                "machine": machine,
                "stand_ins": any(image.startswith(PREFIX) for image in bases.values()),
                "rate": options.rate,
                "replacements": options.replacements,
                **bench.make_releases(bases),
                "ways": bench.ways(options.ways, options.replacements),
                "replicas": bench.replicas(options.replicas),
            }
        finally:
            bench.server.close()
    return tell(result, options.readme)


def tell(result: dict, readme: bool) -> int:
    """Print the tables, write the files; 1 when something could not be measured."""
    text = markdown(result, README_PICTURE if readme else "bench.svg")
    (ROOT / "bench.json").write_text(json.dumps(result, indent=1) + "\n")
    (ROOT / (README_PICTURE if readme else "bench.svg")).write_text(picture(result))
    if readme:
        path = ROOT / "README.md"
        path.write_text(put_into(path.read_text(), text))
    print(f"\n{table_text(way_table(result))}\n\n{table_text(replica_table(result))}\n\nFor README.md:\n\n{text}")
    say(f"wrote bench.json and {README_PICTURE + ', README.md' if readme else 'bench.svg'}")
    return int(any(one["error"] for one in [*result["ways"], *result["replicas"]]))


if __name__ == "__main__":
    sys.exit(main())

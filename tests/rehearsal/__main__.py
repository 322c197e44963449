"""Rehearse production on a throwaway server; see `--help`."""

import argparse
import platform
import re
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from yaml import YAMLError

from scripts.runner.base_images import PINS, PREFIX, base_images
from scripts.runner.process import ROOT, ensure_command, given_path
from scripts.runner.project import compose_file, env_template
from tests.rehearsal import SERVER_PINS
from tests.rehearsal.application import Application, read
from tests.rehearsal.apps import app_names, app_repository
from tests.rehearsal.checked_toml import InvalidFile
from tests.rehearsal.edits import parse
from tests.rehearsal.rehearsal import Rehearsal
from tests.rehearsal.report import (
    add_figures,
    describe_count,
    describe_result,
    describe_writes,
    has_passed,
    print_table,
    write_report,
)
from tests.rehearsal.repository import Repository, find_missing_file, find_top, read_project
from tests.rehearsal.sample import PIPELINE_TESTS
from tests.rehearsal.scenarios import kill_matrix, scenarios_for, soak
from tests.rehearsal.scenarios.endurance import count_kills
from tests.rehearsal.scenarios.mutants import MUTANTS, mutation_tests
from tests.rehearsal.server import Server, use_docker_config
from tests.rehearsal.swarm.cluster import Cluster


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; exit with code 2 if an option would have no effect."""
    parser = argparse.ArgumentParser(prog="nox -s rehearse --", description=__doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--repository",
        type=given_path,
        default=ROOT,
        metavar="PATH",
        help="rehearse this Git repository, or folder of one, with the pipeline (default: this one)",
    )
    what.add_argument(
        "--apps",
        nargs="*",
        choices=app_names(),
        metavar="NAME",
        help=f"rehearse the applications in tests/apps, each on a server of its own: {', '.join(app_names())}",
    )
    parser.add_argument(
        "--engine",
        choices=("compose", "swarm"),
        default="compose",
        help="compose: one server (default); swarm: three machines of a Docker Swarm",
    )
    parser.add_argument("--rate", type=float, default=120, help="requests per second (default: 120)")
    selection = parser.add_mutually_exclusive_group()
    selection.add_argument(
        "--only",
        nargs="+",
        default=[""],
        metavar="NAME",
        help="after the first deploy, run only scenarios whose name contains NAME",
    )
    selection.add_argument(
        "--kills", type=int, metavar="N", help="run only the kill matrix: N kills and a few signals; 0: every point"
    )
    selection.add_argument(
        "--soak", type=int, metavar="N", help="only a random series of N deploys, rollbacks, faulty releases and kills"
    )
    selection.add_argument(
        "--mutants",
        nargs="*",
        metavar="NAME",
        help="only mutation tests: the deploy program without one of its checks (those whose name contains NAME)",
    )
    parser.add_argument(
        "--part",
        type=parse_part,
        metavar="K/M",
        help="with --kills: only the Kth of M parts of the kills, for M machines",
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of random choices (default: 1)")
    parser.add_argument("--keep", action="store_true", help="keep the server, and print how to reach and remove it")
    options = parser.parse_args(arguments)
    source = options.repository = options.repository.resolve()
    if not find_top(source):
        parser.error(f"--repository {source}: this is not in a Git repository")
    if missing := find_missing_file(source):
        parser.error(f"--repository {source}: {missing} is missing: add the pipeline to the repository first")
    if not read_project(source):
        parser.error(f"--repository {source}: COMPOSE_PROJECT_NAME is missing in {env_template(source)}")
    if options.part and options.kills is None:
        parser.error("--part requires --kills")
    if options.rate <= 0 or (options.kills or 0) < 0 or (options.soak is not None and options.soak < 1):
        parser.error("expected --rate above 0, --kills of 0 or more, --soak of 1 or more")
    if options.kills and options.part and options.part[0] > count_kills(options.kills):
        parser.error(f"--part {options.part[0]}/{options.part[1]} of --kills {options.kills} has no kill")
    is_sample = options.apps is None and source == ROOT
    if options.mutants is not None and not is_sample:
        parser.error("--mutants tests the deploy program with the sample: omit --repository and --apps")
    if options.mutants is not None and options.engine == "swarm":
        parser.error("--mutants tests the deploy program on one server: omit --engine")
    scenarios = [scenario.__name__ for scenario in scenarios_for(options.engine, sample=is_sample)]
    checks = [name for name, *_ in MUTANTS]
    for option, names, known in (("--only", options.only, scenarios), ("--mutants", options.mutants or [], checks)):
        for name in names:
            if not any(name in one for one in known):
                parser.error(f"{option}: no name contains {name!r}; the names are: {', '.join(known)}")
    return options


def main() -> int:
    """Run the scenarios; return 0 if all passed and no request failed."""
    options = parse_options(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("rehearsal: ended by SIGTERM"))  # so that the server is removed
    if options.apps is None:
        return rehearse_repository(options)
    codes = {}
    for name in options.apps or app_names():
        with app_repository(name) as repository:
            options.repository = repository
            codes[name] = rehearse_repository(options)
    if len(codes) > 1:
        print(", ".join(f"{name}: {'FAILED' if code else 'passed'}" for name, code in codes.items()))
    return max(codes.values())


def rehearse_repository(options: argparse.Namespace) -> int:
    """Rehearse options.repository on a new server; return the exit code."""
    try:
        file = options.repository / compose_file(options.repository)
        health_path = parse(file.read_text(), []).health_path
        application = read(options.repository, health_path)
    except InvalidFile as error:
        print(error, file=sys.stderr)
        return 2
    except (YAMLError, LookupError, TypeError, AttributeError):
        print(f"rehearsal: {file} has no service api", file=sys.stderr)
        return 2
    ensure_command("ssh", "openssh-client")
    print("rehearsal: base images", flush=True)
    python = {"PYTHON_IMAGE": PINS["PYTHON_IMAGE"]}  # for the scenarios, if the project has a Dockerfile of its own
    bases = base_images(SERVER_PINS | python) | base_images(root=options.repository)
    stand_ins = any(image.startswith(PREFIX) for image in bases.values())
    with tempfile.TemporaryDirectory(prefix="quai-") as folder:
        use_docker_config(Path(folder, "docker"))
        kind = Cluster if options.engine == "swarm" else Server
        server = kind(bases, Path(folder), read_project(options.repository))
        try:
            return rehearse(server, application, bases, stand_ins, options)
        finally:
            if options.keep:
                print(f"rehearsal: kept: {server.url}, docker exec -it {server.name} bash")
                print(f"rehearsal: to remove it: docker rm -fv {server.name}-registry {' '.join(server.machines)}")
            else:
                server.close()


def parse_part(text: str) -> tuple[int, int]:
    """Return (2, 3) for "2/3"; ArgumentTypeError if there is no such part."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r}: expected K/M with 1 <= K <= M")
    return int(match[1]), int(match[2])


def rehearse(
    server: Server, application: Application, bases: dict[str, str], stand_ins: bool, options: argparse.Namespace
) -> int:
    """Set up the server, run the scenarios, count the writes, and report; return the exit code."""
    print("rehearsal: a server, set up by scripts/setup-server.sh", flush=True)
    server.start()
    omitted = PIPELINE_TESTS if options.repository == ROOT else ""
    repository = Repository(ROOT / ".nox/rehearsal/repository", options.repository, omitted)
    server.set_up(repository.folder)
    server.push_base_images()
    given = {"kills": options.kills, "soak": options.soak, "part": options.part, "mutants": options.mutants or None}
    given = {name: value for name, value in given.items() if value is not None}
    rehearsal = Rehearsal(server, repository, application, bases, options.rate, seed=options.seed, **given)
    scenarios, names = scenarios_for(options.engine, sample=options.repository == ROOT), options.only
    for chosen, scenario in ((options.kills, kill_matrix), (options.soak, soak), (options.mutants, mutation_tests)):
        if chosen is not None:
            scenarios, names = (scenarios[0], scenario), [scenario.__name__]
    rehearsal.run_scenarios(scenarios, names)
    summary = rehearsal.end_traffic()
    if options.mutants is not None:  # requests may fail here; they do not count
        return int(not all(scenario["passed"] for scenario in rehearsal.run["scenarios"]))
    for scenario in rehearsal.run["scenarios"]:
        if failures := summary.failures_between(scenario["started"], scenario["ended"]):
            scenario["passed"] = False
            scenario["error"] = (
                f"{describe_count(len(failures), 'request')} failed; {scenario['error'] or 'otherwise it passed'}"
            )
            print(f"rehearsal: {scenario['name']!r}, first failed requests:")
            for failure in failures[:5]:
                steps = [step["name"] for step in scenario["steps"] if step["at"] <= failure["at"]]
                after = f", after step {steps[-1]}" if steps else ""
                print(f"  {failure['at'] - scenario['started']:.2f} s{after}: {failure}")
    run = rehearsal.run | {
        "machine": f"{platform.machine()}, {platform.system()} {platform.release()}",
        "stand_ins": stand_ins,
    }
    run = add_figures(run, summary.records)
    print_table(run)
    write_report(run, summary.records, ROOT)
    results = Counter(map(describe_result, run["scenarios"]))
    print(
        f"rehearsal: {describe_count(run['replacements'], 'replacement')}, "
        f"{summary.requests} requests at {summary.rate:.0f}/s, {summary.failed} failed; {describe_writes(run)}"
    )
    if "in_flight" in run:
        print(f"rehearsal: {run['in_flight']} more requests failed: in flight to a machine that died or was cut off")
    print("rehearsal: the timeline is in report.html")
    skipped = f", {results['not applicable']} not applicable" if results["not applicable"] else ""
    print(f"{results['passed']} passed, {results['FAILED']} failed{skipped}")
    return int(not has_passed(run))


if __name__ == "__main__":
    sys.exit(main())

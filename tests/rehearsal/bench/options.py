"""The options of the benchmark, and the strategies that it compares."""

import argparse

STRATEGIES = {
    "plain": "`docker compose up -d`",
    "retry": "the same, proxy retries for 30 s",
    "start-first": "start the new container, then stop the old one",
    "swarm": "Docker Swarm, start-first",
    "v1": "`deploy.sh` of version 1",
    "this": "`deploy.sh`",
}
DEPLOY_PROGRAMS = ("v1", "this")
DEFAULT_STRATEGIES = [name for name in STRATEGIES if name != "v1"]
PICTURE = "tests/rehearsal/bench.svg"  # the one that docs/benchmarks.md shows


def parse_options(arguments: list[str], description: str | None) -> argparse.Namespace:
    """Parse and check the options of the command line."""
    parser = argparse.ArgumentParser(prog="nox -s bench --", description=description)
    parser.add_argument(
        "--replacements", type=int, default=5, metavar="N", help="good replacements per strategy (default: %(default)s)"
    )
    parser.add_argument("--rate", type=float, default=120, metavar="N", help="requests/s (default: %(default)s)")
    parser.add_argument(
        "--strategies",
        default=",".join(DEFAULT_STRATEGIES),
        metavar="NAMES",
        help=f"comma-separated names from: {', '.join(STRATEGIES)} (default: all but v1, the deploy program in Bash)",
    )
    parser.add_argument(
        "--replicas",
        default="1,2,4,8",
        metavar="NUMBERS",
        help="numbers of replicas to measure deploy.sh with, separated by commas; '' for none (default: %(default)s)",
    )
    parser.add_argument(
        "--replica-strategies",
        default="this",
        metavar="NAMES",
        help="deploy programs to measure with replicas: this, v1, or v1,this (default: %(default)s)",
    )
    parser.add_argument(
        "--load", type=int, metavar="SECONDS", help="only measure the requests/s of the sample, with wrk"
    )
    parser.add_argument(
        "--docs", action="store_true", help=f"write the tables to docs/benchmarks.md and the picture to {PICTURE}"
    )
    options = parser.parse_args(arguments)
    for name, known in (("strategies", STRATEGIES), ("replica_strategies", DEPLOY_PROGRAMS)):
        chosen = [one for one in getattr(options, name).split(",") if one]
        if unknown := set(chosen) - set(known):
            parser.error(f"unknown strategy {unknown.pop()!r}: expected {', '.join(known)}")
        setattr(options, name, chosen)
    try:
        options.replicas = [int(count) for count in options.replicas.split(",") if count]
    except ValueError:
        parser.error(f"--replicas {options.replicas!r}: expected numbers such as 1,2,4,8")
    if options.load is not None and (options.load <= 0 or options.docs):
        parser.error("--load must be above 0, and cannot be combined with --docs")
    if min([options.replacements, options.rate, *options.replicas]) <= 0:
        parser.error("replacements, rate and replicas must be above 0")
    return options

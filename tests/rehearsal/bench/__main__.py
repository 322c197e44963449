"""Compare strategies to replace the API container on one throwaway server, under load."""

import json
import os
import platform
import shlex
import signal
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from scripts.runner.base_images import PREFIX, base_images
from scripts.runner.process import ROOT
from tests.rehearsal import SERVER_PINS
from tests.rehearsal.bench.load import CONNECTIONS, ROWS, measure_load
from tests.rehearsal.bench.options import PICTURE, parse_options
from tests.rehearsal.bench.picture import picture
from tests.rehearsal.bench.releases import CRASH_SECONDS
from tests.rehearsal.bench.report import insert, load_table, markdown, table_text, terminal
from tests.rehearsal.bench.server import CRASH_WINDOW_SECONDS, KILL_WINDOW_SECONDS, PAUSE_SECONDS, Bench, say
from tests.rehearsal.repository import read_project
from tests.rehearsal.server import Server, use_docker_config

PAGE = ROOT / "docs/benchmarks.md"


def main() -> int:
    """Measure, print and write the results; return 0 if everything could be measured."""
    options = parse_options(sys.argv[1:], __doc__)
    if options.docs:
        insert(PAGE.read_text(), "")  # fails now if it has no markers, not after an hour
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: ended by SIGTERM"))  # so that the server is removed
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    machine = f"{cores} cores, {platform.machine()}, {platform.system()}, load average {load:.1f} before the run"
    say(machine + (": busy, so all times will be too long" if load > cores / 2 else ""))
    say("base images")
    bases = base_images() | base_images(SERVER_PINS)
    with tempfile.TemporaryDirectory(prefix="quai-") as folder:
        use_docker_config(Path(folder, "docker"))
        bench = Bench(Server(bases, Path(folder), read_project(ROOT)), options.rate)
        try:
            say("a server, set up by scripts/setup-server.sh")
            if options.load:
                bench.make_releases(bases, [])
                say(f"{len(ROWS)} measurements of {options.load} s over {CONNECTIONS} keep-alive connections")
                print(table_text(load_table(measure_load(bench.server, options.load))))
                return 0
            releases = bench.make_releases(bases, [*options.strategies, *options.replica_strategies])
            strategies = [bench.measure(name, options.replacements) for name in options.strategies]
            replicas = [bench.measure_replicas(name, options.replicas) for name in options.replica_strategies]
            result = {
                "date": datetime.now(UTC).strftime("%Y-%m-%d"),
                "command": shlex.join(["scripts/nox", "-s", "bench", *(["--", *sys.argv[1:]] if sys.argv[1:] else [])]),
                "machine": machine,
                "stand_ins": any(image.startswith(PREFIX) for image in bases.values()),
                "rate": options.rate,
                "replacements": options.replacements,
                "crash_seconds": CRASH_SECONDS,
                "pause_seconds": PAUSE_SECONDS,
                "window_seconds": {"crash": CRASH_WINDOW_SECONDS, "kill": KILL_WINDOW_SECONDS},
                **releases,
                "strategies": strategies,
                "replicas": [one for measured in replicas for one in measured],
            }
            return write(result, docs=options.docs)
        finally:
            bench.server.close()


def write(result: dict, *, docs: bool) -> int:
    """Print the tables and write the files; return 1 if something could not be measured."""
    text = markdown(result, f"../{PICTURE}" if docs else "bench.svg")
    (ROOT / "bench.json").write_text(json.dumps(result, indent=1) + "\n")
    (ROOT / (PICTURE if docs else "bench.svg")).write_text(picture(result))
    if docs:
        PAGE.write_text(insert(PAGE.read_text(), text))
    print(f"\n{terminal(result)}\n\nFor docs/benchmarks.md:\n\n{text}")
    say(f"wrote bench.json and {f'{PICTURE}, docs/benchmarks.md' if docs else 'bench.svg'}")
    measured = [
        *result["replicas"],
        *(part for one in result["strategies"] for part in (one, one["crash"], one["kill"])),
    ]
    return int(any(one["error"] for one in measured))


if __name__ == "__main__":
    sys.exit(main())

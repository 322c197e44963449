"""Deploys that are killed at every point, and long series of deploys, under load."""

import random
import shlex
import subprocess
from collections.abc import Sequence
from itertools import cycle, product
from typing import NamedTuple

from scripts.runner.process import run
from tests.rehearsal import HERE
from tests.rehearsal.edits import BROKEN_CADDYFILE, WORKER, add_worker, migrate_with, run_python, shorten_monitor
from tests.rehearsal.failures import Failed, expect, say
from tests.rehearsal.rehearsal import Rehearsal
from tests.rehearsal.server import DIR, wait_for
from tests.rehearsal.variants import build_variant

POINTS_FOLDER = "/usr/local/lib/points"  # on the server: points.py, and a python3 that runs it
MARK = "/var/tmp/mark"  # noqa: S108 - on the throwaway server: points.py writes it when it sends the signal
KILLED_CODE = 137  # the exit code after SIGKILL
AT_ONCE_SECONDS = 0.2  # between two actions of the deploy program that wait for nothing
KILL_TRIES = 3  # some points in loops are not reached in every deploy
GOOD_RELEASES = ("red", "green", "blue", "white")
NEXT_RELEASES = ("the same", "the previous", "a third")  # for the deploy after a kill
SIGNALS_AND_NEXT_RELEASES = list(product(("TERM", "INT", "HUP"), NEXT_RELEASES))
SOAK_WEIGHTS = {"deploy": 8, "fetch and deploy": 4, "roll back": 6, "refuse": 4, "kill": 4, "scale": 2}


class Kill(NamedTuple):
    """A kill of the deploy of a release, at a point of the program, and the release to deploy afterwards."""

    point: str
    release: str
    signal: str
    next_release: str

    def __str__(self) -> str:
        return f"{self.signal} at {self.point!r}, then a deploy of {self.next_release} release"


def prepare_releases(rehearsal: Rehearsal) -> dict[str, str]:
    """Build releases with the same position (none is older than another), one of which crashes; return their tags.

    Each has a pending migration, a worker and a scheduler, so that its deploy takes all steps. Also install points.py
    on the server.
    """
    server = rehearsal.server
    server.exec(f"mkdir -p {POINTS_FOLDER}")
    run("docker", "cp", str(HERE / "points.py"), f"{server.name}:{POINTS_FOLDER}/points.py")
    wrapper = f'#!/bin/sh\nexec /usr/bin/python3 {POINTS_FOLDER}/points.py "$@"\n'
    server.exec(f"printf '%s' {shlex.quote(wrapper)} >{POINTS_FOLDER}/python3; chmod 755 {POINTS_FOLDER}/python3")
    server.set(WATCH_SECONDS="1", KEEP_RELEASES="5", API_REPLICAS="1")
    scheduler = add_worker("rehearsal-scheduler", WORKER, single=True)
    edits = (migrate_with(""), add_worker("rehearsal-worker", WORKER), scheduler, shorten_monitor)
    tags = {name: build_variant(rehearsal, name, *edits) for name in GOOD_RELEASES}
    crash = run_python("raise SystemExit('boom')", "rehearsal-worker")  # after Swarm has replaced the API
    return tags | {"crashes": build_variant(rehearsal, "crashes again", *edits, crash)}


def run_deploy(rehearsal: Rehearsal, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    """Run deploy.sh in its own process group; with variables, through points.py."""
    path = f"--env=PATH={POINTS_FOLDER}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    options = [path, *(f"--env={name}={value}" for name, value in variables.items())] if variables else []
    return subprocess.run(
        [
            *("docker", "exec", *options, rehearsal.server.name),
            *("setsid", "--wait", "runuser", "--user", "deploy", "--", f"{DIR}/deploy.sh", *arguments),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    )


def expect_deployed(rehearsal: Rehearsal, tag: str, *arguments: str) -> None:
    """Run deploy.sh; expect that it succeeds and that this release is live."""
    done = run_deploy(rehearsal, *arguments)
    expect(done.returncode == 0, f"deploy.sh {' '.join(arguments)} failed: {done.stdout}")
    rehearsal.expect_only_release(tag)


def deploy_release(rehearsal: Rehearsal, tag: str) -> None:
    """Request the deploy of a release; expect that it is live."""
    expect_deployed(rehearsal, tag, "deploy", tag)


def roll_back_to(rehearsal: Rehearsal, tag: str) -> None:
    """Edit IMAGE_TAG and run deploy.sh; expect that the release is live."""
    rehearsal.server.set(IMAGE_TAG=tag)
    expect_deployed(rehearsal, tag)


def remove_release(rehearsal: Rehearsal, tag: str) -> None:
    """Remove the image and the files of a release that is not live: the next deploy pulls it."""
    server = rehearsal.server
    expect(tag != server.setting("IMAGE_TAG"), f"{tag} is live: its removal would break the server")
    images = f"{server.image}:{tag} {server.image}:{tag}-front"
    server.exec(f"docker image rm --force {images} >/dev/null 2>&1 || true; rm -rf {DIR}/releases/{tag}")
    server.exec(f"mkdir -p {DIR}/releases/{'f' * 40}")  # the folder of an old release: the next deploy prunes it


def record_points(rehearsal: Rehearsal, tag: str, code: int = 0) -> list[str]:
    """Deploy this tag, expect this exit code, and return the points at which the deploy can be killed."""
    remove_release(rehearsal, tag)
    file = "/var/tmp/points"  # noqa: S108 - on the throwaway server
    rehearsal.server.exec(f"rm -f {file}")
    done = run_deploy(rehearsal, "deploy", tag, POINTS=file)
    expect(done.returncode == code, f"exit code {done.returncode}, expected {code}: {done.stdout}")
    lines = [line.split(" ", 1) for line in rehearsal.server.exec(f"cat {file}").splitlines()]
    return omit_repetitions([(float(seconds), point) for seconds, point in lines])


def omit_repetitions(recorded: Sequence[tuple[float, str]]) -> list[str]:
    """Return the points, without those before an action that follow the end of the previous one at once.

    Nothing changes between the two, and to kill deploys at all points takes hours. Each point comes with its time in
    seconds.
    """
    points, before, previous = list[str](), 0.0, ""
    for seconds, point in recorded:
        has_ended = previous.startswith("after ") and not previous.startswith("after start of")
        if not (has_ended and point.startswith("before ") and seconds - before < AT_ONCE_SECONDS):
            points.append(point)
        before, previous = seconds, point
    return list(dict.fromkeys(points))


def kill_deploy(rehearsal: Rehearsal, tag: str, point: str, signal: str) -> None:
    """Deploy a release that is not live, with a signal at this point. Expect that the deploy reaches it and ends."""
    server, live = rehearsal.server, rehearsal.server.setting("IMAGE_TAG")
    for _ in range(KILL_TRIES):
        remove_release(rehearsal, tag)
        server.exec(f"rm -f {MARK}")
        done = run_deploy(rehearsal, "deploy", tag, AT=point, SIGNAL=signal, MARK=MARK)
        if treatment := server.exec(f"cat {MARK} 2>/dev/null || true"):
            return expect_ended(done, signal, treatment)
        roll_back_to(rehearsal, live)
    raise Failed(f"{KILL_TRIES} deploys did not reach {point!r}")


def expect_ended(done: subprocess.CompletedProcess, signal: str, treatment: str) -> None:
    """Expect the exit code and the message of a deploy, depending on how the program treated the signal."""
    code, output = done.returncode, done.stdout
    if signal in ("KILL", "ALONE"):
        ended = code == KILLED_CODE
    elif treatment == "handled":
        ended = code == 1 and "interrupted" in output
    elif treatment == "ignored":  # by the program; a docker command may still end, which refuses the release
        ended = "==> live: " in output if code == 0 else code == 1 and "==> refused: " in output
    else:  # too early to be handled
        ended = code != 0
    expect(ended, f"the deploy ended with exit code {code} after {signal} ({treatment}): {output}")


def kill_and_redeploy(rehearsal: Rehearsal, kill: Kill, tags: dict[str, str]) -> None:
    """Kill a deploy, then deploy again; expect the server to be as if nothing had happened."""
    old = rehearsal.server.setting("IMAGE_TAG")
    new = next(tag for tag in (tags[kill.release], *tags.values()) if tag != old)
    kill_deploy(rehearsal, new, kill.point, kill.signal)
    try_lock = f"flock --nonblock {DIR}/deploy.lock true; echo free"
    wait_for("the end of the deploy", lambda: rehearsal.server.exec(try_lock), 60)
    if kill.next_release == "the previous":
        roll_back_to(rehearsal, old)
    elif kill.next_release == "the same" and kill.release == "crashes":
        done = run_deploy(rehearsal, "deploy", new)
        expect(done.returncode == 1, f"a release that crashes went live: {done.stdout}")
        rehearsal.expect_only_release(old)
    elif kill.next_release == "the same":
        deploy_release(rehearsal, new)
    else:
        deploy_release(rehearsal, next(tags[name] for name in GOOD_RELEASES if tags[name] not in (old, new)))


def count_kills(number: int) -> int:
    """Return how many deploys `--kills N` interrupts, N > 0: N by SIGKILL, and a quarter as many by other signals."""
    return number + max(1, number // 4)


def kill_matrix(rehearsal: Rehearsal) -> None:
    """A deploy is killed, at points taken from the running program; the next deploy cleans up."""
    tags = prepare_releases(rehearsal)
    for name in reversed(GOOD_RELEASES):  # so that each further deploy prunes the same: no point is reached only once
        deploy_release(rehearsal, tags[name])
    good_points = record_points(rehearsal, tags["green"])
    bad_points = [point for point in record_points(rehearsal, tags["crashes"], 1) if point not in set(good_points)]
    # In this order, each part of three has all next releases: they take very different times.
    kills = [Kill(point, "green", "KILL", release) for release in NEXT_RELEASES for point in good_points]
    kills += [Kill(point, "crashes", "KILL", release) for release in NEXT_RELEASES for point in bad_points]
    combinations = zip(good_points, cycle(SIGNALS_AND_NEXT_RELEASES), strict=False)
    signals = [Kill(point, "green", signal, release) for point, (signal, release) in combinations]
    # Without its parent a docker command would continue, and create containers after the next cleanup.
    signals += [
        Kill(point, "green", "ALONE", "the same") for point in good_points if point.startswith("after start of")
    ]
    chosen = [*kills, *signals]
    if count := rehearsal.kills:
        chance = random.Random(rehearsal.seed)  # noqa: S311 - no secret
        few = count_kills(count) - count
        chosen = [*chance.sample(kills, min(count, len(kills))), *chance.sample(signals, min(few, len(signals)))]
    part, parts = rehearsal.part
    chosen = chosen[part - 1 :: parts]
    expect(bool(chosen), f"part {part} of {parts} has no kill")
    say(
        f"{len(good_points)} points of a deploy, {len(bad_points)} more of a refused one, {len(chosen)} kills, "
        f"seed {rehearsal.seed}"
    )
    failures = []
    for number, kill in enumerate(chosen, 1):
        say(f"{number} of {len(chosen)}: {kill}")
        try:
            kill_and_redeploy(rehearsal, kill, tags)
        except Exception as error:  # continue with the next point
            failures.append(f"{kill}: {error}")
            say(f"FAILED: {failures[-1]}")
    expect(
        not failures,
        f"{len(failures)} of {len(chosen)} kills did not end as expected; the first: {(failures or [''])[0]}",
    )


def resources(rehearsal: Rehearsal) -> dict[str, int]:
    """Return the numbers and sizes (in MB) that must not grow on the server."""
    output = rehearsal.server.exec(
        "docker ps --all --quiet | wc -l; docker images --all --quiet | sort -u | wc -l;"
        "docker network ls --quiet | wc -l; docker volume ls --quiet | wc -l;"
        f"ls {DIR}/releases | wc -l; find {DIR} -name '*.dump' | wc -l;"
        f"du -sm {DIR}/releases | cut -f1; du -sm /var/lib/docker/overlay2 | cut -f1"
    )
    names = ("containers", "images", "networks", "volumes", "releases", "dumps", "MB of releases", "MB of layers")
    return dict(zip(names, map(int, output.split()), strict=True))


def soak(rehearsal: Rehearsal) -> None:
    """A long series of deploys, rollbacks, faulty releases and kills; nothing grows."""
    server, count = rehearsal.server, rehearsal.soak
    tags = prepare_releases(rehearsal)
    tags["Caddyfile"] = build_variant(rehearsal, "broken Caddyfile again", BROKEN_CADDYFILE)
    good = [tags[name] for name in GOOD_RELEASES]
    chance = random.Random(rehearsal.seed)  # noqa: S311 - no secret
    deploy_release(rehearsal, good[0])
    points = record_points(rehearsal, good[1])
    for tag in good:  # so that each is on the server before the resources are counted
        deploy_release(rehearsal, tag)
    live, counts, before = good[-1], dict.fromkeys(SOAK_WEIGHTS, 0), resources(rehearsal)
    for number in range(count):
        action = chance.choices(list(SOAK_WEIGHTS), SOAK_WEIGHTS.values())[0]
        other = chance.choice([tag for tag in good if tag != live])
        counts[action] += 1
        if number % 10 == 0:
            say(f"{number} of {count}")
        if action == "roll back":
            commands = [line for line in server.ssh("status").stdout.splitlines() if line.startswith("sudo sed")]
            command = chance.choice(commands)
            server.exec(command)
            live = command.partition("IMAGE_TAG=.*/IMAGE_TAG=")[2][:40]
        elif action == "refuse":
            done = run_deploy(rehearsal, "deploy", tags[chance.choice(["crashes", "Caddyfile"])])
            expect(done.returncode == 1, f"a faulty release went live: {done.stdout}")
        elif action == "scale":
            server.set(API_REPLICAS=str(3 - int(server.setting("API_REPLICAS"))))
            expect_deployed(rehearsal, live)
        else:
            if action == "kill":
                kill_deploy(rehearsal, other, chance.choice(points), "KILL")
            elif action == "fetch and deploy":
                remove_release(rehearsal, other)
            deploy_release(rehearsal, other)
            live = other
        rehearsal.expect_only_release(live)
    server.set(API_REPLICAS="1")
    expect_deployed(rehearsal, live)
    after = resources(rehearsal)
    say(f"{counts}, seed {rehearsal.seed}")
    say(f"resources before: {before}")
    say(f"resources after:  {after}")
    # One MB is the error of rounding.
    grown = [name for name in after if after[name] > before[name] + name.startswith("MB")]
    expect(not grown, f"{' and '.join(grown)} grew from {before} to {after}")

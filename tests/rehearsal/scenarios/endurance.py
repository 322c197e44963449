"""Deploys that are killed at every point, and long series of deploys, under load."""

import random
import shlex
import subprocess
from itertools import cycle

from scripts.runner.process import run
from tests.rehearsal import HERE
from tests.rehearsal.dockerfiles import CRASH, migration_lines
from tests.rehearsal.rehearsal import Rehearsal, expect
from tests.rehearsal.server import DIR, wait_for
from tests.rehearsal.variants import build_variant

POINTS = "/usr/local/lib/points"  # a folder of the server: points.py, and a python3 that runs it
KILLED = 137
GOOD = ("red", "green", "blue", "white")
THEN = ("the same", "the old", "a third")
# What a soak does, and how often against each other.
SOAKED = {"deploy": 8, "fetch and deploy": 4, "roll back": 6, "refuse": 4, "kill": 4, "scale": 2}


def prepare(rehearsal: Rehearsal) -> dict[str, str]:
    """Releases of one position, so that none is older than another, and one that crashes; gives their tags.

    Each says that it has something to migrate, so that its deploy takes all steps.
    """
    rehearsal.server.exec(f"mkdir -p {POINTS}")
    run("docker", "cp", str(HERE / "points.py"), f"{rehearsal.server.name}:{POINTS}/points.py")
    wrapper = f'#!/bin/sh\nexec /usr/bin/python3 {POINTS}/points.py "$@"\n'
    rehearsal.server.exec(f"printf '%s' {shlex.quote(wrapper)} >{POINTS}/python3; chmod 755 {POINTS}/python3")
    rehearsal.server.set(WATCH_SECONDS="1", KEEP_RELEASES="5")
    tags = {name: build_variant(rehearsal, name, *migration_lines("")) for name in GOOD}
    return tags | {"crashes": build_variant(rehearsal, "crashes again", *migration_lines(""), CRASH)}


def deploy(rehearsal: Rehearsal, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    """Run deploy.sh in its own process group; with variables, through points.py."""
    path = f"--env=PATH={POINTS}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
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


def deploys(rehearsal: Rehearsal, tag: str, *arguments: str) -> None:
    """Run deploy.sh; the release must go live."""
    done = deploy(rehearsal, *arguments)
    expect(done.returncode == 0, f"deploy.sh {' '.join(arguments)} failed: {done.stdout}")
    rehearsal.expect_only_release(tag)


def rolls_back(rehearsal: Rehearsal, tag: str) -> None:
    """Edit IMAGE_TAG and run deploy.sh; the release must go live."""
    rehearsal.server.set(IMAGE_TAG=tag)
    deploys(rehearsal, tag)


def forget(rehearsal: Rehearsal, tag: str) -> None:
    """Make the next deploy pull this release again, and prune an old one. It must not be live."""
    expect(tag != rehearsal.server.setting("IMAGE_TAG"), f"{tag} is live: to forget it would break the server")
    image = f"{rehearsal.server.registry}/quai:{tag}"
    rehearsal.server.exec(f"docker image rm --force {image} >/dev/null 2>&1 || true; rm -rf {DIR}/releases/{tag}")
    rehearsal.server.exec(f"mkdir -p {DIR}/releases/{'f' * 40}")


def points_of(rehearsal: Rehearsal, tag: str) -> list[str]:
    """Return the points where a deploy of this tag can be killed, from the running program."""
    forget(rehearsal, tag)
    file = "/var/tmp/points"  # noqa: S108 - of a server of our own
    rehearsal.server.exec(f"rm -f {file}")
    deploy(rehearsal, "deploy", tag, POINTS=file)
    return list(dict.fromkeys(rehearsal.server.exec(f"cat {file}").splitlines()))


def killed_at(rehearsal: Rehearsal, point: str, tags: dict[str, str], name: str, signal: str, then: str) -> None:
    """Kill the deploy of a release at this point, then deploy again; the server must be as if nothing had happened."""
    old = rehearsal.server.setting("IMAGE_TAG")
    new = next(tag for tag in (tags[name], *tags.values()) if tag != old)
    for _ in range(3):  # a loop that waits passes some points only at times
        forget(rehearsal, new)
        done = deploy(rehearsal, "deploy", new, AT=point, SIGNAL=signal)
        if done.returncode == KILLED or signal not in ("KILL", "ALONE"):
            break
        rolls_back(rehearsal, old)
    else:
        expect(False, f"never came to this point: {point}")
    wait_for(
        "the end of the deploy",
        lambda: rehearsal.server.exec(f"flock --nonblock {DIR}/deploy.lock true; echo over"),
        60,
    )
    if then == "the old":
        rolls_back(rehearsal, old)
    elif then == "the same" and name == "crashes":
        done = deploy(rehearsal, "deploy", new)
        expect(done.returncode == 1, f"a release that crashes went live: {done.stdout}")
        rehearsal.expect_only_release(old)
    else:
        third = next(tags[name] for name in GOOD if tags[name] not in (old, new))
        tag = new if then == "the same" else third
        deploys(rehearsal, tag, "deploy", tag)


def kill_matrix(rehearsal: Rehearsal) -> None:
    """A deploy is killed, at points taken from the running program; the next deploy repairs."""
    tags = prepare(rehearsal)
    deploys(rehearsal, tags["red"], "deploy", tags["red"])
    good = points_of(rehearsal, tags["green"])
    bad = [point for point in points_of(rehearsal, tags["crashes"]) if point not in set(good)]
    every = [(point, "green", "KILL", then) for point in good for then in THEN]
    every += [(point, "crashes", "KILL", then) for point in bad for then in THEN]
    signals = [
        (point, "green", signal, then)
        for point, signal, then in zip(good, cycle(("TERM", "INT", "HUP")), cycle(THEN), strict=False)
    ]
    # Without its parent a docker command would go on, and create containers after the next repair.
    signals += [(point, "green", "ALONE", "the same") for point in good if point.startswith("after start of")]
    chosen = [*every, *signals]
    if rehearsal.kill_count:
        chance = random.Random(rehearsal.seed)  # noqa: S311 - no secret
        chosen = [
            *chance.sample(every, min(rehearsal.kill_count, len(every))),
            *chance.sample(signals, max(1, rehearsal.kill_count // 4)),
        ]
    part, parts = rehearsal.part
    chosen = chosen[part - 1 :: parts]
    print(
        f"  {len(good)} points of a deploy, {len(bad)} more of a refused one, {len(chosen)} kills, "
        f"seed {rehearsal.seed}",
        flush=True,
    )
    wrong = []
    for number, (point, name, signal, then) in enumerate(chosen):
        what = f"{signal} at {point!r}, then {then}"
        if number % 10 == 0:
            print(f"  {number} of {len(chosen)}: {what}", flush=True)
        try:
            killed_at(rehearsal, point, tags, name, signal, then)
        except Exception as error:  # each point is tried, whatever the one before did
            wrong.append(f"{what}: {error}")
            print(f"  WRONG: {wrong[-1]}", flush=True)
    expect(not wrong, f"{len(wrong)} of {len(chosen)} kills did not end as they must; the first: {(wrong or [''])[0]}")


def held(rehearsal: Rehearsal) -> dict[str, int]:
    """Count what must not grow on the server; sizes in MB."""
    counted = rehearsal.server.exec(
        "docker ps --all --quiet | wc -l; docker images --all --quiet | sort -u | wc -l;"
        "docker network ls --quiet | wc -l; docker volume ls --quiet | wc -l;"
        f"ls {DIR}/releases | wc -l; ls {DIR}/backups | wc -l;"
        f"du -sm {DIR}/releases | cut -f1; du -sm /var/lib/docker/overlay2 | cut -f1"
    ).split()
    names = ("containers", "images", "networks", "volumes", "releases", "dumps", "MB of releases", "MB of layers")
    return dict(zip(names, map(int, counted), strict=True))


def soak(rehearsal: Rehearsal) -> None:
    """A long series of deploys, rollbacks, faulty releases and kills; nothing grows."""
    tags = prepare(rehearsal)
    rehearsal.server.set(HEALTH_SECONDS="20")
    tags["Caddyfile"] = build_variant(rehearsal, "broken Caddyfile again", "RUN echo '{' >>/release/front/Caddyfile")
    good = [tags[name] for name in GOOD]
    chance = random.Random(rehearsal.seed)  # noqa: S311 - no secret
    deploys(rehearsal, good[0], "deploy", good[0])
    points = points_of(rehearsal, good[1])
    for tag in good:  # so that each was there once before it is counted
        deploys(rehearsal, tag, "deploy", tag)
    live, counts, before = good[-1], dict.fromkeys(SOAKED, 0), held(rehearsal)
    for number in range(rehearsal.soak_count):
        kind = chance.choices(list(SOAKED), SOAKED.values())[0]
        other = chance.choice([tag for tag in good if tag != live])
        counts[kind] += 1
        if number % 10 == 0:
            print(f"  {number} of {rehearsal.soak_count}", flush=True)
        if kind == "roll back":
            lines = [line for line in rehearsal.server.ssh("status").stdout.splitlines() if line.startswith("sudo sed")]
            line = chance.choice(lines)
            rehearsal.server.exec(line)
            live = line.partition("IMAGE_TAG=.*/IMAGE_TAG=")[2][:40]
        elif kind == "refuse":
            done = deploy(rehearsal, "deploy", tags[chance.choice(["crashes", "Caddyfile"])])
            expect(done.returncode == 1, f"went live: {done.stdout}")
        elif kind == "kill":
            deploy(rehearsal, "deploy", other, AT=chance.choice(points), SIGNAL="KILL")
            deploys(rehearsal, other, "deploy", other)
            live = other
        elif kind == "scale":
            rehearsal.server.set(API_REPLICAS=str(3 - int(rehearsal.server.setting("API_REPLICAS"))))
            deploys(rehearsal, live)
        else:
            if kind == "fetch and deploy":
                forget(rehearsal, other)
            deploys(rehearsal, other, "deploy", other)
            live = other
        rehearsal.expect_only_release(live)
    rehearsal.server.set(API_REPLICAS="1")
    deploys(rehearsal, live)
    after = held(rehearsal)
    print(f"  {counts}, seed {rehearsal.seed}", flush=True)
    print(f"  the server held {before}", flush=True)
    print(f"  and at the end  {after}", flush=True)
    # A megabyte is what rounding does.
    grown = [name for name in after if after[name] > before[name] + name.startswith("MB")]
    expect(not grown, f"{' and '.join(grown)} grew from {before} to {after}")

"""Work of administrators on the server, next to deploys, under load; no request may fail."""

import json
import shlex

from tests.rehearsal.rehearsal import Rehearsal, expect
from tests.rehearsal.server import DIR
from tests.rehearsal.variants import goes_live, is_refused, until, variant

# Lines of .env in the notations that Compose knows.
NOTATIONS = """
PLAIN=one
SPACES =  one two   # a comment
HASH=one#two
EMPTY=
QUOTED="one # two ${PLAIN}"
ESCAPED="one\\n\\"two\\" \\\\"
LITERAL='one ${PLAIN} # two'
REFERENCE=${PLAIN}-$PLAIN-${MISSING}
DEFAULTS=${MISSING:-three}${EMPTY:-four}${EMPTY-five}${PLAIN:+six}
DOLLARS=a$$b
export EXPORTED=seven
PLAIN=last
"""
COMPARE = """
import json, sys
from server.settings import parse
print(json.dumps(parse(open(sys.argv[1]).read())))
"""


def settings_as_compose_reads_them(r: Rehearsal) -> None:
    """The deploy program reads each notation of .env as Docker Compose does."""
    names = [line.split("=")[0].split()[-1] for line in NOTATIONS.strip().splitlines()]
    environment = "".join(f"      {name}: ${{{name}}}\n" for name in dict.fromkeys(names))
    compose = f"services:\n  one:\n    image: none\n    environment:\n{environment}"
    r.server.exec(
        f"rm -rf /tmp/notations; mkdir /tmp/notations; cd /tmp/notations; printf '%s' {shlex.quote(NOTATIONS)} >.env;"
        f"printf '%s' {shlex.quote(compose)} >docker-compose.yml"
    )
    theirs = json.loads(r.server.exec("cd /tmp/notations; docker compose config --format json"))
    command = f"cd {DIR}/releases/current; python3 -Bc {shlex.quote(COMPARE)} /tmp/notations/.env"
    ours = json.loads(r.server.exec(command))
    # Compose doubles the dollar signs of what it prints, so that it can read it again.
    expected = {name: value.replace("$$", "$") for name, value in theirs["services"]["one"]["environment"].items()}
    expect(ours == expected, f"read as {ours}, Compose reads {expected}")


def own_backup(r: Rehearsal) -> None:
    """A `docker compose run backup` of an administrator survives deploys and refusals."""
    own = r.server.exec(f"cd {DIR}; docker compose run --detach --rm --no-deps --entrypoint 'sleep 600' backup")
    try:
        goes_live(r, "next to a backup")
        is_refused(r, "refused next to a backup", "boom", """CMD ["python", "-c", "raise SystemExit('boom')"]""")
        running = r.server.exec(f"docker inspect --format '{{{{.State.Running}}}}' {own}")
        expect(running == "true", f"the backup is {running}")
    finally:
        r.server.exec(f"docker rm --force {own}")
    r.is_live("next to a backup")


def settings_during_a_deploy(r: Rehearsal) -> None:
    """A setting that is changed during a deploy is applied to the new release, not to the previous one."""
    tag = variant(r, "while a setting changes")
    deploy = r.start_deploy(tag)
    until(deploy, "==> start")
    r.server.set(API_REPLICAS="2")
    said = r.deploy_by_hand()
    deploy.communicate(timeout=200)
    expect(deploy.returncode == 0, "the deploy failed")
    expect("waiting up to" in said and f"==> live: {tag}" in said, f"deploy.sh says {said}")
    r.is_live("while a setting changes")
    r.server.set(API_REPLICAS="1")
    r.deploy_by_hand()
    r.is_live("while a setting changes")


def services_under_the_lock(r: Rehearsal) -> None:
    """`deploy.sh services` waits for a deploy, then applies what has changed for proxy and database only."""
    with r.without_traffic():
        proxy = "docker inspect --format '{{.Id}} {{.Config.Env}}' quai-proxy-1"
        before, served = (
            r.server.exec(proxy),
            r.server.exec("docker inspect --format '{{.Id}}' quai-front-1 quai-api-1"),
        )
        tag = variant(r, "while services waits")
        deploy = r.start_deploy(tag)
        until(deploy, "==> start")
        r.server.set(SITE_ADDRESS="http://:80")
        said = r.server.exec(f"{DIR}/deploy.sh services")
        deploy.communicate(timeout=200)
        r.server.set(SITE_ADDRESS=":80")
        expect(deploy.returncode == 0, "the deploy failed")
        expect("waiting up to" in said and "==> done" in said, f"services says {said}")
        after = r.server.exec(proxy)
        expect(before.split()[0] != after.split()[0] and "http://:80 {" in after, f"the proxy is still {after}")
        live = r.server.exec("docker inspect --format '{{.Id}}' quai-front-1 quai-api-1")
        expect(live != served, "the deploy replaced nothing")
        again = r.server.exec(
            f"{DIR}/deploy.sh services; docker inspect --format '{{{{.Id}}}}' quai-front-1 quai-api-1"
        )
        expect(live in again, "services replaced the release")
        r.at_rest(tag)


def first_edition(r: Rehearsal) -> None:
    """A server of the first edition deploys this edition, and rollbacks work in both directions."""
    old, new = "of the first edition", "after the first edition"

    def deploy(name: str, *lines: str) -> None:
        tag = variant(r, name, *lines)
        done = r.deploy_by_key(tag)
        expect(done.returncode == 0, f"{name}: refused: {done.stdout}")
        # Without a plain `docker compose up`: it would recreate the proxy, whose definition differs.
        r.at_rest(tag)

    def roll_to(name: str) -> None:
        r.server.set(IMAGE_TAG=r.commits[name])
        r.deploy_by_hand()
        r.at_rest(r.commits[name])

    def program() -> str:
        return r.server.exec(f"ls {DIR}/releases/current")

    files = r.repository.folder / "tests/rehearsal/first_edition"
    lines = [
        f"COPY --chmod=755 <<'END_OF_FILE' /release/{name}\n{(files / name).read_text()}END_OF_FILE"
        for name in ("deploy.sh", "docker-compose.prod.yml")
    ]
    deploy(old, "RUN rm -r /release/server", *lines)
    expect("server" not in program().split(), f"this is not the first edition: {program()}")
    deploy(new)  # by the first edition
    expect("server" in program().split(), f"there is no program: {program()}")
    roll_to(old)
    roll_to(new)
    # Each repairs what the other left when it was killed.
    for name, step, then in ((new, "watch", old), (old, "wait", new)):
        cut = r.start_deploy(variant(r, f"killed by the one {name}"))
        until(cut, f"==> {step}")
        r.server.exec("pkill --signal KILL --uid deploy --full 'server|deploy|docker' || true")
        cut.communicate(timeout=60)
        roll_to(then)
    deploy("the end of the first edition")

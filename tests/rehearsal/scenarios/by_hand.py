"""Work of administrators on the server, next to deploys, under load; no request may fail."""

import json
import shlex

from tests.rehearsal.rehearsal import Rehearsal, expect
from tests.rehearsal.server import DIR
from tests.rehearsal.variants import build_variant, deploy_and_expect_live, expect_refused, read_until

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


def env_notations(rehearsal: Rehearsal) -> None:
    """The deploy program reads each notation of .env as Docker Compose does."""
    names = [line.split("=")[0].split()[-1] for line in NOTATIONS.strip().splitlines()]
    environment = "".join(f"      {name}: ${{{name}}}\n" for name in dict.fromkeys(names))
    compose = f"services:\n  one:\n    image: none\n    environment:\n{environment}"
    rehearsal.server.exec(
        f"rm -rf /tmp/notations; mkdir /tmp/notations; cd /tmp/notations; printf '%s' {shlex.quote(NOTATIONS)} >.env;"
        f"printf '%s' {shlex.quote(compose)} >docker-compose.yml"
    )
    theirs = json.loads(rehearsal.server.exec("cd /tmp/notations; docker compose config --format json"))
    command = f"cd {DIR}/releases/current; python3 -Bc {shlex.quote(COMPARE)} /tmp/notations/.env"
    ours = json.loads(rehearsal.server.exec(command))
    # Compose doubles the dollar signs of what it prints, so that it can read it again.
    expected = {name: value.replace("$$", "$") for name, value in theirs["services"]["one"]["environment"].items()}
    expect(ours == expected, f"read as {ours}, Compose reads {expected}")


def manual_backup(rehearsal: Rehearsal) -> None:
    """A `docker compose run backup` of an administrator survives deploys and refusals."""
    own = rehearsal.server.exec(f"cd {DIR}; docker compose run --detach --rm --no-deps --entrypoint 'sleep 600' backup")
    try:
        deploy_and_expect_live(rehearsal, "next to a backup")
        expect_refused(
            rehearsal, "refused next to a backup", "boom", """CMD ["python", "-c", "raise SystemExit('boom')"]"""
        )
        running = rehearsal.server.exec(f"docker inspect --format '{{{{.State.Running}}}}' {own}")
        expect(running == "true", f"the backup is {running}")
    finally:
        rehearsal.server.exec(f"docker rm --force {own}")
    rehearsal.expect_live("next to a backup")


def settings_during_a_deploy(rehearsal: Rehearsal) -> None:
    """A setting that is changed during a deploy is applied to the new release, not to the previous one."""
    tag = build_variant(rehearsal, "while a setting changes")
    deploy = rehearsal.start_deploy(tag)
    read_until(deploy, "==> start")
    rehearsal.server.set(API_REPLICAS="2")
    said = rehearsal.deploy_by_hand()
    deploy.communicate(timeout=200)
    expect(deploy.returncode == 0, "the deploy failed")
    expect("waiting up to" in said and f"==> live: {tag}" in said, f"deploy.sh says {said}")
    rehearsal.expect_live("while a setting changes")
    rehearsal.server.set(API_REPLICAS="1")
    rehearsal.deploy_by_hand()
    rehearsal.expect_live("while a setting changes")


def services_during_a_deploy(rehearsal: Rehearsal) -> None:
    """`deploy.sh services` waits for a deploy, then applies what has changed for proxy and database only."""
    with rehearsal.without_traffic():
        proxy = "docker inspect --format '{{.Id}} {{.Config.Env}}' quai-proxy-1"
        before, served = (
            rehearsal.server.exec(proxy),
            rehearsal.server.exec("docker inspect --format '{{.Id}}' quai-front-1 quai-api-1"),
        )
        tag = build_variant(rehearsal, "while services waits")
        deploy = rehearsal.start_deploy(tag)
        read_until(deploy, "==> start")
        rehearsal.server.set(SITE_ADDRESS="http://:80")
        said = rehearsal.server.exec(f"{DIR}/deploy.sh services")
        deploy.communicate(timeout=200)
        rehearsal.server.set(SITE_ADDRESS=":80")
        expect(deploy.returncode == 0, "the deploy failed")
        expect("waiting up to" in said and "==> done" in said, f"services says {said}")
        after = rehearsal.server.exec(proxy)
        expect(before.split()[0] != after.split()[0] and "http://:80 {" in after, f"the proxy is still {after}")
        live = rehearsal.server.exec("docker inspect --format '{{.Id}}' quai-front-1 quai-api-1")
        expect(live != served, "the deploy replaced nothing")
        again = rehearsal.server.exec(
            f"{DIR}/deploy.sh services; docker inspect --format '{{{{.Id}}}}' quai-front-1 quai-api-1"
        )
        expect(live in again, "services replaced the release")
        rehearsal.expect_only_release(tag)


def first_edition(rehearsal: Rehearsal) -> None:
    """A server of the first edition deploys this edition, and rollbacks work in both directions."""
    old, new = "of the first edition", "after the first edition"

    def deploy(name: str, *lines: str) -> None:
        tag = build_variant(rehearsal, name, *lines)
        done = rehearsal.deploy_by_key(tag)
        expect(done.returncode == 0, f"{name}: refused: {done.stdout}")
        # Without a plain `docker compose up`: it would recreate the proxy, whose definition differs.
        rehearsal.expect_only_release(tag)

    def roll_to(name: str) -> None:
        rehearsal.server.set(IMAGE_TAG=rehearsal.commits[name])
        rehearsal.deploy_by_hand()
        rehearsal.expect_only_release(rehearsal.commits[name])

    def program() -> str:
        return rehearsal.server.exec(f"ls {DIR}/releases/current")

    files = rehearsal.repository.folder / "tests/rehearsal/first_edition"
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
        cut = rehearsal.start_deploy(build_variant(rehearsal, f"killed by the one {name}"))
        read_until(cut, f"==> {step}")
        rehearsal.server.exec("pkill --signal KILL --uid deploy --full 'server|deploy|docker' || true")
        cut.communicate(timeout=60)
        roll_to(then)
    deploy("the end of the first edition")

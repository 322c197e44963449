"""The upgrade of a server from version 1, under load; no request may fail."""

from tests.rehearsal import HERE
from tests.rehearsal.failures import expect
from tests.rehearsal.rehearsal import Rehearsal
from tests.rehearsal.server import DIR
from tests.rehearsal.variants import build_variant, deploy_and_expect_live

VERSION_1 = HERE / "version_1"
FRONT_SETTING = "      API_HOST: "  # in its compose file


def version_1_lines() -> list[str]:
    """Lines of a release of version 1; the health check was in the image.

    The front gets one more setting, RELEASE, so that the rehearsal knows which release answers.
    """
    port_and_path = "'127.0.0.1', int(os.environ['API_PORT']), timeout=3); c.request('GET', '/healthz'"
    probe = f"import http.client, os, sys; c = http.client.HTTPConnection({port_and_path})"
    lines = [
        "RUN rm -r /release/server",
        "HEALTHCHECK --interval=5s --timeout=4s --start-period=60s --start-interval=0.5s --retries=3 "
        f'CMD ["python", "-c", "{probe}; sys.exit(c.getresponse().status != 200)"]',
    ]
    for file in sorted(VERSION_1.iterdir()):
        text = file.read_text().replace(FRONT_SETTING, f"      RELEASE: ${{IMAGE_TAG}}\n{FRONT_SETTING}")
        lines.append(f"COPY --chmod=755 <<'END_OF_FILE' /release/{file.name}\n{text}END_OF_FILE")
    return lines


def kill_deploy(rehearsal: Rehearsal, name: str, step: str) -> None:
    """Deploy a variant and kill its deploy program at this step; expect that it ends there, without a record."""
    tag = build_variant(rehearsal, name)
    with rehearsal.start_deploy(tag) as deploy:
        deploy.read_until(step)
        # Fails if there is no such process.
        rehearsal.server.exec("pkill --signal KILL --uid deploy --full 'server|deploy|docker'")
        done = deploy.finish()
    expect(done.returncode != 0, f"{name}: not killed at {step}: {done.stdout}")
    recorded = [one for one in rehearsal.server.deploy_log() if one["tag"] == tag]
    expect(not recorded, f"{name}: not killed at {step}, it recorded {recorded}")


def link_current(rehearsal: Rehearsal, tag: str) -> None:
    """Link releases/current to another release on the server: its deploy program runs next."""
    rehearsal.server.exec(f"runuser --user deploy -- ln -sfn {tag} {DIR}/releases/current")


def upgrade_from_version_1(rehearsal: Rehearsal) -> None:
    """A server of version 1 (a Bash program) deploys this version; rollbacks and cleanups work in both directions."""
    old, new = "of version 1", "after version 1"

    def deploy(name: str, *lines: str) -> None:
        # A plain `docker compose up` would recreate the proxy, whose definition differs.
        deploy_and_expect_live(rehearsal, name, *lines, plain_up=False)

    def roll_back_to(name: str) -> None:
        rehearsal.server.set(IMAGE_TAG=rehearsal.commits[name])
        rehearsal.deploy_by_hand()
        rehearsal.expect_only_release(rehearsal.commits[name])

    def release_files() -> list[str]:
        return rehearsal.server.exec(f"ls {DIR}/releases/current").split()

    try:
        deploy(old, *version_1_lines())
        expect("server" not in release_files(), f"this is not version 1: {release_files()}")
        deploy(new)  # by version 1
        expect("server" in release_files(), f"the deploy program is missing: {release_files()}")
        roll_back_to(old)
        roll_back_to(new)
        for live, step, other in ((new, "watch", old), (old, "wait", new)):
            kill_deploy(rehearsal, f"killed deploy {live}", f"==> {step}")
            link_current(rehearsal, rehearsal.commits[other])  # so that the other program cleans up
            roll_back_to(other)
    finally:
        deploy("the end of version 1")

"""What a deploy leaves in .env and in the log when it fails or is killed."""

import pytest
from server import deploy, engine, history, repair, rollout, state, status
from server.errors import Interrupted, Refused
from server.settings import read

from tests.server.conftest import NEW, OLD, THIRD, append, container

KEEP_LIVE = rollout.keep_live


@pytest.fixture
def containers(directory, monkeypatch):
    """The containers of an engine; a list that a test fills. Each rollout is refused."""

    class Containers(list):
        started = False  # whether a rollout starts containers before it is refused

    found = Containers()

    def remove(ids):
        gone = set(ids)
        found[:] = [one for one in found if one.id not in gone]

    def refuse(attempt, refuse_older):
        attempt.steps.begin("pull")
        if found.started:  # next to what runs
            found.extend(container(attempt.project.deploy_id, NEW, service) for service in ("api", "front"))
        raise Refused("no such image")

    monkeypatch.setattr(engine, "containers", lambda project, *labels: list(found))
    monkeypatch.setattr(engine, "one_shots", lambda project, label: [])
    monkeypatch.setattr(engine, "remove_now", lambda one: None)
    monkeypatch.setattr(engine, "remove", remove)
    monkeypatch.setattr(engine, "image", lambda name: None)
    monkeypatch.setattr(engine, "tags", lambda repository: set())
    monkeypatch.setattr(engine, "untag", lambda name: None)
    monkeypatch.setattr(engine, "rename", lambda one, name: None)
    monkeypatch.setattr(repair, "DRAIN_SECONDS", 0)
    monkeypatch.setattr(rollout, "keep_live", lambda attempt: False)
    monkeypatch.setattr(rollout, "roll_out", refuse)
    monkeypatch.setattr(deploy, "ignore_signals", lambda: None)
    state.write_upstream(directory, "front")
    return found


def write_env_without_a_release(directory):
    """Write .env as it is before the first deploy."""
    env = (directory / ".env").read_text()
    (directory / ".env").write_text(
        env.replace(f"IMAGE_TAG={OLD}", "IMAGE_TAG=").replace("DEPLOY_ID=100", "DEPLOY_ID=")
    )


def refuse_lock(*_):
    raise Refused("another deploy is still running")


def run(directory):
    return deploy.run(directory, NEW, "a person", refuse_older=True)


def test_refused_deploy_keeps_the_live_release(directory, containers, capsys):
    containers += [container("100", OLD, "api"), container("100", OLD, "front")]
    assert run(directory) == 1
    assert [one.tag for one in containers] == [OLD, OLD]
    assert capsys.readouterr().out.endswith(f"refused: no such image\n==> still live: {OLD}\n")


@pytest.mark.parametrize("left", ["stopped", "removed"])
def test_refused_deploy_keeps_env_when_nothing_runs(directory, containers, capsys, left):
    """After `docker compose stop` or `down`, .env is all that says which release to start again."""
    if left == "stopped":
        containers += [container("100", OLD, service, "exited") for service in ("api", "front")]
    before, kept = (directory / ".env").read_text(), list(containers)
    assert run(directory) == 1
    assert (directory / ".env").read_text() == before
    assert containers == kept
    assert f"still live, but not running: {OLD} (" in capsys.readouterr().out


@pytest.mark.parametrize("stopped", [("api", "front"), ("api",)])
def test_refused_release_never_replaces_a_stopped_one(directory, containers, capsys, stopped):
    """For example during a restore, for which an administrator stops the API."""
    for service in ("api", "front"):
        containers.append(container("100", OLD, service, "exited" if service in stopped else "running"))
    kept, containers.started = list(containers), True
    assert run(directory) == 1
    assert containers == kept
    assert "DEPLOY_ID=100\n" in (directory / ".env").read_text()
    names = ", ".join(f"quai-{service}-100" for service in stopped)
    assert f"==> still live, but not running: {OLD} ({names}); to start it" in capsys.readouterr().out


def test_error_in_the_diagnostics_does_not_stop_the_revert(directory, containers, monkeypatch, capsys):
    containers += [container("100", OLD, "api"), container("100", OLD, "front")]
    containers.started = True
    monkeypatch.setattr(rollout.diagnostics, "show", lambda *_: {}["Health"])
    assert run(directory) == 1
    assert [one.tag for one in containers] == [OLD, OLD]
    assert "no diagnostics: 'Health'" in capsys.readouterr().out


def test_interrupt_is_not_taken_for_a_reason_to_replace_the_live_release(directory, containers, monkeypatch, capsys):
    """While the live release is confirmed, for example at boot."""
    containers += [container("100", OLD, "api"), container("100", OLD, "front")]

    def interrupt(*_, **__):
        raise Interrupted("interrupted")

    monkeypatch.setattr(rollout, "keep_live", KEEP_LIVE)
    monkeypatch.setattr(rollout.health, "wait_until_healthy", interrupt)
    monkeypatch.setattr(rollout.compose, "hashes", lambda *_: {})
    services = {name: {"labels": {"quai.deploy": "100", "quai.tag": OLD}} for name in ("api", "front")}
    monkeypatch.setattr(rollout.compose, "configuration", lambda _: {"services": services})
    assert deploy.run(directory, OLD, "a person", refuse_older=True) == 1
    assert capsys.readouterr().out.endswith(f"refused: interrupted\n==> still live: {OLD}\n")


def test_interrupt_after_env_names_the_release_reverts_nothing(directory, containers, monkeypatch, capsys):
    def roll_out(attempt, refuse_older):
        containers.extend(container(attempt.project.deploy_id, NEW, service) for service in ("api", "front"))
        return history.LIVE

    def interrupt(*_):
        raise Interrupted("interrupted")

    monkeypatch.setattr(rollout, "roll_out", roll_out)
    monkeypatch.setattr(deploy, "_finish", interrupt)
    assert run(directory) == 1
    assert read(directory).image_tag == NEW
    assert [one.tag for one in containers] == [NEW, NEW]
    assert f"{NEW} is live, but a later step failed (interrupted)" in capsys.readouterr().out


def test_worker_that_leaves_the_release_starts_after_its_previous_container(directory, containers, monkeypatch):
    """For example after a rollback to a release whose workers have no labels."""
    containers += [container("100", OLD, service) for service in ("api", "front", "worker")]
    containers += [container("", "", "db")]
    services = {name: {"labels": {"quai.deploy": "200", "quai.tag": NEW}} for name in ("api", "front")}
    services |= {"worker": {}, "db": {}, "proxy": {}}

    def roll_out(attempt, refuse_older):
        containers.extend(container(attempt.project.deploy_id, NEW, service) for service in ("api", "front"))
        return history.LIVE

    def start_missing(project, names, existing):
        assert [one.service for one in existing] == [one.service for one in containers]
        assert not any(one.tag == OLD for one in existing)
        containers.extend(container("", "", name) for name in names)

    monkeypatch.setattr(rollout, "roll_out", roll_out)
    monkeypatch.setattr(rollout.compose, "configuration", lambda _: {"services": services})
    monkeypatch.setattr(rollout.compose, "start_missing", start_missing)
    assert run(directory) == 0
    assert sorted((one.service, one.tag) for one in containers) == [
        ("api", NEW), ("db", ""), ("front", NEW), ("worker", ""),
    ]  # fmt: skip


def save_old_env(directory, image_tag=OLD):
    """An editor opened .env before the deploy 200 of the release NEW, and saved it afterwards."""
    append(directory, id="200", tag=NEW)
    env = (directory / ".env").read_text()
    (directory / ".env").write_text(env.replace(f"IMAGE_TAG={OLD}", f"IMAGE_TAG={image_tag}"))


@pytest.mark.parametrize("run_state", ["running", "exited"])
def test_env_saved_by_an_editor_that_opened_it_before_a_deploy_rolls_nothing_back(
    directory, containers, monkeypatch, capsys, run_state
):
    containers += [container("200", NEW, service, run_state) for service in ("api", "front")]
    save_old_env(directory)
    kept = []
    monkeypatch.setattr(
        rollout, "keep_live", lambda attempt: kept.append((attempt.live.deploy_id, attempt.tag)) or True
    )
    assert deploy.run(directory, "", "a person", refuse_older=False) == 0
    assert kept == [("200", NEW)]
    assert (read(directory).image_tag, read(directory).deploy_id) == (NEW, "200")
    assert "in .env are older than the last deploy" in capsys.readouterr().out


def test_live_release_of_env_is_kept_while_a_previous_one_still_runs(directory, containers, monkeypatch):
    """The deploy 200 was killed while it stopped the previous release; then its own containers were stopped."""
    containers += [container("100", OLD, service) for service in ("api", "front")]
    containers += [container("200", NEW, service, "exited") for service in ("api", "front")]
    save_old_env(directory, NEW)
    env = (directory / ".env").read_text()
    (directory / ".env").write_text(env.replace("DEPLOY_ID=100", "DEPLOY_ID=200"))
    asked = []
    monkeypatch.setattr(rollout, "keep_live", lambda attempt: asked.append(attempt.tag) or True)
    deploy.run(directory, "", "a person", refuse_older=False)
    assert asked == [NEW]


def test_status_of_an_env_from_before_the_last_deploy(directory, containers, monkeypatch, capsys):
    """IMAGE_TAG names the release to roll back to already, so a command that sets it would change nothing."""
    containers += [container("200", NEW, service) for service in ("api", "front")]
    save_old_env(directory)
    monkeypatch.setattr(rollout.commands, "docker", lambda *_: None)
    status.show(directory, history.read_settings(directory))
    output = capsys.readouterr().out
    assert output.startswith(f"==> live: {NEW} since ")
    assert "IMAGE_TAG and DEPLOY_ID in .env are older than the last deploy" in output
    assert output.endswith(f"to roll back, first run 'sudo {directory}/deploy.sh', then this command again\n")


def test_rollback_in_an_env_saved_by_an_editor_is_a_rollback(directory, containers):
    """IMAGE_TAG was changed on purpose; only DEPLOY_ID is old."""
    save_old_env(directory, THIRD)
    found = history.read_settings(directory)
    assert (found.image_tag, found.deploy_id) == (THIRD, "200")


def test_refused_rollback_in_an_env_saved_by_an_editor_is_not_kept(directory, containers, monkeypatch):
    """A reboot would deploy the release that IMAGE_TAG names."""
    save_old_env(directory, THIRD)

    monkeypatch.setattr(state, "lock", refuse_lock)
    assert deploy.run(directory, THIRD, "a person", refuse_older=False) == 1
    assert (read(directory).image_tag, read(directory).deploy_id) == (NEW, "200")


def test_env_of_the_last_deploy_is_not_stale(directory, containers):
    assert history.read_settings(directory) == read(directory)
    append(directory, id="200", tag=NEW, outcome="refused")
    assert history.read_settings(directory) == read(directory)


def test_reconcile_keeps_a_first_release_whose_deploy_was_killed(directory, containers, monkeypatch):
    """.env names no release yet."""
    write_env_without_a_release(directory)
    containers += [container("200", NEW, "api"), container("200", NEW, "front")]
    state.write_upstream(directory, "front-200")
    monkeypatch.setattr(rollout, "keep_live", lambda attempt: True)
    assert deploy.run(directory, "", "a person", refuse_older=False) == 0
    assert (read(directory).image_tag, read(directory).deploy_id) == (NEW, "200")


def test_status_of_a_killed_first_deploy_does_not_offer_to_deploy_nothing(directory, containers, monkeypatch, capsys):
    write_env_without_a_release(directory)
    containers += [container("200", NEW, "api"), container("200", NEW, "front")]
    state.write_upstream(directory, "front-200")
    monkeypatch.setattr(rollout.commands, "docker", lambda *_: None)
    status.show(directory, read(directory))
    output = capsys.readouterr().out
    assert f"live: {NEW}\n" in output
    assert "IMAGE_TAG in .env is" not in output


def test_status_without_containers_does_not_offer_the_current_release_as_a_rollback(
    directory, containers, monkeypatch, capsys
):
    append(directory, id="90", tag=THIRD)
    append(directory, id="100", tag=OLD)
    monkeypatch.setattr(rollout.commands, "docker", lambda *_: None)
    status.show(directory, read(directory))
    output = capsys.readouterr().out
    assert f"IMAGE_TAG={THIRD}/" in output
    assert f"IMAGE_TAG={OLD}/" not in output


def test_reconcile_without_any_release_is_explained(directory, containers, capsys):
    write_env_without_a_release(directory)
    assert deploy.run(directory, "", "a person", refuse_older=False) == 1
    assert "is empty, and no release is live: set it, or merge to main" in capsys.readouterr().out


def test_release_started_by_hand_is_deployed_again(directory, containers, monkeypatch, capsys):
    """`docker compose up` after a change of IMAGE_TAG keeps the deploy id; deploys.log has another release for it."""
    containers += [container("100", NEW, "api"), container("100", NEW, "front")]
    (directory / "releases" / NEW).mkdir()
    monkeypatch.setattr(rollout, "keep_live", KEEP_LIVE)
    assert run(directory) == 1  # roll_out of the fixture refuses
    assert f"docker compose was run by hand; deploying {NEW} again" in capsys.readouterr().out


def test_processes_of_a_refused_deploy_are_killed_before_the_revert(directory, containers, monkeypatch):
    """A signal may come while the deploy starts a process that it does not know yet."""
    calls = []
    monkeypatch.setattr(state, "end_orphans", lambda _: calls.append("orphans"))
    monkeypatch.setattr(repair, "repair", lambda *_: calls.append("repair") or repair.Live("", "", ()))
    run(directory)
    assert calls == ["orphans", "repair"] * 2


def test_refused_first_deploy_leaves_nothing(directory, containers):
    text = (
        (directory / ".env")
        .read_text()
        .replace(f"IMAGE_TAG={OLD}", "IMAGE_TAG=")
        .replace("DEPLOY_ID=100", "DEPLOY_ID=")
    )
    (directory / ".env").write_text(text)
    assert run(directory) == 1
    assert (read(directory).image_tag, read(directory).deploy_id) == ("", "")


@pytest.mark.parametrize("deploy_id", ["300", ""])
def test_live_release_of_a_killed_deploy_is_recorded(directory, containers, deploy_id):
    """It was killed after .env was written, or, in a first deploy, after the switch."""
    state.write_upstream(directory, "front-300")
    containers += [container("300", OLD, "api"), container("300", OLD, "front")]
    (directory / ".env").write_text((directory / ".env").read_text().replace("DEPLOY_ID=100", f"DEPLOY_ID={deploy_id}"))
    (directory / "releases" / OLD / "deploy.sh").touch()
    state.link_current(directory, NEW)
    assert run(directory) == 1
    assert state.current_tag(directory) == OLD
    lines = [(entry.id, entry.tag, entry.outcome) for entry in history.entries(directory)]
    assert lines[1] == ("300", OLD, "live")
    assert lines[2][1:] == (NEW, "refused")


@pytest.mark.parametrize(("requested", "is_shown"), [(NEW, False), (OLD, True)])
def test_image_tag_that_cannot_be_restored_is_reported(directory, monkeypatch, capsys, requested, is_shown):
    """The log is lost, and IMAGE_TAG is OLD: whether OLD was live is unknown; NEW was only requested."""
    (directory / "deploys.log").unlink()
    monkeypatch.setattr(deploy, "ignore_signals", lambda: None)

    monkeypatch.setattr(state, "lock", refuse_lock)
    assert deploy.run(directory, requested, "a person", refuse_older=False) == 1
    assert ("IMAGE_TAG in .env is not restored" in capsys.readouterr().out) == is_shown


def test_stopped_services_are_started_before_the_live_release_is_checked(directory, containers, monkeypatch):
    """The release itself may need them, for example the database."""
    containers += [container("100", OLD, "api"), container("100", OLD, "front")]
    started = []
    services = {name: {"labels": {"quai.deploy": "100", "quai.tag": OLD}} for name in ("api", "front")}
    services |= {name: {} for name in ("proxy", "db", "cache", "check", "backup", "migrate")}
    monkeypatch.setattr(rollout, "keep_live", KEEP_LIVE)
    monkeypatch.setattr(rollout.compose, "hashes", lambda *_: {})
    monkeypatch.setattr(rollout.compose, "configuration", lambda _: {"services": services})
    monkeypatch.setattr(rollout.compose, "start_missing", lambda _, names, existing: started.extend(names))

    def refuse(*_, **__):
        assert started == ["proxy", "db", "cache"]
        raise Refused("not healthy")

    monkeypatch.setattr(rollout.health, "wait_until_healthy", refuse)
    assert deploy.run(directory, OLD, "a person", refuse_older=True) == 1
    assert started == ["proxy", "db", "cache"]


def test_nothing_is_pruned_when_the_revert_failed(directory, containers, monkeypatch, capsys):
    """The new release may still serve, from its folder."""
    containers += [container("100", OLD, "api"), container("100", OLD, "front")]
    (directory / "releases" / NEW).mkdir()
    write = state.write_upstream

    def fail(path, front):
        if front != "front":
            raise OSError("no space left on device")
        write(path, front)

    monkeypatch.setattr(state, "write_upstream", fail)
    assert run(directory) == 1
    assert (directory / "releases" / NEW).is_dir()
    output = capsys.readouterr().out
    assert "not reverted: the switch (no space left on device)" in output
    assert output.endswith(f"state unknown; last known live: {OLD}\n")

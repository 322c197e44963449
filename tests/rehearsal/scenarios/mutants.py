"""The deploy program without one of its guards: the scenario that tests the guard must fail."""

from scripts.runner.process import ROOT, run
from tests.rehearsal.rehearsal import FAILURES, Rehearsal, expect
from tests.rehearsal.scenarios.by_hand import manual_backup, services_during_a_deploy
from tests.rehearsal.scenarios.endurance import kill_matrix
from tests.rehearsal.scenarios.everyday import commit_order, invalid_input
from tests.rehearsal.scenarios.releases import (
    faulty_migrations,
    faulty_releases,
    restore_after_data_loss,
    unusual_releases,
)
from tests.rehearsal.scenarios.surroundings import (
    dropped_connection,
    pruning,
    reboots,
    registry_outage_and_lock,
    webhooks,
)
from tests.rehearsal.server import DIR
from tests.rehearsal.traffic import Summary
from tests.rehearsal.variants import build_variant

WRITE_EARLY = """    from server.settings import write_release
    write_release(deploy.directory, deploy.tag, deploy.project.deploy_id)
    deploy.steps.begin("switch")
"""
# What is taken out, in which file of scripts/server, by which change, and the scenario that must see it.
MUTANTS = (
    ("the lock", "state", "fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)", "None", registry_outage_and_lock),
    ("the check of the disk", "release", "if free < settings.min_free_mb:", "if False:", invalid_input),
    ("the check of settings", "settings", "if not re.fullmatch(pattern, found):", "if False:", invalid_input),
    (
        "the check of the compose file",
        "compose",
        "    if done.code:\n        missing",
        "    if False:\n        missing",
        invalid_input,
    ),
    ("the order of commits", "rollout", "if release.is_older(image, live):", "if False:", commit_order),
    (
        "that the same again is a no-op",
        "rollout",
        "if unchanged := _find_unchanged(deploy):",
        "if unchanged := None:",
        commit_order,
    ),
    (
        "that changed settings are seen",
        "rollout",
        "    if any(one.labels.get",
        "    if False and any(one.labels.get",
        commit_order,
    ),
    (
        "the wait for health",
        "rollout",
        "    health.wait_until_healthy(started, deploy.settings)\n",
        "",
        unusual_releases,
    ),
    (
        "the demand for a health check",
        "health",
        "    if not health:",
        "    if not health:\n        return True\n    if not health:",
        faulty_releases,
    ),
    (
        "the watch",
        "rollout",
        "    health.watch(started, front, deploy.tag, deploy.settings)\n",
        "",
        faulty_releases,
    ),
    ("the probes of the watch", "health", "if failed == FAILED_PROBES:", "if False:", faulty_releases),
    ("the proof", "health", "    answer = probe(container.address, VERSION_PATH)\n", "    return\n", faulty_releases),
    ("the proof before the switch", "rollout", "    health.verify_version(front, deploy.tag)\n", "", faulty_releases),
    (
        "the check of the next program",
        "release",
        "        if done.code:\n            message",
        "        if False:\n            message",
        faulty_releases,
    ),
    (
        "the evidence",
        "deploy",
        "        health.show_evidence(directory, deploy.containers())\n",
        "        pass\n",
        faulty_releases,
    ),
    (
        "the exit codes",
        "health",
        "        for line in describe_exit(container.id):",
        "        for line in []:",
        faulty_releases,
    ),
    (
        "what the candidate leaves",
        "repair",
        "    engine.remove(container.id for",
        "    list(container.id for",
        faulty_releases,
    ),
    ("the migration's limit", "backup", '"migrate", seconds)', '"migrate", 130)', faulty_migrations),
    (
        "the end of one-shots",
        "compose",
        "    engine.in_parallel(engine.kill, engine.one_shots(settings.project, ONE_SHOT))\n",
        "    pass\n",
        faulty_migrations,
    ),
    ("the room for a dump", "backup", "    if missing > sum(", "    if False and missing > sum(", faulty_migrations),
    (
        "the end of a dump that grows",
        "backup",
        "        if free_mb() < project.settings.min_free_mb:",
        "        if False:",
        faulty_migrations,
    ),
    ("the backup", "backup", '    if "backup" in services:', "    if False:", restore_after_data_loss),
    ("the question to the schema", "backup", "if code not in (0, PENDING):", "if False:", restore_after_data_loss),
    ("a session of its own", "follow", "        os.setsid()\n", "        os.dup2(1, 9)\n", dropped_connection),
    ("the limit of NOTIFY_URL", "history", "NOTIFY_SECONDS = 5 ", "NOTIFY_SECONDS = 150 ", webhooks),
    ("what NOTIFY_URL missed", "history", "if not _is_final(answer):", "if False:", webhooks),
    (
        "the new file for each count",
        "history",
        'replace(file, f"{sent}\\n")',
        'file.write_text(f"{sent}\\n")',
        webhooks,
    ),
    ("what prune keeps", "release", "    keep |= set(history.rollback", "    set(history.rollback", pruning),
    ("prune", "release", "    keep = {live, state.current_tag(directory)}\n", "    return\n", pruning),
    ("that .env is written last", "rollout", '    deploy.steps.begin("switch")\n', WRITE_EARLY, reboots),
    ("the names", "deploy", "    _rename_containers(deploy)\n", "", pruning),
    ("the pointer between deploys", "deploy", '    state.point_to(directory, "front")\n', "", pruning),
    (
        "the label of one-shots",
        "engine",
        '"com.docker.compose.oneoff=True", label)',
        '"com.docker.compose.oneoff=True")',
        manual_backup,
    ),
    (
        "the lock of services",
        "services",
        'with state.lock(directory, "services"):',
        "if True:",
        services_during_a_deploy,
    ),
    ("repair", "repair", "    engine.remove(container.id for", "    list(container.id for", kill_matrix),
)


def mutation_tests(rehearsal: Rehearsal) -> None:
    """Mutation tests: without a guard of the deploy program, its scenario must fail."""
    good = rehearsal.commits["first"]
    rehearsal.commits |= {"forward": good, "code": build_variant(rehearsal, "old code", position=1)}
    names = (
        "API_REPLICAS",
        "API_TOKEN",
        "KEEP_RELEASES",
        "MIGRATE_SECONDS",
        "MIN_FREE_MB",
        "NOTIFY_URL",
        "NOTIFY_TOKEN",
        "SITE_ADDRESS",
        "WATCH_SECONDS",
    )
    usual = {name: rehearsal.server.setting(name) for name in names} | {"HEALTH_SECONDS": "20"}
    unseen = []
    for what, module, guard, instead, scenario in MUTANTS:
        if not any(name in what for name in rehearsal.mutant_names):
            continue
        clean = (ROOT / f"scripts/server/{module}.py").read_text()
        expect(clean.count(guard) == 1, f"{module}.py has {guard!r} {clean.count(guard)} times")
        lines = f"COPY <<'END_OF_PROGRAM' /release/server/{module}.py\n{clean.replace(guard, instead)}END_OF_PROGRAM"
        rehearsal.commits["forward"] = good
        rehearsal.commits["forward"] = build_variant(
            rehearsal, f"without {what}", lines, f"RUN chmod 644 /release/server/{module}.py"
        )
        rehearsal.server.set(**usual, IMAGE_TAG=rehearsal.commits["forward"])
        rehearsal.deploy_by_hand()
        before = len(Summary.read(rehearsal.traffic.records).records)
        try:
            scenario(rehearsal)
            seen = ""
        except FAILURES as error:
            seen = str(error).splitlines()[0][:150]
        failed = Summary(Summary.read(rehearsal.traffic.records).records[before:]).failed
        seen = seen or (f"{failed} requests failed" if failed else "")
        print(f"  {what}: {f'seen by {scenario.__name__}: {seen}' if seen else 'NOT SEEN'}", flush=True)
        unseen += [] if seen else [what]
        whole = f"{rehearsal.server.name}:{DIR}/releases/current/server/{module}.py"
        run("docker", "cp", str(ROOT / f"scripts/server/{module}.py"), whole)
        rehearsal.server.set(**usual, IMAGE_TAG=good)
        rehearsal.deploy_by_hand()
        rehearsal.expect_only_release(good)
    expect(not unseen, f"not seen: {', '.join(unseen)}")

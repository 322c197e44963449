"""The deploy program without one of its checks: the scenario that tests the check must fail."""

import time
from collections.abc import Callable

from scripts.runner.process import ROOT, run
from tests.rehearsal.failures import MissingRelease, describe_error, expect, say
from tests.rehearsal.rehearsal import SETTLE_SECONDS, Rehearsal
from tests.rehearsal.report import describe_count
from tests.rehearsal.sample.releases import restore_after_data_loss
from tests.rehearsal.scenarios.by_hand import manual_backup, services_during_a_deploy
from tests.rehearsal.scenarios.everyday import commit_order, invalid_input
from tests.rehearsal.scenarios.releases import (
    dump_without_space,
    faulty_migrations,
    faulty_releases,
    unusual_releases,
)
from tests.rehearsal.scenarios.roles import workers_and_schedulers
from tests.rehearsal.scenarios.surroundings import (
    concurrent_deploys,
    dropped_connection,
    pruning,
    reboots,
    webhooks,
)
from tests.rehearsal.server import DIR
from tests.rehearsal.variants import build_variant

SETTINGS = (  # restored after each mutant
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
EARLY_WRITE = """    from server.settings import write_release
    write_release(attempt.directory, attempt.tag, attempt.project.deploy_id)
    attempt.steps.begin("switch")
"""
# For each check: its name, the module of scripts/server, its code, the replacement, and the scenario that must fail.
MUTANTS = (
    ("the lock", "state", "fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)", "None", concurrent_deploys),
    ("the disk check", "release", "if free < settings.min_free_mb:", "if False:", invalid_input),
    ("the validation of settings", "settings", "if not re.fullmatch(pattern, found):", "if False:", invalid_input),
    (
        "the check of the compose file",
        "compose",
        "    if result.code:\n        missing",
        "    if False:\n        missing",
        invalid_input,
    ),
    ("the commit order", "plan", "if release.is_older(image, live_image):", "if False:", commit_order),
    (
        "the no-op for the live release",
        "deploy",
        "if chosen.keep_live(attempt):",
        "if False:",
        commit_order,
    ),
    (
        "the detection of changed settings",
        "rollout",
        "        if container.labels.get",
        "        if False and container.labels.get",
        commit_order,
    ),
    (
        "the wait for health",
        "rollout",
        "    health.wait_until_healthy(serving, attempt.settings)\n",
        "",
        unusual_releases,
    ),
    (
        "the required health check",
        "health",
        'if not health and service in ("api", "front"):',
        "if False:",
        faulty_releases,
    ),
    (
        "the watch",
        "rollout",
        '    health.watch(serving + workers, attempt.settings, probe_front, "after the switch")\n',
        "",
        faulty_releases,
    ),
    ("the probes of the watch", "health", "failed + 1 if problem else 0", "0", faulty_releases),
    (
        "the verification",
        "health",
        "    if not response.is_ready:\n        hint",
        "    return ''\n    if not response.is_ready:\n        hint",
        faulty_releases,
    ),
    (
        "the verification before the switch",
        "rollout",
        "    health.verify(front, target)\n",
        "",
        faulty_releases,
    ),
    (
        "the check of the new program",
        "release",
        "        if result.code:\n            message",
        "        if False:\n            message",
        faulty_releases,
    ),
    (
        "the diagnostics",
        "rollout",
        "    diagnostics.show(attempt.directory, {container.name: container.id for container in started})\n",
        "    pass\n",
        faulty_releases,
    ),
    (
        "the exit codes",
        "diagnostics",
        "        for line in describe_exit(container):",
        "        for line in []:",
        faulty_releases,
    ),
    (
        "the removal of refused containers",
        "repair",
        "problem = _replace_containers(previous, kept)",
        "problem = _replace_containers([], kept)",
        faulty_releases,
    ),
    ("the time limit of migrations", "compose", "project.settings.migrate_seconds", "130", faulty_migrations),
    (
        "the kill of one-shot containers",
        "compose",
        "    engine.in_parallel(engine.remove_now, engine.one_shots(settings.project, ONE_SHOT_LABEL))\n",
        "    pass\n",
        faulty_migrations,
    ),
    (
        "the space check before a dump",
        "migrations",
        "    if missing > sum(",
        "    if False and missing > sum(",
        dump_without_space,
    ),
    (
        "the space check during a dump",
        "migrations",
        "        if free_mb() < project.settings.min_free_mb:",
        "        if False:",
        dump_without_space,
    ),
    (
        "the labels of workers",
        "roles",
        "        if lacks_labels or (",
        "        if False and (",
        workers_and_schedulers,
    ),
    (
        "the start of workers before the switch",
        "rollout",
        "    workers = _start_workers(attempt)\n",
        "    workers: list[str] = []\n",
        workers_and_schedulers,
    ),
    (
        "the order of singletons",
        "repair",
        "    engine.remove(container.id for container in previous if container.service in singletons)\n",
        "",
        workers_and_schedulers,
    ),
    ("the backup", "migrations", '    if "backup" in services:', "    if False:", restore_after_data_loss),
    (
        "the schema check",
        "migrations",
        'if str(code) == roles.labels(services["check"]).get(INCOMPATIBLE_LABEL) or',
        "if",
        restore_after_data_loss,
    ),
    ("the separate session", "follow", "        os.setsid()\n", "        os.dup2(1, 9)\n", dropped_connection),
    ("the time limit of NOTIFY_URL", "history", "NOTIFY_SECONDS = 5 ", "NOTIFY_SECONDS = 150 ", webhooks),
    ("the retry of webhooks", "history", "if _needs_retry(status):", "if False:", webhooks),
    (
        "replacing (not overwriting) the file `notified`",
        "history",
        'replace(file, f"{sent}\\n")',
        'file.write_text(f"{sent}\\n")',
        webhooks,
    ),
    (
        "the kept rollback candidates",
        "release",
        "{live, state.current_tag(directory), *candidates} if",
        "{live, state.current_tag(directory)} if",
        pruning,
    ),
    ("the pruning", "release", "        if not keep:\n", "        if True:\n", pruning),
    ("the late write of .env", "rollout", '    attempt.steps.begin("switch")\n', EARLY_WRITE, reboots),
    ("the container names", "rollout", "    _rename_containers(attempt)\n", "", pruning),
    ("the upstream between deploys", "repair", '    state.write_upstream(directory, "front")\n', "", pruning),
    (
        "the label of one-shot containers",
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
)


def mutation_tests(rehearsal: Rehearsal) -> None:
    """Mutation tests: without a check of the deploy program, its scenario must fail."""
    server, commits = rehearsal.server, rehearsal.commits
    commits |= {"forward": commits["first"], "code": build_variant(rehearsal, "old code", position=0)}
    original = {name: server.setting(name) for name in SETTINGS} | {"HEALTH_SECONDS": "20"}
    chosen = [mutant for mutant in MUTANTS if any(part in mutant[0] for part in rehearsal.mutants)]
    problems = []
    # A scenario that also fails with all checks would detect nothing.
    for scenario in dict.fromkeys(scenario for *_, scenario in chosen):
        deploy_variant(rehearsal, f"all checks for {scenario.__name__}", original)
        if failure := find_failure(rehearsal, scenario):
            problems.append(f"{scenario.__name__} fails with all checks: {failure}")
            say(f"FAILED: {problems[-1]}")
        restore_release(rehearsal, "", original)
    for name, module, check, replacement, scenario in chosen:
        try:
            deploy_mutant(rehearsal, name, module, check, replacement, original)
            failure = find_failure(rehearsal, scenario)
            result = f"detected by {scenario.__name__}: {failure}" if failure else "not detected"
        except Exception as error:  # continue with the next check
            failure, result = "", f"not testable: {describe_error(error)}"
        say(f"{name}: {result if failure else f'FAILED: {result}'}")
        problems += [] if failure else [f"{name}: {result}"]
        try:
            restore_release(rehearsal, module, original)
        except Exception as error:
            problems.append(f"the good release was not restored, no other check was tested: {describe_error(error)}")
            break
    expect(not problems, "; ".join(problems))


def deploy_mutant(
    rehearsal: Rehearsal, name: str, module: str, check: str, replacement: str, settings: dict[str, str]
) -> None:
    """Deploy a release whose deploy program has the replacement instead of the check."""
    code = (ROOT / f"scripts/server/{module}.py").read_text()
    expect(code.count(check) == 1, f"{module}.py has {check!r} {code.count(check)} times")
    file = f"/release/server/{module}.py"
    lines = f"COPY <<'END_OF_PROGRAM' {file}\n{code.replace(check, replacement)}END_OF_PROGRAM"
    deploy_variant(rehearsal, f"without {name}", settings, lines, f"RUN chmod 644 {file}")


def deploy_variant(rehearsal: Rehearsal, name: str, settings: dict[str, str], *lines: str) -> None:
    """Deploy a release with these additional lines of its Dockerfile; the scenarios take it for the last merge."""
    rehearsal.commits["forward"] = build_variant(rehearsal, name, *lines)
    rehearsal.server.set(**settings, IMAGE_TAG=rehearsal.commits["forward"])
    rehearsal.deploy_by_hand()


def restore_release(rehearsal: Rehearsal, module: str, settings: dict[str, str]) -> None:
    """Deploy the good release again, with this original module in the deploy program; expect that it is live."""
    server, good = rehearsal.server, rehearsal.commits["first"]
    rehearsal.commits["forward"] = good
    if module:
        source = ROOT / f"scripts/server/{module}.py"
        run("docker", "cp", str(source), f"{server.name}:{DIR}/releases/current/server/{module}.py")
    server.set(**settings, IMAGE_TAG=good)
    rehearsal.deploy_by_hand()
    # A mutant may have let services go live that no release contains.
    server.exec("docker ps --all --quiet --filter name=-rehearsal- | xargs --no-run-if-empty docker rm --force")
    rehearsal.expect_only_release(good)
    if not rehearsal.traffic:
        rehearsal.start_traffic()


def find_failure(rehearsal: Rehearsal, scenario: Callable[[Rehearsal], None]) -> str:
    """Run a scenario and describe how it failed, or how many requests failed; empty if it passed."""
    before = rehearsal.count_failed_requests()
    try:
        scenario(rehearsal)
    except MissingRelease:  # which says nothing about the check
        raise
    except Exception as error:
        return describe_error(error).partition("\n")[0][:150]
    time.sleep(SETTLE_SECONDS)
    failed = rehearsal.count_failed_requests() - before
    return f"{describe_count(failed, 'request')} failed" if failed else ""

"""deploy.sh with a guard taken out, one at a time: the scenario that tests the guard must fail."""

from tests.rehearsal.endurance import killed
from tests.rehearsal.faults import (
    bad_migrations,
    bad_releases,
    bad_surroundings,
    cut_off,
    notified,
    odd_releases,
    prunes,
    reboots,
    restores,
    unwritable,
    variant,
)
from tests.rehearsal.images import ROOT, run
from tests.rehearsal.scenarios import FAILURES, Rehearsal, expect, order, wrong_input
from tests.rehearsal.server import DIR
from tests.rehearsal.traffic import Summary

# What is taken out, by which change of deploy.sh, and who must see it.
MUTANTS = (
    ("the lock", "if ! flock --nonblock 9; then", "if false; then", bad_surroundings),
    ("the check of the disk", "((free >= settings[MIN_FREE_MB])) ||", "true ||", wrong_input),
    ("the check of settings", "[[ ${settings[$1]-} =~ ^($2)$ ]] ||", "true ||", wrong_input),
    ("the check of the compose file", "if ! problem=$(compose config", "if ! problem=$(true", wrong_input),
    ("the order of commits", "[[ $ours < $theirs ]] || return 0", "return 0", order),
    ("that the same again is a no-op", "if already_live; then", "if false; then", order),
    ("that changed settings are seen", '| sort)" ]] || return 1', '| sort)" ]] || true', order),
    ("the wait for health", '  wait_until_healthy "${candidate[@]}"\n  step prove', "  step prove", odd_releases),
    ("the wish for a health check", "{{if not .State.Health}}blind", "{{if not .State.Health}}healthy", bad_releases),
    ("the watch", "  watch\n}", "}", bad_releases),
    ("the proof", "answers() { #", "answers() { return 0 #", bad_releases),
    ("the proof before the switch", '  answers "http://front-$id:8080"\n', "", bad_releases),
    ("the reading of deploy.sh", '  bash -n "releases/$tag.new/deploy.sh"\n', "", bad_releases),
    ("the evidence", "    evidence\n", "", bad_releases),
    ("what the candidate leaves", 'remove "${stale[@]}" && point front', "point front", bad_releases),
    ("the migration's limit", "\n  LIMIT=${settings[MIGRATE_SECONDS]} ", "\n  LIMIT=130 ", bad_migrations),
    ("the end of one-shots", "|| docker rm --force", "|| true", bad_migrations),
    ("the backup", "  if has backup; then", "  if false; then", restores),
    ("the question to the schema", "    0) return ;;", "    0 | 4) return ;;", restores),
    ("that it outlives its connection", '>"$log" 2>&1 </dev/null &', '> >(tee "$log") 2>&1 </dev/null &', cut_off),
    ("the limit of NOTIFY_URL", "--max-time 5", "--max-time 150", notified),
    ("what NOTIFY_URL missed", "401 | 403 | 404 | 408 | 429 | [!24]*)", "401)", notified),
    ("what prune keeps", '; rollback_tags "${settings[IMAGE_TAG]}")', ")", prunes),
    ("prune", "prune() { #", "prune() { return 0 #", prunes),
    ("that .env is written last", "  step switch\n", '  write_env "$tag" "$id"\n  step switch\n', reboots),
    ("that .env comes first", '  write_env "$tag" "$id"\n', '  proven=yes; write_env "$tag" "$id"\n', unwritable),
    ("the names", "  keep_names\n", "", prunes),
    ("the pointer at rest", "  point front\n  prune", "  prune", prunes),
    ("repair", 'remove "${stale[@]}" && point front', "point front", killed),
)  # fmt: skip


def mutants(r: Rehearsal) -> None:
    """A guard of deploy.sh is taken out, one at a time: its scenario must fail."""
    clean = (ROOT / "scripts/deploy.sh").read_text()
    good = r.commits["first"]
    r.commits |= {"forward": good, "code": variant(r, "old code", created="2020-01-01T00:00:00Z")}
    names = (
        "API_REPLICAS",
        "API_TOKEN",
        "KEEP_RELEASES",
        "MIGRATE_SECONDS",
        "NOTIFY_URL",
        "NOTIFY_TOKEN",
        "WATCH_SECONDS",
    )
    usual = {name: r.server.setting(name) for name in names} | {"HEALTH_SECONDS": "20"}
    unseen = []
    for what, guard, instead, scenario in MUTANTS:
        if not any(name in what for name in r.chosen):
            continue
        expect(clean.count(guard) == 1, f"deploy.sh has {guard!r} {clean.count(guard)} times")
        changed = clean.replace(guard, instead).replace("\\", "\\\\").replace("$", "\\$")
        lines = f"COPY --chmod=755 <<END_OF_SCRIPT /release/deploy.sh\n{changed}END_OF_SCRIPT"
        r.commits["forward"] = good
        r.commits["forward"] = variant(r, f"without {what}", lines)
        r.server.set(**usual, IMAGE_TAG=r.commits["forward"])
        r.deploy_by_hand()
        before = len(Summary.read(r.traffic.records).records)
        try:
            scenario(r)
            seen = ""
        except FAILURES as error:
            seen = str(error).splitlines()[0][:150]
        failed = Summary(Summary.read(r.traffic.records).records[before:]).failed
        seen = seen or (f"{failed} requests failed" if failed else "")
        print(f"  {what}: {f'seen by {scenario.__name__}: {seen}' if seen else 'NOT SEEN'}", flush=True)
        unseen += [] if seen else [what]
        run("docker", "cp", str(ROOT / "scripts/deploy.sh"), f"{r.server.name}:{DIR}/releases/current/deploy.sh")
        r.server.set(**usual, IMAGE_TAG=good)
        r.deploy_by_hand()
        r.at_rest(good)
    expect(not unseen, f"not seen: {', '.join(unseen)}")

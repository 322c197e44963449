"""Workers and schedulers, next to those of the application itself, under load; no request may fail."""

import json
import time

from tests.rehearsal.edits import WORKER, add_worker
from tests.rehearsal.failures import expect
from tests.rehearsal.rehearsal import Rehearsal
from tests.rehearsal.variants import deploy_and_expect_live, expect_refused

WORKER_NAME, SCHEDULER_NAME = "rehearsal-worker", "rehearsal-scheduler"
CRASH_MESSAGE = "boom: the worker cannot start"


def workers_and_schedulers(rehearsal: Rehearsal) -> None:
    """Workers and schedulers are replaced with the release, and kept by a refusal; never two schedulers at once."""
    unlabelled = add_worker("rehearsal-mailer", WORKER, labelled=False)
    expect_refused(rehearsal, "worker without labels", "uses the release's image: add the labels", unlabelled)
    scheduler = add_worker(SCHEDULER_NAME, WORKER, single=True)
    roles = (add_worker(WORKER_NAME, WORKER), scheduler)
    deploy_and_expect_live(rehearsal, "with a worker and a scheduler", *roles)
    crashes = add_worker(WORKER_NAME, f"raise SystemExit({CRASH_MESSAGE!r})")
    expect_refused(rehearsal, "worker crashes", CRASH_MESSAGE, crashes, scheduler)
    began = int(time.time())
    deploy_and_expect_live(rehearsal, "with another worker and scheduler", *roles)
    for name, order in ((SCHEDULER_NAME, ["die", "start"]), (WORKER_NAME, ["start", "die"])):
        events = read_events(rehearsal, name, began)
        expect(events == order, f"expected the events {order} of {name}, found {events}")
    deploy_and_expect_live(rehearsal, "without workers")


def read_events(rehearsal: Rehearsal, service: str, began: int) -> list[str]:
    """Return what happened to the containers of a service since then, in order: start and die."""
    filters = f"--filter label=com.docker.compose.service={service} --filter event=start --filter event=die"
    command = f"docker events --since {began} --until $(date +%s) {filters} --format '{{{{json .}}}}'"
    return [json.loads(line)["Action"] for line in rehearsal.server.exec(command).splitlines()]

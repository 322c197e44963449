"""Workers and schedulers, next to those of the application itself, under load; no request may fail."""

import json
import time

from tests.rehearsal.edits import WORKER, has_worker
from tests.rehearsal.failures import expect
from tests.rehearsal.rehearsal import Rehearsal
from tests.rehearsal.variants import deploy_and_expect_live, expect_refused

WORKER_NAME, SCHEDULER_NAME = "rehearsal-worker", "rehearsal-scheduler"
LOST_WORKER = "boom: the worker cannot start"


def workers_and_schedulers(rehearsal: Rehearsal) -> None:
    """Workers and schedulers are replaced with the release, a scheduler never runs twice, a refusal keeps them."""
    unlabelled = has_worker("rehearsal-mailer", WORKER, labelled=False)
    expect_refused(rehearsal, "worker without labels", "uses the release's image: add the labels", unlabelled)
    scheduler = has_worker(SCHEDULER_NAME, WORKER, single=True)
    roles = (has_worker(WORKER_NAME, WORKER), scheduler)
    deploy_and_expect_live(rehearsal, "with a worker and a scheduler", *roles)
    crashes = has_worker(WORKER_NAME, f"raise SystemExit({LOST_WORKER!r})")
    expect_refused(rehearsal, "worker crashes", LOST_WORKER, crashes, scheduler)
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

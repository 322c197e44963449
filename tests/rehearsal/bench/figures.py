"""Figures of a benchmark, from the requests that were sent and the containers that run afterwards."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import takewhile
from statistics import median
from typing import NamedTuple

from tests.rehearsal.traffic import Summary, is_failed, lost_and_duplicated

FAILURES = 5  # how many failed requests are kept
HEALTH_CHECKS = 5  # how many of its last health checks Docker keeps for a container


class Container(NamedTuple):
    """A container of the server. `tag` is the commit of its release, empty for proxy, database and the like."""

    name: str
    service: str
    tag: str
    state: str
    restarts: int
    startup_seconds: float | None
    is_task: bool

    @property
    def is_active(self) -> bool:
        """Whether the container has a process, or gets one again by itself."""
        return self.state in ("running", "restarting")


def container(found: dict) -> Container:
    """One container, from what `docker inspect` prints of it."""
    labels = found["Config"]["Labels"] or {}
    repository, _, tag = found["Config"]["Image"].rpartition(":")
    task = labels.get("com.docker.swarm.service.name", "")
    return Container(
        name=found["Name"].removeprefix("/"),
        service=labels.get("com.docker.compose.service") or task.rpartition("_")[2],
        tag=labels.get("quai.tag") or (tag if repository.endswith("/quai") else ""),
        state=found["State"]["Status"],
        restarts=found.get("RestartCount", 0),
        startup_seconds=startup_seconds(found["State"]),
        is_task=bool(task),
    )


def startup_seconds(state: dict) -> float | None:
    """Seconds from the start of a container to the end of its first successful health check.

    None when there was none, when Docker may have dropped it, or when it belongs to the run before a restart.
    """
    checks = (state.get("Health") or {}).get("Log") or []
    failures = len(list(takewhile(lambda check: check["ExitCode"], checks)))
    if failures == len(checks) or (not failures and len(checks) >= HEALTH_CHECKS):
        return None
    end, start = (datetime.fromisoformat(text) for text in (checks[failures]["End"], state["StartedAt"]))
    return round((end - start).total_seconds(), 3) if end > start else None


def seconds_until_switch(steps: dict[str, float]) -> float:
    """Seconds that the steps of a deploy took before its switch. ValueError if it had none."""
    if "switch" not in steps:
        raise ValueError(f"the last deploy in deploys.log had no switch: {steps}")
    return round(sum(steps[name] for name in takewhile(lambda name: name != "switch", steps)), 3)


def only_new_seconds(records: Iterable[dict], mark: dict, until: float) -> float | None:
    """Seconds from the start of a replacement until only the new release answers; None if it never answered."""
    began = mark["began"]
    answers = [(one["at"] + one["seconds"], one["tag"]) for one in records if began <= one["at"] < until]
    first = min((at for at, tag in answers if tag == mark["new"]), default=None)
    last = max((at for at, tag in answers if tag == mark["old"]), default=began)
    return None if first is None else round(max(first, last) - began, 3)


def count(records: Sequence[dict], summary: Summary, stored: Iterable[str]) -> dict:
    """Requests and failures among some records, and writes that were lost or duplicated in the whole run.

    `stored` are the notes in the database, including notes of other runs.
    """
    sent = {record["id"] for record in summary.records}
    acknowledged = summary.acknowledged.get("notes", [])
    lost, duplicated = lost_and_duplicated(acknowledged, (text for text in stored if text in sent))
    failures = [record for record in records if is_failed(record)]
    return {
        "requests": len(records),
        "failed": len(failures),
        "first_failures": failures[:FAILURES],
        "acknowledged": len(acknowledged),
        "lost": len(lost),
        "duplicated": len(duplicated),
        "longest_seconds": max((record["seconds"] for record in records), default=0.0),
    }


def figures(summary: Summary, marks: Sequence[dict], stored: Iterable[str]) -> dict:
    """Figures of good replacements. A mark holds the start and the end of one, and the tags of both releases."""
    untils = [*(mark["began"] for mark in marks[1:]), float("inf")]
    return {
        **count(summary.records, summary, stored),
        "only_new_seconds": [only_new_seconds(summary.records, *pair) for pair in zip(marks, untils, strict=True)],
        "command_seconds": [round(mark["ended"] - mark["began"], 3) for mark in marks],
    }


def incident_figures(summary: Summary, incident: dict, stored: Iterable[str]) -> dict:
    """Figures of an incident: what failed from its start on, and what runs and answers after its end.

    `incident` holds "start" and "end" (epoch seconds; the end is that of the last command), "old", "new",
    "expected" (the tag that should be live), the containers, and the exit code of the last command.
    """
    records = [record for record in summary.records if record["at"] + record["seconds"] >= incident["start"]]
    after = [record for record in records if record["at"] >= incident["end"]]
    old, new = incident["old"], incident["new"]
    return {
        **count(records, summary, stored),
        "answered_by_new": sum(record["tag"] == new for record in records),
        "exit_code": incident["exit_code"],
        "containers": [one._asdict() for one in incident["containers"] if one.tag],
        "running": describe(incident["containers"], after, old, new, incident["expected"]),
    }


def describe(containers: Iterable[Container], records: Sequence[dict], old: str, new: str, expected: str) -> str:
    """What runs and serves, in words: "old release", "new release, crash-looping; 40% of requests fail".

    `records` are the requests after the incident. Containers of a release that should not be there are named;
    stopped tasks of Swarm are its history and are not named.
    """
    names = {old: "old release", new: "new release"}
    present = [one for one in containers if one.tag in names and (one.is_active or not one.is_task)]
    serving = {
        tag: [one for one in present if one.tag == tag and one.service == "api" and one.is_active] for tag in names
    }
    parts = [" and ".join(_release(name, serving[tag]) for tag, name in names.items() if serving[tag]) or "nothing"]
    answering = [name for tag, name in names.items() if any(record["tag"] == tag for record in records)]
    if answering != [name for tag, name in names.items() if serving[tag]]:
        parts.append(f"answers: {' and '.join(answering) or 'none'}")
    if failed := sum(map(is_failed, records)):
        parts.append(f"{max(0.01, failed / len(records)):.0%} of requests fail")
    live = expected if serving[expected] else next((tag for tag in names if serving[tag]), expected)
    if leftovers := [one for one in present if one not in _regular(present, live)]:
        described = (f"{one.name} ({names[one.tag]}, {one.state})" for one in leftovers)
        parts.append(f"left over: {', '.join(described)}")
    return "; ".join(parts)


def _release(name: str, containers: Sequence[Container]) -> str:
    crashing = any(one.restarts or one.state == "restarting" for one in containers)
    return name + (", crash-looping" if crashing else "")


def _regular(containers: Iterable[Container], tag: str) -> list[Container]:
    """One active container of each service of a release: a complete release without replicas."""
    active = [one for one in containers if one.tag == tag and one.is_active and one.service in ("api", "front")]
    return list({one.service: one for one in reversed(active)}.values())


def compare_with_startup(strategy: dict) -> dict | None:
    """Medians of a deploy program against the startup of the container; None if a figure is missing.

    "ratio": until only the new release answers, as a multiple of the startup. "other_seconds": the command without
    the watch and the startup.
    """
    startups = [one for one in strategy.get("startup_seconds", ()) if one is not None]
    answers = [one for one in strategy.get("only_new_seconds", ()) if one is not None]
    if strategy["error"] or not startups or not answers:
        return None
    startup = median(startups)
    return {
        "startup_seconds": round(startup, 3),
        "ratio": round(median(answers) / startup, 2),
        "other_seconds": round(median(strategy["command_seconds"]) - strategy["watch_seconds"] - startup, 2),
    }


def new_bytes(before: dict, after: dict) -> int:
    """Bytes sent when `after` is pushed to a registry that has `before`: the blobs that only `after` names."""
    known = {blob["digest"] for blob in (before["config"], *before["layers"])}
    blobs = {blob["digest"]: blob["size"] for blob in (after["config"], *after["layers"])}
    return sum(bytes_ for digest, bytes_ in blobs.items() if digest not in known)

"""Report a rehearsal: figures per scenario, a table for the terminal, and an HTML page with a timeline."""

import html
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tests.rehearsal import HERE
from tests.rehearsal.traffic import is_acknowledged, is_failed

BIN_SECONDS = 0.1
MAX_LISTED_FAILURES = 200  # failed requests in the list; the counts include all
SHORT_TAG = 7  # characters
WENT_LIVE = ("live", "rollback", "rolled_back")  # outcomes in deploys.log; version 1 writes the last one
NOT_COUNTED = "not counted"
NEUTRAL_CELLS = ("0", "-", "", NOT_COUNTED)  # not highlighted


def add_figures(run: dict, records: Sequence[dict]) -> dict:
    """Return a copy of the run with `figures` of all requests, and of the requests of each scenario."""

    def figures(sent: Sequence[dict]) -> dict:
        return {
            "requests": len(sent),
            "failed": sum(map(is_failed, sent)),
            "acknowledged": sum(map(is_acknowledged, sent)),
            "longest_ms": round(max((record["seconds"] for record in sent), default=0) * 1000),
            "late_ms": round(max((record.get("late", 0) for record in sent), default=0) * 1000),
        }

    scenarios = [
        scenario
        | {"figures": figures([one for one in records if scenario["started"] <= one["at"] < scenario["ended"]])}
        for scenario in run["scenarios"]
    ]
    return run | {"figures": figures(records), "scenarios": scenarios}


def count_replacements(deploys: Sequence[dict]) -> int:
    """Return how many deploys of deploys.log replaced a release: all that went live, without the first."""
    return max(0, sum(deploy["outcome"] in WENT_LIVE for deploy in deploys) - 1)


def last_deploy_seconds(steps: Sequence[dict]) -> float | None:
    """Return the seconds of the last complete deploy, from `repair` to `live` or `refused`; None without one."""
    ends = [step["at"] for step in steps if step["name"] in ("live", "refused")]
    starts = [step["at"] for step in steps if step["name"] == "repair" and ends and step["at"] <= ends[-1]]
    return ends[-1] - starts[-1] if starts else None


def describe_count(number: int, noun: str) -> str:
    """Return "1 deploy" or "2 deploys"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def build_bins(run: dict, records: Sequence[dict]) -> dict:
    """Return columns with one value per 100 ms of the run; durations are in milliseconds.

    A request counts in the bin in which it was sent. The p99 covers one second around its bin, since a bin
    has too few requests. The counts of a release start at bin `first`.
    """
    index = [max(0, int((record["at"] - run["started"]) / BIN_SECONDS)) for record in records]
    length = max([int((run["ended"] - run["started"]) / BIN_SECONDS), *index]) + 1
    untagged, failed, longest, p99 = ([0] * length for _ in range(4))
    durations: list[list[int]] = [[] for _ in range(length)]
    tags: dict[str, Counter] = {}
    for position, record in sorted(zip(index, records, strict=True), key=lambda pair: pair[1]["at"]):
        durations[position].append(math.ceil(record["seconds"] * 1000))
        if is_failed(record):
            failed[position] += 1
        elif record["tag"]:
            tags.setdefault(record["tag"], Counter())[position] += 1
        else:
            untagged[position] += 1
    for position, in_bin in enumerate(durations):
        if in_bin:
            longest[position] = max(in_bin)
            in_second = sorted(ms for near in durations[max(0, position - 5) : position + 5] for ms in near)
            p99[position] = in_second[math.ceil(len(in_second) * 0.99) - 1]
    releases = [
        {"tag": tag, "first": min(counts), "counts": [counts[i] for i in range(min(counts), max(counts) + 1)]}
        for tag, counts in tags.items()
    ]
    columns = {"failed": failed, "untagged": untagged, "releases": releases, "max_ms": longest, "p99_ms": p99}
    return {"seconds": BIN_SECONDS, **columns}


def has_passed(run: dict) -> bool:
    """Return whether every scenario passed, and nothing failed, was lost or duplicated, or violates an invariant."""
    figures, passed = run["figures"], all(scenario["passed"] for scenario in run["scenarios"])
    problems = figures["failed"] or run["lost"] or run["duplicated"] or run["violations"]
    return bool(figures["requests"] and passed and not problems)


def write_report(run: dict, records: Sequence[dict], folder: Path) -> None:
    """Write report.json and the self-contained report.html into the folder; create it if it is missing."""
    run = add_figures(run, records)
    failures = [record for record in records if is_failed(record)]
    report = {
        "passed": has_passed(run),
        "run": run,
        "failures": failures[:MAX_LISTED_FAILURES],
        "bins": build_bins(run, records),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report, separators=(",", ":")))
    (folder / "report.html").write_text(render_page(report), encoding="utf-8")


def describe_result(scenario: dict) -> str:
    """Return "passed", "FAILED" or "not applicable"."""
    if not scenario["passed"]:
        return "FAILED"
    return "not applicable" if scenario.get("not_applicable") else "passed"


def build_table(run: dict) -> list[list[str]]:
    """Return the headings, a row per scenario and the total; a dash stands for an unknown value."""

    def row(name: str, result: str, entry: dict, *more: object) -> list[str]:
        figures = entry.get("figures", {})
        counts = [figures.get(key) for key in ("requests", "failed", "acknowledged")]
        values = [*counts, entry.get("lost"), entry.get("duplicated"), figures.get("longest_ms"), *more]
        cells = ["-" if value is None else f"{value:,}" if isinstance(value, int) else str(value) for value in values]
        return [name, result, *cells]

    headings = ["scenario", "result", "requests", "failed", "acknowledged", "lost", "duplicated"]
    headings += ["longest (ms)", "last deploy (s)", "live at the end"]
    rows = [headings]
    for scenario in run["scenarios"]:
        seconds = None if scenario["deploy_seconds"] is None else f"{scenario['deploy_seconds']:.1f}"
        result = describe_result(scenario)
        rows.append(row(scenario["name"], result, scenario, seconds, (scenario["live_after"] or "-")[:SHORT_TAG]))
    total = "passed" if all(scenario["passed"] for scenario in run["scenarios"]) else "FAILED"
    not_counted = {name: NOT_COUNTED for name in ("lost", "duplicated") if run[name] is None}
    return [*rows, row("total", total, run | not_counted, "", "")]


def print_table(run: dict) -> None:
    """Print the table; without `add_figures`, it has no counts of requests."""
    rows = build_table(run)
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        padded = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        if coloured and number:
            colour = {"passed": 32, "FAILED": 31}.get(row[1], 33)
            padded[1] = f"\033[{colour}m{padded[1]}\033[0m"
            for column in (3, 5, 6):
                if row[column] not in NEUTRAL_CELLS:
                    padded[column] = f"\033[1;31m{padded[column]}\033[0m"
        print("  ".join(padded).rstrip())
        if 0 < number <= len(run["scenarios"]) and run["scenarios"][number - 1]["error"]:
            print(f"  {run['scenarios'][number - 1]['error']}")


def build_verdict(run: dict) -> str:
    """Return the result of a run with figures as one sentence."""
    figures = run["figures"]
    failed_names = [scenario["name"] for scenario in run["scenarios"] if not scenario["passed"]]
    result = "Passed" if has_passed(run) else "Failed"
    return (
        f"{result}: {figures['failed']:,} of {figures['requests']:,} requests failed, "
        f"{describe_writes(run)}, during {describe_count(run['replacements'], 'release replacement')}."
        + (f" Violated invariants: {', '.join(run['violations'])}." if run["violations"] else "")
        + (f" Failed scenarios: {', '.join(failed_names)}." if failed_names else "")
    )


def describe_writes(run: dict) -> str:
    """Return how many of the acknowledged writes were lost and duplicated, in a run with figures."""
    acknowledged = run["figures"]["acknowledged"]
    if run["lost"] is None:
        return f"{f'the {acknowledged:,} acknowledged ' if acknowledged else ''}writes were {NOT_COUNTED}"
    return f"{run['lost']:,} of {acknowledged:,} acknowledged writes were lost, {run['duplicated']:,} duplicated"


def render_page(report: dict) -> str:
    """Return the HTML page; without JavaScript only the timeline is missing."""
    run = report["run"]
    started = datetime.fromtimestamp(run["started"], UTC).strftime("%Y-%m-%d %H:%M UTC")
    minutes, seconds = divmod(round(run["ended"] - run["started"]), 60)
    facts = [started, f"{minutes} min {seconds} s", run["machine"]]
    facts += [f"longest delay before a request was sent: {run['figures']['late_ms']} ms"]
    facts += ["base images: stand-ins" if run["stand_ins"] else "base images: from the registry"]
    headings, *rows = build_table(run)
    body = []
    for number, row in enumerate(rows):
        name, result, *cells = map(html.escape, row)
        if number < len(run["scenarios"]):
            error = html.escape(run["scenarios"][number]["error"] or "")
            name = f'<button type="button" data-scenario="{number}">{name}</button>'
            name += f'<p class="error">{error}</p>' if error else ""
        classes = ["bad" if i in (1, 3, 4) and cell not in NEUTRAL_CELLS else "" for i, cell in enumerate(cells)]
        cells = [f'<td class="{c}">{cell}</td>' for c, cell in zip(classes, cells, strict=True)]
        body.append(f'<tr><th scope="row">{name}</th><td class="{result}">{result}</td>{"".join(cells)}</tr>')
    failures = [
        f'<li class="failure"><b>{record["at"] - run["started"]:.1f} s</b> {record["method"]} '
        f"{html.escape(record['path'])}: {html.escape(record['error'] or str(record['status']))}</li>"
        for record in report["failures"]
    ]
    unlisted = run["figures"]["failed"] - len(failures)
    failures += [f'<li class="failure">and {unlisted:,} more</li>'] if unlisted > 0 else []
    parts = {
        "<!--result-->": "good" if report["passed"] else "bad",
        "<!--verdict-->": html.escape(build_verdict(run)),
        "<!--facts-->": "".join(f"<li>{html.escape(fact)}</li>" for fact in facts),
        "<!--headings-->": "".join(f'<th scope="col">{heading}</th>' for heading in headings),
        "<!--rows-->": "\n".join(body),
        "<!--failures-->": "\n".join(failures) or "<li>None</li>",
        # An escaped "<" cannot end the script element. Replaced last, so that no marker is replaced in its text.
        "/*report*/ null": json.dumps(report, separators=(",", ":")).replace("<", "\\u003c"),
    }
    text = (HERE / "report_template.html").read_text(encoding="utf-8")
    text = text.replace("/*script*/", (HERE / "report.js").read_text(encoding="utf-8"))
    for marker, part in parts.items():
        text = text.replace(marker, part)
    return text

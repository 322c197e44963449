"""The report of a rehearsal: figures per scenario, a table for the terminal, a page with a timeline."""

import html
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from .traffic import is_failed

BIN = 0.1  # seconds
MOST_FAILURES = 200  # told one by one; all of them are counted
SHORT = 7  # characters of a tag that are shown
HARMLESS = ("0", "-", "")


def add_figures(run: dict, records: Sequence[dict]) -> dict:
    """A copy of the run with `figures` for it and for each scenario, from the requests sent during it."""

    def figures(of: Sequence[dict]) -> dict:
        return {
            "requests": len(of),
            "failed": sum(map(is_failed, of)),
            "acknowledged": sum(record["method"] == "POST" and record["status"] == 201 for record in of),
            "longest_ms": round(max((record["seconds"] for record in of), default=0) * 1000),
            "late_ms": round(max((record.get("late", 0) for record in of), default=0) * 1000),
        }

    scenarios = [
        scenario | {"figures": figures([r for r in records if scenario["started"] <= r["at"] < scenario["ended"]])}
        for scenario in run["scenarios"]
    ]
    return run | {"figures": figures(records), "scenarios": scenarios}


def bins_of(run: dict, records: Sequence[dict]) -> dict:
    """Columns of one value per 100 ms since the start of the run; durations in milliseconds.

    A request belongs to the moment when it was sent. The p99 is over the second around its bin: at a few
    requests per bin it would else be the maximum. A release's counts begin at bin `first`.
    """
    index = [max(0, int((record["at"] - run["started"]) / BIN)) for record in records]
    length = max([int((run["ended"] - run["started"]) / BIN), *index]) + 1
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
    for position, own in enumerate(durations):
        if own:
            longest[position] = max(own)
            around = sorted(ms for near in durations[max(0, position - 5) : position + 5] for ms in near)
            p99[position] = around[math.ceil(len(around) * 0.99) - 1]
    releases = [
        {"tag": tag, "first": min(counts), "counts": [counts[i] for i in range(min(counts), max(counts) + 1)]}
        for tag, counts in tags.items()
    ]
    columns = {"failed": failed, "untagged": untagged, "releases": releases, "max_ms": longest, "p99_ms": p99}
    return {"seconds": BIN, **columns}


def is_good(run: dict) -> bool:
    """Whether a run with figures keeps the promise: traffic, no failure, nothing lost, all passed."""
    figures, passed = run["figures"], all(scenario["passed"] for scenario in run["scenarios"])
    return bool(figures["requests"] and passed and not (figures["failed"] or run["lost"] or run["doubled"]))


def write_report(run: dict, records: Sequence[dict], folder: Path) -> None:
    """Write report.json and the self-contained report.html into the folder, which is made when absent."""
    run = add_figures(run, records)
    failures = [record for record in records if is_failed(record)]
    report = {
        "good": is_good(run),
        "run": run,
        "failures": failures[:MOST_FAILURES],
        "bins": bins_of(run, records),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report, separators=(",", ":")))
    (folder / "report.html").write_text(page(report), encoding="utf-8")


def table_of(run: dict) -> list[list[str]]:
    """A row per scenario, headings first and the whole run last; a dash for what is not known."""

    def row(name: str, result: str, of: dict, *more: object) -> list[str]:
        figures = of.get("figures", {})
        counts = [figures.get(key) for key in ("requests", "failed", "acknowledged")]
        cells = [*counts, of.get("lost"), of.get("doubled"), figures.get("longest_ms"), *more]
        return [
            name,
            result,
            *("-" if c is None else f"{c:,}" if isinstance(c, int) else str(c) for c in cells),
        ]

    heads = ["scenario", "result", "requests", "failed", "acknowledged", "lost", "doubled"]
    heads += ["longest/ms", "deploy/s", "live"]
    rows = [heads]
    for one in run["scenarios"]:
        seconds = None if one["deploy_seconds"] is None else f"{one['deploy_seconds']:.1f}"
        result = "passed" if one["passed"] else "FAILED"
        rows.append(row(one["name"], result, one, seconds, (one["live_after"] or "-")[:SHORT]))
    whole = "passed" if all(one["passed"] for one in run["scenarios"]) else "FAILED"
    return [*rows, row("whole run", whole, run, "", "")]


def print_table(run: dict) -> None:
    """Print the table; the counts of requests need a run that `add_figures` returned."""
    rows = table_of(run)
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        words = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        if coloured and number:
            words[1] = f"\033[{32 if row[1] == 'passed' else 31}m{words[1]}\033[0m"
            for column in (3, 5, 6):
                if row[column] not in HARMLESS:
                    words[column] = f"\033[1;31m{words[column]}\033[0m"
        print("  ".join(words).rstrip())
        if 0 < number <= len(run["scenarios"]) and run["scenarios"][number - 1]["error"]:
            print(f"  {run['scenarios'][number - 1]['error']}")


def verdict(run: dict) -> str:
    """One line that says how it went."""
    figures = run["figures"]
    unhappy = [scenario["name"] for scenario in run["scenarios"] if not scenario["passed"]]
    return (
        f"{figures['failed'] or 'None'} of {figures['requests']:,} requests failed in {run['replacements']} "
        f"replacements; {figures['acknowledged']:,} acknowledged writes, {run['lost'] or 'none'} lost, "
        f"{run['doubled'] or 'none'} doubled" + (f"; not passed: {', '.join(unhappy)}." if unhappy else ".")
    )


def page(report: dict) -> str:
    """The whole page; without JavaScript the timeline alone is missing."""
    run = report["run"]
    begun = datetime.fromtimestamp(run["started"], UTC).strftime("%Y-%m-%d %H:%M UTC")
    minutes, seconds = divmod(round(run["ended"] - run["started"]), 60)
    facts = [begun, f"{minutes} min {seconds} s", run["machine"]]
    facts += [f"most a request was sent late: {run['figures']['late_ms']} ms"]
    facts += ["base images: stand-ins" if run["stand_ins"] else "base images: from the registry"]
    heads, *rows = table_of(run)
    body = []
    for number, row in enumerate(rows):
        name, result, *cells = map(html.escape, row)
        if number < len(run["scenarios"]):
            error = html.escape(run["scenarios"][number]["error"] or "")
            name = f'<button type="button" data-scenario="{number}">{name}</button>'
            name += f'<p class="error">{error}</p>' if error else ""
        classes = ["bad" if i in (1, 3, 4) and cell not in HARMLESS else "" for i, cell in enumerate(cells)]
        cells = [f'<td class="{c}">{cell}</td>' for c, cell in zip(classes, cells, strict=True)]
        body.append(f'<tr><th scope="row">{name}</th><td class="{result}">{result}</td>{"".join(cells)}</tr>')
    failures = [
        f'<li class="failure"><b>{record["at"] - run["started"]:.1f} s</b> {record["method"]} '
        f"{html.escape(record['path'])}: {html.escape(record['error'] or str(record['status']))}</li>"
        for record in report["failures"]
    ]
    more = run["figures"]["failed"] - len(failures)
    failures += [f'<li class="failure">and {more:,} more</li>'] if more > 0 else []
    parts = {
        "<!--mood-->": "good" if report["good"] else "bad",
        "<!--verdict-->": html.escape(verdict(run)),
        "<!--facts-->": "".join(f"<li>{html.escape(fact)}</li>" for fact in facts),
        "<!--heads-->": "".join(f'<th scope="col">{head}</th>' for head in heads),
        "<!--rows-->": "\n".join(body),
        "<!--failures-->": "\n".join(failures) or "<li>None.</li>",
        # "<" cannot end the script element when it is escaped; last, so that no text above is replaced in it.
        "/*report*/ null": json.dumps(report, separators=(",", ":")).replace("<", "\\u003c"),
    }
    text = Path(__file__).with_name("report_template.html").read_text(encoding="utf-8")
    for marker, part in parts.items():
        text = text.replace(marker, part)
    return text

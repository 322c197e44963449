"""The figures of a comparison, from what the traffic met; and its tables."""

import re
from collections.abc import Iterable, Sequence

from .traffic import Summary, lost_and_duplicated

MARKERS = ("<!-- bench -->", "<!-- /bench -->")
WAY_HEADS = ("way to replace the container", "failed / requests", "writes lost", "writes doubled")
WAY_HEADS += ("longest request", "only the new one answers after", "the command takes")
REPLICA_HEADS = ("replicas", "deploy takes", "rollback takes", "only the new ones answer after", "failed / requests")


def only_new_seconds(records: Iterable[dict], mark: dict, until: float) -> float | None:
    """Seconds from the start of a replacement until each answer is the new one's; None when it never answered."""
    began = mark["began"]
    answers = [(r["at"] + r["seconds"], r["tag"]) for r in records if began <= r["at"] < until]
    first = min((at for at, tag in answers if tag == mark["new"]), default=None)
    last = max((at for at, tag in answers if tag == mark["old"]), default=began)
    return None if first is None else round(max(first, last) - began, 3)


def figures(summary: Summary, marks: Sequence[dict], stored: Iterable[str]) -> dict:
    """What the replacements did to the traffic: a mark tells when one began and ended, and both tags."""
    lost, doubled = lost_and_duplicated(summary.acknowledged, stored)
    untils = [*(mark["began"] for mark in marks[1:]), float("inf")]
    return {
        "requests": summary.requests,
        "failed": summary.failed,
        "acknowledged": len(summary.acknowledged),
        "lost": len(lost),
        "doubled": len(doubled),
        "longest_seconds": summary.longest,
        "only_new_seconds": [only_new_seconds(summary.records, *pair) for pair in zip(marks, untils, strict=True)],
        "command_seconds": [round(mark["ended"] - mark["began"], 3) for mark in marks],
    }


def new_bytes(before: dict, after: dict) -> int:
    """Bytes that pushing an image sends when its registry has another: the blobs that only its manifest names."""
    had = {blob["digest"] for blob in (before["config"], *before["layers"])}
    return sum({b["digest"]: b["size"] for b in (after["config"], *after["layers"]) if b["digest"] not in had}.values())


def span(values: Iterable[float | None]) -> str:
    """Seconds, from the least to the most."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    least, most = f"{min(known):.1f}", f"{max(known):.1f}"
    return f"{least} s" if least == most else f"{least} to {most} s"


def size(count: int) -> str:
    """A number of bytes, in the unit that suits."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def way_table(result: dict) -> list[list[str]]:
    """A row per way, headings first."""
    rows = [list(WAY_HEADS)]
    for way in result["ways"]:
        if way["error"]:
            rows.append([way["what"], f"not measured: {way['error']}", *[""] * (len(WAY_HEADS) - 2)])
            continue
        cells = [f"{way['failed']:,} / {way['requests']:,}", f"{way['lost']:,}", f"{way['doubled']:,}"]
        cells += [f"{way['longest_seconds']:.2f} s", span(way["only_new_seconds"]), span(way["command_seconds"])]
        rows.append([way["what"], *cells])
    return rows


def replica_table(result: dict) -> list[list[str]]:
    """A row per number of replicas, headings first."""
    rows = [list(REPLICA_HEADS)]
    for one in result["replicas"]:
        if one["error"]:
            rows.append([str(one["replicas"]), f"not measured: {one['error']}", *[""] * (len(REPLICA_HEADS) - 2)])
            continue
        cells = [f"{seconds:.1f} s" for seconds in one["command_seconds"]]
        cells += [span(one["only_new_seconds"]), f"{one['failed']:,} / {one['requests']:,}"]
        rows.append([str(one["replicas"]), *cells])
    return rows


def load_table(rows: Iterable[dict]) -> list[list[str]]:
    """A row per step of a request's way, headings first."""
    heads = ["over kept connections", "requests a second", "half of them within", "99% within"]
    cells = [[row["what"], f"{row['rate']:,.0f}", f"{row['p50_ms']:.1f} ms", f"{row['p99_ms']:.1f} ms"] for row in rows]
    return [heads, *cells]


def table_text(rows: Sequence[Sequence[str]]) -> str:
    """An aligned table for the terminal; what was not measured says why at the end of its line."""
    measured = [row for row in rows if any(row[2:])]
    widths = [max(map(len, column)) for column in zip(*measured, strict=True)]
    widths[0] = max(len(row[0]) for row in rows)
    lines = []
    for first, *cells in rows:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *(padded if any(cells[1:]) else cells)]).rstrip())
    return "\n".join(lines)


def markdown(result: dict, picture: str) -> str:
    """What README.md says of it."""

    def table(rows: list[list[str]]) -> str:
        heads, *body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        return "\n".join([heads, "|---" + "|--:" * (len(rows[0]) - 1) + "|", *body])

    added = result["image_bytes"] - result["base_bytes"]
    bases = ", stand-ins for the base images" if result["stand_ins"] else ""
    return f"""![Failed requests and seconds, by way of replacing the container]({picture})

{table(way_table(result))}

{result["replacements"]} times each, on one server ({result["machine"]}{bases}), with
{result["rate"]:g} requests a second that are never sent twice; a fifth of them are writes, counted afterwards in the
database. Each way finds both images on the server. The command of `deploy.sh` includes its checks, and the seconds for
which it watches the new release (`WATCH_SECONDS`).

{table(replica_table(result))}

A change of one line of code sends {size(result["code_change_bytes"])}, compressed, to the registry. The image has
{size(result["image_bytes"])} uncompressed, {size(added)} more than its base of {size(result["base_bytes"])}.

Measured on {result["date"]} by `{result["command"]}`.
"""


def put_into(readme: str, text: str) -> str:
    """README.md with this text between the markers; ValueError without them."""
    pattern = re.compile(f"({MARKERS[0]}\n).*?({MARKERS[1]})", re.DOTALL)
    if len(pattern.findall(readme)) != 1:
        raise ValueError(f"README.md must hold one pair of {MARKERS[0]} and {MARKERS[1]}, each on a line of its own")
    return pattern.sub(lambda found: f"{found[1]}{text}{found[2]}", readme)

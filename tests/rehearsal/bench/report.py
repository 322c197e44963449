"""Tables of a benchmark, for the terminal and for docs/benchmarks.md."""

import re
from collections.abc import Callable, Iterable, Sequence

from tests.rehearsal.bench.figures import compare_with_startup
from tests.rehearsal.report import describe_count

MARKERS = ("<!-- bench -->", "<!-- /bench -->")
TEXT_COLUMN = "running afterwards"  # aligned to the left; the others hold numbers
REQUEST_HEADS = ("failed / requests", "writes lost", "writes duplicated", "longest request")
GOOD_HEADS = ("strategy", *REQUEST_HEADS, "until only the new release answers", "command duration")
CRASH_HEADS = ("strategy", "answered by the new release", *REQUEST_HEADS, TEXT_COLUMN)
KILL_HEADS = ("strategy", "killed after", *REQUEST_HEADS, TEXT_COLUMN)
REPLICA_HEADS = ("replicas", "deploy takes", "rollback takes", "until only the new release answers")
REPLICA_HEADS += ("slowest startup", "failed / requests")
STARTUP_HEADS = (
    "strategy",
    "startup of the container",
    "until only the new release answers",
    "the rest of the command",
)

Rows = list[list[str]]


def span(values: Iterable[float | None]) -> str:
    """Seconds, from the shortest to the longest."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    shortest, longest = f"{min(known):.1f}", f"{max(known):.1f}"
    return f"{shortest} s" if shortest == longest else f"{shortest} to {longest} s"


def size(count: int) -> str:
    """A number of bytes, in kB or MB."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def failed(figures: dict) -> str:
    """Failed requests and all requests."""
    return f"{figures['failed']:,} / {figures['requests']:,}"


def requests(figures: dict) -> list[str]:
    """The cells of REQUEST_HEADS."""
    return [
        failed(figures),
        f"{figures['lost']:,}",
        f"{figures['duplicated']:,}",
        f"{figures['longest_seconds']:.2f} s",
    ]


def table(heads: Sequence[str], measured: Iterable[tuple[str, dict]], cells: Callable[[dict], list[str]]) -> Rows:
    """Rows of a label and its figures, headings first. A row without figures says why."""
    rows = [list(heads)]
    for label, figures in measured:
        if figures["error"]:
            rows.append([label, f"not measured: {figures['error']}", *[""] * (len(heads) - 2)])
        else:
            rows.append([label, *cells(figures)])
    return rows


def good_table(result: dict) -> Rows:
    """Good releases: a row per strategy."""

    def cells(one: dict) -> list[str]:
        return [*requests(one), span(one["only_new_seconds"]), span(one["command_seconds"])]

    return table(GOOD_HEADS, ((one["label"], one) for one in result["strategies"]), cells)


def crash_table(result: dict) -> Rows:
    """A release that crashes: a row per strategy."""

    def cells(one: dict) -> list[str]:
        return [f"{one['answered_by_new']:,}", *requests(one), running(one)]

    return table(CRASH_HEADS, ((one["label"], one["crash"]) for one in result["strategies"]), cells)


def kill_table(result: dict) -> Rows:
    """A deploy that is killed and repeated: a row per strategy."""

    def cells(one: dict) -> list[str]:
        return [f"{one['killed_after_seconds']:.1f} s", *requests(one), running(one, "the second command")]

    return table(KILL_HEADS, ((one["label"], one["kill"]) for one in result["strategies"]), cells)


def running(figures: dict, command: str = "") -> str:
    """What runs afterwards, the state of the update in Swarm, and the failure of a command that should succeed."""
    parts = [figures["running"]]
    if figures["update_status"]:
        parts.append(f"update: {figures['update_status'].replace('_', ' ')}")
    if command and figures["exit_code"]:
        parts.append(f"{command} failed")
    return "; ".join(parts)


def replica_table(result: dict) -> Rows:
    """A row per number of replicas."""

    def cells(one: dict) -> list[str]:
        takes = [f"{seconds:.1f} s" for seconds in one["command_seconds"]]
        return [*takes, span(one["only_new_seconds"]), slowest_startup(one), failed(one)]

    labels = (f"{one['replicas']}{', version 1' if one['strategy'] == 'v1' else ''}" for one in result["replicas"])
    return table(REPLICA_HEADS, zip(labels, result["replicas"], strict=True), cells)


def slowest_startup(figures: dict) -> str:
    """The startup of the container that took longest: all start at the same time, and share the processors."""
    known = [seconds for seconds in figures.get("startup_seconds", ()) if seconds is not None]
    return f"{max(known):.1f} s" if known else "-"


def startup_table(result: dict) -> Rows:
    """A row per deploy program: its times against the startup of the container. Only headings if there is none."""
    rows = [list(STARTUP_HEADS)]
    for one in result["strategies"]:
        if one["name"] in ("v1", "this") and (compared := compare_with_startup(one)):
            seconds = [f"{compared[name]:.1f} s" for name in ("startup_seconds", "other_seconds")]
            rows.append([one["label"], seconds[0], f"{compared['ratio']:.1f} times the startup", seconds[1]])
    return rows


def replica_ratios(result: dict) -> list[str]:
    """A sentence per deploy program: the most replicas against the fewest."""
    sentences = []
    for label in dict.fromkeys(one["label"] for one in result["replicas"]):
        measured = [one for one in result["replicas"] if one["label"] == label and not one["error"]]
        fewest, most = (pick(measured, key=lambda one: one["replicas"], default=None) for pick in (min, max))
        if measured and fewest["replicas"] < most["replicas"]:
            ratio = most["command_seconds"][0] / fewest["command_seconds"][0]
            sentences.append(
                f"A deploy of {most['replicas']} replicas by {label} takes {ratio:.1f} times as long as with "
                f"{describe_count(fewest['replicas'], 'replica')}."
            )
    return sentences


def load_table(rows: Iterable[dict]) -> Rows:
    """A row per step of a request's path."""
    cells = [[row["what"], f"{row['rate']:,.0f}", f"{row['p50_ms']:.0f} ms", f"{row['p99_ms']:.0f} ms"] for row in rows]
    return [["", "requests/s", "p50", "p99"], *cells]


def table_text(rows: Rows) -> str:
    """An aligned table for the terminal. A row that was not measured ends with the reason."""
    measured = [row for row in rows if any(row[2:])]
    widths = [max(map(len, column)) for column in zip(*measured, strict=True)]
    widths[0] = max(len(row[0]) for row in rows)
    is_text = [number == 0 or head == TEXT_COLUMN for number, head in enumerate(rows[0])]
    lines = []
    for row in rows:
        if any(row[2:]):
            cells = [
                cell.ljust(width) if text else cell.rjust(width)
                for cell, width, text in zip(row, widths, is_text, strict=True)
            ]
        else:
            cells = [row[0].ljust(widths[0]), row[1]]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def table_markdown(rows: Rows) -> str:
    """A table for a page."""
    heads, *body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    rules = ["---" if number == 0 or head == TEXT_COLUMN else "--:" for number, head in enumerate(rows[0])]
    return "\n".join([heads, "|" + "|".join(rules) + "|", *body])


def paragraph(text: str, width: int = 120) -> str:
    """The words of a text in lines of at most `width` characters; code in backticks is not broken."""
    lines = [""]
    for word in re.findall(r"(?:`[^`]*`|[^\s`])+", text):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def terminal(result: dict) -> str:
    """All tables and their titles."""
    parts = {
        "A good release:": good_table(result),
        f"A release that crashes after {result['crash_seconds']} s:": crash_table(result),
        f"A deploy that is killed half-way, and repeated after {result['pause_seconds']} s:": kill_table(result),
        "Compared with the startup of the container (medians):": startup_table(result),
        "Replicas:": replica_table(result),
    }
    blocks = [f"{title}\n{table_text(rows)}" for title, rows in parts.items() if len(rows) > 1]
    return "\n\n".join([*blocks, *replica_ratios(result)])


def markdown(result: dict, picture: str) -> str:
    """The generated part of docs/benchmarks.md."""
    bases = ", stand-ins for the base images" if result["stand_ins"] else ""
    runs = "1 run" if result["replacements"] == 1 else f"{result['replacements']} runs"
    added = result["image_bytes"] - result["base_bytes"]
    crash, pause, windows = result["crash_seconds"], result["pause_seconds"], result["window_seconds"]
    blocks = [
        f"![Failed requests and seconds, by deployment strategy]({picture})",
        table_markdown(good_table(result)),
        paragraph(
            f"{runs} each on one server ({result['machine']}{bases}), at {result['rate']:g} requests/s without "
            "retries; one request in five is a write, counted afterwards in the database. Both images are already on "
            "the server. The time of `deploy.sh` includes its checks and the watch (`WATCH_SECONDS`)."
        ),
        "**A release that crashes.**\n"
        + paragraph(
            f"It becomes healthy and serves; {crash} s after its first answer its process is killed, and again "
            f"after each restart. Requests are counted from the start of the deploy until {windows['crash']} s after "
            "its end. Two requests in five ask for `/version`; if the new release answered none of these, it crashed "
            "before the strategy sent it requests. A write in a process that is killed cannot be saved by any strategy."
        ),
        table_markdown(crash_table(result)),
        "**A deploy that is killed half-way and repeated.**\n"
        + paragraph(
            "All its processes get SIGKILL after half of its median time (`deploy.sh`: half of the time until the "
            f"switch), and the same command runs again {pause} s later. Requests are counted from the kill until "
            f"{windows['kill']} s after the end of the second command."
        ),
        table_markdown(kill_table(result)),
    ]
    if len(startup := startup_table(result)) > 1:
        blocks += [
            "**Compared with the startup of the container.**\n"
            + paragraph(
                "The startup is the time from the start of the container until its first successful health check. The "
                "rest of the command is its time without the startup and the watch (`WATCH_SECONDS`). Medians of the "
                "runs above."
            ),
            table_markdown(startup),
        ]
    if result["replicas"]:
        blocks += ["**Replicas.** " + " ".join(replica_ratios(result)), table_markdown(replica_table(result))]
    blocks += [
        paragraph(
            f"After a change of one line of code, {size(result['code_change_bytes'])} (compressed) are pushed to the "
            f"registry. The image is {size(result['image_bytes'])} uncompressed, {size(added)} more than its base of "
            f"{size(result['base_bytes'])}."
        ),
        f"Measured on {result['date']} by `{result['command']}`.",
    ]
    return "\n\n".join(block.strip() for block in blocks) + "\n"


def insert(page: str, text: str) -> str:
    """The page with this text between the markers. ValueError without exactly one pair of them."""
    pattern = re.compile(f"({MARKERS[0]}\n).*?({MARKERS[1]})", re.DOTALL)
    if len(pattern.findall(page)) != 1:
        raise ValueError(
            f"docs/benchmarks.md must have one pair of {MARKERS[0]} and {MARKERS[1]}, each on its own line"
        )
    return pattern.sub(lambda found: f"{found[1]}{text}{found[2]}", page)

"""The picture of a benchmark: a self-contained SVG with its own background."""

from collections.abc import Callable, Sequence
from html import escape

from tests.rehearsal.bench.report import size, span

WIDTH, LEFT, ROW = 1060, 28, 42  # pixels
COLUMNS, BAR = (356, 531, 706, 881), 62  # where the columns of bars begin, and their longest bar
HEADS, ROWS = 108, 120  # where the headings and the bars begin
CHART = 150  # height of the line chart
FACTS = 560  # where the facts next to the line chart begin
TEXT_COLOUR, MUTED_COLOUR, GRID_COLOUR = "#1f2328", "#59636e", "#d8dee4"
FAILURE_COLOUR, HIGHLIGHT_COLOUR, NEUTRAL_COLOUR = "#cf4a3c", "#1a7f5a", "#9aa5b1"
FONT = "-apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"


def text(x: float, y: float, words: str, colour: str = TEXT_COLOUR, **attributes: str) -> str:
    """A line of text."""
    more = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return f'<text x="{x:g}" y="{y:g}" fill="{colour}"{more}>{escape(words.replace("`", ""))}</text>'


def rectangle(x: float, y: float, width: float, height: float, colour: str) -> str:
    """A bar."""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:.1f}" height="{height:g}" rx="2" fill="{colour}"/>'


def weight(strategy: dict) -> str:
    """The font weight of a strategy: bold for deploy.sh."""
    return "600" if strategy["name"] == "this" else "400"


def bars(
    x: float, colour: str, strategies: Sequence[dict], part: Callable, value: Callable, label: Callable
) -> list[str]:
    """A column of bars with labels, one for each strategy whose `part` was measured, and what runs afterwards."""
    maximum = max((value(part(one)) for one in strategies if not part(one)["error"]), default=0) or 1
    parts = [f'<line x1="{x:g}" y1="{ROWS}" x2="{x:g}" y2="{ROWS + ROW * len(strategies)}" stroke="{GRID_COLOUR}"/>']
    for number, strategy in enumerate(strategies):
        middle, figures = ROWS + ROW * (number + 0.5), part(strategy)
        if figures["error"]:
            parts.append(text(x + 8, middle + 4, "not measured", MUTED_COLOUR))
            continue
        length = BAR * value(figures) / maximum
        parts.append(rectangle(x, middle - 9, length, 18, HIGHLIGHT_COLOUR if strategy["name"] == "this" else colour))
        parts.append(text(x + length + 8, middle + 4, label(figures), font_weight=weight(strategy)))
        if "running" in figures:
            parts.append(text(x + 8, middle + 20, figures["running"].partition(";")[0], MUTED_COLOUR, font_size="11"))
    return parts


def failures(x: float, strategies: Sequence[dict], part: Callable) -> list[str]:
    """A column of failed requests."""

    def label(one: dict) -> str:
        return f"{one['failed']:,} of {one['requests']:,}"

    return bars(x, FAILURE_COLOUR, strategies, part, lambda one: one["failed"], label)


def lines(y: float, measured: Sequence[dict]) -> list[str]:
    """Seconds of a deploy and of a rollback, over the number of replicas."""
    width, names = 430, (("deploy", HIGHLIGHT_COLOUR), ("rollback", NEUTRAL_COLOUR))
    maximum = max(max(one["command_seconds"]) for one in measured)
    top = next(step * 4 for step in (1, 2, 3, 5, 10, 15, 25, 50, 100, 250, 1000) if step * 4 >= maximum)
    across = [LEFT + 60 + (width - 80) * number / max(1, len(measured) - 1) for number in range(len(measured))]
    parts = []
    for part in range(5):
        height = y + CHART * (1 - part / 4)
        parts.append(
            f'<line x1="{LEFT + 36}" y1="{height:g}" x2="{LEFT + width}" y2="{height:g}" stroke="{GRID_COLOUR}"/>'
        )
        parts.append(text(LEFT + 28, height + 4, f"{top * part // 4} s", MUTED_COLOUR, text_anchor="end"))
    for x, one in zip(across, measured, strict=True):
        parts.append(text(x, y + CHART + 20, str(one["replicas"]), MUTED_COLOUR, text_anchor="middle"))
    for index, (name, colour) in enumerate(names):
        heights = [y + CHART * (1 - one["command_seconds"][index] / top) for one in measured]
        points = list(zip(across, heights, strict=True))
        path = " ".join(f"{x:.1f},{height:.1f}" for x, height in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{height:.1f}" r="3.5" fill="{colour}"/>' for x, height in points]
        parts.append(rectangle(LEFT + 60 + 100 * index, y - 18, 14, 4, colour))
        parts.append(text(LEFT + 80 + 100 * index, y - 12, name, MUTED_COLOUR))
    return parts


def columns(result: dict) -> list[str]:
    """The headings, the strategies, and for each its failed requests and its seconds."""
    strategies, (good, crash, kill, seconds) = result["strategies"], COLUMNS
    heads = {
        good: ("failed: good release", ""),
        crash: ("failed: release crashes", f"after {result['crash_seconds']} s"),
        kill: ("failed: deploy is killed", "half-way and repeated"),
        seconds: ("only the new release", "answers after (longest)"),
    }
    parts = []
    for x, (first, second) in heads.items():
        parts += [text(x, HEADS - 16, first, MUTED_COLOUR), text(x, HEADS, second, MUTED_COLOUR)]
    for number, one in enumerate(strategies):
        parts.append(text(LEFT, ROWS + ROW * (number + 0.5) + 4, one["label"], font_weight=weight(one)))
    parts += failures(good, strategies, lambda one: one)
    parts += failures(crash, strategies, lambda one: one["crash"])
    parts += failures(kill, strategies, lambda one: one["kill"])
    return parts + bars(
        *(seconds, NEUTRAL_COLOUR, strategies, lambda one: one),
        lambda one: max((value or 0 for value in one["only_new_seconds"]), default=0),
        lambda one: span(one["only_new_seconds"]),
    )


def picture(result: dict) -> str:
    """The whole picture."""
    measured = [one for one in result["replicas"] if one["strategy"] == "this" and not one["error"]]
    chart = ROWS + ROW * len(result["strategies"]) + 86
    height = chart + CHART + 52 if measured else chart - 60
    runs = f"good releases: {result['replacements']} per strategy; {result['rate']:g} requests/s without retries. "
    runs += "Below the failed requests: the release that runs afterwards"
    parts = [
        text(LEFT, 38, "Replacing an API container under load", font_size="19", font_weight="600"),
        text(LEFT, 60, runs, MUTED_COLOUR),
        *columns(result),
    ]
    if measured:
        parts += [text(LEFT, chart - 38, "deploy.sh, by number of replicas", font_size="15", font_weight="600")]
        parts += lines(chart, measured)
        facts = {
            "are pushed after a change of one line of code": size(result["code_change_bytes"]),
            "is what the image adds to its base": size(result["image_bytes"] - result["base_bytes"]),
        }
        for number, (what, figure) in enumerate(facts.items()):
            parts.append(text(FACTS, chart + 26 + 70 * number, figure, font_size="24", font_weight="600"))
            parts.append(text(FACTS, chart + 46 + 70 * number, what, MUTED_COLOUR))
    body = "\n".join(parts)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" \
width="{WIDTH}" height="{height}" font-family="{FONT}" font-size="13" role="img">
<title>Failed requests and seconds, by deployment strategy</title>
<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8" fill="#ffffff" stroke="{GRID_COLOUR}"/>
{body}
</svg>
"""

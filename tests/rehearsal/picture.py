"""The picture of a comparison: a self-contained SVG on a background of its own."""

from collections.abc import Callable, Sequence
from html import escape

from .bench_report import size, span

WIDTH, LEFT, ROW = 880, 28, 34  # pixels
FAILED_AT, ONLY_NEW_AT, BAR = 300, 570, 150  # where the two columns of bars begin, and their longest bar
CHART = 150  # height of the lines' chart
INK, SOFT, GRID, BAD, OURS, OTHER = "#1f2328", "#59636e", "#d8dee4", "#cf4a3c", "#1a7f5a", "#9aa5b1"
FONT = "-apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"


def text(x: float, y: float, words: str, colour: str = INK, **more: str) -> str:
    """A line of text."""
    told = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in more.items())
    return f'<text x="{x:g}" y="{y:g}" fill="{colour}"{told}>{escape(words.replace("`", ""))}</text>'


def rectangle(x: float, y: float, width: float, height: float, colour: str) -> str:
    """A bar."""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:.1f}" height="{height:g}" rx="2" fill="{colour}"/>'


def emphasis(way: dict) -> dict[str, str]:
    """What makes our own way's words stand out."""
    return {"font_weight": "600"} if way["name"] == "this" else {}


def bars(x: float, y: float, colour: str, ways: Sequence[dict], value: Callable, label: Callable) -> list[str]:
    """A column of bars, one per way that was measured, each with its figure."""
    most = max((value(way) for way in ways if not way["error"]), default=0) or 1
    parts = [f'<line x1="{x:g}" y1="{y:g}" x2="{x:g}" y2="{y + ROW * len(ways):g}" stroke="{GRID}"/>']
    for number, way in enumerate(ways):
        middle = y + ROW * (number + 0.5)
        if way["error"]:
            parts.append(text(x + 8, middle + 4, "not measured", SOFT))
            continue
        long = BAR * value(way) / most
        parts.append(rectangle(x, middle - 9, long, 18, OURS if way["name"] == "this" else colour))
        parts.append(text(x + long + 8, middle + 4, label(way), **emphasis(way)))
    return parts


def lines(y: float, measured: Sequence[dict]) -> list[str]:
    """Seconds of a deploy and of a rollback over the number of replicas."""
    width, names = 430, (("deploy", OURS), ("rollback", OTHER))
    most = max(max(one["command_seconds"]) for one in measured)
    top = next(step * 4 for step in (1, 2, 3, 5, 10, 15, 25, 50, 100, 250, 1000) if step * 4 >= most)
    across = [LEFT + 60 + (width - 80) * number / max(1, len(measured) - 1) for number in range(len(measured))]
    parts = []
    for part in range(5):
        height = y + CHART * (1 - part / 4)
        parts.append(f'<line x1="{LEFT + 36}" y1="{height:g}" x2="{LEFT + width}" y2="{height:g}" stroke="{GRID}"/>')
        parts.append(text(LEFT + 28, height + 4, f"{top * part // 4} s", SOFT, text_anchor="end"))
    for x, one in zip(across, measured, strict=True):
        parts.append(text(x, y + CHART + 20, str(one["replicas"]), SOFT, text_anchor="middle"))
    for index, (name, colour) in enumerate(names):
        heights = [y + CHART * (1 - one["command_seconds"][index] / top) for one in measured]
        points = list(zip(across, heights, strict=True))
        path = " ".join(f"{x:.1f},{height:.1f}" for x, height in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{height:.1f}" r="3.5" fill="{colour}"/>' for x, height in points]
        parts.append(rectangle(LEFT + 60 + 100 * index, y - 18, 14, 4, colour))
        parts.append(text(LEFT + 80 + 100 * index, y - 12, name, SOFT))
    return parts


def picture(result: dict) -> str:
    """The whole picture."""
    ways, measured = result["ways"], [one for one in result["replicas"] if not one["error"]]
    heads, rows = 92, 104  # where the headings and the bars begin
    chart = rows + ROW * len(ways) + 86
    height = chart + CHART + 52 if measured else chart - 60
    parts = [
        text(LEFT, 38, "Replacing an API's container, with traffic on", font_size="19", font_weight="600"),
        text(LEFT, 60, f"replacements of each way: {result['replacements']}; {result['rate']:g} requests/s", SOFT),
        text(FAILED_AT, heads, "failed requests", SOFT),
        text(ONLY_NEW_AT, heads, "until only the new one answers, longest", SOFT),
        *(
            text(
                LEFT,
                rows + ROW * (number + 0.5) + 4,
                way["what"],
                font_weight="600" if way["name"] == "this" else "400",
            )
            for number, way in enumerate(ways)
        ),
        *bars(
            *(FAILED_AT, rows, BAD, ways),
            lambda way: way["failed"],
            lambda way: f"{way['failed']:,} of {way['requests']:,}",
        ),
        *bars(
            *(ONLY_NEW_AT, rows, OTHER, ways),
            lambda way: max((seconds or 0 for seconds in way["only_new_seconds"]), default=0),
            lambda way: span(way["only_new_seconds"]),
        ),
    ]
    if measured:
        parts += [text(LEFT, chart - 38, "deploy.sh, by number of replicas", font_size="15", font_weight="600")]
        parts += lines(chart, measured)
        facts = {
            "a change of one line of code sends to the registry": size(result["code_change_bytes"]),
            "the image has, over its base": size(result["image_bytes"] - result["base_bytes"]),
        }
        for number, (what, figure) in enumerate(facts.items()):
            parts.append(text(520, chart + 26 + 70 * number, figure, font_size="24", font_weight="600"))
            parts.append(text(520, chart + 46 + 70 * number, what, SOFT))
    body = "\n".join(parts)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" \
width="{WIDTH}" height="{height}" font-family="{FONT}" font-size="13" role="img">
<title>Failed requests and seconds, by way of replacing an API's container</title>
<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8" fill="#ffffff" stroke="{GRID}"/>
{body}
</svg>
"""

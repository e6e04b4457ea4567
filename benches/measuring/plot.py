"""Draws the outcomes as an SVG: one line each, relative to its bound.

The picture keeps its own data, so that a run of one group redraws only that group's lines.
"""

import json
import math
from html import escape, unescape

from .servers import ROOT

PLOT = ROOT / "docs" / "performance.svg"
BEGIN, END = "<metadata>", "</metadata>"

WIDTH, LEFT, RIGHT, TOP, LINE = 1000, 560, 60, 74, 20
# Beyond this multiple of the bound a line ends in an arrow.
SCALE_MOST = 2.5

LEGEND = (
    "dot: median; bar: least to greatest of the rounds; met left of the bound, and right of a mark"
    " where there is one"
)

STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #24292f; }
  .title { font-size: 16px; font-weight: 600; }
  .group { font-weight: 600; }
  .axis { fill: #57606a; }
  .grid { stroke: #d0d7de; }
  .bound { stroke: #57606a; stroke-width: 2; }
  .met { fill: #1a7f37; stroke: #1a7f37; }
  .missed { fill: #cf222e; stroke: #cf222e; }
  .range { stroke-width: 4; stroke-linecap: round; opacity: 0.45; }
  .card { fill: #ffffff; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .axis { fill: #9198a1; }
    .grid { stroke: #30363d; }
    .bound { stroke: #9198a1; }
    .met { fill: #3fb950; stroke: #3fb950; }
    .missed { fill: #f85149; stroke: #f85149; }
    .card { fill: #0d1117; }
  }
"""


def kept():
    """The outcomes by group that the picture shows now."""
    if not PLOT.exists():
        return {}
    text = PLOT.read_text(encoding="utf-8")
    return json.loads(unescape(text.partition(BEGIN)[2].partition(END)[0]) or "{}")


def strict(value):
    """JSON has no infinity and no NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: strict(part) for key, part in value.items()}
    return [strict(part) for part in value] if isinstance(value, list) else value


def text(x, y, words, kind="", anchor="start"):
    place = f'x="{x:.0f}" y="{y:.0f}" class="{kind}" text-anchor="{anchor}"'
    return f"<text {place}>{escape(words)}</text>"


def across(share):
    """Where a multiple of the bound stands."""
    return LEFT + (WIDTH - LEFT - RIGHT) * min(share, SCALE_MOST) / SCALE_MOST


def shares(outcome):
    """Median, least and greatest as multiples of the bound; a least bound counts inversely."""
    limit = outcome["limits"][-1]
    values = [SCALE_MOST if value is None else value / limit for value in outcome["judged"]]
    if len(outcome["limits"]) == 1 and outcome["of"] == "rate":
        values = [1 / value if value else SCALE_MOST for value in values]
        values[1:] = values[:0:-1]
    return values


def line(outcome, y):
    """The line of one outcome, its middle at `y`."""
    middle, least, most = shares(outcome)
    kind = "met" if outcome["met"] else "missed"
    digits = outcome["digits"] if outcome["of"] == "value" else 2
    value = outcome["judged"][0]
    shown = "never" if value is None else f"{value:.{digits}f}"
    # Other options are the same for all of a row.
    alone = "--workers 0" in outcome["server"]
    server = "roomcast --workers 0" if alone else outcome["server"].split()[0]
    over = ", over the floor's" if outcome["of"] == "curve" else ""
    bound = outcome["bound"].partition(",")[0]
    yield text(16, y + 4, f"{server}: {outcome['figure']}{over}")
    yield text(LEFT - 12, y + 4, f"{shown}, bound {bound}", "axis", "end")
    for low in outcome["limits"][:-1]:
        x = across(low / outcome["limits"][-1])
        yield f'<line class="bound" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 6}" y2="{y + 6}"/>'
    yield (
        f'<line class="range {kind}" x1="{across(least):.1f}" x2="{across(most):.1f}"'
        f' y1="{y}" y2="{y}"/>'
    )
    yield f'<circle class="{kind}" cx="{across(middle):.1f}" cy="{y}" r="4"/>'
    if most > SCALE_MOST:
        yield text(across(most) + 6, y + 4, "→", kind)


def parts(groups):
    """The drawing from top to bottom, and last where it ends."""
    y = TOP
    for outcomes in groups.values():
        work = None
        for outcome in outcomes:
            if not outcome["limits"]:
                continue
            if outcome["work"] != work:
                work = outcome["work"]
                y += LINE + 6
                yield text(8, y - 6, work, "group")
            yield from line(outcome, y + 6)
            y += LINE
    bottom = y + 12
    for share in (0, 0.5, 1, 1.5, 2, 2.5):
        x = across(share)
        kind = "bound" if share == 1 else "grid"
        yield f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 8}" y2="{bottom}"/>'
        label = "bound" if share == 1 else f"{share:g} ×"
        yield text(x, TOP - 14, label, "axis", "middle")
    yield bottom


def draw(groups):
    *drawing, bottom = parts(groups)
    # The grid lies below what it is for.
    grid = [part for part in drawing if 'class="grid"' in part or 'class="bound"' in part]
    others = [part for part in drawing if part not in grid]
    data = escape(json.dumps(groups, ensure_ascii=False), quote=False)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 12}"'
            ' role="img" aria-label="roomcast against its bounds">',
            f"<style>{STYLE}</style>",
            f'<rect class="card" width="{WIDTH}" height="{bottom + 12}"/>',
            text(8, 24, "roomcast against its bounds", "title"),
            text(8, 44, LEGEND, "axis"),
            *grid,
            *others,
            f"{BEGIN}{data}{END}",
            "</svg>",
            "",
        ]
    )


def write(group, order, outcomes):
    """Redraws the picture with new outcomes of one group; groups stand in `order`."""
    groups = {**kept(), group: strict(outcomes)}
    ordered = {name: groups[name] for name in order if name in groups}
    PLOT.write_text(draw(ordered), encoding="utf-8")

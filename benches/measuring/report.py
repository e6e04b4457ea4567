"""Markdown of what was measured, and its places in docs/PERFORMANCE.md."""

import math
import os
import platform
import subprocess
from pathlib import Path

from .servers import LOAD_CORE, ROOT, SERVER_CORE, Failure, run

REPORT = ROOT / "docs" / "PERFORMANCE.md"


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine():
    cpu = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    compiler = run("rustc", "--version", stdout=subprocess.PIPE).stdout.decode().split()[1]
    return f"{os.cpu_count()} cores ({cpu}), Linux {platform.release()}, rustc {compiler}"


def measured_on(bench):
    """The last sentence below a table."""
    return (
        f"Measured on {machine()}; server on core {SERVER_CORE}, generator on core {LOAD_CORE}."
        f" Runs kept although others used the machine meanwhile: {bench.noisy}."
    )


# What stands in the column of the figure that is judged.
JUDGED = {
    "ratio": "ratio",
    "noise": "ratio",
    "rate": "rate",
    "value": "value",
    "curve": "ratio over the floor's",
}


def verdict(outcome):
    return {True: "met", False: "**not met**", None: "–"}[outcome["met"]]


def number(value, digits):
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def spread_text(values, digits, mark=""):
    if not math.isfinite(values[0]):
        return "–"
    middle, least, most = (number(value, digits) for value in values)
    return f"{mark}{middle}{mark} ({least} to {most})"


def outcomes_table(outcomes):
    head = ["work", "server", "figure", "base", "here", "judged", "median (least to greatest)"]
    head += ["floor against itself", "bound", ""]
    rows = []
    for outcome in outcomes:
        digits = outcome["digits"] if outcome["of"] == "value" else 2
        values = [number(outcome[side], outcome["digits"]) for side in ("base", "own")]
        row = [outcome["work"], outcome["server"], outcome["figure"], *values]
        row += [JUDGED[outcome["of"]], spread_text(outcome["judged"], digits, "**")]
        row += [spread_text(outcome["noise"], 2)]
        rows.append([*row, outcome["bound"], verdict(outcome)])
    return table(head, rows)


def write(name, text):
    """Puts `text` between the markers `name` of the report."""
    report = REPORT.read_text(encoding="utf-8")
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, has_begin, rest = report.partition(begin)
    _, has_end, after = rest.partition(end)
    if not (has_begin and has_end):
        raise Failure(f"{REPORT.name} has no {begin} … {end}")
    REPORT.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")

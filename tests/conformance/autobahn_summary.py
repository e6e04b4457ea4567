#!/usr/bin/env python3
"""Sums up an Autobahn index.json: the failing cases, then one line.

Per section: cases in each state and the time its cases took. A case passes when its behaviour is
OK, NON-STRICT, INFORMATIONAL or UNIMPLEMENTED and its close was OK or INFORMATIONAL. Cases that the
run's log announced and the report lacks make the run incomplete.

Exit: 0 pass, 1 a case failed, 2 incomplete.
"""

import argparse
import ast
import json
import sys
from collections import Counter

WORDS = {
    "OK": "ok",
    "NON-STRICT": "non-strict",
    "INFORMATIONAL": "info",
    "UNIMPLEMENTED": "unimpl",
    "FAILED": "FAILED",
}


def by_number(case_id):
    return [int(part) for part in case_id.split(".")]


def announced(log_path):
    """The cases wstest said it would run."""
    with open(log_path, errors="replace") as log:
        for line in log:
            if line.startswith("Cases = "):
                return [str(case) for case in ast.literal_eval(line[len("Cases = ") :])]
    return []


def verdict(result, args):
    behaviour = result["behavior"]
    if behaviour == "UNIMPLEMENTED" and not args.need_all:
        # Such a case never ran, so how it closed says nothing.
        return behaviour
    good = {"OK", "INFORMATIONAL"} | (set() if args.strict else {"NON-STRICT"})
    if behaviour in good and result["behaviorClose"] in {"OK", "INFORMATIONAL"}:
        return behaviour
    return "FAILED"


def wording(counts):
    return " ".join(f"{counts[state]} {word}" for state, word in WORDS.items() if counts[state])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("index", help="index.json of the report")
    parser.add_argument("--url", default="", help="what was tested, for the summary line")
    parser.add_argument("--log", help="the run's log, to see whether a case is missing")
    parser.add_argument("--strict", action="store_true", help="NON-STRICT is a failure")
    parser.add_argument("--need-all", action="store_true", help="UNIMPLEMENTED is a failure")
    parser.add_argument("--quiet", action="store_true", help="the summary line only")
    args = parser.parse_args()

    with open(args.index) as index:
        agents = list(json.load(index).values())
    # The report is empty when the first connection failed.
    cases = agents[0] if agents else {}
    sections, total = {}, Counter()
    for case_id in sorted(cases, key=by_number):
        result = cases[case_id]
        state = verdict(result, args)
        counts, took_ms = sections.setdefault(case_id.split(".")[0], (Counter(), []))
        counts[state] += 1
        took_ms.append(result["duration"])
        total[state] += 1
        if state == "FAILED" or (state == "NON-STRICT" and not args.quiet):
            print(
                f"{state:10} {case_id:8} behaviour {result['behavior']},"
                f" close {result['behaviorClose']} (code {result['remoteCloseCode']}),"
                f" {result['duration']} ms"
            )
    missing = [case for case in announced(args.log) if case not in cases] if args.log else []
    state = "FAIL" if total["FAILED"] else "INCOMPLETE" if missing or not cases else "PASS"
    parts = [f"autobahn {args.url} {state}: {len(cases)} cases, {wording(total) or 'none'}"]
    if missing:
        parts[0] += f", {len(missing)} NOT RUN (from {missing[0]})"
    for section, (counts, took_ms) in sections.items():
        parts.append(f"§{section} {wording(counts)} {sum(took_ms) / 1000:.1f}s")
    print(" | ".join(parts))
    return {"PASS": 0, "FAIL": 1, "INCOMPLETE": 2}[state]


if __name__ == "__main__":
    sys.exit(main())

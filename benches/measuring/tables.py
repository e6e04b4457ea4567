"""The tables that compare roomcast with itself: history, user ids and resume."""

import statistics

from .load import say
from .report import table
from .rows import ROOMCASTS, fanout, quotients, spread
from .servers import Server

MEMBERS, SIZE_BYTES = 1000, 128
IDLE_ROOMS, IDENTIFIED_CONNECTIONS = 150, 5_000
RESUMING, MISSED, LIVE, RATE = 1000, 500, 100, 200


def roomcasts(bench):
    return [Server(bench.target, "roomcast", options) for options in ROOMCASTS]


def compare(bench, base, subject, inflight):
    """Runs pairs in turn, and returns one row of the table."""
    load = fanout(MEMBERS, SIZE_BYTES, inflight=inflight)
    pairs = []
    for number in range(bench.pairs):
        # By turns the one or the other comes first.
        turn = -1 if number % 2 else 1
        done = [bench.measure(server, load) for server in [base, subject][::turn]]
        pairs.append(done[::turn])
        say(f"{inflight} in flight, {subject.name}: pair {number + 1} of {bench.pairs}")
    columns = [
        [[pair[side][name] for pair in pairs] for side in (0, 1)]
        for name in ("server_cpu_us_per_msg", "server_user_us_per_msg")
    ]
    figures = [f"{statistics.median(values):.3f}" for column in columns for values in column]
    bases, own = columns[0]
    ratio = "**{:.2f}** ({:.2f} to {:.2f})".format(*spread(quotients(own, bases)))
    return [str(inflight), base.name, subject.name, *figures, ratio]


def with_history(bench):
    without = Server(bench.target, "roomcast", ["--history-size", "0"])
    subjects = [without, Server(bench.target, "roomcast")]
    rows = [compare(bench, without, subject, n) for n in (1, 32) for subject in subjects]
    head = ["in flight", "base", "server", "base: CPU µs", "CPU µs"]
    head += ["base: user µs", "user µs", "ratio of CPU"]
    yield (
        f"CPU time per delivery: 1 room, {MEMBERS} members, {SIZE_BYTES} bytes; medians of"
        f" {bench.pairs} pairs of {bench.secs:g} s (least and greatest ratio in brackets)."
    )
    yield table(head, rows)


def idle(bench, server, connections, query=""):
    """Memory and handshake cost of idle connections, as cells of the table."""

    def options(server):
        yield from ["--url", server.urls()[0] + query, "-c", connections]
        yield from ["--rooms", IDLE_ROOMS, "--secs", 2]

    result = bench.quiet_load(server, "idle", options)
    say(f"idle, {server.name}{query}")
    memory = f"**{result['pss_bytes_per_conn']:.0f}**"
    return [str(result["open"]), memory, f"{result['server_cpu_us_per_handshake']:.1f}"]


def identified(bench):
    rows = [
        [server.name, who, *idle(bench, server, IDENTIFIED_CONNECTIONS, query)]
        for server in roomcasts(bench)
        for who, query in [("nobody", ""), ("its own", "&user=user{i}")]
    ]
    yield f"Idle connections, in {IDLE_ROOMS} rooms; the bytes are the growth of the process's PSS."
    yield table(["server", "user", "connections", "bytes each", "CPU µs per handshake"], rows)


def storms(bench, server):
    """Runs as many storms as there are pairs, and returns one row of the table."""

    def options(server):
        members, publishers = (f"{url}&format=json" for url in server.urls())
        yield from ["--url", members, "--pub-url", publishers, "-c", RESUMING]
        yield from ["--missed", MISSED, "--live", LIVE, "--rate", RATE]
        yield from ["--size", SIZE_BYTES, "--secs", bench.secs]

    results = []
    for number in range(bench.pairs):
        results.append(bench.quiet_load(server, "resume", options))
        say(f"resume, {server.name}: run {number + 1} of {bench.pairs}")

    def middle(name, unit):
        return statistics.median(result[name] / unit for result in results)

    figures = [f"{middle('caught_up_s', 1e-3):.0f}"]
    for phase in ["before", "during"]:
        names = [f"{phase}_{part}_us" for part in ["p50", "p99", "max"]]
        figures += [f"{middle(name, 1e3):.1f}" for name in names]
    rise = "**{:.0f}** ({:.0f} to {:.0f})".format(*spread([r["p99_rise_ms"] for r in results]))
    return [server.name, *figures, rise]


def resume(bench):
    rows = [storms(bench, server) for server in roomcasts(bench)]
    yield (
        f"{RESUMING} clients resume at once, each from {MISSED} publications back, in a room with"
        f" {LIVE} live members and {RATE} publications of {SIZE_BYTES} bytes a second; medians of"
        f" {bench.pairs} runs (least and greatest rise in brackets). Nothing was lost or repeated."
    )
    head = ["server", "all caught up after ms", "live before: p50 ms", "p99 ms", "greatest ms"]
    head += ["in the storm: p50 ms", "p99 ms", "greatest ms", "rise of p99, ms"]
    yield table(head, rows)


TABLES = {"history": with_history, "identified": identified, "resume": resume}

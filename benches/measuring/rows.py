"""What is compared with the floor, as data, and how its rounds are run and judged."""

import math
import statistics
from dataclasses import dataclass, field

from .load import Load, say
from .servers import Server

IDLE_CONNECTIONS, IDLE_ROOMS, PING_SECS = 19_000, 190, 4
STALLED, STALLED_SECS, STALLED_RATE, STALLED_BYTES = 50, 6, 100, 16_384
# A closed member that does not read has the time of a write, and at least 3 s, to come to its close
# frame; the generator looks ten times a second.
WRITE_TIMEOUT_SECS = 3
CLOSED_SECS_MAX = WRITE_TIMEOUT_SECS + 0.2
QUEUE_BYTES = 1 << 20
# The stalled share one queue and one merge over it, and have 48 bytes for each of at most 1000
# entries; the room has its history.
GROWTH_BYTES_MAX = QUEUE_BYTES + QUEUE_BYTES // 2 + (1 << 20) + STALLED * 1000 * 48


# A publication of 128 bytes with a number of four digits is this long as a push to the only room.
PUSH_BYTES = 230


@dataclass(frozen=True)
class Case:
    """A server under a load."""

    kind: str
    options: tuple
    load: Load

    def server_name(self):
        return " ".join([self.kind, *self.options])


@dataclass(frozen=True)
class Figure:
    """A member of the generator's result, and what it is called in tables."""

    name: str
    title: str
    digits: int = 3
    # Whether the floor, which does without much, has it too.
    of_floor: bool = True


@dataclass(frozen=True)
class Bound:
    """What is asked of a figure.

    `of` says what of it is judged: "ratio" to the base, "rate" (the inverse of that ratio), "value"
    (the figure itself), "curve" (the ratio to the base over the same ratio of the floor), or "noise"
    (the ratio, which may be as far above 1 as the floor against itself ever was off it).
    """

    figure: Figure
    most: float = math.inf
    least: float = -math.inf
    of: str = "ratio"

    def text(self, floor):
        if self.of == "noise":
            return f"≤ {noise_bound(floor):.2f}, the noise of the floor"
        if math.inf == self.most == -self.least:
            return "–"
        if self.least > 0 and self.most < math.inf:
            return f"{self.least:g} to {self.most:g}"
        return f"≤ {self.most:g}" if self.most < math.inf else f"≥ {self.least:g}"


@dataclass(frozen=True)
class Row:
    """A case and what it is compared with; `reference` is the floor's own pair of such cases."""

    what: str
    base: Case
    own: Case
    bounds: tuple
    reference: tuple = ()


@dataclass(frozen=True)
class Work:
    """Rows whose cases are run by turns. The floor's case is run twice in each round."""

    name: str
    floor: Case
    rows: tuple = field(default=())

    def others(self):
        """All cases but the floor's first, each once."""
        named = [case for row in self.rows for case in (row.base, *row.reference, row.own)]
        return [case for case in dict.fromkeys(named) if case != self.floor]


ROOMCASTS = [(), ("--workers", "0")]

CPU = Figure("server_cpu_us_per_msg", "CPU µs a delivery")
ECHO_CPU = Figure("server_cpu_us_per_msg", "CPU µs a message")
USER = Figure("server_user_us_per_msg", "user µs a delivery")
P99 = Figure("lat_p99_us", "p99 delay, µs", 0)
LAST = Figure("last_p50_us", "until the last member, µs", 0)
MEMORY = Figure("pss_bytes_per_conn", "user-space bytes a connection", 0)
PING = Figure("idle_cpu_us_per_ping", "CPU µs a ping and pong")
HANDSHAKE = Figure("server_cpu_us_per_handshake", "CPU µs a handshake (bound: rate)", 2)
GROWTH = Figure("growth_kib", "growth of memory, KiB", 0, of_floor=False)
WIRE = Figure("bytes_per_delivery", "bytes received a delivery", 1)
CLOSED = Figure("closed_s", "stalled closed, s after their queue was full", 1, of_floor=False)


def fanout(members, size=128, rooms=1, **rest):
    options = {"rooms": rooms, "size": size, **rest}
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    return Load("fanout", ("-c", members, *flags))


def echo(size, inflight):
    return Load("echo", ("-c", 100, "--size", size, "--inflight", inflight))


def against_floor(name, load, *bounds, floor=(), both=()):
    """Both roomcasts against the floor under the same load.

    Each of `bounds` is a pair: with a worker, and without. `floor` are the floor's options, `both`
    those of both roomcasts.
    """
    base = Case("floor", floor, load)
    rows = [
        Row(name, base, Case("roomcast", (*both, *options), load), tuple(b[i] for b in bounds))
        for i, options in enumerate(ROOMCASTS)
    ]
    return Work(name, base, tuple(rows))


def same(bound):
    return bound, bound


def cpu(with_worker, without):
    return Bound(CPU, with_worker), Bound(CPU, without)


def echo_cpu(with_worker, without):
    return Bound(ECHO_CPU, with_worker), Bound(ECHO_CPU, without)


def beside_itself(name, without, with_it, bounds, floor_too, both=()):
    """Each server under one load against itself under another."""
    floors = Case("floor", (), without), Case("floor", (), with_it)
    rows = [Row(name, *floors, (Bound(CPU),))] if floor_too else []
    for options in ROOMCASTS:
        cases = (Case("roomcast", (*both, *options), load) for load in (without, with_it))
        rows.append(Row(name, *cases, bounds, floors if floor_too else ()))
    return Work(name, floors[0], tuple(rows))


def flat(sizes, middle, deliveries):
    """Rooms of several sizes with as many deliveries a second, against the one of `middle`."""
    loads = {size: fanout(size, rate=deliveries / size) for size in sizes}
    within = Bound(CPU, 1.15, 0.85), Bound(CPU, 1.15, 0.85, "curve")
    floor = {size: Case("floor", (), load) for size, load in loads.items()}
    rows = []
    for size in sizes:
        if size == middle:
            continue
        name = f"{size} members against {middle}"
        reference = floor[middle], floor[size]
        rows.append(Row(name, *reference, (Bound(CPU),)))
        for options in ROOMCASTS:
            base, own = (Case("roomcast", options, loads[n]) for n in (middle, size))
            rows.append(Row(name, base, own, within, reference))
    return Work(f"rooms of {sizes[0]} to {sizes[-1]}", floor[middle], tuple(rows))


def stalled(count):
    options = ("-c", 1000, "--stalled", count, "--stalled-rcvbuf", 4096)
    options += ("--rate", STALLED_RATE, "--size", STALLED_BYTES)
    return Load("slow", options, secs=STALLED_SECS)


FORMS = ("", "&format=json", "&gzip=1", "&format=json&gzip=1")


def by_commands(load):
    """The same with subscribers that speak the Centrifugo client protocol."""
    return Load(load.mode, (*load.options, "--subscribe", "r{room}"))


def mixed(load, queries):
    return Load(load.mode, load.options, queries)


GROUPS = {
    "fanout": [
        against_floor(
            "1 room × 1000, 128 B, 1 in flight",
            fanout(1000, inflight=1),
            cpu(1.10, 1.10),
            same(Bound(USER, 0.30, of="value")),
        ),
        against_floor(
            "1 room × 1000, 128 B, 32 in flight",
            fanout(1000, inflight=32),
            cpu(1.3, 1.10),
            same(Bound(USER, 0.03, of="value")),
            # What is in flight together may leave together; then the floor does so too.
            floor=("coalesce",),
        ),
        against_floor(
            "1 room × 100, 64 KiB, 1 in flight",
            fanout(100, size=65_536, inflight=1),
            cpu(1.05, 1.05),
        ),
    ],
    "open": [
        *(
            against_floor(
                f"100 rooms × 100, {rate} deliveries/s",
                fanout(10_000, rooms=100, rate=rate // 100),
                cpu(1.15, 1.15),
                same(Bound(P99, 1.25)),
            )
            for rate in (50_000, 150_000)
        ),
        against_floor(
            "1 room × 10000, 10 messages/s",
            fanout(10_000, rate=10),
            cpu(1.10, 1.10),
            same(Bound(LAST, 1.15)),
        ),
    ],
    "echo": [
        against_floor(
            f"echo, 100 connections, {size} B, {inflight} in flight",
            echo(size, inflight),
            echo_cpu(*bounds),
        )
        for inflight, bounds in [(1, (1.5, 1.15)), (16, (1.3, 1.10))]
        for size in (64, 4096)
    ],
    "idle": [
        against_floor(
            f"{IDLE_CONNECTIONS} idle members",
            Load("idle", ("-c", IDLE_CONNECTIONS, "--rooms", IDLE_ROOMS), secs=2),
            same(Bound(MEMORY, 512, of="value")),
            same(Bound(PING, of="noise")),
            same(Bound(HANDSHAKE, least=0.75, of="rate")),
            floor=(f"ping={PING_SECS}",),
            both=("--ping-interval", f"{PING_SECS}s", "--pong-timeout", f"{2 * PING_SECS}s"),
        )
    ],
    "beside": [
        beside_itself(
            f"100 busy, {IDLE_CONNECTIONS} idle beside them",
            fanout(100, inflight=1),
            Load("fanout", fanout(100, inflight=1).options, beside=IDLE_CONNECTIONS),
            (Bound(CPU, 1.05), Bound(CPU, 1.05, of="curve")),
            True,
        )
    ],
    "members": [flat((10, 100, 1000, 10_000), 1000, 50_000)],
    "stalled": [
        beside_itself(
            f"1000 members, {STALLED} of them stalled",
            stalled(0),
            stalled(STALLED),
            (
                Bound(P99, 1.2),
                Bound(GROWTH, GROWTH_BYTES_MAX // 1024, of="value"),
                Bound(CLOSED, CLOSED_SECS_MAX, of="value"),
            ),
            False,
            ("--write-timeout", f"{WRITE_TIMEOUT_SECS}s"),
        )
    ],
    "forms": [
        beside_itself(
            "1000 members of 4 forms, 512 B, 1 in flight",
            fanout(1000, size=512, inflight=1),
            mixed(fanout(1000, size=512, inflight=1), FORMS),
            (Bound(CPU, 1.2),),
            False,
        )
    ],
    "pushes": [
        beside_itself(
            "1000 members by Centrifugo pushes, 128 B, against 1000 raw ones and as many bytes",
            fanout(1000, size=PUSH_BYTES, inflight=1),
            by_commands(fanout(1000, inflight=1)),
            (Bound(CPU, 1.15), Bound(WIRE, 1.01, 0.99)),
            False,
            ("--ping-interval", "off"),
        )
    ],
}


def derived(result):
    """The result, and what follows from its members."""
    if result["mode"] == "slow":
        result["growth_kib"] = result["rss_peak_kb"] - result["rss_connected_kb"]
        result["closed_s"] = closed_after(result) if result["stalled"] else math.nan
    return result


def closed_after(result):
    """How long after their queue was full the last of the stalled members was closed."""
    held_by_kernel = result["stalled_msgs_read_at_end"] / result["stalled"]
    full_at = (held_by_kernel + QUEUE_BYTES / STALLED_BYTES) / STALLED_RATE
    left = result["server_fds_before"] - result["stalled"]
    drops = [at for at, files in result["server_fd_drops"] if files <= left]
    return drops[0] - full_at if drops else math.inf


class Rounds:
    """The results of a work's cases, round by round."""

    def __init__(self, bench, work):
        self.work = work
        others = work.others()
        half = (len(others) + 1) // 2
        # Of the floor's two runs each case is compared with the one before it.
        self.order = [(work.floor, 0), *((case, 0) for case in others[:half])]
        self.order += [(work.floor, 1), *((case, 1) for case in others[half:])]
        self.results = [self.round(bench, number) for number in range(bench.pairs)]

    def round(self, bench, number):
        turn = -1 if number % 2 else 1
        results = {}
        for case, half in self.order[::turn]:
            server = Server(bench.target, case.kind, case.options)
            results[case, half] = derived(bench.measure(server, case.load))
        say(f"{self.work.name}: round {number + 1} of {bench.pairs}")
        return results

    def half_of(self, case):
        return next(half for other, half in self.order if other == case)

    def values(self, case, figure, half=None):
        half = self.half_of(case) if half is None else half
        return [results[case, half][figure.name] for results in self.results]

    def ratios(self, base, own, figure):
        half = self.half_of(own) if base == self.work.floor else None
        return quotients(self.values(own, figure), self.values(base, figure, half))

    def noise(self, figure):
        floor = self.work.floor
        return quotients(self.values(floor, figure, 1), self.values(floor, figure, 0))

    def judged(self, row, bound):
        """What `bound` is about, one value a round."""
        ratios = self.ratios(row.base, row.own, bound.figure)
        if bound.of == "value":
            return self.values(row.own, bound.figure)
        if bound.of == "rate":
            return quotients([1] * len(ratios), ratios)
        if bound.of == "curve":
            return quotients(ratios, self.ratios(*row.reference, bound.figure))
        return ratios

    def outcome(self, row, bound):
        """One row of the table, as data."""
        noise = spread(self.noise(bound.figure) if bound.figure.of_floor else [])
        judged = spread(self.judged(row, bound))
        half = self.half_of(row.own) if row.base == self.work.floor else None
        most = noise_bound(noise) if bound.of == "noise" else bound.most
        bounded = bound.of == "noise" or bound.text(noise) != "–"
        return {
            "work": row.what,
            "server": row.own.server_name(),
            "figure": bound.figure.title,
            "digits": bound.figure.digits,
            "of": bound.of,
            "base": spread(self.values(row.base, bound.figure, half))[0],
            "own": spread(self.values(row.own, bound.figure))[0],
            "judged": judged,
            "noise": noise,
            "bound": bound.text(noise),
            "limits": [limit for limit in (bound.least, most) if bounded and abs(limit) < math.inf],
            "met": bound.least <= judged[0] <= most if bounded else None,
        }

    def outcomes(self):
        return [self.outcome(row, bound) for row in self.work.rows for bound in row.bounds]


def quotients(above, below):
    return [a / b if b else math.nan for a, b in zip(above, below)]


def noise_bound(floor):
    return max(floor[2], 1 / floor[1])


def spread(values):
    """Median, least and greatest of those that are numbers."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return [math.nan] * 3
    return [statistics.median(known), min(known), max(known)]


def measure_group(bench, name):
    """Runs a group; its outcomes."""
    return [outcome for work in GROUPS[name] for outcome in Rounds(bench, work).outcomes()]

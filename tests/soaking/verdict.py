"""The final table: what must hold, what was seen, and whether it did."""

import math
from collections import Counter

from .flatness import growth_max_percent
from .judge import CLOSED_BY_ALL

MIB = 2**20

# What must have happened at least, for each twenty minutes of load: from the metrics of the daemon.
# A machine without other work does it in a quarter of that.
METRICS_MIN = {
    "deliveries_total": 400000,
    "tls_handshakes_total": 4000,
    "upgrades_total": 3000,
    "messages_received_total": 25000,
    "gzip_publications_total": 4000,
    'recoveries_total{outcome="complete"}': 1500,
    'recoveries_total{outcome="lossy"}': 40,
    "skipped_total": 300,
    'closes_total{reason="slow"}': 15,
    'closes_total{reason="write_timeout"}': 10,
    'closes_total{reason="no_pong"}': 20,
    'closes_total{reason="force_disconnect"}': 40,
    'closes_total{reason="connection_limit"}': 60,
    'closes_total{reason="handshake_timeout"}': 40,
    'closes_total{reason="tls"}': 80,
    'closes_total{reason="protocol"}': 40,
    'closes_total{reason="invalid_payload"}': 20,
    'closes_total{reason="too_big"}': 20,
    'closes_total{reason="too_many_requests"}': 20,
    'closes_total{reason="bad_request"}': 40,
    'closes_total{reason="normal"}': 600,
    'closes_total{reason="answered"}': 40,
    'refusals_total{reason="origin"}': 40,
    **{
        f'api_calls_total{{method="{method}"}}': least
        for method, least in {
            "publish": 10000,
            "broadcast": 400,
            "publish_all": 15,
            "disconnect": 40,
            "unsubscribe": 200,
            "presence": 150,
            "presence_stats": 150,
            "history": 150,
            "history_remove": 15,
            "channels": 150,
            "connections": 150,
            "info": 150,
        }.items()
    },
    **{
        f'commands_total{{method="{method}"}}': least
        for method, least in {
            "connect": 500,
            "subscribe": 1000,
            "publish": 2000,
            "presence": 500,
            "pong": 100,
        }.items()
    },
}

# The same, as the clients saw it.
COUNTS_MIN = {
    "cut off": 800,
    "left in order": 300,
    "kicked": 40,
    "unsubscribed": 100,
    "losses told": 60,
    "skips told": 50,
    "heartbeats": 2000,
    "heartbeats of idle members": 20000,
    "gzip messages": 10000,
    "stalls": 25,
    "stalled members closed": 25,
    "published over /ws": 5000,
    "centrifugo pings": 100,
    "joins and leaves told": 2000,
    "rooms made by broadcasts": 100000,
    "visitors": 500,
    "second logins": 60,
    "taken out of a room": 100,
    "echoes": 500,
    "plain requests": 500,
    "broken frames": 60,
    "mute members closed": 20,
    "silent connections closed": 80,
    "no TLS": 80,
    "passers-by": 400,
}

# The most of what may happen and cannot be told from a fault one by one, for each twenty minutes.
MISSES = "missed by starved clients"
COUNTS_MAX = {CLOSED_BY_ALL: 10, MISSES: 20}
STARVED_MAX_PERCENT = 20

# Metrics that must not have moved.
NEVER = [
    'closes_total{reason="internal"}',
    "idempotency_keys_forgotten_total",
    "log_lines_dropped_total",
    "accept_pauses_total",
]


class Verdict:
    """Rows of the table, and whether any of them is wrong."""

    def __init__(self, minutes, world, metrics, verified):
        self.minutes, self.world, self.metrics, self.verified = minutes, world, metrics, verified
        self.rows = []
        self.wrong = 0

    def row(self, name, seen, expected="", is_wrong=False):
        self.rows.append((name, str(seen), expected, "WRONG" if is_wrong else ""))

    def check(self, name, seen, is_right, expected):
        seen = f"{seen:g}" if isinstance(seen, float) else seen
        self.row(name, seen, expected, not is_right)
        self.wrong += not is_right

    def memory(self, begin, flatness, rest):
        mib = [value / MIB for value in flatness.windows]
        self.row("RSS at start, at rest, MiB", f"{begin / MIB:.2f}, {rest / MIB:.2f}")
        self.row("RSS, medians of ten windows, MiB", " ".join(f"{value:.2f}" for value in mib))
        most = growth_max_percent(self.minutes)
        for name, percent in [
            ("last window", flatness.window_percent),
            ("line", flatness.line_percent),
        ]:
            self.check(
                f"RSS growth, {name}", f"{percent:+.2f} %", percent <= most, f"at most {most} %"
            )

    def starved(self, percent):
        """The time in which misses may be no faults."""
        self.check(
            "time in which the clients were starved",
            f"{percent:.1f} %",
            percent <= STARVED_MAX_PERCENT,
            f"at most {STARVED_MAX_PERCENT} %",
        )

    def log(self, daemon):
        """No line at level error, and nothing of the program's own end on standard error."""
        levels, errors = Counter(), []
        for path in daemon.logs():
            for line in path.read_text().splitlines():
                level = (line.split(None, 2) + ["", ""])[1]
                levels[level] += 1
                if level not in ("WARN", "INFO"):
                    errors.append(line)
        self.row(
            "log files, lines at warn, info",
            f"{len(daemon.logs())}, {levels['WARN']}, {levels['INFO']}",
        )
        self.check("other lines", len(errors), not errors, "none")
        self.rows.extend((f"  {line[:150]}", "", "", "") for line in errors[:5])
        complaints = (daemon.folder / "stderr").read_text()
        self.check("bytes on standard error", len(complaints), not complaints, "none")
        self.rows.extend((f"  {line[:150]}", "", "", "") for line in complaints.splitlines()[:5])

    def contents(self):
        """That everything really happened, and that the books are right."""
        share = self.minutes / 20 * self.world.load
        for name, least in METRICS_MIN.items():
            self.check(
                name,
                self.metrics[name],
                self.metrics[name] >= least * share,
                f"at least {least * share:.0f}",
            )
        for name in NEVER:
            self.check(name, self.metrics[name], self.metrics[name] == 0, "0")
        counts, ledger = self.world.counts, self.world.ledger
        for name, least in COUNTS_MIN.items():
            self.check(
                name, counts[name], counts[name] >= least * share, f"at least {least * share:.0f}"
            )
        counts[MISSES] = self.world.judge.misses
        for name, most in COUNTS_MAX.items():
            most = math.ceil(most * self.minutes / 20)
            self.check(name, counts[name], counts[name] <= most, f"at most {most}")
        name = "witnesses of all messages"
        self.check(name, counts[name], counts[name] > 0, "at least 1")
        for name in sorted(counts.keys() - COUNTS_MIN.keys() - COUNTS_MAX.keys() - {name}):
            self.row(name, counts[name])
        for protocol in ("raw", "centrifugo"):
            name = f"{protocol} runs"
            least = int(self.minutes / 20 * 8)
            self.check(
                f"verify, {name}",
                self.verified[name],
                self.verified[name] >= least,
                f"at least {least}",
            )
        for name in ("published", "delivered", "cuts", "resumes"):
            self.row(f"verify, {name}", self.verified[name])
        sums = ledger.sums()
        self.row("ledger: rooms, books", f"{len(ledger.logs)}, {len(ledger.books)}")
        for name in ("published", "received", "resumes", "lost", "skipped"):
            self.row(
                f"ledger: {name}{' and told' if name in ('lost', 'skipped') else ''}", sums[name]
            )
        self.faults()

    def faults(self):
        ledger = self.world.ledger
        self.check("faults", ledger.faults, ledger.faults == 0, "0")
        self.rows.extend((f"  {text}", "", "", "") for text in ledger.told)

    def broken_off(self, cause, daemon, seconds):
        """What is known of a daemon that did not live to the end."""
        self.check("broken off", cause, False, "")
        self.row("load", f"{seconds / 60:.1f} min", f"{self.minutes:g} min")
        status = daemon.process.poll()
        self.row("exit status", "none: it hangs" if status is None else status)
        self.log(daemon)
        self.faults()

    def conclude(self):
        print()
        for name, seen, expected, wrong in self.rows:
            print(f"{name:<48} {seen:<24} {expected:<22} {wrong}".rstrip())
        print(f"\n{'soaked and sound' if self.wrong == 0 else f'{self.wrong} WRONG'}", flush=True)
        return int(self.wrong > 0)

"""Runs of the load generator, on a core of its own."""

import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass

from .servers import LOAD_CORE, Failure

# Beside its measured window a run has connecting, warm-up and draining.
RUN_TIMEOUT_SECS = 180
WARMUP_SECS = 0.3
FOREIGN_SHARE_MAX = 0.06
TRIES = 3

# Each must be 0, or the figures are of a run that did not do its work.
FAULTS = ["lost", "gaps", "disorder", "misrouted", "to_publishers"]
FAULTS += ["died", "protocol_errors", "repeated", "unrecovered", "behind", "wrong"]
# These tell of a server that got no processor, too; they count in a quiet run.
DELAYS = ["abandoned", "refused"]


@dataclass(frozen=True)
class Load:
    """One run: the generator's mode and options.

    The subscribers' URLs end in the `queries` by turns. `beside` idle connections are held by
    another process meanwhile. `secs` is given where the measured time is not for the caller to
    choose.
    """

    mode: str
    options: tuple = ()
    queries: tuple = ()
    beside: int = 0
    secs: float = 0


class Bench:
    def __init__(self, target, pairs, secs):
        self.target, self.pairs, self.secs = target, pairs, secs
        self.noisy = 0

    def generator(self, mode, *options):
        """The command line of one run."""
        program = self.target / "load/release/wsload"
        return ["taskset", "-c", str(LOAD_CORE), program, mode, *map(str, options)]

    def load(self, server, mode, *options):
        """One run of the generator against `server`; its result."""
        command = self.generator(mode, *options, "--server-pid", server.process.pid)
        done = subprocess.run(command, stdout=subprocess.PIPE, timeout=RUN_TIMEOUT_SECS)
        result = json.loads(done.stdout or "{}")
        if done.returncode != 0 or "error" in result:
            raise Failure(f"{server.name}: wsload ended with {done.returncode}: {result}")
        names = FAULTS + DELAYS * is_quiet(result)
        faults = {name: result[name] for name in names if result.get(name)}
        if faults:
            raise Failure(f"{server.name}, {mode}: {faults} in {result}")
        return result

    def quiet_load(self, server, mode, options, beside=0):
        """Such a run with a fresh process, done again if others used the machine meanwhile."""
        for _ in range(TRIES):
            with server, self.held(server, beside):
                result = self.load(server, mode, *options(server))
            if is_quiet(result):
                return result
        self.noisy += 1
        return result

    @contextmanager
    def held(self, server, connections):
        """Holds idle connections in rooms of their own; fails if one of them was closed."""
        if not connections:
            yield
            return
        url = server.urls()[0].replace("{room}", "9{room}")
        options = ["--url", url, "-c", connections, "--rooms", 100, "--secs", RUN_TIMEOUT_SECS]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(self.generator("hold", *options), **pipes) as holder:
            told = json.loads(holder.stdout.readline() or "{}")
            if told.get("held") != connections:
                raise Failure(f"{server.name}: {connections} connections are not held: {told}")
            try:
                yield
            finally:
                # The end of its input ends it.
                result = json.loads(holder.communicate(timeout=RUN_TIMEOUT_SECS)[0] or "{}")
            if result.get("died") != 0:
                raise Failure(f"{server.name}: idle connections were closed: {result}")

    def measure(self, server, load):
        """One quiet run of `load`; its result."""

        def options(server):
            if load.mode == "echo":
                yield from ["--url", server.echo_url()]
            else:
                members, publishers = server.urls()
                if "--subscribe" in load.options:
                    members = server.sdk_url()
                yield from ["--url", members, "--pub-url", publishers]
            for query in load.queries:
                yield from ["--query", query]
            yield from ["--secs", load.secs or self.secs, "--warmup", WARMUP_SECS]
            yield from load.options

        return self.quiet_load(server, load.mode, options, load.beside)


def is_quiet(result):
    return result["foreign_cpu_share"] <= FOREIGN_SHARE_MAX


def say(line):
    print(f"compare: {line}", file=sys.stderr, flush=True)

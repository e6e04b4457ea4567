"""One soak from start to verdict: load, samples, reloads, the end, the table."""

import asyncio
import re
import sys
import time
from pathlib import Path
from collections import Counter

from .daemon import HISTORY_TTL_SECS, Broken, Daemon
from .flatness import flatness
from .verdict import Verdict
from .world import World

SAMPLE_SECS = 2
WARM_UP_SHARE, WARM_UP_MOST_MINUTES = 0.6, 15
RELOADS = 8
VERIFY_SECS = 40
VERIFY_LONGEST_SECS = 120
NO_VERDICT = 2
REST_SECS = HISTORY_TTL_SECS + 60
# What must be nothing when everybody has gone. The connection that asks is one.
AT_REST = {
    "connections": 1,
    "websockets": 0,
    "members": 0,
    "rooms": 0,
    "rooms_alive": 0,
    "users": 0,
    "history_bytes": 0,
    "effects_waiting": 0,
    "websockets_backlogged": 0,
}


class Soak:
    def __init__(self, program, folder, minutes, load=1.0):
        self.program, self.minutes, self.load = program, minutes, load
        self.tunnel = None
        self.daemon = Daemon(program, folder)
        self.world = None
        self.verified = Counter()
        self.samples = []
        self.begin = self.end = 0.0

    async def run(self):
        try:
            self.world = World(self.daemon, self.load)
            return await self.soak()
        except Broken as error:
            self.world.ledger.fault(f"broken off: {error}")
            verdict = Verdict(self.minutes, self.world, Counter(), self.verified)
            verdict.broken_off(error, self.daemon, self.begin and time.monotonic() - self.begin)
            return verdict.conclude()
        finally:
            self.daemon.kill()
            if self.tunnel is not None:
                self.tunnel.stdin.close()
                await self.tunnel.wait()

    async def dig_tunnel(self):
        """Starts the tunnel, and returns it with its port."""
        tunnel = await asyncio.create_subprocess_exec(
            *(sys.executable, "-B", Path(__file__).with_name("tunnel.py")),
            *(str(self.daemon.port), str(self.daemon.certificates.authority)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        return tunnel, int(await tunnel.stdout.readline())

    async def soak(self):
        daemon, world = self.daemon, self.world
        await self.at_rest(10)
        descriptors = await self.descriptors()
        rss_begin = daemon.rss_bytes()
        self.tunnel, port = await self.dig_tunnel()
        self.begin = time.monotonic()
        self.end = self.begin + self.minutes * 60
        world.start()
        verifiers = [
            world.spawn(self.verify(port, protocol)) for protocol in ("raw", "centrifugo")
        ]
        reloads = world.spawn(self.reload())
        await self.watch()
        await asyncio.gather(reloads, *verifiers)
        await world.settle()
        world.check_messages_to_all()
        cpu = daemon.cpu_secs()
        seconds = time.monotonic() - self.begin
        metrics = await self.metrics()
        await world.leave()
        world.ledger.balance()
        rest = await self.at_rest(REST_SECS)
        verdict = Verdict(self.minutes, world, metrics, self.verified)
        starved = world.judge.starved_secs(self.begin, self.begin + seconds)
        verdict.starved(starved / seconds * 100)
        verdict.row(
            "load, with its end",
            f"{seconds / 60:.1f} min, daemon {cpu / seconds * 100:.0f} % of a core",
        )
        with open(daemon.folder / "rss.csv", "w", encoding="utf-8") as file:
            file.writelines(f"{at:.1f},{rss}\n" for at, rss in self.samples)
        warm = [(at, rss) for at, rss in self.samples if at >= self.warm_up_secs()]
        verdict.memory(rss_begin, flatness(warm), daemon.rss_bytes())
        for name, expected in AT_REST.items():
            verdict.check(f"{name} at rest", rest[name], rest[name] == expected, f"{expected}")
        count = await self.descriptors()
        verdict.check(
            "descriptors at rest", count, count == descriptors, f"{descriptors} as at the start"
        )
        status = await daemon.end()
        verdict.check("exit status of SIGTERM", status, status == 0, "0")
        verdict.log(daemon)
        verdict.contents()
        return verdict.conclude()

    def warm_up_secs(self):
        return min(WARM_UP_SHARE * self.minutes, WARM_UP_MOST_MINUTES) * 60

    async def watch(self):
        """Samples memory, and says once a minute how things are."""
        next_line, before, cpu_before = self.begin + 60, Counter(), 0.0
        print(
            " min    RSS MiB  fds  conns  rooms  deliveries/s  core %  cuts  resumes  faults",
            flush=True,
        )
        while (now := time.monotonic()) < self.end:
            if not self.daemon.is_alive():
                raise Broken(f"the daemon ended with {self.daemon.process.poll()}")
            self.samples.append((now - self.begin, self.daemon.rss_bytes()))
            if now >= next_line:
                metrics, cpu = await self.metrics(), self.daemon.cpu_secs()
                world, sums = self.world, self.world.ledger.sums()
                rate = (metrics["deliveries_total"] - before["deliveries_total"]) / 60
                print(
                    f"{(now - self.begin) / 60:4.0f} {self.samples[-1][1] / 2**20:10.2f}"
                    f" {self.daemon.descriptors():4}"
                    f" {metrics['connections']:6.0f} {metrics['rooms_alive']:6.0f} {rate:13.0f}"
                    f" {(cpu - cpu_before) / 60 * 100:7.1f} {world.counts['cut off']:5}"
                    f" {sums['resumes']:8}"
                    f" {world.ledger.faults:7}",
                    flush=True,
                )
                next_line, before, cpu_before = next_line + 60, metrics, cpu
            await asyncio.sleep(SAMPLE_SECS)

    async def reload(self):
        """Has log and certificate renewed, and sees that both are."""
        interval = self.minutes * 60 / (RELOADS + 1)
        for _ in range(RELOADS):
            await asyncio.sleep(interval)
            self.daemon.hang_up()
            serial = self.daemon.certificates.serial
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline and (
                await self.serial() != serial or not self.daemon.log.exists()
            ):
                await asyncio.sleep(0.2)
            if await self.serial() == serial and self.daemon.log.exists():
                self.world.counts["reloads"] += 1
            else:
                self.world.ledger.fault("SIGHUP was not obeyed")

    async def serial(self):
        """Number of the certificate that newcomers are shown."""
        _, writer = await asyncio.open_connection(
            "127.0.0.1", self.daemon.port, ssl=self.world.tls, server_hostname="localhost"
        )
        try:
            return int(writer.get_extra_info("peercert")["serialNumber"], 16)
        finally:
            writer.transport.abort()

    async def verify(self, port, protocol):
        """`roomcast verify` again and again, as long as a run fits in."""
        rates = [f"--cuts={2 * self.load}", f"--rate={max(1, round(5 * self.load))}"]
        size = [*"--members 48 --rooms 4 --publishers 4 --size 200".split(), *rates]
        while time.monotonic() + VERIFY_SECS + 5 < self.end:
            begin = time.monotonic()
            run = await asyncio.create_subprocess_exec(
                *(
                    self.program,
                    "verify",
                    "--url",
                    f"ws://127.0.0.1:{port}/ws",
                    "--protocol",
                    protocol,
                ),
                *(*size, "--secs", str(VERIFY_SECS)),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            try:
                said = (await asyncio.wait_for(run.communicate(), VERIFY_LONGEST_SECS))[0].decode()
            except asyncio.TimeoutError:
                said = "it did not end"
            finally:
                if run.returncode is None:
                    run.kill()
                    await run.wait()
            if run.returncode == NO_VERDICT:
                self.world.judge.miss(f"verify --protocol {protocol}: {said[-500:]}", begin)
                continue
            if run.returncode != 0:
                self.world.ledger.fault(
                    f"verify --protocol {protocol}: {run.returncode} {said[-1500:]}"
                )
                continue
            self.verified[f"{protocol} runs"] += 1
            for name in ("published", "delivered", "cuts", "resumes", "lost silently"):
                self.verified[name] += int(re.search(rf"^{name} +(\d+)$", said, re.MULTILINE)[1])

    async def metrics(self):
        """What the daemon tells. It may be late if this program is."""
        while True:
            begin = time.monotonic()
            try:
                return await self.daemon.metrics()
            except Broken:
                if not (self.daemon.is_alive() and self.world.judge.excuses(begin)):
                    raise

    async def descriptors(self):
        """How many are open, without the connection that has just asked for metrics."""
        while True:
            count = self.daemon.descriptors()
            await asyncio.sleep(SAMPLE_SECS)
            if self.daemon.descriptors() == count:
                return count

    async def at_rest(self, seconds):
        """Waits until nothing is left, and returns the metrics; also when something is."""
        deadline = time.monotonic() + seconds
        while True:
            metrics = await self.metrics()
            if (
                all(metrics[name] == value for name, value in AT_REST.items())
                or time.monotonic() > deadline
            ):
                return metrics
            await asyncio.sleep(0.5)

"""The daemon under load: built, started, looked at from outside, told to reload, and ended."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
START_TIMEOUT_SECS = 20
END_TIMEOUT_SECS = 30
ANSWER_SECS = 20
TICK_SECS = 1 / os.sysconf("SC_CLK_TCK")

HISTORY_TTL_SECS = 10
HANDSHAKE_TIMEOUT_SECS = 20
PONG_TIMEOUT_SECS = 50
ORIGIN = "https://app.example"

# Small enough that queues and histories are full before the warm-up is over, and that what a client
# does wrong ends it within a minute.
OPTIONS = [
    *("--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--workers", "2"),
    *("--history-size", "200", "--history-bytes", "256KiB", "--history-memory", "64MiB"),
    *("--history-ttl", f"{HISTORY_TTL_SECS}s", "--write-timeout", "5s"),
    *("--handshake-timeout", f"{HANDSHAKE_TIMEOUT_SECS}s"),
    *("--ping-interval", "20s", "--pong-timeout", f"{PONG_TIMEOUT_SECS}s"),
    *("--heartbeat-interval", "10s", "--message-rate", "100", "--lossy-room", "lossy:*"),
    *("--duplicate-login", "replace", "--allowed-origin", ORIGIN, "--drain-timeout", "5s"),
]


class Failure(Exception):
    """The soak cannot be carried out."""


class Broken(Exception):
    """The daemon has ended, hangs, or refuses to say how it is."""


def run(*command):
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode != 0:
        raise Failure(f"{' '.join(map(str, command))}: {done.stderr.decode(errors='replace')}")
    return done.stdout


def target():
    return Path(
        json.loads(run("cargo", "metadata", "--no-deps", "--format-version", "1"))[
            "target_directory"
        ]
    )


def build():
    """Builds the daemon, and returns where it is."""
    if subprocess.run(
        ["cargo", "build", "--locked", "--release", "--bin", "roomcast"], cwd=ROOT
    ).returncode:
        raise Failure("the daemon could not be built")
    return target() / "release/roomcast"


class Certificates:
    """An authority of our own, and the certificate that it has signed last."""

    CURVE = ("-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-days", "30")

    def __init__(self, folder):
        self.folder, self.serial = folder, 0
        self.authority = folder / "authority.pem"
        self.cert, self.key = folder / "cert.pem", folder / "key.pem"
        run(
            *("openssl", "req", "-x509", *self.CURVE, "-subj", "/CN=soak authority"),
            *("-keyout", folder / "authority.key", "-out", self.authority),
        )
        self.renew()

    def renew(self):
        """Replaces key and certificate. The daemon is not told."""
        self.serial += 1
        made, key = self.folder / "made.pem", self.folder / "made.key"
        run(
            *("openssl", "req", "-x509", *self.CURVE, "-subj", "/CN=localhost"),
            *("-CA", self.authority, "-CAkey", self.folder / "authority.key"),
            *("-set_serial", str(self.serial), "-addext", "basicConstraints=critical,CA:FALSE"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", key, "-out", made),
        )
        key.replace(self.key)
        made.replace(self.cert)


class Daemon:
    """One run of the daemon. Its logs, the rotated ones too, stay in `folder`."""

    def __init__(self, program, folder):
        self.folder = folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.certificates = Certificates(folder)
        self.log, self.rotations = folder / "daemon.log", 0
        environment = {
            k: v for k, v in os.environ.items() if not k.startswith("ROOMCAST_") and k != "RUST_LOG"
        }
        tls = ["--tls-cert", self.certificates.cert, "--tls-key", self.certificates.key]
        with open(folder / "stderr", "wb") as complaints:
            self.process = subprocess.Popen(
                [program, *OPTIONS, *tls, "--log-file", self.log],
                env=environment,
                stdin=subprocess.DEVNULL,
                stderr=complaints,
                start_new_session=True,
            )
        self.proc = Path(f"/proc/{self.process.pid}")
        self.port, self.admin_port = self.ports()

    def ports(self):
        deadline = time.monotonic() + START_TIMEOUT_SECS
        while time.monotonic() < deadline:
            text = self.log.read_text() if self.log.exists() else ""
            found = [
                re.search(rf"listening on 127\.0\.0\.1:(\d+) \({kind}\)", text)
                for kind in ("public", "admin")
            ]
            if all(found):
                return [int(match[1]) for match in found]
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        self.kill()
        raise Failure(f"the daemon did not start: {(self.folder / 'stderr').read_text()}{text}")

    def is_alive(self):
        return self.process.poll() is None

    def rss_bytes(self):
        return int((self.proc / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def cpu_secs(self):
        fields = (self.proc / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * TICK_SECS

    def descriptors(self):
        return len(os.listdir(self.proc / "fd"))

    async def get(self, path):
        """The body of an answer of the admin listener, on a connection of its own."""
        try:
            head, _, body = (await asyncio.wait_for(self.ask(path), ANSWER_SECS)).partition(
                b"\r\n\r\n"
            )
        except (OSError, asyncio.TimeoutError) as error:
            raise Broken(f"{path}: {error!r}") from error
        if not head.startswith(b"HTTP/1.1 200 "):
            raise Broken(f"{path}: {head[:100]}")
        return body.decode()

    async def ask(self, path):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.admin_port)
        try:
            writer.write(
                f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
            )
            return await reader.read()
        finally:
            writer.close()

    async def metrics(self):
        """Every sample by its name with labels, without the prefix."""
        samples = Counter()
        for line in (await self.get("/metrics")).splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                samples[name.removeprefix("roomcast_")] = float(value)
        return samples

    def hang_up(self):
        """Has the log begun in a new file, and another certificate read."""
        self.rotations += 1
        self.log.rename(self.folder / f"daemon.log.{self.rotations}")
        self.certificates.renew()
        self.process.send_signal(signal.SIGHUP)

    def logs(self):
        """All files of the log, the oldest first."""
        old = [self.folder / f"daemon.log.{number}" for number in range(1, self.rotations + 1)]
        return [path for path in [*old, self.log] if path.exists()]

    async def end(self):
        """Ends it in order, and returns its exit status."""
        self.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + END_TIMEOUT_SECS
        while self.process.poll() is None and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        return self.process.poll()

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

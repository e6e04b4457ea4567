"""Builds what is measured, and runs servers on a core of their own."""

import json
import socket
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SERVER_CORE, LOAD_CORE = 0, 1
START_TIMEOUT_SECS = 10


class Failure(Exception):
    pass


def run(*command, **options):
    done = subprocess.run(command, cwd=ROOT, **options)
    if done.returncode != 0:
        raise Failure(f"{command[0]} ended with {done.returncode}: {' '.join(map(str, command))}")
    return done


def build():
    """Builds floor, load generator and roomcast (release), and returns the target directory."""
    told = run("cargo", "metadata", "--no-deps", "--format-version", "1", stdout=subprocess.PIPE)
    target = Path(json.loads(told.stdout)["target_directory"])
    run("cargo", "build", "--locked", "--release", "--bin", "roomcast")
    manifest = ROOT / "benches/load/Cargo.toml"
    load = ["--manifest-path", manifest, "--target-dir", target / "load"]
    run("cargo", "build", "--locked", "--release", *load)
    (target / "floor").mkdir(parents=True, exist_ok=True)
    source = ROOT / "benches/floor/floor.c"
    run("cc", "-O3", "-march=native", "-o", target / "floor/floor", source)
    return target


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A server on the server's core: a fresh process from entering to leaving each `with` block.

    `kind` is "floor" or "roomcast"; `before` is what the command line begins with, such as a
    program that watches the server.
    """

    def __init__(self, target, kind, options=(), before=()):
        self.target, self.kind, self.options, self.before = target, kind, options, before
        self.name = " ".join([kind, *options])

    def __enter__(self):
        self.log = open(self.target / "compare.log", "w+", encoding="utf-8", errors="replace")
        if self.kind == "floor":
            self.port = free_port()
            command = [self.target / "floor/floor", str(self.port), *self.options]
        else:
            listen = ["--listen", "127.0.0.1:0", "--admin-listen", "off"]
            command = [self.target / "release/roomcast", *listen, *self.options]
        pinned = ["taskset", "-c", str(SERVER_CORE), *self.before, *command]
        # `taskset` replaces itself, so the child's process id is that of what it starts.
        outputs = {"stdin": subprocess.DEVNULL, "stdout": self.log, "stderr": self.log}
        self.process = subprocess.Popen(pinned, **outputs)
        try:
            self.wait_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.log.close()

    def wait_ready(self):
        deadline = time.monotonic() + START_TIMEOUT_SECS
        while self.process.poll() is None and time.monotonic() < deadline:
            if self.is_ready():
                return
            time.sleep(0.01)
        self.log.seek(0)
        raise Failure(f"{self.name} does not listen:\n{self.log.read()[-2000:]}")

    def is_ready(self):
        if self.kind == "floor":
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0
        for line in Path(self.log.name).read_text(errors="replace").splitlines():
            if "listening on 127.0.0.1:" in line and line.endswith("(public)"):
                self.port = int(line.split("listening on 127.0.0.1:")[1].split(" ")[0])
                return True
        return False

    def base_url(self):
        return f"ws://127.0.0.1:{self.port}"

    def urls(self):
        """Where members and publishers connect. A publisher is not among those who receive."""
        if self.kind == "floor":
            return f"{self.base_url()}/room/{{room}}", f"{self.base_url()}/pub/{{room}}"
        members = f"{self.base_url()}/ws?room=r{{room}}"
        return members, f"{members}&echo=0"

    def sdk_url(self):
        """Where members connect that speak the Centrifugo client protocol."""
        return f"{self.base_url()}/connection/websocket"

    def echo_url(self):
        return f"{self.base_url()}/echo"

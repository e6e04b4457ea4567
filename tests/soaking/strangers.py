"""Clients that keep no books: those that stall, say nothing, break a rule, look in, or go at once.

Each runs one visit and tells whether it ended as it should; anything else is a fault.
"""

import asyncio
import os
import random
import socket
import ssl
import time

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from .daemon import HANDSHAKE_TIMEOUT_SECS, PONG_TIMEOUT_SECS
from .judge import CLOSED_BY_ALL, CODES_OF_SLOWNESS, NO_CODE
from .members import JsonMember

GRACE_SECS = 30
RECEIVE_BYTES = 16 * 1024
SLOW = 3008


class Stalled(JsonMember):
    """A member that stops reading for a while, again and again.

    Its books go on: what it was given before it was closed, and what it is told when it comes back.
    """

    kind = "stalled"

    def __init__(self, world, name, room, stalls_for):
        super().__init__(world, name, [room])
        self.stalls_for = stalls_for

    def dial(self):
        """A small window, so that the kernel keeps little and the daemon's queue fills soon."""
        narrow = socket.socket()
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        narrow.connect(("127.0.0.1", self.world.daemon.port))
        narrow.setblocking(False)
        return self.world.dial() | {"sock": narrow}

    async def opened(self):
        self.taken = 0
        self.has_stalled = False

    async def take(self, message):
        await super().take(message)
        self.taken += 1
        # The backlog of a stall is read without another one.
        if self.taken % 2000 == 5 and not self.world.is_settling:
            self.world.counts["stalls"] += 1
            self.has_stalled = True
            await self.world.pause(random.uniform(*self.stalls_for))

    def judge(self, code, reason):
        # Who is silent for too long is dropped without waiting for it to read why.
        if self.has_stalled and (code in CODES_OF_SLOWNESS or code == NO_CODE):
            self.world.counts["stalled members closed"] += 1
        else:
            super().judge(code, reason)


class Slow(Stalled):
    """A member of a lossy room that reads less than is published."""

    kind = "slow"

    def __init__(self, world, name, room):
        super().__init__(world, name, room, None)

    def dial(self):
        return super().dial() | {"max_queue": 2}

    async def opened(self):
        await super().opened()
        # Small pieces, so that there is progress all the time.
        self.connection.transport.set_read_buffer_limits(high=RECEIVE_BYTES)

    async def take(self, message):
        await JsonMember.take(self, message)
        self.taken += 1
        if self.world.is_settling:
            return
        await self.world.pause(0.25)
        if self.taken % 20 == 0:
            # Pings stand behind a backlog of minutes: this says that somebody is there.
            await self.connection.pong()

    def judge(self, code, reason):
        # A message to everybody is no publication of the lossy room, so it closes a full queue; and
        # the backlog is longer than the daemon waits for its close frame to be read.
        if code in (SLOW, NO_CODE):
            self.world.counts[CLOSED_BY_ALL] += 1
        else:
            super().judge(code, reason)


async def stream(world):
    """A TLS connection as it is."""
    return await asyncio.open_connection(
        "127.0.0.1", world.daemon.port, ssl=world.tls, server_hostname="localhost"
    )


async def read_to_end(reader, seconds):
    try:
        return await asyncio.wait_for(reader.read(), seconds)
    except (OSError, ssl.SSLError):
        return b""


async def http(world, lines, expected):
    """A plain request, and the status that it must get."""
    reader, writer = await stream(world)
    try:
        writer.write("\r\n".join([*lines, "Host: localhost", "", ""]).encode())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n"), GRACE_SECS)
        if f" {expected} ".encode() not in head:
            world.ledger.fault(f"{lines[0]}: {head}")
        world.counts["plain requests"] += 1
    finally:
        writer.transport.abort()


async def requests(world):
    upgrade = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
    key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
    await http(world, ["GET / HTTP/1.1"], 200)
    await http(world, ["GET /healthz HTTP/1.1"], 200)
    await http(world, ["GET /nowhere HTTP/1.1"], 404)
    await http(world, ["POST /ws HTTP/1.1", "Content-Length: 0"], 405)
    await http(world, ["GET /ws?room=r HTTP/1.1"], 426)
    await http(world, ["GET /ws?room=r HTTP/1.1", *upgrade], 400)
    await http(world, ["GET /ws HTTP/1.1", *upgrade, key], 400)
    await http(
        world, ["GET /ws?room=r HTTP/1.1", *upgrade, key, "Origin: https://evil.example"], 403
    )
    await http(world, ["GET /ws HTTP/1.1", "X-Large: " + "x" * 9000], 431)


async def closed(world, path, code, send):
    """Opens, sends, and must be closed with the code."""
    async with connect(world.url + path, **world.dial()) as connection:
        try:
            for message in send:
                await connection.send(message)
            while True:
                await asyncio.wait_for(connection.recv(), GRACE_SECS)
        except ConnectionClosed:
            pass
        # The close frame may be lost in a reset, when more was sent than the daemon has read.
        if connection.close_code not in (code, NO_CODE):
            world.ledger.fault(f"{path}: {connection.close_code} and not {code}")
        world.counts[f"closed {code}"] += connection.close_code == code


async def offenders(world):
    number = world.serial()
    await closed(world, f"/ws?room=offence:{number}", 1009, [b"x" * 70000])
    await closed(world, f"/ws?room=offence:{number}&user=o{number}&echo=0", 3013, ["flood"] * 400)
    await closed(world, "/connection/websocket", 3501, ["no JSON"])
    origin = world.dial() | {"origin": "https://app.example"}
    async with connect(f"{world.url}/ws", **origin) as connection:
        await connection.wait_closed()
        if connection.close_code != 3501:
            world.judge.wrong_end("a query without rooms", connection.close_code)


async def broken_frames(world):
    """Frames that RFC 6455 forbids: unmasked, reserved bits, a text that is no UTF-8."""
    for frame, code in [
        (b"\x81\x01a", 1002),
        (b"\xf1\x80\0\0\0\0", 1002),
        (b"\x81\x82\0\0\0\0\xff\xfe", 1007),
    ]:
        begin = time.monotonic()
        reader, writer = await stream(world)
        try:
            await upgrade(reader, writer, "/ws?room=broken")
            writer.write(frame)
            end = await read_to_end(reader, GRACE_SECS)
            if code.to_bytes(2, "big") in end:
                world.counts["broken frames"] += 1
            elif end:
                world.ledger.fault(f"{frame!r} and not {code}: {end!r}")
            else:
                world.judge.miss(f"{frame!r} and not {code}", begin)
        finally:
            writer.transport.abort()


async def upgrade(reader, writer, path):
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
    )
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), GRACE_SECS)
    if b" 101 " not in head:
        raise OSError(f"no upgrade: {head[:60]}")


async def mute(world):
    """Reads and never answers a ping: closed 3012."""
    begin = time.monotonic()
    reader, writer = await stream(world)
    try:
        await upgrade(reader, writer, "/ws?room=mute")
        end = await read_to_end(reader, PONG_TIMEOUT_SECS + GRACE_SECS)
        if (3012).to_bytes(2, "big") in end:
            world.counts["mute members closed"] += 1
        else:
            world.judge.miss(f"a mute member was not closed 3012: {end[-40:]}", begin)
    finally:
        writer.transport.abort()


async def silent(world):
    """Connects and says nothing, with TLS or not even that: closed in time."""
    for tls in (world.tls, None):
        server_hostname = "localhost" if tls else None
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", world.daemon.port, ssl=tls, server_hostname=server_hostname
        )
        try:
            await read_to_end(reader, HANDSHAKE_TIMEOUT_SECS + GRACE_SECS)
            world.counts["silent connections closed"] += 1
        finally:
            writer.transport.abort()


async def babbler(world):
    """Speaks no TLS."""
    for said in (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", os.urandom(200)):
        reader, writer = await asyncio.open_connection("127.0.0.1", world.daemon.port)
        try:
            writer.write(said)
            await read_to_end(reader, HANDSHAKE_TIMEOUT_SECS + GRACE_SECS)
            world.counts["no TLS"] += 1
        finally:
            writer.transport.abort()


async def passer_by(world):
    """Connects and resets, before or after the handshake of TLS."""
    _, writer = await asyncio.open_connection("127.0.0.1", world.daemon.port)
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.transport.abort()
    _, writer = await stream(world)
    writer.transport.abort()
    world.counts["passers-by"] += 2


async def hear(connection):
    """The next message that is no heartbeat and is not meant for everybody."""
    while True:
        message = await asyncio.wait_for(connection.recv(), GRACE_SECS)
        if message != "heartbeat" and not message.startswith("all:"):
            return message


async def visitor(world):
    """A new user in a new room of its own: says something, hears it, is pinged, and goes."""
    number = world.serial()
    url = f"{world.url}/ws?room=visit:{number}&user=visitor-{number}"
    async with connect(url, **world.dial()) as connection:
        await connection.send(f"hello {number}")
        answer = await hear(connection)
        if answer != f"hello {number}":
            world.ledger.fault(f"visitor {number} heard {answer!r}")
        await asyncio.wait_for(await connection.ping(), GRACE_SECS)
        world.counts["visitors"] += 1


async def double(world):
    """Logs in twice: the first connection is replaced."""
    url = f"{world.url}/ws?user=double-{world.serial()}"
    async with connect(url, **world.dial()) as first, connect(url, **world.dial()):
        await asyncio.wait_for(first.wait_closed(), GRACE_SECS)
        if first.close_code != 3504:
            world.judge.wrong_end("the first of two logins", first.close_code)
        world.counts["second logins"] += first.close_code == 3504


async def ousted(world, backend):
    """Is taken out of a room by a back end, and then hears nothing more of it."""
    number = world.serial()
    room, user = f"ousted:{number}", f"ousted-{number}"
    async with connect(f"{world.url}/ws?room={room}&user={user}", **world.dial()) as connection:
        await backend.call("publish", channel=room, data="before")
        await backend.call("unsubscribe", channel=room, user=user)
        await backend.call("publish", channel=room, data="behind")
        await backend.call("publish", channel=f"#{user}", data="end")
        heard = [await hear(connection) for _ in range(2)]
        if heard != ["before", "end"]:
            world.ledger.fault(f"{user} heard {heard}")
        world.counts["taken out of a room"] += 1


async def echoes(world):
    """Messages of any size come back."""
    async with connect(f"{world.url}/echo", **world.dial()) as connection:
        for size in (0, 1, 125, 126, 5000, 65000):
            sent = os.urandom(size)
            await connection.send(sent)
            if await asyncio.wait_for(connection.recv(), GRACE_SECS) != sent:
                world.ledger.fault(f"an echo of {size} bytes differs")
            world.counts["echoes"] += 1


async def refused(world):
    """Is told by a status that it cannot come in."""
    try:
        async with connect(f"{world.url}/ws?room=", **world.dial()):
            world.ledger.fault("a room without a name was joined")
    except InvalidStatus as error:
        if error.response.status_code != 400:
            world.ledger.fault(f"a room without a name: {error}")
        world.counts["refused"] += 1


# What runs how often: a visit begins this many seconds after the one before it.
VISITS = [
    (requests, 4.0),
    (offenders, 5.0),
    (broken_frames, 5.0),
    (mute, 10.0),
    (silent, 6.0),
    (babbler, 4.0),
    (passer_by, 1.0),
    (visitor, 0.5),
    (double, 4.0),
    (echoes, 3.0),
    (refused, 4.0),
]

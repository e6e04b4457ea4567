"""Members of rooms, each in a form of its own, that keep a book over every connection they have.

A member comes back for as long as the world runs. Between two connections it stays away for a
moment or, now and then, for longer than history reaches back.
"""

import asyncio
import base64
import gzip
import json
import random
import time
from urllib.parse import urlencode

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from .books import Book, RawBook, ident_of

GZIP_MAGIC = b"\x1f\x8b"
# What a raw member asks for again: more than clocks and deliveries may differ by.
OVERLAP_SECS = 5
FORCED, INSUFFICIENT = 3503, 3010
# A member that was thrown out hears of it within this time.
KICK_SECS = 30


def payload(ident, size):
    """Text that begins with the id."""
    head = f"{ident >> 32}:{ident & 0xFFFFFFFF}:"
    return head + ("danmaku %d " % (ident & 0xFF) * (size // 9 + 1))[: max(size - len(head), 0)]


def ident_in(data):
    """The id of text, bytes or an object that was published."""
    if isinstance(data, dict):
        data = data["id"] if "id" in data else base64.b64decode(data["b64"])
    if isinstance(data, bytes):
        data = data.decode()
    publisher, count, _ = data.split(":", 2)
    return ident_of(int(publisher), int(count))


class Member:
    """What all kinds of members share: connecting, being cut off, coming back."""

    kind = "?"

    def __init__(self, world, name, rooms, user=None):
        self.world, self.name, self.rooms, self.user = world, name, rooms, user
        self.connection = None
        self.is_cut = False
        self.stays_away = 0.0
        self.leaving = False
        self.connects = 0
        world.members.append(self)

    def url(self):
        raise NotImplementedError

    def dial(self):
        return self.world.dial()

    async def opened(self):
        pass

    async def take(self, message):
        raise NotImplementedError

    def ended(self, code):
        pass

    def is_complete(self):
        return all(book.is_complete() for book in self.books.values())

    def cut(self):
        """Ends the connection without a word."""
        if self.connection is not None:
            self.is_cut = True
            self.world.counts["cut off"] += 1
            self.connection.transport.abort()

    async def leave(self):
        """Ends it in order; the member comes back."""
        if self.connection is not None:
            self.leaving = True
            self.world.counts["left in order"] += 1
            await self.connection.close()

    async def run(self):
        while not self.world.is_over:
            self.is_cut = self.leaving = False
            code, begin = None, time.monotonic()
            try:
                async with connect(self.url(), **self.dial()) as connection:
                    self.connection = connection
                    self.connects += 1
                    await self.opened()
                    async for message in connection:
                        await self.take(message)
                code = connection.close_code
            except ConnectionClosed:
                code = connection.close_code
            except (OSError, InvalidHandshake, asyncio.TimeoutError) as error:
                self.world.refused(self, error, begin)
            finally:
                self.connection = None
            if code is not None:
                self.judge(code, connection.close_reason)
                self.ended(code)
            away, self.stays_away = self.stays_away or random.uniform(0, 1.5), 0.0
            await self.world.pause(away)

    def judge(self, code, reason):
        """Whether the end of the connection has a cause that is known."""
        if self.world.is_over or self.is_cut or (self.leaving and code == 1000):
            return
        kicked_at = self.world.kicked_at.get(self.user)
        if code == FORCED and kicked_at and time.monotonic() - kicked_at < KICK_SECS:
            self.world.counts["kicked"] += 1
        elif code != INSUFFICIENT or self.kind != "raw":
            self.world.judge.wrong_end(f"{self.name}, {reason}", code)


class JsonMember(Member):
    """`format=json`, perhaps with gzip. The positions are those of its books."""

    kind = "json"

    def __init__(self, world, name, rooms, user=None, gzipped=False, own=None):
        super().__init__(world, name, rooms, user)
        self.gzipped, self.own = gzipped, own
        names = [*rooms, f"#{user}"] if user else rooms
        self.books = {room: Book(world.ledger.log(room), name, own) for room in names}
        self.broadcasts = 0

    def url(self):
        query = [("format", "json"), *(("room", room) for room in self.rooms)]
        for room, book in self.books.items():
            if book.position() is not None:
                epoch, offset = book.position()
                query.append(("since", f"{room}@{epoch}.{offset}"))
        if self.user:
            query.append(("user", self.user))
        if self.gzipped:
            query.append(("gzip", "1"))
        if self.own is not None:
            query.append(("echo", "0"))
        return f"{self.world.url}/ws?{urlencode(query)}"

    async def take(self, message):
        if isinstance(message, bytes):
            self.world.counts["gzip messages"] += 1
            message = gzip.decompress(message)
        ((kind, body),) = json.loads(message).items()
        if kind == "publication":
            if "room" not in body:
                self.broadcasts += 1
                return
            data = body["data"] if "data" in body else {"b64": body["b64"]}
            self.books[body["room"]].publication(body["offset"], ident_in(data))
            self.world.received += 1
        elif kind == "joined":
            self.books[body["room"]].joined(
                body["epoch"], body["offset"], body["recovered"], body["lost"]
            )
            if not body["recovered"]:
                self.world.counts["losses told"] += 1
        elif kind == "skipped":
            self.books[body["room"]].skip(body["count"])
            self.world.counts["skips told"] += 1
        elif kind == "heartbeat":
            self.world.counts["heartbeats"] += 1
        elif kind != "closing":
            self.world.ledger.fault(f"{self.name}: {kind}")


class RawMember(Member):
    """`format=raw`: comes back by time."""

    kind = "raw"

    def __init__(self, world, name, room, gzipped=False):
        super().__init__(world, name, [room])
        self.gzipped = gzipped
        self.book = RawBook(world.ledger.log(room), name)
        self.books = {room: self.book}
        self.since = None

    def url(self):
        query = [("room", self.rooms[0]), ("last", "20")]
        if self.since is not None:
            ago = time.monotonic() - self.since
            query[1] = ("since", str(int((time.time() - ago) * 1000)))
        if self.gzipped:
            query.append(("gzip", "1"))
        return f"{self.world.url}/ws?{urlencode(query)}"

    async def opened(self):
        self.book.joined()

    async def take(self, message):
        if message == "heartbeat":
            self.world.counts["heartbeats"] += 1
            return
        if isinstance(message, bytes) and message.startswith(GZIP_MAGIC):
            self.world.counts["gzip messages"] += 1
            message = gzip.decompress(message)
        if isinstance(message, bytes):
            message = message.decode()
        if message.startswith("{"):
            message = json.loads(message)
        elif message.startswith("all:"):
            return
        self.book.publication(ident_in(message))
        self.world.received += 1
        self.since = time.monotonic() - OVERLAP_SECS

    def ended(self, code):
        if code == INSUFFICIENT:
            self.world.counts["losses told"] += 1
            self.book.begun_anew(self.since)
            self.since = None


class IdleMember(Member):
    """In a room where nothing happens but heartbeats and pings."""

    kind = "idle"
    books = {}

    def url(self):
        return f"{self.world.url}/ws?room={self.rooms[0]}"

    async def take(self, message):
        if message == "heartbeat":
            self.world.counts["heartbeats of idle members"] += 1
        elif not message.startswith("all:"):
            self.world.ledger.fault(f"{self.name}: {message[:80]}")


class CentrifugoMember(Member):
    """The Centrifugo client protocol. May publish, too, and is answered."""

    kind = "centrifugo"

    def __init__(self, world, name, rooms, user=None, publisher=None, join_leave=False):
        super().__init__(world, name, rooms, user)
        self.books = {room: Book(world.ledger.log(room), name) for room in rooms}
        self.publisher, self.join_leave = publisher, join_leave
        self.commands = 0
        self.asked = {}

    def url(self):
        query = f"?user={self.user}" if self.user else ""
        return f"{self.world.url}/connection/websocket{query}"

    def has_joined(self):
        return all(book.due is not None for book in self.books.values())

    async def send(self, method, body, ident=None):
        """Sends a command. What was asked is known before an answer can come."""
        self.commands += 1
        self.asked[self.commands] = (method, body, ident)
        await self.connection.send(json.dumps({"id": self.commands, method: body}))

    async def opened(self):
        self.asked.clear()
        await self.send("connect", {})
        for room in self.rooms:
            await self.subscribe(room)

    async def subscribe(self, room):
        body = {"channel": room}
        position = self.books[room].position()
        if position is not None:
            body |= {"recover": True, "epoch": position[0], "offset": position[1]}
        if self.join_leave:
            body["join_leave"] = True
        await self.send("subscribe", body)

    async def publish(self, room, size):
        """One publication; its id is known to be published when it was answered."""
        ident = self.publisher.next()
        body = {"channel": room, "data": {"id": payload(ident, size)}}
        await self.send("publish", body, ident)

    async def ask(self, method, room):
        await self.send(method, {"channel": room})

    async def take(self, message):
        for line in message.split("\n"):
            frame = json.loads(line)
            if not frame:
                await self.connection.send("{}")
                self.world.counts["centrifugo pings"] += 1
            elif "push" in frame:
                await self.pushed(frame["push"])
            elif frame.get("id") in self.asked:
                self.replied(frame, *self.asked.pop(frame["id"]))
            elif "skipped" not in frame:
                self.world.ledger.fault(f"{self.name}: {line[:80]}")

    async def pushed(self, push):
        room = push.get("channel")
        if "pub" in push and room in self.books:
            self.publication(room, push["pub"])
        elif "unsubscribe" in push:
            # Told by the operator to stay out; it comes back into the room where it was.
            self.world.counts["unsubscribed"] += 1
            await self.subscribe(room)
        elif "join" in push or "leave" in push:
            self.world.counts["joins and leaves told"] += 1
        elif "message" not in push and "pub" not in push:
            self.world.ledger.fault(f"{self.name}: push {push}")

    def publication(self, room, pub):
        self.books[room].publication(pub["offset"], ident_in(pub["data"]))
        self.world.received += 1

    def replied(self, frame, method, body, ident):
        if "error" in frame:
            self.world.ledger.fault(f"{self.name}: {method} {frame['error']}")
        elif method == "publish":
            self.publisher.accepted(ident)
        elif method == "subscribe":
            self.subscribed(body["channel"], frame["subscribe"], body.get("recover", False))

    def subscribed(self, room, answer, recovers):
        book = self.books[room]
        if recovers and not answer.get("recovered", False):
            self.world.counts["losses told"] += 1
            book.begun_anew(answer["epoch"], answer.get("offset", 0))
            return
        book.joined(answer["epoch"], answer.get("offset", 0))
        for pub in answer.get("publications", []):
            self.publication(room, pub)

    def ended(self, code):
        if self.publisher is not None:
            self.publisher.cut()


class Chatter(JsonMember):
    """A json member that publishes on its own connection and does not hear itself."""

    kind = "chatter"

    def __init__(self, world, name, room):
        self.publisher = world.ledger.publisher()
        super().__init__(world, name, [room], own=self.publisher.number)

    async def say(self, size):
        if self.connection is None or self.leaving:
            return
        ident = self.publisher.next()
        try:
            await self.connection.send(payload(ident, size))
            self.world.counts["published over /ws"] += 1
        except ConnectionClosed:
            self.publisher.withdraw(ident)

    def ended(self, code):
        if code == 1000 and not self.is_cut:
            self.publisher.all_accepted()
        else:
            self.publisher.cut()

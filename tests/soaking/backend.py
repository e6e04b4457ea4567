"""Back ends: they publish by the HTTP API, look at what is there, and throw clients out.

What an answer says about a publication is entered in the books, so it must agree with what members
saw.
"""

import asyncio
import base64
import random
import time

import aiohttp

from .books import name_of
from .members import ident_in, payload

CALL_TIMEOUT_SECS = 30


class Backend:
    """One caller; its calls follow each other, so its publications have one order in every room."""

    def __init__(self, world, admin_port):
        self.world = world
        self.base = f"http://127.0.0.1:{admin_port}/api/"
        self.publisher = world.ledger.publisher()
        self.http = None

    async def __aenter__(self):
        timeout = aiohttp.ClientTimeout(total=CALL_TIMEOUT_SECS)
        self.http = aiohttp.ClientSession(timeout=timeout, trust_env=False)
        return self

    async def __aexit__(self, *_):
        await self.http.close()

    async def call(self, method, **body):
        """The result. An error or a failure is a fault, and then there is none."""
        begin = time.monotonic()
        try:
            async with self.http.post(self.base + method, json=body) as answer:
                told = await answer.json(content_type=None)
                if answer.status != 200 or "error" in told:
                    self.world.ledger.fault(f"{method}: {answer.status} {told}")
                    return None
                self.world.counts["API calls"] += 1
                return told["result"] if method != "batch" else told
        except (OSError, aiohttp.ClientError, asyncio.TimeoutError) as error:
            self.world.judge.miss(f"{method}: {error!r}", begin)
            return None

    def data(self, ident, size):
        """The publication as a field of a call, in one of its three forms."""
        text = payload(ident, size)
        return random.choice(
            [
                {"data": text},
                {"data": {"id": text, "likes": size}},
                {"b64data": base64.b64encode(text.encode()).decode()},
            ]
        )

    def published(self, room, ident, result, is_kept=True):
        log = self.world.ledger.log(room)
        log.saw_epoch(result["epoch"])
        log.note(result["offset"], ident)
        if not is_kept:
            log.unkept.add(result["offset"])

    async def publish(self, room, size, **more):
        ident = self.publisher.next()
        result = await self.call("publish", channel=room, **self.data(ident, size), **more)
        if result is None:
            self.publisher.cut()
            return None
        self.publisher.accepted(ident)
        self.published(room, ident, result, not more.get("skip_history"))
        return result

    async def publish_twice(self, room, size):
        """The same call again is answered as the first was, and publishes nothing."""
        key = name_of(self.publisher.number << 32 | self.publisher.count + 1)
        first = await self.publish(room, size, idempotency_key=key)
        again = await self.call("publish", channel=room, data="again", idempotency_key=key)
        if first is not None and again != first:
            self.world.ledger.fault(f"{room}: a repeated call got {again} after {first}")

    async def batch(self, room, size, count):
        """So many publications and a look, in their order."""
        idents = [self.publisher.next() for _ in range(count)]
        publishes = [{"publish": {"channel": room, **self.data(ident, size)}} for ident in idents]
        told = await self.call(
            "batch", commands=[*publishes, {"presence_stats": {"channel": room}}]
        )
        if told is None:
            self.publisher.cut()
            return
        for ident, reply in zip(idents, told["replies"]):
            if "publish" not in reply:
                self.world.ledger.fault(f"{room}: {reply} in a batch")
                self.publisher.withdraw(ident)
                continue
            self.publisher.accepted(ident)
            self.published(room, ident, reply["publish"])
        if len(told["replies"]) != count + 1:
            self.world.ledger.fault(f"{room}: {len(told['replies'])} replies to {count + 1}")
            self.publisher.cut()

    async def look(self, room):
        """History agrees with what is known; the other views are answered."""
        history = await self.call("history", channel=room, limit=20, reverse=True)
        log = self.world.ledger.log(room)
        for publication in (history or {}).get("publications", []):
            data = publication["data"]
            if data is None:
                data = {"b64": publication["b64data"]}
            log.note(publication["offset"], ident_in(data))
        presence = await self.call("presence", channel=room)
        if presence is not None and not presence["presence"]:
            self.world.ledger.fault(f"{room}: nobody is present")
        await self.call("presence_stats", channel=room)
        await self.call("connections", channel=room, limit=20)
        await self.call("channels", pattern="chat:*")
        await self.call("info")

    async def kick(self, user):
        """Disconnects; the member comes back after it."""
        self.world.kicked_at[user] = time.monotonic()
        await self.call("disconnect", user=user)

    async def broadcast(self, rooms, text):
        """One text to many rooms that nobody keeps books of; every one of them is numbered."""
        result = await self.call("broadcast", channels=rooms, data=text)
        for response in (result or {"responses": []})["responses"]:
            if response["result"]["offset"] != 1:
                self.world.ledger.fault(f"a new room began with {response}")
        self.world.counts["rooms made by broadcasts"] += len(rooms)

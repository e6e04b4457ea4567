"""The load as a whole: who is in which room, who publishes what and how often, and who is
disturbed."""

import asyncio
import random
import ssl
import time
from collections import Counter

from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus

from . import strangers
from .backend import Backend
from .books import Ledger
from .judge import Judge
from .members import CentrifugoMember, Chatter, IdleMember, JsonMember, RawMember

LIVE, BULK, DRIP, LOSSY, UNKEPT = "live:1", "bulk", "drip", "lossy:feed", "unkept"
CHATS = [f"chat:{number}" for number in range(6)]
# History keeps at least so many of the large publications: `--history-bytes` is 16 of them.
LARGE_KEPT = 10
# The daemon remembers 32768 rooms that are gone: all of them are others after 131 s.
ROOMS_MADE_A_SECOND = 250
CUTS_A_SECOND = 3
IDLE_MEMBERS, IDLE_APART_SECS = 1000, 0.1
AWAY_FOR_LONG_SECS = (25, 50)
# Within the warm-up, larger bursts than chance makes later: memory is the mark of the largest.
STORMS, STORMS_FROM_SECS, STORMS_APART_SECS = 10, 120, 20
SETTLE_SECS = 90
LOOK_SECS = 0.5
# How a visit ends that did not get on in time: by its own timeout or by one of the daemon's.
LATE = (asyncio.TimeoutError, OSError, EOFError, ConnectionClosed, InvalidMessage)


class World:
    """What the parts of the load share. Ends in two steps: settling, when nobody is disturbed or
    publishes any more and everybody gets what is missing, and over."""

    def __init__(self, daemon, load):
        """`load` is the part of the usual load that is wanted."""
        self.daemon, self.load = daemon, load
        self.url = f"wss://127.0.0.1:{daemon.port}"
        self.tls = ssl.create_default_context(cafile=str(daemon.certificates.authority))
        self.ledger = Ledger(self.tell)
        self.judge = Judge(self.ledger.fault)
        self.ledger.excuses = self.judge.excuses
        self.counts = Counter()
        self.members = []
        self.kicked_at = {}
        self.received = 0
        self.serials = 0
        self.is_settling = self.is_over = False
        self.settling = asyncio.Event()
        self.tasks = []
        self.member_tasks = []
        self.populate()

    def tell(self, text):
        """Writes a fault down at once, as the table shows only the first."""
        with open(self.daemon.folder / "faults", "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%X')} {text}\n")

    async def look_at_the_clock(self):
        """Notes when this program does not get to run."""
        while not self.is_over:
            self.judge.expect(time.monotonic() + LOOK_SECS)
            await asyncio.sleep(LOOK_SECS)
        self.judge.expect(None)

    def spawn(self, work, late=()):
        """A task that cannot break in silence."""
        task = asyncio.create_task(self.judge.watch(work, late))
        # What is cancelled before it begins has not been awaited, and is no mistake.
        task.add_done_callback(lambda _: work.close())
        return task

    def dial(self):
        return {
            "ssl": self.tls,
            "server_hostname": "localhost",
            "compression": None,
            "ping_interval": None,
            "open_timeout": 30,
            "max_size": 1 << 20,
            "max_queue": 32,
            "proxy": None,
        }

    def serial(self):
        self.serials += 1
        return self.serials

    async def pause(self, seconds):
        """Waits, but not into the settling."""
        try:
            await asyncio.wait_for(self.settling.wait(), seconds)
        except asyncio.TimeoutError:
            return
        if self.is_settling:
            await asyncio.sleep(0.05)

    def refused(self, member, error, begin):
        """A connection could not be made since `begin`. What has a status is no matter of time."""
        if isinstance(error, InvalidStatus):
            self.ledger.fault(f"{member.name}: {error}")
        else:
            self.judge.miss(f"{member.name}: {error!r}", begin)
        self.counts["connects failed"] += 1

    def populate(self):
        """Members of every kind. The first of each room is never disturbed."""
        for room in (BULK, DRIP, LOSSY):
            self.ledger.log(room, kept_count=LARGE_KEPT, is_lossy=room == LOSSY)
        self.witnesses = []
        for room in [LIVE, BULK, DRIP, LOSSY, UNKEPT, *CHATS]:
            self.witnesses.append(JsonMember(self, f"witness of {room}", [room]))
        for number in range(24):
            JsonMember(self, f"json-{number}", [LIVE, CHATS[number % 6]], user=f"json-{number}")
        for number in range(12):
            JsonMember(self, f"gzip-{number}", [LIVE], gzipped=True)
            RawMember(self, f"raw-{number}", LIVE, gzipped=number % 2 == 0)
            RawMember(self, f"raw-chat-{number}", CHATS[number % 6])
            JsonMember(self, f"unkept-{number}", [UNKEPT])
        for number in range(12):
            publisher = self.ledger.publisher() if number < 6 else None
            rooms = [LIVE, CHATS[number % 6]]
            CentrifugoMember(
                self, f"sdk-{number}", rooms, f"sdk-{number}", publisher, join_leave=number >= 9
            )
        self.chatters = [Chatter(self, f"chatter-{n}", CHATS[n % 6]) for n in range(12)]
        for number in range(4):
            # The first fill their queue before the write timeout, the others do not.
            strangers.Stalled(self, f"stalled-{number}", BULK, (20, 40))
            strangers.Stalled(self, f"dripping-{number}", DRIP, (40, 70))
        for number in range(3):
            strangers.Slow(self, f"slow-{number}", LOSSY)
            JsonMember(self, f"feed-{number}", [LOSSY], gzipped=number == 0)
        self.idle = [
            IdleMember(self, f"idle-{number}", [f"idle:{number % 100}"])
            for number in range(IDLE_MEMBERS)
        ]
        self.disturbed = [
            member
            for member in self.members
            if member not in self.witnesses and member.kind not in ("stalled", "slow", "idle")
        ]

    def start(self):
        spawn, load = self.spawn, self.load
        self.clock = spawn(self.look_at_the_clock())
        busy = [member for member in self.members if member.kind != "idle"]
        self.member_tasks = [spawn(member.run()) for member in busy]
        self.tasks = [
            *(spawn(self.every(seconds / load, visit)) for visit, seconds in strangers.VISITS),
            spawn(self.back_end(0.1 / load, self.publish_live)),
            spawn(self.back_end(0.5, lambda backend: backend.batch(BULK, 16000, 10))),
            spawn(self.back_end(0.5, lambda backend: backend.batch(DRIP, 16000, 5))),
            spawn(self.back_end(0.5, lambda backend: backend.batch(LOSSY, 16000, 5))),
            spawn(self.back_end(0.25 / load, self.publish_unkept)),
            spawn(self.back_end(1.0, self.make_rooms)),
            spawn(self.back_end(2.0 / load, self.administer)),
            spawn(self.back_end(3.0 / load, lambda backend: strangers.ousted(self, backend))),
            *(spawn(self.chat(chatter)) for chatter in self.chatters),
            *(spawn(self.sdk(m)) for m in self.members if m.kind == "centrifugo"),
            spawn(self.disturb()),
            spawn(self.storm()),
            spawn(self.start_idle()),
        ]

    async def start_idle(self):
        for member in self.idle:
            self.member_tasks.append(self.spawn(member.run()))
            await self.pause(IDLE_APART_SECS)

    async def every(self, seconds, visit):
        """Visits that begin so long after each other, also where one takes longer."""
        visits = set()
        while not self.is_settling:
            task = self.spawn(visit(self), LATE)
            visits.add(task)
            task.add_done_callback(visits.discard)
            await self.pause(random.uniform(0.5, 1.5) * seconds)
        await asyncio.gather(*visits)

    async def back_end(self, seconds, act):
        """A back end of its own that acts so often."""
        async with Backend(self, self.daemon.admin_port) as backend:
            due = time.monotonic()
            while not self.is_settling:
                await self.judge.watch(act(backend), LATE)
                due = max(due + seconds, time.monotonic() - 1)
                await self.pause(max(due - time.monotonic(), 0))

    async def publish_live(self, backend):
        size = random.choice((20, 60, 100, 400, 1500))
        what = random.random()
        if what < 0.1:
            await backend.publish_twice(LIVE, size)
        elif what < 0.2:
            await backend.batch(LIVE, size, 2)
        else:
            await backend.publish(LIVE, size)

    async def publish_unkept(self, backend):
        await backend.publish(UNKEPT, 100, skip_history=random.random() < 0.5)

    async def make_rooms(self, backend):
        """Rooms that nobody ever comes to, and publications with keys, remembered for longer."""
        serials = [self.serial() for _ in range(ROOMS_MADE_A_SECOND)]
        await backend.broadcast([f"passing:{serial}" for serial in serials], f"all of {serials[0]}")
        serial = self.serial()
        for _ in range(2):
            serial = self.serial()
            await backend.call(
                "publish", channel=f"keyed:{serial % 50}", data="x", idempotency_key=f"k{serial}"
            )

    async def administer(self, backend):
        """One of what operators and back ends do now and then."""
        await backend.look(random.choice([LIVE, *CHATS]))
        user = random.choice([member.user for member in self.disturbed if member.user])
        if random.random() < 0.5:
            await backend.kick(user)
        else:
            await backend.publish(f"#json-{random.randrange(24)}", 50)
        sdk = f"sdk-{random.randrange(12)}"
        await backend.call("unsubscribe", channel=LIVE, user=sdk)
        self.counts["rounds of administration"] += 1
        is_fifth = self.counts["rounds of administration"] % 5 == 0
        if is_fifth and all(member.connection for member in self.witnesses):
            self.counts["publications to all"] += 1
            await backend.call("publish_all", data=f"all:{self.serial()}")
            await backend.call("history_remove", channel="keyed:1")
        await self.daemon.get("/debug/loop")

    async def chat(self, chatter):
        while not self.is_settling:
            await chatter.say(random.choice((10, 50, 300)))
            await self.pause(random.expovariate(2.0 * self.load))

    async def sdk(self, member):
        """Publishes and asks, as long as it is connected and has joined."""
        while not self.is_settling:
            await self.pause(random.uniform(0.5, 1.5) / self.load)
            connection = member.connection
            if connection is None or member.leaving or not member.has_joined():
                continue
            try:
                if member.publisher is not None:
                    await member.publish(member.rooms[1], 80)
                await member.ask(random.choice(("presence", "presence_stats")), member.rooms[1])
            except (OSError, strangers.ConnectionClosed):
                pass

    async def disturb(self):
        """Cuts members off or has them leave; some stay away for longer than history lasts."""
        while not self.is_settling:
            member = random.choice(self.disturbed)
            if random.random() < 0.04:
                member.stays_away = random.uniform(*AWAY_FOR_LONG_SECS)
            if random.random() < 0.7:
                member.cut()
            else:
                task = self.spawn(member.leave())
                self.tasks.append(task)
                task.add_done_callback(self.tasks.remove)
            await self.pause(random.expovariate(CUTS_A_SECOND * self.load))

    async def storm(self):
        """Cuts everybody off at once, so that all resume at once."""
        await self.pause(STORMS_FROM_SECS)
        for _ in range(STORMS):
            for member in self.disturbed:
                member.cut()
            await self.pause(STORMS_APART_SECS)

    async def settle(self):
        """Publishing ends; everybody gets what is missing. Whoever does not stays in the books."""
        self.is_settling = True
        self.settling.set()
        await asyncio.gather(*self.tasks)
        deadline = time.monotonic() + SETTLE_SECS
        while time.monotonic() < deadline:
            await asyncio.sleep(0.2)
            if all(member.connection and member.is_complete() for member in self.members):
                break
        self.counts["members that settled"] = sum(member.is_complete() for member in self.members)
        # What comes a second time comes behind what it repeats.
        await asyncio.sleep(1)

    def check_messages_to_all(self):
        """Who was connected all the time got each message to everybody, once."""
        for member in self.witnesses:
            heard, sent = member.broadcasts, self.counts["publications to all"]
            if member.connects == 1 and heard != sent:
                self.ledger.fault(f"{member.name}: {heard} of {sent} messages to everybody")
            self.counts["witnesses of all messages"] += member.connects == 1

    async def leave(self):
        """Everybody goes, in order."""
        self.is_over = True
        await asyncio.gather(*(m.connection.close() for m in self.members if m.connection))
        await asyncio.gather(self.clock, *self.member_tasks)

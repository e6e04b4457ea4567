"""Who published what, and who received it: the books of one run. Pure.

A publication is known by its id: the number of its publisher and a count, as one integer. A `Log`
is all that is known of one room's numbering, from whoever saw it. A `Book` is what one member
received of a room, from its first moment to the end, over all its connections; a `RawBook` the same
for one that is told no offsets. What contradicts the delivery contract is a fault of the `Ledger`.
A loss that is told is believed only where history may really have let go of it.
"""

import time
from collections import Counter, deque

SHIFT = 32
FAULTS_SHOWN = 30
# History keeps what is younger than this: `--history-ttl 10s`, less what clients may learn late.
KEPT_SECS = 7
# And at least so many: `--history-size 200` and `--history-bytes 256KiB`, by far.
KEPT_COUNT = 150


def ident_of(publisher, count):
    return publisher << SHIFT | count


def name_of(ident):
    return f"{ident >> SHIFT}:{ident & (1 << SHIFT) - 1}"


class Ledger:
    """All books of a run."""

    def __init__(self, tell=lambda text: None, now=time.monotonic):
        self.now, self.began = now, now()
        # Whether what began then may have come late to us.
        self.excuses = lambda begin: False
        self.logs = {}
        self.books = []
        self.publishers = []
        self.faults = 0
        self.told = []
        self.tell = tell

    def fault(self, text):
        self.faults += 1
        self.tell(text)
        if len(self.told) < FAULTS_SHOWN:
            self.told.append(text)

    def log(self, room, **traits):
        if room not in self.logs:
            self.logs[room] = Log(self, room, **traits)
        return self.logs[room]

    def publisher(self):
        publisher = Publisher(len(self.publishers) + 1)
        self.publishers.append(publisher)
        return publisher

    def sums(self):
        sums = Counter()
        for book in self.books:
            sums += Counter(received=book.received, lost=book.lost, skipped=book.skipped)
            sums["resumes"] += book.resumes
        sums["published"] = sum(len(log.ids) for log in self.logs.values())
        return sums

    def balance(self):
        """The audit at the end, when everybody has had the time to get everything."""
        for log in self.logs.values():
            log.audit()
        placed = {ident for log in self.logs.values() for ident in log.offset_of}
        for publisher in self.publishers:
            for ident in publisher.sure - placed:
                self.fault(f"{name_of(ident)} was accepted and is nowhere")
        sent = {publisher.number: publisher.count for publisher in self.publishers}
        for ident in placed:
            if ident & (1 << SHIFT) - 1 > sent.get(ident >> SHIFT, 0):
                self.fault(f"{name_of(ident)} was never sent")
        for book in self.books:
            book.close()


class Publisher:
    """Gives out ids, and remembers which of them must have been published."""

    def __init__(self, number):
        self.number = number
        self.count = 0
        self.open = []
        self.sure = set()

    def next(self):
        """An id that is not yet known to have been published."""
        self.count += 1
        ident = ident_of(self.number, self.count)
        self.open.append(ident)
        return ident

    def accepted(self, ident):
        """The server has said so."""
        self.open.remove(ident)
        self.sure.add(ident)

    def all_accepted(self):
        """The connection ended in order, so all that was sent on it was published."""
        self.sure.update(self.open)
        self.open.clear()

    def withdraw(self, ident):
        """It could not be sent."""
        if ident in self.open:
            self.open.remove(ident)

    def cut(self):
        """Nobody knows which of those under way were published."""
        self.open.clear()


class Log:
    """The numbering of one room: which publication has which offset, and when that was known."""

    def __init__(self, ledger, room, kept_count=KEPT_COUNT, is_lossy=False):
        self.ledger, self.room = ledger, room
        self.kept_count, self.is_lossy = kept_count, is_lossy
        self.epoch = None
        self.ids = []
        self.noted_at = []
        self.offset_of = {}
        self.unkept = set()

    def fault(self, text):
        self.ledger.fault(f"{self.room}: {text}")

    def saw_epoch(self, epoch):
        if self.epoch is None:
            self.epoch = epoch
        elif epoch != self.epoch:
            self.fault(f"epoch {epoch} after {self.epoch}")

    def note(self, offset, ident):
        """Somebody says that the publication has this offset."""
        while len(self.ids) < offset:
            self.ids.append(None)
            self.noted_at.append(float("inf"))
        known = self.ids[offset - 1]
        if known is None:
            self.ids[offset - 1] = ident
            self.noted_at[offset - 1] = self.ledger.now()
            if ident in self.offset_of:
                self.fault(f"{name_of(ident)} is both {self.offset_of[ident]} and {offset}")
            self.offset_of[ident] = offset
        elif known != ident:
            self.fault(f"{offset} is both {name_of(known)} and {name_of(ident)}")

    def may_have_lost(self, offset, newest, at):
        """Whether history need not have had it any more, at that time and with that newest one."""
        is_old = offset <= len(self.ids) and at - self.noted_at[offset - 1] >= KEPT_SECS
        return is_old or newest - offset >= self.kept_count

    def may_not_reach(self, moment):
        """Whether history need not reach back to a moment any more, or is younger."""
        recent = self.noted_at[-2 * self.kept_count :]
        count = sum(moment <= noted_at <= self.ledger.now() for noted_at in recent)
        is_old = self.ledger.now() - moment >= KEPT_SECS
        return is_old or count >= self.kept_count or moment < self.ledger.began

    def audit(self):
        latest = {}
        for offset, ident in enumerate(self.ids, 1):
            if ident is None:
                self.fault(f"nobody knows what {offset} was")
                continue
            publisher = ident >> SHIFT
            if latest.get(publisher, 0) >= ident:
                self.fault(f"{name_of(ident)} stands behind {name_of(latest[publisher])}")
            latest[publisher] = ident


class Book:
    """A member that is told offsets."""

    def __init__(self, log, name, own=None):
        self.log, self.name = log, name
        # With `echo=0` the publications of this one, its own, may be jumped over.
        self.own = own
        self.due = None
        self.newest = 0
        self.jumped = []
        self.told = []
        self.received = self.lost = self.skipped = self.resumes = 0
        log.ledger.books.append(self)

    def fault(self, text):
        self.log.fault(f"{self.name}: {text}")

    def position(self):
        """What to resume after; nothing before the first `joined`."""
        return None if self.due is None else (self.log.epoch, self.due - 1)

    def joined(self, epoch, newest, recovered=True, lost=0):
        """The member is in the room. If it has a position, it asked for what comes after that."""
        self.log.saw_epoch(epoch)
        self.newest = newest
        if self.due is None:
            self.due = newest + 1
            return
        self.resumes += 1
        if recovered != (lost == 0):
            self.fault(f"recovered is {recovered} and lost {lost}")
        if lost < 0:
            self.fault("a loss without a number in the same epoch")
        elif lost > 0:
            self.note_loss(self.due + lost - 1)
            self.lost += lost
            self.due += lost

    def note_loss(self, last):
        """All to this one are told to be gone; `close` judges it, when what was kept is known."""
        now = self.log.ledger.now()
        if not self.log.ledger.excuses(now - KEPT_SECS):
            self.told.append((self.due, last, max(self.newest, len(self.log.ids)), now))

    def check_losses(self):
        for first, last, newest, at in self.told:
            while last >= first and last in self.log.unkept:
                last -= 1
            if last >= first and not self.log.may_have_lost(last, newest, at):
                self.fault(f"{first} to {last} of {newest} were told as lost, and history had them")

    def begun_anew(self, epoch, newest):
        """The member was told that nothing of what it missed will come."""
        self.log.saw_epoch(epoch)
        self.resumes += 1
        self.newest = newest
        if newest + 1 < self.due:
            self.fault(f"newest is {newest} after {self.due - 1} was received")
        # Of the rest it is not said whether history had it.
        self.note_loss(self.due)
        self.lost += newest + 1 - self.due
        self.due = newest + 1

    def publication(self, offset, ident):
        self.log.note(offset, ident)
        if offset < self.due:
            self.fault(f"{offset} came again, or late: {self.due} was due")
            return
        self.jump_to(offset)
        self.received += 1
        self.due = offset + 1

    def jump_to(self, offset):
        for jumped in range(self.due, offset):
            if self.own is None and jumped > self.newest:
                self.fault(f"{jumped} did not come and was not told as lost")
            else:
                self.jumped.append(jumped)

    def skip(self, count):
        """So many are told to be left out. In a room that is not lossy history may let go of them
        while the member still catches up."""
        if not self.log.is_lossy:
            self.note_loss(self.due + count - 1)
        self.skipped += count
        self.due += count

    def is_complete(self):
        """Has everything, as far as is known."""
        self.check_jumps()
        return self.due is not None and (
            self.due > len(self.log.ids)
            or all(self.may_miss(offset) for offset in range(self.due, len(self.log.ids) + 1))
        )

    def may_miss(self, offset):
        """Whether it is known that this one need not come: not kept, or the member's own."""
        if offset <= self.newest and offset in self.log.unkept:
            return True
        ident = self.log.ids[offset - 1]
        return self.own is not None and ident is not None and ident >> SHIFT == self.own

    def check_jumps(self):
        self.jumped = [offset for offset in self.jumped if not self.may_miss(offset)]

    def close(self):
        self.check_losses()
        self.check_jumps()
        for offset in self.jumped:
            self.fault(f"{offset} did not come and was not told as lost")
        if self.due is None:
            self.fault("never joined")
        elif not self.is_complete():
            self.fault(f"{self.due} to {len(self.log.ids)} never came")


class RawBook:
    """A member that is told ids only, of a room in which everything is kept.

    It comes back by time, to a moment before its end, so what it then gets first it may have had.
    If history does not reach back to it, the gap is lost, and was told.
    """

    JOINED, TOLD = object(), object()

    def __init__(self, log, name):
        self.log, self.name = log, name
        self.last = None
        self.is_first, self.has_lost = True, False
        self.waiting = deque()
        self.received = self.lost = self.skipped = self.resumes = 0
        log.ledger.books.append(self)

    def fault(self, text):
        self.log.fault(f"{self.name}: {text}")

    def joined(self):
        self.waiting.append(self.JOINED)
        if self.last is not None:
            self.resumes += 1

    def begun_anew(self, moment):
        """The member was told that history does not reach back to the moment that it gave, if any;
        so it comes without one."""
        self.waiting.append(self.TOLD)
        is_believed = moment is not None and (
            self.log.may_not_reach(moment) or self.log.ledger.excuses(moment)
        )
        if not is_believed:
            self.fault("a loss was told, and history reached back")

    def publication(self, ident):
        self.waiting.append(ident)
        self.settle()

    def settle(self):
        """Enters what the log knows the place of."""
        while self.waiting:
            ident = self.waiting[0]
            if ident is self.JOINED:
                self.is_first = True
            elif ident is self.TOLD:
                self.has_lost = True
            elif ident in self.log.offset_of:
                self.enter(self.log.offset_of[ident])
                self.is_first = self.has_lost = False
            else:
                return
            self.waiting.popleft()

    def enter(self, offset):
        expected = offset if self.last is None else self.last + 1
        if self.has_lost and offset > expected:
            self.lost += offset - expected
        elif self.is_first and self.last is not None and offset <= expected:
            # A resume that begins before the end of what was received, as was asked for.
            self.again = offset
        elif not self.is_first and self.last is not None and offset <= self.last:
            if offset != self.again + 1:
                self.fault(f"{offset} came again, or late: {expected} was due")
            self.again = offset
        elif offset != expected:
            self.fault(f"{offset} came where {expected} was due")
        if self.last is None or offset > self.last:
            self.received += 1
            self.last = offset
            self.again = offset

    def is_complete(self):
        self.settle()
        return self.last is not None and not self.waiting and self.last == len(self.log.ids)

    def close(self):
        if not self.is_complete():
            self.fault(
                f"{self.last} is not the newest, {len(self.log.ids)}; {len(self.waiting)} unknown"
            )

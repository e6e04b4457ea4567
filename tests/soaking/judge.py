"""What becomes a fault beside the books: what does not happen in time, connections that end with a
wrong code, tasks that break. Pure.

Nobody knows whose it is when something did not happen in time and this program did not get to run
for a good part of it: that is a miss, and is counted. More than a quarter of the wait must be
starved, so a short stop does not excuse a long wait. `Verdict` bounds starved time and misses.
"""

import time

# Coming so late to what it does, this program is starved, until it has worked off what piled up.
LATE_SECS, AFTERMATH_SECS = 1.0, 5.0
EXCUSING_SHARE = 0.25
# What leads to an end by slowness does so within this time.
SLOWNESS_SECS = 20
CODES_OF_SLOWNESS = {3008, 3009, 3012}
# What a library says where no close frame came.
NO_CODE = 1006
# An end that is bounded by its count.
CLOSED_BY_ALL = "slow members closed by a message to all"


class Judge:
    """The misses of one run, and the faults that are no matter of the books."""

    def __init__(self, fault, now=time.monotonic):
        self.fault, self.now = fault, now
        self.starved = []
        self.due = None
        self.misses = 0

    def expect(self, due):
        """This program is to run at that time, or at none that matters."""
        self.look()
        self.due = due

    def look(self):
        """Notes how late it is. Intervals that touch become one."""
        now = self.now()
        if self.due is None or now - self.due <= LATE_SECS:
            return
        begin, end = self.due, now + AFTERMATH_SECS
        if self.starved and self.starved[-1][1] >= begin:
            begin, _ = self.starved.pop()
        self.starved.append((begin, end))

    def starved_secs(self, begin, end):
        """How much of the time from `begin` to `end` was starved."""
        self.look()
        return sum(max(0, min(end, stop) - max(begin, start)) for start, stop in self.starved)

    def excuses(self, begin):
        """Whether what began then could not be done by now."""
        now = self.now()
        return self.starved_secs(begin, now) > (now - begin) * EXCUSING_SHARE

    def miss(self, text, begin):
        """What was waited for since `begin` did not happen."""
        if self.excuses(begin):
            self.misses += 1
        else:
            self.fault(text)

    def wrong_end(self, text, code):
        """A connection that did not end as it should: with another code, or without any."""
        if code in CODES_OF_SLOWNESS or code in (None, NO_CODE):
            self.miss(f"{text}: {code or 'no close frame'}", self.now() - SLOWNESS_SECS)
        else:
            self.fault(f"{text}: {code}")

    async def watch(self, work, late=()):
        """Does the work. What breaks it is a fault at once, but a miss if it is one of `late`."""
        begin = self.now()
        try:
            await work
        except late as error:
            self.miss(f"{work.__qualname__}: {error!r}", begin)
        except Exception as error:
            self.fault(f"{work.__qualname__} broke: {error!r}")

"""Faults that the books, the judge and the judgement of memory must find, each planted alone.

A small world on paper: two publishers, a member with offsets that is cut off and resumes, a raw one
that does the same, and a room in which not everything is kept. What each hears stands in a list
that a plant changes. The judge gets a minute in which this program stopped once.
"""

import asyncio
import random
import sys

from .books import Book, Ledger, RawBook
from .flatness import flatness, growth_max_percent
from .judge import Judge

EPOCH = "k3Xa9"
COUNT, CUT_AT, BACK_AT = 60, 30, 40
# Not kept, published while the member was away: it does not come and is no loss.
UNKEPT = 35


class Paper:
    """What happens in a run without a fault, as lists."""

    def __init__(self):
        self.now = 0
        self.away_secs = 20
        self.ledger = Ledger(now=lambda: self.now)
        self.log = self.ledger.log("room", is_lossy=True)
        self.raw_log = self.ledger.log("kept room")
        self.one, self.two = self.ledger.publisher(), self.ledger.publisher()
        self.ids = [(self.one if number % 3 else self.two).next() for number in range(COUNT)]
        self.raw_ids = [self.one.next() for _ in range(COUNT)]
        numbered = list(enumerate(self.ids, 1))
        self.numbered = list(numbered)
        self.unkept = {UNKEPT}
        self.before = numbered[10:CUT_AT]
        self.joined = {"epoch": EPOCH, "newest": BACK_AT}
        self.after = [(offset, ident) for offset, ident in numbered[CUT_AT:] if offset != UNKEPT]
        self.skips = {}
        self.begins_anew = False
        self.raw_before = self.raw_ids[:CUT_AT]
        self.raw_after = self.raw_ids[CUT_AT - 5 :]
        # When the raw member comes back, it asks for what is so old, and may be told of a loss.
        self.raw_asks_secs, self.raw_is_told = 0, False
        self.never_joins = False

    def faults(self):
        """Plays it, and returns the faults found."""
        book, raw = Book(self.log, "member"), RawBook(self.raw_log, "raw")
        for offset, ident in self.numbered:
            self.log.note(offset, ident)
        for offset, ident in enumerate(self.raw_ids, 1):
            self.raw_log.note(offset, ident)
        self.log.unkept |= self.unkept
        for publisher in (self.one, self.two):
            publisher.all_accepted()
        if not self.never_joins:
            book.joined(EPOCH, 10)
            self.hear(book, self.before)
        raw.joined()
        for ident in self.raw_before:
            raw.publication(ident)
        self.now += self.away_secs
        if self.begins_anew:
            book.begun_anew(EPOCH, BACK_AT)
            self.hear(book, [pair for pair in self.after if pair[0] > BACK_AT])
        elif not self.never_joins:
            book.joined(**self.joined)
            self.hear(book, self.after)
        raw.joined()
        if self.raw_is_told:
            raw.begun_anew(self.raw_asks_secs and self.now - self.raw_asks_secs)
            raw.joined()
        for ident in self.raw_after:
            raw.publication(ident)
        self.ledger.balance()
        return self.ledger.faults

    def hear(self, book, publications):
        for offset, ident in publications:
            if offset in self.skips:
                book.skip(self.skips[offset])
            book.publication(offset, ident)


def swap(row, index):
    row[index], row[index + 1] = row[index + 1], row[index]


def skipped(paper, told):
    """Three live ones do not come, and so many are told."""
    paper.after = [pair for pair in paper.after if pair[0] not in (51, 52, 53)]
    paper.skips[54] = told


def lost(paper, told):
    """The first three of the replay are gone from history, and so many are told."""
    del paper.after[:3]
    paper.joined |= {"recovered": False, "lost": told}


def gone_for(seconds):
    """Nothing that the member missed is older when it comes back."""
    return lambda paper: setattr(paper, "away_secs", seconds)


def skipped_of_reliable(paper):
    skipped(paper, 3)
    paper.log.is_lossy = False


def told_early(paper):
    gone_for(1)(paper)
    lost(paper, 3)


def anew(paper):
    paper.begins_anew = True


def raw_lost(paper, asks_secs, gap=3):
    paper.raw_asks_secs, paper.raw_is_told = asks_secs, True
    paper.raw_after = paper.raw_ids[CUT_AT + gap :]


def of(*acts):
    """One plant that consists of several."""
    return lambda paper: [act(paper) for act in acts]


SOUND = {
    "nothing": lambda paper: None,
    "a skip that is told": lambda paper: skipped(paper, 3),
    "a loss that is told": lambda paper: lost(paper, 3),
    "a loss behind more than is kept": of(
        told_early, lambda paper: setattr(paper.log, "kept_count", 5)
    ),
    "a loss told to a starved client": of(
        told_early, lambda paper: setattr(paper.ledger, "excuses", lambda begin: True)
    ),
    "a loss of nothing that was kept": of(
        told_early, lambda paper: paper.unkept.update((31, 32, 33))
    ),
    "a skip of what history let go of meanwhile": skipped_of_reliable,
    "one who is told to begin anew": anew,
    "raw: a loss that is told": lambda paper: raw_lost(paper, 20),
    "raw: a loss that is told, of nothing": lambda paper: raw_lost(paper, 20, gap=-5),
    "raw: a moment before the beginning": of(lambda paper: raw_lost(paper, 5), gone_for(3)),
}
FAULTS = {
    "a live one is missing": lambda paper: paper.before.pop(5),
    "a live one comes twice": lambda paper: paper.before.insert(5, paper.before[5]),
    "two change places": lambda paper: swap(paper.before, 5),
    "the replay begins too late": lambda paper: paper.after.pop(0),
    "the replay begins too early": lambda paper: paper.after.insert(0, paper.before[-1]),
    "one of the replay is missing": lambda paper: paper.after.pop(6),
    "one between replay and live is missing": lambda paper: paper.after.remove(
        (BACK_AT + 1, paper.ids[BACK_AT])
    ),
    "the newest is missing": lambda paper: paper.after.pop(),
    "a skip is not told": lambda paper: skipped(paper, 0),
    "a skip is told too small": lambda paper: skipped(paper, 2),
    "a skip is told too large": lambda paper: skipped(paper, 4),
    "a loss is told too small": lambda paper: lost(paper, 2),
    "a loss is told too large": lambda paper: lost(paper, 4),
    "a loss is told too early": told_early,
    "one is told too early to begin anew": of(anew, gone_for(1)),
    "a skip in a room that is not lossy": of(skipped_of_reliable, gone_for(1)),
    "a loss has no number": lambda paper: lost(paper, -1),
    "a resume is complete and has lost": lambda paper: paper.joined.update(lost=1),
    "the epoch is another": lambda paper: paper.joined.update(epoch="other"),
    "nobody joins": lambda paper: setattr(paper, "never_joins", True),
    "one was kept and did not come": lambda paper: paper.unkept.clear(),
    "an offset means two": lambda paper: paper.before.__setitem__(5, (16, paper.ids[50])),
    "one is published twice": lambda paper: paper.numbered.append((COUNT + 1, paper.ids[3])),
    "one is nowhere": lambda paper: paper.one.next(),
    "one was never sent": lambda paper: paper.numbered.append((COUNT + 1, 99 + paper.ids[-1])),
    "an offset is empty": lambda paper: paper.numbered.append((COUNT + 2, paper.two.next())),
    "a publisher's are in another order": lambda paper: swap(paper.raw_ids, 5),
    "raw: a live one is missing": lambda paper: paper.raw_before.pop(5),
    "raw: one comes twice": lambda paper: paper.raw_before.insert(5, paper.raw_before[5]),
    "raw: two change places": lambda paper: swap(paper.raw_before, 5),
    "raw: the replay begins too late": lambda paper: paper.raw_after.__delitem__(slice(0, 6)),
    "raw: one of the replay is missing": lambda paper: paper.raw_after.pop(9),
    "raw: one of the replay comes twice": lambda paper: paper.raw_after.insert(
        3, paper.raw_after[3]
    ),
    "raw: the newest is missing": lambda paper: paper.raw_after.pop(),
    "raw: one that nobody published": lambda paper: paper.raw_after.append(12345),
    "raw: a loss is told too early": lambda paper: raw_lost(paper, 5),
    "raw: a loss is told without a moment": lambda paper: raw_lost(paper, None),
    "raw: one is missing behind a loss": of(
        lambda paper: raw_lost(paper, 20), lambda paper: paper.raw_after.pop(5)
    ),
    "raw: one comes twice behind a loss": of(
        lambda paper: raw_lost(paper, 20),
        lambda paper: paper.raw_after.insert(5, paper.raw_after[5]),
    ),
}


def judged(stop_secs, act):
    """How many faults a judge has found at the end of a minute with a stop in its middle."""
    faults, now = [], 0
    judge = Judge(faults.append, lambda: now)
    judge.expect(30)
    now = 30 + stop_secs
    judge.expect(60)
    now = 60
    act(judge)
    return len(faults)


async def break_down(error):
    raise error


# How long the stop was, and what is judged at the end.
EXCUSED = {
    "a wait with a long stop": (20, lambda judge: judge.miss("", 30)),
    "a wait within a stop that goes on": (30, lambda judge: judge.miss("", 55)),
    "slowness behind a stop": (20, lambda judge: judge.wrong_end("", 3008)),
    "no close frame behind a stop": (20, lambda judge: judge.wrong_end("", 1006)),
}
UNEXCUSED = {
    "a wait without a stop": (0, lambda judge: judge.miss("", 30)),
    "a wait with a stop of no length": (0.9, lambda judge: judge.miss("", 30)),
    "a wait long after a stop": (5, lambda judge: judge.miss("", 45)),
    "a long wait with a short stop": (2, lambda judge: judge.miss("", 10)),
    "slowness without a stop": (0, lambda judge: judge.wrong_end("", 3008)),
    "slowness long after a stop": (2, lambda judge: judge.wrong_end("", 3012)),
    "no close frame without a stop": (0, lambda judge: judge.wrong_end("", 1006)),
    "a wrong code behind a stop": (20, lambda judge: judge.wrong_end("", 3503)),
    "a task that breaks behind a stop": (
        20,
        lambda judge: asyncio.run(judge.watch(break_down(KeyError("")), TimeoutError)),
    ),
    "a task that is late for no reason": (
        0,
        lambda judge: asyncio.run(judge.watch(break_down(TimeoutError()), TimeoutError)),
    ),
}


def curve(growth):
    """Memory in MiB over an hour: a sawtooth of 5 % with noise, and growth as this function of the
    part that is over."""
    dice = random.Random(1)
    return [
        (s, 25 * (1 + growth(s / 3600)) + s % 40 / 32 + dice.uniform(0, 0.3))
        for s in range(0, 3600, 2)
    ]


FLAT = {
    "flat": lambda part: 0,
    "1 % more": lambda part: 0.01 * part,
    "a peak that passes": lambda part: 0.3 * (0.4 < part < 0.42),
    "5 % less": lambda part: -0.05 * part,
}
GROWING = {
    "3 % more": lambda part: 0.03 * part,
    "a step of 3 %": lambda part: 0.03 * (part > 0.5),
    "growth that ends": lambda part: min(0.05, 0.2 * part),
    "growth that begins late": lambda part: max(0, 0.2 * (part - 0.8)),
}
# What ten minutes may, and may not.
FLAT_ENOUGH = {"3 % more": GROWING["3 % more"], "a step of 3 %": GROWING["a step of 3 %"]}
TOO_STEEP = {
    "7 % more": lambda part: 0.07 * part,
    "a step of 7 %": lambda part: 0.07 * (part > 0.5),
}


def find_all():
    """Returns the exit status: 0 if each fault is found, and nothing where there is none."""
    wrong = []
    for name, plant in (SOUND | FAULTS).items():
        paper = Paper()
        plant(paper)
        if (paper.faults() > 0) != (name in FAULTS):
            wrong.append(f"{name}: {paper.ledger.told}")
    for name, (stop_secs, act) in (EXCUSED | UNEXCUSED).items():
        if (judged(stop_secs, act) > 0) != (name in UNEXCUSED):
            wrong.append(f"judge, {name}")
    curves = 0
    for minutes, flat, steep in ((60, FLAT, GROWING), (10, FLAT_ENOUGH, TOO_STEEP)):
        for name, growth in (flat | steep).items():
            curves += 1
            growth = flatness(curve(growth))
            if growth.is_flat(growth_max_percent(minutes)) != (name in flat):
                wrong.append(f"memory of {minutes} minutes, {name}: {growth}")
    for text in wrong:
        print(f"not as planted: {text}", file=sys.stderr)
    plants = len(SOUND | FAULTS) + len(EXCUSED | UNEXCUSED) + curves
    print(f"{plants} plants, {len(wrong)} not judged as they should be")
    return int(bool(wrong))

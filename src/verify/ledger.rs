//! Who received what, and what is missing without a word.
//!
//! Owns: one [`Book`] per member (what it received, in which order, and what it was told), one
//! [`Numbering`] per room and reader (which letter has which offset), and the audit that compares
//! both with what was sent.
//! Never: touches a socket or a clock. It sees envelopes in the order in which they came.
//!
//! The rules
//! - A letter that a member has had before is *repeated*, however it is numbered.
//! - A new letter with a lower offset than one before it in its epoch, or a lower number than one
//!   before it of its publisher, is *reordered*. What was sent on a connection that then broke may come
//!   behind what the next one sent.
//! - `skipped` and `joined.lost` name a stretch of offsets that the member was *told* of. A loss of
//!   unknown size (-1) tells of all up to the next publication, but of nothing behind `joined.offset`,
//!   and of no letter that its publisher sent behind one that came after it.
//! - Who begins anew at an offset was told of everything up to it, and of nothing behind it.
//! - At the end, a letter that was sent and neither received nor told, or an offset that was neither,
//!   is *lost silently*.
//! - What the server says and then belies is a *contradiction*: two letters with one offset, a letter
//!   that nobody sent, a publication that was told to be lost.

use std::collections::HashMap;

use super::letter::Letter;
use super::ranges::Ranges;

/// What is counted while envelopes come in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Letters received, each member's first copy of each.
    pub(super) delivered: u64,
    /// Letters received again.
    pub(super) repeated: u64,
    /// Letters received after one that should have followed them.
    pub(super) reordered: u64,
    /// Publications told to be lost or skipped, where the server knew how many.
    pub(super) told: u64,
    /// What cannot be true together.
    pub(super) contradicted: u64,
}

impl Tally {
    /// Adds another reader's counts.
    pub(super) fn add(&mut self, other: &Self) {
        self.delivered += other.delivered;
        self.repeated += other.repeated;
        self.reordered += other.reordered;
        self.told += other.told;
        self.contradicted += other.contradicted;
    }
}

/// What one publication was for the member that received it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// The next one, or one that is here for the first time behind a hole.
    Delivered,
    /// Again.
    Repeated,
    /// Behind one that should have followed it.
    Reordered,
    /// Not what the server said before.
    Contradicted,
}

/// One member's stay in one epoch.
#[derive(Clone, Debug)]
struct Era {
    epoch: Box<str>,
    /// Where it begins: nothing up to here is expected. Unknown after a loss of unknown size, until
    /// the first publication.
    base: Option<u64>,
    /// What `joined` said last.
    joined_offset: u64,
    /// Highest offset received, or the base.
    highest: u64,
    /// The last offset received or told of.
    position: u64,
    got: Ranges,
    told: Ranges,
    /// A loss of unknown size was told here and ends with the next publication.
    is_gap_open: bool,
}

/// What one member received.
#[derive(Clone, Debug)]
pub(super) struct Book {
    room: usize,
    eras: Vec<Era>,
    /// Of each publisher in the room: the numbers received and the highest of them.
    got: HashMap<u32, (Ranges, u64)>,
    /// Of each publisher: the first number received since a loss of unknown size was told last.
    since_blank: HashMap<u32, u64>,
    letters: u64,
    /// Those that came behind a later one of their publisher.
    behind: Vec<Letter>,
    /// Publications told, where the server knew how many.
    told: u64,
    /// Whether a loss of unknown size was told.
    is_blank: bool,
}

impl Book {
    /// A book without entries.
    pub(super) fn new(room: usize) -> Self {
        Self {
            room,
            eras: Vec::new(),
            got: HashMap::new(),
            since_blank: HashMap::new(),
            letters: 0,
            behind: Vec::new(),
            told: 0,
            is_blank: false,
        }
    }

    /// Index of the member's room.
    pub(super) fn room(&self) -> usize {
        self.room
    }

    /// Where to resume; nothing before the first `joined`.
    pub(super) fn position(&self) -> Option<(&str, u64)> {
        self.eras.last().map(|era| (&*era.epoch, era.position))
    }

    /// Whether all is here: from each publisher the last of what it sent, or as much as was sent in
    /// all, counting what was told. `sent` names each publisher of the room with its count.
    pub(super) fn is_settled(&self, sent: impl Iterator<Item = (u32, u64)> + Clone) -> bool {
        let has_ends = sent.clone().all(|(publisher, count)| {
            count == 0 || self.got.get(&publisher).is_some_and(|got| got.1 == count)
        });
        has_ends || self.letters + self.told >= sent.map(|(_, count)| count).sum()
    }

    /// Notes an envelope `joined`, the first one or one after a resume.
    pub(super) fn handle_joined(
        &mut self,
        epoch: &str,
        offset: u64,
        is_recovered: bool,
        lost: i64,
        tally: &mut Tally,
    ) {
        let Some(era) = self.eras.last_mut() else {
            self.eras.push(Era::new(epoch, Some(offset), offset));
            return;
        };
        let count = u64::try_from(lost).ok();
        if *era.epoch == *epoch {
            era.joined_offset = offset;
            match count {
                _ if is_recovered => {
                    era.base.get_or_insert(era.position);
                    era.highest = era.highest.max(era.position);
                    era.is_gap_open = false;
                    tally.contradicted += u64::from(lost != 0);
                }
                Some(count) => self.tell(count, tally),
                None => {
                    era.is_gap_open = true;
                    self.note_blank();
                }
            }
        } else if is_recovered {
            // "Nothing is missing" cannot be said of another numbering. What the old one still held is
            // then missing without a word, and so is what the new one had before.
            tally.contradicted += 1;
            self.eras.push(Era::new(epoch, Some(0), offset));
        } else {
            let end = era.position;
            era.told.insert_all(end.saturating_add(1), u64::MAX);
            self.note_blank();
            self.eras.push(Era::new(epoch, None, offset));
        }
    }

    fn note_blank(&mut self) {
        self.is_blank = true;
        self.since_blank.clear();
    }

    /// Notes that a member begins behind `offset`: nothing up to there comes any more, which a member
    /// that was there before is told thereby, and everything behind it does.
    pub(super) fn handle_restart(&mut self, epoch: &str, offset: u64, tally: &mut Tally) {
        match self.eras.last_mut() {
            Some(era) if *era.epoch == *epoch => match offset.checked_sub(era.position) {
                Some(count) => self.tell(count, tally),
                // What it has had is not taken back.
                None => tally.contradicted += 1,
            },
            before => {
                if let Some(era) = before {
                    era.told
                        .insert_all(era.position.saturating_add(1), u64::MAX);
                    self.note_blank();
                }
                self.eras.push(Era::new(epoch, Some(offset), offset));
            }
        }
    }

    /// Notes that the next `count` publications will not come.
    pub(super) fn tell(&mut self, count: u64, tally: &mut Tally) {
        let Some(era) = self.eras.last_mut() else {
            tally.contradicted += 1;
            return;
        };
        let first = era.position.saturating_add(1);
        era.position = era.position.saturating_add(count);
        era.told.insert_all(first, era.position);
        self.told = self.told.saturating_add(count);
        tally.told = tally.told.saturating_add(count);
    }

    /// Notes a publication. A letter that cannot be read is `None`.
    pub(super) fn handle_publication(
        &mut self,
        offset: u64,
        letter: Option<Letter>,
        numbering: &mut Numbering,
        tally: &mut Tally,
    ) -> Entry {
        let entry = self.enter(offset, letter, numbering);
        match entry {
            Entry::Delivered => tally.delivered += 1,
            Entry::Repeated => tally.repeated += 1,
            Entry::Reordered => {
                tally.delivered += 1;
                tally.reordered += 1;
            }
            Entry::Contradicted => tally.contradicted += 1,
        }
        entry
    }

    fn enter(&mut self, offset: u64, letter: Option<Letter>, numbering: &mut Numbering) -> Entry {
        let Some(era) = self.eras.last_mut() else {
            return Entry::Contradicted;
        };
        let is_late = offset < era.highest;
        let was_told = era.note(offset);
        let is_new_offset = era.got.insert(offset);
        let Some(letter) = letter else {
            return Entry::Contradicted;
        };
        let is_agreed = numbering.note(&era.epoch, offset, letter);
        let (numbers, highest) = self.got.entry(letter.publisher).or_default();
        if !numbers.insert(letter.number) {
            return Entry::Repeated;
        }
        self.letters += 1;
        if self.is_blank {
            let first = self.since_blank.entry(letter.publisher);
            first.or_insert(letter.number);
        }
        let is_behind = letter.number < *highest;
        *highest = letter.number.max(*highest);
        if was_told || !is_agreed || !is_new_offset {
            Entry::Contradicted
        } else if is_late {
            Entry::Reordered
        } else {
            if is_behind {
                self.behind.push(letter);
            }
            Entry::Delivered
        }
    }

    /// Offsets up to `last` of the epoch that were neither received nor told.
    fn holes(&self, last_of: impl Fn(&str) -> u64) -> u64 {
        self.eras.iter().fold(0, |sum: u64, era| {
            let base = era.base.unwrap_or(era.joined_offset);
            let mut known = era.got.clone();
            known.insert_ranges(&era.told);
            if era.is_gap_open {
                known.insert_all(era.position.saturating_add(1), era.joined_offset);
            }
            let holes = known.gaps(base.saturating_add(1), last_of(&era.epoch));
            sum.saturating_add(holes.len())
        })
    }

    /// Whether the member was told of the loss of what stands at `offset` of `epoch`; `None` if it was
    /// never in that epoch.
    fn was_told(&self, epoch: &str, offset: u64) -> Option<bool> {
        let era = self.eras.iter().rfind(|era| *era.epoch == *epoch)?;
        let start = era.base.unwrap_or(era.joined_offset);
        let is_in_gap = offset > era.position && offset <= era.joined_offset;
        Some(
            era.told.contains(offset)
                || (offset <= start && self.is_blank)
                || (era.is_gap_open && is_in_gap),
        )
    }

    /// Whether a letter of which no offset is known to the member can be part of a loss of unknown size
    /// that it was told of. What the publisher sent behind a letter that came after that cannot, unless
    /// that letter itself may have come late.
    fn may_be_blank(&self, letter: Letter, sent: &[Sent]) -> bool {
        let is_behind = self
            .since_blank
            .get(&letter.publisher)
            .is_some_and(|first| {
                let sent = sent.get(letter.publisher as usize);
                letter.number > *first && sent.is_some_and(|sent| !sent.doubtful.contains(*first))
            });
        self.is_blank && !is_behind
    }
}

impl Era {
    fn new(epoch: &str, base: Option<u64>, joined_offset: u64) -> Self {
        let start = base.unwrap_or(0);
        Self {
            epoch: epoch.into(),
            base,
            joined_offset,
            highest: start,
            // After a loss of unknown size and before the first publication, this is where the server
            // said that the member stands.
            position: base.unwrap_or(joined_offset),
            got: Ranges::default(),
            told: Ranges::default(),
            is_gap_open: base.is_none(),
        }
    }

    /// Moves to `offset`, closing a gap of unknown size. Returns whether it was told to be lost.
    fn note(&mut self, offset: u64) -> bool {
        if self.is_gap_open {
            self.is_gap_open = false;
            // What is behind this was published while the member was there.
            let end = offset.saturating_sub(1).min(self.joined_offset);
            if self.base.is_none() {
                if offset <= self.joined_offset {
                    // What was skipped meanwhile stood before it.
                    self.told = Ranges::default();
                }
                self.base = Some(end);
                self.position = offset;
            } else {
                self.told.insert_all(self.position.saturating_add(1), end);
            }
        }
        self.highest = self.highest.max(offset);
        self.position = self.position.max(offset);
        self.told.remove(offset)
    }
}

/// Which letter has which offset in a room, as one reader's members saw it.
#[derive(Debug, Default)]
pub(super) struct Numbering {
    epochs: Vec<(Box<str>, Pages)>,
}

/// Offsets in pages of letters. A letter is packed into eight bytes; 0 is none.
#[derive(Debug, Default)]
struct Pages {
    pages: HashMap<u64, Box<[u64; PAGE]>>,
    highest: u64,
}

const PAGE: usize = 512;
const NUMBER_BITS: u32 = 40;

impl Numbering {
    /// Notes a letter's offset. Returns false if another letter was there.
    fn note(&mut self, epoch: &str, offset: u64, letter: Letter) -> bool {
        let packed = (u64::from(letter.publisher) << NUMBER_BITS)
            | (letter.number & ((1 << NUMBER_BITS) - 1));
        self.pages_of(epoch).set(offset, packed)
    }

    fn pages_of(&mut self, epoch: &str) -> &mut Pages {
        // From the end: the current epoch is the last one.
        let at = self.epochs.iter().rposition(|known| *known.0 == *epoch);
        let at = at.unwrap_or_else(|| {
            self.epochs.push((epoch.into(), Pages::default()));
            self.epochs.len() - 1
        });
        &mut self.epochs[at].1
    }

    /// Adds what another reader saw. Returns how many offsets differ.
    pub(super) fn merge(&mut self, other: &Self) -> u64 {
        let mut differing = 0;
        for (epoch, pages) in &other.epochs {
            let mine = self.pages_of(epoch);
            for (offset, packed) in pages.iter() {
                differing += u64::from(!mine.set(offset, packed));
            }
        }
        differing
    }

    fn highest(&self, epoch: &str) -> u64 {
        let known = self.epochs.iter().find(|known| *known.0 == *epoch);
        known.map_or(0, |(_, pages)| pages.highest)
    }

    /// Where each letter stands.
    fn places(&self) -> HashMap<Letter, (&str, u64)> {
        let mut places = HashMap::new();
        for (epoch, pages) in &self.epochs {
            for (offset, packed) in pages.iter() {
                let letter = Letter {
                    publisher: u32::try_from(packed >> NUMBER_BITS).unwrap_or(u32::MAX),
                    number: packed & ((1 << NUMBER_BITS) - 1),
                };
                places.insert(letter, (&**epoch, offset));
            }
        }
        places
    }
}

impl Pages {
    fn set(&mut self, offset: u64, packed: u64) -> bool {
        let page = self
            .pages
            .entry(offset / PAGE as u64)
            .or_insert_with(|| Box::new([0; PAGE]));
        let place = &mut page[(offset % PAGE as u64) as usize];
        self.highest = self.highest.max(offset);
        if *place == 0 {
            *place = packed;
        }
        *place == packed
    }

    fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.pages.iter().flat_map(|(page, places)| {
            let used = places
                .iter()
                .zip(0_u64..)
                .filter(|(packed, _)| **packed != 0);
            used.map(move |(packed, place)| (page * PAGE as u64 + place, *packed))
        })
    }
}

/// What one publisher sent.
#[derive(Clone, Debug, Default)]
pub(super) struct Sent {
    /// Its room.
    pub(super) room: usize,
    /// How many letters; they are numbered from 1.
    pub(super) count: u64,
    /// Those that were sent on connections which then broke: they may not have arrived.
    pub(super) doubtful: Ranges,
    /// What it was told that cannot be true.
    pub(super) contradictions: Vec<String>,
}

/// What the audit found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Audit {
    /// Letters that nobody received, sent on connections that broke.
    pub(super) unacknowledged: u64,
    /// Deliveries that did not happen, and the member knows.
    pub(super) told: u64,
    /// Deliveries that did not happen, and the member does not know.
    pub(super) silent: u64,
    /// Letters received that nobody sent.
    pub(super) foreign: u64,
    /// Letters that were numbered behind later ones of the same connection.
    pub(super) reordered: u64,
    /// Some of the silent losses in words.
    pub(super) findings: Vec<String>,
}

/// How many findings are put in words.
pub(super) const FINDINGS_MAX: usize = 10;

/// Compares the books of one room with what was sent there. `books` come with the members' names.
pub(super) fn audit(
    room: usize,
    numbering: &Numbering,
    books: &[(usize, &Book)],
    sent: &[Sent],
) -> Audit {
    let mut audit = Audit::default();
    let mut expected: Vec<(u32, Ranges)> = Vec::new();
    for (publisher, sent) in (0_u32..).zip(sent).filter(|(_, sent)| sent.room == room) {
        let mut seen = Ranges::default();
        for (_, book) in books {
            if let Some((numbers, _)) = book.got.get(&publisher) {
                seen.insert_ranges(numbers);
            }
        }
        let mut due = seen.clone();
        due.insert_all(1, sent.count);
        audit.foreign += due.len() - sent.count;
        let mut numbers = Ranges::default();
        numbers.insert_all(1, sent.count);
        for &(first, last) in sent.doubtful.runs() {
            for &(first, last) in seen.gaps(first, last).runs() {
                for number in first..=last {
                    audit.unacknowledged += u64::from(numbers.remove(number));
                }
            }
        }
        expected.push((publisher, numbers));
    }
    for (publisher, (numbers, _)) in books.iter().flat_map(|(_, book)| &book.got) {
        let home = sent.get(*publisher as usize).map(|sent| sent.room);
        if home != Some(room) {
            audit.foreign += numbers.len();
        }
    }
    for (member, book) in books {
        for letter in &book.behind {
            let home = sent.get(letter.publisher as usize);
            if home.is_none_or(|sent| !sent.doubtful.contains(letter.number)) {
                audit.reordered += 1;
                audit.find(format!(
                    "member {member}: message {} of publisher {} came behind a later one",
                    letter.number, letter.publisher
                ));
            }
        }
    }
    // Made only if something is missing.
    let mut places = None;
    for &(member, book) in books {
        let holes = book.holes(|epoch| numbering.highest(epoch));
        let missing = missing(book, &expected);
        if missing.is_empty() && holes == 0 {
            continue;
        }
        let places = places.get_or_insert_with(|| numbering.places());
        let (told, silent) = judge(book, &missing, places, sent);
        let silent_count = holes.max(silent.len() as u64);
        audit.silent = audit.silent.saturating_add(silent_count);
        // A hole may be one of those whose place nobody knows.
        audit.told += told.min((missing.len() as u64).saturating_sub(silent_count));
        for letter in &silent {
            let place = match places.get(letter) {
                Some((epoch, offset)) => format!("offset {offset} of epoch {epoch}"),
                None => "which no member received".to_owned(),
            };
            audit.find(format!(
                "member {member} lost message {} of publisher {}, {place}",
                letter.number, letter.publisher
            ));
        }
        if holes > silent.len() as u64 {
            audit.find(format!("member {member} has {holes} holes in its offsets"));
        }
    }
    audit
}

impl Audit {
    fn find(&mut self, finding: String) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        }
    }
}

fn missing(book: &Book, expected: &[(u32, Ranges)]) -> Vec<Letter> {
    let mut missing = Vec::new();
    for (publisher, numbers) in expected {
        let got = book.got.get(publisher).map(|(numbers, _)| numbers);
        let none = Ranges::default();
        let got = got.unwrap_or(&none);
        for &(first, last) in numbers.runs() {
            for &(first, last) in got.gaps(first, last).runs() {
                missing.extend((first..=last).map(|number| Letter {
                    publisher: *publisher,
                    number,
                }));
            }
        }
    }
    missing
}

/// Splits what a member misses into what it was told of (a count) and the rest.
fn judge(
    book: &Book,
    missing: &[Letter],
    places: &HashMap<Letter, (&str, u64)>,
    sent: &[Sent],
) -> (u64, Vec<Letter>) {
    let mut told = 0;
    let mut silent = Vec::new();
    let mut nowhere = Vec::new();
    for letter in missing {
        let place = places.get(letter);
        match place.map(|(epoch, offset)| book.was_told(epoch, *offset)) {
            Some(Some(true)) => told += 1,
            Some(Some(false)) => silent.push(*letter),
            // Nobody received it, or its epoch came and went while the member was away.
            None | Some(None) if book.may_be_blank(*letter, sent) => told += 1,
            Some(None) => silent.push(*letter),
            None => nowhere.push(*letter),
        }
    }
    // What nobody received has no known offset, so it is set against what was told beyond the rest. How
    // much of the rest was counted is not known after a loss of unknown size.
    let counted = if book.is_blank { 0 } else { told };
    let excused = book.told.saturating_sub(counted).min(nowhere.len() as u64);
    silent.extend(nowhere.drain(usize::try_from(excused).unwrap_or(usize::MAX)..));
    (told + excused, silent)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One room, one member, one publisher that sent `sent` letters.
    struct Case {
        book: Book,
        numbering: Numbering,
        tally: Tally,
        sent: Sent,
    }

    impl Case {
        fn new(sent: u64) -> Self {
            let mut case = Self {
                book: Book::new(0),
                numbering: Numbering::default(),
                tally: Tally::default(),
                sent: Sent {
                    room: 0,
                    count: sent,
                    ..Sent::default()
                },
            };
            case.joined("a", 0, true, 0);
            case
        }

        fn joined(&mut self, epoch: &str, offset: u64, is_recovered: bool, lost: i64) {
            self.book
                .handle_joined(epoch, offset, is_recovered, lost, &mut self.tally);
        }

        fn restart(&mut self, epoch: &str, offset: u64) {
            self.book.handle_restart(epoch, offset, &mut self.tally);
        }

        /// Receives letters by offset and number.
        fn receive(&mut self, letters: impl IntoIterator<Item = (u64, u64)>) {
            for (offset, number) in letters {
                let letter = Letter {
                    publisher: 0,
                    number,
                };
                self.book.handle_publication(
                    offset,
                    Some(letter),
                    &mut self.numbering,
                    &mut self.tally,
                );
            }
        }

        /// Another member receives letters by offset and number.
        fn others(&mut self, epoch: &str, letters: impl IntoIterator<Item = (u64, u64)>) {
            for (offset, number) in letters {
                let letter = Letter {
                    publisher: 0,
                    number,
                };
                assert!(self.numbering.note(epoch, offset, letter));
            }
        }

        /// Receives letters whose offset is their number.
        fn receive_plain(&mut self, numbers: impl IntoIterator<Item = u64>) {
            self.receive(numbers.into_iter().map(|number| (number, number)));
        }

        fn audit(&self) -> Audit {
            let books = [(0, &self.book)];
            audit(0, &self.numbering, &books, std::slice::from_ref(&self.sent))
        }

        /// Asserts repeated, reordered, contradicted, told and lost silently.
        fn assert(&self, expected: [u64; 5]) {
            let audit = self.audit();
            let found = [
                self.tally.repeated,
                self.tally.reordered + audit.reordered,
                self.tally.contradicted + audit.foreign,
                audit.told,
                audit.silent,
            ];
            assert_eq!(found, expected, "{:?} {audit:?}", self.tally);
        }

        fn is_settled(&self) -> bool {
            self.book.is_settled(std::iter::once((0, self.sent.count)))
        }
    }

    #[test]
    fn each_fault_has_its_own_count() {
        for (numbers, expected) in [
            (&[1, 2, 3, 4, 5][..], [0, 0, 0, 0, 0]),
            (&[1, 2, 4, 5], [0, 0, 0, 0, 1]),
            (&[2, 3, 4, 5], [0, 0, 0, 0, 1]),
            (&[1, 2, 3], [0, 0, 0, 0, 2]),
            (&[], [0, 0, 0, 0, 5]),
            (&[1, 2, 2, 3, 4, 5], [1, 0, 0, 0, 0]),
            (&[1, 2, 3, 4, 5, 1, 2], [2, 0, 0, 0, 0]),
            (&[1, 3, 2, 4, 5], [0, 1, 0, 0, 0]),
            (&[5, 4, 3, 2, 1], [0, 4, 0, 0, 0]),
            (&[1, 3, 2, 3, 5], [1, 1, 0, 0, 1]),
            (&[1, 2, 3, 4, 5, 6], [0, 0, 1, 0, 0]),
        ] {
            let mut case = Case::new(5);
            case.receive_plain(numbers.iter().copied());
            case.assert(expected);
        }
    }

    #[test]
    fn numbers_out_of_step_with_offsets_are_found() {
        // In order by offset, but not as they were sent.
        let mut case = Case::new(3);
        case.receive([(1, 1), (2, 3), (3, 2)]);
        case.assert([0, 1, 0, 0, 0]);
        // Numbered twice.
        let mut case = Case::new(2);
        case.receive([(1, 1), (2, 1), (3, 2)]);
        case.assert([1, 0, 0, 0, 0]);
        // Two with one number.
        let mut case = Case::new(3);
        case.receive([(1, 1), (1, 2), (2, 3)]);
        case.assert([0, 0, 1, 0, 0]);
        // A number left out, though every letter came.
        let mut case = Case::new(2);
        case.receive([(1, 1), (3, 2)]);
        case.assert([0, 0, 0, 0, 1]);
        assert!(case.audit().findings[0].contains("1 holes"));
    }

    #[test]
    fn wild_offsets_cost_nothing_and_are_found() {
        let mut case = Case::new(2);
        case.receive([(1, 1), (u64::MAX, 2)]);
        case.assert([0, 0, 0, 0, u64::MAX - 2]);
    }

    #[test]
    fn a_stated_loss_is_told_and_no_more_than_it() {
        for (lost, told, silent) in [(2, 2, 0), (1, 1, 1), (0, 0, 2)] {
            let mut case = Case::new(6);
            case.receive_plain([1, 2]);
            case.joined("a", 4, lost == 0, lost);
            case.receive_plain([5, 6]);
            case.assert([0, 0, 0, told, silent]);
        }
        // It came after all.
        let mut case = Case::new(4);
        case.receive_plain([1]);
        case.joined("a", 4, false, 2);
        assert_eq!(case.book.position(), Some(("a", 3)));
        case.receive_plain([3, 4]);
        case.assert([0, 0, 1, 1, 0]);
    }

    #[test]
    fn what_is_skipped_at_the_end_settles_the_member() {
        let mut case = Case::new(5);
        case.receive_plain([1, 2]);
        assert!(!case.is_settled());
        case.book.tell(3, &mut case.tally);
        assert!(case.is_settled());
        case.assert([0, 0, 0, 3, 0]);
    }

    #[test]
    fn an_unknown_loss_reaches_to_the_next_publication() {
        let mut case = Case::new(8);
        case.receive_plain([1, 2]);
        case.joined("b", 3, false, -1);
        assert_eq!(case.book.position(), Some(("b", 3)));
        // 3 to 5 went down with the old epoch; 6 is offset 2 of the new one, and 7 is lost in it.
        case.receive([(2, 6), (4, 8)]);
        case.assert([0, 0, 0, 3, 1]);
    }

    #[test]
    fn an_unknown_loss_tells_of_nothing_that_was_published_behind_it() {
        for (lost, expected) in [(-1, [0, 0, 0, 3, 2]), (0, [0, 0, 1, 0, 5])] {
            let mut case = Case::new(8);
            case.receive_plain([1, 2]);
            case.joined("b", 3, lost == 0, lost);
            // 3 to 5 are what was told; 6 and 7, offsets 4 and 5, are lost while the member is there.
            case.receive([(6, 8)]);
            case.assert(expected);
        }
        // In the same epoch.
        let mut case = Case::new(6);
        case.receive_plain([1, 2]);
        case.joined("a", 4, false, -1);
        case.receive_plain([6]);
        case.assert([0, 0, 0, 2, 1]);
    }

    #[test]
    fn who_hears_nothing_after_an_unknown_loss_is_not_excused() {
        for (epoch, offset) in [("b", 3), ("a", 5)] {
            let mut case = Case::new(7);
            case.receive_plain([1, 2]);
            case.joined(epoch, offset, false, -1);
            case.assert([0, 0, 0, 5, 0]);
            // Others heard 6 and 7.
            case.others(epoch, [(offset + 1, 6), (offset + 2, 7)]);
            case.assert([0, 0, 0, 3, 2]);
        }
    }

    #[test]
    fn an_unknown_loss_is_over_with_what_came_after_it() {
        let at_b = |offsets: &[(u64, u64)]| {
            let mut case = Case::new(7);
            case.receive_plain([1, 2]);
            case.joined("b", 0, false, -1);
            case.receive(offsets.iter().copied());
            case
        };
        // Nobody received 3, nor what was sent behind 5.
        at_b(&[(1, 4), (2, 5)]).assert([0, 0, 0, 1, 2]);
        // 4 may itself have come behind them.
        let mut case = at_b(&[(1, 4), (2, 5)]);
        case.sent.doubtful.insert_all(4, 4);
        case.assert([0, 0, 0, 3, 0]);
        // Epochs that the member never saw: one from before, and one that has begun since.
        let mut case = at_b(&[(1, 4), (2, 5)]);
        case.others("x", [(1, 3)]);
        case.others("c", [(1, 6), (2, 7)]);
        case.assert([0, 0, 0, 1, 2]);
        let mut case = at_b(&[]);
        case.others("c", [(1, 6), (2, 7)]);
        case.assert([0, 0, 0, 5, 0]);
        // What was skipped and nobody received is told all the same.
        let mut case = at_b(&[(1, 4), (2, 5)]);
        case.book.tell(2, &mut case.tally);
        case.assert([0, 0, 0, 3, 0]);
    }

    #[test]
    fn what_is_skipped_of_the_history_of_a_new_epoch_stands_before_the_next() {
        let mut case = Case::new(9);
        case.receive_plain([1, 2]);
        case.joined("b", 10, false, -1);
        case.book.tell(2, &mut case.tally);
        case.receive((8..=12).zip(5..=9));
        case.assert([0, 0, 0, 2, 0]);
    }

    #[test]
    fn a_resume_into_an_epoch_of_which_nothing_was_seen_counts_from_where_it_stands() {
        let mut case = Case::new(8);
        case.receive_plain([1, 2]);
        case.joined("b", 3, false, -1);
        case.joined("b", 5, true, 0);
        case.receive([(5, 8)]);
        // Offset 4 of the new epoch is a hole; what became of 3 to 7 otherwise was told.
        assert_eq!(case.audit().silent, 1);
    }

    #[test]
    fn another_epoch_cannot_be_recovered() {
        let mut case = Case::new(4);
        case.receive_plain([1, 2]);
        case.joined("b", 0, true, 0);
        case.receive([(1, 4)]);
        case.assert([0, 0, 1, 0, 1]);
    }

    #[test]
    fn who_begins_anew_in_the_same_epoch_was_told_of_what_is_between() {
        let mut case = Case::new(8);
        case.receive_plain([1, 2]);
        case.restart("a", 5);
        case.receive_plain([6, 7, 8]);
        case.assert([0, 0, 0, 3, 0]);
        assert!(case.is_settled());
    }

    #[test]
    fn what_comes_behind_a_new_beginning_is_not_excused() {
        let mut case = Case::new(8);
        case.receive_plain([1, 2]);
        case.restart("a", 5);
        case.receive_plain([7, 8]);
        case.assert([0, 0, 0, 3, 1]);
        let mut case = Case::new(6);
        case.receive_plain([1, 2]);
        case.restart("b", 3);
        // Offset 4 of the new epoch is a hole.
        case.receive([(5, 5), (6, 6)]);
        assert_eq!(case.audit().silent, 1);
        assert_eq!(case.audit().told, 1);
    }

    #[test]
    fn a_beginning_before_what_was_received_is_a_contradiction() {
        let mut case = Case::new(3);
        case.receive_plain([1, 2, 3]);
        case.restart("a", 2);
        case.assert([0, 0, 1, 0, 0]);
    }

    #[test]
    fn what_broke_on_its_way_is_unacknowledged_unless_somebody_has_it() {
        let mut case = Case::new(6);
        case.sent.doubtful.insert_all(2, 4);
        case.receive([(1, 1), (2, 3), (3, 5), (4, 6)]);
        case.assert([0, 0, 0, 0, 0]);
        assert_eq!(case.audit().unacknowledged, 2);
        assert!(case.is_settled());
    }

    #[test]
    fn what_broke_on_its_way_may_come_behind_what_was_sent_later() {
        let mut case = Case::new(4);
        case.sent.doubtful.insert_all(1, 2);
        case.receive([(1, 1), (2, 3), (3, 2), (4, 4)]);
        case.assert([0, 0, 0, 0, 0]);
        // By offset there is one order for all.
        case.receive([(3, 5)]);
        assert_eq!(case.tally.contradicted, 1);
        let mut case = Case::new(3);
        case.sent.doubtful.insert_all(2, 2);
        case.receive([(1, 1), (3, 3), (2, 2)]);
        case.assert([0, 1, 0, 0, 0]);
    }

    #[test]
    fn readers_who_saw_different_numbers_disagree() {
        let (mut one, mut other) = (Case::new(2), Case::new(2));
        one.receive([(1, 1), (2, 2)]);
        other.receive([(1, 2), (2, 1)]);
        assert_eq!(one.numbering.merge(&other.numbering), 2);
        assert_eq!(one.numbering.merge(&Case::new(0).numbering), 0);
    }
}

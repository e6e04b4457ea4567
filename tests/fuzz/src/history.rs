//! The history of a room against a list of all that was ever published in it.

use std::collections::HashSet;

use roomcast::base::{ConnId, Limits, NodeId, Offset};
use roomcast::room::history::{Bounds, History};
use roomcast::wire::frame::PayloadKind;
use roomcast::wire::raw::Publication;

use super::input::Input;

/// Three bytes give the bounds; then each byte is a step, with what it needs behind it.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let limits = Limits {
        history_publications_max: usize::from(input.one_of(&[0, 1, 2, 5, 20, 300_u16])),
        history_bytes_max: usize::from(input.one_of(&[1, 10, 100, 1000, 60_000_u16])),
        history_ttl: std::time::Duration::from_secs(input.one_of(&[1, 2, 10, 3600])),
        ..Limits::default()
    };
    let mut pair = Pair {
        history: History::new(Offset(1), 0),
        bounds: Bounds::of(&limits),
        limits,
        all: Vec::new(),
        kept_from: 0,
        first: 1,
        complete_since_ms: 0,
        now_s: 0,
        unix_ms: 1000,
    };
    while !input.is_empty() {
        pair.step(&mut input);
        pair.compare();
    }
}

struct Published {
    offset: u64,
    unix_ms: u64,
    at_s: u32,
    payload: Vec<u8>,
    /// The node that it came from, if that one had a place.
    node: Option<NodeId>,
    is_passing: bool,
}

struct Pair {
    history: History,
    bounds: Bounds,
    limits: Limits,
    all: Vec<Published>,
    /// Those of `all` from here on are kept.
    kept_from: usize,
    /// Everything from here on is kept.
    first: u64,
    complete_since_ms: u64,
    now_s: u32,
    unix_ms: u64,
}

impl Pair {
    fn kept(&self) -> &[Published] {
        &self.all[self.kept_from..]
    }

    fn newest(&self) -> u64 {
        self.all
            .last()
            .map_or(0, |one| one.offset)
            .max(self.first - 1)
    }

    fn forget_oldest(&mut self) {
        let oldest = &self.all[self.kept_from];
        self.first = oldest.offset + 1;
        if !oldest.is_passing {
            self.complete_since_ms = self.complete_since_ms.max(oldest.unix_ms);
        }
        self.kept_from += 1;
    }

    fn trim_age(&mut self) {
        let ttl_s = self.limits.history_ttl.as_secs() as u32;
        // Both times are cut to seconds, so that one more has to pass.
        while self
            .kept()
            .first()
            .is_some_and(|one| one.at_s + ttl_s < self.now_s)
        {
            self.forget_oldest();
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 8 {
            0..4 => self.publish(input),
            4 => {
                self.now_s += u32::from(input.byte() % 8);
                // The wall clock may be set.
                let by = u64::from(input.byte()) * 10;
                self.unix_ms = match input.byte() % 4 {
                    0 => self.unix_ms.saturating_sub(by),
                    _ => self.unix_ms + by,
                };
                self.history.trim_age(self.now_s, &self.bounds);
                self.trim_age();
            }
            5 if input.byte().is_multiple_of(4) => {
                self.history.clear();
                while !self.kept().is_empty() {
                    self.forget_oldest();
                }
            }
            6 => {
                let before = self.first + u64::from(input.byte() % 8);
                if before > self.newest() + 1 {
                    return;
                }
                let complete_since_ms = u64::from(input.byte()) * 10;
                self.history
                    .forget_before(Offset(before), complete_since_ms);
                while self.kept().first().is_some_and(|one| one.offset < before) {
                    self.forget_oldest();
                }
                self.first = self.first.max(before);
                self.complete_since_ms = self.complete_since_ms.max(complete_since_ms);
            }
            _ => self.ask(input),
        }
    }

    fn publish(&mut self, input: &mut Input<'_>) {
        let how = input.byte();
        let skipped = if how.is_multiple_of(16) {
            1 + u64::from(input.byte() % 4)
        } else {
            0
        };
        let node = (how & 0x10 != 0).then(|| NodeId(u64::from(input.short()) % 600));
        // There are places for 255 nodes; who has none is nobody, and never another.
        let mut nodes: HashSet<_> = self.kept().iter().filter_map(|one| one.node).collect();
        nodes.extend(node);
        let has_place = nodes.len() <= 255;
        let len = usize::from(input.byte());
        let one = Published {
            offset: self.newest() + 1 + skipped,
            unix_ms: self.unix_ms,
            at_s: self.now_s,
            payload: vec![how; len],
            node: node.filter(|_| has_place),
            is_passing: how & 0x20 != 0,
        };
        let publication = Publication {
            offset: Offset(one.offset),
            unix_ms: one.unix_ms,
            origin: ConnId::NONE,
            node,
            identity: None,
            kind: PayloadKind::Binary,
            payload: &one.payload,
        };
        self.history
            .push(&publication, one.is_passing, self.now_s, &self.bounds);
        self.all.push(one);
        if self.limits.history_publications_max == 0 {
            self.first = self.newest() + 1;
            self.complete_since_ms = self.complete_since_ms.max(self.unix_ms);
            self.kept_from = self.all.len();
            return;
        }
        let bytes = |kept: &[Published]| kept.iter().map(|one| one.payload.len()).sum::<usize>();
        while self.kept().len() > self.limits.history_publications_max
            || bytes(self.kept()) > self.limits.history_bytes_max
        {
            self.forget_oldest();
        }
        self.trim_age();
    }

    fn ask(&self, input: &mut Input<'_>) {
        let newest = self.newest();
        let place = Offset(u64::from(input.byte()) % (newest + 2));
        let joined_at = u64::from(input.byte()) % (newest + 2);
        let offsets = |found: Vec<Publication<'_>>| -> Vec<u64> {
            found.iter().map(|one| one.offset.0).collect()
        };
        let expected = |is_meant: &dyn Fn(&Published) -> bool| -> Vec<u64> {
            let meant = self.kept().iter().filter(|one| is_meant(one));
            meant.map(|one| one.offset).collect()
        };
        let found = self.history.after_for(place, Offset(joined_at)).collect();
        let meant =
            |one: &Published| one.offset > place.0 && (!one.is_passing || one.offset > joined_at);
        assert_eq!(offsets(found), expected(&meant));
        let found = self.history.before(place).collect();
        assert_eq!(
            offsets(found),
            expected(&|one| one.offset < place.0 && !one.is_passing)
        );
        let mut backwards: Vec<_> = self.history.after(place).rev().collect();
        backwards.reverse();
        let meant = |one: &Published| one.offset > place.0 && !one.is_passing;
        assert_eq!(offsets(backwards), expected(&meant));

        let count = u64::from(input.byte());
        let after = self.history.offset_before_last(count, Offset(newest));
        let all_lasting = expected(&|one| !one.is_passing);
        let got = all_lasting
            .iter()
            .filter(|offset| **offset > after.0)
            .count();
        assert_eq!(
            got,
            all_lasting.len().min(count as usize),
            "the newest {count}"
        );

        let unix_ms = u64::from(input.short());
        let after = self.history.offset_at(unix_ms, Offset(newest));
        // From the newest back, as long as they are newer.
        let newer = self
            .kept()
            .iter()
            .rev()
            .take_while(|one| one.unix_ms > unix_ms);
        let mut newer: Vec<u64> = newer.map(|one| one.offset).collect();
        newer.reverse();
        assert_eq!(
            expected(&|one| one.offset > after.0),
            newer,
            "after {unix_ms}"
        );
    }

    fn compare(&self) {
        assert_eq!(self.history.len(), self.kept().len());
        assert_eq!(self.history.is_empty(), self.kept().is_empty());
        assert_eq!(self.history.first(), Offset(self.first));
        assert_eq!(self.history.complete_since_ms(), self.complete_since_ms);
        let payload_bytes: usize = self.kept().iter().map(|one| one.payload.len()).sum();
        assert!(
            self.history.cost_bytes() >= payload_bytes,
            "more is kept than is counted"
        );
        let found = self.history.after_for(Offset(0), Offset(0));
        for (found, expected) in found.zip(self.kept()) {
            assert_eq!(found.offset.0, expected.offset);
            assert_eq!(found.payload, expected.payload);
            assert_eq!(found.unix_ms, expected.unix_ms);
            assert_eq!(found.node, expected.node);
        }
    }
}

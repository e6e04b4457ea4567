//! The history of a room against a list of all that was ever published in it.

use std::collections::HashSet;

use roomcast::base::{ConnId, Limits, NodeId, Offset};
use roomcast::room::history::{Bounds, History};
use roomcast::wire::frame::PayloadKind;
use roomcast::wire::raw::Publication;

use super::input::Input;

/// Five bytes give the bounds; then each byte is a step, with what it needs behind it.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let limits = Limits {
        history_publications_max: usize::from(input.one_of(&[0, 1, 2, 5, 20, 300_u16])),
        history_bytes_max: usize::from(input.one_of(&[1, 10, 100, 1000, 60_000_u16])),
        history_ttl: std::time::Duration::from_secs(input.one_of(&[1, 2, 10, 3600])),
        outbound_publications_max: usize::from(input.one_of(&[1, 3, 300_u16])),
        outbound_bytes_max: usize::from(input.one_of(&[10, 1000, 60_000_u16])),
        ..Limits::default()
    };
    let mut pair = Pair {
        history: History::new(Offset(1), 0),
        bounds: Bounds::of(&limits),
        limits,
        kept: Vec::new(),
        passing: Vec::new(),
        passing_gone: 0,
        newest: 0,
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
}

struct Pair {
    history: History,
    bounds: Bounds,
    limits: Limits,
    kept: Vec<Published>,
    /// What is not kept, and held.
    passing: Vec<Published>,
    passing_gone: u64,
    newest: u64,
    /// Everything from here on is kept.
    first: u64,
    complete_since_ms: u64,
    now_s: u32,
    unix_ms: u64,
}

impl Pair {
    fn forget_oldest(&mut self) {
        let oldest = self.kept.remove(0);
        self.first = oldest.offset + 1;
        self.complete_since_ms = self.complete_since_ms.max(oldest.unix_ms);
    }

    fn drop_passing(&mut self) {
        if let Some(newest) = self.passing.last() {
            self.passing_gone = newest.offset;
        }
        self.passing.clear();
    }

    fn trim_age(&mut self) {
        let ttl_s = self.limits.history_ttl.as_secs() as u32;
        // Both times are cut to seconds, so that one more has to pass.
        while self
            .kept
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
            5 => match input.byte() % 4 {
                0 => {
                    self.history.clear();
                    while !self.kept.is_empty() {
                        self.forget_oldest();
                    }
                    self.drop_passing();
                }
                1 => {
                    self.history.drop_passing();
                    self.drop_passing();
                }
                _ => self.ask(input),
            },
            6 => {
                let before = self.first + u64::from(input.byte() % 8);
                if before > self.newest + 1 {
                    return;
                }
                let complete_since_ms = u64::from(input.byte()) * 10;
                self.history
                    .forget_before(Offset(before), complete_since_ms);
                while self.kept.first().is_some_and(|one| one.offset < before) {
                    self.forget_oldest();
                }
                self.first = self.first.max(before);
                self.newest = self.newest.max(before - 1);
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
        let mut nodes: HashSet<_> = self
            .kept
            .iter()
            .chain(&self.passing)
            .filter_map(|one| one.node)
            .collect();
        nodes.extend(node);
        let has_place = nodes.len() <= 255;
        let len = usize::from(input.byte());
        let one = Published {
            offset: self.newest + 1 + skipped,
            unix_ms: self.unix_ms,
            at_s: self.now_s,
            payload: vec![how; len],
            node: node.filter(|_| has_place),
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
        self.newest = one.offset;
        let (kept_max, passing_max) = (
            (
                self.limits.history_publications_max,
                self.limits.history_bytes_max,
            ),
            (
                self.limits.outbound_publications_max,
                self.limits.outbound_bytes_max,
            ),
        );
        let is_over = |kept: &[Published], (len_max, bytes_max): (usize, usize)| {
            let bytes = kept.iter().map(|one| one.payload.len()).sum::<usize>();
            kept.len() > len_max || bytes > bytes_max
        };
        if how & 0x20 != 0 {
            self.history.push_passing(&publication, &self.bounds);
            self.passing.push(one);
            while is_over(&self.passing, passing_max) {
                self.passing_gone = self.passing.remove(0).offset;
            }
            return;
        }
        self.history.push(&publication, self.now_s, &self.bounds);
        self.kept.push(one);
        while is_over(&self.kept, kept_max) {
            self.forget_oldest();
        }
        self.trim_age();
    }

    fn ask(&self, input: &mut Input<'_>) {
        let newest = self.newest;
        let place = Offset(u64::from(input.byte()) % (newest + 2));
        let joined_at = u64::from(input.byte()) % (newest + 2);
        let offsets = |found: Vec<Publication<'_>>| -> Vec<u64> {
            found.iter().map(|one| one.offset.0).collect()
        };
        let expected = |is_meant: &dyn Fn(&Published) -> bool| -> Vec<u64> {
            let meant = self.kept.iter().filter(|one| is_meant(one));
            meant.map(|one| one.offset).collect()
        };
        let found = self.history.after_for(place, Offset(joined_at)).collect();
        let held = self.passing.iter().map(|one| one.offset);
        let mut all = expected(&|one| one.offset > place.0);
        all.extend(held.filter(|offset| *offset > place.0.max(joined_at)));
        all.sort_unstable();
        assert_eq!(offsets(found), all);
        let found = self.history.before(place).collect();
        assert_eq!(offsets(found), expected(&|one| one.offset < place.0));
        let mut backwards: Vec<_> = self.history.after(place).rev().collect();
        backwards.reverse();
        assert_eq!(offsets(backwards), expected(&|one| one.offset > place.0));

        let count = u64::from(input.byte());
        let after = self.history.offset_before_last(count, Offset(newest));
        let all_lasting = expected(&|_| true);
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
            .kept
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
        assert_eq!(self.history.len(), self.kept.len());
        assert_eq!(self.history.passing_len(), self.passing.len());
        let mut all: Vec<&Published> = self.kept.iter().chain(&self.passing).collect();
        all.sort_unstable_by_key(|one| one.offset);
        assert_eq!(self.history.is_empty(), all.is_empty());
        assert_eq!(self.history.first(), Offset(self.first));
        assert_eq!(self.history.passing_gone(), Offset(self.passing_gone));
        assert_eq!(self.history.complete_since_ms(), self.complete_since_ms);
        let payload_bytes: usize = all.iter().map(|one| one.payload.len()).sum();
        assert!(
            self.history.cost_bytes() >= payload_bytes,
            "more is kept than is counted"
        );
        let found: Vec<_> = self.history.after_for(Offset(0), Offset(0)).collect();
        assert_eq!(found.len(), all.len());
        for (found, expected) in found.into_iter().zip(all) {
            assert_eq!(found.offset.0, expected.offset);
            assert_eq!(found.payload, expected.payload);
            assert_eq!(found.unix_ms, expected.unix_ms);
            assert_eq!(found.node, expected.node);
        }
    }
}

//! Publications of one room that leave together.
//!
//! Owns: the frames laid end to end so far, one sequence for each wire form in use.
//! Never: decides when to release; the shard does, and always before the room's membership
//! changes, so that every member receives all of a batch or, having joined later, none of it.

use crate::base::{Compressed, Instant, Offset, RoomName};
use crate::exchange::{Broadcast, Origin};
use crate::wire::frame::FramesBuilder;
use crate::wire::raw::{Publication, WireForm, put_publication};

/// A merge that is being gathered.
#[derive(Debug, Default)]
pub struct Batch {
    forms: [FramesBuilder; WireForm::COUNT],
    origins: Vec<Origin>,
    last: Offset,
    /// When the first of them was taken from its publisher, where that is known.
    taken_at: Option<Instant>,
}

impl Batch {
    /// The publication that is appended next was taken from its publisher then.
    pub fn note_taken(&mut self, at: Instant) {
        self.taken_at.get_or_insert(at);
    }

    /// Appends a publication and where it came from, encoding it once for each form that `in_use` says somebody uses.
    /// Returns what was compressed for it.
    pub fn push(
        &mut self,
        room: &RoomName,
        (publication, origin): (&Publication<'_>, Origin),
        gzip_bytes_min: usize,
        in_use: impl Fn(WireForm) -> bool,
    ) -> Compressed {
        let mut compressed = Compressed::default();
        for form in WireForm::ALL {
            if in_use(form) {
                compressed += put_publication(
                    &mut self.forms[form.index()],
                    form,
                    room,
                    publication,
                    gzip_bytes_min,
                );
            }
        }
        self.origins.push(origin);
        self.last = publication.offset;
        compressed
    }

    /// Whether nothing is gathered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.origins.is_empty()
    }

    /// Number of publications gathered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.origins.len()
    }

    /// Bytes of the largest form.
    #[must_use]
    pub fn bytes_len(&self) -> usize {
        self.forms
            .iter()
            .map(FramesBuilder::bytes_len)
            .max()
            .unwrap_or(0)
    }

    /// What was gathered, leaving the batch empty; `None` if nothing was.
    pub fn take(&mut self, room: &RoomName) -> Option<Broadcast> {
        if self.is_empty() {
            return None;
        }
        let forms = self
            .forms
            .each_mut()
            .map(|frames| (!frames.is_empty()).then(|| frames.take()));
        let origins = std::mem::take(&mut self.origins);
        Some(Broadcast {
            room: room.clone(),
            last: self.last,
            forms,
            has_answered: origins.iter().any(|origin| origin.is_answered),
            origins: origins.into(),
            taken_at: self.taken_at.take(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::base::ConnId;
    use crate::wire::frame::{Frames, PayloadKind};

    /// However many members a room has, a publication is encoded once for each form that they use.
    #[test]
    fn a_publication_is_encoded_once_for_each_form_in_use() {
        let room = RoomName::new("r").expect("a good name");
        let used = [WireForm::Raw, WireForm::Json, WireForm::Centrifugo];
        let asked = RefCell::new(Vec::new());
        let mut batch = Batch::default();
        for (offset, payload) in [(1, "one"), (2, "two")] {
            let publication = Publication {
                offset: Offset(offset),
                unix_ms: 5,
                origin: ConnId::NONE,
                node: None,
                identity: None,
                kind: PayloadKind::Text,
                payload: payload.as_bytes(),
            };
            let origin = Origin {
                conn: ConnId::NONE,
                payload_bytes: 3,
                command: 0,
                is_answered: false,
            };
            batch.push(&room, (&publication, origin), usize::MAX, |form| {
                asked.borrow_mut().push(form);
                used.contains(&form)
            });
        }
        assert_eq!(*asked.borrow(), [WireForm::ALL; 2].concat());
        let broadcast = batch.take(&room).expect("two publications");
        for form in WireForm::ALL {
            let texts: [&str; 2] = match form {
                WireForm::Raw => ["one", "two"],
                WireForm::Json => [
                    r#"{"publication":{"room":"r","offset":1,"time":5,"data":"one"}}"#,
                    r#"{"publication":{"room":"r","offset":2,"time":5,"data":"two"}}"#,
                ],
                WireForm::Centrifugo => [
                    r#"{"push":{"channel":"r","pub":{"data":"one","offset":1}}}"#,
                    r#"{"push":{"channel":"r","pub":{"data":"two","offset":2}}}"#,
                ],
                WireForm::RawGzip | WireForm::JsonGzip => {
                    assert!(broadcast.forms[form.index()].is_none(), "{form:?}");
                    continue;
                }
            };
            let found = broadcast.forms[form.index()].as_ref();
            let found = found.expect("a form in use");
            assert_eq!(found.count(), 2, "{form:?}");
            let frames = texts.map(|text| Frames::message(PayloadKind::Text, text.as_bytes()));
            let expected = frames.map(|frame| frame.bytes().to_vec()).concat();
            assert_eq!(found.bytes(), expected, "{form:?}");
        }
    }
}

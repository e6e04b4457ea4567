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

    /// Appends a publication, encoding it once for each form that `in_use` says somebody uses.
    /// Returns what was compressed for it.
    pub fn push(
        &mut self,
        room: &RoomName,
        publication: &Publication<'_>,
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
        self.origins.push(Origin {
            conn: publication.origin,
            payload_bytes: publication.payload.len() as u32,
            is_answered: false,
        });
        self.last = publication.offset;
        compressed
    }

    /// Whoever has published the last of them was answered before.
    pub fn note_answered(&mut self) {
        if let Some(last) = self.origins.last_mut() {
            last.is_answered = true;
        }
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

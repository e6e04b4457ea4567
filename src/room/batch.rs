//! Publications of one room that leave together.
//!
//! Owns: the frames laid end to end so far, one sequence for each wire form in use.
//! Never: decides when to release; the shard does, and always before the room's membership
//! changes, so that every member receives all of a batch or, having joined later, none of it.

use crate::base::{ConnId, Offset, RoomName};
use crate::exchange::{Broadcast, Origin};
use crate::wire::frame::FramesBuilder;
use crate::wire::frame::PayloadKind;
use crate::wire::raw::{Publication, WireForm, publication_envelope};

/// A merge that is being gathered.
#[derive(Debug, Default)]
pub struct Batch {
    forms: [FramesBuilder; WireForm::COUNT],
    origins: Vec<Origin>,
    last: Offset,
}

impl Batch {
    /// Appends a publication, encoding it once for each form that `in_use` says somebody uses.
    pub fn push(
        &mut self,
        room: &RoomName,
        publication: &Publication,
        origin: ConnId,
        in_use: impl Fn(WireForm) -> bool,
    ) {
        let payload = &publication.payload;
        for form in WireForm::ALL {
            if !in_use(form) {
                continue;
            }
            let frames = &mut self.forms[form.index()];
            match form {
                WireForm::Raw => frames.push(payload.kind(), payload.bytes()),
                WireForm::Json => {
                    frames.push(PayloadKind::Text, &publication_envelope(room, publication));
                }
            }
        }
        self.origins.push(Origin {
            conn: origin,
            payload_bytes: payload.bytes().len() as u32,
        });
        self.last = publication.offset;
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
        let origins = std::mem::take(&mut self.origins).into();
        Some(Broadcast {
            room: room.clone(),
            last: self.last,
            forms,
            origins,
        })
    }
}

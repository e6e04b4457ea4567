//! All that the broker has ever numbered: what members are measured against.

use std::collections::{BTreeMap, BTreeSet};

use roomcast::base::{ConnId, Position, RoomName};
use roomcast::cluster::{Shared, Token};

/// All that was ever numbered.
#[derive(Default)]
pub(crate) struct Log {
    /// By room and epoch, by offset, every publication that ever had it: the last one counts.
    pub(crate) epochs: BTreeMap<(String, String), Vec<Vec<Logged>>>,
    /// Where each payload is.
    pub(crate) places: BTreeMap<Vec<u8>, Vec<Place>>,
    /// The largest offset that any node may have heard of.
    told: BTreeMap<(String, String), u64>,
    /// Epochs that went on after an older copy had come back, and nobody who was there knew better.
    pub(crate) torn: BTreeSet<(String, String)>,
}

pub(crate) struct Logged {
    pub(crate) payload: Vec<u8>,
    pub(crate) token: Token,
    pub(crate) conn: ConnId,
    pub(crate) is_kept: bool,
    pub(crate) is_readable: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) room: String,
    pub(crate) epoch: String,
    pub(crate) offset: u64,
}

impl Log {
    pub(crate) fn note(
        &mut self,
        name: &RoomName,
        position: Position,
        shared: &Shared,
        is_readable: bool,
    ) {
        let at = (name.to_string(), position.epoch.to_string());
        let offsets = self.epochs.entry(at.clone()).or_default();
        let index = position.offset.0 as usize - 1;
        assert!(index <= offsets.len(), "the broker leaves no hole");
        if index == offsets.len() {
            offsets.push(Vec::new());
        } else if self
            .told
            .get(&at)
            .is_some_and(|told| *told >= position.offset.0)
        {
            self.torn.insert(at.clone());
        }
        let payload = shared.payload.bytes().to_vec();
        let place = Place {
            room: at.0,
            epoch: at.1,
            offset: position.offset.0,
        };
        self.places.entry(payload.clone()).or_default().push(place);
        offsets[index].push(Logged {
            payload,
            token: shared.token,
            conn: shared.conn,
            is_kept: shared.is_kept,
            is_readable,
        });
    }

    pub(crate) fn note_told(&mut self, name: &RoomName, position: Position) {
        let at = (name.to_string(), position.epoch.to_string());
        let told = self.told.entry(at).or_default();
        *told = (*told).max(position.offset.0);
    }

    /// What had an offset; the last one counts.
    pub(crate) fn at(&self, room: &str, epoch: &str, offset: u64) -> &[Logged] {
        let at = (room.to_owned(), epoch.to_owned());
        let index = offset.checked_sub(1).map(|index| index as usize);
        (self.epochs.get(&at).zip(index))
            .and_then(|(offsets, index)| offsets.get(index))
            .map_or(&[], Vec::as_slice)
    }
}

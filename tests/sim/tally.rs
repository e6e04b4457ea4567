//! How often what a simulator can do has happened, over all its seeds: what never does is not tested.

use std::collections::BTreeMap;
use std::ops::AddAssign;

#[derive(Clone, Debug, Default)]
pub(crate) struct Tally(BTreeMap<String, u64>);

impl Tally {
    pub(crate) const fn new() -> Self {
        Self(BTreeMap::new())
    }

    pub(crate) fn note(&mut self, what: impl Into<String>) {
        *self.0.entry(what.into()).or_default() += 1;
    }

    /// What a client does, if it does anything.
    pub(crate) fn note_deed(&mut self, deed: Option<&str>) {
        if let Some(deed) = deed {
            self.note(format!("a client {deed}"));
        }
    }

    /// # Panics
    /// If one of these has never happened.
    pub(crate) fn assert_all(&self, names: &[&str]) {
        let is_absent = |name: &&&str| !self.0.contains_key(**name);
        let never: Vec<_> = names.iter().filter(is_absent).collect();
        assert!(never.is_empty(), "never happened: {never:?}; {:?}", self.0);
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, more: Self) {
        for (name, count) in more.0 {
            *self.0.entry(name).or_default() += count;
        }
    }
}

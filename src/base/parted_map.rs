//! A hash map in parts, so that growing it is no pause.
//!
//! A table that doubles moves all its entries at once. With a million names, each behind a pointer
//! that is followed to hash it again, that is 200 to 400 ms in which the loop, or a worker, serves
//! nobody. Here a cheap hash picks one of 64 parts for a key, and each part grows by itself: at about
//! the same number of entries, but never in the same step as another. The cheap hash begins at random,
//! and should somebody choose names that all fall into one part, that is what one table would be, no
//! worse: within a part the standard library's keyed hash is used.
//!
//! Never: shrinks, and never keeps an order.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};

/// A map from keys to values.
#[derive(Debug)]
pub struct PartedMap<K, V> {
    /// Where the hash that picks a part begins.
    seed: u64,
    parts: Box<[HashMap<K, V>; PARTS]>,
    len: usize,
}

impl<K, V> Default for PartedMap<K, V> {
    fn default() -> Self {
        Self {
            seed: RandomState::new().hash_one(0),
            parts: Box::new(std::array::from_fn(|_| HashMap::new())),
            len: 0,
        }
    }
}

impl<K: Hash + Eq, V> PartedMap<K, V> {
    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        self.parts[self.part_of(key)].get(key)
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let part = self.part_of(key);
        self.parts[part].get_mut(key)
    }

    /// Whether `key` is here.
    #[must_use]
    pub fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// Gives `key` a value, and returns the one that it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let part = self.part_of(&key);
        let before = self.parts[part].insert(key, value);
        self.len += usize::from(before.is_none());
        before
    }

    /// Takes `key` out, and returns the value that it had.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let part = self.part_of(key);
        let before = self.parts[part].remove(key);
        self.len -= usize::from(before.is_some());
        before
    }

    /// All keys with their values, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.parts.iter().flatten()
    }

    /// All values, to change them, in no order.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.parts.iter_mut().flat_map(HashMap::values_mut)
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn part_of(&self, key: &K) -> usize {
        let mut picker = Picker(self.seed);
        key.hash(&mut picker);
        (picker.finish() % PARTS as u64) as usize
    }
}

/// FNV-1a, with its high bits folded into the low ones that count here.
struct Picker(u64);

impl Hasher for Picker {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}

/// With a million entries a part grows in 5 ms.
const PARTS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Prng;

    #[test]
    fn it_does_what_one_map_does() {
        let mut prng = Prng::new(1);
        let mut map = PartedMap::default();
        let mut model = HashMap::new();
        for value in 0..10_000u64 {
            let key = prng.below(1_000);
            match prng.below(3) {
                0 => assert_eq!(map.remove(&key), model.remove(&key)),
                1 => assert_eq!(map.insert(key, value), model.insert(key, value)),
                _ => assert_eq!(map.get_mut(&key), model.get_mut(&key)),
            }
            assert_eq!(map.contains_key(&key), model.contains_key(&key));
            assert_eq!((map.len(), map.is_empty()), (model.len(), model.is_empty()));
        }
        let longest = map.parts.iter().map(HashMap::len).max();
        assert!(
            longest < Some(map.len() / 10),
            "the parts are of about the same size"
        );
        let listed: HashMap<u64, u64> = map.iter().map(|(key, value)| (*key, *value)).collect();
        assert_eq!(listed, model);
    }

    #[test]
    fn nobody_knows_which_keys_meet() {
        // Who knew could make keys that all stand in one part, or in one place of it.
        let order = || {
            let mut map = PartedMap::default();
            for key in 0..1000u64 {
                map.insert(key, ());
            }
            let parts: Vec<usize> = (0..1000).map(|key| map.part_of(&key)).collect();
            let keys: Vec<u64> = map.iter().map(|(key, ())| *key).collect();
            (parts, keys)
        };
        let ((parts, keys), (other_parts, other_keys)) = (order(), order());
        assert_ne!(parts, other_parts);
        assert_ne!(keys, other_keys);
    }
}

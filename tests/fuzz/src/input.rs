//! Takes the bytes of one run apart: numbers and pieces from the front.
//!
//! What is missing reads as zero, so that every input means something.

use std::ops::Range;

/// What is left of the input.
#[derive(Clone, Debug)]
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    /// The next two bytes as a number.
    pub fn short(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// The next eight bytes as a number.
    pub fn long(&mut self) -> u64 {
        u64::from_be_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// One of `choices`, by the next byte.
    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.byte()) % choices.len()]
    }

    /// The next bytes, as many as there are up to `len`.
    pub fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// What is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Cuts `0..len` into pieces without gaps, as the byte `how` says: whole, byte by byte, or at places
/// that come from it.
#[must_use]
pub fn pieces(how: u8, len: usize) -> Vec<Range<usize>> {
    let mut state = u32::from(how);
    let mut pieces = Vec::new();
    let mut start = 0;
    while start < len {
        let step = match how {
            0 => len,
            1..16 => usize::from(how),
            _ => {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // Mostly small, sometimes much larger than a frame header or a line.
                1 + (state >> 24) as usize % if state & 0x7000 == 0 { 256 } else { 12 }
            }
        };
        let end = len.min(start + step);
        pieces.push(start..end);
        start = end;
    }
    pieces
}

//! What the benches share: when to measure, how to time, what a client sends.
//!
//! A module of the benches that need it, not a bench of its own.
//!
//! Never: measures anything itself, or knows the parts under test.

use std::env;
use std::hint::black_box;
use std::time::{Duration, Instant};

use roomcast::base::Prng;

/// Whether figures are wanted: cargo says `--bench` for a bench and nothing for a test.
pub(crate) fn is_measuring() -> bool {
    env::args().any(|argument| argument == "--bench")
}

/// The middle of the figures that `round` gives, of which the first is dropped: it warms up.
pub(crate) fn median<const N: usize>(
    rounds: usize,
    mut round: impl FnMut() -> [f64; N],
) -> [f64; N] {
    round();
    let figures: Vec<[f64; N]> = (0..rounds).map(|_| round()).collect();
    std::array::from_fn(|column| {
        let mut sorted: Vec<f64> = figures.iter().map(|row| row[column]).collect();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    })
}

/// Nanoseconds that `f` takes.
pub(crate) fn timed(f: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    f();
    nanos(begun.elapsed())
}

/// Nanoseconds that one reading of the clock adds to a span that is timed in parts.
pub(crate) fn clock_nanos() -> f64 {
    const READINGS: u32 = 10_000;
    let [reading] = median(9, || {
        let spent = timed(|| {
            for _ in 0..READINGS {
                black_box(Instant::now());
            }
        });
        [spent / f64::from(READINGS)]
    });
    reading
}

/// The duration in nanoseconds.
pub(crate) fn nanos(duration: Duration) -> f64 {
    duration.as_nanos() as f64
}

/// Puts what is in `list` into random order.
pub(crate) fn shuffle<T>(list: &mut [T], prng: &mut Prng) {
    for end in (1..list.len()).rev() {
        list.swap(end, prng.below(end as u64 + 1) as usize);
    }
}

/// A text frame as a client sends it: whole and masked (RFC 6455, section 5.2).
pub(crate) fn client_frame(payload: &[u8]) -> Vec<u8> {
    masked_frame(0x81, payload)
}

/// A pong as a client answers a ping without content.
pub(crate) fn client_pong() -> Vec<u8> {
    masked_frame(0x8a, &[])
}

fn masked_frame(first_byte: u8, payload: &[u8]) -> Vec<u8> {
    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![first_byte];
    match u16::try_from(payload.len()) {
        Ok(len @ 0..=125) => frame.push(0x80 | len as u8),
        Ok(len) => {
            frame.push(0x80 | 126);
            frame.extend(len.to_be_bytes());
        }
        Err(_) => {
            frame.push(0x80 | 127);
            frame.extend((payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend(KEY);
    frame.extend(
        payload
            .iter()
            .zip(KEY.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    frame
}

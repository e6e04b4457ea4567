//! Seeded pseudo-random numbers for jitter and for the simulator.
//!
//! Owns: 64 bits of state. The same seed gives the same numbers on every machine, which is what
//! makes a simulated run repeatable.
//! Never: reads a clock or asks the system for entropy; the seed comes from the caller.
//!
//! Not for secrets. Whoever sees one full output can compute every later one, so tokens, keys,
//! epochs that must not be guessed and WebSocket masks must come from elsewhere.
//!
//! The generator is SplitMix64: G. Steele, D. Lea and C. Flood, "Fast Splittable Pseudorandom
//! Number Generators", OOPSLA 2014, with the constants of Sebastiano Vigna's public-domain version,
//! <https://prng.di.unimi.it/splitmix64.c>. It was preferred to xoshiro256** because one word of
//! state has no bad seeds, and a period of 2^64 is ample here.

use std::time::Duration;

/// A small deterministic generator. Not for secrets.
#[derive(Clone, Debug)]
pub struct Prng {
    state: u64,
}

impl Prng {
    /// Returns a generator whose whole sequence follows from `seed`; every seed is a good one.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Returns the next 64 random bits.
    #[inline]
    pub const fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number in `0..n`, each equally likely.
    ///
    /// Panics if `n` is zero, because no number is below zero.
    #[inline]
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "below(0) has no answer");
        // D. Lemire, "Fast Random Integer Generation in an Interval", 2019: the high half of
        // `random * n` is the answer. Of the 2^64 products, the first `2^64 mod n` low halves are
        // refused, after which every answer is left with the same number of products.
        let mut product = u128::from(self.next_u64()) * u128::from(n);
        if (product as u64) < n {
            // `2^64 mod n` is below `n`, so the division is needed only on this rare path.
            let refused = n.wrapping_neg() % n;
            while (product as u64) < refused {
                product = u128::from(self.next_u64()) * u128::from(n);
            }
        }
        (product >> 64) as u64
    }

    /// Returns a duration from `lo` to `hi`, both included, to the nanosecond.
    ///
    /// Returns `lo` when `hi` is not longer than `lo`. Only the first 584 years of the span are
    /// used.
    #[inline]
    pub fn between(&mut self, lo: Duration, hi: Duration) -> Duration {
        let span = hi.saturating_sub(lo).as_nanos();
        let choices = u64::try_from(span).unwrap_or(u64::MAX).saturating_add(1);
        lo + Duration::from_nanos(self.below(choices))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_published_vectors() {
        let check = |seed, expected: &[u64]| {
            let mut prng = Prng::new(seed);
            for (index, &want) in expected.iter().enumerate() {
                assert_eq!(prng.next_u64(), want, "seed {seed}, output {index}");
            }
        };
        check(
            0,
            &[
                0xe220_a839_7b1d_cdaf,
                0x6e78_9e6a_a1b9_65f4,
                0x06c4_5d18_8009_454f,
                0xf88b_b8a8_724c_81ec,
            ],
        );
        check(
            1_234_567,
            &[
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423,
                4_593_380_528_125_082_431,
                16_408_922_859_458_223_821,
            ],
        );
    }

    #[test]
    fn below_stays_below_and_reaches_every_value() {
        let mut prng = Prng::new(1);
        for n in [1, 2, 3, 5, 7, 8, 100] {
            let mut seen = vec![0_u32; usize::try_from(n).expect("a small number")];
            for _ in 0..n * 1_000 {
                seen[usize::try_from(prng.below(n)).expect("a small number")] += 1;
            }
            // The count of one value has a deviation of at most 32 around 1 000.
            assert!(
                seen.iter().all(|&count| count.abs_diff(1_000) < 200),
                "{n}: {seen:?}"
            );
        }
    }

    #[test]
    fn below_is_fair_where_the_modulo_would_not_be() {
        // `random % n` would give the lower third of this range twice as often as the rest.
        let n = u64::MAX / 4 * 3;
        let mut prng = Prng::new(2);
        let low = (0..30_000).filter(|_| prng.below(n) < n / 3).count();
        assert!(low.abs_diff(10_000) < 500, "{low} of 30 000 in one third");
    }

    #[test]
    fn below_takes_the_largest_bound() {
        let mut prng = Prng::new(3);
        assert!((0..1_000).all(|_| prng.below(u64::MAX) < u64::MAX));
    }

    #[test]
    #[should_panic(expected = "below(0) has no answer")]
    fn below_zero_panics() {
        Prng::new(0).below(0);
    }

    #[test]
    fn between_includes_both_ends() {
        let lo = Duration::from_secs(5);
        let hi = lo + Duration::from_nanos(2);
        let mut prng = Prng::new(4);
        let mut seen = [0_u32; 3];
        for _ in 0..300 {
            let extra = (prng.between(lo, hi) - lo).as_nanos();
            seen[usize::try_from(extra).expect("at most two")] += 1;
        }
        assert!(seen.iter().all(|&count| count > 0), "{seen:?}");
    }

    #[test]
    fn between_survives_odd_spans() {
        let (short, long) = (Duration::from_secs(1), Duration::from_secs(2));
        let mut prng = Prng::new(5);
        assert_eq!(prng.between(short, short), short);
        assert_eq!(prng.between(long, short), long);
        assert_eq!(
            prng.between(Duration::MAX, Duration::MAX),
            Duration::MAX,
            "an empty span at the far end"
        );
        assert!(prng.between(Duration::ZERO, Duration::MAX) < Duration::MAX);
    }

    #[test]
    fn clones_and_equal_seeds_agree() {
        let mut first = Prng::new(6);
        let mut second = Prng::new(6);
        assert_eq!(first.next_u64(), second.next_u64());
        assert_eq!(first.clone().next_u64(), second.next_u64());
    }
}

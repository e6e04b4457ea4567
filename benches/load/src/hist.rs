//! Log-linear (HDR style) histogram of nanoseconds: 128 steps per power of two, under 0.8 % error.
const BITS: u32 = 7;
const SUB: usize = 1 << BITS;

#[derive(Clone)]
pub struct Hist {
    b: Vec<u64>,
    pub n: u64,
    pub max: u64,
    sum: u128,
}

#[inline]
fn index(v: u64) -> usize {
    if v < (2 * SUB) as u64 {
        return v as usize;
    }
    let shift = 63 - v.leading_zeros() - BITS;
    (shift as usize) * SUB + (v >> shift) as usize
}
fn upper(i: usize) -> u64 {
    if i < 2 * SUB {
        return i as u64;
    }
    let shift = (i / SUB - 1) as u32;
    let base = (i - shift as usize * SUB) as u64;
    (((base as u128 + 1) << shift) - 1).min(u64::MAX as u128) as u64
}

impl Hist {
    pub fn new() -> Hist {
        Hist {
            b: vec![0; index(u64::MAX) + 1],
            n: 0,
            max: 0,
            sum: 0,
        }
    }
    #[inline]
    pub fn add(&mut self, v: u64) {
        self.b[index(v)] += 1;
        self.n += 1;
        self.sum += v as u128;
        if v > self.max {
            self.max = v;
        }
    }
    pub fn quantile(&self, q: f64) -> u64 {
        if self.n == 0 {
            return 0;
        }
        let want = ((self.n as f64 * q).ceil() as u64).clamp(1, self.n);
        let mut seen = 0;
        for (i, c) in self.b.iter().enumerate() {
            seen += c;
            if seen >= want {
                return upper(i).min(self.max);
            }
        }
        self.max
    }
    pub fn mean(&self) -> f64 {
        if self.n == 0 {
            0.0
        } else {
            self.sum as f64 / self.n as f64
        }
    }
    /// p50, p99, p99.9 and max in microseconds, as JSON members with the given prefix.
    pub fn json(&self, prefix: &str) -> String {
        let us = |v: u64| v as f64 / 1000.0;
        format!(
            "\"{p}_p50_us\":{:.1},\"{p}_p90_us\":{:.1},\"{p}_p99_us\":{:.1},\"{p}_p999_us\":{:.1},\
             \"{p}_max_us\":{:.1},\"{p}_mean_us\":{:.1}",
            us(self.quantile(0.50)),
            us(self.quantile(0.90)),
            us(self.quantile(0.99)),
            us(self.quantile(0.999)),
            us(self.max),
            self.mean() / 1000.0,
            p = prefix
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn index_and_upper_agree() {
        for v in
            (0..100_000u64).chain((1..63).flat_map(|s| [(1u64 << s) - 1, 1 << s, (1 << s) + 1]))
        {
            let i = index(v);
            assert!(upper(i) >= v, "{v}");
            assert!(i == 0 || upper(i - 1) < v, "{v}");
            assert!(
                (upper(i) - v) as f64 <= v as f64 * 0.0079,
                "{v} {}",
                upper(i)
            );
        }
        assert_eq!(index(u64::MAX) + 1, Hist::new().b.len());
    }
    #[test]
    fn quantiles() {
        let mut h = Hist::new();
        for v in 1..=1000 {
            h.add(v * 1000);
        }
        for (q, want) in [(0.5, 500_000.0), (0.99, 990_000.0), (0.999, 999_000.0)] {
            let got = h.quantile(q) as f64;
            assert!((got - want).abs() / want < 0.01, "{q} {got}");
        }
        assert_eq!(h.quantile(1.0), 1_000_000);
        assert_eq!(h.max, 1_000_000);
    }
}

//! Metrics as a Prometheus server reads them (text format 0.0.4), by rules stricter than its own.

use std::collections::{BTreeMap, BTreeSet};

/// The metrics by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Exposition {
    pub(crate) families: BTreeMap<String, Family>,
}

/// One metric.
#[derive(Clone, Debug, Default)]
pub(crate) struct Family {
    pub(crate) kind: String,
    /// Values by name and labels.
    pub(crate) samples: BTreeMap<String, f64>,
}

impl Exposition {
    /// Reads a text. Panics at the first thing that is not as it should be.
    pub(crate) fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'), "the last line must end");
        let mut families: BTreeMap<String, Family> = BTreeMap::new();
        let mut current = String::new();
        let mut helped = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a name and a text");
                assert!(!help.trim().is_empty() && !help.contains('\\'), "{line}");
                assert!(!families.contains_key(name), "{name} comes twice");
                helped = name.to_owned();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a name and a type");
                assert_eq!(name, helped, "HELP comes right before TYPE");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                check_name(name, kind);
                current = name.to_owned();
                let kind = kind.to_owned();
                let samples = BTreeMap::new();
                families.insert(current.clone(), Family { kind, samples });
            } else {
                let family = families.get_mut(&current);
                add_sample(line, &current, family.expect("TYPE comes first"));
            }
        }
        for (name, family) in &families {
            if family.kind == "histogram" {
                check_histogram(name, family);
            }
        }
        Self { families }
    }

    /// The metrics that have another value than in `before`.
    pub(crate) fn moved_since(&self, before: &Self) -> BTreeSet<String> {
        let is_moved = |(name, family): &(&String, &Family)| {
            let old = before.families.get(*name);
            old.is_none_or(|old| old.samples != family.samples)
        };
        let moved = self.families.iter().filter(is_moved);
        moved.map(|(name, _)| name.clone()).collect()
    }

    /// The value of one sample, by its name and labels.
    pub(crate) fn value(&self, series: &str) -> f64 {
        let mut families = self.families.values();
        let found = families.find_map(|family| family.samples.get(series));
        *found.unwrap_or_else(|| panic!("no {series}"))
    }
}

fn check_name(name: &str, kind: &str) {
    let rest = name.strip_prefix("roomcast_").expect("our prefix");
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    assert!(rest.chars().all(is_plain), "{name}");
    assert_eq!(kind == "counter", rest.ends_with("_total"), "{name}");
    for end in ["_bucket", "_sum", "_count", "_ms", "_us", "_kb"] {
        assert!(!rest.ends_with(end), "{name}");
    }
}

fn add_sample(line: &str, name: &str, family: &mut Family) {
    let (series, value) = line.rsplit_once(' ').expect("a value");
    let value: f64 = value.parse().expect("a number");
    assert!(value.is_finite() && value >= 0.0, "{line}");
    let (of, labels) = match series.split_once('{') {
        Some((of, labels)) => (of, labels.strip_suffix('}').expect("a closing brace")),
        None => (series, ""),
    };
    let ends: &[&str] = match &*family.kind {
        "histogram" => &["_bucket", "_sum", "_count"],
        _ => &[""],
    };
    let is_ours = ends.iter().any(|end| of == format!("{name}{end}"));
    assert!(is_ours, "{line} below the TYPE of {name}");
    for label in labels.split(',').filter(|label| !label.is_empty()) {
        let (key, value) = label.split_once('=').expect("a label");
        assert!(key.chars().all(|c| c.is_ascii_lowercase()), "{line}");
        let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
        let value = value.expect("a quoted value");
        assert!(!value.contains(['"', '\\']), "{line}");
    }
    let before = family.samples.insert(series.to_owned(), value);
    assert_eq!(before, None, "{series} comes twice");
}

/// Buckets grow to what `_count` says, and there is a `_sum`.
fn check_histogram(name: &str, family: &Family) {
    // Labels but for `le`, to buckets by bound.
    let mut buckets: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for (series, value) in &family.samples {
        let Some(labels) = series.strip_prefix(&format!("{name}_bucket{{")) else {
            continue;
        };
        let labels = labels.trim_end_matches('}');
        let (others, bound) = labels.rsplit_once("le=\"").expect("a bound");
        let bound = match bound.trim_end_matches('"') {
            "+Inf" => f64::INFINITY,
            bound => bound.parse().expect("a number"),
        };
        let others = others.trim_end_matches(',').to_owned();
        buckets.entry(others).or_default().push((bound, *value));
    }
    assert!(!buckets.is_empty(), "{name} has no bucket");
    for (labels, mut buckets) in buckets {
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(buckets.is_sorted_by(|a, b| a.1 <= b.1), "{name} {labels}");
        let labels = match &*labels {
            "" => String::new(),
            labels => format!("{{{labels}}}"),
        };
        let last = buckets.last().expect("one at least");
        assert_eq!(last.0, f64::INFINITY, "{name}{labels}");
        let of = |end: &str| family.samples.get(&format!("{name}{end}{labels}"));
        assert_eq!(of("_count"), Some(&last.1), "{name}{labels}");
        assert!(of("_sum").is_some(), "{name}{labels}");
    }
}

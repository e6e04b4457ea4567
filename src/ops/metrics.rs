//! The text form of metrics (Prometheus exposition format 0.0.4).
//!
//! Never: keeps a number; each owner counts for itself and hands the values over.

use std::fmt::{Display, Write as _};

use crate::base::Histogram;

/// Builds the text.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

impl Exposition {
    /// Adds a count that only grows.
    pub fn counter(&mut self, name: &str, help: &str, value: impl Display) -> &mut Self {
        self.head(name, help, "counter").sample(name, "", value)
    }

    /// Adds a size that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str, value: impl Display) -> &mut Self {
        self.head(name, help, "gauge").sample(name, "", value)
    }

    /// Adds counts told apart by one label, whose values hold no quote, backslash or line feed.
    pub fn counters<V: Display>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (impl Display, V)>,
    ) -> &mut Self {
        self.head(name, help, "counter")
            .samples(name, label, values)
    }

    /// The same for sizes that go up and down.
    pub fn gauges<V: Display>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (impl Display, V)>,
    ) -> &mut Self {
        self.head(name, help, "gauge").samples(name, label, values)
    }

    /// Adds counts told apart by two labels.
    pub fn pairs<V: Display>(
        &mut self,
        name: &str,
        help: &str,
        [one, two]: [&str; 2],
        values: impl IntoIterator<Item = ([String; 2], V)>,
    ) -> &mut Self {
        self.head(name, help, "counter");
        for ([first, second], value) in values {
            let labels = format!("{{{one}=\"{first}\",{two}=\"{second}\"}}");
            self.sample(name, &labels, value);
        }
        self
    }

    /// Adds observations by size; `unit` of those that are observed make one of the metric's.
    pub fn histogram(
        &mut self,
        name: &str,
        help: &str,
        unit: f64,
        values: &Histogram,
    ) -> &mut Self {
        self.head(name, help, "histogram");
        self.buckets(name, "", unit, values)
    }

    /// The same, told apart by one label.
    pub fn histograms<'a>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        unit: f64,
        values: impl IntoIterator<Item = (&'a str, &'a Histogram)>,
    ) -> &mut Self {
        self.head(name, help, "histogram");
        for (of, values) in values {
            self.buckets(name, &format!("{label}=\"{of}\""), unit, values);
        }
        self
    }

    /// The text so far.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) -> &mut Self {
        // Writing into a string cannot fail.
        let _ = writeln!(self.text, "# HELP {PREFIX}{name} {help}");
        let _ = writeln!(self.text, "# TYPE {PREFIX}{name} {kind}");
        self
    }

    fn samples<V: Display>(
        &mut self,
        name: &str,
        label: &str,
        values: impl IntoIterator<Item = (impl Display, V)>,
    ) -> &mut Self {
        for (of, value) in values {
            self.sample(name, &format!("{{{label}=\"{of}\"}}"), value);
        }
        self
    }

    /// Writes one histogram; each bucket holds those before it, too.
    fn buckets(&mut self, name: &str, label: &str, unit: f64, values: &Histogram) -> &mut Self {
        let comma = if label.is_empty() { "" } else { "," };
        let mut count = 0;
        for (bound, in_bucket) in values.buckets() {
            count += in_bucket;
            let bound = bound.map_or_else(
                || "+Inf".to_owned(),
                |bound| (bound as f64 / unit).to_string(),
            );
            let _ = writeln!(
                self.text,
                "{PREFIX}{name}_bucket{{{label}{comma}le=\"{bound}\"}} {count}"
            );
        }
        let labels = match label {
            "" => String::new(),
            label => format!("{{{label}}}"),
        };
        let sum = values.sum() as f64 / unit;
        let _ = writeln!(self.text, "{PREFIX}{name}_sum{labels} {sum}");
        let _ = writeln!(self.text, "{PREFIX}{name}_count{labels} {count}");
        self
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) -> &mut Self {
        let _ = writeln!(self.text, "{PREFIX}{name}{labels} {value}");
        self
    }
}

const PREFIX: &str = "roomcast_";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_the_documented_form() {
        let mut exposition = Exposition::default();
        exposition.gauge("rooms", "Rooms now.", 3).counters(
            "closes_total",
            "Ends.",
            "reason",
            [("slow", 1), ("gone", 2)],
        );
        assert_eq!(
            exposition.into_text(),
            "# HELP roomcast_rooms Rooms now.\n# TYPE roomcast_rooms gauge\nroomcast_rooms 3\n\
             # HELP roomcast_closes_total Ends.\n# TYPE roomcast_closes_total counter\n\
             roomcast_closes_total{reason=\"slow\"} 1\nroomcast_closes_total{reason=\"gone\"} 2\n"
        );
    }

    #[test]
    fn a_histogram_is_cumulative_and_in_base_units() {
        let mut times = Histogram::of_times();
        times.observe(15_000);
        times.observe(1_000_000);
        times.observe(2_000_000_000);
        let mut exposition = Exposition::default();
        exposition
            .histogram("wait_seconds", "Waiting.", 1e9, &times)
            .histograms("turn_seconds", "Turns.", "phase", 1e9, [("flush", &times)])
            .pairs(
                "calls_total",
                "Calls.",
                ["method", "code"],
                [(["publish".into(), "0".into()], 3)],
            );
        let text = exposition.into_text();
        let lines: Vec<&str> = text.lines().collect();
        for line in [
            "# TYPE roomcast_wait_seconds histogram",
            "roomcast_wait_seconds_bucket{le=\"0.00001\"} 0",
            "roomcast_wait_seconds_bucket{le=\"0.00002\"} 1",
            "roomcast_wait_seconds_bucket{le=\"1\"} 2",
            "roomcast_wait_seconds_bucket{le=\"+Inf\"} 3",
            "roomcast_wait_seconds_sum 2.001015",
            "roomcast_wait_seconds_count 3",
            "roomcast_turn_seconds_bucket{phase=\"flush\",le=\"0.001\"} 2",
            "roomcast_turn_seconds_sum{phase=\"flush\"} 2.001015",
            "roomcast_turn_seconds_count{phase=\"flush\"} 3",
            "roomcast_calls_total{method=\"publish\",code=\"0\"} 3",
        ] {
            assert!(lines.contains(&line), "{line} in\n{text}");
        }
    }
}

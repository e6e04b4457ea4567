//! The text form of metrics (Prometheus exposition format 0.0.4).
//!
//! Never: keeps a number; each owner counts for itself and hands the values over.

use std::fmt::{Display, Write as _};

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
        self.head(name, help, "counter");
        for (of, value) in values {
            self.sample(name, &format!("{{{label}=\"{of}\"}}"), value);
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
}

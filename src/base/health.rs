//! What does not work in a node, for whoever decides where clients are sent.

/// A part of the way to a cluster's broker that can fail by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerPart {
    /// Questions to it, publications among them.
    Requests,
    /// What it tells unasked.
    Feed,
}

/// What is wrong with each part.
#[derive(Debug, Default)]
pub struct Health {
    requests: Option<Box<str>>,
    feed: Option<Box<str>>,
}

impl Health {
    /// Takes note of what is wrong with a part; `None` if it is well.
    pub fn note(&mut self, part: BrokerPart, ailment: Option<Box<str>>) {
        match part {
            BrokerPart::Requests => self.requests = ailment,
            BrokerPart::Feed => self.feed = ailment,
        }
    }

    /// A line that names all that is wrong, `other` included; `None` if nothing is.
    #[must_use]
    pub fn degraded(&self, other: Option<&str>) -> Option<String> {
        let ailments: Vec<&str> = [self.requests.as_deref(), self.feed.as_deref(), other]
            .into_iter()
            .flatten()
            .collect();
        (!ailments.is_empty()).then(|| format!("degraded: {}", ailments.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_is_named_while_it_does_not_work() {
        use BrokerPart::{Feed, Requests};
        let mut health = Health::default();
        for (part, ailment, expected) in [
            (Feed, None, None),
            (Feed, Some("f"), Some("degraded: f")),
            (Requests, Some("r"), Some("degraded: r; f")),
            (Requests, Some("s"), Some("degraded: s; f")),
            (Feed, None, Some("degraded: s")),
            (Requests, None, None),
        ] {
            health.note(part, ailment.map(Into::into));
            assert_eq!(health.degraded(None).as_deref(), expected);
        }
        assert_eq!(health.degraded(Some("m")).as_deref(), Some("degraded: m"));
    }
}

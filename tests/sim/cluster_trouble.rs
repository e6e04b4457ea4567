//! What goes wrong in a cluster: connections that break, a broker that stops, forgets or goes back, and
//! nodes that die.

use roomcast::base::RoomName;

use super::Cluster;
use crate::broker::Return;
use crate::trace::say;

impl Cluster {
    pub(super) fn make_trouble(&mut self, at: usize) {
        let node = self.nodes[at].id;
        let choice = self.prng.below(30);
        say(|| format!("trouble {choice} at node {}", node.0));
        let now = self.now();
        let what = match choice {
            0..3 => "the feed is lost",
            3..6 => "answers are lost",
            6..10 => "a node reconnects",
            10 => "the broker goes away",
            11..14 => "the broker is back",
            14 => "the broker restarts",
            15..18 => "a node is cut off",
            18 => "a node dies",
            _ if self.is_calm => "",
            20 | 26 | 27 => "the broker goes back",
            23 => "something cannot be read",
            _ => "",
        };
        if !what.is_empty() {
            self.tally.note(format!("trouble: {what}"));
        }
        let prng = &mut self.prng;
        match choice {
            0..3 => self.broker.lose_feed(node, prng),
            3..6 => self.broker.lose_answers(node, prng),
            6..10 => self.broker.reconnect(node, prng),
            10 => {
                let is_heard = prng.below(2) == 0;
                self.broker.go_away(is_heard, prng);
            }
            11..14 => self.broker.go_on(),
            14 => self.broker.restart(Return::Whole, prng),
            15 => self.broker.cut(node, true, prng),
            16 | 17 => self.broker.cut(node, false, prng),
            18 => self.kill(at),
            // The rest loses data.
            _ if self.is_calm => {}
            19 | 24 | 25 => self.broker.copy(),
            20 | 26 | 27 => self.broker.restart(Return::Older, prng),
            21 if prng.below(3) == 0 => {
                self.tally.note("trouble: the broker comes back empty");
                self.broker.restart(Return::Empty, prng);
            }
            22 if prng.below(3) == 0 => {
                self.tally.note("trouble: the broker forgets all");
                self.broker.flush();
            }
            23 => {
                let name = RoomName::new("room:1").expect("a good name");
                self.calls += 1;
                let text = format!("<new/{}>", self.calls);
                self.broker.append_unreadable(&name, &text, now, prng);
            }
            _ => {}
        }
    }

    /// A node dies; a new one takes its place.
    pub(super) fn kill(&mut self, at: usize) {
        let now = self.now();
        let mut server = self.nodes.remove(at);
        self.broker.remove_node(server.id, now, &mut self.prng);
        server.is_dead = true;
        server.events.clear();
        self.dead.push(server);
        self.start_node();
    }
}

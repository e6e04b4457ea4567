//! What goes wrong with the broker and with the ways to it.

use std::collections::VecDeque;

use roomcast::base::{Prng, RoomName};
use roomcast::cluster::{Event, NodeId};

use super::line::Waiting;
use super::{Broker, Return};

impl Broker {
    /// It stops: nothing is carried out any more. With `is_heard`, connections break.
    pub(crate) fn go_away(&mut self, is_heard: bool, prng: &mut Prng) {
        self.is_away = true;
        if is_heard {
            self.break_all(prng);
        }
    }

    /// It goes on, with what it had.
    pub(crate) fn go_on(&mut self) {
        self.is_away = false;
    }

    /// It was killed and has started again.
    pub(crate) fn restart(&mut self, how: Return, prng: &mut Prng) {
        self.break_all(prng);
        self.is_away = false;
        self.run += 1;
        match how {
            Return::Whole => {}
            Return::Empty => self.rooms.clear(),
            Return::Older => {
                if !self.copies.is_empty() {
                    let at = prng.below(self.copies.len() as u64) as usize;
                    self.rooms = self.copies[at].clone();
                }
            }
        }
        for (name, room) in &mut self.rooms {
            room.fence = (self.lines.iter())
                .filter(|(_, line)| !line.is_cut && line.wanted.contains(name))
                .map(|(node, _)| *node)
                .collect();
        }
    }

    /// Somebody empties it while all are connected.
    pub(crate) fn flush(&mut self) {
        self.rooms.clear();
    }

    /// A replica has what is there now, and may be late with what follows.
    pub(crate) fn copy(&mut self) {
        self.copies.push(self.rooms.clone());
        if self.copies.len() > 3 {
            self.copies.remove(0);
        }
    }

    fn break_all(&mut self, prng: &mut Prng) {
        let nodes: Vec<NodeId> = self.lines.keys().copied().collect();
        for node in nodes {
            self.lose_answers(node, prng);
            self.lose_feed(node, prng);
        }
    }

    /// A node can reach nothing, or can again.
    pub(crate) fn cut(&mut self, node: NodeId, is_cut: bool, prng: &mut Prng) {
        if is_cut {
            self.lose_answers(node, prng);
            self.lose_feed(node, prng);
        }
        if let Some(line) = self.lines.get_mut(&node) {
            line.is_cut = is_cut;
        }
        self.lift_fences();
    }

    /// The connection for requests breaks: what was carried out and not answered is asked again.
    pub(crate) fn lose_answers(&mut self, node: NodeId, prng: &mut Prng) {
        let line = self.lines.get_mut(&node).expect("a node that lives");
        let arrived = prng.below(line.answers.len() as u64 + 1) as usize;
        let lost = line.answers.split_off(arrived);
        let mut again = VecDeque::new();
        for answer in lost {
            match answer.to {
                Some(waiting) => again.push_back(Waiting {
                    is_doubtful: true,
                    ..waiting
                }),
                None => line.answers.push_back(answer),
            }
        }
        again.append(&mut line.waiting);
        line.waiting = again;
        line.say_available(false);
    }

    /// The connection that tells breaks: what is on it does not arrive.
    pub(crate) fn lose_feed(&mut self, node: NodeId, prng: &mut Prng) {
        let line = self.lines.get_mut(&node).expect("a node that lives");
        if !line.has_feed {
            return;
        }
        let arrives = prng.below(line.feed.len() as u64 + 1) as usize;
        line.feed.truncate(arrives);
        line.feed.push_back(Event::FeedLost);
        line.told.clear();
        line.heard.clear();
        line.has_feed = false;
    }

    /// Connections that broke are there again.
    pub(crate) fn reconnect(&mut self, node: NodeId, prng: &mut Prng) {
        let is_away = self.is_away;
        let line = self.lines.get_mut(&node).expect("a node that lives");
        if is_away || line.is_cut {
            return;
        }
        line.say_available(true);
        if line.has_feed {
            return;
        }
        line.has_feed = true;
        // Rooms that are wanted are followed again, in any order; of what was wished for before,
        // nothing is left to do.
        line.wishes.clear();
        let mut wanted: Vec<RoomName> = line.wanted.iter().cloned().collect();
        while !wanted.is_empty() {
            let at = prng.below(wanted.len() as u64) as usize;
            line.wishes.push_back((wanted.swap_remove(at), true));
        }
    }
}

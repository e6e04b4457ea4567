//! What clients do: come, speak in frames of any shape, break rules, leave.

use std::time::Duration;

use roomcast::auth::token::mint;
use roomcast::base::{Glob, Prng, UserId};

use super::World;
use crate::client::Stage;
use crate::http::PAGES;
use crate::plan::{BEFORE, Endpoint, Plan, Token};
use crate::trace::say;

impl World {
    /// A client comes, and mostly it is accepted at once.
    pub(super) fn come(&mut self) {
        let mut plan = self.plan();
        if self.prng.below(3) == 0
            && plan.endpoint == Endpoint::Rooms
            && let Some(index) = self.node.pick(&mut self.prng)
            && let Some(resume) = self.plan_to_resume(index)
        {
            self.tally.note("resume");
            plan = resume;
        }
        let ip = 1 + self.prng.below(3) as u8;
        let index = self.node.come(plan, ip, &mut self.prng);
        if self.prng.below(6) != 0 {
            self.accept(index);
        }
    }

    /// Some of those who wait are accepted.
    pub(super) fn accept_waiting(&mut self, count: usize) {
        let waiting = self.node.clients.iter().enumerate();
        let waiting: Vec<usize> = waiting
            .filter(|(_, client)| client.stage == Stage::Waiting)
            .map(|(index, _)| index)
            .take(count)
            .collect();
        for index in waiting {
            self.accept(index);
        }
    }

    pub(super) fn accept(&mut self, index: usize) {
        self.look_at_memory();
        let now = self.now();
        if self.node.accept(now, index) {
            self.node.clients[index].is_late = self.is_shut_down;
        }
    }

    fn plan(&mut self) -> Plan {
        let prng = &mut self.prng;
        let endpoint = match prng.below(16) {
            0 | 1 => Endpoint::Echo,
            2..5 => Endpoint::Commands,
            5 => Endpoint::Pages,
            6 => Endpoint::Api,
            _ => Endpoint::Rooms,
        };
        let mut rooms: Vec<String> = (0..1 + prng.below(3)).map(|_| room(prng)).collect();
        rooms.sort();
        rooms.dedup();
        let mut plan = Plan {
            endpoint,
            rooms,
            user: (prng.below(3) == 0).then(|| format!("u{}", prng.below(3))),
            to: (prng.below(5) == 0).then(|| format!("u{}", prng.below(3))),
            json: prng.below(2) == 0,
            gzip: prng.below(3) == 0,
            mutes_own: prng.below(4) == 0,
            last: (prng.below(4) == 0).then(|| prng.below(12) as usize),
            is_browser: prng.below(4) == 0,
            is_mute: prng.below(10) == 0,
            ..Plan::default()
        };
        if endpoint != Endpoint::Rooms {
            (plan.json, plan.gzip, plan.mutes_own) = (false, false, false);
        }
        if plan.last.is_none() && self.prng.below(8) == 0 {
            let ago = self.prng.below(8000);
            plan.since_ms = Some(self.now().unix_ms - ago);
        }
        self.give_token(&mut plan);
        plan
    }

    /// Where tokens are needed, most have one, and most of those are good.
    fn give_token(&mut self, plan: &mut Plan) {
        let unix_s = self.now().unix_ms / 1000;
        let Some(secret) = &self.secret else { return };
        let prng = &mut self.prng;
        let name = format!("u{}", prng.below(3));
        let user = UserId::new(&name).expect("a good id");
        let few = [Glob::new("room:*"), Glob::new("lossy:*")];
        let (globs, opens): (_, &'static [&'static str]) = match prng.below(4) {
            0 => (Some(&few[..]), &["room:", "lossy:"]),
            1 => (Some(&few[..1]), &["room:"]),
            _ => (None, &[]),
        };
        let ttl_s = [5, 60, 36_000][prng.below(3) as usize];
        let fault = prng.below(8);
        let minted_unix_s = match fault {
            // It was over long ago.
            0 => 1_000_000,
            _ => unix_s,
        };
        let ttl = Duration::from_secs(ttl_s);
        let text = mint(secret, &user, globs, None, ttl, minted_unix_s);
        let mut text = text.expect("a short token");
        if fault == 1 {
            text.push('x');
        }
        plan.user = Some(name);
        plan.token = (fault != 2).then_some(Token {
            text,
            is_good: fault > 2,
            expires_unix_s: minted_unix_s + ttl_s,
            opens,
        });
    }

    /// What a client does that comes back: the same rooms, after what it has seen of each.
    pub(super) fn plan_to_resume(&mut self, index: usize) -> Option<Plan> {
        let client = &self.node.clients[index];
        if client.plan.endpoint != Endpoint::Rooms || !client.plan.json || client.is_alive() {
            return None;
        }
        let mut since = self.positions(client);
        // Its position may be one of a time before this daemon's.
        if self.prng.below(6) == 0
            && let Some((_, epoch, _)) = since.first_mut()
        {
            *epoch = BEFORE.to_owned();
        }
        let mut plan = Plan {
            since,
            since_ms: None,
            last: None,
            mutes_own: false,
            ..client.plan.clone()
        };
        // Whoever has noted its positions may go on in any form.
        plan.json = self.prng.below(4) != 0;
        plan.gzip = self.prng.below(3) == 0;
        self.give_token(&mut plan);
        (!plan.since.is_empty()).then_some(plan)
    }

    /// Some client says something.
    pub(super) fn speak(&mut self) {
        let Some(index) = self.node.pick(&mut self.prng) else {
            return;
        };
        let client = &self.node.clients[index];
        if !client.is_sending() || client.stage == Stage::Refused {
            return;
        }
        match client.plan.endpoint {
            Endpoint::Rooms | Endpoint::Echo => self.node.speak_as(index, &mut self.prng),
            Endpoint::Commands => self.command(index),
            Endpoint::Pages => {
                let page = &PAGES[self.prng.below(PAGES.len() as u64) as usize];
                let client = &mut self.node.clients[index];
                client.upstream.extend(client.exchanges.ask(page));
                say(|| format!("client {index} asks {:?}", page.request));
            }
            Endpoint::Api => {
                let room = room(&mut self.prng);
                let prefix = self.node.prefix_of(index);
                let client = &mut self.node.clients[index];
                let number = client.exchanges.published.len();
                let is_chunked = self.prng.below(3) == 0;
                let text = format!("{prefix}{number}");
                let request = client.exchanges.publish(&room, text, is_chunked);
                client.upstream.extend(request);
                say(|| format!("client {index} publishes {number} to {room} by the API"));
            }
        }
    }

    /// Commands, one a message or several.
    fn command(&mut self, index: usize) {
        let prefix = self.node.prefix_of(index);
        let (node, prng) = (&mut self.node, &mut self.prng);
        let client = &mut node.clients[index];
        let commands = &mut client.commands;
        let mut lines = Vec::new();
        for _ in 0..1 + prng.below(4) {
            let room = room(prng);
            let known = commands.rooms().next().map(str::to_owned);
            lines.push(match prng.below(10) {
                0..3 => commands.subscribe(&room, prng.below(2) == 0),
                3 => {
                    let room = known.unwrap_or(room);
                    commands.unsubscribe(&room)
                }
                4 => commands.ask("presence", &room),
                5 => commands.ask("presence_stats", &room),
                6 => commands.ask("history", &room),
                _ => {
                    let number = commands.sent.values().map(Vec::len).sum::<usize>()
                        + commands.refused.len();
                    let filler = "z".repeat(prng.below(40) as usize);
                    commands.publish(&room, format!("{prefix}{number}/{filler}"))
                }
            });
        }
        say(|| format!("client {index} commands {lines:?}"));
        let key = (prng.next_u64() as u32).to_be_bytes();
        if prng.below(2) == 0 {
            client.send_frame(0x81, lines.join("\n").as_bytes(), key);
        } else {
            for line in lines {
                client.send_frame(0x81, line.as_bytes(), key);
            }
        }
    }

    /// Some client breaks a rule.
    pub(super) fn misbehave(&mut self) {
        let Some(index) = self.node.pick(&mut self.prng) else {
            return;
        };
        let client = &mut self.node.clients[index];
        if !client.is_sending() || !client.plan.is_websocket() || client.stage == Stage::Refused {
            return;
        }
        let abuses = match client.plan.endpoint {
            Endpoint::Commands => &OF_COMMANDS[..],
            _ => &ABUSES[..],
        };
        let (name, bytes, codes) = abuses[self.prng.below(abuses.len() as u64) as usize];
        say(|| format!("client {index} sends {bytes:02x?}"));
        client.abuse = Some(codes);
        self.tally.note(format!("abuse: {name}"));
        client.upstream.extend(bytes);
    }

    /// Some client leaves, in one way or another.
    pub(super) fn leave(&mut self) {
        self.tally.note_deed(self.node.leave(&mut self.prng));
    }

    /// Some client stops reading, or begins to read on.
    pub(super) fn stall(&mut self) {
        self.tally.note_deed(self.node.toggle_stall(&mut self.prng));
    }
}

/// A room that anybody may be in.
fn room(prng: &mut Prng) -> String {
    match prng.below(4) {
        0 => "lossy:1".to_owned(),
        number => format!("room:{number}"),
    }
}

/// What rule is broken, the bytes that do it, and what they may be closed with.
type Abuse = (&'static str, &'static [u8], &'static [u16]);

const ABUSES: [Abuse; 12] = [
    ("reserved bits", b"\xf1\x80\0\0\0\0", &[1002]),
    ("no mask", b"\x81\x02hi", &[1002]),
    (
        "far too large",
        b"\x82\xff\x00\x00\x00\x7f\xff\xff\xff\xff\0\0\0\0",
        &[1009],
    ),
    ("too large", b"\x82\xfe\xff\xff\0\0\0\0", &[1009]),
    ("nothing to continue", b"\x80\x81\0\0\0\0x", &[1002]),
    ("no UTF-8", b"\x81\x82\0\0\0\0\xc3\x28", &[1007]),
    ("a long ping", b"\x89\xfe\x00\x7e\0\0\0\0", &[1002]),
    ("a ping in parts", b"\x09\x80\0\0\0\0", &[1002]),
    ("half a code", b"\x88\x81\0\0\0\0\x03", &[1002]),
    ("a code nobody sends", b"\x88\x82\0\0\0\0\x03\xed", &[1002]),
    ("no kind of frame", b"\x83\x80\0\0\0\0", &[1002]),
    (
        "a message within another",
        b"\x01\x81\0\0\0\0a\x01\x81\0\0\0\0b",
        &[1002],
    ),
];

const OF_COMMANDS: [Abuse; 4] = [
    ("no JSON", b"\x81\x81\0\0\0\0{", &[3501]),
    ("no command", b"\x81\x80\0\0\0\0", &[3501]),
    (
        "a second connect",
        b"\x81\x95\0\0\0\0{\"id\":9,\"connect\":{}}",
        &[3501],
    ),
    ("a pong unasked", b"\x81\x84\0\0\0\0{}\n{", &[3501]),
];

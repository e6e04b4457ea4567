//! The books of a node: what each client received and sent, against all that was numbered.

use std::collections::{BTreeMap, BTreeSet};

use roomcast::base::{CloseReason, Delivery};

use super::World;
use super::envelopes::{JsonLedger, ledgers};
use crate::client::{Client, Join, Seen, Stage};
use crate::commands::{Stay, Word};
use crate::log::Index;
use crate::plan::{BEFORE, Endpoint};

/// What may be missing between two publications that a member got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    Nothing,
    /// What it was told of.
    Told,
    /// Anything: it cannot be told.
    Untold,
}

/// What a member is owed, from where on.
struct Account<'a> {
    client: &'a Client,
    join: &'a Join,
    begin: usize,
    missing: Missing,
    /// Whether it may have been told of its own as missing: what is forgotten before it could be
    /// given is not looked at.
    counts_own: bool,
    /// From where on nothing may be missing, told or not.
    told_until: usize,
    /// From where on nothing may be missing that was to be kept.
    forgotten_until: usize,
    /// Whether it is still there and wants it all.
    is_open: bool,
}

impl World {
    /// Every member has what it is owed.
    pub(super) fn balance(&self) {
        self.backend.balance();
        self.judge_counters();
        let index = self.log.index();
        let numbered = self.numbered();
        for (at, client) in self.node.clients.iter().enumerate() {
            let numbered = numbered.get(&at).map_or(&[][..], Vec::as_slice);
            self.balance_sent(client, numbered);
            self.judge_end(client);
            self.judge_admission(client);
            self.judge_memory(client);
            self.judge_rooms(client);
            match (client.plan.endpoint, client.stage) {
                (Endpoint::Pages | Endpoint::Api, _) => self.balance_http(client),
                (Endpoint::Echo, Stage::Open) => Self::balance_echo(client),
                (Endpoint::Commands, Stage::Open) => self.balance_commands(client),
                (Endpoint::Rooms, Stage::Open) if client.plan.json => self.balance_json(client),
                (Endpoint::Rooms, Stage::Open) => self.balance_raw(client, &index),
                _ => {}
            }
            if client.stage == Stage::Open && client.abuse.is_none() {
                let is_whole = client.is_alive() || client.close_code().is_some();
                assert!(
                    !is_whole || !client.has_partial_input(),
                    "{}: half a frame",
                    client.id
                );
            }
        }
    }

    /// What was numbered of each client, room by room in order.
    fn numbered(&self) -> BTreeMap<usize, Vec<(&str, &[u8])>> {
        let mut numbered: BTreeMap<usize, Vec<(&str, &[u8])>> = BTreeMap::new();
        for (room, entry) in self.log.entries() {
            let text = std::str::from_utf8(&entry.payload).unwrap_or_default();
            let number = text
                .split_once('/')
                .and_then(|(first, _)| first.parse().ok());
            if let Some(number) = number {
                let all = numbered.entry(number).or_default();
                all.push((room, &entry.payload));
            }
        }
        numbered
    }

    /// What a client sent was numbered in the order sent; all of it if the client is still there, or
    /// has left when all was heard.
    fn balance_sent(&self, client: &Client, numbered: &[(&str, &[u8])]) {
        let is_done = client.is_alive()
            || (client.was_heard_out() && client.farewell == Some(CloseReason::Gone))
            || client.close_code() == Some(1000);
        // Who is gone does not hear that it was refused.
        let may_be_refused = self.secret.is_some() || self.is_crowded;
        let is_done =
            is_done && client.stage == Stage::Open && (client.is_alive() || !may_be_refused);
        let check = |sent: &[&[u8]], numbered: &[&[u8]]| {
            // Where there is no place for a room, one is refused, and what was behind it on its way
            // may find a place again before the sender is closed for it.
            let mut rest = sent.iter();
            let is_in_order = match self.is_crowded {
                true => numbered.iter().all(|one| rest.any(|text| text == one)),
                false => sent.starts_with(numbered),
            };
            assert!(is_in_order, "{}: sent in another order", client.id);
            assert!(
                !is_done || numbered.len() == sent.len(),
                "{}: a message was lost",
                client.id
            );
        };
        let in_room = |of: &str| -> Vec<&[u8]> {
            let of_room = numbered.iter().filter(|(room, _)| *room == of);
            of_room.map(|(_, payload)| *payload).collect()
        };
        match client.plan.endpoint {
            Endpoint::Rooms => {
                let sent: Vec<&[u8]> = client.sent.iter().map(String::as_bytes).collect();
                let numbered: Vec<&[u8]> = numbered.iter().map(|(_, payload)| *payload).collect();
                check(&sent, &numbered);
            }
            Endpoint::Commands => {
                for (room, texts) in &client.commands.sent {
                    let sent: Vec<&[u8]> = texts.iter().map(String::as_bytes).collect();
                    check(&sent, &in_room(room));
                }
                for text in &client.commands.refused {
                    let is_there = numbered.iter().any(|(_, one)| *one == text.as_bytes());
                    assert!(!is_there, "{}: refused and numbered: {text}", client.id);
                }
                assert!(
                    !client.is_alive() || client.commands.unanswered() == 0,
                    "{}: a command is not answered",
                    client.id
                );
            }
            Endpoint::Api | Endpoint::Echo | Endpoint::Pages => {}
        }
        if self.limits.message_rate > 0 && client.plan.endpoint == Endpoint::Rooms {
            let rate = f64::from(self.limits.message_rate) * self.elapsed.as_secs_f64();
            let most = f64::from(self.limits.message_burst) + rate + 1.0;
            assert!(
                numbered.len() as f64 <= most,
                "{}: more than the rate",
                client.id
            );
        }
    }

    fn balance_http(&self, client: &Client) {
        let exchanges = &client.exchanges;
        self.judge_statuses(client);
        let answers = exchanges.answers.iter().zip(&exchanges.statuses);
        for ((room, text), (answer, status)) in exchanges.published.iter().zip(answers) {
            let result = &answer["result"];
            let Some(offset) = result["offset"].as_u64() else {
                let is_limited = self.is_crowded && answer["error"]["code"] == 106;
                assert!(
                    is_limited || *status != 200,
                    "{}: {text} was answered with {answer}",
                    client.id
                );
                let is_there = self.log.place(room, text.as_bytes()).is_some();
                assert!(!is_there, "{}: refused and numbered: {text}", client.id);
                continue;
            };
            let epoch = result["epoch"].as_str().expect("an epoch");
            assert!(!epoch.is_empty() && offset > 0);
            let place = self.log.place(room, text.as_bytes());
            let place = place.expect("what is acknowledged is numbered") as u64;
            assert!(offset <= place + 1, "{room}: {offset} at {place}");
        }
        let is_open = client.is_accepted() && client.is_sending() && !client.server_has_ended;
        if is_open && !self.is_shut_down {
            assert_eq!(exchanges.unanswered(), 0, "{}: no answer", client.id);
        }
    }

    fn balance_echo(client: &Client) {
        let echoed: Vec<&[u8]> = payloads(client).collect();
        let sent: Vec<&[u8]> = client.sent.iter().map(String::as_bytes).collect();
        assert!(
            sent.starts_with(&echoed),
            "{}: echoed in another order",
            client.id
        );
        if client.is_alive() || client.close_code() == Some(1000) {
            assert_eq!(echoed.len(), sent.len(), "{}: an echo is lost", client.id);
        }
    }

    /// What it was told that all are told, once each.
    fn balance_announced(&self, client: &Client, got: &[&str]) {
        let mut seen = BTreeSet::new();
        for text in got {
            let is_ours = self.backend.announced.iter().any(|one| one == text);
            assert!(is_ours, "{}: nobody announced {text}", client.id);
            assert!(seen.insert(text), "{}: told {text} twice", client.id);
        }
        // Who was there when it was announced, and is there still, was told.
        for (text, listeners, is_ending) in &self.announced {
            let is_there = client.is_alive() || (client.drained_at.is_some() && !is_ending);
            let was_there = listeners.contains(&client.id);
            assert!(
                !is_there || !was_there || seen.contains(&text.as_str()),
                "{}: not told {text}",
                client.id
            );
        }
    }

    /// A raw member of several rooms sees their logs interleaved. Payloads tell them apart; in a
    /// reliable room they are a run of the log from where the member joined.
    fn balance_raw(&self, client: &Client, index: &Index<'_>) {
        let mut words: BTreeMap<&str, Vec<Word>> = BTreeMap::new();
        let mut announced = Vec::new();
        for seen in &client.seen {
            let Seen::Message {
                is_text,
                payload,
                was_compressed,
            } = seen
            else {
                continue;
            };
            let text = std::str::from_utf8(payload).unwrap_or_default();
            if text.starts_with("all/") {
                announced.push(text);
            } else if text != "heartbeat" {
                let Some((room, place)) = index.get(&payload[..]).copied() else {
                    panic!("{}: nobody published {text}", client.id);
                };
                // Counted from the beginning of the log: it is told no offsets.
                words.entry(room).or_default().push(Word::Publication {
                    offset: place as u64 + 1,
                    payload: payload.clone(),
                    is_text: (!was_compressed).then_some(*is_text),
                    was_compressed: *was_compressed,
                    unix_ms: None,
                });
            }
        }
        self.balance_announced(client, &announced);
        for join in &client.joins {
            let words = words.remove(&*join.room).unwrap_or_default();
            self.balance_raw_room(client, join, &words);
        }
        assert!(
            words.is_empty(),
            "{}: something it was not owed: {words:?}",
            client.id
        );
    }

    fn balance_raw_room(&self, client: &Client, join: &Join, words: &[Word]) {
        let plan = &client.plan;
        let first = words.first().map(|word| match word {
            Word::Publication { offset, .. } => *offset as usize - 1,
            Word::Skipped(_) => unreachable!("a raw member is told nothing"),
        });
        let since = plan.since.iter().find(|(room, _, _)| *room == join.room);
        let epoch_at = join.offset.map_or(0, |offset| join.at - offset as usize);
        let begin = match (since, plan.since_ms, plan.last) {
            // What is lost to it cannot be told in this form: it is given all of it, or nothing.
            (Some((_, epoch, since)), _, _) => {
                assert!(
                    epoch != BEFORE || words.is_empty(),
                    "{}: it was in another epoch",
                    client.id
                );
                epoch_at + *since as usize
            }
            (None, Some(_), _) if !self.is_clock_set => join.newer_from.unwrap_or(join.at),
            (None, None, Some(count)) => {
                let earliest = self.log.place_of_last(&join.room, join.at, count);
                let begin = first.map_or(join.at, |first| first.min(join.at));
                self.assert_begins(client, join, (earliest, begin));
                begin
            }
            (None, None, None) => join.at,
            _ => first.map_or(join.at, |first| first.min(join.at)),
        };
        let is_lossy = self.limits.delivery(&join.room) == Delivery::Lossy;
        let account = Account {
            client,
            join,
            begin,
            missing: if is_lossy {
                Missing::Untold
            } else {
                Missing::Nothing
            },
            counts_own: false,
            told_until: usize::MAX,
            forgotten_until: usize::MAX,
            is_open: client.is_owed_all(join),
        };
        self.audit(&account, 0, words);
    }

    /// Whoever asks for the newest begins where it asked to, if nothing was forgotten meanwhile.
    fn assert_begins(&self, client: &Client, join: &Join, (earliest, begin): (usize, usize)) {
        assert!(begin >= earliest, "{}: more than asked for", client.id);
        let kept_from = self.log.kept_from(&join.room, &self.limits, self.elapsed);
        let is_kept = kept_from.is_some_and(|kept_from| kept_from <= earliest);
        let room = self.log.room(&join.room);
        let is_owed = |place: &usize| {
            !room[*place].is_passing && (!client.plan.mutes_own || room[*place].origin != client.id)
        };
        let is_open = client.is_owed_all(join);
        let is_lossy = self.limits.delivery(&join.room) == Delivery::Lossy;
        if is_kept && is_open && !is_lossy {
            let missing = (earliest..begin).find(is_owed);
            assert!(
                missing.is_none(),
                "{} {}: {missing:?} is kept and not given",
                client.id,
                join.room
            );
        }
    }

    fn balance_json(&self, client: &Client) {
        let (ledgers, announced) = ledgers(client);
        let announced: Vec<&str> = announced.iter().map(String::as_str).collect();
        self.balance_announced(client, &announced);
        for join in &client.joins {
            let Some(ledger) = ledgers.get(&join.room) else {
                let is_open = client.is_owed_all(join);
                assert!(!is_open, "{} {}: never joined", client.id, join.room);
                continue;
            };
            self.balance_json_room(client, join, ledger);
        }
        for room in ledgers.keys() {
            let is_joined = client.joins.iter().any(|join| join.room == *room);
            assert!(is_joined, "{}: {room} was not asked for", client.id);
        }
    }

    fn balance_json_room(&self, client: &Client, join: &Join, ledger: &JsonLedger) {
        let plan = &client.plan;
        let (id, room) = (client.id, &join.room);
        assert_eq!(Some(ledger.offset), join.offset, "{id} {room}");
        let epoch_at = join.at - ledger.offset as usize;
        let since = plan.since.iter().find(|(of, _, _)| of == room);
        // Where it begins, by the first that it got, if it cannot be told before.
        let mut skipped_before = 0;
        let mut first = None;
        for word in &ledger.words {
            match word {
                Word::Skipped(count) => skipped_before += *count as usize,
                Word::Publication { offset, .. } => {
                    first = Some(epoch_at + *offset as usize - 1);
                    break;
                }
            }
        }
        let by_first = first.map_or(join.at, |first| {
            first.saturating_sub(skipped_before).min(join.at)
        });
        let begin = match (since, plan.since_ms, plan.last) {
            (Some((_, epoch, since)), _, _) if *epoch == ledger.epoch => {
                let lost = u64::try_from(ledger.lost).expect("one epoch");
                assert!(*since <= ledger.offset, "{id} {room}");
                let begin = epoch_at + (since + lost) as usize;
                let kept_from = join.kept_from.unwrap_or(usize::MAX);
                let unforgotten = (epoch_at + *since as usize).max(kept_from)..begin;
                let entries = self.log.room(room);
                let given_up = unforgotten.clone().find(|at| !entries[*at].is_passing);
                assert!(
                    given_up.is_none(),
                    "{id} {room}: {lost} lost, {given_up:?} is kept"
                );
                begin
            }
            (Some(_), _, _) => {
                assert_eq!(ledger.lost, -1, "{id} {room}: another epoch");
                by_first
            }
            (None, Some(_), _) => {
                let newer_from = join.newer_from.unwrap_or(join.at);
                if ledger.lost == 0 && !self.is_clock_set {
                    newer_from
                } else {
                    assert!(ledger.lost == 0 || ledger.lost == -1, "{id} {room}");
                    assert!(
                        self.is_clock_set || ledger.lost == 0 || !self.reaches_back(join),
                        "{id} {room}: history reaches back, and it is told otherwise"
                    );
                    by_first
                }
            }
            (None, None, Some(count)) => {
                assert_eq!(ledger.lost, 0, "{id} {room}");
                let earliest = self.log.place_of_last(room, join.at, count);
                self.assert_begins(client, join, (earliest, by_first.max(earliest)));
                by_first
            }
            (None, None, None) => {
                assert_eq!(ledger.lost, 0, "{id} {room}");
                join.at
            }
        };
        let is_lossy = self.limits.delivery(room) == Delivery::Lossy;
        // Who catches up with a history that is trimmed meanwhile is told what it missed of it.
        let catches_up = since.is_some() || plan.since_ms.is_some() || plan.last.is_some();
        let account = Account {
            client,
            join,
            begin,
            missing: match is_lossy || catches_up {
                true => Missing::Told,
                false => Missing::Nothing,
            },
            counts_own: catches_up,
            // What comes when it has caught up is skipped in lossy rooms alone.
            told_until: match (is_lossy, join.live_after) {
                (false, Some(live_after)) => epoch_at + live_after as usize,
                _ => usize::MAX,
            },
            forgotten_until: match is_lossy {
                true => usize::MAX,
                false => join.kept_when_live.unwrap_or(usize::MAX),
            },
            // Who got nothing, and nobody knows from where on it was to get any, is owed nothing.
            is_open: client.is_owed_all(join)
                && (first.is_some() || ledger.words.is_empty() || !catches_up),
        };
        self.audit(&account, epoch_at, &ledger.words);
    }

    fn balance_commands(&self, client: &Client) {
        let announced: Vec<&str> = client
            .commands
            .announced
            .iter()
            .map(String::as_str)
            .collect();
        self.balance_announced(client, &announced);
        for (room, stays) in &client.commands.stays {
            let joins = client.joins.iter().filter(|join| join.room == *room);
            let joins: Vec<&Join> = joins.collect();
            assert!(stays.len() <= joins.len(), "{} {room}", client.id);
            assert!(
                !client.is_alive() || stays.len() == joins.len(),
                "{} {room}: it has joined and was not told",
                client.id
            );
            for (join, stay) in joins.into_iter().zip(stays) {
                self.balance_stay(client, join, stay);
            }
        }
    }

    fn balance_stay(&self, client: &Client, join: &Join, stay: &Stay) {
        let (id, room) = (client.id, &join.room);
        let offset = join.offset.expect("it was told that it has joined");
        let epoch_at = join.at - offset as usize;
        let keeps_any = self.limits.history_publications_max > 0;
        assert_eq!(stay.position.is_some(), keeps_any, "{id} {room}");
        let (epoch, told) = stay.position.clone().unwrap_or_default();
        let mut begin = join.at;
        if stay.is_recovered {
            let (since_epoch, since) = stay.since.as_ref().expect("it was asked for");
            assert_eq!((&epoch, told), (since_epoch, *since), "{id} {room}");
            begin = epoch_at + told as usize;
        } else if keeps_any {
            assert_eq!(told, offset, "{id} {room}: where it begins");
            let may_recover = stay.since.as_ref().is_some_and(|(since_epoch, since)| {
                let kept_from = join.kept_from.unwrap_or(usize::MAX);
                *since_epoch == epoch && epoch_at + *since as usize >= kept_from
            });
            assert!(!may_recover, "{id} {room}: all is kept and not recovered");
        }
        let is_lossy = self.limits.delivery(room) == Delivery::Lossy;
        let account = Account {
            client,
            join,
            begin,
            missing: match is_lossy {
                true => Missing::Told,
                false => Missing::Nothing,
            },
            counts_own: false,
            told_until: usize::MAX,
            forgotten_until: usize::MAX,
            is_open: client.is_owed_all(join) && !stay.is_over,
        };
        self.audit(&account, epoch_at, &stay.words);
    }

    /// Goes through what a member was told, publication by publication: each is the one that was
    /// numbered so, none comes back, and none is missing that it is owed, unless it was told so.
    fn audit(&self, account: &Account<'_>, epoch_at: usize, words: &[Word]) {
        let Account {
            client,
            join,
            begin,
            missing: may_miss,
            counts_own,
            told_until,
            forgotten_until,
            is_open,
        } = *account;
        let who = format!("{} {}", client.id, join.room);
        let entries = self.log.room(&join.room);
        let is_owed = |place: usize| {
            let entry = &entries[place];
            (!entry.is_passing || place >= join.at)
                && (!client.plan.mutes_own || entry.origin != client.id)
        };
        // Missing and owed, missing and gone before it came, told.
        let (mut missing, mut excused, mut told) = (0, 0, 0);
        let mut miss = |from: usize, until: usize| {
            for (place, entry) in entries.iter().enumerate().take(until).skip(from) {
                missing += u64::from(is_owed(place));
                let is_kept = place >= forgotten_until && !entry.is_passing;
                assert!(
                    !is_owed(place) || (place < told_until && !is_kept),
                    "{who}: {place} was given up, and it was kept, or it had caught up"
                );
                excused += u64::from(!is_owed(place) && (place < join.at || counts_own));
            }
            (missing, excused)
        };
        let mut cursor = begin;
        for word in words {
            match word {
                Word::Skipped(count) => {
                    assert_eq!(may_miss, Missing::Told, "{who}: skipped in a reliable room");
                    told += count;
                }
                Word::Publication {
                    offset,
                    payload,
                    is_text,
                    was_compressed,
                    unix_ms,
                } => {
                    let place = epoch_at + *offset as usize - 1;
                    assert!(place >= cursor, "{who}: {offset} came back");
                    let (missing, _) = miss(cursor, place);
                    match may_miss {
                        Missing::Nothing => assert_eq!(missing, 0, "{who}: a gap before {offset}"),
                        Missing::Told => {
                            assert!(missing <= told, "{who}: {missing} missing, {told} told");
                        }
                        Missing::Untold => {}
                    }
                    let entry = &entries[place];
                    assert!(is_owed(place), "{who}: {offset} was not for it");
                    assert_eq!(entry.payload, *payload, "{who}: not what {offset} is");
                    assert!(
                        is_text.is_none_or(|is_text| is_text == entry.is_text),
                        "{who}: another kind of message"
                    );
                    assert!(
                        unix_ms.is_none_or(|unix_ms| unix_ms == entry.unix_ms),
                        "{who}: another time"
                    );
                    let is_large = payload.len() >= self.limits.gzip_bytes_min;
                    assert_eq!(
                        *was_compressed,
                        client.plan.gzip && is_large && client.plan.endpoint == Endpoint::Rooms,
                        "{who}: compressed, or not"
                    );
                    cursor = place + 1;
                }
            }
        }
        if let Some(left_at) = join.left_at {
            assert!(cursor <= left_at.max(begin), "{who}: told after it left");
        }
        if !is_open {
            return;
        }
        let drained_at = client.drained_at.as_ref();
        let until = drained_at.map_or(entries.len(), |at| at.get(&join.room).copied().unwrap_or(0));
        let (missing, excused) = miss(cursor, until);
        match may_miss {
            Missing::Nothing => assert_eq!(missing, 0, "{who}: the last is missing"),
            Missing::Told => assert!(
                (missing..=missing + excused).contains(&told),
                "{who}: {missing} missing, {told} told"
            ),
            Missing::Untold => {}
        }
    }

    /// Where a client without commands would go on: room, epoch, offset.
    pub(super) fn positions(&self, client: &Client) -> Vec<(String, String, u64)> {
        let (ledgers, _) = ledgers(client);
        let rooms = client.plan.rooms.iter();
        rooms
            .filter_map(|room| {
                let ledger = ledgers.get(room)?;
                let mut last = ledger.words.iter().rev().filter_map(|word| match word {
                    Word::Publication { offset, .. } => Some(*offset),
                    Word::Skipped(_) => None,
                });
                let at = last.next().unwrap_or(ledger.offset);
                Some((room.clone(), ledger.epoch.clone(), at))
            })
            .collect()
    }
}

fn payloads(client: &Client) -> impl Iterator<Item = &[u8]> {
    client.seen.iter().filter_map(|seen| match seen {
        Seen::Message { payload, .. } => Some(&payload[..]),
        _ => None,
    })
}

//! The Centrifugo client protocol against serde_json: whatever comes in is a command or is none, and
//! whatever goes out is read as what was meant, in one line.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use roomcast::base::{Epoch, Identity, Offset, Position, RoomName, UserId};
use roomcast::wire::centrifugo::command::{Command, CommandFrame, Request};
use roomcast::wire::centrifugo::push::{self, Sender};
use roomcast::wire::centrifugo::reply::{self, ConnectResult, ErrorCode, SubscribeResult};
use roomcast::wire::frame::{Payload, PayloadKind};
use serde_json::{Value, json};

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        "[ \\\\\"\t\n{}:,]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            vec((".{0,6}", inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Lines that are commands, or nearly.
fn lines() -> impl Strategy<Value = String> {
    let methods = select(vec![
        "connect",
        "subscribe",
        "unsubscribe",
        "publish",
        "presence",
        "presence_stats",
        "history",
        "ping",
        "send",
        "rpc",
        "refresh",
        "sub_refresh",
        "other",
    ]);
    let names = select(vec![
        "channel", "token", "subs", "name", "recover", "epoch", "offset", "data", "type", "since",
        "limit", "reverse", "flag", "tf", "delta",
    ]);
    let members = vec((names, values()), 0..5).prop_map(|members| {
        let members = members
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value));
        Value::Object(members.collect())
    });
    (any::<u32>(), methods, members)
        .prop_map(|(id, method, members)| json!({ "id": id, method: members }).to_string())
}

/// The commands before the first line that is none.
fn commands(bytes: Vec<u8>) -> Vec<Command> {
    let lines_max = bytes.len() + 1;
    let Some(mut frame) = CommandFrame::new(&Payload::from(bytes)) else {
        return Vec::new();
    };
    // Every line takes one byte at least, so that this comes to an end.
    let all: Vec<_> = frame.by_ref().take(lines_max).collect();
    assert_eq!(frame.next(), None);
    all.into_iter().map_while(Result::ok).collect()
}

/// Reads one line of what was written.
fn line(put: impl FnOnce(&mut Vec<u8>)) -> Value {
    let mut out = Vec::new();
    put(&mut out);
    assert!(!out.contains(&b'\n'), "one line: {out:?}");
    serde_json::from_slice(&out).expect("one JSON value")
}

fn rooms() -> impl Strategy<Value = RoomName> {
    "[ -~]{1,255}".prop_map(|name| RoomName::new(&name).expect("a good name"))
}

fn positions() -> impl Strategy<Value = Position> {
    (any::<u64>(), any::<u64>()).prop_map(|(epoch, offset)| Position {
        epoch: Epoch::from_number(epoch),
        offset: Offset(offset),
    })
}

fn identities() -> impl Strategy<Value = Identity> {
    ("[!-+.-~]{1,40}", option::of(values())).prop_map(|(user, info)| Identity {
        user: UserId::new(&user).expect("a good id"),
        info: info.map(|info| format!("{info:#}").into()),
    })
}

/// A payload of each kind with what a client is to read as `data`. JSON is spread over lines, as it
/// never should be.
fn payloads() -> impl Strategy<Value = (PayloadKind, Vec<u8>, Value)> {
    prop_oneof![
        "(?s).{0,60}".prop_map(|text| (PayloadKind::Text, text.clone().into(), text.into())),
        values().prop_map(|value| (PayloadKind::Json, format!("{value:#}").into(), value)),
        vec(any::<u8>(), 0..60).prop_map(|bytes| {
            let data = json!({ "b64": BASE64.encode(&bytes) });
            (PayloadKind::Binary, bytes, data)
        }),
    ]
}

fn subscriptions() -> impl Strategy<Value = SubscribeResult> {
    (
        option::of(positions()),
        any::<[bool; 2]>(),
        vec(payloads(), 0..4),
        option::of(any::<u32>()),
        option::of(values()),
    )
        .prop_map(
            |(position, [was_recovering, is_recovered], missed, ttl_s, data)| {
                let mut publications = Vec::new();
                for (kind, payload, _) in missed {
                    if !publications.is_empty() {
                        publications.push(b',');
                    }
                    push::put_publication(&mut publications, kind, &payload, None, None);
                }
                SubscribeResult {
                    position,
                    was_recovering,
                    is_recovered,
                    publications,
                    ttl_s,
                    data: data.map(|data| format!("{data:#}").into()),
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn no_bytes_are_a_panic(bytes in vec(any::<u8>(), 0..200)) {
        commands(bytes);
    }

    #[test]
    fn no_commands_are_a_panic(
        lines in vec(lines(), 1..4),
        edits in vec((any::<Index>(), any::<u8>()), 0..3),
    ) {
        let mut bytes = lines.join("\n").into_bytes();
        for (place, byte) in edits {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        commands(bytes);
    }

    #[test]
    fn published_data_is_kept(id in 1..=u32::MAX, data in values(), is_pretty in any::<bool>()) {
        let text = if is_pretty {
            // Line feeds stand between tokens only: within strings they are escaped.
            format!("{data:#}").replace('\n', "\r")
        } else {
            data.to_string()
        };
        let line = format!("{{\"publish\":{{\"data\":{text},\"channel\":\"a\"}},\"id\":{id}}}\n");
        let request = Request::Publish {
            channel: "a".into(),
            data: Some(Payload::from(data)),
            is_map: false,
        };
        prop_assert_eq!(commands(line.into_bytes()), vec![Command { id, request }]);
    }

    #[test]
    fn publications_are_read_as_they_were_meant(
        room in rooms(),
        (kind, payload, data) in payloads(),
        offset in option::of(any::<u64>()),
        sender in option::of((".{0,20}", option::of(identities()))),
    ) {
        let lent = sender.as_ref().map(|(client, identity)| Sender {
            client,
            identity: identity.as_ref(),
        });
        let found = line(|out| {
            push::put_publication_push(out, &room, kind, &payload, offset.map(Offset), lent);
        });
        let mut publication = json!({ "data": data });
        if let Some(offset @ 1..) = offset {
            publication["offset"] = offset.into();
        }
        if let Some((client, identity)) = &sender {
            let user = identity.as_ref().map_or("", |one| one.user.as_str());
            publication["info"] = json!({ "user": user, "client": client });
            if let Some(info) = identity.as_ref().and_then(|one| one.info.as_deref()) {
                let info: Value = serde_json::from_str(info).expect("JSON");
                publication["info"]["conn_info"] = info;
            }
        }
        let expected = json!({ "push": { "channel": room.as_str(), "pub": publication } });
        prop_assert_eq!(found, expected);
        let found = line(|out| push::put_message(out, kind, &payload));
        prop_assert_eq!(found, json!({ "push": { "message": { "data": data } } }));
    }

    #[test]
    fn replies_are_one_line(
        id in any::<u32>(),
        client in ".{0,20}",
        seconds in any::<[Option<u32>; 2]>(),
        room in rooms(),
        subscription in subscriptions(),
        code in select(ErrorCode::ALL.to_vec()),
    ) {
        let result = &subscription;
        let subs = [(room.clone(), subscription.clone())];
        let connect = ConnectResult {
            client: &client,
            ttl_s: seconds[0],
            ping_s: seconds[1],
            subs: &subs,
        };
        let connected = line(|out| reply::put_connect(out, id, &connect));
        let subscribed = line(|out| reply::put_subscribe(out, id, result));
        let error = line(|out| reply::put_error(out, id, code));
        for reply in [&connected, &subscribed, &error] {
            prop_assert_eq!(reply.get("id").cloned(), (id > 0).then(|| json!(id)));
        }
        prop_assert_eq!(&connected["connect"]["client"], client.as_str());
        prop_assert_eq!(&connected["connect"]["subs"][room.as_str()], &subscribed["subscribe"]);
        prop_assert_eq!(
            subscribed["subscribe"].get("recoverable").is_some(),
            result.position.is_some()
        );
        prop_assert_eq!(
            subscribed["subscribe"].get("ttl").cloned(),
            result.ttl_s.map(|ttl_s| json!(ttl_s.max(1)))
        );
        let pushed = line(|out| push::put_subscribed(out, &room, result));
        prop_assert_eq!(
            pushed["push"]["subscribe"].get("data"),
            subscribed["subscribe"].get("data")
        );
    }
}

//! Rooms: who gets what, once, in which order and in which form.

mod harness;

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use harness::{Client, Daemon, Dial, Frame, Message, wait_until};
use serde_json::{Value, json};

/// Every way of running the workers: on the loop, one, several.
const WORKERS: [&str; 3] = ["0", "1", "3"];

// --- Who gets it ----------------------------------------------------------------------------------

#[test]
fn every_member_gets_a_publication_once() {
    for workers in WORKERS {
        let daemon = Daemon::start(&["--workers", workers]);
        let mut members: Vec<_> = (0..100)
            .map(|_| Client::connect(&daemon, "/ws?room=a"))
            .collect();
        daemon.wait_members(100);
        let deliveries = daemon.metric("roomcast_deliveries_total");
        members[0].send_text("one");
        members[1].send_text("two");
        for member in &mut members {
            let mut got = [member.recv_text(), member.recv_text()];
            got.sort();
            assert_eq!(got, ["one", "two"]);
        }
        // What comes next is the next publication, so nothing came twice.
        members[2].send_text("three");
        for member in &mut members {
            assert_eq!(member.recv_text(), "three");
        }
        daemon.wait_metric("roomcast_deliveries_total", |now| now == deliveries + 300.0);
        daemon.wait_metric("roomcast_messages_received_total", |now| now == 3.0);
    }
}

#[test]
fn text_stays_text_and_binary_stays_binary() {
    let daemon = Daemon::start(&[]);
    let mut member = Client::connect(&daemon, "/ws?room=a");
    let mut publisher = Client::connect(&daemon, "/ws?room=a");
    daemon.wait_members(2);
    // On both sides of every change of the length field, and nothing at all.
    for bytes in [0, 1, 125, 126, 127, 255, 256, 65_535, 65_536] {
        let text = "t".repeat(bytes);
        let binary: Vec<u8> = (0..bytes).map(|n| (n % 251) as u8).collect();
        publisher.send_text(&text);
        publisher.send_binary(&binary);
        for client in [&mut member, &mut publisher] {
            assert_eq!(client.recv_text(), text);
            assert_eq!(client.recv_binary(), binary);
        }
    }
}

#[test]
fn echo_returns_every_message_with_its_type() {
    for workers in WORKERS {
        let daemon = Daemon::start(&["--workers", workers]);
        let mut client = Client::connect(&daemon, "/echo");
        for bytes in [0, 1, 125, 126, 65_535, 65_536] {
            client.send_text(&"t".repeat(bytes));
            client.send_binary(vec![0xff; bytes]);
            assert_eq!(client.recv_text(), "t".repeat(bytes));
            assert_eq!(client.recv_binary(), vec![0xff; bytes]);
        }
    }
}

#[test]
fn echo_connections_hear_only_themselves() {
    let daemon = Daemon::start(&[]);
    let mut first = Client::connect(&daemon, "/echo");
    let mut second = Client::connect(&daemon, "/echo");
    first.send_text("first");
    assert_eq!(first.recv_text(), "first");
    second.send_text("second");
    assert_eq!(second.recv_text(), "second");
    first.send_text("first again");
    assert_eq!(first.recv_text(), "first again");
}

#[test]
fn echo_0_leaves_out_the_connections_own_publications_only() {
    let daemon = Daemon::start(&[]);
    let mut quiet = Client::connect(&daemon, "/ws?room=a&echo=0&user=alice");
    let mut same_user = Client::connect(&daemon, "/ws?room=a&user=alice");
    let mut other = Client::connect(&daemon, "/ws?room=a");
    daemon.wait_members(5);
    quiet.send_text("from quiet");
    assert_eq!(same_user.recv_text(), "from quiet");
    assert_eq!(other.recv_text(), "from quiet");
    other.send_text("from other");
    for client in [&mut quiet, &mut same_user, &mut other] {
        assert_eq!(client.recv_text(), "from other");
    }
}

#[test]
fn rooms_do_not_hear_each_other() {
    let daemon = Daemon::start(&[]);
    // Names that differ in case, in a blank at the end and in the last byte of a long name.
    let long = "r".repeat(254);
    let rooms = [
        "a",
        "A",
        "a%20",
        "ab",
        &format!("{long}1"),
        &format!("{long}2"),
    ];
    let mut members: Vec<_> = rooms
        .iter()
        .map(|room| Client::connect(&daemon, &format!("/ws?room={room}")))
        .collect();
    daemon.wait_members(6);
    daemon.wait_metric("roomcast_rooms", |now| now == 6.0);
    for (member, room) in members.iter_mut().zip(rooms) {
        member.send_text(room);
    }
    for (member, room) in members.iter_mut().zip(rooms) {
        assert_eq!(member.recv_text(), room);
        member.send_text("probe");
        assert_eq!(member.recv_text(), "probe");
    }
}

#[test]
fn a_room_name_is_the_same_however_it_is_written() {
    let daemon = Daemon::start(&[]);
    let spellings = [
        "room=a+b:%7e",
        "room=a%20b:~",
        "room=%61%20%62%3a~",
        "room=a%20b%3A%7E",
    ];
    let mut members: Vec<_> = spellings
        .iter()
        .map(|query| Client::connect(&daemon, &format!("/ws?{query}")))
        .collect();
    daemon.wait_members(4);
    members[0].send_text("same room");
    for member in &mut members {
        assert_eq!(member.recv_text(), "same room");
    }
    assert_eq!(daemon.metric("roomcast_rooms"), 1.0);
}

#[test]
fn a_member_of_several_rooms_hears_all_and_publishes_to_the_first() {
    for workers in WORKERS {
        let daemon = Daemon::start(&["--workers", workers]);
        let mut both = Client::connect(&daemon, "/ws?room=a&room=b&echo=0");
        let mut in_a = Client::connect(&daemon, "/ws?room=a&echo=0");
        let mut in_b = Client::connect(&daemon, "/ws?room=b&echo=0");
        daemon.wait_members(4);
        in_a.send_text("to a");
        assert_eq!(both.recv_text(), "to a");
        in_b.send_text("to b");
        assert_eq!(both.recv_text(), "to b");
        both.send_text("to the first");
        assert_eq!(in_a.recv_text(), "to the first");
        let mut other_b = Client::connect(&daemon, "/ws?room=b");
        daemon.wait_members(5);
        other_b.send_text("probe");
        assert_eq!(in_b.recv_text(), "probe");
    }
}

#[test]
fn a_room_named_twice_is_joined_once() {
    let daemon = Daemon::start(&[]);
    let mut member = Client::connect(&daemon, "/ws?room=a&room=a&room=b&room=a");
    daemon.wait_members(2);
    for text in ["one", "two"] {
        member.send_text(text);
        assert_eq!(member.recv_text(), text);
    }
}

#[test]
fn rooms_and_members_are_counted_and_go_by_themselves() {
    let daemon = Daemon::start(&[]);
    let gauges = |members: f64, rooms: f64| {
        daemon.wait_metric("roomcast_members", |now| now == members);
        daemon.wait_metric("roomcast_rooms", |now| now == rooms);
    };
    gauges(0.0, 0.0);
    let a = Client::connect(&daemon, "/ws?room=1&room=2");
    let b = Client::connect(&daemon, "/ws?room=2&room=3");
    gauges(4.0, 3.0);
    a.close();
    gauges(2.0, 2.0);
    b.reset();
    gauges(0.0, 0.0);
    let mut again = Client::connect(&daemon, "/ws?room=2");
    gauges(1.0, 1.0);
    again.send_text("back again");
    assert_eq!(again.recv_text(), "back again");
}

#[test]
fn what_was_sent_before_the_end_is_published() {
    for workers in WORKERS {
        let daemon = Daemon::start(&["--workers", workers]);
        let mut member = Client::connect(&daemon, "/ws?room=a");
        daemon.wait_members(1);
        let texts = |n: u32| Frame::text(&n.to_string()).bytes();
        let mut closing = Client::connect(&daemon, "/ws?room=a&echo=0");
        let mut bytes: Vec<u8> = (0..200).flat_map(texts).collect();
        bytes.extend(Frame::close(1000, "bye").bytes());
        closing.send_bytes(bytes);
        for n in 0..200 {
            assert_eq!(member.recv_text(), n.to_string());
        }
        let mut ending = Client::connect(&daemon, "/ws?room=a&echo=0");
        ending.send_bytes((200..400).flat_map(texts).collect::<Vec<_>>());
        ending.wire.half_close();
        for n in 200..400 {
            assert_eq!(member.recv_text(), n.to_string());
        }
    }
}

#[test]
fn a_member_that_is_gone_is_not_missed() {
    let daemon = Daemon::start(&[]);
    let mut publisher = Client::connect(&daemon, "/ws?room=a");
    for round in 0..20 {
        let gone = Client::connect(&daemon, "/ws?room=a");
        daemon.wait_members(2);
        let text = format!("round {round}");
        publisher.send_text(&text);
        gone.reset();
        assert_eq!(publisher.recv_text(), text);
        daemon.wait_members(1);
    }
    publisher.send_text("still here");
    assert_eq!(publisher.recv_text(), "still here");
}

// --- Users ----------------------------------------------------------------------------------------

#[test]
fn what_is_sent_to_a_user_reaches_all_connections_of_that_user() {
    for workers in WORKERS {
        let daemon = Daemon::start(&["--workers", workers]);
        let mut bobs = [
            Client::connect(&daemon, "/ws?user=bob"),
            Client::connect(&daemon, "/ws?user=bob&room=a"),
            Client::connect(&daemon, "/ws?user=alice&room=%23alice,bob"),
        ];
        let mut alice = Client::connect(&daemon, "/ws?user=alice&to=bob&room=a&echo=0");
        // bob; bob and a; alice and the pair's room; alice and a.
        daemon.wait_members(7);
        alice.send_text("hello bob");
        alice.send_binary("bytes");
        for bob in &mut bobs[..2] {
            assert_eq!(bob.recv_text(), "hello bob");
            assert_eq!(bob.recv_binary(), b"bytes");
        }
        // Neither the room nor the pair's room has heard of it.
        let mut in_a = Client::connect(&daemon, "/ws?room=a");
        let mut pair = Client::connect(&daemon, "/ws?user=bob&room=%23alice,bob");
        daemon.wait_members(10);
        in_a.send_text("room probe");
        assert_eq!(bobs[1].recv_text(), "room probe");
        assert_eq!(alice.recv_text(), "room probe");
        pair.send_text("pair probe");
        assert_eq!(bobs[2].recv_text(), "pair probe");
    }
}

#[test]
fn users_can_write_to_each_other_without_a_room() {
    let daemon = Daemon::start(&[]);
    let mut alice = Client::connect(&daemon, "/ws?user=alice&to=bob");
    let mut bob = Client::connect(&daemon, "/ws?user=bob&to=alice");
    daemon.wait_members(2);
    for n in 0..10 {
        alice.send_text(&format!("{n} from alice"));
        assert_eq!(bob.recv_text(), format!("{n} from alice"));
        bob.send_text(&format!("{n} from bob"));
        assert_eq!(alice.recv_text(), format!("{n} from bob"));
    }
}

#[test]
fn a_user_may_write_to_herself() {
    let daemon = Daemon::start(&[]);
    let mut phone = Client::connect(&daemon, "/ws?user=alice");
    let mut tablet = Client::connect(&daemon, "/ws?user=alice&to=alice");
    let mut laptop = Client::connect(&daemon, "/ws?user=alice&to=alice&echo=0");
    daemon.wait_members(3);
    tablet.send_text("note");
    laptop.send_text("other note");
    for client in [&mut phone, &mut tablet] {
        let mut got = [client.recv_text(), client.recv_text()];
        got.sort();
        assert_eq!(got, ["note", "other note"]);
    }
    assert_eq!(laptop.recv_text(), "note");
}

#[test]
fn writing_to_a_user_who_is_away_harms_nobody() {
    let daemon = Daemon::start(&[]);
    let mut alice = Client::connect(&daemon, "/ws?user=alice&to=nobody&room=a");
    let mut member = Client::connect(&daemon, "/ws?room=a");
    daemon.wait_members(3);
    alice.send_text("is anybody there?");
    member.send_text("probe");
    assert_eq!(alice.recv_text(), "probe");
    assert_eq!(member.recv_text(), "probe");
}

#[test]
fn a_connection_that_may_only_receive_is_closed_3507_when_it_sends() {
    let daemon = Daemon::start(&[]);
    for frame in [
        Frame::text("hello"),
        Frame::binary("hello"),
        Frame::text(""),
    ] {
        let mut watcher = Client::connect(&daemon, "/ws?user=watcher");
        watcher.send_ping("allowed");
        watcher.expect_pong("allowed");
        let closes = daemon.closes("permission_denied");
        watcher.send(&frame);
        watcher.expect_close(3507, "permission denied");
        daemon.wait_closes("permission_denied", closes + 1.0);
    }
}

// --- Order ----------------------------------------------------------------------------------------

#[test]
fn all_members_see_one_order_of_a_room_that_keeps_each_publishers() {
    const PUBLISHERS: usize = 3;
    const EACH: usize = 250;
    for workers in WORKERS {
        let daemon = Daemon::start(&["--workers", workers]);
        let targets = ["/ws?room=a", "/ws?room=a&room=b", "/ws?room=a&format=json"];
        let mut members = targets.map(|target| Client::connect(&daemon, target));
        let publisher = |_| Client::connect(&daemon, "/ws?room=a&echo=0");
        let publishers: Vec<_> = (0..PUBLISHERS).map(publisher).collect();
        daemon.wait_members(4 + PUBLISHERS as u32);
        // The publishers hear one another and are read only as far as they must.
        let publishers = publish_at_once(publishers, EACH);
        let mut orders = Vec::new();
        for (member, target) in members.iter_mut().zip(targets) {
            let json = target.contains("json");
            if json {
                assert!(member.recv_json()["joined"].is_object());
            }
            let mut order = Vec::new();
            for offset in 1..=PUBLISHERS * EACH {
                order.push(if json {
                    let publication = member.recv_json()["publication"].take();
                    assert_eq!(publication["offset"], offset, "{publication}");
                    publication["data"].as_str().expect("text").to_owned()
                } else {
                    member.recv_text()
                });
            }
            assert_order_of_each(&order, PUBLISHERS, EACH);
            orders.push(order);
        }
        assert_eq!(orders[0], orders[1], "workers {workers}");
        assert_eq!(orders[0], orders[2], "workers {workers}");
        drop(publishers);
    }
}

#[test]
fn a_connection_gets_its_answers_in_the_order_of_its_messages() {
    for workers in WORKERS {
        let daemon = Daemon::start(&["--workers", workers]);
        for target in ["/echo", "/ws?room=a"] {
            let mut client = Client::connect(&daemon, target);
            // Small and large, text and binary, so that nothing shares a path by chance.
            let message = |n: usize| match n % 4 {
                0 => Message::text(format!("{n}")),
                1 => Message::Binary(n.to_be_bytes().to_vec()),
                2 => Message::text(format!("{n} {}", "x".repeat(n * 7 % 3000))),
                _ => Message::Binary(Vec::new()),
            };
            let mut bytes = Vec::new();
            for n in 0..400 {
                bytes.extend(match message(n) {
                    Message::Text(text) => Frame::text(&text).bytes(),
                    Message::Binary(payload) => Frame::binary(payload).bytes(),
                    other => panic!("{other:?} is not made here"),
                });
            }
            client.send_bytes(bytes);
            for n in 0..400 {
                assert_eq!(client.recv(), message(n), "{target} with {workers} workers");
            }
        }
    }
}

#[test]
fn every_room_keeps_its_order_on_a_connection_with_many() {
    const ROOMS: usize = 8;
    const EACH: usize = 60;
    for workers in WORKERS {
        let daemon = Daemon::start(&["--workers", workers]);
        let rooms: Vec<_> = (0..ROOMS).map(|room| format!("room={room}")).collect();
        let query = rooms.join("&");
        let mut member = Client::connect(&daemon, &format!("/ws?{query}"));
        let publishers: Vec<_> = (0..ROOMS)
            .map(|room| Client::connect(&daemon, &format!("/ws?room={room}&echo=0")))
            .collect();
        daemon.wait_members(2 * ROOMS as u32);
        let publishers = publish_at_once(publishers, EACH);
        let order: Vec<_> = (0..ROOMS * EACH).map(|_| member.recv_text()).collect();
        assert_order_of_each(&order, ROOMS, EACH);
        drop(publishers);
    }
}

#[test]
fn a_member_that_joins_amid_traffic_misses_nothing_and_gets_nothing_twice() {
    for workers in WORKERS {
        for batch in ["0", "20ms"] {
            let daemon = Daemon::start(&["--workers", workers, "--batch-interval", batch]);
            let addr = daemon.addr();
            let (stop, stopped) = std::sync::mpsc::channel::<()>();
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    let mut publisher = Dial::new(addr, "/ws?room=a").connect();
                    // Hearing itself keeps it from running ahead of the members.
                    while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                        publisher.send_bytes(Frame::text("x").bytes().repeat(5));
                        for _ in 0..5 {
                            publisher.recv_text();
                        }
                    }
                });
                for _ in 0..15 {
                    let mut member = Client::connect(&daemon, "/ws?room=a&format=json");
                    let joined = member.recv_json()["joined"].take();
                    let at = joined["offset"].as_u64().expect("an offset");
                    for offset in at + 1..=at + 20 {
                        let publication = member.recv_json()["publication"].take();
                        assert_eq!(publication["offset"], offset, "joined {joined}");
                    }
                }
                drop(stop);
            });
        }
    }
}

#[test]
fn batching_loses_nothing_and_needs_no_further_publication() {
    for workers in WORKERS {
        let daemon = Daemon::start(&["--workers", workers, "--batch-interval", "50ms"]);
        let mut member = Client::connect(&daemon, "/ws?room=a");
        let mut json = Client::connect(&daemon, "/ws?room=a&format=json");
        let mut publisher = Client::connect(&daemon, "/ws?room=a");
        daemon.wait_members(3);
        assert!(json.recv_json()["joined"].is_object());
        for round in 0..4 {
            for n in 0..10 {
                publisher.send_text(&format!("{round}.{n}"));
                publisher.send_binary([round, n]);
            }
            for n in 0..10 {
                let text = format!("{round}.{n}");
                for client in [&mut member, &mut publisher] {
                    assert_eq!(client.recv_text(), text);
                    assert_eq!(client.recv_binary(), [round, n]);
                }
                assert_eq!(json.recv_json()["publication"]["data"], text);
                assert!(json.recv_json()["publication"]["b64"].is_string());
            }
        }
    }
}

#[test]
fn batching_leaves_out_only_the_publishers_own() {
    let daemon = Daemon::start(&["--batch-interval", "50ms"]);
    let mut first = Client::connect(&daemon, "/ws?room=a&echo=0");
    let mut second = Client::connect(&daemon, "/ws?room=a&echo=0");
    let mut third = Client::connect(&daemon, "/ws?room=a");
    daemon.wait_members(3);
    for n in 0..5 {
        first.send_text(&format!("first {n}"));
        second.send_text(&format!("second {n}"));
    }
    let all: Vec<_> = (0..10).map(|_| third.recv_text()).collect();
    let of = |name: &str| -> Vec<String> {
        let texts = all.iter().filter(|text| text.starts_with(name));
        texts.cloned().collect()
    };
    for n in 0..5 {
        assert_eq!(first.recv_text(), of("second")[n]);
        assert_eq!(second.recv_text(), of("first")[n]);
    }
    third.send_text("probe");
    for client in [&mut first, &mut second, &mut third] {
        assert_eq!(client.recv_text(), "probe");
    }
}

// --- JSON envelopes -------------------------------------------------------------------------------

#[test]
fn json_members_are_told_that_they_have_joined() {
    for workers in WORKERS {
        let daemon = Daemon::start(&["--workers", workers]);
        let mut first = Client::connect(&daemon, "/ws?room=live:7&format=json");
        let joined = only(first.recv_json(), "joined");
        assert_eq!(joined["room"], "live:7");
        assert_eq!(joined["offset"], 0);
        assert_eq!(joined["lost"], 0);
        assert_eq!(joined["online"], 1);
        assert!(joined["recovered"].is_boolean(), "{joined}");
        let epoch = joined["epoch"].as_str().expect("an epoch").to_owned();
        assert!((1..=16).contains(&epoch.len()), "{epoch}");
        assert!(epoch.chars().all(|c| c.is_ascii_alphanumeric()), "{epoch}");

        first.send_text("one");
        assert_eq!(only(first.recv_json(), "publication")["offset"], 1);
        let mut second = Client::connect(&daemon, "/ws?room=live:7&format=json");
        let joined = only(second.recv_json(), "joined");
        assert_eq!(joined["offset"], 1);
        assert_eq!(joined["epoch"], epoch);
        assert_eq!(joined["online"], 2);
        second.send_text("two");
        for client in [&mut first, &mut second] {
            assert_eq!(only(client.recv_json(), "publication")["offset"], 2);
        }
    }
}

#[test]
fn json_members_join_each_room_once_before_anything_of_it() {
    for workers in WORKERS {
        let daemon = Daemon::start(&["--workers", workers]);
        let target = "/ws?room=a&room=b&room=c&user=alice&format=json";
        let mut member = Client::connect(&daemon, target);
        let rooms = (0..4).map(|_| {
            let joined = only(member.recv_json(), "joined");
            joined["room"].as_str().expect("a room").to_owned()
        });
        let mut rooms: Vec<_> = rooms.collect();
        rooms.sort();
        assert_eq!(rooms, ["#alice", "a", "b", "c"]);
        let mut publisher = Client::connect(&daemon, "/ws?room=b&echo=0");
        publisher.send_text("to b");
        let publication = only(member.recv_json(), "publication");
        assert_eq!(publication["room"], "b");
        assert_eq!(publication["offset"], 1);
    }
}

#[test]
fn json_publications_say_where_when_and_by_whom() {
    let daemon = Daemon::start(&[]);
    let mut member = json_member(&daemon, "/ws?room=live:7&format=json");
    let mut alice = Client::connect(&daemon, "/ws?room=live:7&user=alice");
    let mut nobody = Client::connect(&daemon, "/ws?room=live:7");
    daemon.wait_members(4);

    let before = unix_ms();
    alice.send_text("hello");
    let publication = only(member.recv_json(), "publication");
    let time = publication["time"].as_u64().expect("milliseconds");
    assert!((before..=unix_ms()).contains(&time), "{publication}");
    let expected =
        json!({"room": "live:7", "offset": 1, "time": time, "user": "alice", "data": "hello"});
    assert_eq!(publication, expected);

    nobody.send_text("hi");
    let publication = only(member.recv_json(), "publication");
    assert_eq!(publication["offset"], 2);
    assert_eq!(publication["data"], "hi");
    assert_eq!(publication["user"], Value::Null, "nobody has no name");
    // The raw members have seen the same, bare.
    for client in [&mut alice, &mut nobody] {
        assert_eq!(client.recv_text(), "hello");
        assert_eq!(client.recv_text(), "hi");
    }
}

#[test]
fn json_text_is_a_string_whatever_it_holds() {
    let daemon = Daemon::start(&[]);
    let mut member = json_member(&daemon, "/ws?room=a&format=json");
    let control: String = (0..0x20_u8).map(char::from).collect();
    let texts = [
        "",
        "plain",
        "\"quoted\" and back\\slash",
        "{\"looks\":\"like json\"}",
        "null",
        "12",
        &control,
        "\u{7f}\u{80}\u{2028}\u{2029}\u{feff}\u{fffd}\u{ffff}",
        "弹幕 🎉 \u{10ffff}",
        "</script>",
    ];
    for text in texts {
        member.send_text(text);
        let publication = only(member.recv_json(), "publication");
        assert_eq!(publication["data"], text);
        assert_eq!(publication.get("b64"), None);
    }
}

#[test]
fn json_binary_is_base64_in_place_of_data() {
    let daemon = Daemon::start(&[]);
    let mut member = json_member(&daemon, "/ws?room=a&format=json");
    let all: Vec<u8> = (0..=255).collect();
    for payload in [&b""[..], b"\0", b"\xff\xfe", b"three", &all] {
        member.send_binary(payload);
        let publication = only(member.recv_json(), "publication");
        let encoded = base64::engine::general_purpose::STANDARD.encode(payload);
        assert_eq!(publication["b64"], encoded);
        assert_eq!(publication.get("data"), None);
    }
}

#[test]
fn json_names_are_escaped() {
    let daemon = Daemon::start(&[]);
    let mut member = json_member(&daemon, "/ws?room=a%22%5c%3c&format=json");
    let mut publisher = Client::connect(&daemon, "/ws?room=a%22%5c%3c&user=%22u%5c&echo=0");
    publisher.send_text("x");
    let publication = only(member.recv_json(), "publication");
    assert_eq!(publication["room"], "a\"\\<");
    assert_eq!(publication["user"], "\"u\\");
}

#[test]
fn json_members_get_personal_messages_in_their_room() {
    let daemon = Daemon::start(&[]);
    let mut bob = json_member(&daemon, "/ws?user=bob&format=json");
    let mut alice = Client::connect(&daemon, "/ws?user=alice&to=bob");
    alice.send_text("psst");
    let publication = only(bob.recv_json(), "publication");
    assert_eq!(publication["room"], "#bob");
    assert_eq!(publication["user"], "alice");
    assert_eq!(publication["data"], "psst");
}

#[test]
fn json_largest_messages_arrive() {
    let daemon = Daemon::start(&[]);
    let mut member = json_member(&daemon, "/ws?room=a&format=json");
    // The envelope makes it larger than a message may be on its way in, escapes six times larger.
    let text = "\u{1}".repeat(65_536);
    member.send_text(&text);
    assert_eq!(only(member.recv_json(), "publication")["data"], text);
}

#[test]
fn numbers_are_never_given_twice_in_an_epoch() {
    for workers in WORKERS {
        let daemon = Daemon::start(&["--workers", workers]);
        let mut highest: HashMap<String, u64> = HashMap::new();
        for _ in 0..3 {
            let mut member = Client::connect(&daemon, "/ws?room=a&format=json");
            let joined = only(member.recv_json(), "joined");
            let epoch = joined["epoch"].as_str().expect("an epoch").to_owned();
            let used = highest.entry(epoch).or_default();
            let mut offset = joined["offset"].as_u64().expect("an offset");
            assert!(offset >= *used, "{joined} after offset {used}");
            for _ in 0..5 {
                member.send_text("x");
                let publication = only(member.recv_json(), "publication");
                offset += 1;
                assert_eq!(publication["offset"], offset);
            }
            *used = offset;
            member.close();
            // The room may go now.
            daemon.wait_members(0);
        }
    }
}

#[test]
fn offsets_count_each_room_on_its_own() {
    let daemon = Daemon::start(&["--workers", "3"]);
    let mut member = Client::connect(&daemon, "/ws?room=a&room=b&room=c&format=json");
    for _ in 0..3 {
        only(member.recv_json(), "joined");
    }
    let mut publishers =
        ["a", "b", "c"].map(|room| Client::connect(&daemon, &format!("/ws?room={room}&echo=0")));
    daemon.wait_members(6);
    for round in 1..=5 {
        for publisher in &mut publishers {
            publisher.send_text("x");
        }
        let mut seen = BTreeMap::new();
        for _ in 0..3 {
            let publication = only(member.recv_json(), "publication");
            let room = publication["room"].as_str().expect("a room").to_owned();
            seen.insert(room, publication["offset"].as_u64());
        }
        let expected = ["a", "b", "c"].map(|room| (room.to_owned(), Some(round)));
        assert_eq!(seen, BTreeMap::from(expected));
    }
}

#[test]
fn thousands_of_rooms_come_and_go() {
    let daemon = Daemon::start(&["--max-rooms-per-connection", "1000"]);
    let query = |from: usize| {
        let rooms: Vec<_> = (from..from + 500)
            .map(|room| format!("room={room}"))
            .collect();
        format!("/ws?{}", rooms.join("&"))
    };
    let mut clients: Vec<_> = (0..4)
        .map(|n| Client::connect(&daemon, &query(n * 250)))
        .collect();
    daemon.wait_members(2000);
    daemon.wait_metric("roomcast_rooms", |now| now == 1250.0);
    // Room 250 is the first of the second client and one of the first client's.
    clients[1].send_text("overlap");
    assert_eq!(clients[0].recv_text(), "overlap");
    assert_eq!(clients[1].recv_text(), "overlap");
    drop(clients);
    daemon.wait_members(0);
    daemon.wait_metric("roomcast_rooms", |now| now == 0.0);
    wait_until("no connection is left", || daemon.closes("gone") == 4.0);
}

// --- Helpers --------------------------------------------------------------------------------------

/// Lets all publishers publish at the same time, `each` messages of the form `publisher:number`.
fn publish_at_once(mut publishers: Vec<Client>, each: usize) -> Vec<Client> {
    std::thread::scope(|scope| {
        for (name, publisher) in publishers.iter_mut().enumerate() {
            scope.spawn(move || {
                for n in 0..each {
                    publisher.send_text(&format!("{name}:{n}"));
                }
            });
        }
    });
    publishers
}

/// Asserts that `order` holds the messages 0 to `each` of every publisher, in order.
fn assert_order_of_each(order: &[String], publishers: usize, each: usize) {
    let mut next = vec![0; publishers];
    for text in order {
        let (name, number) = text.split_once(':').expect("publisher:number");
        let name: usize = name.parse().expect("a publisher");
        assert_eq!(number, next[name].to_string(), "of publisher {name}");
        next[name] += 1;
    }
    assert_eq!(next, vec![each; publishers]);
}

/// Connects to one room in json format and takes its `joined`.
fn json_member(daemon: &Daemon, target: &str) -> Client {
    let mut member = Client::connect(daemon, target);
    only(member.recv_json(), "joined");
    member
}

/// The value of the only key, which must be `key`.
fn only(mut envelope: Value, key: &str) -> Value {
    let keys = envelope.as_object().map_or(0, serde_json::Map::len);
    assert!(
        keys == 1 && envelope[key].is_object(),
        "no {key}: {envelope}"
    );
    envelope[key].take()
}

fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now: Duration = now.expect("a clock after 1970");
    u64::try_from(now.as_millis()).expect("a time in 64 bits")
}

//! The history of a room as back ends read and remove it.

mod harness;

use harness::{Api, Client, Daemon, history, json_member, next};
use serde_json::{Value, json};

/// Every way of running the workers: on the loop, one, several.
const WORKERS: [&str; 3] = ["0", "1", "3"];

#[test]
fn history_is_read_in_both_directions_from_any_position() {
    for workers in WORKERS {
        let daemon = Daemon::start(&["--workers", workers, "--history-size", "5"]);
        let mut api = Api::connect(&daemon);
        let mut epoch = Value::Null;
        for number in 1..=8 {
            let request = json!({ "channel": "a", "data": { "n": number } });
            epoch = api.result("publish", &request)["epoch"].take();
        }
        let ask = |members: Value| {
            let mut request = json!({ "channel": "a" });
            let fields = request.as_object_mut().expect("an object");
            fields.extend(members.as_object().expect("an object").clone());
            request
        };
        for (members, expected) in [
            (json!({}), vec![]),
            (json!({ "limit": 0 }), vec![]),
            (json!({ "limit": 2 }), vec![4, 5]),
            (json!({ "limit": 99 }), vec![4, 5, 6, 7, 8]),
            (json!({ "limit": -1 }), vec![4, 5, 6, 7, 8]),
            (json!({ "limit": 2, "reverse": true }), vec![8, 7]),
            (json!({ "limit": -1, "reverse": true }), vec![8, 7, 6, 5, 4]),
            (
                json!({ "limit": 9, "since": { "offset": 3, "epoch": epoch } }),
                vec![4, 5, 6, 7, 8],
            ),
            (
                json!({ "limit": 9, "since": { "offset": 6, "epoch": epoch } }),
                vec![7, 8],
            ),
            (
                json!({ "limit": 1, "since": { "offset": 6, "epoch": "" } }),
                vec![7],
            ),
            (json!({ "limit": 9, "since": { "offset": 6 } }), vec![7, 8]),
            (
                json!({ "limit": 9, "since": { "offset": 8, "epoch": epoch } }),
                vec![],
            ),
            (
                json!({ "limit": 9, "since": { "offset": 8, "epoch": epoch }, "reverse": true }),
                vec![7, 6, 5, 4],
            ),
            (
                json!({ "limit": 2, "since": { "offset": 7, "epoch": epoch }, "reverse": true }),
                vec![6, 5],
            ),
            (
                json!({ "limit": 2, "since": { "offset": 4, "epoch": epoch }, "reverse": true }),
                vec![],
            ),
            (
                json!({ "limit": 2, "since": null, "reverse": null }),
                vec![4, 5],
            ),
        ] {
            let request = ask(members);
            let result = api.result("history", &request);
            assert_eq!((&result["offset"], &result["epoch"]), (&json!(8), &epoch));
            let publications = result["publications"].as_array().expect("a list");
            let offsets: Vec<_> = publications
                .iter()
                .map(|one| one["offset"].as_u64())
                .collect();
            let expected: Vec<_> = expected.into_iter().map(Some).collect();
            assert_eq!(offsets, expected, "{request}");
            for one in publications {
                assert_eq!(one["data"]["n"], one["offset"], "{one}");
            }
        }
        for (members, code) in [
            // Another epoch; the future; what is forgotten.
            (
                json!({ "limit": 9, "since": { "offset": 6, "epoch": "other" } }),
                112,
            ),
            (
                json!({ "limit": 9, "since": { "offset": 6, "epoch": "no epoch at all" } }),
                112,
            ),
            (
                json!({ "limit": 9, "since": { "offset": 9, "epoch": epoch } }),
                112,
            ),
            (
                json!({ "limit": 9, "since": { "offset": u64::MAX - 1 } }),
                112,
            ),
            (json!({ "limit": 9, "since": { "offset": u64::MAX } }), 112),
            (
                json!({ "limit": 9, "since": { "offset": u64::MAX }, "reverse": true }),
                112,
            ),
            (
                json!({ "limit": 9, "since": { "offset": 2, "epoch": epoch } }),
                112,
            ),
            (
                json!({ "limit": 9, "since": { "offset": 0, "epoch": epoch } }),
                112,
            ),
            (
                json!({ "limit": 9, "since": { "offset": 6, "epoch": "other" }, "reverse": true }),
                112,
            ),
            (
                json!({ "limit": 9, "since": { "offset": 0 }, "reverse": true }),
                107,
            ),
            (json!({ "limit": "9" }), 107),
            (json!({ "limit": 9, "since": 6 }), 107),
            (json!({ "limit": 9, "since": { "offset": -1 } }), 107),
            (json!({ "channel": "" }), 107),
        ] {
            let request = ask(members);
            assert_eq!(api.error("history", &request), code, "{request}");
        }
        let unknown = api.result("history", &json!({ "channel": "unknown", "limit": 9 }));
        assert_eq!(
            unknown,
            json!({ "publications": [], "offset": 0, "epoch": "" })
        );
    }
}

#[test]
fn history_says_who_published() {
    let daemon = Daemon::start(&[]);
    let mut api = Api::connect(&daemon);
    let mut al = json_member(&daemon, "room=a&user=al");
    assert!(al.recv_json()["joined"].is_object(), "the personal room");
    let mut nobody = Client::connect(&daemon, "/ws?room=a");
    al.send_text("from al");
    assert_eq!(nobody.recv_text(), "from al");
    nobody.send_binary([0, 255]);
    assert_eq!(nobody.recv_binary(), [0, 255]);
    api.publish("a", &json!({ "from": "the back end" }));
    let result = api.result("history", &json!({ "channel": "a", "limit": 9 }));
    let publications = result["publications"].as_array().expect("a list");
    assert_eq!(publications[0]["data"], "from al");
    assert_eq!(publications[0]["info"]["user"], "al");
    assert_eq!(publications[1]["b64data"], "AP8=");
    assert!(publications[1].get("info").is_none());
    assert_eq!(publications[2]["data"], json!({ "from": "the back end" }));
    assert!(publications[2].get("info").is_none());
}

#[test]
fn history_that_is_off_is_not_available() {
    for workers in WORKERS {
        let daemon = Daemon::start(&["--workers", workers, "--history-size", "0"]);
        let mut api = Api::connect(&daemon);
        let mut member = json_member(&daemon, "room=a");
        for (skip, offset) in [(false, 1), (true, 2), (false, 3)] {
            let request = json!({ "channel": "a", "data": 1, "skip_history": skip });
            assert_eq!(api.result("publish", &request)["offset"], offset);
            assert_eq!(next(&mut member).0, offset);
        }
        assert_eq!(
            api.result("publish", &json!({ "channel": "empty", "data": 1 }))["offset"],
            1
        );
        assert_eq!(api.error("history", &json!({ "channel": "a" })), 108);
        assert_eq!(api.error("history", &json!({ "channel": "unknown" })), 108);
        assert_eq!(api.error("history_remove", &json!({ "channel": "a" })), 108);
    }
}

#[test]
fn removed_history_is_forgotten_and_the_numbers_go_on() {
    for workers in WORKERS {
        let daemon = Daemon::start(&["--workers", workers]);
        let mut api = Api::connect(&daemon);
        let mut member = json_member(&daemon, "room=a");
        let mut epoch = Value::Null;
        for number in 1..=3 {
            let request = json!({ "channel": "a", "data": number });
            epoch = api.result("publish", &request)["epoch"].take();
            assert_eq!(next(&mut member).0, number);
        }
        assert_eq!(
            api.result("history_remove", &json!({ "channel": "a" })),
            json!({})
        );
        assert_eq!(
            api.result("history_remove", &json!({ "channel": "a" })),
            json!({})
        );
        assert_eq!(
            api.result("history_remove", &json!({ "channel": "unknown" })),
            json!({})
        );
        assert_eq!(
            history(&mut api, &json!({ "channel": "a", "limit": 9 })),
            (vec![], 3)
        );
        let since = |offset| json!({ "channel": "a", "limit": 9, "since": { "offset": offset, "epoch": epoch } });
        assert_eq!(api.error("history", &since(1)), 112);
        assert_eq!(history(&mut api, &since(3)).0, [0; 0]);
        let text = epoch.as_str().expect("a text");
        let mut back = Client::connect(&daemon, &format!("/ws?format=json&room=a&since={text}.1"));
        let joined = &back.recv_json()["joined"];
        assert_eq!(
            (&joined["recovered"], &joined["lost"]),
            (&json!(false), &json!(2))
        );
        let result = api.result("publish", &json!({ "channel": "a", "data": 4 }));
        assert_eq!((&result["offset"], &result["epoch"]), (&json!(4), &epoch));
        assert_eq!(next(&mut member), (4, json!(4)));
        assert_eq!(next(&mut back), (4, json!(4)));
        assert_eq!(history(&mut api, &since(3)).0, [4]);
        // Without members the room goes with its history, and where it stood is remembered.
        member.close();
        back.close();
        daemon.wait_members(0);
        api.result("history_remove", &json!({ "channel": "a" }));
        let gone = api.result("history", &json!({ "channel": "a", "limit": 9 }));
        assert_eq!((&gone["offset"], &gone["epoch"]), (&json!(4), &epoch));
        assert_eq!(api.error("history", &since(3)), 112);
        let next = api.result("publish", &json!({ "channel": "a", "data": 5 }));
        assert_eq!((&next["offset"], &next["epoch"]), (&json!(5), &epoch));
    }
}

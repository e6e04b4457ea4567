//! Who is in a room by the Centrifugo protocol, who is told of whom, what back ends do to clients, and
//! users: their personal rooms, their letters, their second logins.

mod harness;

use harness::{
    Api, Client, Daemon, Dial, Message, SDK_PATH, Sdk, SecretFile, json_member, signed_token,
    wait_until,
};
use serde_json::{Value, json};

const SECRET: &str = "s3cret-of-the-tests-is-32-bytes!";

/// Who a client is, as others see it.
fn info(user: &str, sdk: &Sdk) -> Value {
    json!({ "user": user, "client": sdk.client })
}

/// The id of a connection on `/ws`, as back ends name it.
fn client_id(api: &mut Api, room: &str, client: &Client) -> String {
    let result = api.result("connections", &json!({ "channel": room }));
    let peer = client.local_addr().to_string();
    let rows = result["connections"].as_array().expect("a list");
    let row = rows.iter().find(|row| row["peer"] == peer.as_str());
    row.expect("a row")["id"]
        .as_str()
        .expect("an id")
        .to_owned()
}

// --- Presence -------------------------------------------------------------------------------------

#[test]
fn presence_lists_clients_of_every_kind() {
    let daemon = Daemon::start(&[]);
    let mut api = Api::connect(&daemon);
    let mut al = Sdk::user(&daemon, "al");
    let room = json!({ "channel": "r" });
    // One need not be in a room to ask who is.
    assert_eq!(al.ask("presence", &room), json!({ "presence": {} }));
    let nobody = json!({ "num_clients": 0, "num_users": 0 });
    assert_eq!(al.ask("presence_stats", &room), nobody);
    al.subscribe("r");
    let mut second = Sdk::user(&daemon, "al");
    second.subscribe("r");
    let mut stranger = Sdk::member(&daemon, "r");
    let raw = Client::connect(&daemon, "/ws?room=r&user=bo");
    daemon.wait_members(7);
    let raw_id = client_id(&mut api, "r", &raw);
    let expected = json!({ "presence": {
        (al.client.as_str()): info("al", &al),
        (second.client.as_str()): info("al", &second),
        (stranger.client.as_str()): info("", &stranger),
        (raw_id.as_str()): { "user": "bo", "client": raw_id },
    } });
    for sdk in [&mut al, &mut second, &mut stranger] {
        assert_eq!(sdk.ask("presence", &room), expected);
        let stats = json!({ "num_clients": 4, "num_users": 2 });
        assert_eq!(sdk.ask("presence_stats", &room), stats);
    }
    assert_eq!(api.result("presence", &room), expected);
    raw.close();
    second.ask("unsubscribe", &room);
    stranger.wire.reset();
    wait_until("one is left", || {
        al.ask("presence_stats", &room) == json!({ "num_clients": 1, "num_users": 1 })
    });
}

#[test]
fn presence_says_what_the_token_says() {
    let file = SecretFile::new(SECRET);
    let daemon = Daemon::start(&["--token-secret-file", file.path()]);
    let claims = json!({ "sub": "al", "info": { "name": "Al", "n": 1.50 } });
    let mut sdk = Sdk::with_token(&daemon, &signed_token(SECRET, &claims));
    sdk.subscribe("r");
    let client = sdk.client.clone();
    let who = json!({ "user": "al", "client": client, "conn_info": { "name": "Al", "n": 1.5 } });
    let result = sdk.ask("presence", &json!({ "channel": "r" }));
    assert_eq!(result, json!({ "presence": { (client.as_str()): who } }));
    sdk.ask("publish", &json!({ "channel": "r", "data": 1 }));
    sdk.expect_publication("r", &json!({ "data": 1, "offset": 1, "info": who }));
}

#[test]
fn who_comes_and_goes_is_told_to_those_who_asked() {
    for workers in ["0", "1", "3"] {
        let daemon = Daemon::start(&["--workers", workers]);
        let mut api = Api::connect(&daemon);
        let mut watcher = Sdk::user(&daemon, "al");
        let request = json!({ "channel": "r", "join_leave": true });
        watcher.ask("subscribe", &request);
        let told = |what: &str, who: Value| json!({ "channel": "r", (what): { "info": who } });
        let own = told("join", info("al", &watcher));
        assert_eq!(watcher.push(), own);
        // This one has not asked.
        let mut quiet = Sdk::member(&daemon, "r");
        assert_eq!(watcher.push(), told("join", info("", &quiet)));
        let raw = Client::connect(&daemon, "/ws?room=r&user=bo");
        let join = watcher.push();
        let raw_id = client_id(&mut api, "r", &raw);
        let bo = json!({ "user": "bo", "client": raw_id });
        assert_eq!(join, told("join", bo.clone()));
        let mut second = Sdk::connected(&daemon);
        second.ask("subscribe", &request);
        let who = info("", &second);
        assert_eq!(second.push(), told("join", who.clone()));
        assert_eq!(watcher.push(), told("join", who.clone()));
        second.ask("unsubscribe", &json!({ "channel": "r" }));
        assert_eq!(watcher.push(), told("leave", who));
        second.expect_nothing_before_answer();
        raw.close();
        assert_eq!(watcher.push(), told("leave", bo));
        let who = info("", &quiet);
        // Between them, publications come as ever.
        api.publish("r", &json!(1));
        quiet.expect_publication("r", &json!({ "data": 1, "offset": 1 }));
        watcher.expect_publication("r", &json!({ "data": 1, "offset": 1 }));
        quiet.wire.reset();
        assert_eq!(watcher.push(), told("leave", who));
        // Other rooms are not its business.
        let mut elsewhere = Sdk::member(&daemon, "s");
        elsewhere.ask("unsubscribe", &json!({ "channel": "s" }));
        watcher.expect_nothing_before_answer();
    }
}

// --- Back ends ------------------------------------------------------------------------------------

#[test]
fn back_ends_send_clients_away() {
    let daemon = Daemon::start(&[]);
    let mut api = Api::connect(&daemon);
    let mut first = Sdk::user(&daemon, "al");
    let mut second = Sdk::user(&daemon, "al");
    let mut other = Sdk::user(&daemon, "bo");
    let by_client = json!({ "user": "al", "client": first.client });
    api.result("disconnect", &by_client);
    first.expect_close(3503, "force disconnect");
    second.expect_nothing_before_answer();
    let mut kept = Sdk::user(&daemon, "al");
    let why = json!({ "code": 4321, "reason": "out of order" });
    let whitelist = [kept.client.clone()];
    api.result(
        "disconnect",
        &json!({ "user": "al", "disconnect": why, "whitelist": whitelist }),
    );
    second.expect_close(4321, "out of order");
    kept.expect_nothing_before_answer();
    other.expect_nothing_before_answer();
    daemon.wait_metric("roomcast_users", |now| now == 2.0);
}

#[test]
fn back_ends_end_subscriptions() {
    let file = SecretFile::new(SECRET);
    let daemon = Daemon::start(&["--token-secret-file", file.path()]);
    let mut api = Api::connect(&daemon);
    let login = |user: &str| {
        let claims = json!({ "sub": user, "channels": ["given"] });
        let mut sdk = Sdk::with_token(&daemon, &signed_token(SECRET, &claims));
        sdk.subscribe("r");
        sdk
    };
    let (mut al, mut also, mut bo) = (login("al"), login("al"), login("bo"));
    let why = json!({ "code": 2000, "reason": "server unsubscribe" });
    let told = |room: &str| json!({ "channel": room, "unsubscribe": why });
    api.result("unsubscribe", &json!({ "channel": "r", "user": "al" }));
    for sdk in [&mut al, &mut also] {
        assert_eq!(sdk.push(), told("r"));
    }
    api.publish("r", &json!(1));
    bo.expect_publication("r", &json!({ "data": 1, "offset": 1 }));
    for sdk in [&mut al, &mut also] {
        sdk.expect_nothing_before_answer();
        // It may come back, and goes on where it likes to.
        let result = sdk.resume("r", "", 0);
        assert_eq!(result["publications"], json!([{ "data": 1, "offset": 1 }]));
    }
    // By client, and of a room that the client did not ask for.
    let of_client = json!({ "channel": "given", "user": "al", "client": also.client });
    api.result("unsubscribe", &of_client);
    assert_eq!(also.push(), told("given"));
    api.publish("given", &json!(2));
    for sdk in [&mut al, &mut bo] {
        sdk.expect_publication("given", &json!({ "data": 2, "offset": 1 }));
    }
    also.expect_nothing_before_answer();
    // Who is not in it hears nothing.
    api.result("unsubscribe", &json!({ "channel": "given", "user": "al" }));
    assert_eq!(al.push(), told("given"));
    also.expect_nothing_before_answer();
}

#[test]
fn a_message_to_everybody_belongs_to_no_room() {
    let daemon = Daemon::start(&[]);
    let mut api = Api::connect(&daemon);
    let mut clients = [
        Sdk::member(&daemon, "r"),
        Sdk::user(&daemon, "al"),
        Sdk::connected(&daemon),
    ];
    clients[0].subscribe("s");
    let mut letters = json_member(&daemon, "room=r");
    let mut stranger = Sdk::open(&daemon);
    for (call, data) in [
        (json!({ "data": "text" }), json!("text")),
        (
            json!({ "data": { "a": [1, null] } }),
            json!({ "a": [1, null] }),
        ),
        (json!({ "b64data": "/w==" }), json!({ "b64": "/w==" })),
    ] {
        api.result("publish_all", &call);
        for sdk in &mut clients {
            assert_eq!(sdk.push(), json!({ "message": { "data": data } }), "{call}");
            sdk.expect_nothing_before_answer();
        }
        let letter = letters.recv_json();
        assert!(letter["publication"].get("offset").is_none(), "{letter}");
    }
    // Who has not connected is told nothing before the answer to that.
    let result = stranger.connect(&json!({}));
    assert_eq!(result["pong"], true);
    stranger.expect_nothing_before_answer();
}

// --- Users ----------------------------------------------------------------------------------------

#[test]
fn identified_clients_are_in_their_personal_room() {
    let daemon = Daemon::start(&[]);
    let mut api = Api::connect(&daemon);
    let target = format!("{SDK_PATH}?user=al");
    let mut sdk = Sdk::of(Client::connect(&daemon, &target));
    let result = sdk.connect(&json!({}));
    let epoch = &result["subs"]["#al"]["epoch"];
    let personal = json!({ "recoverable": true, "positioned": true, "epoch": epoch });
    assert_eq!(result["subs"], json!({ "#al": personal }));
    assert_eq!(sdk.error("subscribe", &json!({ "channel": "#al" })), 105);
    assert_eq!(sdk.error("subscribe", &json!({ "channel": "#bo" })), 103);
    assert_eq!(sdk.error("history", &json!({ "channel": "#bo" })), 103);
    for n in 1..=2 {
        api.publish("#al", &json!(n));
        sdk.expect_publication("#al", &json!({ "data": n, "offset": n }));
    }
    // It comes back to what was published while it was away.
    sdk.wire.reset();
    daemon.wait_members(0);
    api.publish("#al", &json!(3));
    let mut sdk = Sdk::of(Client::connect(&daemon, &target));
    let resume = json!({ "recover": true, "epoch": epoch, "offset": 2 });
    let result = sdk.connect(&json!({ "subs": { "#al": resume } }));
    assert_eq!(
        result["subs"]["#al"],
        json!({ "recoverable": true, "positioned": true, "epoch": epoch, "offset": 2,
                "recovered": true, "was_recovering": true,
                "publications": [{ "data": 3, "offset": 3 }] })
    );
}

#[test]
fn users_write_to_each_other_over_either_endpoint() {
    let daemon = Daemon::start(&[]);
    let mut al = Sdk::user(&daemon, "al");
    let mut bo = Client::connect(&daemon, "/ws?user=bo&to=al");
    let mut letters = json_member(&daemon, "user=bo");
    daemon.wait_members(3);
    bo.send_text("hello");
    let mut publication = al.publication("#al");
    assert_eq!(
        (&publication["data"], &publication["offset"]),
        (&json!("hello"), &json!(1))
    );
    let sender = publication["info"].take();
    assert_eq!(sender["user"], "bo", "{sender}");
    al.ask(
        "publish",
        &json!({ "channel": "#bo", "data": { "re": "hello" } }),
    );
    assert_eq!(bo.recv_text(), r#"{"re":"hello"}"#);
    let publication = harness::publication(&mut letters);
    assert_eq!(
        (&publication["user"], &publication["room"]),
        (&json!("al"), &json!("#bo"))
    );
    assert_eq!(publication["data"], json!({ "re": "hello" }));
    // Its own letters to others do not come back.
    al.expect_nothing_before_answer();
}

#[test]
fn a_second_login_takes_the_place_of_the_first() {
    for workers in ["0", "3"] {
        let daemon = Daemon::start(&["--duplicate-login", "replace", "--workers", workers]);
        let mut other = Sdk::user(&daemon, "bo");
        let mut first = Sdk::user(&daemon, "al");
        let mut second = Sdk::user(&daemon, "al");
        first.expect_close(3504, "connection limit");
        // From one endpoint to the other and back.
        let mut raw = Client::connect(&daemon, "/ws?user=al&room=r");
        second.expect_close(3504, "connection limit");
        let mut third = Sdk::user(&daemon, "al");
        raw.expect_close(3504, "connection limit");
        // Who has only opened a WebSocket is nobody yet, even if the address says who it will be.
        let target = format!("{SDK_PATH}?user=al");
        let mut open = Sdk::of(Client::connect(&daemon, &target));
        third.expect_nothing_before_answer();
        open.connect(&json!({}));
        third.expect_close(3504, "connection limit");
        open.expect_nothing_before_answer();
        other.expect_nothing_before_answer();
        daemon.wait_closes("connection_limit", 4.0);
        daemon.wait_members(2);
    }
}

#[test]
fn a_second_login_is_refused_until_the_first_has_left() {
    for workers in ["0", "3"] {
        let daemon = Daemon::start(&["--duplicate-login", "refuse", "--workers", workers]);
        let mut first = Sdk::user(&daemon, "al");
        let target = format!("{SDK_PATH}?user=al");
        let refused = || {
            let mut sdk = Sdk::of(Client::connect(&daemon, &target));
            sdk.send("connect", &json!({}));
            sdk
        };
        refused().expect_close(3504, "connection limit");
        let raw = Dial::new(daemon.addr(), "/ws?user=al&room=r").try_connect();
        assert_eq!(raw.err().map(|refusal| refusal.status), Some(409));
        first.expect_nothing_before_answer();
        first.wire.close();
        wait_until("a place", || {
            let mut sdk = refused();
            match sdk.wire.recv() {
                Message::Text(text) => text.contains(r#""connect":{"client""#),
                close => {
                    assert_eq!(close, Message::Close(Some(3504), "connection limit".into()));
                    false
                }
            }
        });
        // And of one on `/ws`.
        wait_until("a place on /ws", || {
            Dial::new(daemon.addr(), "/ws?user=cy")
                .try_connect()
                .is_ok()
        });
        let _held = Client::connect(&daemon, "/ws?user=dan");
        let mut sdk = Sdk::of(Client::connect(&daemon, &format!("{SDK_PATH}?user=dan")));
        sdk.send("connect", &json!({}));
        sdk.expect_close(3504, "connection limit");
    }
}

//! Request bodies and API calls against naive models: a reader that sees all bytes at once, and
//! serde_json's own printer.

use http::{Request, StatusCode, Version};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use roomcast::wire::api::{ApiCall, ApiError};
use roomcast::wire::body::{BodyPlan, BodyReader};
use roomcast::wire::frame::Payload;
use serde_json::Value;

#[derive(Clone, Debug, PartialEq)]
enum Outcome {
    /// More bytes are needed.
    Partial,
    /// The body, and how many bytes were the request's own.
    Whole(Vec<u8>, usize),
    Failed(StatusCode),
}

/// A reader of chunked bodies as one would write it with all bytes in hand, without any bound but
/// that on the body.
fn model(input: &[u8], bytes_max: usize) -> Outcome {
    let mut body = Vec::new();
    let mut rest = input;
    let line = |rest: &mut &[u8]| {
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let (line, after) = rest.split_at(end + 1);
        *rest = after;
        Some(line.to_vec())
    };
    let bad = Outcome::Failed(StatusCode::BAD_REQUEST);
    loop {
        let Some(size) = line(&mut rest) else {
            return Outcome::Partial;
        };
        let Some(size) = size.strip_suffix(b"\r\n") else {
            return bad;
        };
        let text = String::from_utf8_lossy(size);
        let (digits, extension) = text.split_once(';').unwrap_or((&text, ""));
        let digits = digits.trim_end_matches([' ', '\t']);
        let is_number =
            (1..=16).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_number || extension.contains('\r') {
            return bad;
        }
        let size = u64::from_str_radix(digits, 16).expect("up to 16 hexadecimal digits");
        if size > (bytes_max - body.len()) as u64 {
            return Outcome::Failed(StatusCode::PAYLOAD_TOO_LARGE);
        }
        if size == 0 {
            break;
        }
        let size = size as usize;
        let end = &rest[rest.len().min(size)..rest.len().min(size + 2)];
        if !b"\r\n".starts_with(end) {
            return bad;
        }
        if end.len() < 2 {
            return Outcome::Partial;
        }
        body.extend(&rest[..size]);
        rest = &rest[size + 2..];
    }
    loop {
        match line(&mut rest) {
            None => return Outcome::Partial,
            Some(line) if line == b"\r\n" => {
                return Outcome::Whole(body, input.len() - rest.len());
            }
            Some(line) => {
                let Some(field) = line.strip_suffix(b"\r\n") else {
                    return bad;
                };
                if field.contains(&b'\r') || !field.contains(&b':') {
                    return bad;
                }
            }
        }
    }
}

fn reader(name: &str, value: &str, bytes_max: usize) -> BodyReader {
    let request = Request::builder()
        .version(Version::HTTP_11)
        .header(name, value)
        .body(())
        .expect("a good request");
    BodyPlan::of(&request, bytes_max)
        .expect("a good head")
        .reader()
}

/// Feeds `input` cut at `cuts`.
fn feed(mut reader: BodyReader, input: &[u8], cuts: &[Index]) -> Outcome {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect();
    ends.push(input.len());
    ends.sort_unstable();
    let mut start = 0;
    for end in ends {
        match reader.feed(&input[start..end]) {
            Err(status) => return Outcome::Failed(status),
            Ok((used, true)) => return Outcome::Whole(reader.into_bytes(), start + used),
            Ok((used, false)) => {
                assert_eq!(used, end - start, "what is not the body's end is used up");
                assert!(!reader.is_done());
                assert!(
                    reader.memory_bytes() <= 2 * end + 64,
                    "memory follows input"
                );
            }
        }
        start = end;
    }
    Outcome::Partial
}

/// A body of chunks in all the ways a chunk may be written, and its length without the framing.
fn chunked() -> impl Strategy<Value = (Vec<u8>, usize)> {
    let size_suffix = prop::sample::select(vec!["", "", " ", "\t ", ";", ";a=b", " ;x=\"y;z\";w"]);
    let chunk = (
        vec(any::<u8>(), 1..80),
        0..4_usize,
        any::<bool>(),
        size_suffix.clone(),
    );
    let trailer = prop::sample::select(vec!["A: b\r\n", "c:\r\n", "Content-Length: 5\r\n"]);
    (vec(chunk, 0..5), size_suffix, vec(trailer, 0..3)).prop_map(|(chunks, last, trailers)| {
        let mut input = Vec::new();
        let body_len = chunks.iter().map(|(data, ..)| data.len()).sum();
        for (data, zeros, is_upper, suffix) in chunks {
            let digits = if is_upper {
                format!("{:X}", data.len())
            } else {
                format!("{:x}", data.len())
            };
            let line = format!("{}{digits}{suffix}\r\n", "0".repeat(zeros));
            input.extend([line.as_bytes(), &data, b"\r\n"].concat());
        }
        input.extend(format!("0{last}\r\n{}\r\n", trailers.concat()).bytes());
        (input, body_len)
    })
}

#[derive(Clone, Debug)]
enum Edit {
    Replace(u8),
    Insert(u8),
    Remove,
}

/// Small changes with bytes that mean something to the framing.
fn edits() -> impl Strategy<Value = Vec<(Index, Edit)>> {
    let byte = prop::sample::select(b"\r\n;: 01fFg\x00\xff".to_vec());
    let edit = prop_oneof![
        byte.clone().prop_map(Edit::Replace),
        byte.prop_map(Edit::Insert),
        Just(Edit::Remove),
    ];
    vec((any::<Index>(), edit), 0..3)
}

fn edited(mut input: Vec<u8>, edits: &[(Index, Edit)]) -> Vec<u8> {
    for (place, edit) in edits {
        let place = place.index(input.len());
        match edit {
            Edit::Replace(byte) => input[place] = *byte,
            Edit::Insert(byte) => input.insert(place, *byte),
            Edit::Remove => {
                input.remove(place);
            }
        }
    }
    input
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1e300..1e300).prop_map(Value::from),
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn chunked_bodies_are_what_the_model_reads(
        (input, body_len) in chunked(),
        // One too few, just enough, one to spare, plenty.
        slack in prop::sample::select(vec![0_usize, 1, 2, 300]),
        edits in edits(),
        next in "[ -~]{0,10}",
        cuts in vec(any::<Index>(), 0..12),
    ) {
        let input = edited([input, next.into_bytes()].concat(), &edits);
        let bytes_max = (body_len + slack).saturating_sub(1);
        let chunked = || reader("Transfer-Encoding", "chunked", bytes_max);
        let whole = feed(chunked(), &input, &[]);
        prop_assert_eq!(feed(chunked(), &input, &cuts), whole.clone());
        let mut slow = chunked();
        let mut found = Outcome::Partial;
        for place in 0..input.len() {
            match slow.feed(&input[place..=place]) {
                Err(status) => found = Outcome::Failed(status),
                Ok((used, true)) => found = Outcome::Whole(slow.into_bytes(), place + used),
                Ok((_, false)) => continue,
            }
            break;
        }
        prop_assert_eq!(found, whole.clone());
        match (model(&input, bytes_max), whole) {
            // The reader sees sooner than the model that a line cannot become a good one.
            (Outcome::Partial, Outcome::Failed(_)) => {}
            (expected, found) => prop_assert_eq!(found, expected),
        }
    }

    #[test]
    fn bodies_with_a_length_end_where_it_says(
        body in vec(any::<u8>(), 0..300),
        received in any::<Index>(),
        next in vec(any::<u8>(), 0..10),
        cuts in vec(any::<Index>(), 0..12),
    ) {
        let length = body.len().to_string();
        let length = || reader("Content-Length", &length, 300);
        let whole = [&body[..], &next].concat();
        let expected = Outcome::Whole(body.clone(), body.len());
        prop_assert_eq!(feed(length(), &whole, &cuts), expected);
        if !body.is_empty() {
            let part = &body[..received.index(body.len())];
            let found = feed(length(), part, &cuts);
            prop_assert_eq!(found, Outcome::Partial);
        }
    }

    #[test]
    fn data_arrives_as_its_text_or_compact(data in json(), is_pretty in any::<bool>()) {
        let text = if is_pretty {
            serde_json::to_string_pretty(&data)
        } else {
            serde_json::to_string(&data)
        };
        let body = format!("{{\"channel\": \"a\", \"data\": {}}}", text.expect("JSON"));
        let call = ApiCall::parse("publish", body.as_bytes(), usize::MAX);
        let Ok(ApiCall::Publish { publish, .. }) = call else {
            return Err(TestCaseError::fail(format!("{call:?} from {body}")));
        };
        prop_assert_eq!(publish.payload, Payload::from(data));
        for end in 0..body.len() {
            let cut = ApiCall::parse("publish", &body.as_bytes()[..end], usize::MAX);
            prop_assert_eq!(cut, Err(ApiError::Undecodable));
        }
    }

    #[test]
    fn no_body_is_a_panic(
        method in prop::sample::select(vec![
            "publish", "broadcast", "publish_all", "disconnect", "unsubscribe", "presence",
            "history", "channels", "connections", "info", "batch", "rpc",
        ]),
        members in vec(
            (
                prop::sample::select(vec![
                    "channel", "channels", "data", "b64data", "user", "client", "whitelist",
                    "disconnect", "limit", "since", "reverse", "pattern", "commands", "code",
                ]),
                json(),
            ),
            0..5,
        ),
        edits in edits(),
    ) {
        let members: Vec<String> = members
            .iter()
            .map(|(name, value)| format!("\"{name}\":{value}"))
            .collect();
        let body = edited(format!("{{{}}}", members.join(",")).into_bytes(), &edits);
        if let Ok(call) = ApiCall::parse(method, &body, 100) {
            prop_assert_eq!(call.method().name(), method);
        }
    }
}

//! The WebSocket handshake against RFC 6455, section 4.2, with a SHA-1 of its own.

use http::header::{HeaderName, HeaderValue};
use http::{Request, Version};
use roomcast::wire::upgrade::accept;

use super::input::Input;

/// A byte gives the version, each line of the rest a header.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let is_old = input.byte() % 8 == 7;
    let mut request = Request::new(());
    *request.version_mut() = if is_old {
        Version::HTTP_10
    } else {
        Version::HTTP_11
    };
    let mut headers = Vec::new();
    for line in input.rest().split(|byte| *byte == b'\n').take(64) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.push((name.to_string(), value.as_bytes().to_vec()));
            request.headers_mut().append(name, value);
        }
    }
    let found = accept(&request).map_err(|error| {
        assert!(error.text().ends_with('\n'), "a reason is one line");
        error.status().as_u16()
    });
    let expected = naive(&headers, is_old).map(|accept| {
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        )
        .into_bytes()
    });
    assert_eq!(found, expected);
}

/// The accept key, or the status of the refusal.
fn naive(headers: &[(String, Vec<u8>)], is_old: bool) -> Result<String, u16> {
    let all = |name: &str| -> Vec<&[u8]> {
        let named = headers.iter().filter(|(is, _)| is == name);
        named.map(|(_, value)| &value[..]).collect()
    };
    let names = |name: &str, token: &str| {
        all(name)
            .into_iter()
            .filter(|value| value.is_ascii())
            .flat_map(|value| value.split(|byte| *byte == b','))
            .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    };
    if !names("upgrade", "websocket") {
        return Err(426);
    }
    if !names("connection", "upgrade") || is_old {
        return Err(400);
    }
    match all("sec-websocket-version")[..] {
        [b"13"] => {}
        [_] => return Err(426),
        _ => return Err(400),
    }
    let [key] = all("sec-websocket-key")[..] else {
        return Err(400);
    };
    let value_of = |byte: u8| ALPHABET.iter().position(|is| *is == byte);
    let is_key = key.len() == 24
        && key[..22].iter().all(|byte| value_of(*byte).is_some())
        && &key[22..] == b"=="
        // The bits that no byte is made of.
        && value_of(key[21]).is_some_and(|value| value % 16 == 0);
    if !is_key {
        return Err(400);
    }
    let seed = [key, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
    Ok(base64(&sha1(&seed)))
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let at = |place: usize| u32::from(chunk.get(place).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            let value = bits >> (18 - 6 * place) & 63;
            out.push(match place <= chunk.len() {
                true => char::from(ALPHABET[value as usize]),
                false => '=',
            });
        }
    }
    out
}

/// RFC 3174.
fn sha1(bytes: &[u8]) -> [u8; 20] {
    let mut padded = bytes.to_vec();
    padded.push(0x80);
    while padded.len() % 64 != 56 {
        padded.push(0);
    }
    padded.extend_from_slice(&(8 * bytes.len() as u64).to_be_bytes());
    let mut state: [u32; 5] = [
        0x6745_2301,
        0xefcd_ab89,
        0x98ba_dcfe,
        0x1032_5476,
        0xc3d2_e1f0,
    ];
    for block in padded.chunks(64) {
        let mut words: Vec<u32> = block
            .chunks(4)
            .map(|word| word.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
            .collect();
        for place in 16..80 {
            let word = words[place - 3] ^ words[place - 8] ^ words[place - 14] ^ words[place - 16];
            words.push(word.rotate_left(1));
        }
        let [mut a, mut b, mut c, mut d, mut e] = state;
        for (place, word) in words.into_iter().enumerate() {
            let (mixed, constant) = match place {
                0..20 => (b & c | !b & d, 0x5a82_7999),
                20..40 => (b ^ c ^ d, 0x6ed9_eba1),
                40..60 => (b & c | b & d | c & d, 0x8f1b_bcdc),
                _ => (b ^ c ^ d, 0xca62_c1d6_u32),
            };
            let next = [mixed, e, word, constant]
                .into_iter()
                .fold(a.rotate_left(5), u32::wrapping_add);
            (a, b, c, d, e) = (next, a, b.rotate_left(30), c, d);
        }
        for (sum, more) in state.iter_mut().zip([a, b, c, d, e]) {
            *sum = sum.wrapping_add(more);
        }
    }
    let mut digest = [0; 20];
    for (place, byte) in digest.iter_mut().enumerate() {
        *byte = state[place / 4].to_be_bytes()[place % 4];
    }
    digest
}

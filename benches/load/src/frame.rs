//! WebSocket client framing: header parsing, masked frame building, and the probe payload.

#[derive(Debug, PartialEq, Clone, Copy)]
pub struct Header {
    pub fin: bool,
    pub rsv: u8,
    pub opcode: u8,
    pub masked: bool,
    pub head: usize,
    pub len: usize,
}

#[derive(Debug, PartialEq, Clone, Copy)]
pub enum Bad {
    Masked,
    Reserved,
    Opcode,
    Control,
    TooLong,
}

pub const MAX_PAYLOAD: usize = 64 << 20;

/// Ok(None): more bytes are needed to know the header.
#[inline]
pub fn parse(b: &[u8]) -> Result<Option<Header>, Bad> {
    if b.len() < 2 {
        return Ok(None);
    }
    let (b0, b1) = (b[0], b[1]);
    let opcode = b0 & 0x0f;
    let fin = b0 & 0x80 != 0;
    let (head, len) = match b1 & 0x7f {
        126 => {
            if b.len() < 4 {
                return Ok(None);
            }
            (4, u16::from_be_bytes([b[2], b[3]]) as usize)
        }
        127 => {
            if b.len() < 10 {
                return Ok(None);
            }
            let n = u64::from_be_bytes(b[2..10].try_into().unwrap());
            if n > MAX_PAYLOAD as u64 {
                return Err(Bad::TooLong);
            }
            (10, n as usize)
        }
        n => (2, n as usize),
    };
    if b1 & 0x80 != 0 {
        return Err(Bad::Masked); // a server must not mask
    }
    if b0 & 0x70 != 0 {
        return Err(Bad::Reserved); // no extension was offered
    }
    match opcode {
        0..=2 => {}
        8..=10 => {
            if !fin || len > 125 {
                return Err(Bad::Control);
            }
        }
        _ => return Err(Bad::Opcode),
    }
    Ok(Some(Header {
        fin,
        rsv: 0,
        opcode,
        masked: false,
        head,
        len,
    }))
}

/// Append a complete client frame; the key may be zero, and the payload is then copied as it is.
pub fn push_client_frame(out: &mut Vec<u8>, opcode: u8, key: [u8; 4], parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|p| p.len()).sum();
    out.push(0x80 | opcode);
    if len < 126 {
        out.push(0x80 | len as u8);
    } else if len < 65536 {
        out.push(0x80 | 126);
        out.extend_from_slice(&(len as u16).to_be_bytes());
    } else {
        out.push(0x80 | 127);
        out.extend_from_slice(&(len as u64).to_be_bytes());
    }
    out.extend_from_slice(&key);
    let at = out.len();
    for p in parts {
        out.extend_from_slice(p);
    }
    if key != [0; 4] {
        for (i, b) in out[at..].iter_mut().enumerate() {
            *b ^= key[i & 3];
        }
    }
}

/// Probe payload: `WSLD` run(4) time(16) seq(8) room(8), decimal digits, then padding with `0`.
pub const PROBE_MIN: usize = 40;

pub struct Probe {
    pub text: Vec<u8>,
    mark: u64,
}
#[derive(Debug, PartialEq, Clone, Copy)]
pub struct Seen {
    pub time: u64,
    pub seq: u64,
    pub room: u64,
}

fn put(buf: &mut [u8], mut v: u64) {
    for b in buf.iter_mut().rev() {
        *b = b'0' + (v % 10) as u8;
        v /= 10;
    }
}
/// Eight decimal digits at once.
#[inline]
fn get8(b: &[u8]) -> u64 {
    let v = u64::from_le_bytes(b[..8].try_into().unwrap());
    let v = (v & 0x0f0f_0f0f_0f0f_0f0f).wrapping_mul(2561) >> 8;
    let v = (v & 0x00ff_00ff_00ff_00ff).wrapping_mul(6_553_601) >> 16;
    (v & 0x0000_ffff_0000_ffff).wrapping_mul(42_949_672_960_001) >> 32
}

impl Probe {
    pub fn new(size: usize, run: u64) -> Probe {
        let mut text = vec![b'0'; size.max(PROBE_MIN)];
        text[..4].copy_from_slice(b"WSLD");
        put(&mut text[4..8], run);
        let mark = u64::from_le_bytes(text[..8].try_into().unwrap());
        Probe { text, mark }
    }
    #[inline]
    pub fn set(&mut self, time: u64, seq: u64, room: u64) {
        put(&mut self.text[8..24], time);
        put(&mut self.text[24..32], seq);
        put(&mut self.text[32..40], room);
    }
    #[inline]
    pub fn read_at(&self, p: &[u8], at: usize) -> Option<Seen> {
        let p = p.get(at..at + PROBE_MIN)?;
        if u64::from_le_bytes(p[..8].try_into().unwrap()) != self.mark {
            return None;
        }
        Some(Seen {
            time: get8(&p[8..]) * 100_000_000 + get8(&p[16..]),
            seq: get8(&p[24..]),
            room: get8(&p[32..]),
        })
    }
    /// First probe at or after `from`.
    pub fn find(&self, p: &[u8], from: usize) -> Option<(usize, Seen)> {
        let mut i = from;
        while i + PROBE_MIN <= p.len() {
            match p[i..=p.len() - PROBE_MIN].iter().position(|&b| b == b'W') {
                None => return None,
                Some(d) => {
                    i += d;
                    if let Some(s) = self.read_at(p, i) {
                        return Some((i, s));
                    }
                    i += 1;
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mut v = vec![0x80 | opcode];
        match payload.len() {
            n if n < 126 => v.push(n as u8),
            n if n < 65536 => {
                v.push(126);
                v.extend_from_slice(&(n as u16).to_be_bytes());
            }
            n => {
                v.push(127);
                v.extend_from_slice(&(n as u64).to_be_bytes());
            }
        }
        v.extend_from_slice(payload);
        v
    }

    #[test]
    fn lengths_at_every_boundary() {
        for n in [0usize, 1, 125, 126, 127, 65535, 65536, 100_000] {
            let f = server(1, &vec![b'x'; n]);
            let h = parse(&f).unwrap().unwrap();
            assert_eq!(
                (h.head + h.len, h.len, h.opcode, h.fin),
                (f.len(), n, 1, true)
            );
        }
    }
    #[test]
    fn header_cut_anywhere_asks_for_more() {
        for n in [5usize, 300, 70_000] {
            let f = server(2, &vec![b'x'; n]);
            let head = parse(&f).unwrap().unwrap().head;
            for cut in 0..head {
                assert_eq!(parse(&f[..cut]), Ok(None), "{n} {cut}");
            }
            assert!(parse(&f[..head]).unwrap().is_some());
        }
    }
    #[test]
    fn refuses_what_a_server_must_not_send() {
        assert_eq!(parse(&[0x81, 0x80, 0, 0, 0, 0]), Err(Bad::Masked));
        assert_eq!(parse(&[0xc1, 0x00]), Err(Bad::Reserved));
        assert_eq!(parse(&[0x83, 0x00]), Err(Bad::Opcode));
        assert_eq!(parse(&[0x09, 0x00]), Err(Bad::Control));
        assert_eq!(parse(&[0x89, 126, 0, 126]), Err(Bad::Control));
        let mut f = vec![0x82, 127];
        f.extend_from_slice(&u64::MAX.to_be_bytes());
        assert_eq!(parse(&f), Err(Bad::TooLong));
    }
    #[test]
    fn client_frames_unmask_to_their_payload() {
        for key in [[0u8; 4], [1, 2, 3, 250]] {
            for n in [0usize, 125, 126, 65536] {
                let p: Vec<u8> = (0..n).map(|i| (i % 251) as u8).collect();
                let mut out = Vec::new();
                push_client_frame(&mut out, 1, key, &[&p[..n / 3], &p[n / 3..]]);
                let ext = if n < 126 {
                    0
                } else if n < 65536 {
                    2
                } else {
                    8
                };
                assert_eq!(out.len(), 2 + ext + 4 + n);
                assert_eq!(out[0], 0x81);
                assert_eq!(out[1] & 0x80, 0x80);
                assert_eq!(&out[2 + ext..6 + ext], &key);
                let back: Vec<u8> = out[6 + ext..]
                    .iter()
                    .enumerate()
                    .map(|(i, b)| b ^ key[i & 3])
                    .collect();
                assert_eq!(back, p);
            }
        }
    }
    #[test]
    fn probe_round_trip_and_search() {
        let mut p = Probe::new(64, 42);
        assert_eq!(p.text.len(), 64);
        for (t, s, r) in [
            (0, 0, 0),
            (1_234_567_890_123_456, 87_654_321, 99),
            (9_999_999_999_999_999, 99_999_999, 99_999_999),
        ] {
            p.set(t, s, r);
            assert_eq!(
                p.read_at(&p.text, 0),
                Some(Seen {
                    time: t,
                    seq: s,
                    room: r
                })
            );
            assert!(p.text.iter().all(|b| b.is_ascii_alphanumeric()));
        }
        p.set(7, 8, 9);
        let mut wrapped = b"{\"W\":\"WSL".to_vec();
        wrapped.extend_from_slice(&p.text);
        wrapped.extend_from_slice(b"\"}");
        assert_eq!(
            p.find(&wrapped, 0),
            Some((
                9,
                Seen {
                    time: 7,
                    seq: 8,
                    room: 9
                }
            ))
        );
        assert_eq!(p.find(&wrapped, 10), None);
        let other = Probe::new(64, 43);
        assert_eq!(
            other.find(&wrapped, 0),
            None,
            "another run's probe is not ours"
        );
        assert_eq!(p.find(b"WSLD", 0), None);
        assert_eq!(Probe::new(3, 1).text.len(), PROBE_MIN);
    }
}

//! Something that speaks like Redis and answers scripts as a test wants: what a real one does too, but
//! not when it is asked to.
//!
//! Owns: a listener, and a thread for each connection that ends with it.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

/// What a script is answered.
pub(crate) enum Answer {
    /// A list of texts.
    List(Vec<String>),
    /// An error: its code, and more.
    Error(&'static str),
    /// The connection ends without one.
    HangUp,
}

type Script = dyn FnMut(&str, &str) -> Answer + Send;

/// It listens for as long as the process lives.
pub(crate) struct FakeRedis {
    addr: SocketAddr,
}

impl FakeRedis {
    /// `script` answers: it is given the name of a script and all that the script is given, as one text.
    pub(crate) fn start(script: impl FnMut(&str, &str) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("a bound socket has one");
        let script: Arc<Mutex<Script>> = Arc::new(Mutex::new(script));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let script = Arc::clone(&script);
                std::thread::spawn(move || serve(&stream, &script));
            }
        });
        Self { addr }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}/", self.addr)
    }
}

/// In the order in which the broker loads them.
const SCRIPTS: [&str; 6] = ["append", "read", "forget", "beat", "claim", "release"];

fn serve(stream: &TcpStream, script: &Mutex<Script>) -> Option<()> {
    let mut input = BufReader::new(stream);
    let mut output = stream;
    let mut loaded = SCRIPTS.iter().cycle();
    loop {
        let words = read_command(&mut input)?;
        let word = |place: usize| words.get(place).map_or("", String::as_str);
        let answer = match word(0) {
            "INFO" => bulk("redis_mode:standalone\r\nrun_id:fake\r\nloading:0\r\nrole:master\r\n"),
            "GET" => bulk("1"),
            "SCRIPT" => bulk(loaded.next()?),
            // The run is known for long.
            "EVAL" => bulk("999999"),
            "CLIENT" if word(1) == "ID" => ":1\r\n".into(),
            "PUBLISH" => ":0\r\n".into(),
            "SUBSCRIBE" => {
                let confirm = |channel: &String| {
                    format!("*3\r\n{}{}:1\r\n", bulk("subscribe"), bulk(channel))
                };
                words[1..].iter().map(confirm).collect()
            }
            "EVALSHA" => {
                let mut script = script.lock().unwrap_or_else(PoisonError::into_inner);
                match script(word(1), &words[2..].join(" ")) {
                    Answer::List(texts) => {
                        let parts: String = texts.iter().map(|text| bulk(text)).collect();
                        format!("*{}\r\n{parts}", texts.len())
                    }
                    Answer::Error(text) => format!("-{text}\r\n"),
                    Answer::HangUp => {
                        let _ = stream.shutdown(std::net::Shutdown::Both);
                        return None;
                    }
                }
            }
            _ => "+OK\r\n".into(),
        };
        output.write_all(answer.as_bytes()).ok()?;
    }
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

/// The words of the next command; bytes that are no text are replaced.
fn read_command(input: &mut impl BufRead) -> Option<Vec<String>> {
    let count = read_number(input, '*')?;
    let mut words = Vec::new();
    for _ in 0..count {
        let mut bytes = vec![0; read_number(input, '$')? + 2];
        input.read_exact(&mut bytes).ok()?;
        bytes.truncate(bytes.len() - 2);
        words.push(String::from_utf8_lossy(&bytes).into_owned());
    }
    Some(words)
}

fn read_number(input: &mut impl BufRead, sign: char) -> Option<usize> {
    let mut line = String::new();
    input.read_line(&mut line).ok()?;
    line.trim_end().strip_prefix(sign)?.parse().ok()
}

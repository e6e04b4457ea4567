//! TLS under pressure: sockets that take little, handshakes that are many, long or never end, and
//! what operators see of those that fail.

mod harness;

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};
use socket2::{Domain, Socket, Type};

use harness::{
    Certificate, DEADLINE, Daemon, Frame, Signal, Start, Wire, narrow_listener, stdout_of,
    upgrade_request,
};

fn start(certificate: &Certificate) -> Start {
    let (cert, key) = (certificate.cert(), certificate.key());
    Start::default().args(&["--tls-cert", &cert, "--tls-key", &key])
}

/// Believes every certificate: these tests are about what comes behind it.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn client_session() -> ClientConnection {
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    ClientConnection::new(Arc::new(config), name).expect("a session")
}

/// The first bytes of a client.
fn hello() -> Vec<u8> {
    let mut bytes = Vec::new();
    client_session().write_tls(&mut bytes).expect("a vector");
    bytes
}

/// A client that writes and reads when it is told to.
struct TlsClient {
    session: ClientConnection,
    stream: TcpStream,
}

impl TlsClient {
    fn connect(addr: SocketAddr, receive_bytes: usize) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket
            .set_recv_buffer_size(receive_bytes)
            .expect("it is ours");
        socket
            .connect_timeout(&addr.into(), DEADLINE)
            .expect("it listens");
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let session = client_session();
        let mut this = Self { session, stream };
        while this.session.is_handshaking() {
            this.session
                .complete_io(&mut this.stream)
                .expect("a handshake");
        }
        this
    }

    fn send(&mut self, bytes: &[u8]) {
        let mut left = bytes;
        while !left.is_empty() {
            let taken = self.session.writer().write(left).expect("a session");
            left = &left[taken..];
            while self.session.wants_write() {
                self.session.write_tls(&mut self.stream).expect("it reads");
            }
        }
    }

    /// Reads what comes next; 0 at the end.
    fn read(&mut self, bytes: &mut [u8]) -> usize {
        loop {
            match self.session.reader().read(bytes) {
                Ok(len) => return len,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return 0,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}"),
            }
            self.session.read_tls(&mut self.stream).expect("a stream");
            self.session.process_new_packets().expect("records");
        }
    }

    /// Upgrades; whatever comes behind the answer is lost, so nothing may be on its way yet.
    fn upgrade(&mut self, addr: SocketAddr, target: &str) {
        self.send(upgrade_request(addr, target, &[]).as_bytes());
        let mut answer = Vec::new();
        let mut bytes = [0; 1024];
        while !answer.ends_with(b"\r\n\r\n") {
            let len = self.read(&mut bytes);
            assert!(len > 0, "{}", String::from_utf8_lossy(&answer));
            answer.extend(&bytes[..len]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 101 "), "{answer:?}");
    }

    /// Sends a message to `/echo`, and reads it back.
    fn echo(&mut self, text: &str) {
        self.send(&Frame::text(text).bytes());
        let mut answer = vec![0x81, u8::try_from(text.len()).expect("a short one")];
        answer.extend(text.as_bytes());
        let mut found: Vec<u8> = Vec::new();
        let mut bytes = [0; 1024];
        while found.len() < answer.len() {
            let len = self.read(&mut bytes);
            assert!(len > 0, "the end after {found:?}");
            found.extend(&bytes[..len]);
        }
        assert_eq!(found, answer);
    }

    /// Reads until a short text has come.
    fn expect_text(&mut self, text: &str) {
        let mut found = Vec::new();
        let mut bytes = [0; 1024];
        while !String::from_utf8_lossy(&found).contains(text) {
            let len = self.read(&mut bytes);
            assert!(len > 0, "the end after {found:?}");
            found.extend(&bytes[..len]);
        }
    }
}

#[test]
fn who_ends_its_side_gets_all_that_is_held_as_ciphertext() {
    const FRAME: usize = 4000;
    let certificate = Certificate::new("ec");
    let daemon = start(&certificate).pass(narrow_listener(16 << 10)).start();
    let mut echoed = 0.0;
    // What fits the sockets, what is held as ciphertext, and what stays queued behind that.
    for frames in (2..=40).step_by(2) {
        let mut client = TlsClient::connect(daemon.addr(), 8 << 10);
        client.upgrade(daemon.addr(), "/echo");
        let frame = Frame::binary(vec![b'x'; FRAME]).bytes();
        client.send(&frame.repeat(frames));
        echoed += frames as f64;
        daemon.wait_metric("roomcast_deliveries_total", |now| now == echoed);
        client.stream.shutdown(Shutdown::Write).expect("connected");
        // Who was asked after it has seen the end before.
        daemon.metric("roomcast_connections");
        let mut received = 0;
        let mut bytes = vec![0; 64 << 10];
        loop {
            match client.read(&mut bytes) {
                0 => break,
                len => received += len,
            }
        }
        // Each echo has a header of four bytes.
        assert_eq!(received, frames * (FRAME + 4), "{frames} frames");
    }
}

#[test]
fn a_handshake_goes_on_although_its_answer_does_not_fit_the_socket() {
    let certificate = Certificate::new("ec");
    let chain = fs::read_to_string(certificate.cert()).expect("ours");
    fs::write(certificate.cert(), chain.repeat(40)).expect("ours");
    let listener = narrow_listener(4 << 10);
    let daemon = start(&certificate).pass(listener).start();
    let mut client = TlsClient::connect(daemon.addr(), 4 << 10);
    client.upgrade(daemon.addr(), "/echo");
    client.echo("through a needle's eye");
}

#[test]
fn strangers_who_begin_handshakes_hold_nobody_up() {
    const STRANGERS: usize = 400;
    let certificate = Certificate::new("rsa:4096");
    let daemon = start(&certificate).start();
    let mut member = TlsClient::connect(daemon.addr(), 64 << 10);
    member.upgrade(daemon.addr(), "/echo");
    let hello = hello();
    let before = daemon.exposition();
    // They are all there when the loop looks.
    daemon.signal(Signal::Stop);
    let mut strangers: Vec<Wire> = (0..STRANGERS)
        .map(|_| {
            let mut wire = Wire::connect(daemon.addr());
            wire.send(&hello);
            wire
        })
        .collect();
    daemon.signal(Signal::Continue);
    for number in 0..10 {
        member.echo(&format!("round trip {number}"));
    }
    for stranger in &mut strangers {
        assert!(stranger.recv_some() > 0);
    }
    // A signature with such a key takes some 4 ms, so there is one in a turn, or a few on a machine
    // that is much faster: what is counted is the time.
    let name = "roomcast_loop_phase_seconds_count{phase=\"receive\"}";
    let turns = daemon.metric(name) - before.value(name);
    assert!(turns >= STRANGERS as f64 / 4.0, "{turns} turns");
}

#[test]
fn a_handshake_without_end_is_refused() {
    let certificate = Certificate::new("ec");
    let daemon = start(&certificate).start();
    // A handshake message of 60 000 bytes, in records of 1000.
    let mut message = vec![1, 0, 0xea, 0x60, 3, 3];
    message.resize(60_000, b'z');
    let record = |part: &[u8]| {
        let len = u16::try_from(part.len()).expect("a short one");
        [&[0x16, 3, 1][..], &len.to_be_bytes(), part].concat()
    };
    let records: Vec<Vec<u8>> = message.chunks(1000).map(record).collect();
    // So much may come: a hello with everything in it is shorter.
    let mut patient = Wire::connect(daemon.addr());
    patient.send(records[..15].concat());
    let mut wire = Wire::connect(daemon.addr());
    let peer = wire.local_addr();
    let _ = wire.try_send(records.concat());
    let line = daemon.expect_closed(peer);
    assert!(line.contains("reason=tls "), "{line}");
    assert!(line.contains("the handshake is not over after "), "{line}");
    wire.expect_gone();
    assert_eq!(daemon.closes("tls"), 1.0);
    assert!(!patient.readable_within(std::time::Duration::from_millis(50)));
}

#[test]
fn a_handshake_that_fails_is_told_with_its_cause_and_a_probe_is_not() {
    let certificate = Certificate::new("ec");
    let daemon = start(&certificate).start();
    // An alert in the place of a hello: the peer believes none of our certificates.
    let mut wary = Wire::connect(daemon.addr());
    let peer = wary.local_addr();
    wary.send(hello());
    assert!(wary.recv_some() > 0);
    wary.send(b"\x15\x03\x03\x00\x02\x02\x30");
    let line = daemon.expect_closed(peer);
    assert!(
        line.contains("INFO") && line.contains("reason=tls "),
        "{line}"
    );
    assert!(line.contains(" error="), "{line}");
    // It hangs up in the middle.
    for bytes in [&hello()[..100], &hello()] {
        let mut wire = Wire::connect(daemon.addr());
        let peer = wire.local_addr();
        wire.send(bytes);
        drop(wire);
        let line = daemon.expect_closed(peer);
        assert!(
            line.contains("INFO") && line.contains("reason=tls "),
            "{line}"
        );
        assert!(line.contains(" error="), "{line}");
    }
    assert_eq!(daemon.closes("tls"), 3.0);
    // Who only looks whether somebody listens does nothing wrong.
    let probe = Wire::connect(daemon.addr());
    let peer = probe.local_addr();
    drop(probe);
    let line = daemon.expect_closed(peer);
    assert!(
        line.contains("DEBUG") && line.contains("reason=gone "),
        "{line}"
    );
    assert!(!line.contains("error="), "{line}");
    // Many of them are told together.
    for _ in 0..30 {
        Wire::connect(daemon.addr()).send(&hello()[..100]);
    }
    daemon.wait_closes("tls", 33.0);
    let lines = daemon.log_lines();
    let told = lines
        .iter()
        .filter(|line| line.contains("reason=tls ") && line.contains("INFO"));
    assert_eq!(told.count(), 10);
}

#[test]
fn what_sessions_hold_is_in_the_arithmetic_of_check() {
    let certificate = Certificate::new("ec");
    let (cert, key) = (certificate.cert(), certificate.key());
    let args = ["check", "--max-connections", "10"];
    let line = |args: &[&str]| {
        let shown = stdout_of(args);
        let line = shown.lines().find(|line| line.starts_with("  TLS "));
        line.unwrap_or_else(|| panic!("{shown}")).to_owned()
    };
    let with_tls = [&args[..], &["--tls-cert", &cert, "--tls-key", &key]].concat();
    let with_tls = line(&with_tls);
    assert!(with_tls.contains(" 440.0 KiB "), "{with_tls}");
    for part in [
        "10 connections",
        "8KiB when idle",
        "20KiB",
        "16KiB ciphertext",
    ] {
        assert!(with_tls.contains(part), "{with_tls}");
    }
    assert!(line(&args).ends_with(" off"));
}

/// Clients over TLS publish a message and end at once as `end` does, and a member gets each of them.
fn assert_last_words_are_published(reason: &str, end: impl Fn(&Daemon, TlsClient, &[u8])) {
    let certificate = Certificate::new("ec");
    let daemon = start(&certificate).start();
    for round in 1..=20 {
        let [mut listener, speaker] = [0, 1].map(|_| {
            let mut client = TlsClient::connect(daemon.addr(), 64 << 10);
            client.upgrade(daemon.addr(), "/ws?room=r");
            client
        });
        daemon.wait_members(2);
        let text = format!("last words {round}");
        end(&daemon, speaker, &Frame::text(&text).bytes());
        listener.expect_text(&text);
        daemon.wait_closes(reason, f64::from(round));
        drop(listener);
        daemon.wait_members(0);
    }
}

#[test]
fn what_came_before_a_broken_record_is_published() {
    assert_last_words_are_published("tls", |_, mut speaker, frame| {
        speaker
            .session
            .writer()
            .write_all(frame)
            .expect("a session");
        let mut bytes = Vec::new();
        speaker.session.write_tls(&mut bytes).expect("a vector");
        // A record that nobody has the key of.
        bytes.extend([0x17, 3, 3, 0, 32]);
        bytes.extend([0xa5; 32]);
        speaker.stream.write_all(&bytes).expect("it reads");
    });
}

#[test]
fn what_came_before_a_reset_is_published() {
    assert_last_words_are_published("reset", |daemon, mut speaker, frame| {
        // Both are there when the loop looks.
        daemon.signal(Signal::Stop);
        speaker.send(frame);
        let socket = Socket::from(speaker.stream);
        socket
            .set_linger(Some(std::time::Duration::ZERO))
            .expect("it is ours");
        drop(socket);
        daemon.signal(Signal::Continue);
    });
}

//! TLS that is out of date: versions and cipher suites that are refused, from hellos written by hand,
//! since libraries no longer send them.

mod harness;

use harness::{Certificate, Daemon, Wire};

const ECDHE_ECDSA_AES_128_GCM: u16 = 0xc02b;
const HANDSHAKE_FAILURE: u8 = 40;
const PROTOCOL_VERSION: u8 = 70;

/// A ClientHello, in a record, of a client that speaks no more than `version`.
fn client_hello(version: u16, suites: &[u16]) -> Vec<u8> {
    let sized = |bytes: &[u8]| {
        let len = u16::try_from(bytes.len()).expect("short").to_be_bytes();
        [&len[..], bytes].concat()
    };
    let extension = |kind: u16, content: &[u8]| [&kind.to_be_bytes(), &sized(content)[..]].concat();
    let suites: Vec<u8> = suites.iter().flat_map(|one| one.to_be_bytes()).collect();
    let extensions = [
        // secp256r1, ECDSA with it and SHA-256, uncompressed points.
        extension(10, &sized(&[0, 23])),
        extension(13, &sized(&[4, 3])),
        extension(11, &[1, 0]),
    ];
    let body = [
        &version.to_be_bytes()[..],
        &[7; 32],
        &[0],
        &sized(&suites),
        &[1, 0],
        &sized(&extensions.concat()),
    ]
    .concat();
    let message = [&[1, 0][..], &sized(&body)].concat();
    [&[22, 3, 1][..], &sized(&message)].concat()
}

/// The kind of the first record that comes back, and what it begins with: the kind of a handshake
/// message, or the number of an alert.
fn answer(daemon: &Daemon, hello: &[u8]) -> (u8, u8) {
    let mut wire = Wire::connect(daemon.addr());
    wire.send(hello);
    let record = wire.take_some(7);
    assert_eq!(record.len(), 7, "{record:?}");
    (record[0], record[if record[0] == 21 { 6 } else { 5 }])
}

#[test]
fn only_tls_1_2_and_1_3_and_their_good_suites_are_spoken() {
    let certificate = Certificate::new("ec");
    let files = [
        "--tls-cert",
        &certificate.cert(),
        "--tls-key",
        &certificate.key(),
    ];
    let daemon = Daemon::start(&files);
    let good = [ECDHE_ECDSA_AES_128_GCM];
    assert_eq!(
        answer(&daemon, &client_hello(0x0303, &good)),
        (22, 2),
        "a ServerHello"
    );
    for version in [0x0300, 0x0301, 0x0302] {
        let found = answer(&daemon, &client_hello(version, &good));
        assert_eq!(found, (21, PROTOCOL_VERSION), "{version:x}");
    }
    for (suite, what) in [
        (0x0000, "nothing at all"),
        (0x0005, "RC4"),
        (0x000a, "3DES"),
        (0x002f, "no forward secrecy"),
        (0x009c, "no forward secrecy, GCM"),
        (0xc009, "CBC"),
        (0xc006, "no encryption"),
        (0xc018, "no certificate"),
    ] {
        let found = answer(&daemon, &client_hello(0x0303, &[suite]));
        assert_eq!(found, (21, HANDSHAKE_FAILURE), "{what}");
    }
    daemon.wait_closes("tls", 12.0);
}

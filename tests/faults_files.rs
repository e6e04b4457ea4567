//! A daemon that runs out of descriptors in the middle of a load, several times: who is there is served
//! meanwhile, who comes waits, and is let in when there are descriptors again.

mod harness;

use std::time::{Duration, Instant};

use harness::{Client, Daemon, Load, Wire, Witness, pace, upgrade_request, wait_until};

/// How long there are none.
const SHORTAGE: Duration = Duration::from_millis(1500);

const PAUSES: &str = "roomcast_accept_pauses_total";

#[test]
fn a_load_does_not_lose_anything_for_want_of_descriptors() {
    const LOAD: &str = "--members 40 --publishers 4 --rooms 4 --rate 40 --cuts 10 --secs 7";
    let daemon = Daemon::start(&[]);
    let idle = daemon.open_files();
    let mut witness = Witness::new(&daemon);
    let by_commands = format!("{LOAD} --protocol centrifugo");
    let loads = [LOAD, &by_commands].map(|load| Load::start(&[&daemon], load));
    for _ in 0..3 {
        let pauses = daemon.metric(PAUSES);
        // Whoever comes now waits for one that is given back.
        daemon.leave_open_files(0);
        let begun = Instant::now();
        let mut waiting: Vec<Wire> = (0..50)
            .map(|_| {
                let mut wire = Wire::connect(daemon.addr());
                wire.send(upgrade_request(daemon.addr(), "/echo", &[]));
                wire
            })
            .collect();
        while begun.elapsed() < SHORTAGE {
            witness.assert_served();
            pace(Duration::from_millis(10));
        }
        daemon.leave_open_files(1000);
        for wire in waiting.drain(..) {
            let mut client = Client::upgraded(wire).expect("an upgrade");
            client.send_text("my turn");
            assert_eq!(client.recv_text(), "my turn");
        }
        assert!(daemon.metric(PAUSES) > pauses);
    }
    for account in loads.map(Load::finish) {
        assert_eq!(account.count("lost and told"), 0, "{}", account.0);
        assert_eq!(account.count("closed by server"), 0, "{}", account.0);
    }
    witness.assert_served();
    drop(witness);
    wait_until("as many descriptors as before", || {
        daemon.open_files() == idle
    });
}

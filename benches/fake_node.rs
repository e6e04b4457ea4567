//! A node in a bench: one hub and one worker's shard, with sockets that cost nothing.
//!
//! A module of the benches that need it, not a bench of its own.
//!
//! The bench stands in the place of the loop: it says when bytes come, and calls the phases in
//! whatever order it measures them. A write takes all it is offered, so what is left out is every
//! system call, the kernel's copy of the bytes, and the channels between threads.
//!
//! Never: measures anything itself.

use std::fmt::Write as _;
use std::hint::black_box;
use std::io::IoSlice;
use std::net::SocketAddr;

use roomcast::base::{self, ConnId, Limits, Now, RoomBudget};
use roomcast::conn::send_queue::SendQueue;
use roomcast::exchange::Effect;
use roomcast::hub::{Gate, Hub, Reading, SocketAction, Written};
use roomcast::shard::RoomShard;

/// One hub, one shard, and a clock that stands still until it is moved.
pub(crate) struct FakeNode {
    pub(crate) hub: Hub<FakeSocket>,
    pub(crate) shard: RoomShard,
    pub(crate) now: Now,
    jobs_max: usize,
}

impl FakeNode {
    pub(crate) fn new(limits: Limits) -> Self {
        let now = Now {
            instant: base::Instant::ORIGIN,
            unix_ms: 1_767_225_600_000,
        };
        let budget = RoomBudget::new(limits.rooms_max);
        Self {
            shard: RoomShard::new(&limits, 1, budget, now, 1),
            now,
            jobs_max: limits.jobs_max,
            hub: Hub::new(limits, Gate::default(), 1, now.instant, 1),
        }
    }

    pub(crate) fn accept(&mut self) -> ConnId {
        let peer = SocketAddr::from(([127, 0, 0, 1], 40_000));
        self.hub
            .handle_accept(self.now, false, peer, FakeSocket::default())
            .expect("the limits allow that many")
    }

    /// A connection sends the head of its upgrade, and its rooms are asked for.
    pub(crate) fn upgrade(&mut self, id: ConnId, head: &str) {
        self.grant_credits();
        let reading = self.hub.handle_bytes(self.now, id, head.as_bytes());
        assert_eq!(reading, Reading::Paused, "a connection that joins waits");
    }

    /// A member sends what it publishes.
    pub(crate) fn publish(&mut self, publisher: ConnId, input: &[u8]) {
        self.grant_credits();
        let reading = self.hub.handle_bytes(self.now, publisher, black_box(input));
        assert_eq!(reading, Reading::Continue);
    }

    /// Tells the hub that its worker has nothing to do.
    pub(crate) fn grant_credits(&mut self) {
        self.hub.handle_room(self.now, ONLY_WORKER, self.jobs_max);
    }

    /// The worker does all that is asked of it.
    pub(crate) fn hand_over(&mut self) {
        while let Some((_, job)) = self.hub.poll_job() {
            self.shard.handle_job(self.now, job);
        }
        self.shard.handle_timeout(self.now);
    }

    /// Pushes what came of a turn, which is one effect however many publications it merges.
    pub(crate) fn push(&mut self, effect: Option<Effect>) {
        let effect = effect.expect("every turn here has an effect");
        black_box(self.hub.handle_effect(self.now, effect));
        assert!(self.shard.poll_effect().is_none(), "a turn has one effect");
    }

    /// Writes until nothing waits, and gives `note` each connection that was written to.
    pub(crate) fn flush(&mut self, mut note: impl FnMut(ConnId, SocketAction)) {
        while let Some((id, socket, queue)) = self.hub.poll_flush() {
            let written = socket.write(queue);
            let action = self.hub.handle_written(self.now, id, written);
            note(id, action);
        }
        self.hub.handle_flushed(self.now.instant);
    }

    pub(crate) fn deliveries(&self) -> u64 {
        self.hub.counters().deliveries
    }
}

/// Makes `head` the request head of an upgrade on `/ws`.
pub(crate) fn put_upgrade_head(head: &mut String, query: std::fmt::Arguments<'_>) {
    head.clear();
    write!(
        head,
        "GET /ws?{query} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Version: 13\r\n\r\n"
    )
    .expect("a string takes everything");
}

/// A socket of the size of the daemon's that takes everything at once.
#[derive(Debug, Default)]
pub(crate) struct FakeSocket {
    taken_bytes: u64,
}

impl FakeSocket {
    fn write(&mut self, queue: &mut SendQueue) -> Written {
        // As the real socket does: one piece is written as it is.
        let bytes = match queue.lone_piece() {
            Some(piece) => black_box(piece).len(),
            None => {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let filled = queue.fill(&mut slices);
                black_box(&slices[..filled])
                    .iter()
                    .map(|slice| slice.len())
                    .sum()
            }
        };
        queue.advance(bytes);
        self.taken_bytes += bytes as u64;
        Written::Bytes {
            bytes,
            is_blocked: false,
        }
    }
}

/// Pieces offered to one write, as the loop does.
const SLICES: usize = 32;

const ONLY_WORKER: usize = 0;

//! A network between browser and daemon that can fail.
//!
//! Owns: a listener on a port of its own, and both ends of every connection it has passed on.
//! Never: reads what it passes on, or brings back a connection that it has cut.
//!
//! Its threads end with their connections, and the one that accepts with the process.

#![allow(dead_code, reason = "each test binary uses its own part of the relay")]

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::harness::wait_until;

/// A TCP relay to one address.
pub(crate) struct Relay {
    addr: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    is_cut: bool,
    /// Another server than the first.
    server: Option<SocketAddr>,
    /// Both ends of what was passed on.
    ends: Vec<TcpStream>,
    refused: usize,
}

impl Relay {
    pub(crate) fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("a bound socket has one");
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                // Whoever has left before being accepted needs nothing.
                let Ok(client) = client else { continue };
                let mut state = lock(&shared);
                if state.is_cut {
                    state.refused += 1;
                } else if let Ok(ends) = pass_on(client, state.server.unwrap_or(server)) {
                    state.ends.extend(ends);
                }
            }
        });
        Self { addr, state }
    }

    /// Where clients connect to.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Cuts every connection, and drops each new one until [`Self::mend`].
    pub(crate) fn cut(&self) {
        let mut state = lock(&self.state);
        state.is_cut = true;
        for end in state.ends.drain(..) {
            // One of the two sides may have hung up already.
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn mend(&self) {
        lock(&self.state).is_cut = false;
    }

    /// Passes further connections on to another server.
    pub(crate) fn turn_to(&self, server: SocketAddr) {
        lock(&self.state).server = Some(server);
    }

    /// Waits until at least `count` connections were dropped unheard.
    pub(crate) fn wait_refused(&self, count: usize) {
        wait_until("the next attempt to connect", || {
            lock(&self.state).refused >= count
        });
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Connects `client` with `server` in both directions, and returns both ends.
fn pass_on(client: TcpStream, server: SocketAddr) -> io::Result<[TcpStream; 2]> {
    let server = TcpStream::connect(server)?;
    let ends = [client.try_clone()?, server.try_clone()?];
    copy(client.try_clone()?, server.try_clone()?);
    copy(server, client);
    Ok(ends)
}

/// Copies one direction until it ends, and then ends it on the other side.
fn copy(mut from: TcpStream, mut to: TcpStream) {
    std::thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
}

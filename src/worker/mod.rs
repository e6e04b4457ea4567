//! Worker threads: each runs one room shard over one bounded queue of jobs.
//!
//! Floor 3. The only code that spawns worker threads. Knows nothing of sockets or protocols.

mod bell;
mod broker_ends;
mod mailbox;
mod pool;
mod sync;

pub(crate) use bell::Bell;
pub(crate) use broker_ends::BrokerEnds;
pub(crate) use mailbox::{Mailbox, mailbox};
pub(crate) use pool::Pool;

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::base::{CloseReason, ConnId, RoomName};
    use crate::exchange::Effect;

    #[test]
    fn only_a_sleeper_is_woken_and_nobody_sleeps_over_a_call() {
        let mut poll = mio::Poll::new().expect("a poll");
        let waker = mio::Waker::new(poll.registry(), mio::Token(7)).expect("a waker");
        let (effects, mailbox) = mailbox(8, &Bell::new(Arc::new(waker)));
        let mut events = mio::Events::with_capacity(8);
        let mut is_woken = || {
            let now = Some(Duration::ZERO);
            poll.poll(&mut events, now).expect("a poll");
            !events.is_empty()
        };
        effects.call();
        assert!(!is_woken(), "the loop is awake");
        assert!(
            !mailbox.bell().try_sleep(),
            "it was called and has not looked"
        );
        mailbox.bell().begin_look();
        effects.call();
        assert!(
            !mailbox.bell().try_sleep(),
            "it was called after it had begun to look"
        );
        mailbox.bell().begin_look();
        assert!(mailbox.bell().try_sleep());
        effects.call();
        assert!(is_woken(), "it sleeps");
        effects.call();
        assert!(!is_woken(), "a wake-up is on its way already");
        mailbox.bell().note_awake();
        mailbox.bell().begin_look();
        assert!(mailbox.bell().try_sleep());
        effects.fail();
        assert!(is_woken() && mailbox.bell().has_failed());
    }

    /// Senders and a loop that sleeps only in `poll`: every effect must arrive without a time-out.
    #[test]
    fn no_wake_up_is_lost() {
        const TOKEN: mio::Token = mio::Token(7);
        let mut poll = mio::Poll::new().expect("a poll");
        let waker = Arc::new(mio::Waker::new(poll.registry(), TOKEN).expect("a waker"));
        let (effects, mailbox) = mailbox(8, &Bell::new(waker));
        let (threads, each) = (3, 2000);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                let effects = effects.clone();
                scope.spawn(move || {
                    for _ in 0..each {
                        let (conn, reason) = (ConnId::NONE, CloseReason::ChannelLimit);
                        let room = RoomName::new("r").expect("a good name");
                        let effect = Effect::JoinRefused { conn, room, reason };
                        effects.send(effect).expect("the mailbox is there");
                        effects.call();
                    }
                });
            }
            let mut events = mio::Events::with_capacity(8);
            let mut received = 0;
            while received < threads * each {
                if mailbox.bell().try_sleep() {
                    let deadline = Some(Duration::from_secs(20));
                    poll.poll(&mut events, deadline).expect("a poll");
                    assert!(
                        !events.is_empty(),
                        "a wake-up was lost after {received} effects"
                    );
                    mailbox.bell().note_awake();
                }
                mailbox.bell().begin_look();
                while mailbox.poll().is_some() {
                    received += 1;
                }
            }
        });
        assert!(mailbox.is_empty());
    }
}

//! The bell and the mailbox in the orders of events: no loop sleeps over what was left for it.
//!
//! The files are those of the daemon, `src/worker/bell.rs` and `src/worker/mailbox.rs`; what they are
//! made of comes from `bell_loom/sync.rs`. loom runs each scenario again and again, until every order
//! of its threads and every value that a load may return has had its turn; where that would take hours,
//! every order with as many forced changes of threads as the scenario says. A loop that sleeps for ever
//! is a deadlock, which loom reports.
//!
//! [`Loop::turn`] does what `net::event_loop` does with `daemon::crews::Threads`, in that order. The
//! last test runs this file again with one flaw after the other, and each must be found.

#[path = "../src/worker/bell.rs"]
#[allow(dead_code, reason = "the daemon uses more of it")]
mod bell;
#[path = "../src/worker/mailbox.rs"]
#[allow(dead_code, reason = "the daemon uses more of it")]
mod mailbox;
#[path = "bell_loom/sync.rs"]
mod sync;

/// In the place of the daemon's module, for the mailbox.
mod exchange {
    /// Sender, and number of what it has sent.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Effect(pub(crate) usize, pub(crate) usize);
}

use std::process::Command;

use loom::model::Builder;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use bell::Bell;
use exchange::Effect;
use mailbox::{Mailbox, mailbox};
use sync::{Arc, FLAW, Flaw, Receiver, Sender, Waker, bounded, has};

/// A loop, as far as it sleeps and looks.
struct Loop {
    bell: Bell,
    waker: Arc<Waker>,
}

impl Loop {
    fn new() -> Self {
        let waker = Arc::new(Waker::new());
        let bell = Bell::new(Arc::clone(&waker));
        Self { bell, waker }
    }

    /// One turn. With a backlog it does not sleep; `obey` is where it sees what the bell is not rung
    /// for, and `look` where it sees what it is.
    fn turn(&self, has_backlog: bool, obey: impl FnOnce(), look: impl FnOnce()) {
        let may_sleep = !has_backlog && (self.bell.try_sleep() || has(Flaw::SleepUnasked));
        self.waker.poll(may_sleep);
        self.bell.note_awake();
        obey();
        if has(Flaw::LookFirst) {
            look();
            self.bell.begin_look();
        } else {
            self.bell.begin_look();
            look();
        }
    }
}

/// Explores a scenario; where a bound is given, as far as that many forced changes of threads lead.
fn explore(preemptions_max: Option<usize>, scenario: fn()) {
    let mut builder = Builder::new();
    builder.preemption_bound = preemptions_max;
    builder.check(scenario);
}

/// Callers leave a mark each, which nothing but the bell puts in order, and call. The loop must see
/// all marks.
fn marks(callers: usize) {
    let this = Loop::new();
    let marks: Vec<_> = (0..callers)
        .map(|_| Arc::new(AtomicUsize::new(0)))
        .collect();
    for mark in &marks {
        let (mark, bell) = (Arc::clone(mark), this.bell.clone());
        thread::spawn(move || {
            mark.store(1, Ordering::Relaxed);
            bell.call();
        });
    }
    let mut seen = 0;
    while seen < callers {
        let look = || seen = marks.iter().map(|mark| mark.load(Ordering::Relaxed)).sum();
        this.turn(false, || (), look);
    }
}

/// One caller leaves a mark and calls, so many times.
fn marks_of_one(count: usize) {
    let this = Loop::new();
    let mark = Arc::new(AtomicUsize::new(0));
    let (theirs, bell) = (Arc::clone(&mark), this.bell.clone());
    thread::spawn(move || {
        for number in 1..=count {
            theirs.store(number, Ordering::Relaxed);
            bell.call();
        }
    });
    let mut seen = 0;
    while seen < count {
        this.turn(false, || (), || seen = mark.load(Ordering::Relaxed));
    }
}

/// A worker dies while another calls. The loop must see it, and with it what the dead has left.
fn death() {
    let this = Loop::new();
    let mark = Arc::new(AtomicUsize::new(0));
    let (theirs, bell) = (Arc::clone(&mark), this.bell.clone());
    thread::spawn(move || {
        theirs.store(1, Ordering::Relaxed);
        bell.fail();
    });
    let bell = this.bell.clone();
    thread::spawn(move || bell.call());
    while !this.bell.has_failed() {
        this.turn(false, || (), || ());
    }
    assert_eq!(
        mark.load(Ordering::Relaxed),
        1,
        "what came before its death"
    );
}

/// Senders have more for the mailbox than it holds. Each calls in the end only, and the loop takes
/// `budget` effects a turn.
fn senders(count: usize, each: usize, len_max: usize, budget: usize) {
    let this = Loop::new();
    let (effects, mailbox) = mailbox(len_max, &this.bell);
    for sender in 0..count {
        let effects = effects.clone();
        thread::spawn(move || {
            for number in 0..each {
                effects
                    .send(Effect(sender, number))
                    .expect("the mailbox is there");
            }
            effects.call();
        });
    }
    let mut received = vec![0; count];
    while received.iter().sum::<usize>() < count * each {
        this.turn(
            !mailbox.is_empty(),
            || (),
            || take(&mailbox, budget, &mut received),
        );
    }
    assert!(mailbox.poll().is_none(), "more than was sent");
}

fn take(mailbox: &Mailbox, budget: usize, received: &mut [usize]) {
    for Effect(sender, number) in std::iter::from_fn(|| mailbox.poll()).take(budget) {
        assert_eq!(number, received[sender], "effects of one sender, in order");
        received[sender] += 1;
    }
}

/// An order of the program (`net::control`), which wakes the loop whether it sleeps or not, beside an
/// effect: one waker serves both, and neither may swallow the other's wake-up.
fn an_order_beside() {
    let this = Loop::new();
    let (effects, mailbox) = mailbox(1, &this.bell);
    let (orders, orders_end) = bounded(1);
    let waker = Arc::clone(&this.waker);
    thread::spawn(move || order(&orders, &waker));
    thread::spawn(move || {
        effects.send(Effect(0, 0)).expect("the mailbox is there");
        effects.call();
    });
    let (mut has_order, mut received) = (false, [0]);
    while !has_order || received[0] == 0 {
        let obey = || has_order |= is_ordered(&orders_end);
        this.turn(!mailbox.is_empty(), obey, || {
            take(&mailbox, 1, &mut received)
        });
    }
}

fn order(orders: &Sender<()>, waker: &Waker) {
    if has(Flaw::WakeFirst) {
        waker.wake().expect("it is there");
    }
    orders.try_send(()).expect("a place");
    if !has(Flaw::WakeFirst) {
        waker.wake().expect("it is there");
    }
}

fn is_ordered(orders: &Receiver<()>) -> bool {
    orders.try_recv().is_ok()
}

#[test]
fn no_call_is_slept_over() {
    explore(None, || marks(1));
    explore(None, || marks_of_one(2));
    // The third can come while the loop takes note of the second.
    explore(Some(PREEMPTIONS), || marks_of_one(3));
}

#[test]
fn no_call_of_two_is_slept_over() {
    explore(Some(PREEMPTIONS), || marks(2));
}

#[test]
fn a_death_is_seen() {
    explore(Some(PREEMPTIONS), death);
}

#[test]
fn a_sender_that_finds_no_room_is_not_slept_over() {
    explore(Some(PREEMPTIONS), || senders(1, 3, 1, 1));
    explore(Some(PREEMPTIONS), || senders(1, 4, 2, 2));
}

#[test]
fn two_senders_that_find_no_room_are_not_slept_over() {
    explore(Some(2), || senders(2, 1, 1, 1));
}

#[test]
fn an_order_and_an_effect_do_not_swallow_each_other() {
    explore(Some(PREEMPTIONS), an_order_beside);
}

/// Of three threads every order would take hours.
const PREEMPTIONS: usize = 3;

// --- Flaws that must be found ---------------------------------------------------------------------

/// Each flaw, and the scenario that finds it.
const FLAWS: [(Flaw, &str); 11] = [
    (Flaw::CallInTwoSteps, "no_call_is_slept_over"),
    (Flaw::SleepInTwoSteps, "no_call_is_slept_over"),
    (Flaw::AwakeUnread, "no_call_is_slept_over"),
    (Flaw::CallUnreleased, "no_call_is_slept_over"),
    (Flaw::LookUnacquired, "no_call_is_slept_over"),
    (Flaw::WakeDropped, "no_call_is_slept_over"),
    (Flaw::WakeDropped, "a_death_is_seen"),
    (
        Flaw::WaitUncalled,
        "a_sender_that_finds_no_room_is_not_slept_over",
    ),
    (Flaw::LookFirst, "no_call_is_slept_over"),
    (Flaw::SleepUnasked, "no_call_is_slept_over"),
    (
        Flaw::WakeFirst,
        "an_order_and_an_effect_do_not_swallow_each_other",
    ),
];

/// In processes of their own, since loom ends the process where it finds some deadlocks.
#[test]
fn every_flaw_is_found() {
    let mut missed = Vec::new();
    for (flaw, scenario) in FLAWS {
        let program = std::env::current_exe().expect("a test has a file");
        let output = Command::new(program)
            .args(["--exact", scenario])
            .env(FLAW, format!("{flaw:?}"))
            .env("RUST_BACKTRACE", "0")
            .output()
            .expect("this program again");
        let said =
            String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        if output.status.success() || !said.contains("deadlock; threads") {
            missed.push((flaw, scenario, said.into_owned()));
        }
    }
    assert!(missed.is_empty(), "not found: {missed:#?}");
}

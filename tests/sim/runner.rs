//! Runs many seeds on all cores, and says of one that fails what is to be known: its number, the few
//! steps that are enough, what each of them did, and what did not hold.
//!
//! `ROOMCAST_SIM_SEEDS=N` sets how many seeds are run, from `ROOMCAST_SIM_FROM` on.
//! `ROOMCAST_SIM_SEED=S` runs one of them and says what it does; `ROOMCAST_SIM_STEPS=3,8,120-140` runs
//! only these steps of it. `ROOMCAST_SIM_SHRINK=S` is how many seconds may be spent on leaving out
//! steps of one that fails.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use roomcast::base::Prng;

use super::shrink::{from_text, shrink, to_text};
use super::trace;

/// A simulation that is run for many seeds.
pub(crate) struct Scenario<'a> {
    /// The name of the test.
    pub(crate) name: &'a str,
    /// How many steps it has.
    pub(crate) steps: u32,
    /// How many seeds are run if nothing else is said.
    pub(crate) seeds: u64,
    /// Does these steps of a seed, and panics if something does not hold.
    pub(crate) run: &'a (dyn Fn(u64, &[u32]) + Sync),
}

/// What did not hold.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) location: String,
    pub(crate) message: String,
}

thread_local! {
    /// Whether a panic on this thread is somebody's to judge, and not the end.
    static IS_WATCHED: Cell<bool> = const { Cell::new(false) };
    static FAILURE: RefCell<Option<Failure>> = const { RefCell::new(None) };
}

impl Scenario<'_> {
    /// Runs what the environment asks for.
    ///
    /// # Panics
    /// If something does not hold in one of the seeds.
    pub(crate) fn check(&self) {
        let Some(seed) = number("ROOMCAST_SIM_SEED") else {
            let from = number("ROOMCAST_SIM_FROM").unwrap_or(0);
            let seeds = number("ROOMCAST_SIM_SEEDS").unwrap_or(self.seeds);
            if let Some(seed) = self.first_to_fail(from, seeds) {
                self.explain(seed, self.all());
            }
            return;
        };
        match std::env::var("ROOMCAST_SIM_STEPS") {
            Ok(text) => {
                let steps = from_text(&text).unwrap_or_else(|| {
                    panic!("ROOMCAST_SIM_STEPS must be like 3,8,120-140, not {text:?}")
                });
                let (failure, told) = self.trace(seed, &steps);
                eprintln!("{}", told.join("\n"));
                if let Some(Failure { location, message }) = failure {
                    panic!("{location}: {message}");
                }
            }
            Err(_) if self.fails(seed, &self.all()).is_some() => self.explain(seed, self.all()),
            Err(_) => eprintln!("{}", self.trace(seed, &self.all()).1.join("\n")),
        }
    }

    /// Whether no fewer seeds are run than by default, so that all must have happened that can.
    pub(crate) fn is_whole(&self) -> bool {
        let seeds = number("ROOMCAST_SIM_SEEDS").unwrap_or(self.seeds);
        number("ROOMCAST_SIM_SEED").is_none() && seeds >= self.seeds
    }

    /// The smallest seed that fails, of `seeds` from `from` on.
    fn first_to_fail(&self, from: u64, seeds: u64) -> Option<u64> {
        let (next, failed) = (AtomicU64::new(from), AtomicU64::new(u64::MAX));
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let all = self.all();
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= from + seeds || seed > failed.load(Ordering::Relaxed) {
                            break;
                        }
                        if self.fails(seed, &all).is_some() {
                            failed.fetch_min(seed, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        Some(failed.into_inner()).filter(|seed| *seed < u64::MAX)
    }

    /// Says what is to be known of a seed that fails.
    fn explain(&self, seed: u64, steps: Vec<u32>) -> ! {
        let first = self.fails(seed, &steps);
        let first = first.expect("the same code does the same again");
        let seconds = number("ROOMCAST_SIM_SHRINK").unwrap_or(20);
        let until = Instant::now() + Duration::from_secs(seconds);
        let few = self.shrink(seed, steps, &first, until);
        let (failure, told) = self.trace(seed, &few);
        let Failure { location, message } = failure.expect("it fails with these steps");
        let (name, text) = (self.name, to_text(&few));
        eprintln!("{}", told.join("\n"));
        panic!(
            "seed {seed} fails in {few_len} of {all_len} steps, as above: {location}: {message}\n\
             to run them again: ROOMCAST_SIM_SEED={seed} ROOMCAST_SIM_STEPS={text} \
             cargo test --test {file} {name}",
            file = env!("CARGO_CRATE_NAME"),
            few_len = few.len(),
            all_len = self.steps,
        );
    }

    /// The fewest steps that were found which fail in the same place.
    pub(crate) fn shrink(
        &self,
        seed: u64,
        steps: Vec<u32>,
        first: &Failure,
        until: Instant,
    ) -> Vec<u32> {
        shrink(steps, until, |fewer| {
            let failure = self.fails(seed, fewer);
            failure.is_some_and(|failure| failure.location == first.location)
        })
    }

    /// What does not hold in these steps of a seed.
    pub(crate) fn fails(&self, seed: u64, steps: &[u32]) -> Option<Failure> {
        attempt(|| (self.run)(seed, steps))
    }

    /// The same, with what happens, in words.
    pub(crate) fn trace(&self, seed: u64, steps: &[u32]) -> (Option<Failure>, Vec<String>) {
        trace::start();
        let failure = self.fails(seed, steps);
        (failure, trace::take())
    }

    pub(crate) fn all(&self) -> Vec<u32> {
        (0..self.steps).collect()
    }
}

/// What a step draws from, whatever other steps there are.
pub(crate) fn prng_of(seed: u64, step: u32) -> Prng {
    // Two generators that begin near each other are not to meet.
    let mut of_step = Prng::new(!u64::from(step));
    Prng::new(Prng::new(seed).next_u64() ^ of_step.next_u64())
}

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| {
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} must be a number, not {value:?}"))
    })
}

/// Does something, and returns how it has panicked, if it has.
fn attempt(act: impl FnOnce()) -> Option<Failure> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !IS_WATCHED.get() {
                return others(info);
            }
            let location = info.location().map(ToString::to_string).unwrap_or_default();
            let payload = info.payload();
            let message = (payload.downcast_ref::<String>().cloned())
                .or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string))
                .unwrap_or_default();
            FAILURE.set(Some(Failure { location, message }));
        }));
    });
    let before = IS_WATCHED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(act));
    IS_WATCHED.set(before);
    let failure = FAILURE.take();
    assert_eq!(outcome.is_err(), failure.is_some());
    failure
}

//! What the loop needs of those who do its jobs, be they threads or itself.

use crate::base::{Instant, Now};
use crate::exchange::{Effect, Job};

/// The workers, as the loop sees them. Nothing here waits.
pub(crate) trait Crew {
    /// Number of workers.
    fn len(&self) -> usize;

    /// How many jobs a worker can be handed now.
    fn free(&self, worker: usize) -> usize;

    /// How many jobs a worker has, waiting or being done.
    fn queued(&self, worker: usize) -> usize;

    /// How many effects wait for the loop.
    fn effects_len(&self) -> usize;

    /// Takes a job to be handed over. There is room, as [`Crew::free`] said before.
    fn hand_over(&mut self, now: Now, worker: usize, job: Job);

    /// These were all jobs of this turn: hands them over.
    fn end_of_jobs(&mut self, now: Now);

    /// The next effect.
    fn poll_effect(&mut self) -> Option<Effect>;

    /// The loop has nothing to do and wants to sleep. Returns whether it may: nothing has come since
    /// [`Crew::end_of_jobs`], and whatever comes now wakes it.
    fn try_sleep(&mut self) -> bool;

    /// The loop does not sleep, or no longer, and is going to look.
    fn note_awake(&mut self);

    /// Whether [`Crew::poll_effect`] has something to give.
    fn has_effects(&self) -> bool;

    /// When [`Crew::end_of_jobs`] must be called again although no job has come.
    fn poll_timeout(&self) -> Option<Instant>;

    /// Whether a worker has died, so that nothing can go on.
    fn has_failed(&self) -> bool;
}

//! The limit on open files: raised as far as it goes, and the connection bounds fitted into it.
//!
//! Owns: the arithmetic that shares descriptors among connections, refusals, the admin listener
//! and the daemon itself.
//! Never: counts descriptors while running; a process can still meet the limit (files opened by
//! libraries, inherited descriptors), and accepting pauses then.
//!
//! The arithmetic, for a limit of L descriptors:
//!
//! ```text
//! own         = min(64, L / 2)                  listeners, poll, waker, signals, stdio, spare
//! left        = L - own
//! refusals    = min(refusals_max, left / 8)     at least 1 unless none are wanted
//! admin       = min(admin_connections_max, left / 8)            likewise
//! connections = min(connections_max, left - refusals - admin)   at least 1
//! ```
//!
//! Nothing changes where all of it fits as it is. With 1024 descriptors that leaves 776
//! connections, with 64 it leaves 24; from about 4000 on, only the 384 of own, refusals and admin
//! connections are set aside.

use std::fmt::Write as _;

use rlimit::Resource;

use crate::base::Limits;

/// Descriptors the daemon needs for itself: 3 standard streams, up to 17 listeners, poll, waker,
/// signal pipe, and as many again for what is opened in passing or was inherited.
const OWN_DESCRIPTORS: usize = 64;

/// Raises the soft limit on open files to the hard one and lowers `limits` to what fits.
///
/// Returns the warning to log where a bound was lowered or the limit could not be read or raised.
#[must_use = "the warning is for the log"]
pub fn raise_and_fit(limits: &mut Limits) -> Option<String> {
    let raised = rlimit::increase_nofile_limit(u64::MAX);
    let found = match &raised {
        Ok(limit) => Ok(*limit),
        // It could not be raised, but what there is still counts.
        Err(_) => Resource::NOFILE.get_soft(),
    };
    let mut warnings = Vec::new();
    if let Err(error) = raised {
        warnings.push(format!("the file limit could not be raised: {error}"));
    }
    match found {
        Ok(limit) => warnings.extend(fit(limits, usize::try_from(limit).unwrap_or(usize::MAX))),
        Err(error) => warnings.push(format!("the file limit could not be read: {error}")),
    }
    (!warnings.is_empty()).then(|| warnings.join("; "))
}

/// Fits `limits` into `descriptors` and says what was lowered.
fn fit(limits: &mut Limits, descriptors: usize) -> Option<String> {
    let wanted = [
        OWN_DESCRIPTORS,
        limits.refusals_max,
        limits.admin_connections_max,
        limits.connections_max,
    ];
    if wanted.into_iter().fold(0, usize::saturating_add) <= descriptors {
        return None;
    }
    let own = OWN_DESCRIPTORS.min(descriptors / 2);
    let left = descriptors - own;
    let share = (left / 8).max(1);
    let refusals = limits.refusals_max.min(share);
    let admin = limits.admin_connections_max.min(share);
    let room = left.saturating_sub(refusals + admin).max(1);
    let connections = limits.connections_max.min(room);

    let mut lowered = String::new();
    for (name, bound, fitting) in [
        (
            "--max-connections",
            &mut limits.connections_max,
            connections,
        ),
        ("refusals in flight", &mut limits.refusals_max, refusals),
        (
            "admin connections",
            &mut limits.admin_connections_max,
            admin,
        ),
    ] {
        if *bound > fitting {
            let separator = if lowered.is_empty() { "" } else { ", " };
            // Writing to a string cannot fail.
            let _ = write!(
                lowered,
                "{separator}{name} lowered from {bound} to {fitting}"
            );
            *bound = fitting;
        }
    }
    (!lowered.is_empty()).then(|| {
        format!(
            "the file limit of {descriptors} is too low: {lowered}; {own} files kept for other use"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(connections_max: usize) -> Limits {
        Limits {
            connections_max,
            ..Limits::default()
        }
    }

    #[test]
    fn shares_by_limit() {
        // Connections wanted, descriptors; then connections, refusals, admin connections.
        for (wanted, descriptors, expected) in [
            (100_000, 1 << 20, (100_000, 64, 256)),
            (100_000, 100_384, (100_000, 64, 256)),
            (100_000, 100_383, (99_999, 64, 256)),
            (100_000, 4096, (3712, 64, 256)),
            (100_000, 1024, (776, 64, 120)),
            (640, 1024, (640, 64, 256)),
            (641, 1024, (641, 64, 120)),
            (100_000, 256, (144, 24, 24)),
            (100_000, 64, (24, 4, 4)),
            (10, 64, (10, 4, 4)),
            (usize::MAX, 64, (24, 4, 4)),
            (usize::MAX, usize::MAX - 1, (usize::MAX - 385, 64, 256)),
            (usize::MAX, usize::MAX, (usize::MAX, 64, 256)),
            (100_000, 8, (2, 1, 1)),
            (100_000, 1, (1, 1, 1)),
            (100_000, 0, (1, 1, 1)),
        ] {
            let mut limits = limits(wanted);
            let warning = fit(&mut limits, descriptors);
            let found = (
                limits.connections_max,
                limits.refusals_max,
                limits.admin_connections_max,
            );
            assert_eq!(found, expected, "{wanted} in {descriptors}");
            assert_eq!(warning.is_some(), found != (wanted, 64, 256), "{warning:?}");
        }
    }

    #[test]
    fn what_is_granted_fits_and_grows_with_the_limit() {
        let mut before = 0;
        for descriptors in 8..5000 {
            let mut limits = limits(100_000);
            let _ = fit(&mut limits, descriptors);
            let granted =
                limits.connections_max + limits.refusals_max + limits.admin_connections_max;
            assert!(
                granted + descriptors.min(128) / 2 <= descriptors + 1,
                "{descriptors}"
            );
            assert!(limits.connections_max + 1 >= before, "{descriptors}");
            before = limits.connections_max;
        }
    }

    #[test]
    fn the_warning_names_the_option_and_both_values() {
        let warning = fit(&mut limits(100_000), 1024).expect("the limit is too low");
        assert_eq!(
            warning,
            "the file limit of 1024 is too low: --max-connections lowered from 100000 to 776, \
             admin connections lowered from 256 to 120; 64 files kept for other use"
        );
    }

    #[test]
    fn bounds_that_are_zero_stay_zero() {
        let mut limits = Limits {
            refusals_max: 0,
            admin_connections_max: 0,
            ..limits(1000)
        };
        assert!(fit(&mut limits, 128).is_some());
        assert_eq!(limits.connections_max, 64);
        assert_eq!((limits.refusals_max, limits.admin_connections_max), (0, 0));
    }

    #[test]
    fn the_limit_of_this_process_is_raised() {
        let mut limits = limits(1);
        let _ = raise_and_fit(&mut limits);
        assert_eq!(limits.connections_max, 1);
        let (soft, hard) = Resource::NOFILE.get().expect("the limit can be read");
        assert_eq!(soft, hard);
    }
}

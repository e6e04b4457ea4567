//! From the steps of a run that fails to few of them that fail as well.
//!
//! Leaves out runs of steps, first long ones, then ever shorter ones down to single steps, for as
//! long as something can be left out (A. Zeller and R. Hildebrandt, "Simplifying and Isolating
//! Failure-Inducing Input", 2002). That works because each step draws from a generator of its own: a
//! step that is left out changes nothing of what the others draw.

use std::time::Instant;

/// The fewest of `steps` that were found until `until` for which `still_fails` holds; it holds for
/// all of them.
pub(crate) fn shrink(
    mut steps: Vec<u32>,
    until: Instant,
    mut still_fails: impl FnMut(&[u32]) -> bool,
) -> Vec<u32> {
    let mut chunk_len = steps.len().div_ceil(2).max(1);
    loop {
        let mut has_shrunk = false;
        let mut end = steps.len();
        // From the end, since what comes after the failure is not needed at all.
        while end > 0 {
            if Instant::now() >= until {
                return steps;
            }
            let begin = end.saturating_sub(chunk_len);
            let fewer = [&steps[..begin], &steps[end..]].concat();
            if still_fails(&fewer) {
                steps = fewer;
                has_shrunk = true;
            }
            end = begin;
        }
        if chunk_len == 1 && !has_shrunk {
            return steps;
        }
        chunk_len = chunk_len.div_ceil(2);
    }
}

/// Writes steps as `3,8,120-140`.
pub(crate) fn to_text(steps: &[u32]) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for step in steps {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *step => *last = *step,
            _ => ranges.push((*step, *step)),
        }
    }
    let texts = ranges.into_iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    texts.collect::<Vec<_>>().join(",")
}

/// Reads what [`to_text`] writes; `None` for anything else.
pub(crate) fn from_text(text: &str) -> Option<Vec<u32>> {
    let mut steps = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        steps.extend(first.trim().parse().ok()?..=last.trim().parse::<u32>().ok()?);
    }
    Some(steps)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn what_is_needed_together_is_all_that_stays() {
        for needed in [&[][..], &[0], &[599], &[7, 8, 9], &[3, 200, 201, 598]] {
            let mut tries = 0;
            let kept = shrink((0..600).collect(), soon(), |steps| {
                tries += 1;
                needed.iter().all(|step| steps.contains(step))
            });
            assert_eq!(kept, needed);
            assert!(tries < 300, "{tries} tries for {needed:?}");
        }
    }

    #[test]
    fn what_does_not_shrink_stays_whole_and_time_is_kept() {
        let all: Vec<u32> = (0..50).collect();
        assert_eq!(shrink(all.clone(), soon(), |_| false), all);
        assert_eq!(shrink(all.clone(), Instant::now(), |_| true), all);
    }

    #[test]
    fn steps_are_read_as_they_are_written() {
        for (steps, text) in [
            (&[][..], ""),
            (&[3], "3"),
            (&[3, 8, 120, 121, 122], "3,8,120-122"),
            (&[0, 1], "0-1"),
        ] {
            assert_eq!(to_text(steps), text);
            assert_eq!(from_text(text).as_deref(), Some(steps));
        }
        for text in ["x", "1-", "-1", "1,,x"] {
            assert_eq!(from_text(text), None, "{text}");
        }
    }
}

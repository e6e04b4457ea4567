//! Counts, rates, durations and sizes as the command line has them, and the rule that each breaks.

use std::time::Duration;

use super::cli::Switchable;

/// Longest duration that can be given. Far beyond use, and far from where adding it to a clock
/// reading could overflow.
const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

pub(super) const COUNT_RULE: &str = "must be a whole number";
const COUNT_OR_OFF_RULE: &str = "must be a whole number or \"off\"";
pub(super) const DURATION_RULE: &str =
    "must be a whole number with a unit: ms, s, m or h, for example 500ms or 10s";
const DURATION_OR_OFF_RULE: &str =
    "must be \"off\" or a whole number with a unit: ms, s, m or h, for example 500ms or 10s";
pub(super) const DURATION_MAX_RULE: &str = "must be at most 8760h";
pub(super) const SIZE_RULE: &str =
    "must be a whole number of bytes, or one with a unit: B, KiB, MiB, GiB, KB, MB or GB";
const SIZE_OR_OFF_RULE: &str = "must be \"off\" or a whole number of bytes, or one with a unit: B, KiB, MiB, GiB, KB, MB or GB";
const TOO_LARGE: &str = "is too large a number";

pub(super) fn parse_count(text: &str) -> Result<usize, &'static str> {
    count(text, COUNT_RULE)
}

pub(super) fn parse_count_or_off(text: &str) -> Result<usize, &'static str> {
    match text {
        "off" => Ok(0),
        _ => count(text, COUNT_OR_OFF_RULE),
    }
}

pub(super) fn parse_rate(text: &str) -> Result<u32, &'static str> {
    u32::try_from(parse_count(text)?).map_err(|_| TOO_LARGE)
}

pub(super) fn parse_rate_or_off(text: &str) -> Result<u32, &'static str> {
    u32::try_from(parse_count_or_off(text)?).map_err(|_| TOO_LARGE)
}

pub(super) fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    duration(text, DURATION_RULE)
}

pub(super) fn parse_duration_or_off(text: &str) -> Result<Switchable<Duration>, &'static str> {
    let duration = parse_batch_interval(text)?;
    Ok((!duration.is_zero()).then_some(duration))
}

/// Where off and zero are the same.
pub(super) fn parse_batch_interval(text: &str) -> Result<Duration, &'static str> {
    match text {
        "off" => Ok(Duration::ZERO),
        _ => duration(text, DURATION_OR_OFF_RULE),
    }
}

pub(super) fn parse_size_or_off(text: &str) -> Result<Switchable<usize>, &'static str> {
    let size = match text {
        "off" => 0,
        _ => parse_size(text).map_err(|rule| {
            if rule == SIZE_RULE {
                SIZE_OR_OFF_RULE
            } else {
                rule
            }
        })?,
    };
    Ok((size > 0).then_some(size))
}

pub(super) fn parse_size(text: &str) -> Result<usize, &'static str> {
    let (number, unit) = leading_number(text, SIZE_RULE)?;
    let scale: u64 = match unit {
        "" | "B" => 1,
        "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(SIZE_RULE),
    };
    let bytes = number.checked_mul(scale).ok_or(TOO_LARGE)?;
    usize::try_from(bytes).map_err(|_| TOO_LARGE)
}

fn count(text: &str, rule: &'static str) -> Result<usize, &'static str> {
    match leading_number(text, rule)? {
        (number, "") => usize::try_from(number).map_err(|_| TOO_LARGE),
        _ => Err(rule),
    }
}

fn duration(text: &str, rule: &'static str) -> Result<Duration, &'static str> {
    let (number, unit) = leading_number(text, rule)?;
    let scale_ms: u64 = match unit {
        "" if number == 0 => 1,
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(rule),
    };
    let milliseconds = number.checked_mul(scale_ms).ok_or(DURATION_MAX_RULE)?;
    Some(Duration::from_millis(milliseconds))
        .filter(|duration| *duration <= DURATION_MAX)
        .ok_or(DURATION_MAX_RULE)
}

/// Splits digits from what follows them. Signs, spaces and fractions are not digits.
fn leading_number<'t>(text: &'t str, rule: &'static str) -> Result<(u64, &'t str), &'static str> {
    let digits_len = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, rest) = text.split_at(digits_len);
    if digits.is_empty() {
        return Err(rule);
    }
    // Digits only, so the one way to fail is to be too large.
    let number = digits.parse().map_err(|_| TOO_LARGE)?;
    Ok((number, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, expected) in [
            ("0", Ok(0)),
            ("0ms", Ok(0)),
            ("1ms", Ok(1)),
            ("500ms", Ok(500)),
            ("10s", Ok(10_000)),
            ("2m", Ok(120_000)),
            ("1h", Ok(3_600_000)),
            ("007s", Ok(7000)),
            ("8760h", Ok(31_536_000_000)),
            ("31536000001ms", Err(DURATION_MAX_RULE)),
            ("8761h", Err(DURATION_MAX_RULE)),
            ("18446744073709551615ms", Err(DURATION_MAX_RULE)),
            ("18446744073709551615h", Err(DURATION_MAX_RULE)),
            ("18446744073709551616ms", Err(TOO_LARGE)),
            ("10", Err(DURATION_RULE)),
            ("", Err(DURATION_RULE)),
            ("s", Err(DURATION_RULE)),
            ("-1s", Err(DURATION_RULE)),
            ("+1s", Err(DURATION_RULE)),
            ("1.5s", Err(DURATION_RULE)),
            ("1 s", Err(DURATION_RULE)),
            ("1S", Err(DURATION_RULE)),
            ("1d", Err(DURATION_RULE)),
            ("1s1s", Err(DURATION_RULE)),
            ("off", Err(DURATION_RULE)),
            ("١s", Err(DURATION_RULE)),
        ] {
            assert_eq!(
                parse_duration(text),
                expected.map(Duration::from_millis),
                "{text:?}"
            );
        }
        for (text, expected) in [
            ("off", Ok(None)),
            ("0", Ok(None)),
            ("0h", Ok(None)),
            ("1ms", Ok(Some(Duration::from_millis(1)))),
            ("OFF", Err(DURATION_OR_OFF_RULE)),
            ("54", Err(DURATION_OR_OFF_RULE)),
        ] {
            assert_eq!(parse_duration_or_off(text), expected, "{text:?}");
        }
    }

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("0", Ok(0)),
            ("65536", Ok(65_536)),
            ("512B", Ok(512)),
            ("64KiB", Ok(65_536)),
            ("1MiB", Ok(1 << 20)),
            ("1GiB", Ok(1 << 30)),
            ("64KB", Ok(64_000)),
            ("1MB", Ok(1_000_000)),
            ("1GB", Ok(1_000_000_000)),
            ("17179869183GiB", Ok(17_179_869_183 << 30)),
            ("17179869184GiB", Err(TOO_LARGE)),
            ("18446744073709551616", Err(TOO_LARGE)),
            ("-1", Err(SIZE_RULE)),
            ("1.5MiB", Err(SIZE_RULE)),
            ("64K", Err(SIZE_RULE)),
            ("64kib", Err(SIZE_RULE)),
            ("64 KiB", Err(SIZE_RULE)),
            ("KiB", Err(SIZE_RULE)),
            ("", Err(SIZE_RULE)),
            ("off", Err(SIZE_RULE)),
        ] {
            assert_eq!(parse_size(text), expected, "{text:?}");
        }
    }

    #[test]
    fn counts() {
        for (text, expected) in [
            ("0", Ok(0)),
            ("100000", Ok(100_000)),
            ("18446744073709551615", Ok(usize::MAX)),
            ("18446744073709551616", Err(TOO_LARGE)),
            ("-1", Err(COUNT_RULE)),
            ("+1", Err(COUNT_RULE)),
            ("1e5", Err(COUNT_RULE)),
            ("1k", Err(COUNT_RULE)),
            ("", Err(COUNT_RULE)),
            ("off", Err(COUNT_RULE)),
        ] {
            assert_eq!(parse_count(text), expected, "{text:?}");
        }
        assert_eq!(parse_count_or_off("off"), Ok(0));
        assert_eq!(parse_count_or_off("0"), Ok(0));
        assert_eq!(parse_count_or_off("7"), Ok(7));
        assert_eq!(parse_count_or_off("-7"), Err(COUNT_OR_OFF_RULE));
    }
}

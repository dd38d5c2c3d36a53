//! Durations as operators write them: a number, or a number with a unit.
//!
//! Only whole numbers; a bare number counts in the unit of its key, which is
//! milliseconds except for a few TCP keys. The invariant: no duration leaves
//! here that could overflow when it is added to the clock.

use std::time::Duration;

/// The unit of a number that has none written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// The usual one.
    Milliseconds,
    /// The TCP keys of the `[general]` table.
    Seconds,
    /// It must be written: PgBouncer has keys of the same names, in seconds.
    Named,
}

/// The longest duration accepted: a hundred years. `Instant + Duration` cannot
/// overflow with it.
pub const MAX_LENGTH: Duration = Duration::from_secs(36_500 * 24 * 3600);

/// Reads `"5s"`, `"250 ms"`, `"1H"`, `"15"`.
///
/// # Errors
/// The reason as a sentence for the operator, with the text quoted.
pub fn parse(text: &str, unit: Unit) -> Result<Duration, String> {
    let trimmed = text.trim();
    let digits = trimmed.len()
        - trimmed
            .trim_start_matches(|c: char| c.is_ascii_digit())
            .len();
    let (number, suffix) = trimmed.split_at(digits);
    let milliseconds = match suffix.trim().to_ascii_lowercase().as_str() {
        "" => match unit {
            Unit::Milliseconds => 1,
            Unit::Seconds => 1000,
            Unit::Named if number.bytes().all(|digit| digit == b'0') => 1,
            Unit::Named => return Err(lacks_unit(number)),
        },
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 3600 * 1000,
        "d" => 24 * 3600 * 1000,
        _ if trimmed.starts_with('-') => return Err("duration cannot be negative".into()),
        _ => return Err(refuse(text, unit)),
    };
    if number.is_empty() {
        return Err(refuse(text, unit));
    }
    // All digits, so the only way to fail is to be too large.
    let count: u64 = number.parse().unwrap_or(u64::MAX);
    bounded(count.checked_mul(milliseconds))
}

/// Reads a bare number in `unit`.
///
/// # Errors
/// When it is negative or longer than [`MAX_LENGTH`].
pub fn from_number(number: i128, unit: Unit) -> Result<Duration, String> {
    if number < 0 {
        return Err("duration cannot be negative".into());
    }
    let factor = match unit {
        Unit::Milliseconds => 1,
        Unit::Seconds => 1000,
        Unit::Named if number > 0 => return Err(lacks_unit(&number.to_string())),
        Unit::Named => 1,
    };
    bounded(
        u64::try_from(number)
            .ok()
            .and_then(|n| n.checked_mul(factor)),
    )
}

fn bounded(milliseconds: Option<u64>) -> Result<Duration, String> {
    match milliseconds.map(Duration::from_millis) {
        Some(duration) if duration <= MAX_LENGTH => Ok(duration),
        _ => Err("duration is too long; the longest is 36500d".into()),
    }
}

fn lacks_unit(number: &str) -> String {
    format!(
        "{number} has no unit; write \"{number}s\" for seconds, as PgBouncer counts, or \"{number}ms\" for milliseconds"
    )
}

fn refuse(text: &str, unit: Unit) -> String {
    let unit = match unit {
        Unit::Milliseconds => "milliseconds",
        Unit::Named => "a number and its unit",
        Unit::Seconds => "seconds",
    };
    let text = super::problem::quote(text);
    format!("{text} is not a duration; write {unit} or e.g. \"5s\" (units: ms, s, m, h, d)")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> Result<u128, String> {
        parse(text, Unit::Milliseconds).map(|d| d.as_millis())
    }

    #[test]
    fn every_unit_is_understood_in_any_case_and_with_blanks() {
        assert_eq!(ms("250"), Ok(250));
        assert_eq!(ms("250ms"), Ok(250));
        assert_eq!(ms(" 5 S "), Ok(5_000));
        assert_eq!(ms("10m"), Ok(600_000));
        assert_eq!(ms("1H"), Ok(3_600_000));
        assert_eq!(ms("2d"), Ok(172_800_000));
        assert_eq!(parse("5", Unit::Seconds), Ok(Duration::from_secs(5)));
        assert_eq!(parse("5ms", Unit::Seconds), Ok(Duration::from_millis(5)));
    }

    #[test]
    fn what_is_not_a_duration_is_refused_with_advice() {
        for text in ["", "s", "5 apples", "0.1ms", "100us", "5s5", "+5s", "٣s"] {
            let reason = ms(text).unwrap_err();
            assert!(
                reason.contains("is not a duration; write milliseconds or e.g. \"5s\""),
                "{reason}"
            );
        }
        assert_eq!(ms("-5s"), Err("duration cannot be negative".into()));
        assert!(from_number(-1, Unit::Milliseconds).is_err());
    }

    #[test]
    fn a_duration_that_would_overflow_the_clock_is_refused() {
        assert!(
            ms("99999999999999999999999d")
                .unwrap_err()
                .contains("too long")
        );
        assert!(ms("36501d").unwrap_err().contains("too long"));
        assert!(from_number(i128::MAX, Unit::Seconds).is_err());
        assert!(std::time::Instant::now().checked_add(MAX_LENGTH).is_some());
    }
}

//! How a value may be written: the types of the configuration language.
//!
//! Turns a node of the document into a checked [`Value`] or a reason. Knows no
//! key. The invariant: every form is accepted everywhere its kind is used, and
//! reasons quote the value only of kinds that cannot hold a secret.

use std::time::Duration;

use zeroize::Zeroizing;

use super::duration::{self, Unit};
use super::password::Password;
use super::problem::quote;
use super::raw::{Node, Tree};
use super::size;

/// What zero means for a number, a duration or a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zero {
    /// It switches the thing off.
    Off,
    /// It is a value like any other.
    Value,
    /// It is refused.
    Refused,
}

/// The ways a value can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Integer {
        /// The smallest one accepted.
        min: u64,
        /// The largest one accepted.
        max: u64,
        /// What zero means.
        zero: Zero,
    },
    /// A duration; see `duration`.
    Duration {
        /// The unit of a bare number.
        unit: Unit,
        /// What zero means.
        zero: Zero,
    },
    /// A number of bytes; see `size`.
    Size {
        /// What zero means.
        zero: Zero,
    },
    /// Any text.
    Text,
    /// A text that is not empty.
    Name,
    /// A file or directory.
    Path,
    /// A text that is never printed.
    Secret,
    /// A password as PostgreSQL stores it; see [`Password`].
    Verifier,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// File permissions, as an octal number in a text.
    Permissions,
    /// Names, as one text with commas or as an array.
    List,
    /// A table or list read by the code of its own: these words say which.
    Own(&'static str),
}

/// A number from `min` to `max`.
pub const fn integer(min: u64, max: u64) -> Kind {
    Kind::Integer {
        min,
        max,
        zero: Zero::Value,
    }
}

/// A number up to `max` where 0 means off.
pub const fn integer_or_off(max: u64) -> Kind {
    Kind::Integer {
        min: 0,
        max,
        zero: Zero::Off,
    }
}

/// A duration in milliseconds; 0 is refused.
pub const fn duration() -> Kind {
    Kind::Duration {
        unit: Unit::Milliseconds,
        zero: Zero::Refused,
    }
}

/// A duration in milliseconds; 0 is the shortest one.
pub const fn duration_from_zero() -> Kind {
    Kind::Duration {
        unit: Unit::Milliseconds,
        zero: Zero::Value,
    }
}

/// A duration in milliseconds; 0 means off.
pub const fn duration_or_off() -> Kind {
    Kind::Duration {
        unit: Unit::Milliseconds,
        zero: Zero::Off,
    }
}

/// A duration that names its unit; 0 means off.
pub const fn duration_with_unit() -> Kind {
    Kind::Duration {
        unit: Unit::Named,
        zero: Zero::Off,
    }
}

/// A duration in seconds.
pub const fn seconds(zero: Zero) -> Kind {
    Kind::Duration {
        unit: Unit::Seconds,
        zero,
    }
}

/// A number of bytes; 0 means off.
pub const fn size_or_off() -> Kind {
    Kind::Size { zero: Zero::Off }
}

/// The longest time the kernel takes for a TCP keepalive.
const KERNEL_LONGEST: Duration = Duration::from_secs(32_767);

/// The largest number of connections, processes or entries anything can have.
pub const MANY: u64 = i32::MAX as u64;

/// A checked value.
#[derive(Clone)]
pub(super) enum Value {
    /// Zero, where that means off.
    Off,
    Bool(bool),
    Number(u64),
    Duration(Duration),
    Text(Zeroizing<String>),
    List(Vec<String>),
    Password(Password),
}

impl Kind {
    /// Checks what is written.
    pub(super) fn read(&self, node: &Node) -> Result<Value, String> {
        match (self, &node.tree) {
            (Kind::Bool, Tree::Bool(bool)) => Ok(Value::Bool(*bool)),
            (Kind::Integer { min, max, zero }, Tree::Integer(number)) => {
                ranged(*number, *min, *max, *zero)
            }
            (Kind::Duration { unit, zero }, Tree::Integer(number)) => {
                timed(duration::from_number(*number, *unit)?, *unit, *zero)
            }
            (Kind::Duration { unit, zero }, Tree::Text(text)) => {
                timed(duration::parse(text, *unit)?, *unit, *zero)
            }
            (Kind::Size { zero }, Tree::Integer(number)) => {
                let number = u64::try_from(*number).map_err(|_| {
                    if *number < 0 {
                        "size cannot be negative"
                    } else {
                        "size is too large"
                    }
                })?;
                sized(number, *zero)
            }
            (Kind::Size { zero }, Tree::Text(text)) => sized(size::parse(text)?, *zero),
            (Kind::Text | Kind::Secret, Tree::Text(text)) => without_nul(text),
            (Kind::Name | Kind::Path, Tree::Text(text)) if text.is_empty() => {
                Err("must not be empty".into())
            }
            (Kind::Name | Kind::Path, Tree::Text(text)) => without_nul(text),
            (Kind::Verifier, Tree::Text(text)) => Password::configured(text).map(Value::Password),
            (Kind::OneOf(words), Tree::Text(text)) => {
                match words.iter().find(|word| word.eq_ignore_ascii_case(text)) {
                    Some(word) => Ok(Value::Text(Zeroizing::new((*word).into()))),
                    None => Err(format!(
                        "{} is not one of {}",
                        quote(text),
                        words.join(", ")
                    )),
                }
            }
            (Kind::Permissions, Tree::Text(text)) => permissions(text),
            (Kind::List, Tree::Text(text)) => {
                let words = text.split(',').map(|word| word.trim().to_string());
                listed(words.filter(|word| !word.is_empty()).collect())
            }
            (Kind::List, Tree::List(items)) => {
                let words: Result<Vec<_>, _> = items
                    .iter()
                    .map(|item| match &item.tree {
                        Tree::Text(text) => Ok(text.trim().to_string()),
                        other => Err(format!(
                            "expected a list of strings, found {} in it",
                            other.describe()
                        )),
                    })
                    .collect();
                listed(words?)
            }
            (_, found) => Err(format!(
                "expected {}, found {}",
                self.expected(),
                found.describe()
            )),
        }
    }

    fn expected(&self) -> &'static str {
        match self {
            Kind::Bool => "true or false",
            Kind::Integer { .. } => "a whole number",
            Kind::Duration { .. } => "a duration such as 500 or \"5s\"",
            Kind::Size { .. } => "a size such as 4096 or \"1MB\"",
            Kind::Permissions => "permissions such as \"0660\"",
            Kind::List => "a string or a list of strings",
            Kind::Own(words) => words,
            _ => "a string",
        }
    }
}

fn ranged(number: i128, min: u64, max: u64, zero: Zero) -> Result<Value, String> {
    match u64::try_from(number) {
        Ok(0) if zero == Zero::Off => Ok(Value::Off),
        Ok(number) if (min..=max).contains(&number) => Ok(Value::Number(number)),
        _ if max >= MANY && number < i128::from(min) => Err(format!("must be >= {min}")),
        _ => Err(format!("must be {min}-{max}")),
    }
}

fn timed(duration: Duration, unit: Unit, zero: Zero) -> Result<Value, String> {
    if unit == Unit::Seconds && duration.subsec_nanos() != 0 {
        return Err("must be whole seconds".into());
    }
    if unit == Unit::Seconds && duration > KERNEL_LONGEST {
        return Err("must be 32767 seconds or less".into());
    }
    match zero {
        Zero::Off if duration.is_zero() => Ok(Value::Off),
        Zero::Refused if duration.is_zero() => Err("must be > 0".into()),
        _ => Ok(Value::Duration(duration)),
    }
}

fn sized(bytes: u64, zero: Zero) -> Result<Value, String> {
    match zero {
        Zero::Off if bytes == 0 => Ok(Value::Off),
        Zero::Refused if bytes == 0 => Err("must be > 0".into()),
        _ => Ok(Value::Number(bytes)),
    }
}

/// A NUL byte would end the text early in a packet or a path.
fn without_nul(text: &str) -> Result<Value, String> {
    if text.contains('\0') {
        return Err("must not contain a NUL character".into());
    }
    Ok(Value::Text(Zeroizing::new(text.into())))
}

fn listed(words: Vec<String>) -> Result<Value, String> {
    match words
        .iter()
        .find(|word| word.is_empty() || word.contains(char::is_control))
    {
        Some(word) => Err(format!("{} is not a name", quote(word))),
        None => Ok(Value::List(words)),
    }
}

fn permissions(text: &str) -> Result<Value, String> {
    let digits = text.trim();
    let digits = digits
        .strip_prefix("0o")
        .or(digits.strip_prefix("0O"))
        .unwrap_or(digits);
    let octal = !digits.is_empty() && digits.bytes().all(|b| (b'0'..=b'7').contains(&b));
    match u64::from_str_radix(digits, 8) {
        Ok(mode) if octal && mode <= 0o777 => Ok(Value::Number(mode)),
        _ if octal => Err(format!("{} has bits outside 0777", quote(text))),
        _ => Err(format!(
            "{} is not an octal number; write e.g. \"0660\"",
            quote(text)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::super::raw;
    use super::*;

    fn read(kind: Kind, text: &str) -> Result<String, String> {
        kind.read(&raw::parse_value(text).unwrap())
            .map(|value| match value {
                Value::Off => "off".into(),
                Value::Bool(bool) => bool.to_string(),
                Value::Number(number) => number.to_string(),
                Value::Duration(duration) => format!("{duration:?}"),
                Value::Text(text) => text.to_string(),
                Value::List(words) => words.join("|"),
                Value::Password(_) => "password".into(),
            })
    }

    #[test]
    fn numbers_keep_to_their_range_and_zero_to_its_meaning() {
        assert_eq!(read(integer(0, 100), "100"), Ok("100".into()));
        assert_eq!(read(integer(0, 100), "101"), Err("must be 0-100".into()));
        assert_eq!(read(integer(1, MANY), "0"), Err("must be >= 1".into()));
        assert_eq!(read(integer_or_off(9), "0"), Ok("off".into()));
        assert_eq!(read(integer(1, 9), "-1"), Err("must be 1-9".into()));
        assert!(
            read(integer(1, 9), "\"5\"")
                .unwrap_err()
                .contains("found a string")
        );
        assert_eq!(read(duration(), "0"), Err("must be > 0".into()));
        assert_eq!(read(duration_or_off(), "\"0s\""), Ok("off".into()));
    }

    #[test]
    fn a_time_that_other_poolers_count_in_seconds_names_its_unit() {
        assert_eq!(read(duration_with_unit(), "\"30s\""), Ok("30s".into()));
        assert_eq!(read(duration_with_unit(), "0"), Ok("off".into()));
        for bare in ["30", "\"30\""] {
            let why = read(duration_with_unit(), bare).unwrap_err();
            assert!(why.contains("write \"30s\" for seconds"), "{why}");
        }
        assert!(read(duration_with_unit(), "-1").is_err());
    }

    #[test]
    fn times_for_the_kernel_are_whole_seconds() {
        assert_eq!(read(seconds(Zero::Off), "\"2m\""), Ok("120s".into()));
        assert_eq!(
            read(seconds(Zero::Off), "\"500ms\""),
            Err("must be whole seconds".into())
        );
        assert!(read(seconds(Zero::Off), "40000").is_err());
    }

    #[test]
    fn permissions_are_octal_text() {
        for text in ["\"600\"", "\"0600\"", "\"0o600\""] {
            assert_eq!(read(Kind::Permissions, text), Ok((0o600).to_string()));
        }
        assert!(read(Kind::Permissions, "\"\"").is_err());
        assert!(
            read(Kind::Permissions, "\"1777\"")
                .unwrap_err()
                .contains("outside 0777")
        );
        assert!(read(Kind::Permissions, "\"rw\"").is_err());
        assert!(read(Kind::Permissions, "600").is_err());
    }

    #[test]
    fn a_list_is_a_text_with_commas_or_an_array() {
        assert_eq!(
            read(Kind::List, "\"::1, 127.0.0.1\""),
            Ok("::1|127.0.0.1".into())
        );
        assert_eq!(
            read(Kind::List, "[\"::1\", \"127.0.0.1\"]"),
            Ok("::1|127.0.0.1".into())
        );
        assert_eq!(read(Kind::List, "\"\""), Ok("".into()));
        assert!(read(Kind::List, "[1]").is_err());
    }

    #[test]
    fn a_wrong_secret_is_not_quoted() {
        assert!(!read(Kind::Secret, "4711").unwrap_err().contains("4711"));
        assert!(
            !read(Kind::Verifier, "\"hunter2\"")
                .unwrap_err()
                .contains("hunter2")
        );
    }
}

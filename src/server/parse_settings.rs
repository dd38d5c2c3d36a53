//! What a statement's text means depends on settings: which schema a name is looked up in, how a constant
//! is written. PostgreSQL reads it when it parses the statement, and of that only the look-up of names is
//! done again later. So a statement belongs to the settings it was parsed under.
//!
//! Knows which settings matter and which statements may change them. Cannot see into functions: a
//! `SELECT my_function()` that calls `set_config` inside changes nothing here.

use memchr::memchr;
use serde::{Deserialize, Serialize};

use super::dirty::DirtyState;
use super::parameters::Parameters;
use super::set_commands::{Change, SetCommands, To};

/// The settings that matter, as far as a session can change them, in the spelling they compare in.
const PARSE_GUCS: [&str; 15] = [
    "array_nulls",
    "backslash_quote",
    "client_encoding",
    "datestyle",
    "default_text_search_config",
    "intervalstyle",
    "lc_monetary",
    "role",
    "search_path",
    "session_authorization",
    "standard_conforming_strings",
    "timezone",
    "timezone_abbreviations",
    "transform_null_equals",
    "xmloption",
];

/// Statements of settings longer than this together are as good as unknown, in bytes.
const MAX_KNOWN: usize = 512;

/// What the first byte of a description says: that it is one.
const DESCRIBED: u8 = b'=';
/// Or that the settings are not known, and by nobody shared.
const OWN: u8 = b'?';

/// A description of the settings that matter, to be compared.
pub fn description(reported: &Parameters, applied: &Parameters) -> Vec<u8> {
    let mut description = vec![DESCRIBED];
    for (letter, name) in (b'a'..).zip(PARSE_GUCS) {
        if let Some(value) = reported.get(name).or_else(|| applied.get(name)) {
            description.push(letter);
            description.extend_from_slice(value);
            description.push(0);
        }
    }
    description
}

/// A description of settings that are not known, by a number that nobody else has.
pub fn unknown(number: u64) -> Vec<u8> {
    [&[OWN], number.to_string().as_bytes()].concat()
}

/// Whether a description is of settings that are not known.
pub fn is_unknown(description: &[u8]) -> bool {
    description.first() == Some(&OWN)
}

/// What has been changed in the transaction that is open.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Changes {
    /// Nothing that matters.
    #[default]
    None,
    /// By these statements, whose effect is in their text.
    Known(#[serde(with = "serde_bytes")] Vec<u8>),
    /// It is not known what. The number is given when it is needed.
    Unknown(Option<u64>),
}

impl Changes {
    /// Adds what one statement has changed.
    pub fn add(&mut self, change: Changes) {
        *self = match (std::mem::take(self), change) {
            (before, Changes::None) => before,
            (Changes::None, change) => change,
            (Changes::Known(mut texts), Changes::Known(text))
                if texts.len() + text.len() < MAX_KNOWN =>
            {
                texts.push(0);
                texts.extend_from_slice(&text);
                Changes::Known(texts)
            }
            _ => Changes::Unknown(None),
        }
    }

    /// Whether there are any.
    pub fn are_any(&self) -> bool {
        *self != Changes::None
    }
}

/// What running `text` may change, where `dirty` is what it may leave behind.
pub fn changes(text: &[u8], dirty: DirtyState) -> Changes {
    let text = text.strip_suffix(b"\0").unwrap_or(text).trim_ascii();
    let text = text.strip_suffix(b";").unwrap_or(text);
    let bare = without_comment(text);
    let is_one = memchr(b';', bare).is_none();
    if defines(bare, is_one, dirty) {
        return Changes::Unknown(None);
    }
    let calls = dirty.has(DirtyState::SETTINGS) || dirty.has(DirtyState::EVERYTHING);
    if !calls && is_one && !may_change(bare) {
        return Changes::None;
    }
    if dirty.has(DirtyState::EVERYTHING) {
        return Changes::Unknown(None);
    }
    let read = SetCommands::read(bare);
    let known = |change: &Change| matches!(change, Change::One { to: To::Value, .. });
    match read.changes.as_slice() {
        [] => Changes::None,
        [only] if !matters(only) => Changes::None,
        [only] if known(only) && read.is_plain() && read.statements == 1 => {
            if bare.len() < MAX_KNOWN {
                Changes::Known(bare.to_vec())
            } else {
                Changes::Unknown(None)
            }
        }
        changes if changes.iter().any(matters) => Changes::Unknown(None),
        _ => Changes::None,
    }
}

/// Whether the text may define something that others are understood by. `is_one` says that it has no semicolon. One in
/// a constant parts statements too, which finds too much and never too little.
fn defines(text: &[u8], is_one: bool, dirty: DirtyState) -> bool {
    const DEFINING: [&str; 4] = ["create", "alter", "drop", "import"];
    let one_defines = |one: &[u8]| {
        let (word, _) = first_word(without_comment(one.trim_ascii()));
        (DEFINING.iter()).any(|defining| word.eq_ignore_ascii_case(defining.as_bytes()))
    };
    let temporary = dirty.has(DirtyState::TEMPORARY) && speaks_of_temporary(text);
    temporary
        || if is_one {
            one_defines(text)
        } else {
            text.split(|&b| b == b';').any(one_defines)
        }
}

/// Whether one statement, without the comment before it, may change a setting otherwise than by a function.
fn may_change(text: &[u8]) -> bool {
    let (word, _) = first_word(text);
    ["set", "reset", "discard", "do", "call"]
        .iter()
        .any(|one| word.eq_ignore_ascii_case(one.as_bytes()))
}

fn matters(change: &Change) -> bool {
    match change {
        Change::One { name, .. } => PARSE_GUCS.contains(&name.as_str()),
        Change::ResetAll | Change::DiscardAll | Change::Unnamed | Change::Anything => true,
    }
}

/// Whether the text has the word TEMP, TEMPORARY or the schema of temporary tables: it may define one.
fn speaks_of_temporary(text: &[u8]) -> bool {
    let in_word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_' || *b >= 128;
    text.split(|b| !in_word(b)).any(|word| {
        ["temp", "temporary"]
            .iter()
            .any(|temp| word.eq_ignore_ascii_case(temp.as_bytes()))
            || word
                .get(..7)
                .is_some_and(|begins| begins.eq_ignore_ascii_case(b"pg_temp"))
    })
}

/// Whether the text ends a transaction or goes back to a savepoint, and with it what was set.
pub fn may_take_back(text: &[u8]) -> bool {
    let (word, _) = first_word(without_comment(text.trim_ascii()));
    [&b"commit"[..], b"end", b"rollback", b"abort", b"prepare"]
        .iter()
        .any(|ends| word.eq_ignore_ascii_case(ends))
}

/// Without the comments it begins with: drivers put their marks there.
pub fn without_comment(mut text: &[u8]) -> &[u8] {
    loop {
        let ends: &[u8] = match text {
            [b'/', b'*', ..] => b"*/",
            [b'-', b'-', ..] => b"\n",
            _ => return text,
        };
        let Some(end) = text.windows(ends.len()).position(|window| window == ends) else {
            return &[];
        };
        text = text[end + ends.len()..].trim_ascii_start();
    }
}

/// The first word, without quotes, and what follows it.
fn first_word(text: &[u8]) -> (&[u8], &[u8]) {
    let text = text.trim_ascii_start();
    let text = text.strip_prefix(b"\"").unwrap_or(text);
    let in_word = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.') || *b >= 128;
    let end = text.iter().position(|b| !in_word(b)).unwrap_or(text.len());
    (&text[..end], &text[end..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::dirty;

    fn of(text: &str) -> Changes {
        changes(text.as_bytes(), dirty::of_text(text.as_bytes()))
    }

    #[test]
    fn what_a_statement_sets_is_in_its_text() {
        for text in [
            "SET search_path = a",
            "set local search_path to a, b",
            "set session \"search_path\" = a",
            "SET SCHEMA 'a'",
            "set role team",
            "set local role team",
            "set session authorization app",
            "SET NAMES 'LATIN1'",
            "set DateStyle='ISO, DMY'",
            "set timezone to 'UTC'",
            "/* app:web */ set search_path = a",
        ] {
            let bare = without_comment(text.as_bytes());
            assert_eq!(of(text), Changes::Known(bare.to_vec()), "{text}");
        }
    }

    #[test]
    fn or_it_is_not() {
        for text in [
            "reset search_path",
            "reset all",
            "set search_path from current",
            "set search_path to default",
            "set time zone local",
            "begin; set local search_path = a",
            "do $$ begin end $$",
            "call tidy_up()",
            "/* unended set search_path = a",
            "select set_config('search_path', $1, true)",
            "select set_config($1, $2, true)",
            "select set_config('app.user', 'x', true), pg_catalog.SET_CONFIG ( 'role', 'y', true)",
        ] {
            assert_eq!(of(text), Changes::Unknown(None), "{text}");
        }
    }

    #[test]
    fn most_statements_change_nothing_that_matters() {
        for text in [
            "",
            ";",
            "select 1; select 2",
            "update t set search_path = 1",
            "set statement_timeout = '5s'",
            "set local lock_timeout = 1;",
            "set transaction isolation level serializable",
            "set session characteristics as transaction read only",
            "set constraints all deferred",
            "reset statement_timeout",
            "select set_config('app.tenant', '5', true)",
            "begin; set local work_mem = '1MB'; commit",
            "dolphin",
            "--",
            "/* unended select a",
        ] {
            assert_eq!(of(text), Changes::None, "{text}");
        }
    }
}

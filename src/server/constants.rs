//! Constants whose meaning depends on when a text is analysed: `'today'::date`, `'x'::regclass`. PostgreSQL makes a
//! value of them when it parses the statement, so a client that prepares anew must not get another's.
//!
//! Finds too much rather than too little. Cannot see what type a column has: a constant that is compared with one
//! is found by the words of time in it.

/// Types whose constants depend on the time, or on what is defined, when they are read.
const TYPES: [&str; 5] = ["date", "time", "timetz", "timestamp", "timestamptz"];

/// What dates and times may say that changes from day to day.
const WORDS: [&str; 4] = ["now", "today", "tomorrow", "yesterday"];

fn in_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 128
}

/// Whether the text of this definition (the body of a Parse after the name) has such a constant.
pub fn belong_to_their_time(definition: &[u8]) -> bool {
    let end = definition.iter().position(|&b| b == 0);
    let text = &definition[..end.unwrap_or(definition.len())];
    if !text.contains(&b'\'') {
        return false;
    }
    let mut at = 0;
    let mut in_constant = false;
    while let Some(&byte) = text.get(at) {
        if byte == b'\'' {
            in_constant = !in_constant;
        }
        if !in_word(byte) {
            at += 1;
            continue;
        }
        let length = text[at..].iter().take_while(|&&b| in_word(b)).count();
        let word = &text[at..at + length];
        let is = |one: &&str| word.eq_ignore_ascii_case(one.as_bytes());
        let found = if in_constant {
            WORDS.iter().any(is)
        } else {
            let reg = word
                .get(..3)
                .is_some_and(|b| b.eq_ignore_ascii_case(b"reg"));
            (reg || TYPES.iter().any(is)) && is_of_constant(&text[..at], &text[at + length..])
        };
        if found {
            return true;
        }
        at += length;
    }
    false
}

/// Whether a type's name between these two parts of a text is that of a constant: `'x'::type`,
/// `CAST('x' AS type)`, `type 'x'`, `type (3) with time zone 'x'`.
fn is_of_constant(before: &[u8], after: &[u8]) -> bool {
    let before = before.trim_ascii_end();
    let cast = before.strip_suffix(b"::").or_else(|| {
        let (rest, word) = before.split_at_checked(before.len().checked_sub(2)?)?;
        word.eq_ignore_ascii_case(b"as").then_some(rest)
    });
    if cast.is_some_and(|of| of.trim_ascii_end().ends_with(b"'")) {
        return true;
    }
    let mut after = after.trim_ascii_start();
    if after.first() == Some(&b'(') {
        let end = after
            .iter()
            .position(|&b| b == b')')
            .map_or(after.len(), |end| end + 1);
        after = after[end..].trim_ascii_start();
    }
    let strip = |text: &[u8], word: &str| {
        let length = word.len();
        let begins = text.get(..length)?.eq_ignore_ascii_case(word.as_bytes());
        begins.then(|| text[length..].trim_ascii_start().to_vec())
    };
    let zone = (strip(after, "without").or_else(|| strip(after, "with")))
        .and_then(|rest| strip(&rest, "time"))
        .and_then(|rest| strip(&rest, "zone"));
    let after = zone.as_deref().unwrap_or(after);
    matches!(after.first(), Some(b'\'')) || matches!(after, [b'e' | b'E', b'\'', ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_of_their_time_are_found() {
        for text in [
            "select 'today'::date",
            "select date 'today'",
            "select 'x'::regclass",
            "select regtype 'x'",
            "select timestamptz 'now'",
            "select cast('now' as timestamp)",
            "select cast ( '10:00' AS timetz )",
            "select timestamp(3) with time zone '2024-01-01'",
            "select * from t where day = 'today'",
            "select * from t where day < 'Tomorrow 10:00'",
            "select DATE'2024-01-01'",
        ] {
            assert!(belong_to_their_time(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn others_are_not() {
        for text in [
            "select now()",
            "select today from t where a = 'x'",
            "select date from t where a = 'x'",
            "select $1::date, 'x'::text",
            "select a at time zone 'UTC' from t",
            "select interval '1 day'",
            "select 'nowhere', 'it''s'",
            "select regexp_replace(a, 'x', 'y')",
        ] {
            assert!(!belong_to_their_time(text.as_bytes()), "{text}");
        }
    }
}

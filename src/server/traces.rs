//! What a client leaves behind on a server connection, how that is noticed, and the smallest statement
//! that undoes it.
//!
//! Two things are watched, and neither costs a round trip: the tag of every CommandComplete, and a few
//! words in the text of every Query and Parse. When in doubt a trace is assumed. What this cannot see is
//! a change made by a function or procedure somebody else wrote, called by a name that says nothing:
//! `SELECT my_function()` that calls `set_config` inside. A `DO` block or a `CALL` is assumed to have
//! done everything. Sequence state (`currval`) and loaded libraries are left as they are.

use std::sync::OnceLock;

use aho_corasick::{AhoCorasick, MatchKind};
use serde::{Deserialize, Serialize};

/// The kinds of traces, as a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Traces(u16);

impl Traces {
    /// Nothing.
    pub const NONE: Traces = Traces(0);
    /// A setting, a role or a session authorization: SET, `set_config`.
    pub const SETTINGS: Traces = Traces(1);
    /// Statements prepared under names of the client's own.
    pub const STATEMENTS: Traces = Traces(1 << 1);
    /// A cursor was declared.
    pub const CURSORS: Traces = Traces(1 << 2);
    /// The text spoke of holding: a declared cursor may outlive its transaction.
    pub const HOLDING: Traces = Traces(1 << 3);
    /// LISTEN.
    pub const LISTENING: Traces = Traces(1 << 4);
    /// Temporary tables, or anything else in the temporary schema.
    pub const TEMPORARY: Traces = Traces(1 << 5);
    /// Advisory locks of the session.
    pub const LOCKS: Traces = Traces(1 << 6);
    /// The text spoke of a default: a SET may have gone back to one.
    pub const DEFAULTING: Traces = Traces(1 << 8);
    /// The text spoke of discarding or deallocating: prepared statements may be gone when it has run.
    pub const FORGETTING: Traces = Traces(1 << 9);
    /// Running it may change how texts are read (`reading`).
    pub const READING: Traces = Traces(1 << 10);
    /// Could be anything.
    pub const EVERYTHING: Traces = Traces(1 << 7);

    /// What is assumed where nothing is known.
    pub fn everything() -> Traces {
        Traces::EVERYTHING
    }

    /// Whether all of `other` is in this set.
    pub fn has(self, other: Traces) -> bool {
        self.0 & other.0 == other.0
    }

    /// Adds `other`.
    pub fn add(&mut self, other: Traces) {
        self.0 |= other.0;
    }

    /// Takes `other` out.
    pub fn remove(&mut self, other: Traces) {
        self.0 &= !other.0;
    }

    /// Whether the set is empty of everything that needs undoing.
    pub fn is_clean(self) -> bool {
        let mut harmless = Traces::HOLDING;
        harmless.add(Traces::CURSORS);
        harmless.add(Traces::DEFAULTING);
        harmless.add(Traces::FORGETTING);
        harmless.add(Traces::READING);
        self.0 & !harmless.0 == 0 && !self.holds_cursors()
    }

    fn holds_cursors(self) -> bool {
        self.has(Traces::CURSORS) && self.has(Traces::HOLDING)
    }

    /// Notes a CommandComplete with `tag` (without its NUL). `tame` says that the statement was seen to
    /// be a SET that cannot outlast its transaction.
    pub fn note_tag(&mut self, tag: &[u8], tame: bool) {
        // Almost all tags are of queries and need one comparison.
        match tag.first() {
            Some(b'S') if tag == b"SET" && !tame => self.add(Traces::SETTINGS),
            Some(b'P') if tag == b"PREPARE" => self.add(Traces::STATEMENTS),
            Some(b'L') if tag == b"LISTEN" => self.add(Traces::LISTENING),
            Some(b'D') => match tag {
                b"DECLARE CURSOR" => self.add(Traces::CURSORS),
                b"DO" => self.add(Traces::EVERYTHING),
                b"DISCARD ALL" => *self = Traces::NONE,
                b"DEALLOCATE ALL" => self.remove(Traces::STATEMENTS),
                _ => {}
            },
            Some(b'C') => match tag {
                b"CALL" => self.add(Traces::EVERYTHING),
                b"CLOSE CURSOR ALL" => self.remove(Traces::CURSORS),
                _ => {}
            },
            _ => {}
        }
    }

    /// The statement that undoes all of this outside a transaction block. `None` if there is nothing.
    ///
    /// With `DISCARD ALL`, PostgreSQL forgets the statements prepared on the connection; so it does with
    /// `DEALLOCATE ALL`. [`Traces::forgets_statements`] says so.
    pub fn undo(self) -> Option<String> {
        if self.is_clean() {
            return None;
        }
        if self.has(Traces::EVERYTHING) {
            return Some("DISCARD ALL".to_owned());
        }
        // In the order of DISCARD ALL's own parts (manual, DISCARD).
        let mut parts = Vec::new();
        if self.holds_cursors() {
            parts.push("CLOSE ALL");
        }
        if self.has(Traces::SETTINGS) {
            // RESET ALL leaves the role alone, and SET SESSION AUTHORIZATION resets both.
            parts.extend(["SET SESSION AUTHORIZATION DEFAULT", "RESET ALL"]);
        }
        if self.has(Traces::STATEMENTS) {
            parts.push("DEALLOCATE ALL");
        }
        if self.has(Traces::LISTENING) {
            parts.push("UNLISTEN *");
        }
        if self.has(Traces::LOCKS) {
            parts.push("SELECT pg_catalog.pg_advisory_unlock_all()");
        }
        if self.has(Traces::TEMPORARY) {
            parts.push("DISCARD TEMP");
        }
        Some(parts.join(";"))
    }

    /// Whether [`Traces::undo`] makes PostgreSQL forget all prepared statements.
    pub fn forgets_statements(self) -> bool {
        self.has(Traces::EVERYTHING) || self.has(Traces::STATEMENTS)
    }

    /// Whether [`Traces::undo`] resets the settings to those of the connection's start.
    pub fn resets_settings(self) -> bool {
        self.has(Traces::EVERYTHING) || self.has(Traces::SETTINGS)
    }
}

/// Words in a statement's text and what they are taken for.
const WORDS: [(&str, Traces); 7] = [
    ("set_config", Traces::SETTINGS),
    // pg_advisory_lock and its kin; those with _xact_ end with the transaction and do not match.
    ("advisory_lock", Traces::LOCKS),
    // CREATE TEMP, CREATE TEMPORARY, SELECT INTO TEMP, the schema pg_temp.
    ("temp", Traces::TEMPORARY),
    ("hold", Traces::HOLDING),
    ("default", Traces::DEFAULTING),
    ("discard", Traces::FORGETTING),
    ("deallocate", Traces::FORGETTING),
];

/// Bytes of the longest word, less one: what has to be remembered between two chunks of a text.
const OVERLAP: usize = 12;

fn words() -> Option<&'static AhoCorasick> {
    static AUTOMATON: OnceLock<Option<AhoCorasick>> = OnceLock::new();
    AUTOMATON
        .get_or_init(|| {
            AhoCorasick::builder()
                .ascii_case_insensitive(true)
                .match_kind(MatchKind::Standard)
                .build(WORDS.map(|(word, _)| word))
                .ok()
        })
        .as_ref()
}

/// The traces a text speaks of.
pub fn scan(text: &[u8]) -> Traces {
    let Some(automaton) = words() else {
        return Traces::EVERYTHING;
    };
    let mut found = Traces::NONE;
    for hit in automaton.find_iter(text) {
        let (word, traces) = WORDS[hit.pattern().as_usize()];
        // "template" is one thing, "attempt" another.
        let inside = hit.start() > 0 && text[hit.start() - 1].is_ascii_alphanumeric();
        if word != "temp" || !inside {
            found.add(traces);
        }
    }
    found
}

/// A text that is read in chunks: remembers the end of the last one, so that a word that is cut in two
/// is found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Scan {
    #[serde(with = "serde_bytes")]
    tail: Vec<u8>,
}

impl Scan {
    /// Reads the next chunk; `last` ends the text.
    pub fn read(&mut self, chunk: &[u8], last: bool) -> Traces {
        let mut found = scan(chunk);
        if !self.tail.is_empty() {
            let mut seam = std::mem::take(&mut self.tail);
            seam.extend_from_slice(&chunk[..chunk.len().min(OVERLAP)]);
            found.add(scan(&seam));
            self.tail = seam;
        }
        if last {
            self.tail = Vec::new();
        } else if chunk.len() >= OVERLAP {
            self.tail = chunk[chunk.len() - OVERLAP..].to_vec();
        } else {
            if self.tail.is_empty() {
                self.tail.extend_from_slice(chunk);
            }
            let excess = self.tail.len().saturating_sub(OVERLAP);
            self.tail.drain(..excess);
        }
        found
    }
}

/// Whether the text of a Query is a single SET whose effect ends with its transaction, so that its tag
/// leaves no trace: SET LOCAL, SET TRANSACTION, SET CONSTRAINTS.
pub fn is_tame_set(text: &[u8]) -> bool {
    let mut words = text
        .split(|b| b.is_ascii_whitespace())
        .filter(|word| !word.is_empty());
    if !words
        .next()
        .is_some_and(|word| word.eq_ignore_ascii_case(b"set"))
    {
        return false;
    }
    let tame = words.next().is_some_and(|word| {
        [&b"local"[..], b"transaction", b"constraints"]
            .iter()
            .any(|tame| word.eq_ignore_ascii_case(tame))
    });
    let body = text.trim_ascii_end();
    let body = body.strip_suffix(b";").unwrap_or(body);
    tame && !body.contains(&b';')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(tags: &[&str]) -> Traces {
        let mut traces = Traces::NONE;
        for tag in tags {
            traces.note_tag(tag.as_bytes(), false);
        }
        traces
    }

    #[test]
    fn ordinary_work_leaves_nothing_to_undo() {
        let traces = after(&[
            "BEGIN",
            "SELECT 1",
            "INSERT 0 1",
            "DECLARE CURSOR",
            "COMMIT",
        ]);
        assert_eq!(traces.undo(), None);
    }

    #[test]
    fn each_trace_is_undone_by_its_own_part() {
        assert_eq!(
            after(&["SET"]).undo().as_deref(),
            Some("SET SESSION AUTHORIZATION DEFAULT;RESET ALL")
        );
        assert_eq!(
            after(&["PREPARE"]).undo().as_deref(),
            Some("DEALLOCATE ALL")
        );
        assert_eq!(after(&["LISTEN"]).undo().as_deref(), Some("UNLISTEN *"));
        assert_eq!(after(&["DO"]).undo().as_deref(), Some("DISCARD ALL"));
        assert_eq!(
            scan(b"create Temp table t ()").undo().as_deref(),
            Some("DISCARD TEMP")
        );
        assert_eq!(
            scan(b"select pg_try_advisory_lock(1)").undo().as_deref(),
            Some("SELECT pg_catalog.pg_advisory_unlock_all()")
        );
        assert_eq!(scan(b"select pg_advisory_xact_lock(1)").undo(), None);
    }

    #[test]
    fn a_cursor_needs_closing_only_if_it_is_held() {
        let mut traces = scan(b"declare c cursor with hold for select 1");
        traces.note_tag(b"DECLARE CURSOR", false);
        assert_eq!(traces.undo().as_deref(), Some("CLOSE ALL"));
    }

    #[test]
    fn what_a_client_undoes_itself_is_not_undone_again() {
        assert!(after(&["SET", "LISTEN", "PREPARE", "DISCARD ALL"]).is_clean());
        assert!(after(&["PREPARE", "DEALLOCATE ALL"]).is_clean());
    }

    #[test]
    fn a_word_cut_in_two_is_found() {
        let text = b"select set_config('a', 'b', false)";
        for cut in 0..text.len() {
            for second in cut..text.len() {
                let mut scan = Scan::default();
                let mut found = scan.read(&text[..cut], false);
                found.add(scan.read(&text[cut..second], false));
                found.add(scan.read(&text[second..], true));
                assert!(found.has(Traces::SETTINGS), "cut at {cut} and {second}");
            }
        }
    }

    #[test]
    fn only_a_single_local_set_is_tame() {
        assert!(is_tame_set(b"SET LOCAL work_mem = '1MB';"));
        assert!(is_tame_set(
            b"  set transaction isolation level serializable"
        ));
        assert!(!is_tame_set(b"SET work_mem = '1MB'"));
        assert!(!is_tame_set(b"SET LOCAL a = 1; SET b = 2"));
        assert!(!is_tame_set(b"SETLOCAL x"));
    }
}

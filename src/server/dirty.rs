//! What a client leaves behind on a server connection, how that is noticed, and the smallest statement
//! that undoes it.
//!
//! Three things are watched, and none costs a round trip: the tag of every CommandComplete, a few words in
//! the text of every Query and Parse, and which function a FunctionCall calls. When in doubt a trace is assumed.
//! What this cannot see is a change made by a function or procedure somebody else wrote, called in SQL by a name
//! that says nothing: `SELECT my_function()` that calls `set_config` inside. A `DO` block or a `CALL` is assumed
//! to have done everything, and so is a FunctionCall of a function that is not known to be harmless. Sequence
//! state (`currval`), the seed of `random()` and loaded libraries are left as they are.

use std::sync::OnceLock;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use serde::{Deserialize, Serialize};

use super::set_commands::{Change, SetCommands, To};

/// The kinds of traces, as a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DirtyState(u16);

impl DirtyState {
    /// Nothing.
    pub const NONE: DirtyState = DirtyState(0);
    /// A setting, a role or a session authorization: SET, `set_config`.
    pub const SETTINGS: DirtyState = DirtyState(1);
    /// Statements prepared under names of the client's own.
    pub const STATEMENTS: DirtyState = DirtyState(1 << 1);
    /// A cursor was declared.
    pub const CURSORS: DirtyState = DirtyState(1 << 2);
    /// The text spoke of holding: a declared cursor may outlive its transaction.
    pub const HOLDING: DirtyState = DirtyState(1 << 3);
    /// LISTEN.
    pub const LISTENING: DirtyState = DirtyState(1 << 4);
    /// Temporary tables, or anything else in the temporary schema.
    pub const TEMPORARY: DirtyState = DirtyState(1 << 5);
    /// Advisory locks of the session.
    pub const LOCKS: DirtyState = DirtyState(1 << 6);
    /// Running it may bring a setting back to its default.
    pub const RESETTING: DirtyState = DirtyState(1 << 8);
    /// The text spoke of discarding or deallocating: prepared statements may be gone when it has run.
    pub const FORGETTING: DirtyState = DirtyState(1 << 9);
    /// Running it may change how texts are read (`reading`).
    pub const READING: DirtyState = DirtyState(1 << 10);
    /// The text may define something that no tag shows: SELECT INTO, CREATE TABLE AS, within EXPLAIN too.
    pub const DEFINING: DirtyState = DirtyState(1 << 11);
    /// Running it may be a COPY FROM STDIN.
    pub const COPYING_IN: DirtyState = DirtyState(1 << 12);
    /// Running it may begin a transaction block.
    pub const BEGINNING: DirtyState = DirtyState(1 << 13);
    /// Could be anything.
    pub const EVERYTHING: DirtyState = DirtyState(1 << 7);

    /// A setting may be changed, and the text does not show which.
    const SETTING_ANYTHING: DirtyState =
        DirtyState(DirtyState::EVERYTHING.0 | DirtyState::RESETTING.0);

    /// All statements may be gone, and all settings at their defaults.
    const DISCARDING: DirtyState = DirtyState(DirtyState::FORGETTING.0 | DirtyState::RESETTING.0);

    /// What is assumed where nothing is known.
    pub fn everything() -> DirtyState {
        DirtyState::EVERYTHING
    }

    /// Whether all of `other` is in this set.
    pub fn has(self, other: DirtyState) -> bool {
        self.0 & other.0 == other.0
    }

    /// Adds `other`.
    pub fn add(&mut self, other: DirtyState) {
        self.0 |= other.0;
    }

    /// Takes `other` out.
    pub fn remove(&mut self, other: DirtyState) {
        self.0 &= !other.0;
    }

    /// Whether the set is empty of everything that needs undoing.
    pub fn is_clean(self) -> bool {
        let mut harmless = DirtyState::HOLDING;
        harmless.add(DirtyState::CURSORS);
        harmless.add(DirtyState::RESETTING);
        harmless.add(DirtyState::FORGETTING);
        harmless.add(DirtyState::READING);
        harmless.add(DirtyState::DEFINING);
        harmless.add(DirtyState::COPYING_IN);
        harmless.add(DirtyState::BEGINNING);
        self.0 & !harmless.0 == 0 && !self.holds_cursors()
    }

    fn holds_cursors(self) -> bool {
        self.has(DirtyState::CURSORS) && self.has(DirtyState::HOLDING)
    }

    /// Notes a FunctionCall, whose message has this `body` or more. Whether it may do anything.
    pub fn note_function_call(&mut self, body: &[u8]) -> bool {
        let oid = body.first_chunk().map(|oid| u32::from_be_bytes(*oid));
        let harmless = oid.is_some_and(|oid| HARMLESS_FUNCTIONS.contains(&oid));
        if !harmless {
            self.add(DirtyState::EVERYTHING);
            self.add(DirtyState::DEFINING);
        }
        !harmless
    }

    /// Notes a CommandComplete with `tag` (without its NUL). `transaction_local` says that the statement was seen to
    /// be a SET that cannot outlast its transaction.
    pub fn note_tag(&mut self, tag: &[u8], transaction_local: bool) {
        // Almost all tags are of queries and need one comparison.
        match tag.first() {
            Some(b'S') if tag == b"SET" && !transaction_local => self.add(DirtyState::SETTINGS),
            Some(b'P') if tag == b"PREPARE" => self.add(DirtyState::STATEMENTS),
            Some(b'L') if tag == b"LISTEN" => self.add(DirtyState::LISTENING),
            Some(b'D') => match tag {
                b"DECLARE CURSOR" => self.add(DirtyState::CURSORS),
                b"DO" => self.add(DirtyState::EVERYTHING),
                b"DISCARD ALL" => *self = DirtyState::NONE,
                b"DEALLOCATE ALL" => self.remove(DirtyState::STATEMENTS),
                _ => {}
            },
            Some(b'C') => match tag {
                b"CALL" => self.add(DirtyState::EVERYTHING),
                b"CLOSE CURSOR ALL" => self.remove(DirtyState::CURSORS),
                // Where search_path begins with pg_temp there need not be a word of it.
                _ if tag.starts_with(b"CREATE ") => self.add(DirtyState::TEMPORARY),
                _ => {}
            },
            _ => {}
        }
    }

    /// The statements that undo all of this outside a transaction block, each a Query of its own. Empty if
    /// there is nothing.
    ///
    /// With `DISCARD ALL`, PostgreSQL forgets the statements prepared on the connection; so it does with
    /// `DEALLOCATE ALL`. [`DirtyState::forgets_statements`] says so.
    pub fn reset_sql(self) -> Vec<String> {
        if self.is_clean() {
            return Vec::new();
        }
        if self.has(DirtyState::EVERYTHING) {
            // Older servers leave the role at "none", also where ALTER ROLE has set another.
            return vec!["DISCARD ALL".to_owned(), "RESET ROLE".to_owned()];
        }
        // In the order of DISCARD ALL's own parts (manual, DISCARD).
        let mut parts = Vec::new();
        if self.holds_cursors() {
            parts.push("CLOSE ALL");
        }
        if self.has(DirtyState::SETTINGS) {
            parts.push(RESET_SETTINGS);
        }
        if self.has(DirtyState::STATEMENTS) {
            parts.push("DEALLOCATE ALL");
        }
        if self.has(DirtyState::LISTENING) {
            parts.push("UNLISTEN *");
        }
        if self.has(DirtyState::LOCKS) {
            parts.push("SELECT pg_catalog.pg_advisory_unlock_all()");
        }
        if self.has(DirtyState::TEMPORARY) {
            parts.push("DISCARD TEMP");
        }
        vec![parts.join(";")]
    }

    /// Whether [`DirtyState::reset_sql`] makes PostgreSQL forget all prepared statements.
    pub fn forgets_statements(self) -> bool {
        self.has(DirtyState::EVERYTHING) || self.has(DirtyState::STATEMENTS)
    }

    /// Whether [`DirtyState::reset_sql`] resets the settings to those of the connection's start.
    pub fn resets_settings(self) -> bool {
        self.has(DirtyState::EVERYTHING) || self.has(DirtyState::SETTINGS)
    }
}

/// The functions for large objects, which libpq and JDBC's driver call by FunctionCall, by their numbers in every
/// PostgreSQL's `pg_proc.dat`. What they leave ends with the transaction.
const HARMLESS_FUNCTIONS: [u32; 13] = [
    715,  // lo_create
    952,  // lo_open
    953,  // lo_close
    954,  // loread
    955,  // lowrite
    956,  // lo_lseek
    957,  // lo_creat
    958,  // lo_tell
    964,  // lo_unlink
    1004, // lo_truncate
    3170, // lo_lseek64
    3171, // lo_tell64
    3172, // lo_truncate64
];

/// Resets every setting, and who runs the statements. RESET ALL leaves that alone, and is told as the user that has
/// logged in.
pub const RESET_SETTINGS: &str = "SET SESSION AUTHORIZATION DEFAULT;RESET ROLE;RESET ALL";

/// Resets who runs the statements. The role comes second: with the session's user PostgreSQL changes it too.
pub const RESET_IDENTITY: &str = "SET SESSION AUTHORIZATION DEFAULT;RESET ROLE";

/// Words in a statement's text and what they are taken for where it is not read closer. One that may change a setting
/// in a way that its tag does not show has one of these that mean RESETTING.
const WORDS: [(&str, DirtyState); 20] = [
    ("set_config", DirtyState::SETTING_ANYTHING),
    // A view by which settings can be changed: UPDATE pg_settings.
    ("pg_settings", DirtyState::SETTING_ANYTHING),
    // An identifier with escapes can be any of these words.
    ("u&\"", DirtyState::SETTING_ANYTHING),
    // Where tables are made, and whether they are temporary.
    ("search_path", DirtyState::RESETTING),
    ("schema", DirtyState::RESETTING),
    // SET TIME ZONE LOCAL.
    ("zone", DirtyState::RESETTING),
    ("reset", DirtyState::RESETTING),
    // pg_advisory_lock and its kin; those with _xact_ end with the transaction and do not match.
    ("advisory_lock", DirtyState::LOCKS),
    // CREATE TEMP, CREATE TEMPORARY, SELECT INTO TEMP, the schema pg_temp.
    ("temp", DirtyState::TEMPORARY),
    ("hold", DirtyState::HOLDING),
    ("default", DirtyState::RESETTING),
    // SET NAMES without one.
    ("names", DirtyState::RESETTING),
    ("discard", DirtyState::DISCARDING),
    ("deallocate", DirtyState::FORGETTING),
    ("create", DirtyState::DEFINING),
    ("into", DirtyState::DEFINING),
    // PostgreSQL takes both words for both directions.
    ("stdin", DirtyState::COPYING_IN),
    ("stdout", DirtyState::COPYING_IN),
    ("begin", DirtyState::BEGINNING),
    ("start", DirtyState::BEGINNING),
];

/// Longer texts are not read closer, in bytes.
const MAX_READ: usize = 64 * 1024;

/// Bytes of the longest word, less one: what has to be remembered between two chunks of a text.
const OVERLAP: usize = 12;

fn words() -> Option<&'static AhoCorasick> {
    static AUTOMATON: OnceLock<Option<AhoCorasick>> = OnceLock::new();
    AUTOMATON
        .get_or_init(|| {
            AhoCorasick::builder()
                .ascii_case_insensitive(true)
                .match_kind(MatchKind::Standard)
                // Short texts, and words that begin with most letters: to look for the first letters costs more.
                .kind(Some(AhoCorasickKind::DFA))
                .prefilter(false)
                .build(WORDS.map(|(word, _)| word))
                .ok()
        })
        .as_ref()
}

/// The traces of a whole text, without its NUL.
pub fn of_text(text: &[u8]) -> DirtyState {
    let mut found = scan(text);
    if !found.has(DirtyState::RESETTING) || text.len() > MAX_READ {
        return found;
    }
    let calls = found.has(DirtyState::EVERYTHING);
    found.remove(DirtyState::SETTING_ANYTHING);
    if calls || may_begin_with_set(text) {
        found.add(read(text));
    }
    found
}

/// Whether one of the statements may be a SET, RESET or DISCARD.
fn may_begin_with_set(text: &[u8]) -> bool {
    let text = text.trim_ascii();
    let one = text.strip_suffix(b";").unwrap_or(text);
    let begins = |word: &[u8]| {
        let first = one.get(..word.len());
        first.is_some_and(|first| first.eq_ignore_ascii_case(word))
    };
    let words: [&[u8]; 6] = [b"set", b"reset", b"discard", b"/*", b"--", b"\x0b"];
    one.contains(&b';') || words.iter().any(|word| begins(word))
}

/// What a text that may change settings leaves, as far as its CommandComplete does not show it.
fn read(text: &[u8]) -> DirtyState {
    let mut found = DirtyState::NONE;
    let updates = found_in(text, "pg_settings") && found_in(text, "update");
    if updates || found_in(text, "u&\"") {
        found.add(DirtyState::SETTING_ANYTHING);
    }
    let calls = found_in(text, "set_config");
    for change in SetCommands::read(text).changes {
        match change {
            Change::One { name, to, .. } => {
                if calls {
                    found.add(DirtyState::SETTINGS);
                }
                if to != To::Value {
                    found.add(DirtyState::RESETTING);
                }
                if name == "search_path" && to == To::Unknown {
                    // Tables may be temporary from here on without a word of it.
                    found.add(DirtyState::TEMPORARY);
                }
            }
            Change::ResetAll | Change::DiscardAll => found.add(DirtyState::RESETTING),
            Change::Unnamed | Change::Anything => found.add(DirtyState::SETTING_ANYTHING),
        }
    }
    found
}

/// Whether a word is in the text, in whatever letters.
fn found_in(text: &[u8], word: &str) -> bool {
    (text.windows(word.len())).any(|window| window.eq_ignore_ascii_case(word.as_bytes()))
}

/// The traces a text speaks of by its words alone.
fn scan(text: &[u8]) -> DirtyState {
    let Some(automaton) = words() else {
        return DirtyState::EVERYTHING;
    };
    let mut found = DirtyState::NONE;
    for hit in automaton.find_iter(text) {
        let (word, dirty) = WORDS[hit.pattern().as_usize()];
        let (before, behind) = (&text[..hit.start()], &text[hit.end()..]);
        // "template" is one thing, "attempt" another.
        let inside = before.last().is_some_and(u8::is_ascii_alphanumeric);
        let meant = match word {
            "temp" => !inside,
            "create" | "into" => !inside && !goes_on(behind) && !inserts(before),
            _ => true,
        };
        if meant {
            found.add(dirty);
        }
    }
    found
}

/// Whether a name is not over here.
fn goes_on(text: &[u8]) -> bool {
    let first = text.first();
    first.is_some_and(|first| first.is_ascii_alphanumeric() || matches!(first, b'_' | b'$'))
}

/// Whether the last word is one that stands in front of INTO and makes no table.
fn inserts(text: &[u8]) -> bool {
    let text = text.trim_ascii_end();
    let ends = |word: &[u8]| {
        let last = text.len().checked_sub(word.len());
        last.is_some_and(|at| text[at..].eq_ignore_ascii_case(word))
    };
    ends(b"insert") || ends(b"merge")
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
    pub fn read(&mut self, chunk: &[u8], last: bool) -> DirtyState {
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
pub fn is_transaction_local_set(text: &[u8]) -> bool {
    let mut words = text
        .split(|b| b.is_ascii_whitespace())
        .filter(|word| !word.is_empty());
    if !words
        .next()
        .is_some_and(|word| word.eq_ignore_ascii_case(b"set"))
    {
        return false;
    }
    let transaction_local = words.next().is_some_and(|word| {
        [&b"local"[..], b"transaction", b"constraints"]
            .iter()
            .any(|transaction_local| word.eq_ignore_ascii_case(transaction_local))
    });
    let body = text.trim_ascii_end();
    let body = body.strip_suffix(b";").unwrap_or(body);
    transaction_local && !body.contains(&b';')
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: [&str; 0] = [];

    fn after(tags: &[&str]) -> DirtyState {
        let mut dirty = DirtyState::NONE;
        for tag in tags {
            dirty.note_tag(tag.as_bytes(), false);
        }
        dirty
    }

    #[test]
    fn ordinary_work_leaves_nothing_to_undo() {
        let dirty = after(&[
            "BEGIN",
            "SELECT 1",
            "INSERT 0 1",
            "DECLARE CURSOR",
            "COMMIT",
        ]);
        assert_eq!(dirty.reset_sql(), NOTHING);
    }

    #[test]
    fn each_trace_is_undone_by_its_own_part() {
        assert_eq!(after(&["SET"]).reset_sql(), [RESET_SETTINGS]);
        assert_eq!(after(&["PREPARE"]).reset_sql(), ["DEALLOCATE ALL"]);
        assert_eq!(after(&["LISTEN"]).reset_sql(), ["UNLISTEN *"]);
        assert_eq!(after(&["DO"]).reset_sql(), ["DISCARD ALL", "RESET ROLE"]);
        assert_eq!(
            scan(b"create Temp table t ()").reset_sql(),
            ["DISCARD TEMP"]
        );
        assert_eq!(
            scan(b"select pg_try_advisory_lock(1)").reset_sql(),
            ["SELECT pg_catalog.pg_advisory_unlock_all()"]
        );
        assert_eq!(
            scan(b"select pg_advisory_xact_lock(1)").reset_sql(),
            NOTHING
        );
    }

    #[test]
    fn a_text_that_may_make_a_table_is_told_from_others() {
        for text in [
            "select 1 into t",
            "SELECT\nINTO\tt",
            "create table t as select 1",
            "explain analyze create/**/table t as table u",
            "insert into t values (1); select 1 into u",
        ] {
            assert!(of_text(text.as_bytes()).has(DirtyState::DEFINING), "{text}");
        }
        for text in [
            "insert into t values (1)",
            "with a as (INSERT  INTO t values (1) returning *) select created_at, recreate, pinto from a",
            "merge into t using u on true when matched then delete",
        ] {
            assert!(
                !of_text(text.as_bytes()).has(DirtyState::DEFINING),
                "{text}"
            );
        }
        assert!(DirtyState::DEFINING.is_clean());
    }

    #[test]
    fn a_text_that_changes_settings_is_read() {
        for (text, dirty) in [
            (
                "set default_transaction_read_only = off -- reset",
                DirtyState::NONE,
            ),
            ("set timezone to default", DirtyState::RESETTING),
            ("/* x */ set time zone local", DirtyState::RESETTING),
            ("select 1; RESET a", DirtyState::RESETTING),
            ("discard all", DirtyState::DISCARDING),
            ("set search_path = a, \"B\", 'c'", DirtyState::NONE),
            ("insert into names default values", DirtyState::NONE),
            ("select set_config('a', 'b', false)", DirtyState::SETTINGS),
            ("select * from pg_settings", DirtyState::NONE),
        ] {
            assert_eq!(of_text(text.as_bytes()), dirty, "{text}");
        }
        for text in [
            "Update PG_Settings set setting = 'x' where name = 'search_path'",
            "with u as (update pg_settings set setting = 'x' returning 1) select 1",
            "select set_config($1, $2, false)",
            "select U&\"set\\005fconfig\"('a', 'b', false)",
        ] {
            assert_eq!(
                of_text(text.as_bytes()),
                DirtyState::SETTING_ANYTHING,
                "{text}"
            );
        }
        let mut path = DirtyState::TEMPORARY;
        path.add(DirtyState::SETTINGS);
        path.add(DirtyState::RESETTING);
        let text = b"select set_config('search_path', $1, false)";
        assert_eq!(of_text(text), path);
    }

    #[test]
    fn only_functions_that_are_known_leave_nothing() {
        let mut dirty = DirtyState::NONE;
        dirty.note_function_call(&[0, 0, 3, 184, 0, 1]);
        assert!(dirty.is_clean(), "lo_open");
        for body in [&[0, 0, 8, 31][..], &[0, 0, 3], &[]] {
            let mut dirty = DirtyState::NONE;
            dirty.note_function_call(body);
            assert!(dirty.has(DirtyState::EVERYTHING), "{body:?}");
        }
    }

    #[test]
    fn a_cursor_needs_closing_only_if_it_is_held() {
        let mut dirty = scan(b"declare c cursor with hold for select 1");
        dirty.note_tag(b"DECLARE CURSOR", false);
        assert_eq!(dirty.reset_sql(), ["CLOSE ALL"]);
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
                assert!(
                    found.has(DirtyState::EVERYTHING),
                    "cut at {cut} and {second}"
                );
            }
        }
    }

    #[test]
    fn only_a_single_local_set_is_tame() {
        assert!(is_transaction_local_set(b"SET LOCAL work_mem = '1MB';"));
        assert!(is_transaction_local_set(
            b"  set transaction isolation level serializable"
        ));
        assert!(!is_transaction_local_set(b"SET work_mem = '1MB'"));
        assert!(!is_transaction_local_set(b"SET LOCAL a = 1; SET b = 2"));
        assert!(!is_transaction_local_set(b"SETLOCAL x"));
    }
}

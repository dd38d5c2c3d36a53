//! Which settings a text changes, as far as that can be read: SET, RESET, DISCARD ALL and calls of `set_config`.
//!
//! Does not look into functions, nor into what DO, CALL and EXECUTE run: DO and CALL are taken to change anything.
//! Invariant: a text that cannot be read counts as a change of anything, never as none.

use super::lexer::{Lexer, Token, is_word};

/// Parts of a statement that are kept: as many as any SET needs whose value matters.
const FIRST_PARTS: usize = 64;

/// Parts of a call of `set_config` that are kept.
const CALL_PARTS: usize = 24;

/// Changes that are listed one by one; with more of them anything may have changed.
const MAX_CHANGES: usize = 64;

/// What a setting is changed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// A value.
    Value,
    /// Its default.
    Default,
    /// One of both.
    Unknown,
}

/// A change of settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Of one setting.
    One {
        /// Its name in small letters.
        name: String,
        /// Whether it ends with the transaction.
        local: bool,
        /// What it is changed to.
        to: To,
    },
    /// RESET ALL.
    ResetAll,
    /// DISCARD ALL.
    DiscardAll,
    /// A call of `set_config` for a setting whose name is not in the text.
    Unnamed,
    /// DO or CALL, or what cannot be read.
    Anything,
}

/// What a text changes, in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetCommands {
    /// The changes.
    pub changes: Vec<Change>,
    /// Its statements.
    pub statements: usize,
    /// Those of them that are SET, RESET or DISCARD and change what is told of them, and nothing else.
    pub understood: usize,
}

impl SetCommands {
    /// Whether the text is made of nothing but SET and RESET that can be read.
    pub fn is_plain(&self) -> bool {
        self.understood == self.statements
    }

    /// Reads a text without its NUL.
    pub fn read(text: &[u8]) -> SetCommands {
        let mut found = SetCommands::default();
        let mut lexer = Lexer::new(text, true);
        loop {
            let mut reader = Reader::default();
            let more = lexer.next_statement(&mut |token, depth| reader.take(token, depth));
            match more.filter(|_| !lexer.ambiguous) {
                Some(false) => return found,
                Some(true) => {
                    found.statements += 1;
                    found.understood += usize::from(reader.finish(&mut found.changes));
                }
                None => {
                    found.statements += 1;
                    found.changes.push(Change::Anything);
                    return found;
                }
            }
            if found.changes.len() > MAX_CHANGES {
                found.statements += 1;
                found.changes = vec![Change::Anything];
                return found;
            }
        }
    }
}

/// Reads one statement.
#[derive(Default)]
struct Reader {
    /// Its first parts, those in parentheses too.
    first: Vec<Token>,
    calls: Vec<Change>,
    /// The call that is being read: its parts, and the parentheses around it.
    call: Option<(Vec<Token>, usize)>,
}

impl Reader {
    fn take(&mut self, token: Token, depth: usize) {
        if let Some((parts, around)) = &mut self.call {
            if depth > *around || parts.is_empty() {
                if parts.len() < CALL_PARTS {
                    parts.push(token.clone());
                }
            } else {
                self.calls.extend(called(parts));
                self.call = None;
            }
        }
        if is_name(&token, "set_config") {
            if let Some((parts, _)) = self.call.take() {
                // One in the arguments of another.
                self.calls
                    .extend((!parts.is_empty()).then_some(Change::Unnamed));
            }
            self.call = Some((Vec::new(), depth));
        }
        if self.first.len() < FIRST_PARTS {
            self.first.push(token);
        }
    }

    /// Adds what the statement changes. Whether that is all it does.
    fn finish(self, changes: &mut Vec<Change>) -> bool {
        let whole = self.first.len() < FIRST_PARTS;
        let told = command(&self.first);
        let understood = told.is_some() && whole && self.calls.is_empty();
        changes.extend(told.flatten());
        changes.extend(self.calls);
        understood
    }
}

/// What a call of `set_config` changes, by the parts behind the name; `None` if it is no call.
fn called(parts: &[Token]) -> Option<Change> {
    let (Token::Symbol(b'('), arguments) = parts.split_first()? else {
        return None;
    };
    if parts.len() == CALL_PARTS {
        return Some(Change::Unnamed);
    }
    let mut arguments = arguments.split(|part| *part == Token::Symbol(b','));
    let (name, value, local) = (arguments.next(), arguments.next(), arguments.next());
    let Some(Token::Constant(name)) = name.and_then(alone) else {
        return Some(Change::Unnamed);
    };
    let to = match value.and_then(alone) {
        Some(Token::Constant(_)) => To::Value,
        Some(Token::Word(word)) if word == b"null" => To::Default,
        _ => To::Unknown,
    };
    Some(Change::One {
        name: lower(name),
        local: is_word(local.and_then(alone), "true"),
        to,
    })
}

/// The part of which an argument consists, a cast behind it apart.
fn alone(argument: &[Token]) -> Option<&Token> {
    const CAST: Token = Token::Symbol(b':');
    match argument {
        [part] | [part, CAST, CAST, Token::Word(_)] => Some(part),
        _ => None,
    }
}

/// What a statement changes if it is one that changes settings (manual, "SET", "RESET", "DISCARD"). `None` within
/// if it changes none that lasts.
fn command(parts: &[Token]) -> Option<Option<Change>> {
    let Some((Token::Word(verb), mut rest)) = parts.split_first() else {
        return None;
    };
    match verb.as_slice() {
        b"do" | b"call" => Some(Some(Change::Anything)),
        b"discard" if is_word(rest.first(), "all") => Some(Some(Change::DiscardAll)),
        b"reset" if is_word(rest.first(), "all") => Some(Some(Change::ResetAll)),
        b"reset" => {
            let change = setting(rest).map(|(name, _)| Change::One {
                name,
                local: false,
                to: To::Default,
            });
            Some(Some(change.unwrap_or(Change::Anything)))
        }
        b"set" => {
            let local = is_word(rest.first(), "local");
            let session = is_word(rest.first(), "session");
            if is_word(rest.first(), "constraints") || is_word(rest.first(), "transaction") {
                return Some(None);
            }
            let of_session = ["authorization", "characteristics"];
            let named = of_session.iter().any(|word| is_word(rest.get(1), word));
            if local || (session && !named) {
                rest = &rest[1..];
            }
            if is_word(rest.first(), "transaction") {
                return Some(None);
            }
            let change = setting(rest).map(|(name, value)| Change::One {
                name,
                local,
                to: to(value),
            });
            Some(Some(change.unwrap_or(Change::Anything)))
        }
        _ => None,
    }
}

/// The setting that follows SET or RESET, and what follows it.
fn setting(parts: &[Token]) -> Option<(String, &[Token])> {
    let is = |at: usize, word| is_word(parts.get(at), word);
    let spoken = match () {
        () if is(0, "time") && is(1, "zone") => ("timezone", 2),
        () if is(0, "session") && is(1, "authorization") => ("session_authorization", 2),
        () if is(0, "session") && is(1, "characteristics") => ("session characteristics", 2),
        () if is(0, "transaction") && is(1, "isolation") => ("transaction_isolation", 3),
        () if is(0, "xml") && is(1, "option") => ("xmloption", 2),
        () if is(0, "names") => ("client_encoding", 1),
        () if is(0, "schema") => ("search_path", 1),
        () => {
            let (mut name, mut rest) = (name(parts.first()?)?, &parts[1..]);
            while let [Token::Symbol(b'.'), part, after @ ..] = rest {
                name = format!("{name}.{}", self::name(part)?);
                rest = after;
            }
            return Some((name, rest));
        }
    };
    Some((spoken.0.to_owned(), parts.get(spoken.1..)?))
}

/// What the words behind a setting's name change it to.
fn to(value: &[Token]) -> To {
    let assigns = is_word(value.first(), "to") || value.first() == Some(&Token::Symbol(b'='));
    let value = if assigns { &value[1..] } else { value };
    let word = |word| is_word(value.first(), word);
    // SET NAMES without one; LOCAL is a time zone's.
    if word("from") || value.contains(&Token::Other) {
        // SET ... FROM CURRENT, and constants with escapes.
        To::Unknown
    } else if value.is_empty() || word("default") || (word("local") && !assigns) {
        To::Default
    } else {
        To::Value
    }
}

fn name(part: &Token) -> Option<String> {
    match part {
        Token::Word(name) | Token::Quoted(name) => Some(lower(name)),
        _ => None,
    }
}

fn lower(name: &[u8]) -> String {
    String::from_utf8_lossy(name).to_ascii_lowercase()
}

fn is_name(part: &Token, name: &str) -> bool {
    matches!(part, Token::Word(found) | Token::Quoted(found) if found == name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, local: bool, to: To) -> Change {
        let name = name.to_owned();
        Change::One { name, local, to }
    }

    #[test]
    fn the_statement_is_read_and_not_searched() {
        use To::{Default, Unknown, Value};
        for (text, changes) in [
            ("", vec![]),
            ("select 'set a = default'", vec![]),
            ("update t set a = default", vec![]),
            (
                "set default_transaction_read_only = off -- default",
                vec![one("default_transaction_read_only", false, Value)],
            ),
            (
                "SET /* x */ SESSION a.\"B\" TO DEFAULT;",
                vec![one("a.b", false, Default)],
            ),
            (
                "set local \"DateStyle\" = iso, mdy",
                vec![one("datestyle", true, Value)],
            ),
            ("set time zone local", vec![one("timezone", false, Default)]),
            (
                "set local time zone default",
                vec![one("timezone", true, Default)],
            ),
            ("set time zone 'UTC'", vec![one("timezone", false, Value)]),
            ("set names", vec![one("client_encoding", false, Default)]),
            ("set a to local", vec![one("a", false, Value)]),
            (r"set a = 'b', e'\x63'", vec![one("a", false, Unknown)]),
            ("set role none", vec![one("role", false, Value)]),
            (
                "set session authorization default",
                vec![one("session_authorization", false, Default)],
            ),
            (
                "set local session authorization app",
                vec![one("session_authorization", true, Value)],
            ),
            (
                "set session characteristics as transaction read only",
                vec![one("session characteristics", false, Value)],
            ),
            (
                "set constraints all deferred; set transaction read only",
                vec![],
            ),
            ("set local transaction read only", vec![]),
            (
                "reset time zone; RESET Session Authorization",
                vec![
                    one("timezone", false, Default),
                    one("session_authorization", false, Default),
                ],
            ),
            ("reset all", vec![Change::ResetAll]),
            ("discard temp; discard all", vec![Change::DiscardAll]),
            ("do $$ begin end $$", vec![Change::Anything]),
            ("set U&\"d\\0061\" = default", vec![Change::Anything]),
            (
                "select set_config('A', NULL, true)",
                vec![one("a", true, Default)],
            ),
            (
                "select 1, ( pg_catalog . SET_CONFIG ( 'a'::text, 'it''s', false ) )",
                vec![one("a", false, Value)],
            ),
            (
                "select set_config('a', $1, false), set_config($1, 'x', false)",
                vec![one("a", false, Unknown), Change::Unnamed],
            ),
            (
                "select set_config('a' || 'b', 'x', false)",
                vec![Change::Unnamed],
            ),
            ("select set_config(e'a', 'x', false)", vec![Change::Unnamed]),
            (
                "select set_config(set_config('a','b',true), 'x', false)",
                vec![Change::Unnamed, one("a", true, Value)],
            ),
            ("select set_config from t where x = 'set_config(1)'", vec![]),
            (r"select '\', reset_all()", vec![Change::Anything]),
            (
                "reset all; select 'unended",
                vec![Change::ResetAll, Change::Anything],
            ),
        ] {
            assert_eq!(
                SetCommands::read(text.as_bytes()).changes,
                changes,
                "{text}"
            );
        }
    }

    #[test]
    fn a_text_is_plain_where_all_of_it_is_understood() {
        for (text, plain) in [
            ("set a = 1; reset b", true),
            ("set a = 1; select 1", false),
            ("do 'x'", true),
            (&"set a = 1".repeat(20), false),
        ] {
            assert_eq!(
                SetCommands::read(text.as_bytes()).is_plain(),
                plain,
                "{text}"
            );
        }
    }

    #[test]
    fn any_text_is_read_to_an_end() {
        let text = "select set_config('a', (null), f(1)); set a.b to default; set local time zone x; reset";
        for start in 0..text.len() {
            for end in start..text.len() {
                SetCommands::read(&text.as_bytes()[start..end]);
            }
        }
    }
}

//! Which prepared statements a Query's text speaks of by name: EXECUTE, DEALLOCATE and PREPARE, wherever they
//! stand among its statements.
//!
//! Follows PostgreSQL's lexer as far as is needed to part statements (manual, "Lexical Structure"), and knows
//! no more of their grammar than where such a name stands. A name in Unicode escapes (`U&"..."`) is not read.

use std::sync::OnceLock;

use aho_corasick::AhoCorasick;

/// Words of a statement in which a name is looked for. Of those that speak of one none needs as many before it.
const FIRST_WORDS: usize = 64;

/// Words without which a text speaks of no prepared statement.
const WORDS: [&str; 3] = ["execute", "deallocate", "prepare"];

/// The name of a prepared statement that a text speaks of.
#[derive(Debug, PartialEq, Eq)]
pub enum Mention {
    /// An EXECUTE or a PREPARE is about it.
    Use(Vec<u8>),
    /// A DEALLOCATE is about it.
    Deallocation(Vec<u8>),
}

/// What a DEALLOCATE is about.
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    /// The statement with this name.
    One(Vec<u8>),
    /// All statements.
    All,
}

/// Whether a text may speak of prepared statements. Most do not, and are told quickly.
pub fn may_speak(text: &[u8]) -> bool {
    static AUTOMATON: OnceLock<Option<AhoCorasick>> = OnceLock::new();
    AUTOMATON
        .get_or_init(|| {
            AhoCorasick::builder()
                .ascii_case_insensitive(true)
                .build(WORDS)
                .ok()
        })
        .as_ref()
        .is_some_and(|automaton| automaton.is_match(text))
}

/// The names that the text speaks of, in its order, where `standard_conforming_strings` is on or not
/// (`conforming`). `None`: where its statements end, or what it deallocates, cannot be told.
pub fn spoken(text: &[u8], conforming: bool) -> Option<Vec<Mention>> {
    let mut spoken = Vec::new();
    let mut lexer = Lexer::new(text, conforming);
    while let Some(statement) = lexer.statement()? {
        if !is_word(statement.first(), "deallocate") {
            spoken.extend(spoken_of(&statement).map(Mention::Use));
        } else if let Target::One(name) = deallocation(&statement)? {
            spoken.push(Mention::Deallocation(name));
        }
    }
    Some(spoken)
}

/// What the text is about if it is one DEALLOCATE and nothing else.
pub fn deallocated(text: &[u8]) -> Option<Target> {
    // There is no constant in one.
    let mut lexer = Lexer::new(text, true);
    let statement = lexer.statement()??;
    let target = deallocation(&statement)?;
    lexer.statement()?.is_none().then_some(target)
}

/// What a statement is about if it is a DEALLOCATE (manual, "DEALLOCATE").
fn deallocation(statement: &[Token]) -> Option<Target> {
    if !is_word(statement.first(), "deallocate") {
        return None;
    }
    let name = match statement {
        [_, name] => name,
        [_, prepare, name] if is_word(Some(prepare), "prepare") => name,
        _ => return None,
    };
    match name {
        Token::Word(name) if name == b"all" => Some(Target::All),
        Token::Word(name) | Token::Quoted(name) => Some(Target::One(name.clone())),
        Token::Other => None,
    }
}

/// The name of the prepared statement that a statement speaks of (manual, "EXECUTE", "PREPARE", "EXPLAIN",
/// "CREATE TABLE AS").
fn spoken_of(statement: &[Token]) -> Option<Vec<u8>> {
    let Some(Token::Word(verb)) = statement.first() else {
        return None;
    };
    let is_execute = |one: &Token| is_word(Some(one), "execute");
    let at = match verb.as_slice() {
        b"prepare" if is_word(statement.get(1), "transaction") => return None,
        b"prepare" | b"execute" => 0,
        b"explain" => statement.iter().position(is_execute)?,
        // The word may also be the name of what is created.
        b"create" => {
            let mut pairs = statement.windows(2);
            1 + pairs.position(|pair| is_word(pair.first(), "as") && is_execute(&pair[1]))?
        }
        _ => return None,
    };
    match statement.get(at + 1)? {
        Token::Word(name) | Token::Quoted(name) => Some(name.clone()),
        Token::Other => None,
    }
}

fn is_word(token: Option<&Token>, word: &str) -> bool {
    matches!(token, Some(Token::Word(found)) if found == word.as_bytes())
}

/// A part of a statement, outside of parentheses.
#[derive(Debug, PartialEq, Eq)]
enum Token {
    /// A keyword or an identifier, as PostgreSQL folds it.
    Word(Vec<u8>),
    /// An identifier in quotes.
    Quoted(Vec<u8>),
    /// Anything else.
    Other,
}

struct Lexer<'a> {
    rest: &'a [u8],
    /// Whether a backslash in a constant without a prefix is no more than that.
    conforming: bool,
    /// The part before was a constant with escapes; one that follows it is more of the same.
    escaped: bool,
}

impl Lexer<'_> {
    fn new(rest: &[u8], conforming: bool) -> Lexer<'_> {
        Lexer {
            rest,
            conforming,
            escaped: false,
        }
    }

    /// The first parts of the next statement that is not empty. `None` within if there is no more, `None` at
    /// all if it cannot be told where it ends.
    fn statement(&mut self) -> Option<Option<Vec<Token>>> {
        let mut tokens = Vec::new();
        let mut depth = 0_usize;
        let mut body = Body::default();
        loop {
            self.blanks()?;
            let goes_on = std::mem::take(&mut self.escaped);
            let Some(&first) = self.rest.first() else {
                let whole = depth == 0 && body.open == 0;
                return whole.then(|| (!tokens.is_empty()).then_some(tokens));
            };
            let token = match first {
                b';' if depth == 0 && body.open == 0 => {
                    self.rest = &self.rest[1..];
                    if tokens.is_empty() {
                        continue;
                    }
                    return Some(Some(tokens));
                }
                b'\'' => self.constant(goes_on || !self.conforming)?,
                b'"' => Token::Quoted(self.quoted()?),
                b'$' => self.dollar()?,
                byte if begins_word(byte) => self.word()?,
                byte => {
                    match byte {
                        b'(' => depth += 1,
                        b')' => depth = depth.checked_sub(1)?,
                        _ => {}
                    }
                    self.rest = &self.rest[1..];
                    Token::Other
                }
            };
            if depth == 0 {
                body.note(&token);
                if tokens.len() < FIRST_WORDS {
                    tokens.push(token);
                }
            }
        }
    }

    /// Passes over white space and comments.
    fn blanks(&mut self) -> Option<()> {
        loop {
            match self.rest {
                [byte, rest @ ..] if byte.is_ascii_whitespace() || *byte == 0x0b => {
                    self.rest = rest;
                }
                [b'-', b'-', ..] => {
                    let end = self.rest.iter().position(|&b| matches!(b, b'\n' | b'\r'));
                    self.rest = &self.rest[end.unwrap_or(self.rest.len())..];
                }
                [b'/', b'*', ..] => self.comment()?,
                _ => return Some(()),
            }
        }
    }

    /// Passes over a comment; there may be others in it.
    fn comment(&mut self) -> Option<()> {
        let mut depth = 0;
        loop {
            let step = match self.rest {
                [b'/', b'*', ..] => {
                    depth += 1;
                    2
                }
                [b'*', b'/', ..] => {
                    depth -= 1;
                    2
                }
                [_, ..] => 1,
                [] => return None,
            };
            self.rest = &self.rest[step..];
            if depth == 0 {
                return Some(());
            }
        }
    }

    /// Passes over a constant in single quotes.
    fn constant(&mut self, escapes: bool) -> Option<Token> {
        self.rest = &self.rest[1..];
        loop {
            let end = self.rest.iter().position(|&b| matches!(b, b'\'' | b'\\'))?;
            let (step, over) = match &self.rest[end..] {
                [b'\\', _, ..] if escapes => (2, false),
                [b'\\', ..] => (1, false),
                [b'\'', b'\'', ..] => (2, false),
                _ => (1, true),
            };
            self.rest = &self.rest[end + step..];
            if over {
                self.escaped = escapes;
                return Some(Token::Other);
            }
        }
    }

    /// An identifier in double quotes.
    fn quoted(&mut self) -> Option<Vec<u8>> {
        let mut name = Vec::new();
        self.rest = &self.rest[1..];
        loop {
            let end = self.rest.iter().position(|&b| b == b'"')?;
            name.extend_from_slice(&self.rest[..end]);
            self.rest = &self.rest[end + 1..];
            // A quote inside is doubled.
            if self.rest.first() != Some(&b'"') {
                return (!name.is_empty()).then_some(name);
            }
            name.push(b'"');
            self.rest = &self.rest[1..];
        }
    }

    /// A constant in dollar quotes, or a parameter, or what is nothing.
    fn dollar(&mut self) -> Option<Token> {
        let tag = &self.rest[1..];
        let length = match tag.first() {
            Some(&first) if begins_word(first) => tag
                .iter()
                .position(|&b| !in_word(b) || b == b'$')
                .unwrap_or(tag.len()),
            _ => 0,
        };
        if tag.get(length) != Some(&b'$') {
            self.rest = tag;
            return Some(Token::Other);
        }
        let (quote, inside) = self.rest.split_at(length + 2);
        let end = inside.windows(quote.len()).position(|w| w == quote)?;
        self.rest = &inside[end + quote.len()..];
        Some(Token::Other)
    }

    fn word(&mut self) -> Option<Token> {
        let end = self.rest.iter().position(|&b| !in_word(b));
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        if word.eq_ignore_ascii_case(b"e") && rest.first() == Some(&b'\'') {
            return self.constant(true);
        }
        if word.eq_ignore_ascii_case(b"u") && rest.starts_with(b"&\"") {
            self.rest = &rest[1..];
            self.quoted()?;
            return Some(Token::Other);
        }
        Some(Token::Word(word.to_ascii_lowercase()))
    }
}

/// The body of a function in SQL, whose statements are not the Query's (manual, "CREATE FUNCTION").
#[derive(Default)]
struct Body {
    /// How many END it takes to be out of it.
    open: usize,
    /// The word before is BEGIN.
    begins: bool,
}

impl Body {
    fn note(&mut self, token: &Token) {
        let is = |word| is_word(Some(token), word);
        if self.open == 0 {
            self.open = usize::from(self.begins && is("atomic"));
        } else if is("case") {
            self.open += 1;
        } else if is("end") {
            self.open -= 1;
        }
        self.begins = is("begin");
    }
}

fn begins_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 128
}

fn in_word(byte: u8) -> bool {
    begins_word(byte) || byte.is_ascii_digit() || byte == b'$'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Option<Vec<String>> {
        names_where(text, true)
    }

    fn names_where(text: &str, conforming: bool) -> Option<Vec<String>> {
        let spoken = spoken(text.as_bytes(), conforming)?;
        let name = |mention| match mention {
            Mention::Use(name) | Mention::Deallocation(name) => String::from_utf8(name).unwrap(),
        };
        Some(spoken.into_iter().map(name).collect())
    }

    #[test]
    fn names_stand_where_the_grammar_has_them() {
        for (text, expected) in [
            ("execute q", vec!["q"]),
            (" EXECUTE Q(1, 'a;b') ;", vec!["q"]),
            ("execute \"Q\"", vec!["Q"]),
            ("execute\"a\"\"b\"(1)", vec!["a\"b"]),
            ("explain (analyze, costs off) execute q(1)", vec!["q"]),
            ("explain analyze verbose execute q", vec!["q"]),
            (
                "create temp table t (a) as execute q(1) with no data",
                vec!["q"],
            ),
            ("prepare q(int) as select $1", vec!["q"]),
            ("deallocate q; deallocate prepare r", vec!["q", "r"]),
            ("select 1; execute q; ; execute r", vec!["q", "r"]),
            ("execute é", vec!["é"]),
            ("create table if not exists execute as execute q", vec!["q"]),
            ("select 1 as atomic, 2 as begin; execute q", vec!["q"]),
            (
                "create function f() returns int begin atomic select case 1 when 2 then 3 end; end; execute q",
                vec!["q"],
            ),
            (r"select 'c:\'; execute q", vec!["q"]),
            (r"select e'\\' 'a'; execute q", vec!["q"]),
        ] {
            assert!(may_speak(text.as_bytes()), "{text}");
            assert_eq!(
                names(text).as_deref(),
                Some(&expected.iter().map(|&n| n.to_owned()).collect::<Vec<_>>()[..]),
                "{text}"
            );
        }
    }

    #[test]
    fn and_nowhere_else() {
        for text in [
            "",
            ";;",
            "select 'execute q; execute r'",
            "select E'it\\'s; execute q'",
            "select e'\\\\'; select 'deallocate q'",
            "select 'c:\\dir; execute q'",
            "select e'a' -- and more\n '\\'; execute q'",
            "execute U&\"\\0071\"",
            "create trigger t before insert on r for each row execute function q()",
            "select $$; execute q$$, $a_1$ $$; execute q $a_1$, $1",
            "select a$b$ from t where \"; execute q\" = 1",
            "-- execute q\nselect 1",
            "/* ; /* execute q */ ; execute q */ select 1",
            "select (1; execute q)",
            "prepare transaction 'q'",
            "grant execute on function f to q",
            "deallocate all",
            "deallocate prepare all",
            "select U&'; execute q', x'; execute q'",
        ] {
            assert_eq!(names(text), Some(Vec::new()), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_told_is_left_alone() {
        for text in [
            "select 'it\\'s'; execute q",
            "deallocate U&\"\\0071\"; deallocate q",
            "select '; execute q",
            "select $a$; execute q",
            "select \"; execute q",
            "/* execute q",
            "select (1; execute q",
            "select 1); execute q",
            "create function f() returns int begin atomic select 1; execute q",
        ] {
            assert_eq!(names(text), None, "{text}");
        }
    }

    #[test]
    fn a_backslash_means_what_the_setting_says() {
        let text = r"select 'it\'; execute q; select '";
        assert_eq!(names_where(text, true), None);
        let text = r"select 'it\'; execute q; select ''";
        assert_eq!(names_where(text, true), Some(vec!["q".to_owned()]));
        assert_eq!(names_where(text, false), None);
        let text = r"select 'it\'s; execute q'; execute r";
        assert_eq!(names_where(text, false), Some(vec!["r".to_owned()]));
    }

    #[test]
    fn it_ends_whatever_the_text_is_cut_to() {
        let text =
            "select E'a\\'', 'b''', $x$ ; $x$, \"c\"\"\" /* /* */ */ -- d\n; execute \"q\"(1)";
        for start in 0..text.len() {
            for end in start..text.len() {
                let _ = spoken(&text.as_bytes()[start..end], start % 2 == 0);
                let _ = deallocated(&text.as_bytes()[start..end]);
            }
        }
    }

    fn of(text: &str) -> Option<Target> {
        deallocated(text.as_bytes())
    }

    #[test]
    fn one_deallocate_is_read_as_postgresql_reads_it() {
        let one = |name: &str| Some(Target::One(name.as_bytes().to_vec()));
        assert_eq!(of("deallocate Abc"), one("abc"));
        assert_eq!(of("DEALLOCATE \"Abc\";"), one("Abc"));
        assert_eq!(of("deallocate \"a\"\"b\""), one("a\"b"));
        assert_eq!(
            of(" /* why */ deallocate\tprepare\n x -- so\n ; "),
            one("x")
        );
        assert_eq!(of("deallocate\"x\""), one("x"));
        assert_eq!(of("deallocate prepare"), one("prepare"));
        assert_eq!(of("deallocate prepare prepare"), one("prepare"));
        assert_eq!(of("deallocate \"all\""), one("all"));
        assert_eq!(of("deallocate ALL"), Some(Target::All));
        assert_eq!(of("Deallocate Prepare All ;"), Some(Target::All));
    }

    #[test]
    fn what_is_not_one_deallocate_is_none() {
        for text in [
            "",
            "deallocate",
            "deallocate a all",
            "deallocate all; deallocate all",
            "deallocate a; deallocate b",
            "deallocate a b",
            "deallocate 1",
            "deallocate \"a",
            "deallocate \"\"",
            "deallocated",
            "select 1",
            "drop table deallocate",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
    }
}

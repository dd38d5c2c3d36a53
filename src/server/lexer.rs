//! Parts a text in SQL into its statements, and these into words, as PostgreSQL's own lexer does (manual, "Lexical
//! Structure").
//!
//! Follows it as far as is needed to find where a statement ends, what its words are and what its simple constants
//! say. Invariant: where an end cannot be found, the rest is not read.

/// Words of a statement in which a name is looked for. Of those that speak of one none needs as many before it.
const FIRST_WORDS: usize = 64;

/// Longer constants say nothing that is looked for, in bytes.
const MAX_CONSTANT: usize = 1024;

/// A part of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A keyword or an identifier, as PostgreSQL folds it.
    Word(Vec<u8>),
    /// An identifier in quotes.
    Quoted(Vec<u8>),
    /// A constant in single quotes without a prefix, as far as it says the same whatever the settings are.
    Constant(Vec<u8>),
    /// A byte that stands for itself, in most cases.
    Symbol(u8),
    /// Anything else.
    Other,
}

/// What is left of a text.
pub(super) struct Lexer<'a> {
    rest: &'a [u8],
    /// Whether a backslash in a constant without a prefix is no more than that.
    conforming: bool,
    /// The part before was a constant with escapes; one that follows it is more of the same.
    escaped: bool,
    /// A constant would end elsewhere if it were read with the other value of `conforming`.
    pub(super) ambiguous: bool,
}

impl Lexer<'_> {
    /// Reads a text where `standard_conforming_strings` is on or not (`conforming`).
    pub(super) fn new(rest: &[u8], conforming: bool) -> Lexer<'_> {
        Lexer {
            rest,
            conforming,
            escaped: false,
            ambiguous: false,
        }
    }

    /// The first parts, outside of parentheses, of the next statement that is not empty. `None` within if there
    /// is no more, `None` at all if it cannot be told where it ends.
    pub(super) fn statement(&mut self) -> Option<Option<Vec<Token>>> {
        let mut tokens = Vec::new();
        let found = self.next_statement(&mut |token, depth| {
            if depth == 0 && tokens.len() < FIRST_WORDS {
                tokens.push(token);
            }
        })?;
        Some(found.then_some(tokens))
    }

    /// Shows all parts of the next statement that is not empty, each with the number of parentheses around it.
    /// Whether there is one, `None` if it cannot be told where it ends.
    pub(super) fn next_statement(&mut self, show: &mut dyn FnMut(Token, usize)) -> Option<bool> {
        let mut empty = true;
        let mut depth = 0_usize;
        let mut body = Body::default();
        loop {
            self.blanks()?;
            let goes_on = std::mem::take(&mut self.escaped);
            let Some(&first) = self.rest.first() else {
                let whole = depth == 0 && body.open == 0;
                return whole.then_some(!empty);
            };
            let token = match first {
                b';' if depth == 0 && body.open == 0 => {
                    self.rest = &self.rest[1..];
                    if empty {
                        continue;
                    }
                    return Some(true);
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
                    Token::Symbol(byte)
                }
            };
            if depth == 0 {
                body.note(&token);
            }
            empty = false;
            show(token, depth);
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
        let whole = self.rest;
        loop {
            let end = self.rest.iter().position(|&b| matches!(b, b'\'' | b'\\'))?;
            let (step, over) = match &self.rest[end..] {
                [b'\\', _, ..] if escapes => (2, false),
                [b'\\', next @ ..] => {
                    self.ambiguous |= next.first() == Some(&b'\'');
                    (1, false)
                }
                [b'\'', b'\'', ..] => (2, false),
                _ => (1, true),
            };
            self.rest = &self.rest[end + step..];
            if over {
                self.escaped = escapes;
                let said = &whole[..whole.len() - self.rest.len() - step];
                return Some(
                    if escapes || said.len() > MAX_CONSTANT || said.contains(&b'\\') {
                        Token::Other
                    } else {
                        Token::Constant(unquoted(said))
                    },
                );
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

/// What a constant says, whose quotes are doubled.
fn unquoted(said: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(said.len());
    let mut quotes = 0;
    for &byte in said {
        quotes += usize::from(byte == b'\'');
        if byte != b'\'' || quotes % 2 == 1 {
            plain.push(byte);
        }
    }
    plain
}

fn begins_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 128
}

fn in_word(byte: u8) -> bool {
    begins_word(byte) || byte.is_ascii_digit() || byte == b'$'
}

/// Whether the part is this keyword, in small letters.
pub(super) fn is_word(token: Option<&Token>, word: &str) -> bool {
    matches!(token, Some(Token::Word(found)) if found == word.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statements(text: &[u8], conforming: bool) -> Option<usize> {
        let (mut lexer, mut count) = (Lexer::new(text, conforming), 0);
        while lexer.statement()?.is_some() {
            count += 1;
        }
        Some(count)
    }

    #[test]
    fn a_statement_ends_where_postgresql_ends_it() {
        for (text, count) in [
            ("", 0),
            (" ; ;; -- ;", 0),
            (r#"select ';', $$;$$, ";", (1); select 2;"#, 2),
            (r"select 1 /* ; */; /* */ select e'\';'", 2),
            (
                "create rule r as on insert to t do (select 1; select 2); select 3",
                2,
            ),
        ] {
            assert_eq!(statements(text.as_bytes(), true), Some(count), "{text}");
        }
    }

    #[test]
    fn it_ends_whatever_the_text_is_cut_to() {
        let text =
            "select E'a\\'', 'b''', $x$ ; $x$, \"c\"\"\" /* /* */ */ -- d\n; execute \"q\"(1)";
        for start in 0..text.len() {
            for end in start..text.len() {
                let _ = statements(&text.as_bytes()[start..end], start % 2 == 0);
            }
        }
    }
}

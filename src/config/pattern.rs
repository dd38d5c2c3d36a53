//! Regular expressions of `pg_hba.conf` and `pg_ident.conf`, as PostgreSQL reads them there.
//!
//! PostgreSQL matches bytes, by its "advanced" expressions. They are translated to those of the `regex` crate, because
//! the same text can mean something else there (`[a&&b]`, `\b`, `{`). The invariant: an expression means what it
//! means to PostgreSQL, or is refused.

use regex::bytes::{Regex, RegexBuilder};

use super::problem::quote;

/// A regular expression, equal to others of the same text.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: Vec<u8>,
    regex: Regex,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Pattern {
    /// Reads an expression, without the slash before it.
    pub(super) fn new(text: &[u8]) -> Result<Pattern, String> {
        let invalid = |why: &str| {
            let shown = quote(&String::from_utf8_lossy(text));
            format!("invalid regular expression {shown}: {why}")
        };
        let (folds_case, rest) = match text.strip_prefix(b"(?i)") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let translated = translate(rest).map_err(invalid)?;
        let regex = RegexBuilder::new(&translated)
            .unicode(false)
            .dot_matches_new_line(true)
            .case_insensitive(folds_case)
            .build()
            .map_err(|error| {
                let error = error.to_string();
                // Its first lines quote the translation.
                let why = error.lines().last().unwrap_or_default();
                invalid(why.trim_start_matches("error: "))
            })?;
        Ok(Pattern {
            text: text.into(),
            regex,
        })
    }

    /// The text, for a message.
    pub fn shown(&self) -> String {
        quote(&String::from_utf8_lossy(&self.text))
    }

    /// The text, without the slash before it.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// Whether any part of the name matches.
    pub fn is_match(&self, name: &[u8]) -> bool {
        self.regex.is_match(name)
    }

    /// What the first parentheses captured: nothing if they took no part. `None` if the name does not match.
    pub(super) fn first_group<'a>(&self, name: &'a [u8]) -> Option<&'a [u8]> {
        let captures = self.regex.captures(name)?;
        Some(captures.get(1).map_or(&b""[..], |group| group.as_bytes()))
    }

    /// Whether it has parentheses that capture.
    pub(super) fn has_group(&self) -> bool {
        // The expression itself is the first of its own groups.
        self.regex.captures_len() > 1
    }
}

type Letters<'a> = std::iter::Peekable<std::iter::Copied<std::slice::Iter<'a, u8>>>;

fn translate(text: &[u8]) -> Result<String, &'static str> {
    let mut out = String::new();
    let mut letters = text.iter().copied().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            b'\\' => escape(&mut letters, &mut out)?,
            b'[' => bracket(&mut letters, &mut out)?,
            b'(' if letters.peek() == Some(&b'?') => {
                letters.next();
                if letters.next() != Some(b':') {
                    return Err(
                        "of all that begins with (? only (?: is supported, and (?i) at the start",
                    );
                }
                out.push_str("(?:");
            }
            // Without a number it is a letter.
            b'{' if letters.peek().is_some_and(u8::is_ascii_digit) => out.push('{'),
            b'}' if bound_is_open(&out) => out.push('}'),
            b',' if bound_is_open(&out) => out.push(','),
            b'(' | b')' | b'|' | b'^' | b'$' | b'.' | b'*' | b'+' | b'?' => {
                out.push(char::from(letter));
            }
            _ => literal(letter, &mut out),
        }
    }
    Ok(out)
}

/// Whether the text ends within a bound such as `{2,`.
fn bound_is_open(out: &str) -> bool {
    let before = out.trim_end_matches(|letter: char| letter.is_ascii_digit() || letter == ',');
    before.ends_with('{') && !before.ends_with("\\{")
}

fn literal(letter: u8, out: &mut String) {
    if letter.is_ascii_alphanumeric() {
        out.push(char::from(letter));
    } else {
        out.push_str(&format!("\\x{letter:02x}"));
    }
}

fn escape(letters: &mut Letters<'_>, out: &mut String) -> Result<(), &'static str> {
    let letter = letters.next().ok_or("it ends in a backslash")?;
    match letter {
        b'd' | b'w' | b's' | b'D' | b'W' | b'S' | b'A' | b'a' | b'f' | b'n' | b'r' | b't'
        | b'v' => {
            out.push('\\');
            out.push(char::from(letter));
        }
        b'Z' => out.push_str("\\z"),
        b'm' => out.push_str("\\b{start}"),
        b'M' => out.push_str("\\b{end}"),
        b'y' => out.push_str("\\b"),
        b'Y' => out.push_str("\\B"),
        b'b' => literal(8, out),
        b'e' => literal(27, out),
        b'B' => literal(b'\\', out),
        b'1'..=b'9' => return Err("back references are not supported"),
        _ if letter.is_ascii_alphanumeric() => return Err("this escape sequence is not supported"),
        _ => literal(letter, out),
    }
    Ok(())
}

/// The classes of characters that PostgreSQL knows.
const CLASSES: [&str; 13] = [
    "alnum", "alpha", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space",
    "upper", "xdigit", "word",
];

/// An element of a bracket expression.
enum Element {
    Letter(u8),
    Class(String),
}

fn bracket(letters: &mut Letters<'_>, out: &mut String) -> Result<(), &'static str> {
    let mut ahead = letters.clone();
    for (constraint, translated) in [(b"[:<:]]", "\\b{start}"), (b"[:>:]]", "\\b{end}")] {
        if letters
            .clone()
            .take(constraint.len())
            .eq(constraint.iter().copied())
        {
            letters.nth(constraint.len() - 1);
            out.push_str(translated);
            return Ok(());
        }
    }
    out.push('[');
    if ahead.next() == Some(b'^') {
        letters.next();
        out.push('^');
    }
    let mut first = true;
    loop {
        if !first && letters.peek() == Some(&b']') {
            letters.next();
            out.push(']');
            return Ok(());
        }
        first = false;
        let from = element(letters)?;
        let mut next = letters.clone();
        let is_range = next.next() == Some(b'-') && next.next().is_some_and(|end| end != b']');
        match from {
            Element::Letter(from) if is_range => {
                letters.next();
                let Element::Letter(to) = element(letters)? else {
                    return Err("invalid character range");
                };
                if from > to {
                    return Err("invalid character range");
                }
                out.push_str(&format!("\\x{from:02x}-\\x{to:02x}"));
            }
            Element::Letter(letter) => out.push_str(&format!("\\x{letter:02x}")),
            Element::Class(_) if is_range => return Err("invalid character range"),
            Element::Class(class) => out.push_str(&class),
        }
    }
}

fn element(letters: &mut Letters<'_>) -> Result<Element, &'static str> {
    let unclosed = "brackets [] not balanced";
    match letters.next().ok_or(unclosed)? {
        b'[' => match letters.peek() {
            Some(b':') => {
                letters.next();
                let mut name = String::new();
                loop {
                    match letters.next().ok_or(unclosed)? {
                        b':' => break,
                        letter if letter.is_ascii_lowercase() => name.push(char::from(letter)),
                        _ => return Err("invalid character class"),
                    }
                }
                if letters.next() != Some(b']') || !CLASSES.contains(&name.as_str()) {
                    return Err("invalid character class");
                }
                Ok(Element::Class(format!("[:{name}:]")))
            }
            Some(b'.' | b'=') => Err("[. and [= are not supported"),
            _ => Ok(Element::Letter(b'[')),
        },
        b'\\' => {
            let mut escaped = String::new();
            match letters.peek().copied().ok_or(unclosed)? {
                letter @ (b'd' | b'w' | b's' | b'D' | b'W' | b'S') => {
                    letters.next();
                    Ok(Element::Class(format!("\\{}", char::from(letter))))
                }
                b'A' | b'Z' | b'm' | b'M' | b'y' | b'Y' => {
                    Err("this escape sequence is not supported in brackets")
                }
                letter => {
                    escape(letters, &mut escaped)?;
                    Ok(Element::Letter(match letter {
                        b'a' => 7,
                        b'b' => 8,
                        b'e' => 27,
                        b'f' => 12,
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        b'v' => 11,
                        b'B' => b'\\',
                        _ => letter,
                    }))
                }
            }
        }
        letter => Ok(Element::Letter(letter)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Pattern::new(pattern.as_bytes())
            .unwrap()
            .is_match(name.as_bytes())
    }

    #[test]
    fn an_expression_means_what_it_means_to_postgresql() {
        // Each was tried as `select name ~ pattern` in a database with SQL_ASCII and the collation C.
        let table = [
            ("^app_", "app_1", true),
            ("^app_", "xapp_1", false),
            ("", "anything", true),
            ("^[a&&b]+$", "a&b", true),
            ("^[+--]$", ",", true),
            ("^x{$", "x{", true),
            ("^x{2,3}$", "xx", true),
            ("^x{2,3}$", "x", false),
            ("^a.c$", "a\nc", true),
            ("^a$", "a\n", false),
            ("^m.ller$", "m\u{fc}ller", false),
            ("^m..ller$", "m\u{fc}ller", true),
            ("^[]a]$", "]", true),
            ("^[^]a]$", "]", false),
            ("\\mshop\\M", "my shop", true),
            ("\\mshop\\M", "workshop", false),
            ("[[:<:]]shop[[:>:]]", "workshop", false),
            ("\\yshop\\y", "shop-1", true),
            ("^\\w+\\Z", "a_1", true),
            ("(?i)^APP$", "app", true),
            ("^[[:alpha:]_]+$", "a_b", true),
            ("^(?:a|b)$", "b", true),
            ("^\\.$", ".", true),
            ("^[\\w.]+$", "a.b", true),
            ("a#b", "a#b", true),
        ];
        for (pattern, name, expected) in table {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name:?}");
        }
    }

    #[test]
    fn what_would_mean_something_else_is_refused() {
        for pattern in [
            "(a",
            "a)",
            "[a",
            "[b-a]",
            "[a--b]",
            "(?=a)",
            "(?P<n>a)",
            "(a)\\1",
            "\\x41",
            "\\q",
            "a\\",
            "[[.a.]]",
            "*a",
            "[[:nothing:]]",
        ] {
            assert!(Pattern::new(pattern.as_bytes()).is_err(), "{pattern}");
        }
    }
}

//! The lines of PostgreSQL's access files, `pg_hba.conf` and `pg_ident.conf`,
//! split into fields at blanks, and fields into words at commas.
//!
//! Knows the meaning of no word, and opens no file. Texts are bytes: an access file
//! has no encoding. The invariant: a text is split where PostgreSQL 18 splits it
//! (`hba.c`, `next_token`), and every line knows its number.

use super::problem::quote;

/// A word of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    /// Without the quotes.
    pub text: Vec<u8>,
    /// Whether it begins with a quote. Such a word is a name, never a keyword.
    pub quoted: bool,
}

/// Words with commas between them: one or more.
pub(super) type Field = Vec<Word>;

impl Word {
    /// Whether it is this keyword.
    pub fn is(&self, keyword: &str) -> bool {
        !self.quoted && self.text == keyword.as_bytes()
    }

    /// The text, for a message.
    pub fn shown(&self) -> String {
        quote(&String::from_utf8_lossy(&self.text))
    }
}

/// Gives the words of the file behind an `@`.
pub(super) type Expand<'a> = &'a mut dyn FnMut(&[u8]) -> Result<Field, String>;

/// The only word of a field. `what` it stands for.
pub(super) fn single<'a>(field: &'a [Word], what: &str) -> Result<&'a Word, String> {
    match field {
        [word] => Ok(word),
        [first, ..] => Err(format!(
            "multiple values specified for {what}: a list stands where one word is expected, after \
             {}; quote a word with a comma in it",
            first.shown()
        )),
        [] => Err("a word is missing".into()),
    }
}

/// The lines with their numbers, from 1. A line that ends in a backslash is joined to the next.
pub(super) fn logical_lines(text: &[u8]) -> Vec<(usize, Vec<u8>)> {
    let mut lines = Vec::new();
    let mut pending: Option<(usize, Vec<u8>)> = None;
    for (index, part) in text.split(|&byte| byte == b'\n').enumerate() {
        let end = part.iter().rposition(|&byte| byte != b'\r');
        let part = &part[..end.map_or(0, |end| end + 1)];
        let (number, mut line) = pending.take().unwrap_or((index + 1, Vec::new()));
        match part.strip_suffix(b"\\") {
            Some(part) => {
                line.extend_from_slice(part);
                pending = Some((number, line));
            }
            None => {
                line.extend_from_slice(part);
                lines.push((number, line));
            }
        }
    }
    lines.extend(pending);
    lines
}

/// Splits a line into fields. `expand` gives the words of the file behind an `@`.
///
/// # Errors
/// What `expand` says, or that the line holds a NUL.
pub(super) fn split(line: &[u8], expand: Expand<'_>) -> Result<Vec<Field>, String> {
    if line.contains(&0) {
        return Err("the line has a NUL byte in it".into());
    }
    let mut rest = line;
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let mut field = Vec::new();
        loop {
            let (word, after_comma) = next_word(&mut rest);
            let Some(word) = word else {
                break;
            };
            match word.text.strip_prefix(b"@") {
                Some(file) if !word.quoted && !file.is_empty() => field.extend(expand(file)?),
                _ => field.push(word),
            }
            if !after_comma {
                break;
            }
        }
        if !field.is_empty() {
            fields.push(field);
        }
    }
    Ok(fields)
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r')
}

/// Takes the next word, and whether a comma follows it at once. `None` at the end of the line.
fn next_word(rest: &mut &[u8]) -> (Option<Word>, bool) {
    let start = rest
        .iter()
        .position(|&byte| !is_blank(byte) && byte != b',');
    let line = &rest[start.unwrap_or(rest.len())..];
    let mut word = Word {
        text: Vec::new(),
        quoted: false,
    };
    let (mut inside, mut after_quote, mut any_quote) = (false, false, false);
    let mut after_comma = false;
    let mut taken = line.len();
    for (place, &byte) in line.iter().enumerate() {
        if !inside && is_blank(byte) {
            taken = place;
            break;
        }
        if !inside && byte == b'#' {
            break;
        }
        if !inside && byte == b',' {
            after_comma = true;
            taken = place + 1;
            break;
        }
        // Two quotes inside quotes are one.
        if byte != b'"' || after_quote {
            word.text.push(byte);
        }
        after_quote = inside && byte == b'"' && !after_quote;
        if byte == b'"' {
            inside = !inside;
            any_quote = true;
            word.quoted |= word.text.is_empty();
        }
    }
    *rest = &line[taken..];
    let is_word = any_quote || !word.text.is_empty();
    (is_word.then_some(word), after_comma)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(line: &str) -> Vec<Vec<(String, bool)>> {
        let fields = split(line.as_bytes(), &mut |_| Err("no files".into())).unwrap();
        let word = |word: &Word| (String::from_utf8(word.text.clone()).unwrap(), word.quoted);
        fields
            .iter()
            .map(|field| field.iter().map(word).collect())
            .collect()
    }

    fn plain(lists: &[&[&str]]) -> Vec<Vec<(String, bool)>> {
        let word = |text: &&str| ((*text).to_owned(), false);
        (lists.iter())
            .map(|list| list.iter().map(word).collect())
            .collect()
    }

    #[test]
    fn commas_join_only_what_follows_them() {
        assert_eq!(fields("a, b ,c #d"), plain(&[&["a", "b"], &["c"]]));
        assert_eq!(fields(",a,"), plain(&[&["a"]]));
        assert_eq!(fields(" \t# a"), plain(&[]));
        assert_eq!(fields("a#b"), plain(&[&["a"]]));
    }

    #[test]
    fn a_quote_in_the_middle_makes_no_name_of_a_keyword() {
        assert_eq!(fields(r#""all""#), [[("all".to_owned(), true)]]);
        assert_eq!(fields(r#"a"ll""#), [[("all".to_owned(), false)]]);
        assert_eq!(fields(r#""a""b,# c""#), [[("a\"b,# c".to_owned(), true)]]);
        assert_eq!(fields(r#""""#), [[(String::new(), true)]]);
        assert_eq!(fields(r#""a b"#), [[("a b".to_owned(), true)]]);
    }

    #[test]
    fn a_backslash_joins_lines() {
        let lines = logical_lines(b"a\\\n\\\nb\\\\\r\r\nc\nd\\");
        let text = |text: &str| text.as_bytes().to_vec();
        assert_eq!(lines, [(1, text("ab\\c")), (5, text("d"))]);
    }
}

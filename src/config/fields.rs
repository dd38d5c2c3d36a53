//! The lines of PostgreSQL's access files, `pg_hba.conf` and `pg_ident.conf`,
//! split into fields at blanks, and fields into words at commas.
//!
//! Knows the meaning of no word. The invariant: every word of the text is in a
//! field, and every line knows its number.

use super::problem::quote;

/// A line with something on it.
pub(super) struct Line {
    /// From 1; that of the first part, if backslashes join it from several.
    pub number: usize,
    /// One or more.
    pub fields: Vec<Field>,
}

/// Words with commas between them: one or more.
pub(super) type Field = Vec<Word>;

/// Reads all lines, and gives each to `read`; or says of every wrong line what is
/// wrong: `(line, reason)`.
pub(super) fn parse<T>(
    text: &str,
    read: impl Fn(&Line) -> Result<T, String>,
) -> Result<Vec<T>, Vec<(usize, String)>> {
    let mut all = Vec::new();
    let mut wrong = Vec::new();
    for (number, text) in logical_lines(text) {
        let line = fields(&text).map(|fields| Line { number, fields });
        match line {
            Ok(line) if line.fields.is_empty() => {}
            Ok(line) => match read(&line) {
                Ok(one) => all.push(one),
                Err(reason) => wrong.push((number, reason)),
            },
            Err(reason) => wrong.push((number, reason)),
        }
    }
    if wrong.is_empty() {
        Ok(all)
    } else {
        Err(wrong)
    }
}

/// The only word of a field.
pub(super) fn single(field: &[Word]) -> Result<&Word, String> {
    match field {
        [word] => Ok(word),
        [first, ..] => Err(format!(
            "a list stands where one word is expected, after {}; quote a word with a comma in it",
            quote(&first.text)
        )),
        [] => Err("a word is missing".into()),
    }
}

/// Joins lines that end in a backslash to the next, as PostgreSQL does.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut pending: Option<(usize, String)> = None;
    for (index, part) in text.lines().enumerate() {
        let (number, mut line) = pending.take().unwrap_or((index + 1, String::new()));
        match part.strip_suffix('\\') {
            Some(part) => {
                line.push_str(part);
                pending = Some((number, line));
            }
            None => {
                line.push_str(part);
                lines.push((number, line));
            }
        }
    }
    lines.extend(pending);
    lines
}

/// A word of a line. Quoted words are names, never keywords.
pub(super) struct Word {
    /// Without the quotes.
    pub text: String,
    /// Whether any of it was quoted.
    pub quoted: bool,
}

impl Word {
    /// Whether it is this keyword.
    pub fn is(&self, keyword: &str) -> bool {
        !self.quoted && self.text == keyword
    }
}

/// Splits a line into fields at blanks, and fields into words at commas.
fn fields(line: &str) -> Result<Vec<Field>, String> {
    let mut fields: Vec<Field> = Vec::new();
    let mut after_comma = false;
    let mut letters = line.chars().peekable();
    while let Some(&letter) = letters.peek() {
        match letter {
            '#' => break,
            ',' => {
                if fields.is_empty() || after_comma {
                    return Err("a comma without a name before it".into());
                }
                letters.next();
                after_comma = true;
            }
            c if c.is_whitespace() => {
                letters.next();
            }
            _ => {
                let word = next_word(&mut letters)?;
                match fields.last_mut() {
                    Some(field) if after_comma => field.push(word),
                    _ => fields.push(vec![word]),
                }
                after_comma = false;
            }
        }
    }
    if after_comma {
        return Err("a comma without a name after it".into());
    }
    Ok(fields)
}

fn next_word(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Word, String> {
    let mut word = Word {
        text: String::new(),
        quoted: false,
    };
    let mut inside = false;
    while let Some(&letter) = letters.peek() {
        if letter == '"' {
            word.quoted = true;
            letters.next();
            // Two quotes inside quotes are one.
            if inside && letters.peek() == Some(&'"') {
                letters.next();
                word.text.push('"');
            } else {
                inside = !inside;
            }
            continue;
        }
        if !inside && (letter.is_whitespace() || letter == ',' || letter == '#') {
            break;
        }
        word.text.push(letter);
        letters.next();
    }
    if inside {
        return Err("a quoted name does not end on its line".into());
    }
    if word.text.contains(char::REPLACEMENT_CHARACTER) {
        return Err(format!("{} is not UTF-8", quote(&word.text)));
    }
    Ok(word)
}

//! Reads a DEALLOCATE: which prepared statement a text in SQL is about.
//!
//! Knows no more of the grammar than where the name stands; the `lexer` parts the words. A name in Unicode escapes
//! (`U&"..."`) is not read.

use super::lexer::{Lexer, Token, is_word};

/// What a DEALLOCATE is about.
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    /// The statement with this name.
    One(Vec<u8>),
    /// All statements.
    All,
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
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

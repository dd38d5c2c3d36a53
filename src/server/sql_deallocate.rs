//! Reads a DEALLOCATE: which prepared statement a text in SQL names.
//!
//! Knows no more of the grammar than where the name stands; the `lexer` parts the words. A name in Unicode escapes
//! (`U&"..."`) is not read.

use super::lexer::{Lexer, Token, is_word};

/// The name of a prepared statement that EXECUTE, DEALLOCATE or PREPARE stands in front of and that `is_meant`,
/// if the text has one. A text that cannot be read has none.
pub fn speaks_of(text: &[u8], is_meant: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
    const VERBS: [&str; 3] = ["execute", "deallocate", "prepare"];
    let mut lexer = Lexer::new(text, true);
    while let Some(statement) = lexer.statement()? {
        for pair in statement.windows(2) {
            let spoken = VERBS.iter().any(|verb| is_word(pair.first(), verb));
            match &pair[1] {
                Token::Quoted(name) if spoken && is_meant(name) => return Some(name.clone()),
                _ => {}
            }
        }
    }
    None
}

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
    fn names_are_found_where_they_are_used() {
        let found = |text: &str| speaks_of(text.as_bytes(), |name| name.starts_with(b"X_"));
        for text in [
            "execute \"X_0\"",
            "select 1; /* so */ EXECUTE \"X_0\"(1)",
            "explain (analyze) execute \"X_0\"",
            "create temp table t as execute\"X_0\"",
            "deallocate prepare \"X_0\"; select 1",
            "prepare \"X_0\" as select 1",
        ] {
            assert_eq!(found(text).as_deref(), Some(&b"X_0"[..]), "{text}");
        }
        for text in ["select \"X_0\"", "execute x_0", "select 'execute \"X_0\"'"] {
            assert_eq!(found(text), None, "{text}");
        }
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

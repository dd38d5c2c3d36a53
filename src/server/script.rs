//! Which prepared statements a Query's text speaks of by name: EXECUTE, DEALLOCATE and PREPARE, wherever they
//! stand among its statements.
//!
//! Knows no more of their grammar than where such a name stands; the `lexer` parts them. A name in Unicode escapes
//! (`U&"..."`) is not read.

use std::sync::OnceLock;

use aho_corasick::AhoCorasick;

use super::lexer::{Lexer, Token, is_word};

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

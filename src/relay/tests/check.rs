//! A query that is answered with PostgreSQL's last answer to it.

use super::messages::{Bytes, message, query};
use super::*;

const EMPTY: &[u8] = b"I\0\0\0\x04Z\0\0\0\x05I";

/// What is overheard of these bytes in answer to this query, however they are cut.
fn captured_reply(sql: &str, answer: &[u8]) -> Option<Bytes> {
    let mut found = Vec::new();
    for cut in 0..answer.len() {
        let mut between = Between::new();
        between.session.listen_for_answer(true);
        between.client(&[&query(sql)]);
        between.server(&[&answer[..cut]]);
        between.server(&[&answer[cut..]]);
        between.client_gets(&[answer]);
        found.push(between.session.take_captured());
    }
    found.dedup();
    assert_eq!(found.len(), 1, "it depends on how the answer is cut");
    found.remove(0)
}

fn rows(count: usize) -> Bytes {
    let rows = message(b'D', b"\0\x01\0\0\0\x011").repeat(count);
    let tag = format!("SELECT {count}\0");
    [
        &message(b'T', b"\0\0")[..],
        &rows,
        &message(b'C', tag.as_bytes()),
        b"Z\0\0\0\x05I",
    ]
    .concat()
}

#[test]
fn rows_and_nothing_are_kept_to_the_last_byte() {
    assert_eq!(captured_reply(";", EMPTY).as_deref(), Some(EMPTY));
    for count in [0, 1, 3] {
        let answer = rows(count);
        assert_eq!(captured_reply("select 1", &answer), Some(answer));
    }
    let wide = [
        &message(b'D', &[7; 9000])[..],
        &message(b'C', b"SELECT 1\0"),
        b"Z\0\0\0\x05I",
    ]
    .concat();
    let mut between = Between::new();
    between.session.listen_for_answer(true);
    between.client(&[&query("select 1")]);
    between.server(&[&wide[..5000]]);
    between.server(&[&wide[5000..]]);
    assert_eq!(between.session.take_captured(), Some(wide));
}

#[test]
fn what_is_more_than_rows_is_not_kept() {
    let ready = b"Z\0\0\0\x05I";
    let error = message(b'E', b"SERROR\0C22012\0Mdivision by zero\0\0");
    let notice = message(b'N', b"SNOTICE\0C00000\0Mhello\0\0");
    let done = |tag: &str| message(b'C', format!("{tag}\0").as_bytes());
    assert_eq!(
        captured_reply("select 1/0", &[&error[..], ready].concat()),
        None,
        "an error"
    );
    assert_eq!(
        captured_reply("select f()", &[&notice[..], &rows(1)].concat()),
        None,
        "a notice"
    );
    assert_eq!(
        captured_reply(
            "select 1; select 1/0",
            &[&done("SELECT 1")[..], &error, ready].concat()
        ),
        None,
        "rows, and then an error"
    );
    assert_eq!(
        captured_reply("begin", &[&done("BEGIN")[..], b"Z\0\0\0\x05T"].concat()),
        None,
        "an open transaction"
    );
    assert_eq!(
        captured_reply(
            "insert into t values (1)",
            &[&done("INSERT 0 1")[..], ready].concat()
        ),
        None,
        "what changes something"
    );
    assert_eq!(
        captured_reply("select pg_advisory_lock(1)", &rows(1)),
        None,
        "what leaves something on the server connection"
    );
    let much = rows(10_000);
    let mut between = Between::new();
    between.session.listen_for_answer(true);
    between.passes(&[&query("select 1")], &[&much]);
    assert_eq!(between.session.take_captured(), None, "much");
}

#[test]
fn the_pooler_own_questions_are_not_taken_for_it() {
    let mut between = Between::new();
    between.check = true;
    between.session.listen_for_answer(true);
    between.client(&[&query("select 1")]);
    between.server_gets(&[&query(";")]);
    between.server(&[EMPTY]);
    between.server_gets(&[&query("select 1")]);
    between.server(&[&rows(1)]);
    assert_eq!(between.session.take_captured(), Some(rows(1)));
}

#[test]
fn only_the_first_answer_is_listened_to() {
    let mut between = Between::new();
    between.session.listen_for_answer(true);
    between.client(&[&query("select 1"), &query("select 2")]);
    between.server(&[&rows(1), &rows(2)]);
    assert_eq!(between.session.take_captured(), Some(rows(1)));
    assert_eq!(between.session.take_captured(), None);
}

#[test]
fn it_is_asked_byte_for_byte_and_outside_of_a_transaction() {
    let mut between = Between::new();
    let asks = |between: &Between, sql: &str| between.session.asks_only("select 1", &query(sql));
    assert_eq!(asks(&between, "select 1"), Some(query("select 1").len()));
    assert_eq!(asks(&between, "select 2"), None);
    assert_eq!(asks(&between, "select 1;"), None);
    assert_eq!(asks(&between, "SELECT 1"), None);
    let half = &query("select 1")[..9];
    assert_eq!(between.session.asks_only("select 1", half), None);
    assert_eq!(between.session.asks_only("", &query("")), None);
    between.client(&[&query("begin")]);
    between.server(&[b"C\0\0\0\x0aBEGIN\0Z\0\0\0\x05T"]);
    assert_eq!(asks(&between, "select 1"), None);
}

#[test]
fn it_forgets_the_unnamed_statement_as_any_query_does() {
    let mut between = Between::new();
    between.client(&[&messages::parse("", "select 2"), &messages::sync()]);
    between.server(&[b"1\0\0\0\x04Z\0\0\0\x05I"]);
    assert_eq!(between.session.statements.len(), 1);
    let mut out = Output::default();
    between.session.answer_as_before(EMPTY, &mut out);
    assert!(between.session.statements.is_empty());
    assert_eq!(bytes(&out.client, &[]), EMPTY);
}

//! A statement belongs to the settings its text is read under.

use super::messages::*;
use super::*;

fn in_transaction() -> Between {
    let mut between = Between::new();
    between.client(&[&parse("a", "select 1"), &sync()]);
    between.server(&[&parsed(), &ready()]);
    // Where it stands already, PostgreSQL itself knows what a change means for it.
    between.idle = Some(backend());
    between.client(&[&query("begin")]);
    between.server(&[&complete("BEGIN"), &ready_in_transaction()]);
    between.to_client.clear();
    between.to_server.clear();
    between
}

/// The name on servers of what stands for `a`.
fn stands_for_a(between: &Between) -> String {
    let number = between.session.statements[&b"a"[..]].number;
    between.session.substitutes[&number].server_name()
}

const SET: &str = "set local search_path = b";

#[test]
fn nothing_is_sent_behind_what_may_change_how_it_is_read() {
    for sql in [
        SET,
        "begin; set role b",
        "select set_config('role', 'b', true)",
        "do $$$$",
    ] {
        let mut between = in_transaction();
        between.client(&[&query(sql), &bind("a"), &sync()]);
        between.server_gets(&[&query(sql)]);
        between.server(&[&complete("SET"), &ready_in_transaction()]);
        let other = stands_for_a(&between);
        assert_ne!(other, "DOORMAN_0");
        between.server_gets(&[&parse(&other, "select 1"), &bind(&other), &sync()]);
    }
}

#[test]
fn so_it_is_in_the_extended_protocol() {
    let mut between = in_transaction();
    between.client(&[&parse("", SET), &bind(""), &execute(), &bind("a"), &sync()]);
    between.server_gets(&[&parse("", SET), &bind(""), &execute(), &flush()]);
    between.server(&[&parsed(), &bound(), &complete("SET")]);
    let other = stands_for_a(&between);
    assert_ne!(other, "DOORMAN_0");
    between.server_gets(&[&parse(&other, "select 1"), &bind(&other), &sync()]);
}

#[test]
fn a_statement_comes_back_with_the_same_change_and_with_the_end_of_the_transaction() {
    let mut between = in_transaction();
    between.passes(&[&query(SET)], &[&complete("SET"), &ready_in_transaction()]);
    between.client(&[&bind("a"), &sync()]);
    between.server_gets(&[&parse("DOORMAN_1", "select 1"), &bind("DOORMAN_1"), &sync()]);
    between.server(&[&parsed(), &bound(), &ready_in_transaction()]);
    between.client_gets(&[&bound(), &ready_in_transaction()]);
    between.client(&[&query("commit")]);
    between.to_server.clear();
    between.server(&[&complete("COMMIT"), &ready()]);
    between.to_client.clear();
    between.client(&[&bind("a"), &sync()]);
    between.server_gets(&[&parse("DOORMAN_0", "select 1"), &bind("DOORMAN_0"), &sync()]);
    between.server(&[&parsed(), &bound(), &ready()]);
    between.client(&[&query("begin")]);
    between.server(&[&complete("BEGIN"), &ready_in_transaction()]);
    between.client(&[&query(SET)]);
    between.server(&[&complete("SET"), &ready_in_transaction()]);
    between.to_server.clear();
    between.client(&[&bind("a"), &sync()]);
    between.server_gets(&[&bind("DOORMAN_0"), &sync()]);
}

#[test]
fn what_is_read_under_unknown_settings_is_for_this_transaction_only() {
    let mut between = in_transaction();
    between.client(&[&query("do $$$$")]);
    between.server(&[&complete("DO"), &ready_in_transaction()]);
    between.to_server.clear();
    between.client(&[&bind("a"), &sync()]);
    let got = std::mem::take(&mut between.to_server);
    let number = stands_for_a(&between);
    same(
        "the server",
        &got,
        &[parse(&number, "select 1"), bind(&number), sync()].concat(),
    );
    between.server(&[&parsed(), &bound(), &ready_in_transaction()]);
    // It stays the same until something else may have changed.
    between.client(&[&bind("a"), &sync()]);
    between.server_gets(&[&bind(&number), &sync()]);
}

#[test]
fn a_savepoint_may_take_a_change_back() {
    let mut between = in_transaction();
    between.passes(&[&query(SET)], &[&complete("SET"), &ready_in_transaction()]);
    between.client(&[&query("rollback to s"), &bind("a"), &sync()]);
    between.server_gets(&[&query("rollback to s")]);
    between.server(&[&complete("ROLLBACK"), &ready_in_transaction()]);
    let got = std::mem::take(&mut between.to_server);
    let fresh = stands_for_a(&between);
    assert!(fresh != "DOORMAN_0" && got.starts_with(&parse(&fresh, "select 1")));
}

#[test]
fn clients_with_other_settings_have_other_statements() {
    let mut numbers = std::collections::BTreeSet::new();
    let statements = Arc::new(StatementRegistry::default());
    for zone in ["UTC", "Asia/Tokyo", "UTC"] {
        let reported_to_client = parameters(&[("client_encoding", "UTF8"), ("TimeZone", zone)]);
        let mut between = Between::with(
            session(
                Arc::clone(&reported_to_client),
                Arc::default(),
                Arc::default(),
            ),
            rules(),
        );
        between.statements = Arc::clone(&statements);
        between.idle.as_mut().expect("one").reported = reported_to_client;
        between.client(&[&parse("a", "select 1"), &sync()]);
        numbers.insert(between.session.statements[&b"a"[..]].number);
    }
    assert_eq!(numbers.len(), 2);
}

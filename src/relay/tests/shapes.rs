//! Rows that have got another shape, where PostgreSQL cannot say so.

use super::batches::known;
use super::messages::*;
use super::stale::refused;
use super::*;

/// Rows with another column than [`columns`].
fn other_columns() -> Bytes {
    let field = b"more\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0";
    message(b'T', &[&[0, 1], &field[..]].concat())
}

/// What the server is sent in place of a request that is refused.
fn must_fail() -> Bytes {
    message(b'B', b"\0DOORMAN_refuses\0\0\0\0\0\0\0")
}

fn alter(between: &mut Between) {
    between.passes(
        &[&query("alter table t add more int")],
        &[&complete("ALTER TABLE"), &ready()],
    );
}

/// A client has been told what its statements give, a table has been altered since, and the connection that
/// comes next has none of them.
fn told(texts: &[&str]) -> Between {
    let mut between = known(texts);
    for number in 0..texts.len() {
        between.client(&[&describe(&number.to_string()), &sync()]);
        between.server(&[&takes_parameters(), &columns(), &ready()]);
    }
    between.to_client.clear();
    between.to_server.clear();
    alter(&mut between);
    between.idle = Some(backend());
    between
}

fn look(name: &str, text: &str) -> Bytes {
    [parse(name, text), describe(name), flush()].concat()
}

fn run(name: &str) -> Bytes {
    [bind(name), execute(), sync()].concat()
}

fn done() -> Bytes {
    [bound(), complete("SELECT 0"), ready()].concat()
}

#[test]
fn rows_of_the_same_shape_are_given_after_a_look() {
    let said = [parsed(), takes_parameters(), columns()].concat();
    for cut in 0..said.len() {
        let mut between = told(&["select 1"]);
        between.client(&[&run("0")]);
        between.server_gets(&[&look("DOORMAN_0", "select 1")]);
        between.server(&[&said[..cut]]);
        between.server_gets(&[]);
        between.server(&[&said[cut..]]);
        between.server_gets(&[&run("DOORMAN_0")]);
        between.server(&[&done()]);
        between.client_gets(&[&done()]);
        assert!(between.is_back());
        // One look is enough, wherever it was.
        between.idle = Some(backend());
        between.client(&[&run("0")]);
        between.server_gets(&[&parse("DOORMAN_0", "select 1"), &run("DOORMAN_0")]);
    }
}

#[test]
fn rows_of_another_are_refused_until_the_client_prepares_anew() {
    for shape in [other_columns(), no_data()] {
        let mut between = told(&["select 1"]);
        between.client(&[&run("0")]);
        between.server_gets(&[&look("DOORMAN_0", "select 1")]);
        between.server(&[&parsed(), &takes_parameters(), &shape]);
        between.server_gets(&[&close("DOORMAN_0"), &must_fail(), &execute(), &sync()]);
        between.client_gets(&[]);
        between.server(&[&closed(), &error("26000", "DOORMAN_refuses"), &ready()]);
        between.client_gets(&[&refused(), &ready()]);
        assert!(between.is_back());
        between.client(&[
            &close("0"),
            &parse("0", "select 1"),
            &describe("0"),
            &sync(),
        ]);
        between.server_gets(&[
            &parse("DOORMAN_1", "select 1"),
            &describe("DOORMAN_1"),
            &sync(),
        ]);
        between.server(&[&parsed(), &takes_parameters(), &other_columns(), &ready()]);
        between.client_gets(&[
            &closed(),
            &parsed(),
            &takes_parameters(),
            &other_columns(),
            &ready(),
        ]);
        between.client(&[&run("0")]);
        between.server_gets(&[&run("DOORMAN_1")]);
    }
}

#[test]
fn in_a_transaction_block_the_server_fails_as_well() {
    let mut between = told(&["select 1"]);
    between.passes(
        &[&query("begin")],
        &[&complete("BEGIN"), &ready_in_transaction()],
    );
    between.client(&[&run("0")]);
    between.server_gets(&[&look("DOORMAN_0", "select 1")]);
    between.server(&[&parsed(), &takes_parameters(), &other_columns()]);
    between.server_gets(&[&close("DOORMAN_0"), &must_fail(), &execute(), &sync()]);
    between.server(&[
        &closed(),
        &error("26000", "DOORMAN_refuses"),
        &ready_failed(),
    ]);
    between.client_gets(&[&refused(), &ready_failed()]);
}

#[test]
fn what_comes_before_it_in_the_pipeline_has_its_replies_and_what_comes_behind_waits() {
    let mut between = told(&["select 1", "select 2"]);
    between.client(&[
        &query("select 3"),
        &bind("0"),
        &execute(),
        &flush(),
        &sync(),
        &run("1"),
    ]);
    between.server_gets(&[&query("select 3"), &look("DOORMAN_0", "select 1")]);
    let three = selected("3");
    between.server(&[&three, &parsed(), &takes_parameters(), &columns()]);
    between.client_gets(&[&three]);
    between.server_gets(&[
        &bind("DOORMAN_0"),
        &execute(),
        &flush(),
        &sync(),
        &look("DOORMAN_1", "select 2"),
    ]);
    between.server(&[&done(), &parsed(), &takes_parameters(), &columns()]);
    between.client_gets(&[&done()]);
    between.server_gets(&[&run("DOORMAN_1")]);
}

#[test]
fn who_prepares_it_after_the_change_is_served() {
    let mut between = told(&["select 1"]);
    between.client(&[&parse("x", "select 1"), &run("x")]);
    // A new analysis, also where the old one stands.
    between.server_gets(&[&parse("DOORMAN_1", "select 1"), &run("DOORMAN_1")]);
    between.server(&[&parsed(), &done()]);
    between.client_gets(&[&parsed(), &done()]);
}

#[test]
fn a_statement_that_can_no_longer_be_parsed_fails_its_batch() {
    let mut between = told(&["select 1"]);
    between.client(&[&run("0")]);
    between.to_server.clear();
    let gone = error("42P01", "relation \"t\" does not exist");
    between.server(&[&gone]);
    between.client_gets(&[&gone]);
    between.server_gets(&[&sync()]);
    between.server(&[&ready()]);
    between.client_gets(&[&ready()]);
    assert!(between.is_back());
}

#[test]
fn a_portal_described_is_a_statement_described() {
    for portal in ["", "p"] {
        let mut between = known(&["select 1"]);
        between.client(&[
            &bind_to(portal, "0"),
            &describe_portal(portal),
            &execute(),
            &sync(),
        ]);
        between.server(&[&bound(), &columns(), &complete("SELECT 0"), &ready()]);
        between.to_client.clear();
        between.to_server.clear();
        alter(&mut between);
        between.idle = Some(backend());
        between.client(&[&run("0")]);
        between.server_gets(&[&look("DOORMAN_0", "select 1")]);
    }
}

#[test]
fn what_was_told_under_settings_that_were_not_known_holds_as_well() {
    let mut between = Between::new();
    between.client(&[&query("begin; do $$ $$")]);
    between.server(&[&complete("BEGIN"), &complete("DO"), &ready_in_transaction()]);
    between.client(&[&parse("0", "select 1"), &describe("0"), &sync()]);
    between.server(&[
        &parsed(),
        &takes_parameters(),
        &columns(),
        &ready_in_transaction(),
    ]);
    between.client(&[&query("end")]);
    between.server(&[&complete("COMMIT"), &ready()]);
    // What the DO may have left is undone.
    between.server(&[&complete("DISCARD ALL"), &ready()]);
    between.server(&[&complete("RESET"), &ready()]);
    assert!(between.is_back());
    between.to_client.clear();
    between.to_server.clear();
    alter(&mut between);
    between.idle = Some(backend());
    between.client(&[&run("0")]);
    between.server(&[&parsed(), &takes_parameters(), &other_columns()]);
    between.server(&[&closed(), &error("26000", "DOORMAN_refuses"), &ready()]);
    between.client_gets(&[&refused(), &ready()]);
}

#[test]
fn nobody_looks_where_nothing_has_been_defined_or_told() {
    let mut between = known(&["select 1"]);
    between.client(&[&describe("0"), &sync()]);
    between.server(&[&takes_parameters(), &columns(), &ready()]);
    between.to_server.clear();
    between.idle = Some(backend());
    between.client(&[&run("0")]);
    between.server_gets(&[&parse("DOORMAN_0", "select 1"), &run("DOORMAN_0")]);

    let mut between = known(&["select 1"]);
    alter(&mut between);
    between.idle = Some(backend());
    between.client(&[&run("0")]);
    between.server_gets(&[&parse("DOORMAN_0", "select 1"), &run("DOORMAN_0")]);
}

#[test]
fn what_a_transaction_defines_counts_also_when_it_ends() {
    let mut between = known(&["select 1"]);
    let statements = Arc::clone(&between.statements);
    between.passes(
        &[&query("begin; drop view v")],
        &[
            &complete("BEGIN"),
            &complete("DROP VIEW"),
            &ready_in_transaction(),
        ],
    );
    let before = statements.epoch();
    between.passes(&[&query("rollback")], &[&complete("ROLLBACK"), &ready()]);
    assert!(statements.epoch() > before);
    let after = statements.epoch();
    between.passes(&[&query("select 1")], &[&selected("1")]);
    assert_eq!(statements.epoch(), after);
}

//! Prepared statements whose result has changed its type since they were parsed.

use super::batches::known;
use super::messages::*;
use super::*;

fn stale() -> Bytes {
    error("0A000", "cached plan must not change result type")
}

/// What a client hears from the pooler when it would misread the rows.
pub fn refused() -> Bytes {
    let words = "Mcached plan must not change result type";
    let fields = [
        "SERROR",
        "VERROR",
        "C0A000",
        words,
        "RRevalidateCachedQuery",
        "",
    ];
    let body: String = fields.map(|field| format!("{field}\0")).concat();
    message(b'E', body.as_bytes())
}

fn select() -> Bytes {
    [bind("x"), describe_portal(""), execute()].concat()
}

fn reply() -> Bytes {
    [bound(), columns(), complete("SELECT 0"), ready()].concat()
}

#[test]
fn a_statement_just_parsed_is_parsed_anew_behind_the_clients_back() {
    for cut in 0..stale().len() {
        let mut between = known(&["select 1"]);
        between.client(&[&parse("x", "select 1"), &select(), &sync()]);
        between.server_gets(&[
            &bind("DOORMAN_0"),
            &describe_portal(""),
            &execute(),
            &sync(),
        ]);
        between.server(&[&stale()[..cut]]);
        between.server(&[&stale()[cut..], &ready()]);
        between.server_gets(&[
            &close("DOORMAN_0"),
            &parse("DOORMAN_1", "select 1"),
            &bind("DOORMAN_1"),
            &describe_portal(""),
            &execute(),
            &sync(),
        ]);
        between.server(&[&closed(), &parsed(), &reply()]);
        between.client_gets(&[&parsed(), &reply()]);
        assert!(between.is_back());
        assert_eq!(between.session.work.errors, 0);
    }
}

#[test]
fn so_is_one_that_runs_without_a_description_if_it_was_parsed_in_the_same_batch() {
    let mut between = known(&["select 1"]);
    between.client(&[&parse("x", "select 1"), &bind("x"), &execute(), &sync()]);
    between.server(&[&stale(), &ready()]);
    between.to_server.clear();
    between.server(&[
        &closed(),
        &parsed(),
        &bound(),
        &complete("SELECT 0"),
        &ready(),
    ]);
    between.client_gets(&[&parsed(), &bound(), &complete("SELECT 0"), &ready()]);
}

#[test]
fn a_description_is_given_once_and_of_the_new_plan() {
    let said = [takes_parameters(), stale()].concat();
    for cut in 0..said.len() {
        let mut between = known(&["select $1"]);
        between.client(&[&parse("x", "select $1"), &describe("x"), &sync()]);
        between.server_gets(&[&describe("DOORMAN_0"), &sync()]);
        between.client_gets(&[&parsed()]);
        between.server(&[&said[..cut]]);
        between.server(&[&said[cut..], &ready()]);
        between.server_gets(&[
            &close("DOORMAN_0"),
            &parse("DOORMAN_1", "select $1"),
            &describe("DOORMAN_1"),
            &sync(),
        ]);
        between.server(&[
            &closed(),
            &parsed(),
            &takes_parameters(),
            &columns(),
            &ready(),
        ]);
        between.client_gets(&[&takes_parameters(), &columns(), &ready()]);
    }
}

#[test]
fn a_batch_that_ends_with_a_flush_is_taken_up_again_too() {
    let mut between = known(&["select 1"]);
    between.client(&[&parse("x", "select 1"), &select(), &flush()]);
    between.to_server.clear();
    between.client_gets(&[&parsed()]);
    between.server(&[&stale()]);
    between.server_gets(&[&sync()]);
    between.server(&[&ready()]);
    between.server_gets(&[
        &close("DOORMAN_0"),
        &parse("DOORMAN_1", "select 1"),
        &bind("DOORMAN_1"),
        &describe_portal(""),
        &execute(),
        &flush(),
    ]);
    between.server(&[
        &closed(),
        &parsed(),
        &bound(),
        &columns(),
        &complete("SELECT 0"),
    ]);
    between.client_gets(&[&bound(), &columns(), &complete("SELECT 0")]);
    between.client(&[&sync()]);
    between.server(&[&ready()]);
    between.client_gets(&[&ready()]);
    assert!(between.is_back());
}

#[test]
fn a_client_that_runs_what_it_prepared_before_is_told_as_by_postgresql() {
    let mut between = known(&["select 1"]);
    between.client(&[&bind("0"), &execute(), &sync()]);
    between.server(&[&stale(), &ready()]);
    between.client_gets(&[&stale(), &ready()]);
    // Also where the statement is not stale because it is not there: the client would misread the rows.
    between.to_server.clear();
    between.idle = Some(backend());
    between.client(&[&bind("0"), &execute(), &sync()]);
    between.server(&[&error("26000", "DOORMAN_refuses"), &ready()]);
    between.client_gets(&[&refused(), &ready()]);
    // There are drivers that ask and misread them all the same.
    between.client(&[&bind("0"), &describe_portal(""), &execute(), &sync()]);
    between.server(&[&error("26000", "DOORMAN_refuses"), &ready()]);
    between.client_gets(&[&refused(), &ready()]);
    between.client(&[&describe("0"), &sync()]);
    between.server(&[&error("26000", "DOORMAN_refuses"), &ready()]);
    between.client_gets(&[&refused(), &ready()]);
    // When it has prepared anew it is served.
    between.to_server.clear();
    between.client(&[&close("0"), &parse("0", "select 1"), &bind("0"), &sync()]);
    between.server_gets(&[&parse("DOORMAN_1", "select 1"), &bind("DOORMAN_1"), &sync()]);
    between.server(&[&parsed(), &bound(), &ready()]);
    between.client_gets(&[&closed(), &parsed(), &bound(), &ready()]);
}

#[test]
fn in_a_transaction_block_the_client_is_told_and_the_next_use_works() {
    let mut between = known(&["select 1"]);
    between.passes(
        &[&query("begin")],
        &[&complete("BEGIN"), &ready_in_transaction()],
    );
    between.client(&[&parse("x", "select 1"), &select(), &sync()]);
    between.server(&[&stale(), &ready_failed()]);
    between.client_gets(&[&parsed(), &stale(), &ready_failed()]);
    between.to_server.clear();
    between.passes(&[&query("rollback")], &[&complete("ROLLBACK"), &ready()]);
    between.client(&[&parse("y", "select 1"), &bind("y"), &sync()]);
    between.server_gets(&[
        &close("DOORMAN_0"),
        &parse("DOORMAN_1", "select 1"),
        &bind("DOORMAN_1"),
        &sync(),
    ]);
}

#[test]
fn what_has_been_run_in_the_batch_is_not_run_again() {
    let mut between = known(&["insert", "select 1"]);
    between.client(&[
        &bind("0"),
        &execute(),
        &parse("x", "select 1"),
        &select(),
        &sync(),
    ]);
    between.server(&[&bound(), &complete("INSERT 0 1"), &stale(), &ready()]);
    let reported_to_client = [bound(), complete("INSERT 0 1"), parsed(), stale(), ready()];
    between.client_gets(&[&reported_to_client.concat()]);
    assert!(between.is_back());
}

#[test]
fn nothing_is_taken_up_again_behind_what_has_been_sent_later() {
    let mut between = known(&["select 1"]);
    between.client(&[
        &parse("x", "select 1"),
        &select(),
        &sync(),
        &query("select 2"),
    ]);
    between.to_server.clear();
    between.server(&[&stale(), &ready(), &complete("SELECT 1"), &ready()]);
    between.client_gets(&[
        &parsed(),
        &stale(),
        &ready(),
        &complete("SELECT 1"),
        &ready(),
    ]);
    between.server_gets(&[]);
}

#[test]
fn another_client_with_a_fresh_statement_does_not_hear_of_it() {
    let mut one = known(&["select 1"]);
    let mut other = Between::new();
    other.statements = Arc::clone(&one.statements);
    one.client(&[&bind("0"), &execute(), &sync()]);
    one.server(&[&stale(), &ready()]);
    other.client(&[&parse("x", "select 1"), &sync()]);
    other.server_gets(&[&parse("DOORMAN_1", "select 1"), &sync()]);
}

#[test]
fn an_error_of_the_same_code_that_means_something_else_passes() {
    let mut between = known(&["select 1"]);
    let other = error("0A000", "cursor can only scan forward");
    between.client(&[&parse("x", "select 1"), &select(), &sync()]);
    between.server(&[&other, &ready()]);
    between.client_gets(&[&parsed(), &other, &ready()]);
}

fn not_an_int() -> Bytes {
    error("22P02", "invalid input")
}

/// The server is asked to analyse anew, with the client's Bind behind it.
fn doubted() -> Between {
    let mut between = known(&["select 1"]);
    between.client(&[&parse("x", "select 1"), &select(), &sync()]);
    between.server(&[&not_an_int(), &ready()]);
    between.client_gets(&[&parsed()]);
    between.to_server.clear();
    between
}

#[test]
fn what_was_answered_from_memory_and_fails_is_analysed_anew() {
    let mut between = known(&["select 1"]);
    between.client(&[&parse("x", "select 1"), &select(), &sync()]);
    let rest = [describe_portal(""), execute(), sync()].concat();
    between.server_gets(&[&bind("DOORMAN_0"), &rest]);
    between.server(&[&not_an_int(), &ready()]);
    between.server_gets(&[&parse("DOORMAN_1", "select 1"), &bind("DOORMAN_1"), &rest]);
    between.server(&[&parsed(), &reply()]);
    between.client_gets(&[&parsed(), &reply()]);
    // It behaves otherwise: nobody uses the old one any more.
    between.client(&[&parse("y", "select 1"), &sync()]);
    between.server_gets(&[
        &close("DOORMAN_0"),
        &parse("DOORMAN_2", "select 1"),
        &sync(),
    ]);
}

#[test]
fn a_mistake_of_the_clients_own_is_told_once_and_the_old_one_stays() {
    let mut between = doubted();
    between.server(&[&parsed(), &not_an_int(), &ready()]);
    between.client_gets(&[&not_an_int(), &ready()]);
    between.client(&[&parse("y", "select 1"), &bind("x"), &sync()]);
    between.server_gets(&[&close("DOORMAN_1"), &bind("DOORMAN_0"), &sync()]);
}

#[test]
fn what_cannot_be_analysed_any_more_is_not_used_either() {
    let mut between = doubted();
    between.server(&[&error("42P01", "no such table"), &ready()]);
    between.client_gets(&[&error("42P01", "no such table"), &ready()]);
    between.client(&[&parse("y", "select 1"), &sync()]);
    between.server_gets(&[
        &close("DOORMAN_0"),
        &parse("DOORMAN_2", "select 1"),
        &sync(),
    ]);
}

#[test]
fn a_parse_that_the_server_has_seen_is_not_doubted() {
    let mut between = Between::new();
    between.client(&[&parse("x", "select 1"), &select(), &sync()]);
    between.server(&[&parsed(), &not_an_int(), &ready()]);
    between.client_gets(&[&parsed(), &not_an_int(), &ready()]);
    between.to_server.clear();
    // Nor is one in a block.
    between.passes(
        &[&query("begin")],
        &[&complete("BEGIN"), &ready_in_transaction()],
    );
    between.client(&[&parse("y", "select 1"), &bind("y"), &sync()]);
    between.to_client.clear();
    between.server(&[&not_an_int(), &ready_failed()]);
    between.client_gets(&[&not_an_int(), &ready_failed()]);
}

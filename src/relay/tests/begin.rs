//! A BEGIN that PostgreSQL hears of with the request behind it.

use super::messages::*;
use super::*;
use crate::relay::begin::Deferred;

/// A client that has said `begin;` and nothing else.
fn begun() -> Between {
    let mut between = Between::new();
    between.client(&[&query("begin;")]);
    between.client_gets(&[&complete("BEGIN"), &ready_in_transaction()]);
    between.server_gets(&[]);
    assert!(between.is_back(), "it has taken no server connection");
    between
}

/// One whose next request was cancelled before a server had seen it.
fn failed() -> Between {
    let mut between = begun();
    let idle = between.idle.take();
    let wants = between.try_client(&query("select 1"));
    assert_eq!(wants, Ok(Wants::Server));
    between.refuse();
    between.client_gets(&[&error("57014", "canceled"), &ready_failed()]);
    between.idle = idle;
    between
}

fn fails_on_purpose() -> Bytes {
    query("DEALLOCATE \"DOORMAN_refuses\"")
}

/// PostgreSQL takes up the block; the client hears nothing of it.
#[track_caller]
fn takes_up(between: &mut Between) {
    between.server_gets(&[&query("BEGIN")]);
    between.server(&[&complete("BEGIN"), &ready_in_transaction()]);
    between.client_gets(&[]);
    assert_eq!(between.session.deferred, Deferred::Nothing);
}

#[test]
fn postgresql_hears_of_it_before_the_request_behind_it() {
    let mut between = begun();
    between.client(&[&query("select 1")]);
    takes_up(&mut between);
    between.server_gets(&[&query("select 1")]);
    let reply = [columns(), row(&["1"]), complete("SELECT 1")].concat();
    between.server(&[&reply, &ready_in_transaction()]);
    between.client_gets(&[&reply, &ready_in_transaction()]);
    assert_eq!(between.session.phase(), Phase::Serving);
    between.passes(&[&query("commit;")], &[&complete("COMMIT"), &ready()]);
    assert!(between.is_back());
    assert_eq!(between.session.work.transactions, 1);
}

#[test]
fn before_a_batch_too() {
    let mut between = begun();
    between.client(&[&parse("", "select 1"), &bind(""), &execute()]);
    takes_up(&mut between);
    between.client(&[&sync()]);
    assert!(!between.to_server.is_empty());
    between.server(&[
        &parsed(),
        &bound(),
        &complete("SELECT 1"),
        &ready_in_transaction(),
    ]);
    assert_eq!(between.session.phase(), Phase::Serving);
}

#[test]
fn in_any_letters_but_in_no_other_words() {
    let mut between = Between::new();
    between.client(&[&query("BeGin;")]);
    between.client_gets(&[&complete("BEGIN"), &ready_in_transaction()]);
    for other in [
        "begin",
        "begin ;",
        "begin;;",
        "begin read only;",
        "start transaction;",
    ] {
        let mut between = Between::new();
        between.passes(
            &[&query(other)],
            &[&complete("BEGIN"), &ready_in_transaction()],
        );
    }
    let mut between = Between::new();
    let batch = [parse("", "begin;"), bind(""), execute(), sync()].concat();
    between.client(&[&batch]);
    assert!(!between.to_server.is_empty());
}

#[test]
fn with_more_behind_it_no_server_connection_would_be_saved() {
    let mut between = Between::new();
    let both = [query("begin;"), query("select 1")].concat();
    between.client(&[&both]);
    between.server_gets(&[&both]);
    let mut between = Between::new();
    let cut = [query("begin;"), b"Q".to_vec()].concat();
    between.client(&[&cut]);
    between.server_gets(&[&query("begin;")]);
}

#[test]
fn in_session_mode_the_client_keeps_its_server_connection_anyway() {
    let mut session = session(parameters(&REPORTED), Arc::default(), Arc::default());
    session.rules.mode = Mode::Session;
    let mut between = Between::with(session, rules());
    between.client(&[&query("begin;")]);
    between.server_gets(&[&query("begin;")]);
}

#[test]
fn a_block_with_nothing_in_it_needs_no_server() {
    for (said, tag) in [
        ("commit;", "COMMIT"),
        ("COMMIT", "COMMIT"),
        (" end ; ", "COMMIT"),
        ("ROLLBACK;", "ROLLBACK"),
        ("abort", "ROLLBACK"),
    ] {
        let mut between = begun();
        between.client(&[&query(said)]);
        between.client_gets(&[&complete(tag), &ready()]);
        between.server_gets(&[]);
        // Outside of a block it is PostgreSQL's to warn.
        between.client(&[&query(said)]);
        between.server_gets(&[&query(said)]);
    }
    for other in ["commit and chain", "commit; commit", "rollback to a"] {
        let mut between = begun();
        between.client(&[&query(other)]);
        takes_up(&mut between);
        between.server_gets(&[&query(other)]);
    }
}

#[test]
fn postgresql_warns_of_a_second_begin() {
    let mut between = begun();
    between.client(&[&query("begin;")]);
    takes_up(&mut between);
    between.server_gets(&[&query("begin;")]);
    let reply = [
        notice("there is already a transaction in progress"),
        complete("BEGIN"),
        ready_in_transaction(),
    ];
    between.server(&[&reply.concat()]);
    between.client_gets(&[&reply.concat()]);
}

#[test]
fn what_needs_no_server_is_answered_as_in_a_block() {
    let mut between = begun();
    between.client(&[&flush(), &sync(), &sync()]);
    between.client_gets(&[&ready_in_transaction(), &ready_in_transaction()]);
    between.client(&[&query("deallocate all")]);
    between.client_gets(&[&complete("DEALLOCATE ALL"), &ready_in_transaction()]);
    assert!(between.session.asks_only(";", &query(";")).is_none());

    let mut between = Between::new();
    between.client(&[&parse("a", "select 1"), &sync()]);
    between.server(&[&parsed(), &ready()]);
    between.client(&[&query("begin;"), &[]]);
    between.to_client.clear();
    between.client(&[&query("deallocate a")]);
    between.client_gets(&[&complete("DEALLOCATE"), &ready_in_transaction()]);
    assert!(between.is_back() && between.session.statements.is_empty());
}

#[test]
fn a_statement_of_anothers_cannot_be_deallocated_and_postgresql_fails_the_block() {
    let mut between = begun();
    between.client(&[&query("deallocate \"DOORMAN_7\"")]);
    takes_up(&mut between);
    between.server_gets(&[&fails_on_purpose()]);
}

#[test]
fn it_forgets_the_unnamed_statement_as_any_query_does() {
    let mut between = Between::new();
    between.client(&[&parse("", "select 1"), &sync()]);
    between.server(&[&parsed(), &ready()]);
    assert!(!between.session.statements.is_empty());
    between.client(&[&query("begin;")]);
    assert!(between.session.statements.is_empty());
}

#[test]
fn settings_are_made_before_it() {
    let mut session = session(parameters(&REPORTED), Arc::default(), Arc::default());
    session.untracked = parameters(&[("work_mem", "1MB")]);
    let mut between = Between::with(session, rules());
    between.client(&[&query("begin;")]);
    between.client(&[&query("select 1")]);
    let set = query("SELECT pg_catalog.set_config('work_mem','1MB',false)");
    between.server_gets(&[&set, &query("BEGIN")]);
    between.server(&[&selected("1MB")]);
    between.server_gets(&[]);
    between.server(&[&complete("BEGIN"), &ready_in_transaction()]);
    between.server_gets(&[&query("select 1")]);
}

#[test]
fn a_server_connection_that_is_lost_before_has_lost_nothing() {
    let mut between = begun();
    between.client(&[&query("select 1")]);
    between.server_gets(&[&query("BEGIN")]);
    between.session.give_up_connection();
    between.idle = Some(backend());
    between.client(&[]);
    takes_up(&mut between);
    between.server_gets(&[&query("select 1")]);
}

#[test]
fn if_postgresql_refuses_it_nothing_behind_it_is_sent() {
    let mut between = begun();
    between.client(&[&query("insert")]);
    between.server_gets(&[&query("BEGIN")]);
    between.server(&[&error("57014", "canceled"), &ready()]);
    between.server_gets(&[]);
    assert_eq!(between.session.phase(), Phase::Preparing);
    assert_eq!(between.link().cancelled.as_deref(), Some("canceled"));
    assert!(between.link().setup_error.is_some());
}

#[test]
fn a_block_whose_request_was_refused_has_failed() {
    for said in ["rollback", "commit;"] {
        let mut between = failed();
        between.client(&[&sync()]);
        between.client_gets(&[&ready_failed()]);
        between.client(&[&query(said)]);
        between.client_gets(&[&complete("ROLLBACK"), &ready()]);
        between.server_gets(&[]);
        assert!(between.is_back());
    }
}

#[test]
fn postgresql_itself_answers_in_a_failed_block() {
    for request in [query("select 2"), query("begin;"), query("deallocate all")] {
        let mut between = failed();
        between.client(&[&request]);
        between.server_gets(&[&query("BEGIN"), &fails_on_purpose()]);
        between.server(&[&complete("BEGIN"), &ready_in_transaction()]);
        between.server(&[&error("26000", "does not exist"), &ready_failed()]);
        between.client_gets(&[]);
        between.server_gets(&[&request]);
        between.server(&[&error("25P02", "aborted"), &ready_failed()]);
        between.client_gets(&[&error("25P02", "aborted"), &ready_failed()]);
        between.passes(&[&query("rollback")], &[&complete("ROLLBACK"), &ready()]);
        assert!(between.is_back());
    }
}

#[test]
fn a_batch_that_is_refused_fails_the_block_at_once() {
    let mut between = begun();
    between.idle = None;
    let batch = [parse("", "select 1"), bind(""), execute()].concat();
    assert_eq!(between.try_client(&batch), Ok(Wants::Server));
    between.refuse();
    between.client(&[&query("rollback"), &sync()]);
    between.client_gets(&[&error("57014", "canceled"), &ready_failed()]);
    between.client(&[&query("rollback")]);
    between.client_gets(&[&complete("ROLLBACK"), &ready()]);
}

#[test]
fn a_client_that_is_gone_has_nothing_to_undo() {
    let mut between = begun();
    assert!(between.client_gone());
    assert!(between.is_back());
    // While PostgreSQL takes it up.
    let mut between = begun();
    between.client(&[&query("select 1")]);
    assert!(between.client_gone());
    between.server_gets(&[&query("BEGIN")]);
    between.server(&[&complete("BEGIN"), &ready_in_transaction()]);
    between.server_gets(&[&query("ROLLBACK")]);
    between.server(&[&complete("ROLLBACK"), &ready()]);
    assert!(between.is_back());
}

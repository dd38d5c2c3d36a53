//! Prepared statements that follow their client from one server connection to another.

use super::batches::known;
use super::messages::*;
use super::*;
use crate::relay::expected::{Expected, Reply};
use crate::relay::in_flight::Open;
use crate::relay::shared_statements::SharedStatements as _;

/// The settings under which this client's statements are read.
fn reads(between: &Between) -> Arc<[u8]> {
    let of_one = between.session.statements.values().next();
    Arc::clone(&of_one.expect("it has prepared something").under)
}

fn numbers_surplus(between: &Between, sql: &str) -> Bytes {
    let statement =
        between
            .statements
            .intern(&[sql.as_bytes(), b"\0\0\0"].concat(), &reads(between), 100);
    close(&statement.server_name())
}

#[test]
fn a_missing_statement_is_put_into_the_clients_batch_and_its_reply_dropped() {
    for cut in 0..parsed().len() {
        let mut between = known(&["select 1"]);
        between.idle = Some(backend());
        between.client(&[&bind("0"), &execute(), &sync()]);
        between.server_gets(&[
            &parse("DOORMAN_0", "select 1"),
            &bind("DOORMAN_0"),
            &execute(),
            &sync(),
        ]);
        let reply = [bound(), complete("SELECT 0"), ready()].concat();
        between.server(&[&parsed()[..cut]]);
        between.server(&[&parsed()[cut..], &reply]);
        between.client_gets(&[&reply]);
        assert!(between.is_back());
        between.client(&[&describe("0"), &sync()]);
        between.server_gets(&[&describe("DOORMAN_0"), &sync()]);
    }
}

#[test]
fn a_failing_hidden_parse_is_the_clients_error_and_is_tried_again() {
    let mut between = known(&["select 1"]);
    between.idle = Some(backend());
    between.client(&[&bind("0"), &execute(), &sync()]);
    between.server(&[&error("25P02", "aborted"), &ready()]);
    between.client_gets(&[&error("25P02", "aborted"), &ready()]);
    between.to_server.clear();
    between.client(&[&bind("0"), &sync()]);
    between.server_gets(&[&parse("DOORMAN_0", "select 1"), &bind("DOORMAN_0"), &sync()]);
}

#[test]
fn a_failed_parse_leaves_neither_name_nor_entry() {
    let mut between = Between::new();
    between.client(&[&parse("a", "selec"), &bind("a"), &execute(), &sync()]);
    between.server(&[&error("42601", "syntax"), &ready()]);
    assert!(between.session.statements.is_empty());
    between.to_server.clear();
    between.client(&[&parse("a", "selec"), &sync()]);
    between.server_gets(&[&parse("DOORMAN_0", "selec"), &sync()]);
}

#[test]
fn the_unnamed_statement_ends_with_a_failed_parse_and_with_any_query() {
    let mut between = Between::new();
    let prepare = |between: &mut Between| {
        between.client(&[&parse("", "select 1"), &sync()]);
        if !between.to_client.ends_with(&parsed()) {
            between.server(&[&parsed()]);
        }
        between.server(&[&ready()]);
        assert!(between.session.statements.contains_key(&b""[..]));
        between.to_client.clear();
        between.to_server.clear();
    };
    prepare(&mut between);
    between.client(&[&parse("", "selec"), &parse("", "selec 2"), &sync()]);
    between.server(&[&error("42601", "syntax"), &ready()]);
    between.to_server.clear();
    between.client(&[&bind(""), &sync()]);
    between.server_gets(&[&refused(), &sync()]);
    between.server(&[&error("26000", "unnamed"), &ready()]);

    prepare(&mut between);
    between.client(&[&query(";"), &bind(""), &sync()]);
    between.server_gets(&[&query(";")]);
    between.server(&[&nothing_to_run(), &ready()]);
    between.server_gets(&[&refused(), &sync()]);
    between.server(&[&error("26000", "unnamed"), &ready()]);

    // Not with one that the server skips.
    prepare(&mut between);
    between.client(&[
        &bind("none"),
        &query("select 2"),
        &sync(),
        &bind(""),
        &sync(),
    ]);
    between.server(&[&error("26000", "none"), &ready()]);
    let sent = between.to_server.clone();
    let again = [parse("", "select 1"), bind(""), sync()].concat();
    assert!(sent.ends_with(&again), "{}", sent.escape_ascii());
}

#[test]
fn the_unnamed_statement_goes_to_the_server_as_it_is_and_is_shared_by_nobody() {
    let mut between = Between::new();
    let batch = [parse("", "select 'now'"), bind(""), execute(), sync()].concat();
    let reply = [parsed(), bound(), complete("SELECT 1"), ready()].concat();
    for _ in 0..3 {
        between.passes(&[&batch], &[&reply]);
        assert!(between.is_back());
    }
    assert_eq!(between.statements.len(), 0);
    assert_eq!(
        between.idle.as_ref().map(|idle| idle.prepared.len()),
        Some(0)
    );
}

#[test]
fn a_bind_without_its_parse_gets_it_from_memory_once_in_a_transaction() {
    let mut between = Between::new();
    between.passes(&[&parse("", "select 1"), &sync()], &[&parsed(), &ready()]);
    let run = [bind(""), execute(), sync()].concat();
    let reply = [bound(), complete("SELECT 1"), ready()].concat();
    for _ in 0..2 {
        between.client(&[&run]);
        between.server_gets(&[&parse("", "select 1"), &run]);
        between.server(&[&parsed(), &reply]);
        between.client_gets(&[&reply]);
    }
    between.passes(
        &[&query("begin")],
        &[&complete("BEGIN"), &ready_in_transaction()],
    );
    // A Query has ended it.
    between.client(&[&run]);
    between.server_gets(&[&refused(), &execute(), &sync()]);
}

#[test]
fn what_is_parsed_from_memory_and_fails_is_parsed_again_the_next_time() {
    let mut between = Between::new();
    between.passes(&[&parse("", "select 1"), &sync()], &[&parsed(), &ready()]);
    for _ in 0..2 {
        between.client(&[&bind(""), &sync()]);
        between.server_gets(&[&parse("", "select 1"), &bind(""), &sync()]);
        between.server(&[&error("42P01", "gone"), &ready()]);
        between.client_gets(&[&error("42P01", "gone"), &ready()]);
    }
}

#[test]
fn an_unnamed_parse_that_is_skipped_leaves_anothers_statement_unreached() {
    for follows in [true, false] {
        let mut between = Between::new();
        between.rules.follow_statements = follows;
        between.rules.mode = Mode::Session;
        between.client(&[&bind("none"), &parse("", "select 1"), &sync()]);
        between.server(&[&error("26000", "none"), &ready()]);
        between.to_server.clear();
        between.client(&[&bind(""), &sync()]);
        between.server_gets(&[&refused(), &sync()]);
    }
}

fn not_there(name: &str) -> Bytes {
    let words = format!("prepared statement \"{name}\" does not exist");
    let mut own = Vec::new();
    crate::wire::error::error_response(
        &mut own,
        crate::wire::error::Severity::Error,
        "26000",
        &words,
    );
    own
}

#[test]
fn anothers_statement_is_not_reached_by_the_name_it_has_on_the_server() {
    let one = known(&["select 1"]);
    let mut other = Between::new();
    other.idle = one.idle;
    let failure = error(
        "26000",
        "prepared statement \"DOORMAN_refuses\" does not exist",
    );
    for request in [
        bind("DOORMAN_0"),
        describe("DOORMAN_0"),
        parse("", "deallocate \"DOORMAN_0\""),
    ] {
        other.client(&[&request, &sync()]);
        let asked = match request == describe("DOORMAN_0") {
            true => describe("DOORMAN_refuses"),
            false => refused(),
        };
        other.server_gets(&[&asked, &sync()]);
        other.server(&[&failure, &ready()]);
        other.client_gets(&[&not_there("DOORMAN_0"), &ready()]);
    }
    other.client(&[&close("DOORMAN_0"), &sync()]);
    other.server_gets(&[]);
    other.client_gets(&[&closed(), &ready()]);
    other.client(&[&query("deallocate \"DOORMAN_0\"")]);
    other.server_gets(&[]);
    other.client_gets(&[&not_there("DOORMAN_0"), &ready()]);
    other.passes(
        &[&query("begin")],
        &[&complete("BEGIN"), &ready_in_transaction()],
    );
    other.client(&[&query("deallocate \"DOORMAN_0\"")]);
    other.server_gets(&[&query("DEALLOCATE \"DOORMAN_refuses\"")]);
    other.server(&[&failure, &ready_failed()]);
    other.client_gets(&[&not_there("DOORMAN_0"), &ready_failed()]);
}

#[test]
fn a_client_may_call_its_own_statement_what_it_likes() {
    let mut between = Between::new();
    between.client(&[
        &parse("x", "select 1"),
        &parse("DOORMAN_0", "select 2"),
        &sync(),
    ]);
    between.server(&[&parsed(), &parsed(), &ready()]);
    between.to_server.clear();
    between.client(&[&bind("DOORMAN_0"), &sync()]);
    between.server_gets(&[&bind("DOORMAN_1"), &sync()]);
}

#[test]
fn deallocate_all_outside_of_a_transaction_needs_no_server() {
    let mut between = known(&["select 1", "select 2"]);
    between.client(&[&query("deallocate all")]);
    between.server_gets(&[]);
    between.client_gets(&[&complete("DEALLOCATE ALL"), &ready()]);
    assert!(between.session.statements.is_empty());
    // And what others have stays.
    between.client(&[&parse("a", "select 1"), &bind("a"), &sync()]);
    between.server_gets(&[&bind("DOORMAN_0"), &sync()]);
}

#[test]
fn an_unnamed_statement_that_does_not_follow_is_not_found_by_the_next_client() {
    let mut between = Between::new();
    between.rules.follow_statements = false;
    between.client(&[&bind(""), &sync()]);
    between.server_gets(&[&refused(), &sync()]);
    between.server(&[&error("26000", "DOORMAN_refuses"), &ready()]);
    let mut words = Vec::new();
    crate::wire::error::error_response(
        &mut words,
        crate::wire::error::Severity::Error,
        "26000",
        "unnamed prepared statement does not exist",
    );
    between.client_gets(&[&words, &ready()]);
    let request = [parse("", "select 1"), bind(""), sync()].concat();
    between.passes(&[&request], &[&parsed(), &bound(), &ready()]);
}

#[test]
fn equal_statements_are_one_on_the_server() {
    let mut between = Between::new();
    between.client(&[&parse("a", "select 1"), &parse("b", "select 1"), &sync()]);
    between.server_gets(&[&parse("DOORMAN_0", "select 1"), &sync()]);
    between.server(&[&parsed()]);
    between.client_gets(&[&parsed(), &parsed()]);
    between.server(&[&ready()]);
    between.client_gets(&[&ready()]);
}

#[test]
fn types_belong_to_the_statement() {
    let mut between = Between::new();
    let typed = |name: &str| {
        message(
            b'P',
            &[name.as_bytes(), b"\0select $1\0\0\x01\0\0\0\x17"].concat(),
        )
    };
    between.client(&[&parse("a", "select $1"), &typed("b"), &sync()]);
    between.server_gets(&[
        &parse("DOORMAN_0", "select $1"),
        &typed("DOORMAN_1"),
        &sync(),
    ]);
}

#[test]
fn a_closed_statement_is_gone_for_the_client_and_stays_on_the_server() {
    let mut between = known(&["select 1"]);
    between.client(&[&close("0"), &describe("0"), &sync()]);
    between.client_gets(&[&closed()]);
    between.server_gets(&[&describe("0"), &sync()]);
    between.server(&[
        &error("26000", "prepared statement \"0\" does not exist"),
        &ready(),
    ]);
    between.to_client.clear();
    between.client(&[&parse("1", "select 1"), &sync()]);
    between.client_gets(&[&parsed()]);
    between.server_gets(&[&sync()]);
}

#[test]
fn closing_needs_no_server_and_takes_no_cancel() {
    let mut between = Between::new();
    between.client(&[&parse("a", "select 1"), &parse("", "select 2"), &sync()]);
    between.server(&[&parsed(), &parsed(), &ready()]);
    between.to_client.clear();
    between.to_server.clear();
    between.client(&[
        &close("a"),
        &close(""),
        &close("nothing"),
        &close_portal("p"),
        &flush(),
    ]);
    between.client(&[&sync()]);
    between.server_gets(&[]);
    between.client_gets(&[&closed(), &closed(), &closed(), &closed(), &ready()]);
    assert!(between.is_back() && between.session.statements.is_empty());
    // In a transaction it is the server's business.
    between.passes(
        &[&query("begin")],
        &[&complete("BEGIN"), &ready_in_transaction()],
    );
    let request = [close("nothing"), close_portal("p"), sync()].concat();
    between.passes(
        &[&request],
        &[&closed(), &closed(), &ready_in_transaction()],
    );
}

#[test]
fn a_name_in_use_is_refused_behind_whatever_else_is_wrong() {
    let mut between = known(&["select 1"]);
    let mut words = Vec::new();
    crate::wire::error::error_response(
        &mut words,
        crate::wire::error::Severity::Error,
        "42P05",
        "prepared statement \"0\" already exists",
    );
    for backend in [None, Some(backend())] {
        between.idle = backend.or(between.idle);
        between.client(&[&parse("0", "select 2"), &bind("0"), &sync()]);
        assert!(
            between
                .to_server
                .starts_with(&[parse("", "select 2"), refused()].concat())
        );
        between.server(&[&parsed(), &error("26000", "DOORMAN_refuses"), &ready()]);
        between.client_gets(&[&words, &ready()]);
        between.to_server.clear();
    }
    between.client(&[&parse("0", "selec"), &sync()]);
    between.server(&[&error("42601", "syntax"), &ready()]);
    between.client_gets(&[&error("42601", "syntax"), &ready()]);
}

#[test]
fn names_of_the_poolers_own_never_reach_the_client() {
    let mut between = known(&["select 1", "select 2"]);
    let words = |name: &str| error("08P01", &format!("bind supplies 1, \"{name}\" requires 0"));
    between.client(&[&bind("1"), &sync()]);
    between.server(&[&words("DOORMAN_1"), &ready()]);
    between.client_gets(&[&words("1"), &ready()]);
    // One text under two names: the one that was used.
    between.client(&[
        &parse("2", "select 1"),
        &parse("3", "select 1"),
        &bind("2"),
        &sync(),
    ]);
    between.server(&[&words("DOORMAN_0"), &ready()]);
    between.client_gets(&[&parsed(), &parsed(), &words("2"), &ready()]);
    between.client(&[&bind("3"), &sync()]);
    between.server(&[&words("DOORMAN_0"), &ready()]);
    between.client_gets(&[&words("3"), &ready()]);
}

#[test]
fn an_identifier_that_only_looks_like_one_is_left_alone() {
    let mut between = Between::new();
    let reply = [
        error("42P01", "relation \"DOORMAN_HOUSES\" does not exist"),
        ready(),
    ];
    between.passes(&[&query("select")], &[&reply.concat()]);
}

#[test]
fn a_statement_that_made_room_is_closed_in_front_of_a_batch() {
    let mut between = Between::new();
    between.rules.prepared_per_server = 1;
    between.client(&[&parse("a", "select 1"), &sync()]);
    between.server(&[&parsed(), &ready()]);
    between.client(&[&parse("b", "select 2"), &sync()]);
    between.server(&[&parsed(), &ready()]);
    between.to_client.clear();
    between.to_server.clear();
    let a = numbers_surplus(&between, "select 1");
    between.client(&[&bind("b"), &execute(), &sync()]);
    between.server_gets(&[&a, &bind("DOORMAN_1"), &execute(), &sync()]);
    let reply = [bound(), complete("SELECT 0"), ready()].concat();
    between.server(&[&closed(), &reply]);
    between.client_gets(&[&reply]);
    assert!(between.is_back());
    assert_eq!(between.session.work.transactions, 3);
    between.client(&[&bind("a"), &sync()]);
    between.server_gets(&[&parse("DOORMAN_0", "select 1"), &bind("DOORMAN_0"), &sync()]);
}

#[test]
fn making_room_never_breaks_a_copy() {
    // PostgreSQL takes anything but CopyData, CopyDone, CopyFail, Flush and Sync for a broken protocol
    // while it copies.
    let mut between = Between::new();
    between.rules.prepared_per_server = 1;
    between.client(&[&parse("a", "select 1"), &parse("b", "copy"), &bind("b")]);
    between.client(&[&execute(), &sync()]);
    between.server_gets(&[
        &parse("DOORMAN_0", "select 1"),
        &parse("DOORMAN_1", "copy"),
        &bind("DOORMAN_1"),
        &execute(),
        &sync(),
    ]);
    between.server(&[&parsed(), &parsed(), &bound(), &copy_in()]);
    between.client(&[&copy_data("1\n"), &copy_done(), &sync()]);
    between.server_gets(&[&copy_data("1\n"), &copy_done(), &sync()]);
    between.server(&[&complete("COPY 1"), &ready()]);
    assert!(between.is_back());
}

#[test]
fn a_statement_whose_parse_failed_does_not_come_back_by_making_room() {
    let mut between = Between::new();
    between.rules.prepared_per_server = 1;
    between.client(&[&parse("a", "selec"), &parse("b", "select 2"), &sync()]);
    between.server(&[&error("42601", "syntax"), &ready()]);
    between.to_server.clear();
    between.client(&[&parse("a", "selec"), &sync()]);
    between.server_gets(&[&parse("DOORMAN_0", "selec"), &sync()]);
}

#[test]
fn without_room_for_any_statement_each_transaction_prepares_its_own() {
    let mut between = Between::new();
    between.rules.prepared_per_server = 0;
    let batch = [parse("a", "select 1"), bind("a"), execute(), close("a")].concat();
    between.client(&[&batch, &sync()]);
    between.server_gets(&[
        &parse("DOORMAN_0", "select 1"),
        &bind("DOORMAN_0"),
        &execute(),
        &sync(),
    ]);
    let reply = [parsed(), bound(), complete("SELECT 0"), ready()].concat();
    let reported_to_client = [parsed(), bound(), complete("SELECT 0"), closed(), ready()].concat();
    between.server(&[&reply]);
    between.client_gets(&[&reported_to_client]);
    for _ in 0..3 {
        between.client(&[&batch, &sync()]);
        between.server_gets(&[
            &close("DOORMAN_0"),
            &parse("DOORMAN_0", "select 1"),
            &bind("DOORMAN_0"),
            &execute(),
            &sync(),
        ]);
        between.server(&[&closed(), &reply]);
        between.client_gets(&[&reported_to_client]);
    }
}

#[test]
fn a_client_that_pipelines_statements_without_end_waits_for_those_that_leave() {
    let mut between = Between::new();
    between.rules.prepared_per_server = 1;
    between.rules.prepared_per_client = 2000;
    let batch = |n: usize| [parse(&format!("s{n}"), &format!("select {n}")), sync()].concat();
    for n in 0..1000 {
        between.client(&[&batch(n)]);
    }
    let sent = between.to_server.iter().filter(|&&b| b == b'P').count();
    assert!(sent < 200, "{sent} statements were sent");
    for _ in 0..sent {
        between.server(&[&parsed(), &ready()]);
    }
    let closes = close("DOORMAN_0");
    let found = (between.to_server)
        .windows(closes.len())
        .any(|window| window == closes);
    assert!(found, "nothing was closed");
}

/// What the pooler sends in place of a request that it refuses.
fn refused() -> Bytes {
    message(b'B', b"\0DOORMAN_refuses\0\0\0\0\0\0\0")
}

fn too_many(count: usize) -> Bytes {
    let words = format!(
        "too many prepared statements: this client has {count} and the pooler allows no more \
         (client_prepared_statements_max); close those that are no longer needed"
    );
    let mut own = Vec::new();
    crate::wire::error::error_response(
        &mut own,
        crate::wire::error::Severity::Error,
        "53400",
        &words,
    );
    own
}

#[test]
fn a_client_may_have_so_many_named_statements_and_no_more() {
    let mut between = Between::new();
    between.rules.prepared_per_client = 2;
    between.client(&[&parse("a", "select 1"), &parse("", "select 0"), &sync()]);
    between.server(&[&parsed(), &parsed(), &ready()]);
    between.client(&[&parse("b", "select 2"), &sync()]);
    between.server(&[&parsed(), &ready()]);
    between.to_server.clear();
    between.to_client.clear();
    between.client(&[
        &bind("a"),
        &parse("c", "select 3"),
        &bind("c"),
        &execute(),
        &sync(),
    ]);
    between.server_gets(&[
        &bind("DOORMAN_0"),
        &refused(),
        &bind("c"),
        &execute(),
        &sync(),
    ]);
    let words = error(
        "26000",
        "prepared statement \"DOORMAN_refuses\" does not exist",
    );
    between.server(&[&bound(), &words, &ready()]);
    between.client_gets(&[&bound(), &too_many(2), &ready()]);
    // One that is closed makes room.
    between.client(&[&close("a"), &parse("c", "select 3"), &sync()]);
    between.server_gets(&[&parse("DOORMAN_3", "select 3"), &sync()]);
    between.server(&[&parsed(), &ready()]);
    between.client_gets(&[&closed(), &parsed(), &ready()]);
}

#[test]
fn a_refused_statement_that_an_error_keeps_from_its_turn_is_not_spoken_of() {
    let mut between = Between::new();
    between.rules.prepared_per_client = 0;
    between.client(&[&parse("", "selec"), &parse("c", "select 3"), &sync()]);
    between.server(&[&error("42601", "syntax"), &ready()]);
    between.client_gets(&[&error("42601", "syntax"), &ready()]);
}

fn large() -> String {
    format!("select '{}'", "x".repeat(20_000))
}

#[test]
fn a_large_statement_is_closed_after_its_transaction() {
    let mut between = Between::new();
    between.client(&[&parse("l", &large()), &bind("l"), &execute(), &sync()]);
    between.server_gets(&[
        &parse("DOORMAN_0", &large()),
        &bind("DOORMAN_0"),
        &execute(),
        &sync(),
    ]);
    between.server(&[&parsed(), &bound(), &complete("SELECT 1"), &ready()]);
    between.to_client.clear();
    assert!(between.is_back());
    between.client(&[&parse("s", "select 1"), &sync()]);
    between.server_gets(&[
        &close("DOORMAN_0"),
        &parse("DOORMAN_1", "select 1"),
        &sync(),
    ]);
    between.server(&[&closed(), &parsed(), &ready()]);
    between.client_gets(&[&parsed(), &ready()]);
}

#[test]
fn a_large_statement_can_be_used_in_two_transactions() {
    let mut between = Between::new();
    between.client(&[&parse("l", &large()), &sync()]);
    between.server(&[&parsed(), &ready()]);
    between.to_client.clear();
    between.to_server.clear();
    // It stands on the server until it is closed; preparing it before that would fail.
    between.client(&[&query("begin"), &bind("l"), &execute(), &sync()]);
    between.server_gets(&[&query("begin"), &bind("DOORMAN_0"), &execute(), &sync()]);
    let reply = [
        complete("BEGIN"),
        ready_in_transaction(),
        bound(),
        complete("SELECT 1"),
        ready_in_transaction(),
    ]
    .concat();
    between.server(&[&reply]);
    between.client_gets(&[&reply]);
    between.passes(&[&query("end")], &[&complete("COMMIT"), &ready()]);
    assert!(between.is_back());
    between.client(&[&bind("l"), &execute(), &sync()]);
    let got = std::mem::take(&mut between.to_server);
    let again = [
        close("DOORMAN_0"),
        parse("DOORMAN_0", &large()),
        bind("DOORMAN_0"),
        execute(),
        sync(),
    ];
    same("the server", &got, &again.concat());
    between.server(&[
        &closed(),
        &parsed(),
        &bound(),
        &complete("SELECT 1"),
        &ready(),
    ]);
    between.client_gets(&[&bound(), &complete("SELECT 1"), &ready()]);
}

#[test]
fn a_statement_too_large_for_a_buffer_arrives_in_parts() {
    let mut between = Between::new();
    let text = "x".repeat(200_000);
    let whole = [parse("l", &text), bind("l"), sync()].concat();
    for part in whole.chunks(9_999) {
        between.client(&[part]);
    }
    between.server_gets(&[&parse("DOORMAN_0", &text), &bind("DOORMAN_0"), &sync()]);
}

#[test]
fn half_a_parse_holds_no_connection() {
    let mut between = Between::new();
    let large = parse("l", &"x".repeat(200_000));
    between.client(&[&large[..150_000]]);
    assert_eq!(between.session.phase(), Phase::Idle);
}

#[test]
fn a_large_bind_passes_in_parts_under_its_new_name() {
    let mut between = known(&["insert"]);
    let argument = vec![b'x'; 200_000];
    let batch = [bind_with("p", "0", &argument), execute(), sync()].concat();
    for part in batch.chunks(70_000) {
        between.client(&[part]);
    }
    between.server_gets(&[&bind_with("p", "DOORMAN_0", &argument), &execute(), &sync()]);
    between.server(&[&bound(), &complete("INSERT 0 1"), &ready()]);
    assert!(between.is_back());
}

#[test]
fn statements_stay_as_they_are_where_they_do_not_follow() {
    let mut between = Between::new();
    between.rules.follow_statements = false;
    let request = [parse("a", "select 1"), bind("a"), describe("a"), close("a")].concat();
    between.passes(
        &[&request, &sync()],
        &[
            &parsed(),
            &bound(),
            &takes_parameters(),
            &columns(),
            &closed(),
            &ready(),
        ],
    );
    between.server_gets(&[&query("DEALLOCATE ALL")]);
    between.server(&[&complete("DEALLOCATE ALL"), &ready()]);
    between.client_gets(&[]);
    assert!(between.is_back());
}

#[test]
fn what_the_server_forgets_is_forgotten() {
    for tag in ["DISCARD ALL", "DEALLOCATE ALL"] {
        let mut between = known(&["select 1"]);
        // Behind something else, so that the server is asked.
        let request = [query("select 1"), query(tag)].concat();
        let reply = [complete("SELECT 1"), ready(), complete(tag), ready()].concat();
        between.passes(&[&request], &[&reply]);
        assert!(between.is_back());
        assert!(between.session.statements.is_empty());
        between.client(&[&parse("0", "select 1"), &sync()]);
        between.server_gets(&[&parse("DOORMAN_0", "select 1"), &sync()]);
    }
}

#[test]
fn what_the_server_is_about_to_forget_is_not_relied_upon() {
    let mut between = known(&["select 1"]);
    between.client(&[&query("discard all")]);
    between.client(&[&parse("0", "select 1"), &bind("0"), &sync()]);
    between.server_gets(&[&query("discard all")]);
    between.server(&[&complete("DISCARD ALL"), &ready()]);
    between.server_gets(&[&parse("DOORMAN_0", "select 1"), &bind("DOORMAN_0"), &sync()]);
}

#[test]
fn what_an_execute_in_parts_is_about_to_forget_is_not_relied_upon() {
    let mut between = known(&["select 1", "discard all"]);
    let whole = [bind("1"), execute(), bind("0"), sync()].concat();
    let part = bind("1").len() + execute().len() - 1;
    between.client(&[&whole[..part]]);
    between.client(&[&whole[part..]]);
    between.server_gets(&[&bind("DOORMAN_1"), &execute(), &flush()]);
}

#[test]
fn a_parse_still_under_way_in_an_earlier_batch_is_waited_for() {
    let mut between = known(&["select 1", "select 2"]);
    between.idle = Some(backend());
    // The first batch brings two hidden Parses with it. If it fails before the second, the next batch has
    // to bring that again.
    between.client(&[&bind("0"), &execute(), &bind("1"), &execute(), &sync()]);
    between.client(&[&bind("1"), &execute(), &sync()]);
    between.server(&[&parsed(), &error("22P02", "no"), &ready()]);
    between.client_gets(&[&error("22P02", "no"), &ready()]);
    between.server_gets(&[
        &parse("DOORMAN_0", "select 1"),
        &bind("DOORMAN_0"),
        &execute(),
        &parse("DOORMAN_1", "select 2"),
        &bind("DOORMAN_1"),
        &execute(),
        &sync(),
        &parse("DOORMAN_1", "select 2"),
        &bind("DOORMAN_1"),
        &execute(),
        &sync(),
    ]);
}

#[test]
fn a_name_still_under_way_in_an_earlier_batch_is_waited_for() {
    let mut between = Between::new();
    between.client(&[
        &parse("a", "selec"),
        &sync(),
        &parse("a", "select 1"),
        &sync(),
    ]);
    between.server_gets(&[&parse("DOORMAN_0", "selec"), &sync()]);
    between.server(&[&error("42601", "syntax"), &ready()]);
    between.server_gets(&[&parse("DOORMAN_1", "select 1"), &sync()]);
    between.server(&[&parsed(), &ready()]);
    between.client_gets(&[&error("42601", "syntax"), &ready(), &parsed(), &ready()]);
    between.client(&[&bind("a"), &sync()]);
    between.server_gets(&[&bind("DOORMAN_1"), &sync()]);
}

#[test]
fn the_unnamed_statement_is_pipelined_and_a_late_error_takes_back_the_right_one() {
    let mut between = known(&["select 1", "select 2"]);
    between.client(&[&bind("0"), &parse("", "select 1"), &bind(""), &sync()]);
    between.client(&[&parse("", "select 2"), &bind(""), &sync()]);
    between.server_gets(&[
        &bind("DOORMAN_0"),
        &parse("", "select 1"),
        &bind(""),
        &sync(),
        &parse("", "select 2"),
        &bind(""),
        &sync(),
    ]);
    between.server(&[&error("22P02", "no"), &ready()]);
    between.server(&[&parsed(), &bound(), &ready()]);
    between.client(&[&bind(""), &sync()]);
    between.server_gets(&[&parse("", "select 2"), &bind(""), &sync()]);
}

#[test]
fn a_deallocate_waits_for_what_may_bring_the_statement_back() {
    let mut between = Between::new();
    between.client(&[&parse("a", "select 1"), &sync()]);
    between.server(&[&parsed(), &ready()]);
    between.to_client.clear();
    between.to_server.clear();
    between.client(&[&bind("none"), &close("a"), &sync()]);
    between.client(&[&query("deallocate a")]);
    between.server_gets(&[&bind("none"), &sync()]);
    between.server(&[&error("26000", "none"), &ready()]);
    between.client_gets(&[
        &error("26000", "none"),
        &ready(),
        &complete("DEALLOCATE"),
        &ready(),
    ]);
}

/// The server says that it has not what was prepared on it.
fn lost(between: &mut Between) -> Desync {
    let words = "prepared statement \"DOORMAN_0\" does not exist";
    let lost = between.try_server(&error("26000", words));
    lost.expect_err("the books are wrong")
}

#[test]
fn where_the_books_are_wrong_the_request_is_kept_for_another_connection() {
    let mut between = known(&["select 1"]);
    let request = [bind("0"), execute(), sync()].concat();
    between.client(&[&request]);
    let words = lost(&mut between);
    assert!(!words.0.contains("DOORMAN") && between.session.elsewhere);
    assert_eq!(between.from_client, request);
    between.client_gets(&[]);
}

#[test]
fn where_something_has_been_answered_it_is_not() {
    let mut between = known(&["select 1", "select 2"]);
    between.client(&[&bind("1"), &execute(), &bind("0"), &sync()]);
    between.server(&[&bound(), &complete("SELECT 1")]);
    lost(&mut between);
    assert!(!between.session.elsewhere);

    let mut between = known(&["select 1"]);
    between.passes(
        &[&query("begin")],
        &[&complete("BEGIN"), &ready_in_transaction()],
    );
    between.client(&[&bind("0"), &sync()]);
    lost(&mut between);
    assert!(!between.session.elsewhere);
}

#[test]
fn an_unnamed_statement_outlives_one_that_was_skipped_or_failed_in_front_of_it() {
    let skipped = [
        describe_portal(""),
        parse("", "select a, $1::int from z"),
        sync(),
        parse("", "close cur"),
        sync(),
    ];
    let failed = &skipped[1..];
    for (all, follow) in [
        (&skipped[..], false),
        (&skipped, true),
        (failed, false),
        (failed, true),
    ] {
        // How much the client has sent when the error comes.
        for sent in 1..=all.len() {
            let mut between = Between::new();
            between.rules.mode = Mode::Session;
            between.rules.follow_statements = follow;
            between.client(&[&all[..sent].concat()]);
            between.server(&[&error("34000", "no")]);
            between.client(&[&all[sent..].concat()]);
            between.server(&[&ready(), &parsed(), &ready()]);
            between.client_gets(&[&error("34000", "no"), &ready(), &parsed(), &ready()]);
            between.to_server.clear();
            between.client(&[&bind("")]);
            between.server_gets(&[&bind("")]);
        }
    }
}

#[test]
fn a_client_that_parses_and_reads_no_reply_is_waited_for() {
    for name in ["", "a"] {
        let mut between = Between::new();
        let text = format!("select '{}'", "x".repeat(1 << 20));
        let replace = [parse(name, &text), close(name)].concat();
        for _ in 0..64 {
            between.client(&[&replace]);
        }
        let link = between.link();
        let held: usize = link.expected.iter().map(Expected::holds).sum();
        assert!(held < 10 << 20, "{held} bytes");
        // With the replies it goes on.
        let sent = |between: &mut Between| std::mem::take(&mut between.to_server).len() >> 20;
        let mut all = sent(&mut between);
        while let Some(due) = between.link().expected.front() {
            let reply = match due.reply {
                Reply::Parse => parsed(),
                _ => closed(),
            };
            between.server(&[&reply]);
            all += sent(&mut between);
        }
        assert!(between.from_client.is_empty());
        assert!(all >= 1, "{all} MiB");
    }
}

#[test]
fn one_batch_without_end_keeps_a_bounded_number_of_names() {
    let mut open = crate::relay::in_flight::InFlight::default();
    for number in 0..300_000_u64 {
        open.add(Open::Statement(number));
    }
    open.batch_sent();
    assert!(open.concerns(None, Some(1)) && open.concerns(Some(b"any"), None));
    open.batch_answered();
    assert!(!open.concerns(None, Some(1)));
}

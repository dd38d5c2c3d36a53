//! The client is gone: whatever it was doing, its connection is brought back, and what it had not ended
//! is not committed.

use super::batches::known;
use super::messages::*;
use super::*;
use crate::relay::client_end::{ClientEnd, ToServe};

#[test]
fn an_idle_client_leaves_nothing_to_do() {
    let mut between = known(&["select 1"]);
    assert!(between.client_gone());
    between.server_gets(&[]);
    let mut between = Between::new();
    between.rules.mode = Mode::Session;
    between.passes(&[&query("select 1")], &[&selected("1")]);
    assert!(between.client_gone());
    assert!(between.is_back());
    between.server_gets(&[]);
}

#[test]
fn a_transaction_is_rolled_back_and_then_cleaned() {
    let mut between = Between::new();
    between.passes(
        &[&query("begin; listen x")],
        &[
            &complete("BEGIN"),
            &complete("LISTEN"),
            &ready_in_transaction(),
        ],
    );
    assert!(between.client_gone());
    between.server_gets(&[&query("ROLLBACK")]);
    between.server(&[&complete("ROLLBACK"), &ready()]);
    between.server_gets(&[&query("UNLISTEN *")]);
    between.server(&[&complete("UNLISTEN"), &ready()]);
    between.client_gets(&[]);
    assert!(between.is_back());
}

#[test]
fn replies_under_way_are_awaited_and_dropped() {
    let reply = selected("a value");
    for cut in 0..reply.len() {
        let mut between = Between::new();
        between.client(&[&query("select 1")]);
        between.server(&[&reply[..cut]]);
        between.to_client.clear();
        assert!(between.client_gone());
        between.server(&[&reply[cut..]]);
        between.client_gets(&[]);
        assert!(between.is_back(), "cut at {cut}");
    }
}

#[test]
fn a_batch_without_sync_is_rolled_back_and_not_committed() {
    let batch = [bind("0"), describe_portal(""), execute(), flush()];
    let replies = [bound(), columns(), complete("INSERT 0 1"), Vec::new()];
    for sent in 1..=batch.len() {
        for answered in 0..=sent {
            let mut between = known(&["insert"]);
            between.client(&[&batch[..sent].concat()]);
            between.server(&[&replies[..answered].concat()]);
            between.to_client.clear();
            between.to_server.clear();
            assert!(between.client_gone());
            // What has not been answered may turn out to copy.
            let missing = &replies[answered..sent].concat();
            if !missing.is_empty() {
                between.server_gets(&[&flush()]);
                between.server(&[missing]);
            }
            between.server_gets(&[&fail_batch()]);
            between.server(&[&error("34000", "no such portal"), &ready()]);
            between.client_gets(&[]);
            assert!(between.is_back());
        }
    }
}

#[test]
fn a_batch_that_failed_needs_only_its_sync() {
    let mut between = known(&["insert"]);
    between.client(&[&bind("0"), &execute(), &flush()]);
    between.server(&[&error("22P02", "no")]);
    between.to_client.clear();
    between.to_server.clear();
    assert!(between.client_gone());
    between.server_gets(&[&sync()]);
    between.server(&[&ready()]);
    assert!(between.is_back());
}

#[test]
fn a_batch_that_fails_while_its_client_leaves_skips_the_rollback() {
    let mut between = known(&["insert"]);
    between.client(&[&bind("0"), &execute()]);
    assert!(between.client_gone());
    between.server(&[&error("22P02", "no")]);
    between.server(&[&ready()]);
    between.client_gets(&[]);
    assert!(between.is_back());
}

#[test]
fn a_copy_is_failed_by_a_query() {
    let mut between = Between::new();
    between.passes(&[&query("copy t from stdin")], &[&copy_in()]);
    between.passes(&[&copy_data("1\n")], &[]);
    assert!(between.client_gone());
    between.server_gets(&[&copy_fail("the client is gone")]);
    between.server(&[&error("57014", "COPY failed"), &ready()]);
    between.client_gets(&[]);
    assert!(between.is_back());
}

/// The copy, whose client is gone, fails; the Sync behind it was on its way.
fn a_copy_in_a_batch_is_failed(between: &mut Between) {
    between.server_gets(&[&copy_fail("the client is gone")]);
    between.server(&[&error("57014", "COPY failed")]);
    between.server_gets(&[&mark_behind_skipping()]);
    between.server(&[&ready(), &closed(), &ready()]);
    // PostgreSQL skips to a Sync of the pooler's.
    between.server_gets(&[&sync()]);
    between.server(&[&ready()]);
    between.client_gets(&[]);
    assert!(between.is_back());
}

#[test]
fn a_copy_is_failed_in_a_batch() {
    let mut between = known(&["copy t from stdin"]);
    between.client(&[&bind("0"), &execute(), &sync()]);
    between.server(&[&bound(), &copy_in()]);
    between.to_client.clear();
    between.to_server.clear();
    assert!(between.client_gone());
    a_copy_in_a_batch_is_failed(&mut between);
}

#[test]
fn a_copy_that_begins_when_its_client_is_gone_is_failed() {
    let mut between = Between::new();
    between.client(&[&query("copy t from stdin")]);
    assert!(between.client_gone());
    between.to_server.clear();
    between.server(&[&copy_in()]);
    between.server_gets(&[&copy_fail("the client is gone")]);
    between.server(&[&error("57014", "COPY failed"), &ready()]);
    between.client_gets(&[]);
    assert!(between.is_back());

    let mut between = known(&["copy t from stdin"]);
    between.client(&[&bind("0"), &execute(), &sync()]);
    assert!(between.client_gone());
    between.to_server.clear();
    between.server(&[&bound(), &copy_in()]);
    a_copy_in_a_batch_is_failed(&mut between);
}

#[test]
fn a_copy_that_begins_in_a_batch_without_sync_is_failed() {
    let mut between = known(&["copy t from stdin"]);
    between.client(&[&bind("0"), &execute()]);
    assert!(between.client_gone());
    between.to_server.clear();
    between.server(&[&bound(), &copy_in()]);
    between.server(&[&error("57014", "COPY failed")]);
    between.server(&[&ready()]);
    between.client_gets(&[]);
    assert!(between.is_back());
}

#[test]
fn half_a_message_cannot_be_mended() {
    let requests = [
        query(&"x".repeat(100_000)),
        bind_with("", "0", &vec![b'x'; 100_000]),
    ];
    for request in &requests {
        let mut between = known(&["select 1"]);
        between.client(&[&request[..80_000]]);
        assert!(!between.client_gone());
    }
    let mut between = Between::new();
    between.passes(&[&query("copy t from stdin")], &[&copy_in()]);
    between.client(&[&copy_data("123")[..6]]);
    assert!(!between.client_gone());
}

#[test]
fn half_a_message_that_was_not_passed_on_does_no_harm() {
    let mut between = known(&["select 1"]);
    between.client(&[&bind("0"), &flush()]);
    between.server(&[&error("22P02", "no")]);
    let dropped = query(&"x".repeat(100_000));
    between.client(&[&dropped[..80_000]]);
    between.to_server.clear();
    assert!(between.client_gone());
    between.server_gets(&[&sync()]);
}

#[test]
fn a_client_that_leaves_while_its_connection_is_tuned() {
    let mut reported_to_client = (*parameters(&REPORTED)).clone();
    reported_to_client.set("TimeZone", b"Asia/Tokyo");
    reported_to_client.set("server_version", b"15");
    let session = session(Arc::new(reported_to_client), Arc::default(), Arc::default());
    let mut between = Between::with(session, rules());
    between.client(&[&query("select 1")]);
    assert!(between.client_gone());
    between.to_server.clear();
    between.server(&[&selected("Asia/Tokyo")]);
    between.client_gets(&[]);
    between.server_gets(&[]);
    assert!(between.is_back());
}

#[test]
fn a_client_that_leaves_while_its_connection_is_cleaned() {
    let mut between = Between::new();
    between.client(&[&query("listen x")]);
    between.server(&[&complete("LISTEN"), &ready()]);
    assert!(between.client_gone());
    between.to_server.clear();
    between.server(&[&complete("UNLISTEN"), &ready()]);
    between.server_gets(&[]);
    assert!(between.is_back());
}

fn ended(sent: &[&[u8]], client_end: ClientEnd) -> Between {
    let mut between = Between::new();
    between.client(sent);
    between.to_server.clear();
    between.session.client_end = client_end;
    between
}

impl Between {
    fn rest_to_serve(&mut self) -> ToServe {
        let mut out = Output::default();
        let rest = self.session.rest_to_serve(&mut out);
        self.collect(&out, &[]);
        rest
    }
}

#[test]
fn the_replies_to_all_requests_are_awaited_at_the_end_of_the_stream() {
    let mut between = ended(
        &[&query("select 1"), &query("select 2")],
        ClientEnd::Terminate,
    );
    between.server(&[&selected("1")]);
    assert_eq!(between.rest_to_serve(), ToServe::Replies);
    between.server(&[&selected("2")]);
    assert_eq!(between.rest_to_serve(), ToServe::Nothing);
    between.server_gets(&[]);
    between.client_gets(&[&selected("1"), &selected("2")]);
}

#[test]
fn a_batch_without_sync_is_run_and_its_replies_are_for_nobody() {
    let batch = [parse("", "select 1"), bind(""), execute()].concat();
    let mut between = ended(&[&batch], ClientEnd::Terminate);
    assert_eq!(between.rest_to_serve(), ToServe::Untold);
    between.server_gets(&[&flush()]);
    assert_eq!(between.rest_to_serve(), ToServe::Untold);
    between.server_gets(&[]);
    between.server(&[&parsed(), &bound(), &complete("SELECT 0")]);
    assert_eq!(between.rest_to_serve(), ToServe::Nothing);
    // Up to a Flush they are for the client.
    let batch = [parse("", "select 1"), bind(""), flush(), execute()].concat();
    let mut between = ended(&[&batch], ClientEnd::Terminate);
    between.server(&[&parsed()]);
    assert_eq!(between.rest_to_serve(), ToServe::Replies);
    between.server(&[&bound()]);
    assert_eq!(between.rest_to_serve(), ToServe::Untold);
}

#[test]
fn a_flush_before_an_error_is_forgotten_with_what_was_skipped() {
    let failing = [bind("s"), execute(), close_portal(""), flush(), sync()].concat();
    let batch = [parse("", "select 1"), flush(), bind("")].concat();
    let mut between = ended(&[&failing, &batch], ClientEnd::Terminate);
    between.server(&[&error("26000", "no"), &ready(), &parsed()]);
    assert_eq!(between.rest_to_serve(), ToServe::Untold);
    between.server(&[&bound()]);
    assert_eq!(between.rest_to_serve(), ToServe::Nothing);
}

#[test]
fn an_error_in_a_batch_without_sync_is_for_the_client() {
    let mut between = ended(&[&parse("", "selec")], ClientEnd::Terminate);
    assert_eq!(between.rest_to_serve(), ToServe::Untold);
    assert!(!between.session.skips_to_sync());
    between.server(&[&error("42601", "no")]);
    assert!(between.session.skips_to_sync());
    assert_eq!(between.rest_to_serve(), ToServe::Nothing);
}

#[test]
fn a_copy_gets_no_more_data_and_half_a_message_no_reply() {
    let mut between = ended(&[&query("copy t from stdin")], ClientEnd::Terminate);
    assert_eq!(between.rest_to_serve(), ToServe::Replies);
    between.server(&[&copy_in()]);
    assert_eq!(between.rest_to_serve(), ToServe::Nothing);
    let large = query(&"x".repeat(100_000));
    let mut between = ended(&[&query("select 1"), &large[..90_000]], ClientEnd::Open);
    assert_eq!(between.rest_to_serve(), ToServe::Replies);
    between.server(&[&selected("1")]);
    assert_eq!(between.rest_to_serve(), ToServe::Nothing);
}

#[test]
fn a_client_that_breaks_a_copy_and_leaves_gets_the_complaint() {
    for executes in [false, true] {
        let mut between = match executes {
            true => known(&["copy t from stdin"]),
            false => Between::new(),
        };
        match executes {
            true => between.client(&[&bind("0"), &execute(), &sync()]),
            false => between.client(&[&query("copy t from stdin")]),
        }
        let front = if executes { bound() } else { Vec::new() };
        between.server(&[&front, &copy_in()]);
        between.client(&[&parse("", "select 1")]);
        between.session.client_end = ClientEnd::Terminate;
        assert_eq!(between.rest_to_serve(), ToServe::Replies);
    }
}

#[test]
fn a_sync_that_a_copy_ignores_has_no_reply() {
    let batch = [parse("", "copy t from stdin"), bind(""), execute(), sync()].concat();
    let mut between = ended(&[&batch], ClientEnd::Open);
    between.server(&[&parsed(), &bound(), &copy_in()]);
    between.client(&[&copy_data("1"), &copy_done()]);
    between.session.client_end = ClientEnd::Terminate;
    assert_eq!(between.rest_to_serve(), ToServe::Untold);
    between.server(&[&complete("COPY 1")]);
    assert_eq!(between.rest_to_serve(), ToServe::Nothing);
}

#[test]
fn a_terminate_is_found_behind_other_requests() {
    let mut between = Between::new();
    let find = |between: &mut Between, unread: &[&[u8]]| {
        between.session.client.unread = unread.concat();
        between.session.terminate_is_unread()
    };
    let terminate = message(b'X', &[]);
    assert!(find(
        &mut between,
        &[&query("select 1"), &sync(), &terminate]
    ));
    assert!(!find(&mut between, &[&query("X\0\0\0\x04")]));
    assert!(!find(&mut between, &[&query("select 1"), &terminate[..3]]));
    assert!(!find(&mut between, &[&query("select 1")[..9]]));
    between.session.client.frame.left = 5;
    assert!(find(&mut between, &[b"12345", &terminate]));
    assert!(!find(&mut between, &[b"1234"]));
}

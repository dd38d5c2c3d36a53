//! The extended protocol: the order of replies, errors, and streams that are cut anywhere.

use super::messages::*;
use super::*;

#[test]
fn a_batch_gets_its_replies_in_order_and_the_server_its_own_names() {
    let mut between = Between::new();
    between.client(&[
        &parse("a", "select 1"),
        &bind("a"),
        &describe_portal(""),
        &execute(),
        &sync(),
    ]);
    between.server_gets(&[
        &parse("DOORMAN_0", "select 1"),
        &bind("DOORMAN_0"),
        &describe_portal(""),
        &execute(),
        &sync(),
    ]);
    let reply = [
        parsed(),
        bound(),
        columns(),
        row(&["1"]),
        complete("SELECT 1"),
        ready(),
    ];
    for part in &reply {
        assert!(!between.is_back());
        between.server(&[part]);
        between.client_gets(&[part]);
    }
    assert!(between.is_back());
}

#[test]
fn a_skipped_parse_is_answered_exactly_in_its_place() {
    let mut between = known(&["select 1", "select 2"]);
    between.client(&[
        &parse("x", "select 3"),
        &parse("y", "select 1"),
        &bind("y"),
        &execute(),
        &parse("z", "select 2"),
        &describe("z"),
        &close("z"),
        &sync(),
    ]);
    between.server_gets(&[
        &parse("DOORMAN_2", "select 3"),
        &bind("DOORMAN_0"),
        &execute(),
        &describe("DOORMAN_1"),
        &sync(),
    ]);
    between.client_gets(&[]);
    between.server(&[&parsed()]);
    between.client_gets(&[&parsed(), &parsed()]);
    between.server(&[&bound(), &row(&["1"])]);
    between.client_gets(&[&bound(), &row(&["1"])]);
    between.server(&[&complete("SELECT 1")]);
    between.client_gets(&[&complete("SELECT 1"), &parsed()]);
    between.server(&[&takes_parameters()]);
    between.client_gets(&[&takes_parameters()]);
    between.server(&[&no_data()]);
    between.client_gets(&[&no_data(), &closed()]);
    between.server(&[&ready()]);
    between.client_gets(&[&ready()]);
    assert!(between.is_back());
}

#[test]
fn a_skipped_parse_at_the_front_is_answered_without_the_server() {
    let mut between = known(&["select 1"]);
    between.client(&[&parse("a", "select 1"), &flush()]);
    between.client_gets(&[&parsed()]);
    between.server_gets(&[&flush()]);
    assert!(!between.is_back(), "the batch is open");
    between.client(&[&sync()]);
    between.server(&[&ready()]);
    between.client_gets(&[&ready()]);
    assert!(between.is_back());
}

#[test]
fn every_kind_of_end_to_an_execute_is_one() {
    for end in [complete("SELECT 1"), nothing_to_run(), suspended()] {
        let mut between = known(&["select 1"]);
        between.client(&[&bind("0"), &execute(), &execute(), &sync()]);
        between.server(&[&bound(), &row(&["1"]), &end]);
        between.server(&[&end, &ready()]);
        between.client_gets(&[&bound(), &row(&["1"]), &end, &end, &ready()]);
        assert!(between.is_back());
    }
}

#[test]
fn an_error_skips_what_follows_up_to_the_sync_and_no_further() {
    let mut between = known(&["select 1"]);
    between.client(&[
        &parse("a", "select 1"),
        &bind("a"),
        &execute(),
        &parse("b", "select 1"),
        &parse("c", "select 2"),
        &close("a"),
        &sync(),
    ]);
    between.client(&[&bind("a"), &execute(), &sync()]);
    let fails = error("22012", "division by zero");
    between.client_gets(&[&parsed()]);
    between.server(&[&bound(), &fails, &ready()]);
    between.client_gets(&[&bound(), &fails, &ready()]);
    between.server(&[&bound(), &complete("SELECT 0"), &ready()]);
    between.client_gets(&[&bound(), &complete("SELECT 0"), &ready()]);
    assert!(between.is_back());
    let names = &between.session.statements;
    assert!(names.contains_key(&b"a"[..]), "its Close did not happen");
    assert!(!names.contains_key(&b"b"[..]));
    assert!(!names.contains_key(&b"c"[..]));
}

#[test]
fn after_an_error_without_a_sync_the_client_is_not_passed_on_until_one() {
    let mut between = known(&["select 1"]);
    between.client(&[&bind("0"), &execute(), &flush()]);
    between.server_gets(&[&bind("DOORMAN_0"), &execute(), &flush()]);
    between.server(&[&bound(), &error("22012", "no")]);
    between.client(&[&parse("b", "select 1"), &query("select 2"), &execute()]);
    between.server_gets(&[]);
    assert!(!between.session.statements.contains_key(&b"b"[..]));
    between.client(&[&sync()]);
    between.server_gets(&[&sync()]);
    between.server(&[&ready()]);
    between.client_gets(&[&bound(), &error("22012", "no"), &ready()]);
    assert!(between.is_back());
}

#[test]
fn an_error_at_the_sync_itself_leaves_its_reply_expected() {
    let mut between = known(&["insert"]);
    between.client(&[&bind("0"), &execute(), &sync()]);
    let reply = [
        bound(),
        complete("INSERT 0 1"),
        error("23503", "deferred"),
        ready(),
    ];
    between.server(&[&reply.concat()]);
    between.client_gets(&[&reply.concat()]);
    assert!(between.is_back());
}

#[test]
fn a_query_in_an_open_batch_ends_it() {
    let mut between = known(&["select 1"]);
    between.client(&[&bind("0"), &execute(), &query("select 2")]);
    between.server(&[&bound(), &complete("SELECT 1"), &selected("2")]);
    between.client_gets(&[&bound(), &complete("SELECT 1"), &selected("2")]);
    assert!(between.is_back());
    // If the batch fails, the Query is skipped with it.
    between.client(&[&bind("0"), &execute(), &query("select 2"), &sync()]);
    between.server(&[&error("22P02", "no"), &ready()]);
    between.client_gets(&[&error("22P02", "no"), &ready()]);
    assert!(between.is_back());
}

#[test]
fn a_setting_reported_before_a_swallowed_reply_is_told() {
    let mut between = Between::new();
    between.client(&[&parse("a", "select 1"), &sync()]);
    between.server(&[&parsed(), &ready()]);
    between.idle = Some(backend());
    between.to_client.clear();
    between.client(&[&bind("a"), &execute(), &sync()]);
    // A reload of the server's configuration, noticed when the hidden Parse arrives.
    between.server(&[&parameter("TimeZone", "Asia/Tokyo"), &parsed(), &bound()]);
    between.server(&[&complete("SELECT 0"), &ready()]);
    between.client_gets(&[
        &parameter("TimeZone", "Asia/Tokyo"),
        &bound(),
        &complete("SELECT 0"),
        &ready(),
    ]);
}

/// A client and a server that have these statements already, the client under the names 0, 1, ...
pub fn known(texts: &[&str]) -> Between {
    let mut between = Between::new();
    for (number, text) in texts.iter().enumerate() {
        between.client(&[&parse(&number.to_string(), text), &sync()]);
        between.server(&[&parsed(), &ready()]);
        assert!(between.is_back());
    }
    between.to_client.clear();
    between.to_server.clear();
    between
}

/// What both sides have got when the client's and the server's bytes come in the pieces that end at these
/// places.
fn in_pieces(client: &[u8], client_cuts: &[usize], server: &[u8], cuts: &[usize]) -> [Vec<u8>; 2] {
    let mut between = known(&["select 1"]);
    let mut from = 0;
    for &cut in client_cuts.iter().chain([&client.len()]) {
        between.client(&[&client[from..cut]]);
        from = cut;
    }
    from = 0;
    for &cut in cuts.iter().chain([&server.len()]) {
        between.server(&[&server[from..cut]]);
        from = cut;
    }
    assert!(between.is_back(), "{client_cuts:?} {cuts:?}");
    [between.to_client, between.to_server]
}

#[test]
fn wherever_the_streams_are_cut_the_same_bytes_pass() {
    let client = [
        parse("a", "select 1"),
        bind("a"),
        describe_portal(""),
        execute(),
        parse("", "select 2"),
        describe(""),
        close("a"),
        flush(),
        sync(),
        query("select 3"),
        parse("b", "select 1"),
        bind("b"),
        execute(),
        sync(),
        parse("c", "select 1"),
        bind("0"),
        sync(),
    ]
    .concat();
    let server = [
        bound(),
        notice("x"),
        columns(),
        row(&["1", "22"]),
        row(&["", "4"]),
        complete("SELECT 2"),
        parsed(),
        takes_parameters(),
        no_data(),
        ready(),
        selected("3"),
        bound(),
        error("22012", "division by zero"),
        ready(),
        bound(),
        ready(),
    ]
    .concat();
    let whole = in_pieces(&client, &[], &server, &[]);
    for cut in 0..client.len() {
        assert_eq!(in_pieces(&client, &[cut], &server, &[]), whole, "at {cut}");
    }
    for cut in 0..server.len() {
        assert_eq!(in_pieces(&client, &[], &server, &[cut]), whole, "at {cut}");
    }
    let every = |bytes: &[u8]| (0..bytes.len()).collect::<Vec<_>>();
    assert_eq!(
        in_pieces(&client, &every(&client), &server, &every(&server)),
        whole
    );
    let mut dice = Dice(7);
    for _ in 0..500 {
        let mut cuts = |length: usize| {
            let mut cuts: Vec<_> = (0..dice.roll(8)).map(|_| dice.roll(length)).collect();
            cuts.sort_unstable();
            cuts
        };
        let (of_client, of_server) = (cuts(client.len()), cuts(server.len()));
        assert_eq!(
            in_pieces(&client, &of_client, &server, &of_server),
            whole,
            "at {of_client:?} and {of_server:?}"
        );
    }
}

#[test]
fn what_a_portal_does_is_known_also_when_an_earlier_batch_is_answered_in_between() {
    let mut between = known(&["deallocate all"]);
    between.client(&[&query("select 1"), &bind("0")]);
    between.server(&[&selected("1")]);
    between.to_server.clear();
    between.client(&[&execute(), &bind("0")]);
    between.server_gets(&[&execute(), &flush()]);
    between.server(&[&bound()]);
    between.server_gets(&[]);
    between.server(&[&complete("DEALLOCATE ALL")]);
    // The client has none by this name any more, and PostgreSQL says so.
    between.server_gets(&[&bind("0")]);
}

#[test]
fn an_error_while_the_rest_of_a_batch_is_awaited_skips_to_its_sync() {
    let mut between = known(&["select 1"]);
    between.client(&[&bind("0"), &execute(), &flush()]);
    let timeout = error("57014", "canceling statement due to statement timeout");
    between.server(&[&bound(), &complete("SELECT 0")]);
    between.server(&[&timeout]);
    between.to_server.clear();
    between.to_client.clear();
    between.client(&[&query("select 1"), &function_call()]);
    between.server_gets(&[]);
    assert!(!between.is_back());
    between.passes(&[&sync()], &[&ready()]);
    assert!(between.is_back());
}

#[test]
fn an_error_that_nobody_is_due_ends_the_connection() {
    let mut between = Between::new();
    between.passes(
        &[&query("begin")],
        &[&complete("BEGIN"), &ready_in_transaction()],
    );
    assert!(
        between
            .try_server(&error("XX000", "out of nowhere"))
            .is_err()
    );
}

#[test]
fn a_query_in_a_batch_that_fails_is_discarded_with_it() {
    for request in [query("select 1"), function_call()] {
        let mut between = known(&["select 1"]);
        between.client(&[&bind("0"), &request]);
        between.server(&[&error("22P02", "no")]);
        between.client_gets(&[&error("22P02", "no")]);
        assert!(!between.is_back(), "PostgreSQL waits for a Sync");
        between.to_server.clear();
        between.client(&[&query("select 2")]);
        between.server_gets(&[]);
        between.passes(&[&sync()], &[&ready()]);
        assert!(between.is_back());
    }
}

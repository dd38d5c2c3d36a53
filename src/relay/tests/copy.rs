//! COPY in both directions and both protocols, also when it fails, and when the client does not wait.

use super::batches::known;
use super::messages::*;
use super::*;
use crate::relay::conversation::Conversation;

#[test]
fn copy_in_by_a_query() {
    let mut between = Between::new();
    between.passes(&[&query("copy t from stdin")], &[&copy_in()]);
    between.passes(&[&copy_data("1\n"), &flush(), &copy_data("2\n")], &[]);
    between.passes(&[&sync()], &[]);
    assert_eq!(between.session.phase(), Phase::Serving);
    between.passes(&[&copy_done()], &[&complete("COPY 2"), &ready()]);
    assert!(between.is_back());
}

#[test]
fn copy_out_by_a_query_and_in_a_batch() {
    let data = [copy_out(), copy_data("1\n"), copy_data("2\n"), copy_done()].concat();
    let mut between = known(&["copy t to stdout"]);
    between.passes(
        &[&query("copy t to stdout")],
        &[&data, &complete("COPY 2"), &ready()],
    );
    assert!(between.is_back());
    between.client(&[&bind("0"), &execute(), &sync()]);
    between.server(&[&bound(), &data, &complete("COPY 2"), &ready()]);
    between.client_gets(&[&bound(), &data, &complete("COPY 2"), &ready()]);
    assert!(between.is_back());
}

#[test]
fn a_client_may_fail_its_copy() {
    let mut between = Between::new();
    between.passes(&[&query("copy t from stdin")], &[&copy_in()]);
    between.passes(
        &[&copy_data("1\n"), &copy_fail("no more")],
        &[&error("57014", "COPY from stdin failed"), &ready()],
    );
    assert!(between.is_back());
}

/// libpq sends Sync with its Execute, which the server ignores, and again behind CopyDone.
#[test]
fn copy_in_within_a_batch_with_both_of_libpqs_syncs() {
    let mut between = known(&["copy t from stdin"]);
    between.client(&[&bind("0"), &execute(), &sync()]);
    between.server(&[&bound(), &copy_in()]);
    between.client_gets(&[&bound(), &copy_in()]);
    between.to_server.clear();
    between.passes(&[&copy_data("1\n")], &[]);
    between.passes(&[&copy_done(), &sync()], &[&complete("COPY 1"), &ready()]);
    assert!(between.is_back());
}

#[test]
fn copy_in_that_fails_within_a_batch_while_the_client_still_sends() {
    let mut between = known(&["copy t from stdin"]);
    between.client(&[&bind("0"), &execute(), &sync()]);
    between.server(&[&bound(), &copy_in()]);
    between.to_client.clear();
    between.to_server.clear();
    let half = copy_data("not a number\n");
    between.client(&[&half[..8]]);
    between.server(&[&error("22P02", "invalid input")]);
    // The message that had begun is brought to its end; the server skips it. Whether it has read the Sync
    // that came before it is told by what it answers in front of the mark.
    between.client(&[&half[8..], &copy_data("2\n"), &copy_done(), &sync()]);
    between.server_gets(&[&half, &mark_behind_skipping()]);
    between.server(&[&ready(), &closed(), &ready()]);
    between.client_gets(&[&error("22P02", "invalid input")]);
    assert_eq!(
        between.link().conversation(),
        Conversation::Between,
        "its own Sync has been sent"
    );
    between.server_gets(&[&sync()]);
    between.server(&[&ready()]);
    between.client_gets(&[&ready()]);
    assert!(between.is_back());
}

/// The PQexecParams of libpq, of a view: the copy fails before anything of it is read.
#[test]
fn a_copy_that_fails_before_the_sync_behind_it_is_read() {
    let fails = error("42809", "cannot copy to view");
    let mut between = known(&["copy v from stdin"]);
    between.client(&[&bind("0"), &execute(), &sync()]);
    between.server(&[&bound(), &copy_in()]);
    between.to_server.clear();
    between.server(&[&fails]);
    between.server_gets(&[&mark_behind_skipping()]);
    between.server(&[&ready(), &ready(), &closed(), &ready()]);
    between.client_gets(&[&bound(), &copy_in(), &fails, &ready()]);
    assert!(between.is_back());
}

/// A thousand Syncs, of which PostgreSQL answers any number.
#[test]
fn as_many_syncs_are_answered_as_postgresql_answers() {
    let fails = error("22P02", "invalid input");
    for (before, within, answered) in [(0, 1000, 0), (0, 1000, 417), (3, 2, 5), (1, 1000, 1001)] {
        for by_query in [true, false] {
            let mut between = known(&["copy t from stdin"]);
            let copies = match by_query {
                true => query("copy t from stdin"),
                false => [bind("0"), execute()].concat(),
            };
            let begins = match by_query {
                true => copy_in(),
                false => [bound(), copy_in()].concat(),
            };
            between.client(&[&copies, &sync().repeat(before)]);
            between.server(&[&begins]);
            between.client(&[&copy_data("x\n"), &sync().repeat(within)]);
            between.to_server.clear();
            // Sent behind the end of the copy it is answered in any case.
            between.client(&[&copy_done(), &sync()]);
            between.client_gets(&[&begins]);
            between.server(&[&fails]);
            let own = ready().repeat(usize::from(by_query));
            let marks = match by_query {
                true => mark(),
                false => mark_behind_skipping(),
            };
            between.server_gets(&[&copy_done(), &sync(), &marks]);
            between.client(&[&query("select 1")]);
            between.server(&[&own, &ready().repeat(answered + 1)]);
            between.server_gets(&[]);
            let mark = [ready().repeat(usize::from(!by_query)), closed(), ready()].concat();
            between.server(&[&mark]);
            between.client_gets(&[&fails, &own, &ready().repeat(answered + 1)]);
            between.server_gets(&[&query("select 1")]);
            between.server(&[&selected("1")]);
            assert!(between.is_back());
        }
    }
}

#[test]
fn more_syncs_answered_than_were_sent_are_a_contradiction() {
    let mut between = Between::new();
    between.passes(&[&query("copy t from stdin")], &[&copy_in()]);
    between.client(&[&copy_data("x\n"), &sync()]);
    let reply = [error("22P02", "no"), ready(), ready(), ready()].concat();
    assert!(between.try_server(&reply).is_err());
}

#[test]
fn fewer_syncs_answered_than_must_be_are_a_contradiction() {
    let mut between = Between::new();
    between.passes(&[&query("copy t from stdin")], &[&copy_in()]);
    between.client(&[&copy_data("x\n"), &sync(), &copy_done(), &sync()]);
    let reply = [error("22P02", "no"), ready(), closed()].concat();
    assert!(between.try_server(&reply).is_err());
}

#[test]
fn copy_in_that_fails_after_the_client_has_sent_everything() {
    let mut between = known(&["copy t from stdin"]);
    between.client(&[&bind("0"), &execute(), &sync()]);
    between.server(&[&bound(), &copy_in()]);
    between.client(&[&copy_data("x"), &copy_done(), &sync()]);
    between.to_client.clear();
    between.server(&[&error("22P02", "invalid input"), &ready()]);
    between.client_gets(&[&error("22P02", "invalid input"), &ready()]);
    between.server(&[&ready(), &closed(), &ready()]);
    between.client_gets(&[]);
    assert!(between.is_back());
}

#[test]
fn a_failed_copy_by_a_query_lets_the_connection_go_when_the_client_has_ended_it() {
    let mut between = Between::new();
    between.passes(&[&query("copy t from stdin")], &[&copy_in()]);
    let half = copy_data("not a number\n");
    between.client(&[&half[..8]]);
    between.server(&[&error("22P02", "invalid input"), &ready()]);
    assert_eq!(
        between.session.phase(),
        Phase::Serving,
        "half a message is on its way to the server"
    );
    between.to_server.clear();
    between.client(&[&half[8..]]);
    between.server_gets(&[&half[8..]]);
    between.end_turn();
    assert!(between.is_back());
    between.client(&[&copy_data("3\n"), &copy_done()]);
    between.server_gets(&[]);
    assert!(between.is_back(), "the rest needs no server");
}

#[test]
fn a_copy_that_does_not_begin() {
    let mut between = known(&["copy t from stdin"]);
    let fails = error("42P01", "no such table");
    between.client(&[&query("copy t from stdin"), &copy_data("1"), &copy_done()]);
    between.server(&[&fails, &ready()]);
    between.client_gets(&[&fails, &ready()]);
    assert!(between.is_back());

    between.client(&[&bind("0"), &execute(), &sync()]);
    between.client(&[&copy_data("1"), &copy_done(), &sync()]);
    between.server(&[&bound(), &fails, &ready(), &ready()]);
    between.client_gets(&[&bound(), &fails, &ready(), &ready()]);
    assert!(between.is_back());
}

#[test]
fn a_client_need_not_wait_for_the_server_to_be_ready_for_its_data() {
    let mut between = known(&["copy t from stdin"]);
    let data = [copy_data("1\n"), copy_done()].concat();
    // By a query, with another behind.
    between.client(&[&query("copy t from stdin"), &data, &query("select 1")]);
    between.server_gets(&[&query("copy t from stdin"), &data]);
    between.server(&[&copy_in()]);
    let ended = Conversation::CopyingIn { ended: true };
    assert_eq!(between.link().conversation(), ended);
    let reply = [complete("COPY 1"), ready()].concat();
    between.server(&[&reply]);
    between.client_gets(&[&copy_in(), &reply]);
    between.server_gets(&[&query("select 1")]);
    between.server(&[&selected("1")]);
    between.client_gets(&[&selected("1")]);
    assert!(between.is_back());
    // In a batch, with one Sync and with two, with another batch behind.
    for syncs in [&[][..], &sync()] {
        between.client(&[&bind("0"), &execute(), syncs, &data, &sync()]);
        between.client(&[&bind("0"), &sync()]);
        let reply = [bound(), copy_in(), complete("COPY 1"), ready()].concat();
        between.server(&[&reply]);
        between.server(&[&bound(), &ready()]);
        between.client_gets(&[&reply, &bound(), &ready()]);
        assert!(between.is_back());
    }
}

#[test]
fn a_client_that_sends_data_early_and_the_end_late() {
    let mut between = known(&["copy t from stdin"]);
    between.client(&[&bind("0"), &execute(), &sync(), &copy_data("1\n")]);
    between.server(&[&bound(), &copy_in()]);
    let copies = Conversation::CopyingIn { ended: false };
    assert_eq!(between.link().conversation(), copies);
    between.client(&[&copy_data("2\n"), &copy_done()]);
    between.server(&[&complete("COPY 2")]);
    assert!(!between.is_back());
    between.client(&[&sync()]);
    between.server(&[&ready()]);
    assert!(between.is_back());
}

#[test]
fn a_batch_behind_a_copy_is_open_until_its_own_sync() {
    let mut between = known(&["copy t from stdin", "insert"]);
    let data = [copy_data("1\n"), copy_done()].concat();
    between.client(&[&bind("0"), &execute(), &sync(), &data, &sync()]);
    between.client(&[&bind("1"), &execute(), &flush()]);
    let reply = [bound(), copy_in(), complete("COPY 1"), ready()].concat();
    between.server(&[&reply]);
    between.server(&[&bound(), &complete("INSERT 0 1")]);
    assert!(!between.is_back(), "what it has inserted is not committed");
    between.to_server.clear();
    assert!(between.client_gone());
    between.server_gets(&[&fail_batch()]);
}

#[test]
fn two_copies_in_one_query() {
    let mut between = Between::new();
    between.passes(
        &[&query("copy a from stdin; copy b from stdin")],
        &[&copy_in()],
    );
    between.passes(&[&copy_done()], &[&complete("COPY 0"), &copy_in()]);
    let copies = Conversation::CopyingIn { ended: false };
    assert_eq!(between.link().conversation(), copies);
    between.passes(&[&copy_done()], &[&complete("COPY 0"), &ready()]);
    assert!(between.is_back());
}

#[test]
fn wherever_a_copy_is_cut_the_same_bytes_pass() {
    let client = [copy_data("1\n"), copy_data(""), copy_done(), sync()].concat();
    for cut in 0..client.len() {
        let mut between = known(&["copy t from stdin"]);
        between.client(&[&bind("0"), &execute(), &sync()]);
        between.server(&[&bound(), &copy_in()]);
        between.to_server.clear();
        between.client(&[&client[..cut]]);
        between.client(&[&client[cut..]]);
        between.server_gets(&[&client]);
        between.server(&[&complete("COPY 1"), &ready()]);
        assert!(between.is_back());
    }
}

#[test]
fn a_request_in_the_middle_of_a_copy_does_not_wait_for_its_end() {
    let mut between = Between::new();
    let copies = [
        parse("a", "copy t from stdin"),
        bind("a"),
        execute(),
        sync(),
    ]
    .concat();
    between.client(&[&copies, &bind("a")]);
    between.server(&[&parsed(), &bound(), &copy_in()]);
    between.to_client.clear();
    between.server_gets(&[
        &parse("DOORMAN_0", "copy t from stdin"),
        &bind("DOORMAN_0"),
        &execute(),
        &sync(),
        &message(b'B', b""),
    ]);
    let complains = error(
        "08P01",
        "unexpected message type 0x42 during COPY from stdin",
    );
    between.server(&[&complains]);
    between.client_gets(&[&complains]);
    assert!(!between.is_back());
}

#[test]
fn a_request_that_the_pooler_would_answer_itself_breaks_a_copy_too() {
    let mut between = Between::new();
    between.client(&[&parse("a", "select 1"), &sync()]);
    between.server(&[&parsed(), &ready()]);
    assert!(between.is_back());
    between.client(&[&query("copy t from stdin")]);
    between.server(&[&copy_in()]);
    for (kind, request) in [(b'C', close("a")), (b'P', parse("b", "select 1"))] {
        between.to_server.clear();
        between.client(&[&request]);
        between.server_gets(&[&message(kind, b"")]);
    }
    let complains = error(
        "08P01",
        "unexpected message type 0x43 during COPY from stdin",
    );
    between.to_client.clear();
    between.server(&[&complains]);
    between.client_gets(&[&complains]);
}

/// PostgreSQL runs the second batch or discards it, by whether it had read the Sync before the copy failed.
#[test]
fn a_copy_that_is_cancelled_in_front_of_another_batch_loses_the_connection() {
    let mut between = known(&["copy t from stdin", "select 1"]);
    between.client(&[&bind("0"), &execute(), &sync()]);
    between.client(&[&bind("1"), &execute(), &sync()]);
    between.server(&[&bound(), &copy_in()]);
    assert!(
        between
            .try_server(&error("57014", "canceling statement due to user request"))
            .is_err()
    );
}

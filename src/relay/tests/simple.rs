//! Query and FunctionCall, what the server may say at any time, and what does not fit.

use super::messages::*;
use super::*;

#[test]
fn a_query_and_its_reply_pass_and_the_connection_goes_back() {
    let mut between = Between::new();
    between.client(&[&query("select 1")]);
    assert_eq!(between.session.phase(), Phase::Serving);
    between.server_gets(&[&query("select 1")]);
    between.server(&[&selected("1")]);
    between.client_gets(&[&selected("1")]);
    assert!(between.is_back());
    assert_eq!(between.session.work.queries, 1);
    assert_eq!(between.session.work.transactions, 1);
}

#[test]
fn the_connection_stays_until_the_transaction_is_over() {
    let mut between = Between::new();
    between.passes(
        &[&query("begin")],
        &[&complete("BEGIN"), &ready_in_transaction()],
    );
    assert_eq!(between.session.phase(), Phase::Serving);
    between.passes(
        &[&query("select")],
        &[&error("42601", "no"), &ready_failed()],
    );
    assert_eq!(between.session.phase(), Phase::Serving);
    between.passes(&[&query("rollback")], &[&complete("ROLLBACK"), &ready()]);
    assert!(between.is_back());
}

#[test]
fn in_session_mode_it_stays_for_good() {
    let mut between = Between::new();
    between.rules.mode = Mode::Session;
    between.passes(&[&query("select 1")], &[&selected("1")]);
    assert_eq!(between.session.phase(), Phase::Serving);
    assert!(between.session.rests_with_server());
    between.passes(&[], &[&notification("news")]);
    assert_eq!(between.session.phase(), Phase::Serving);
}

#[test]
fn pipelined_queries_keep_the_connection_until_the_last_reply() {
    let mut between = Between::new();
    let both = [query("select 1"), query("select 2")].concat();
    between.client(&[&both]);
    between.server_gets(&[&both]);
    between.server(&[&selected("1")]);
    between.client_gets(&[&selected("1")]);
    assert!(!between.is_back());
    between.server(&[&selected("2")]);
    between.client_gets(&[&selected("2")]);
    assert!(between.is_back());
}

#[test]
fn an_error_in_one_of_several_queries_does_not_touch_the_others() {
    let mut between = Between::new();
    between.client(&[&query("a"), &query("b"), &query("c")]);
    let reply = [
        error("42601", "a"),
        ready(),
        selected("b"),
        nothing_to_run(),
        ready(),
    ];
    between.server(&[&reply.concat()]);
    between.client_gets(&[&reply.concat()]);
    assert!(between.is_back());
    assert_eq!(between.session.work.errors, 1);
}

#[test]
fn a_query_larger_than_any_buffer_passes_in_parts() {
    let mut between = Between::new();
    let sql = format!("select '{}'", "x".repeat(300_000));
    let large = query(&sql);
    for part in large.chunks(70_000) {
        between.client(&[part]);
        let passed = std::mem::take(&mut between.to_server);
        assert!(!passed.is_empty(), "it is not held back");
    }
    between.server(&[&selected("1")]);
    assert!(between.is_back());
}

#[test]
fn half_a_request_takes_no_connection() {
    let mut between = Between::new();
    let whole = query("select 1");
    for cut in 1..whole.len() {
        between.client(&[&whole[cut - 1..cut]]);
        assert_eq!(between.session.phase(), Phase::Idle, "cut at {cut}");
    }
    between.client(&[&whole[whole.len() - 1..]]);
    between.server_gets(&[&whole]);
}

#[test]
fn a_function_call_passes_like_a_query() {
    let mut between = Between::new();
    let result = message(b'V', b"\0\0\0\x01x");
    between.passes(&[&function_call()], &[&result, &ready()]);
    assert!(between.is_back());
    between.passes(&[&function_call()], &[&error("42883", "no"), &ready()]);
    assert!(between.is_back());
}

#[test]
fn what_needs_no_server_takes_none() {
    let mut between = Between::new();
    between.idle = None;
    between.client(&[&flush(), &copy_data("x"), &copy_done(), &copy_fail("y")]);
    between.client_gets(&[]);
    between.client(&[&sync()]);
    between.client_gets(&[&ready()]);
    assert_eq!(between.try_client(&terminate()), Ok(Wants::End));
}

#[test]
fn without_a_server_the_request_stays_unread() {
    let mut between = Between::new();
    between.idle = None;
    assert_eq!(between.try_client(&query("select 1")), Ok(Wants::Server));
    assert_eq!(between.from_client, query("select 1"));
}

#[test]
fn a_row_of_many_parts_passes_as_it_comes() {
    let mut between = Between::new();
    between.client(&[&query("select large")]);
    let reply = [
        columns(),
        row(&[&"x".repeat(100_000)]),
        complete("SELECT 1"),
        ready(),
    ]
    .concat();
    let mut seen = 0;
    for part in reply.chunks(1_000) {
        between.server(&[part]);
        seen += part.len();
        // Only the heads and the short messages that must be read are awaited whole.
        assert!(between.to_client.len() + 20 > seen);
    }
    between.client_gets(&[&reply]);
    assert!(between.is_back());
}

#[test]
fn notices_notifications_and_settings_come_at_any_time() {
    let asides = [
        notice("be aware"),
        notification("news"),
        parameter("TimeZone", "Asia/Tokyo"),
    ]
    .concat();
    let reply = [columns(), row(&["1"]), complete("SELECT 1")];
    for place in 0..=reply.len() {
        let mut between = Between::new();
        between.passes(
            &[&query("begin")],
            &[&complete("BEGIN"), &ready_in_transaction()],
        );
        between.passes(&[], &[&asides]);
        between.client(&[&query("select 1")]);
        let mut whole = reply.to_vec();
        whole.insert(place, asides.clone());
        whole.push(ready());
        between.server(&[&whole.concat()]);
        between.client_gets(&[&whole.concat()]);
        assert!(between.is_back());
        assert_eq!(
            between.session.reported_to_client.get("TimeZone"),
            Some(&b"Asia/Tokyo"[..])
        );
    }
}

#[test]
fn last_words_pass_and_the_connection_is_not_used_again() {
    let last = fatal("57P01", "terminating connection");
    let mut between = Between::new();
    between.passes(&[&query("select 1")], &[&columns(), &last]);
    assert!(between.link().ended);
    assert!(!between.client_gone());

    let mut between = Between::new();
    between.passes(
        &[&query("begin")],
        &[&complete("BEGIN"), &ready_in_transaction()],
    );
    between.passes(&[], &[&last]);
    assert!(between.link().ended);
}

#[test]
fn lengths_that_no_message_has_are_refused_on_either_side() {
    for length in [0_u32, 3, 0x4000_0000, 0x7fff_ffff, u32::MAX] {
        for kind in *b"QPBDECSHFdcfXp\0" {
            let head = [&[kind][..], &length.to_be_bytes()].concat();
            assert!(Between::new().try_client(&head).is_err());
            let mut between = Between::new();
            between.client(&[&query("select 1")]);
            assert!(between.try_client(&head).is_err());
            assert!(between.try_server(&head).is_err());
        }
    }
}

#[test]
fn kinds_that_do_not_exist_are_refused_on_either_side() {
    for kind in 0..=255 {
        let odd = message(kind, b"");
        if !b"QPBDECSHFdcfX".contains(&kind) {
            assert!(Between::new().try_client(&odd).is_err());
        }
        if !b"CDEGHISTVZAN123cdnst".contains(&kind) {
            let mut between = Between::new();
            between.client(&[&query("select 1")]);
            assert!(between.try_server(&odd).is_err(), "{}", kind as char);
        }
    }
}

#[test]
fn replies_nobody_asked_for_end_the_understanding() {
    for stray in [parsed(), bound(), closed()] {
        let mut between = Between::new();
        between.client(&[&query("select 1")]);
        assert!(between.try_server(&stray).is_err());
    }
    let mut between = Between::new();
    between.passes(
        &[&query("begin")],
        &[&complete("BEGIN"), &ready_in_transaction()],
    );
    assert!(between.try_server(&ready()).is_err());
    let mut between = Between::new();
    between.client(&[&query("select 1")]);
    assert!(between.try_server(&message(b'Z', b"X")).is_err());
}

#[test]
fn malformed_requests_are_for_postgresql_to_refuse() {
    let bodies = [
        (b'P', &b""[..]),
        (b'P', b"name"),
        (b'P', b"name\0"),
        (b'P', b"name\0text"),
        (b'P', b"\0text\0"),
        // Three types announced, one given; one announced, more given.
        (b'P', b"n\0text\0\0\x03\0\0\0\x17"),
        (b'P', b"n\0text\0\0\x01\0\0\0\x17\0"),
        (b'B', b""),
        (b'B', b"portal"),
        (b'B', b"portal\0statement"),
        (b'D', b""),
        (b'D', b"S"),
        (b'C', b"Sname"),
        (b'D', b"X\0"),
        (b'C', b"X\0"),
    ];
    for (kind, body) in bodies {
        let mut between = Between::new();
        let request = message(kind, body);
        between.passes(&[&request], &[&error("08P01", "invalid message format")]);
        between.client(&[&query("select 1")]);
        between.server_gets(&[]);
        between.passes(&[&sync()], &[&ready()]);
        assert!(between.is_back());
    }
}

#[test]
fn names_without_end_are_refused_before_they_fill_memory() {
    let mut between = Between::new();
    let head = [&b"B\x00\x10\x00\x00"[..], &[b'x'; 70_000]].concat();
    assert!(between.try_client(&head).is_err());
}

#[test]
fn a_query_that_is_refused_is_done_with() {
    let mut between = Between::new();
    between.idle = None;
    let both = [query("select 1"), query("select 2")].concat();
    assert_eq!(between.try_client(&both), Ok(Wants::Server));
    between.refuse();
    between.client_gets(&[&error("57014", "canceled"), &ready()]);
    assert_eq!(
        between.from_client,
        query("select 2"),
        "it is still to come"
    );
}

#[test]
fn a_large_query_that_is_refused_is_dropped_to_its_end() {
    let mut between = Between::new();
    between.idle = None;
    let large = query(&"x".repeat(200_000));
    let wants = between.try_client(&large[..100_000]);
    assert_eq!(wants, Ok(Wants::Server));
    between.refuse();
    let rest = [&large[100_000..], &query("select 2")].concat();
    assert_eq!(between.try_client(&rest), Ok(Wants::Server));
    between.client_gets(&[&error("57014", "canceled"), &ready()]);
    assert_eq!(between.from_client, query("select 2"));
}

#[test]
fn a_batch_that_is_refused_is_dropped_up_to_its_sync() {
    let batch = [parse("a", "select 1"), bind("a"), execute(), sync()].concat();
    for cut in parse("a", "select 1").len()..batch.len() {
        let mut between = Between::new();
        between.idle = None;
        assert_eq!(between.try_client(&batch[..cut]), Ok(Wants::Server));
        between.refuse();
        between.client_gets(&[&error("57014", "canceled")]);
        between.client(&[&batch[cut..]]);
        between.client_gets(&[&ready()]);
        assert!(between.session.statements.is_empty());
        assert!(between.from_client.is_empty());
    }
}

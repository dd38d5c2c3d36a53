//! A connection gets its client's settings before the first request, and the client hears of theirs.

use super::messages::*;
use super::*;

fn with_told(own: &[(&str, &str)], untracked: &[(&str, &str)]) -> Between {
    let mut reported_to_client = (*parameters(&REPORTED)).clone();
    for (name, value) in own {
        reported_to_client.set(name, value.as_bytes());
    }
    let session = session(
        Arc::new(reported_to_client),
        parameters(untracked),
        Arc::default(),
    );
    Between::with(session, rules())
}

fn set(name: &str, value: &str) -> Bytes {
    query(&format!(
        "SELECT pg_catalog.set_config('{name}',{value},false)"
    ))
}

#[test]
fn equal_settings_cost_nothing() {
    let mut between = Between::new();
    between.client(&[&query("select 1")]);
    between.server_gets(&[&query("select 1")]);
    between.server(&[&selected("1")]);
    let backend = between.idle.as_ref().unwrap();
    assert!(
        Arc::ptr_eq(&between.session.reported_to_client, &backend.reported),
        "the next comparison is one of addresses"
    );
}

#[test]
fn settings_are_made_before_the_first_request_and_behind_the_clients_back() {
    let own = [("TimeZone", "Asia/Tokyo"), ("client_encoding", "LATIN1")];
    let mut between = with_told(&own, &[("work_mem", "1MB")]);
    between.client(&[&query("select 1")]);
    assert_eq!(between.session.phase(), Phase::Preparing);
    assert!(!between.session.reads_client());
    between.server_gets(&[
        &set("client_encoding", "'LATIN1'"),
        &set("TimeZone", "'Asia/Tokyo'"),
        &set("work_mem", "'1MB'"),
    ]);
    let reply = [
        columns(),
        parameter("client_encoding", "LATIN1"),
        row(&["LATIN1"]),
        complete("SELECT 1"),
        ready(),
        columns(),
        notice("x"),
        row(&["Asia/Tokyo"]),
        complete("SELECT 1"),
        parameter("TimeZone", "Asia/Tokyo"),
        ready(),
        selected("1MB"),
    ]
    .concat();
    for (place, byte) in reply.iter().enumerate() {
        assert_eq!(between.session.phase(), Phase::Preparing, "byte {place}");
        between.server(&[&[*byte]]);
    }
    between.client_gets(&[]);
    between.server_gets(&[&query("select 1")]);
    between.server(&[&selected("1")]);
    between.client_gets(&[&selected("1")]);
    assert!(between.is_back(), "and nothing is undone");
    // The same client finds them made.
    between.passes(&[&query("select 2")], &[&selected("2")]);
}

#[test]
fn what_another_client_had_made_is_taken_back() {
    let mut between = Between::new();
    let mut used = backend();
    used.applied = parameters(&[("work_mem", "1MB")]);
    between.idle = Some(used);
    between.client(&[&query("select 1")]);
    between.server_gets(&[&set("work_mem", "NULL")]);
    between.server(&[&selected("4MB")]);
    between.server_gets(&[&query("select 1")]);
}

#[test]
fn a_client_hears_of_what_differs_and_cannot_be_set() {
    let mut between = with_told(&[("server_version", "15"), ("in_hot_standby", "off")], &[]);
    let mut other = backend();
    Arc::make_mut(&mut other.reported).set("server_version", b"16");
    between.idle = Some(other);
    between.client(&[&query("select 1")]);
    between.client_gets(&[&parameter("server_version", "16")]);
    between.server_gets(&[&query("select 1")]);
}

#[test]
fn a_connection_that_lay_for_long_is_tried_first() {
    let mut between = Between::new();
    between.check = true;
    between.client(&[&query("select 1")]);
    between.server_gets(&[&query(";")]);
    assert!(!between.session.has_served());
    between.server(&[&nothing_to_run(), &ready()]);
    between.client_gets(&[]);
    between.server_gets(&[&query("select 1")]);
    assert!(between.session.has_served());
}

#[test]
fn a_setting_that_is_refused_spoils_the_connection_and_the_client_has_not_heard() {
    let mut between = with_told(&[("TimeZone", "Mars")], &[]);
    between.client(&[&query("select 1")]);
    between.server(&[&error("22023", "invalid value"), &ready()]);
    between.client_gets(&[]);
    assert!(between.link().setup_error.is_some());
    assert!(!between.session.has_served());
    assert!(!between.client_gone());
}

#[test]
fn a_setting_the_client_changes_is_told_and_made_again_elsewhere() {
    let mut between = Between::new();
    let reply = [
        complete("SET"),
        parameter("TimeZone", "Asia/Tokyo"),
        ready(),
    ]
    .concat();
    between.passes(&[&query("set timezone = 'Asia/Tokyo'")], &[&reply]);
    assert_eq!(between.session.phase(), Phase::Cleaning);
    between.server_gets(&[&query(
        "SET SESSION AUTHORIZATION DEFAULT;RESET ROLE;RESET ALL",
    )]);
    between.server(&[
        &complete("SET"),
        &complete("RESET"),
        &parameter("TimeZone", "UTC"),
        &ready(),
    ]);
    between.client_gets(&[]);
    assert!(between.is_back());
    between.client(&[&query("select 1")]);
    between.server_gets(&[&set("TimeZone", "'Asia/Tokyo'")]);
}

/// A client that has chosen a time zone at startup, and a connection that has it.
fn with_chosen(mode: Mode) -> Between {
    let startup_settings = parameters(&[("TimeZone", "Asia/Tokyo"), ("work_mem", "1MB")]);
    let mut reported_to_client = (*parameters(&REPORTED)).clone();
    reported_to_client.set("TimeZone", b"Asia/Tokyo");
    let reported_to_client = Arc::new(reported_to_client);
    let own = parameters(&[("work_mem", "1MB")]);
    let session = session(
        Arc::clone(&reported_to_client),
        Arc::clone(&own),
        startup_settings,
    );
    let mut between = Between::with(session, rules());
    between.rules.mode = mode;
    let mut tuned = backend();
    tuned.reported = reported_to_client;
    tuned.applied = own;
    between.idle = Some(tuned);
    between
}

/// The batch in which the pooler runs statements of its own.
fn own(statements: &[&str]) -> Bytes {
    let name = "DOORMAN_own";
    let mut batch = close(name);
    for sql in statements {
        let run = message(b'E', b"DOORMAN_own\0\0\0\0\0");
        let bound = message(b'B', b"DOORMAN_own\0DOORMAN_own\0\0\0\0\0\0\0");
        batch.extend([parse(name, sql), bound, run].concat());
        batch.extend([close_portal(name), close(name)].concat());
    }
    batch.extend(sync());
    batch
}

/// The server's replies to that, with what it says at the end.
fn done(tags: &[&str], end: &[&[u8]]) -> Bytes {
    let mut replies = closed();
    for tag in tags {
        replies.extend([parsed(), bound(), complete(tag), closed(), closed()].concat());
    }
    replies.extend(end.concat());
    replies
}

#[test]
fn reset_goes_back_to_what_the_client_chose_at_startup_before_it_can_ask() {
    for mode in [Mode::Transaction, Mode::Session] {
        let mut between = with_chosen(mode);
        between.client(&[&query("reset timezone"), &query("select 1")]);
        between.server_gets(&[&query("reset timezone")]);
        let reply = [complete("RESET"), parameter("TimeZone", "UTC")].concat();
        between.server(&[&reply, &ready()]);
        between.client_gets(&[&reply]);
        between.server_gets(&[&own(&["SET \"timezone\" TO 'Asia/Tokyo'"])]);
        let restored = parameter("TimeZone", "Asia/Tokyo");
        between.server(&[&done(&["SET"], &[&restored, &ready()])]);
        between.client_gets(&[&restored, &ready()]);
    }
}

#[test]
fn what_postgresql_passes_over_does_not_keep_it_from_going_back() {
    for mode in [Mode::Transaction, Mode::Session] {
        let mut between = with_chosen(mode);
        let stray = message(b'c', b"");
        between.client(&[&query("reset timezone"), &stray, &stray, &query("select 1")]);
        between.server_gets(&[&query("reset timezone"), &stray, &stray]);
        let reply = [complete("RESET"), parameter("TimeZone", "UTC")].concat();
        between.server(&[&reply, &ready()]);
        between.client_gets(&[&reply]);
        between.server_gets(&[&own(&["SET \"timezone\" TO 'Asia/Tokyo'"])]);
    }
}

#[test]
fn a_sync_behind_it_has_its_own_reply() {
    for mode in [Mode::Transaction, Mode::Session] {
        for stray in [b"".to_vec(), message(b'c', b"")] {
            let mut between = with_chosen(mode);
            between.client(&[&query("reset timezone")]);
            between.server(&[&complete("RESET"), &ready()]);
            between.client_gets(&[&complete("RESET")]);
            between.to_server.clear();
            between.client(&[&sync(), &stray]);
            between.server_gets(&[&sync(), &stray]);
            between.server(&[&done(&["SET"], &[&ready()])]);
            between.client_gets(&[&ready()]);
            between.server(&[&ready()]);
            between.client_gets(&[&ready()]);
        }
    }
}

#[test]
fn in_a_block_it_goes_back_in_the_block() {
    for (text, sets) in [
        (
            "reset all",
            &[
                "SET \"timezone\" TO 'Asia/Tokyo'",
                "SET \"work_mem\" TO '1MB'",
            ][..],
        ),
        (
            "set local work_mem to default",
            &["SET LOCAL \"work_mem\" TO '1MB'"],
        ),
    ] {
        let mut between = with_chosen(Mode::Session);
        between.client(&[&query("begin")]);
        between.server(&[&complete("BEGIN"), &ready_in_transaction()]);
        between.to_server.clear();
        between.client(&[&query(text)]);
        between.server(&[&complete("RESET"), &ready_in_transaction()]);
        between.server_gets(&[&query(text), &own(sets)]);
        let tags = vec!["SET"; sets.len()];
        between.server(&[&done(&tags, &[&ready_in_transaction()])]);
        between.to_client.clear();
        between.passes(
            &[&query("select 1")],
            &[&complete("SELECT 1"), &ready_in_transaction()],
        );
        between.client(&[&query("rollback to a")]);
        between.to_server.clear();
        between.to_client.clear();
        // It may have been behind the savepoint, and the RESET before it.
        between.server(&[&complete("ROLLBACK"), &ready_in_transaction()]);
        between.client_gets(&[&complete("ROLLBACK")]);
        assert!(!between.to_server.is_empty());
        between.to_server.clear();
        between.server(&[&done(&["SELECT 2"], &[&ready_in_transaction()])]);
        between.client_gets(&[&ready_in_transaction()]);
        between.passes(&[&query("commit")], &[&complete("COMMIT"), &ready()]);
    }
}

#[test]
fn discard_all_goes_back_to_all_of_it() {
    let mut between = with_chosen(Mode::Session);
    between.client(&[&query("discard all")]);
    between.to_server.clear();
    between.server(&[&complete("DISCARD ALL"), &ready()]);
    between.client_gets(&[&complete("DISCARD ALL")]);
    between.server_gets(&[&own(&[
        "SET \"timezone\" TO 'Asia/Tokyo'",
        "SET \"work_mem\" TO '1MB'",
    ])]);
}

#[test]
fn what_the_client_sets_to_the_servers_default_is_set_again() {
    let mut between = with_chosen(Mode::Transaction);
    between.client(&[&query("set timezone = 'UTC'")]);
    between.server(&[&complete("SET"), &parameter("TimeZone", "UTC"), &ready()]);
    between.server(&[&row(&["1MB"]), &complete("SELECT 1"), &ready()]);
    between.server(&[&complete("RESET"), &ready()]);
    between.server(&[&row(&["4MB"]), &complete("SELECT 1"), &ready()]);
    assert!(between.is_back());
    between.to_server.clear();
    between.client(&[&query("do 'x'")]);
    between.server_gets(&[&set("TimeZone", "'UTC'"), &set("work_mem", "'1MB'")]);
}

#[test]
fn a_set_is_not_taken_for_a_reset() {
    for text in [
        "set work_mem = '2MB' -- default",
        "reset statement_timeout",
        "reset timezone; set timezone = 'UTC'",
        "set local time zone 'UTC'",
        "select set_config('app.user', $1, true)",
    ] {
        let mut between = with_chosen(Mode::Session);
        between.client(&[&query(text)]);
        between.server(&[&complete("SET"), &ready()]);
        between.client_gets(&[&complete("SET"), &ready()]);
        between.server_gets(&[&query(text)]);
    }
}

#[test]
fn what_may_have_gone_back_is_asked_for() {
    for (text, tag) in [
        ("do $$ begin reset all; end $$", "DO"),
        ("call tidy()", "CALL"),
        ("reset all; select 1", "RESET"),
        ("select set_config('work_mem', null, false)", "SELECT 1"),
        ("select set_config($1, $2, false)", "SELECT 1"),
    ] {
        for extended in [false, true] {
            let mut between = with_chosen(Mode::Session);
            if extended {
                between.client(&[&parse("", text), &bind(""), &execute(), &sync()]);
                between.server(&[&parsed(), &bound(), &complete(tag)]);
            } else {
                between.client(&[&query(text)]);
                between.server(&[&complete(tag)]);
            }
            between.to_server.clear();
            between.to_client.clear();
            between.server(&[&ready()]);
            between.client_gets(&[]);
            let own = String::from_utf8_lossy(&between.to_server).into_owned();
            assert!(
                own.contains("source OPERATOR(pg_catalog.<>) 'session'"),
                "{own}"
            );
            between.to_server.clear();
            between.server(&[&done(&["SELECT 0"], &[&ready()])]);
            between.client_gets(&[&ready()]);
        }
    }
}

#[test]
fn a_role_of_the_clients_own_is_made_last_and_stays_on_no_connection() {
    let own = parameters(&[("role", "team"), ("work_mem", "1MB")]);
    let session = session(parameters(&REPORTED), Arc::clone(&own), own);
    let mut between = Between::with(session, rules());
    let mut used = backend();
    used.applied = parameters(&[("role", "other")]);
    between.idle = Some(used);
    between.client(&[&query("select 1")]);
    between.server_gets(&[
        &query("SET SESSION AUTHORIZATION DEFAULT;RESET ROLE"),
        &set("work_mem", "'1MB'"),
        &set("role", "'team'"),
    ]);
    let done = [complete("SET"), ready()].concat();
    between.server(&[&done, &done, &done]);
    between.server_gets(&[&query("select 1")]);
    between.server(&[&selected("1")]);
    let question = "SELECT pg_catalog.current_setting('role',true), pg_catalog.current_setting('work_mem',true)";
    let undo = query("SET SESSION AUTHORIZATION DEFAULT;RESET ROLE;RESET ALL");
    between.server_gets(&[&query(question), &undo, &query(question)]);
    let answer = |role, memory| {
        [
            columns(),
            row(&[role, memory]),
            complete("SELECT 1"),
            ready(),
        ]
        .concat()
    };
    between.server(&[&answer("team", "1MB"), &done, &answer("none", "4MB")]);
    assert!(between.is_back());
    assert_eq!(between.session.untracked.get("role"), Some(&b"team"[..]));
    assert!(between.idle.as_ref().unwrap().applied.is_empty());
}

#[test]
fn last_words_while_tuning_are_not_the_clients() {
    let mut between = Between::new();
    between.check = true;
    between.client(&[&query("select 1")]);
    between.server(&[&fatal("57P01", "terminating connection")]);
    between.client_gets(&[]);
    assert!(between.link().ended && !between.session.has_served());
}

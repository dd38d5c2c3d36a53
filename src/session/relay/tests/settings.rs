//! A connection gets its client's settings before the first request, and the client hears of theirs.

use super::messages::*;
use super::*;

fn with_told(own: &[(&str, &str)], unreported: &[(&str, &str)]) -> Between {
    let mut told = (*parameters(&REPORTED)).clone();
    for (name, value) in own {
        told.set(name, value.as_bytes());
    }
    let session = session(Arc::new(told), parameters(unreported), Arc::default());
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
        Arc::ptr_eq(&between.session.told, &backend.reported),
        "the next comparison is one of addresses"
    );
}

#[test]
fn settings_are_made_before_the_first_request_and_behind_the_clients_back() {
    let own = [("TimeZone", "Asia/Tokyo"), ("client_encoding", "LATIN1")];
    let mut between = with_told(&own, &[("work_mem", "1MB")]);
    between.client(&[&query("select 1")]);
    assert_eq!(between.session.phase(), Phase::Tuning);
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
        assert_eq!(between.session.phase(), Phase::Tuning, "byte {place}");
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
    assert!(between.lent().spoiled.is_some());
    assert!(!between.session.has_served());
    assert!(!between.abandon());
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
    between.server_gets(&[&query("SET SESSION AUTHORIZATION DEFAULT;RESET ALL")]);
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

#[test]
fn reset_goes_back_to_what_the_client_chose_at_startup() {
    for mode in [Mode::Transaction, Mode::Session] {
        let chosen = parameters(&[("TimeZone", "Asia/Tokyo")]);
        let mut told = (*parameters(&REPORTED)).clone();
        told.set("TimeZone", b"Europe/Rome");
        let session = session(Arc::new(told), Arc::default(), chosen);
        let mut between = Between::with(session, rules());
        between.rules.mode = mode;
        let mut tuned = backend();
        Arc::make_mut(&mut tuned.reported).set("TimeZone", b"Europe/Rome");
        between.idle = Some(tuned);
        between.client(&[&query("reset all")]);
        between.server_gets(&[&query("reset all")]);
        let reply = [complete("RESET"), parameter("TimeZone", "UTC"), ready()].concat();
        between.server(&[&reply]);
        between.client_gets(&[&reply, &parameter("TimeZone", "Asia/Tokyo")]);
        if mode == Mode::Transaction {
            assert!(between.is_back());
            between.client(&[&query("select 1")]);
        } else {
            assert_eq!(between.session.phase(), Phase::Tuning);
        }
        between.server_gets(&[&set("TimeZone", "'Asia/Tokyo'")]);
        between.server(&[
            &columns(),
            &row(&["Asia/Tokyo"]),
            &complete("SELECT 1"),
            &parameter("TimeZone", "Asia/Tokyo"),
            &ready(),
        ]);
        between.client_gets(&[]);
        assert_eq!(between.session.phase(), Phase::Serving);
    }
}

#[test]
fn last_words_while_tuning_are_not_the_clients() {
    let mut between = Between::new();
    between.check = true;
    between.client(&[&query("select 1")]);
    between.server(&[&fatal("57P01", "terminating connection")]);
    between.client_gets(&[]);
    assert!(between.lent().ended && !between.session.has_served());
}

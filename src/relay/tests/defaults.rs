//! What a client has not chosen: PostgreSQL's defaults, which are never set, and told as they are.

use super::messages::*;
use super::*;

const READ_ONLY: &str = "default_transaction_read_only";

/// A client that knows one setting as `reported_to_client`, while its default was `off`; and a connection on which the
/// setting is `now` and was `off` when the connection was fresh.
fn with_read_only(reported_to_client: &str, now: &str) -> Between {
    let mut own = (*parameters(&REPORTED)).clone();
    own.set(READ_ONLY, reported_to_client.as_bytes());
    let mut session = session(Arc::new(own), Arc::default(), Arc::default());
    session.defaults = parameters(&REPORTED);
    let mut between = Between::with(session, rules());
    let backend = between.idle.as_mut().unwrap();
    Arc::make_mut(&mut backend.reported).set(READ_ONLY, now.as_bytes());
    between
}

fn set(value: &str) -> Bytes {
    query(&format!(
        "SELECT pg_catalog.set_config('{READ_ONLY}',{value},false)"
    ))
}

#[test]
fn a_default_that_is_another_now_is_not_undone() {
    let mut between = with_read_only("off", "on");
    between.client(&[&query("select 1")]);
    between.server_gets(&[&set("NULL")]);
    // It is the default, since a reset does not change it.
    between.server(&[&selected("on")]);
    between.client_gets(&[&parameter(READ_ONLY, "on")]);
    between.server_gets(&[&query("select 1")]);
    between.server(&[&selected("1")]);
    between.client_gets(&[&selected("1")]);
    let backend = between.idle.as_ref().unwrap();
    assert_eq!(backend.fresh.get(READ_ONLY), Some(&b"on"[..]));
    assert_eq!(backend.news, Some(vec![READ_ONLY.to_owned()]));
    assert_eq!(between.session.defaults.get(READ_ONLY), Some(&b"on"[..]));
}

#[test]
fn what_another_client_has_set_is_reset() {
    let mut between = with_read_only("off", "on");
    between.client(&[&query("select 1")]);
    between.server_gets(&[&set("NULL")]);
    between.server(&[
        &columns(),
        &parameter(READ_ONLY, "off"),
        &row(&["off"]),
        &complete("SELECT 1"),
        &ready(),
    ]);
    between.client_gets(&[]);
    between.server_gets(&[&query("select 1")]);
    between.server(&[&selected("1")]);
    assert_eq!(between.idle.as_ref().unwrap().news, Some(vec![]));
}

#[test]
fn what_the_client_has_chosen_is_set() {
    let mut between = with_read_only("on", "off");
    between.client(&[&query("select 1")]);
    between.server_gets(&[&set("'on'")]);
    between.server(&[
        &columns(),
        &parameter(READ_ONLY, "on"),
        &row(&["on"]),
        &complete("SELECT 1"),
        &ready(),
    ]);
    between.server_gets(&[&query("select 1")]);
    between.server(&[&selected("1")]);
    between.client_gets(&[&selected("1")]);
    let backend = between.idle.as_ref().unwrap();
    assert_eq!(backend.fresh.get(READ_ONLY), Some(&b"off"[..]));
    assert_eq!(backend.news, Some(vec![]), "the client's own is no news");
}

#[test]
fn values_told_as_they_were_sent_follow_in_postgresqls_spelling() {
    let mut own = (*parameters(&REPORTED)).clone();
    own.set("TimeZone", b"asia/tokyo");
    let startup_settings = parameters(&[("timezone", "asia/tokyo")]);
    let mut session = session(Arc::new(own), Arc::default(), startup_settings);
    session.defaults = parameters(&REPORTED);
    session.as_sent = true;
    let mut between = Between::with(session, rules());
    between.client(&[&query("select 1")]);
    let zone = "SELECT pg_catalog.set_config('TimeZone','asia/tokyo',false)";
    between.server_gets(&[&query(zone)]);
    let reported = parameter("TimeZone", "Asia/Tokyo");
    between.server(&[
        &columns(),
        &row(&["Asia/Tokyo"]),
        &complete("SELECT 1"),
        &reported,
        &ready(),
    ]);
    between.client_gets(&[&reported]);
    let startup_settings = &between.session.startup_settings;
    assert_eq!(startup_settings.get("TimeZone"), Some(&b"Asia/Tokyo"[..]));
    assert!(!between.session.as_sent);
}

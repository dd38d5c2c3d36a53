//! What a client left on its connection is undone while its reply is on the way.

use super::messages::*;
use super::*;

/// The statement that undoes what is left behind by `sql`, whose reply has this tag.
fn undone(sql: &str, tag: &str) -> Bytes {
    let mut between = Between::new();
    let reply = [complete(tag), ready()].concat();
    between.client(&[&query(sql)]);
    between.to_server.clear();
    between.server(&[&reply]);
    between.client_gets(&[&reply]);
    let undo = std::mem::take(&mut between.to_server);
    if !undo.is_empty() {
        assert_eq!(between.session.phase(), Phase::Cleaning);
        assert!(!between.session.reads_client());
        for _ in 0..undo.iter().filter(|&&byte| byte == b'Q').count() {
            between.server(&[&notice("x"), &complete("X"), &ready()]);
        }
        between.client_gets(&[]);
    }
    assert!(between.is_back());
    undo
}

#[test]
fn each_thing_left_behind_is_undone_by_the_smallest_statement() {
    let settings = query("SET SESSION AUTHORIZATION DEFAULT;RESET ROLE;RESET ALL");
    assert_eq!(undone("set x = 1", "SET"), settings);
    assert_eq!(
        undone("select set_config('x','1',false)", "SELECT 1"),
        settings
    );
    assert_eq!(undone("listen news", "LISTEN"), query("UNLISTEN *"));
    assert_eq!(
        undone("prepare x as select 1", "PREPARE"),
        query("DEALLOCATE ALL")
    );
    assert_eq!(
        undone("create temp table t()", "CREATE TABLE"),
        query("DISCARD TEMP")
    );
    let all = [query("DISCARD ALL"), query("RESET ROLE")].concat();
    assert_eq!(undone("do 'x'", "DO"), all);
    assert_eq!(
        undone("update pg_settings set setting = 1", "UPDATE 1"),
        all
    );
    assert_eq!(
        undone("create table t()", "CREATE TABLE"),
        query("DISCARD TEMP")
    );
    assert_eq!(undone("select 1", "SELECT 1"), b"");
    assert_eq!(undone("set local x = 1", "SET"), b"");
    assert_eq!(undone("discard all", "DISCARD ALL"), b"");
}

#[test]
fn words_that_are_cut_in_two_are_seen_in_large_queries() {
    let sql = format!("{} select set_config('x','1',false)", "/**/".repeat(40_000));
    let large = query(&sql);
    for cut in large.len() - 30..large.len() {
        let mut between = Between::new();
        between.client(&[&large[..cut]]);
        between.client(&[&large[cut..]]);
        between.to_server.clear();
        between.server(&[&selected("1")]);
        assert_eq!(between.session.phase(), Phase::Cleaning);
    }
}

#[test]
fn the_next_request_waits_until_the_connection_is_clean() {
    let mut between = Between::new();
    between.client(&[&query("listen news")]);
    between.server(&[&complete("LISTEN"), &ready()]);
    between.to_server.clear();
    between.client(&[&query("select 1")]);
    between.server_gets(&[]);
    between.server(&[&complete("UNLISTEN"), &ready()]);
    between.server_gets(&[&query("select 1")]);
}

#[test]
fn a_failing_statement_of_cleaning_spoils_the_connection_and_not_the_client() {
    let mut between = Between::new();
    between.client(&[&query("listen news")]);
    let reply = [complete("LISTEN"), ready()].concat();
    between.server(&[&reply]);
    between.server(&[&error("XX000", "no"), &ready()]);
    between.client_gets(&[&reply]);
    assert_eq!(between.session.phase(), Phase::Cleaning);
    assert!(between.link().setup_error.is_some());
}

#[test]
fn statements_the_undoing_takes_along_are_prepared_again() {
    let mut between = super::batches::known(&["select 1"]);
    between.client(&[&query("prepare x as select 1")]);
    between.server(&[&complete("PREPARE"), &ready()]);
    between.server(&[&complete("DEALLOCATE ALL"), &ready()]);
    assert!(between.is_back());
    between.to_server.clear();
    between.client(&[&bind("0"), &sync()]);
    between.server_gets(&[&parse("DOORMAN_0", "select 1"), &bind("DOORMAN_0"), &sync()]);
}

const ASK: &str = "SELECT pg_catalog.current_setting('search_path',true), \
    pg_catalog.current_setting('default_transaction_isolation',true), \
    pg_catalog.current_setting('default_transaction_read_only',true), \
    pg_catalog.current_setting('default_transaction_deferrable',true), \
    pg_catalog.current_setting('jit',true)";

/// A server before PostgreSQL 18, which does not report search_path.
fn silent_about_search_path() -> Between {
    let reported = parameters(&[("TimeZone", "UTC")]);
    let session = session(Arc::clone(&reported), Arc::default(), Arc::default());
    let mut between = Between::with(session, rules());
    let mut silent = backend();
    silent.fresh = Arc::clone(&reported);
    silent.reported = reported;
    between.idle = Some(silent);
    between
}

#[test]
fn what_is_not_reported_is_asked_for_before_it_is_undone() {
    let mut between = silent_about_search_path();
    between.passes(
        &[&query("set search_path = shop")],
        &[&complete("SET"), &ready()],
    );
    between.server_gets(&[
        &query(ASK),
        &query("SET SESSION AUTHORIZATION DEFAULT;RESET ROLE;RESET ALL"),
        &query(ASK),
    ]);
    between.server(&[&selected("shop")]);
    between.server(&[&complete("SET"), &complete("RESET"), &ready()]);
    between.server(&[&selected("public")]);
    between.client_gets(&[]);
    assert!(between.is_back());
    assert_eq!(
        between.session.untracked.get("search_path"),
        Some(&b"shop"[..])
    );
    between.client(&[&query("select 1")]);
    between.server_gets(&[&query(
        "SELECT pg_catalog.set_config('search_path','shop',false)",
    )]);
}

#[test]
fn rows_of_the_undoing_itself_are_no_answers() {
    let mut between = silent_about_search_path();
    between.client(&[&query("set search_path = shop; select pg_advisory_lock(1)")]);
    between.server(&[&complete("SET"), &selected("")]);
    between.to_server.clear();
    between.server(&[&selected("shop")]);
    between.server(&[&complete("SET"), &complete("RESET"), &selected("")]);
    between.server(&[&selected("public")]);
    assert!(between.is_back());
    assert_eq!(
        between.session.untracked.get("search_path"),
        Some(&b"shop"[..])
    );
}

#[test]
fn nothing_is_undone_where_that_is_not_wanted_but_transactions_end() {
    let mut between = Between::new();
    between.rules.clean = false;
    between.passes(&[&query("set x = 1")], &[&complete("SET"), &ready()]);
    assert!(between.is_back());
    between.client(&[&query("begin")]);
    between.server(&[&complete("BEGIN"), &ready_in_transaction()]);
    between.to_server.clear();
    assert!(between.client_gone());
    between.server_gets(&[&query("ROLLBACK")]);
}

#[test]
fn once_more_round_trips_before_it_goes_back() {
    let mut between = Between::new();
    between.client(&[&query("select 1")]);
    let mut out = Output::default();
    let reply = selected("1");
    let taken = between
        .session
        .take_from_server(&reply, &*between.statements, &mut out);
    assert_eq!(taken, Ok(reply.len()));
    assert_eq!(between.session.phase(), Phase::Returning);
    let mut out = Output::default();
    between.session.clean_once_more(&mut out);
    assert_eq!(bytes(&out.server, &[]), query(";"));
    between.server(&[&nothing_to_run(), &ready()]);
    assert!(between.is_back());
}

#[test]
fn what_is_sent_behind_a_statement_that_undoes_everything_is_undone_too() {
    let mut between = Between::new();
    between.rules.mode = Mode::Session;
    between.rules.follow_statements = false;
    between.client(&[
        &parse("", "deallocate all"),
        &bind(""),
        &execute(),
        &parse("s2", "select 1"),
        &sync(),
    ]);
    between.server(&[
        &parsed(),
        &bound(),
        &complete("DEALLOCATE ALL"),
        &parsed(),
        &ready(),
    ]);
    between.to_server.clear();
    assert!(between.client_gone());
    between.server_gets(&[&query("DEALLOCATE ALL")]);
}

//! Statements of the protocol's that SQL speaks of.

use super::messages::*;
use super::*;

/// A client that has prepared `q` and `r`; both stand on the server that lies idle.
fn prepared() -> Between {
    let mut between = Between::new();
    let both = [parse("q", "select 'q'"), parse("r", "select 'r'"), sync()].concat();
    between.client(&[&both]);
    between.server(&[&parsed(), &parsed(), &ready()]);
    between.to_client.clear();
    between.to_server.clear();
    assert!(between.is_back());
    between
}

fn answer(value: &str) -> Bytes {
    [columns(), row(&[value]), complete("SELECT 1")].concat()
}

#[test]
fn the_statement_goes_in_front_under_the_clients_own_name() {
    let mut between = prepared();
    between.client(&[&query("execute q")]);
    between.server_gets(&[&parse("q", "select 'q'"), &sync(), &query("execute q")]);
    between.server(&[&parsed(), &ready()]);
    between.client_gets(&[]);
    between.server(&[&answer("q"), &ready()]);
    between.client_gets(&[&answer("q"), &ready()]);
    // Nobody else is to find it there.
    between.server_gets(&[&query("DEALLOCATE ALL")]);
    between.server(&[&complete("DEALLOCATE ALL"), &ready()]);
    assert!(between.is_back());
    assert_eq!(between.session.statements.len(), 2);
    assert_eq!(between.session.work.queries, 2);
}

#[test]
fn once_in_a_transaction_and_again_when_it_means_something_else() {
    let mut between = prepared();
    between.passes(
        &[&query("begin")],
        &[&complete("BEGIN"), &ready_in_transaction()],
    );
    between.client(&[&query("execute q; execute r")]);
    between.server_gets(&[
        &parse("q", "select 'q'"),
        &parse("r", "select 'r'"),
        &sync(),
        &query("execute q; execute r"),
    ]);
    let all = [answer("q"), answer("r"), ready_in_transaction()].concat();
    between.server(&[&parsed(), &parsed(), &ready_in_transaction(), &all]);
    between.client_gets(&[&all]);
    between.passes(
        &[&query("execute q")],
        &[&answer("q"), &ready_in_transaction()],
    );
    between.client(&[&close("q"), &parse("q", "select 2"), &sync()]);
    between.to_server.clear();
    between.server(&[&parsed(), &ready_in_transaction()]);
    between.to_client.clear();
    between.client(&[&query("execute q")]);
    between.server_gets(&[
        &close("q"),
        &parse("q", "select 2"),
        &sync(),
        &query("execute q"),
    ]);
}

#[test]
fn texts_that_speak_of_nothing_pass_as_they_are() {
    for text in [
        "select 1",
        "execute nosuch",
        "select 'execute q'",
        "prepare transaction 'q'",
    ] {
        let mut between = prepared();
        between.client(&[&query(text)]);
        between.server_gets(&[&query(text)]);
    }
}

#[test]
fn it_waits_for_what_is_under_way() {
    let mut between = prepared();
    between.client(&[&query("select 1"), &query("execute q")]);
    between.server_gets(&[&query("select 1")]);
    between.server(&[&answer("1"), &ready()]);
    between.client_gets(&[&answer("1"), &ready()]);
    between.server_gets(&[&parse("q", "select 'q'"), &sync(), &query("execute q")]);
}

/// In a block, with `q` on the server under its own name.
fn standing() -> Between {
    let mut between = prepared();
    between.passes(
        &[&query("begin")],
        &[&complete("BEGIN"), &ready_in_transaction()],
    );
    between.client(&[&query("execute q")]);
    between.to_server.clear();
    let all = [answer("q"), ready_in_transaction()].concat();
    between.server(&[&parsed(), &ready_in_transaction(), &all]);
    between.to_client.clear();
    between
}

#[test]
fn what_the_client_has_closed_is_not_found_by_its_name() {
    let gone = error("26000", "prepared statement \"q\" does not exist");
    for request in [
        [bind("q"), execute()].concat(),
        describe("q"),
        [parse("", "deallocate q"), bind(""), execute()].concat(),
    ] {
        let mut between = standing();
        between.client(&[&close("q"), &sync()]);
        between.to_server.clear();
        between.server(&[&ready_in_transaction()]);
        between.client_gets(&[&closed(), &ready_in_transaction()]);
        between.client(&[&request, &sync()]);
        between.server(&[&error("26000", "nobody's"), &ready_failed()]);
        between.client_gets(&[&gone, &ready_failed()]);
    }
    let mut between = standing();
    between.client(&[&close("q"), &close("q"), &sync()]);
    between.server_gets(&[&sync()]);
}

#[test]
fn it_waits_for_what_may_bring_a_name_back() {
    for text in ["execute q", "deallocate q"] {
        let mut between = Between::new();
        between.client(&[&parse("q", "select 'q'"), &sync()]);
        between.server(&[&parsed(), &ready()]);
        between.to_client.clear();
        between.client(&[&bind("nosuch"), &close("q"), &sync(), &query(text)]);
        between.to_server.clear();
        between.server(&[&error("26000", "no such"), &ready()]);
        let failed = [error("26000", "no such"), ready()].concat();
        match text {
            "execute q" => {
                between.client_gets(&[&failed]);
                between.server_gets(&[&parse("q", "select 'q'"), &sync(), &query(text)]);
            }
            _ => between.client_gets(&[&failed, &complete("DEALLOCATE"), &ready()]),
        }
    }
}

#[test]
fn strings_are_read_as_the_server_reads_them() {
    let mut between = prepared();
    let text = r"select 'it\'s; execute r'; execute q";
    let off = parameter("standard_conforming_strings", "off");
    between.passes(
        &[&query("begin; set standard_conforming_strings = off")],
        &[
            &complete("BEGIN"),
            &complete("SET"),
            &off,
            &ready_in_transaction(),
        ],
    );
    between.client(&[&query(text)]);
    between.server_gets(&[&parse("q", "select 'q'"), &sync(), &query(text)]);
}

#[test]
fn a_name_goes_in_a_query_that_begins_in_a_failed_block() {
    let mut between = standing();
    between.passes(&[&query("fail")], &[&error("22012", "no"), &ready_failed()]);
    let text = query("rollback; deallocate q");
    between.passes(
        &[&text],
        &[&complete("ROLLBACK"), &complete("DEALLOCATE"), &ready()],
    );
    assert!(!between.session.statements.contains_key(&b"q"[..]));
}

#[test]
fn a_query_that_comes_in_parts_is_read_as_a_whole() {
    let mut between = prepared();
    between.passes(
        &[&query("begin")],
        &[&complete("BEGIN"), &ready_in_transaction()],
    );
    let (first, rest) = (&query("execute q")[..8], &query("execute q")[8..]);
    between.client(&[first]);
    between.server_gets(&[]);
    between.client(&[rest]);
    between.server_gets(&[&parse("q", "select 'q'"), &sync(), &query("execute q")]);
}

#[test]
fn what_cannot_be_prepared_is_told_where_it_is_lacking() {
    let no_table = error("42P01", "no such table");
    let lacking = error("26000", "prepared statement \"q\" does not exist");
    for (own, told) in [
        (&lacking, &no_table),
        (&error("25P02", "aborted"), &no_table),
        (
            &error("42601", "syntax error"),
            &error("42601", "syntax error"),
        ),
    ] {
        let mut between = prepared();
        between.client(&[&query("execute q")]);
        between.server_gets(&[&parse("q", "select 'q'"), &sync(), &query("execute q")]);
        between.server(&[&no_table, &ready()]);
        between.client_gets(&[]);
        between.server(&[own, &ready()]);
        between.client_gets(&[told, &ready()]);
        assert_eq!(between.session.work.errors, 1);
    }
    let mut between = prepared();
    between.client(&[&query("/**/ execute q")]);
    between.server(&[&no_table, &ready(), &answer("was not run"), &ready()]);
    between.client_gets(&[&answer("was not run"), &ready()]);
}

#[test]
fn names_go_as_postgresql_drops_them() {
    let mut between = prepared();
    let text = query("deallocate r; deallocate nosuch; deallocate q");
    between.client(&[&text]);
    // What they do does not matter for that, and whether it still can be prepared.
    let stand_in = "EXECUTE \"DOORMAN_refuses\"";
    between.server_gets(&[&parse("r", stand_in), &parse("q", stand_in), &sync(), &text]);
    between.server(&[&parsed(), &parsed(), &ready()]);
    between.server(&[&complete("DEALLOCATE"), &error("26000", "no"), &ready()]);
    between.client_gets(&[&complete("DEALLOCATE"), &error("26000", "no"), &ready()]);
    let left: Vec<_> = between.session.statements.keys().collect();
    assert_eq!(left, [b"q"]);
}

#[test]
fn what_was_there_only_to_be_deallocated_is_not_executed() {
    let mut between = prepared();
    between.passes(
        &[&query("begin; savepoint s")],
        &[&complete("BEGIN"), &ready_in_transaction()],
    );
    let text = query("fail; deallocate q");
    between.client(&[&text]);
    between.to_server.clear();
    between.server(&[&parsed(), &ready_in_transaction()]);
    between.server(&[&error("22012", "no"), &ready_failed()]);
    between.to_client.clear();
    between.passes(
        &[&query("rollback to s")],
        &[&complete("ROLLBACK"), &ready_in_transaction()],
    );
    between.client(&[&query("execute q; deallocate q")]);
    between.server_gets(&[
        &close("q"),
        &parse("q", "select 'q'"),
        &sync(),
        &query("execute q; deallocate q"),
    ]);
}

#[test]
fn a_client_without_such_statements_costs_nothing() {
    let mut between = Between::new();
    between.client(&[&query("deallocate a; execute b")]);
    between.server_gets(&[&query("deallocate a; execute b")]);
}

#[test]
fn where_nobody_cleans_what_others_have_left_is_replaced() {
    let mut between = prepared();
    between.rules.clean = false;
    between.client(&[&query("execute q")]);
    between.server_gets(&[
        &close("q"),
        &parse("q", "select 'q'"),
        &sync(),
        &query("execute q"),
    ]);
}

//! The keys `pg_hba`, `pg_ident` and `hba` of `[general]`.
//!
//! Finds the text of the rules and of the maps, in the document or in a file of
//! its own; `hba` and `ident` read it. The invariant: every wrong line is told
//! with the file and the line where it stands.

use std::path::Path;

use super::access_files::{self, Line, LinePlace, Wrong};
use super::cidr::Cidr;
use super::hba::{self, CertificateDemand, DatabaseMatch, Hba, Method, Rule, Transport};
use super::ident::{self, IdentMaps};
use super::keys::general::General;
use super::problem::{Place, quote, word};
use super::raw::{Node, Tree};
use super::reader::Reader;

/// `pg_hba` or `hba`, with the maps of `pg_ident`.
pub(super) fn read(reader: &mut Reader<'_>, general: &General) -> Hba {
    let maps = match reader.node("pg_ident") {
        Some(node) => {
            IdentMaps::of(lines(reader, "pg_ident", node, ident::mapping).unwrap_or_default())
        }
        None => IdentMaps::default(),
    };
    match (reader.node("pg_hba"), reader.node("hba")) {
        (None, None) => Hba::Anyone,
        (Some(_), Some(_)) => {
            reader.fail(
                "pg_hba",
                "general.hba and general.pg_hba cannot be specified at the same time",
            );
            Hba::Anyone
        }
        (Some(node), None) => {
            let rules = lines(reader, "pg_hba", node, |line| hba::rule(line, &maps));
            if rules.as_ref().is_some_and(Vec::is_empty) {
                reader.warn("pg_hba", "holds no rule, so nobody can log in");
            }
            Hba::Rules(rules.unwrap_or_default())
        }
        (None, Some(node)) => {
            let networks = networks(reader, node);
            if networks.is_empty() {
                return Hba::Anyone;
            }
            if general.unix_socket_dir.is_some() {
                reader.warn(
                    "hba",
                    "clients of the Unix socket are not subject to this list; use pg_hba",
                );
            }
            Hba::Networks(networks)
        }
    }
}

/// Tells of rules that match nobody, let nobody in, or differ from what the async pg_doorman makes of them.
pub(super) fn check_rules(reader: &mut Reader<'_>, general: &General) {
    let Hba::Rules(rules) = &general.hba else {
        return;
    };
    for (number, rule) in rules.iter().enumerate() {
        check_rule(reader, general, rule);
        if let Some(why) = hba::why_skipped(rules, number) {
            let (place, why) = told_at(reader, "pg_hba", &rule.at, why);
            let key = reader.key("pg_hba");
            reader.report.note(&place, key, why);
        }
    }
}

fn check_rule(reader: &mut Reader<'_>, general: &General, rule: &Rule) {
    let mut warnings = Vec::new();
    if rule.certificate != CertificateDemand::No && general.tls_ca_cert.is_none() {
        let why = "the rule asks for a client certificate, which can only be checked if tls_ca_cert is set";
        let (place, why) = told_at(reader, "pg_hba", &rule.at, why.into());
        let key = reader.key("pg_hba");
        reader.report.fail(&place, key, why);
    } else if rule.transport == Transport::HostSsl && general.client_tls.is_none() {
        warnings.push("hostssl matches nobody because clients cannot use TLS".to_owned());
    }
    if rule.transport == Transport::HostGssEnc {
        warnings.push("hostgssenc matches nobody: there is no encryption by GSSAPI".into());
    }
    if rule.databases == [DatabaseMatch::Replication] {
        warnings.push("replication matches nobody: replication cannot be pooled".into());
    }
    if let Method::NotBuiltIn(method) = rule.method {
        warnings.push(format!(
            "the rule refuses everybody whom it matches: method {method} is not built in"
        ));
    }
    if let Some(map) = rule.map.as_ref().filter(|map| map.is_empty()) {
        let name = quote(map.name());
        warnings.push(format!(
            "the rule lets nobody in: pg_ident has no line for the map {name}"
        ));
    }
    let names_console = |one: &DatabaseMatch| matches!(one, DatabaseMatch::Name(name) if name == b"pgdoorman" || name == b"pgbouncer");
    if rule.asks_for_membership() && rule.databases.iter().any(names_console) {
        warnings
            .push("+ROLE matches no user of the console: those are no roles of PostgreSQL".into());
    }
    for text in warnings {
        let (place, text) = told_at(reader, "pg_hba", &rule.at, text);
        let key = reader.key("pg_hba");
        reader.report.warn(&place, key, text);
    }
}

/// The place to name for a line, and what to say of it.
fn told_at(reader: &Reader<'_>, name: &str, at: &LinePlace, text: String) -> (Place, String) {
    match &at.file {
        Some(file) => {
            let place = Place {
                line: at.line,
                ..Place::whole(file)
            };
            (place, text)
        }
        // Where in the document a line of the text stands depends on its quotes and escapes, so the line is counted in
        // the text.
        None => {
            let place = reader.place_of(name);
            (place, format!("line {} of the text: {text}", at.line))
        }
    }
}

fn networks(reader: &mut Reader<'_>, node: &Node) -> Vec<Cidr> {
    let Tree::List(items) = &node.tree else {
        reader.fail(
            "hba",
            format!(
                "expected a list of networks, found {}",
                node.tree.describe()
            ),
        );
        return Vec::new();
    };
    let mut networks = Vec::new();
    for item in items {
        let network = match &item.tree {
            Tree::Text(text) => Cidr::parse(text.trim()),
            other => Err(format!("expected a string, found {}", other.describe())),
        };
        match network {
            Ok(network) => networks.push(network),
            Err(reason) => reader.report.fail(&item.place, "general.hba", reason),
        }
    }
    networks
}

/// What the lines of `pg_hba` or `pg_ident` say; `None` when it has been told
/// what is wrong with them.
fn lines<T>(
    reader: &mut Reader<'_>,
    name: &str,
    node: &Node,
    read: impl Fn(&Line) -> Result<T, String>,
) -> Option<Vec<T>> {
    let key = reader.key(name);
    let inside = match &node.tree {
        Tree::Text(_) => node,
        Tree::Table(table) => {
            for (inner, node) in table {
                if inner != "path" && inner != "content" {
                    let key = format!("{key}.{}", word(inner));
                    let text = "only path and content are known here";
                    reader.report.fail(&node.place, key, text);
                }
            }
            match (table.get("path"), table.get("content")) {
                (Some(path), None) => return lines_of_file(reader, name, path, read),
                (None, Some(content)) => content,
                _ => {
                    reader.fail(name, "write either path or content");
                    return None;
                }
            }
        }
        other => {
            let found = other.describe();
            reader.fail(
                name,
                format!("expected the text, or a table with path or content, found {found}"),
            );
            return None;
        }
    };
    let Tree::Text(text) = &inside.tree else {
        reader.fail(
            name,
            format!(
                "content: expected a string, found {}",
                inside.tree.describe()
            ),
        );
        return None;
    };
    // Files that it names are looked for beside the document.
    let directory = inside.place.file.parent().unwrap_or(Path::new(""));
    let parsed = access_files::parse(text.as_bytes(), None, directory, read);
    told(reader, name, parsed)
}

fn lines_of_file<T>(
    reader: &mut Reader<'_>,
    name: &str,
    node: &Node,
    read: impl Fn(&Line) -> Result<T, String>,
) -> Option<Vec<T>> {
    let path_key = format!("{}.path", reader.key(name));
    let Tree::Text(path) = &node.tree else {
        let found = node.tree.describe();
        let text = format!("expected a string, found {found}");
        reader.report.fail(&node.place, path_key, text);
        return None;
    };
    let path = Path::new(path.as_str());
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) => {
            let path = quote(&path.to_string_lossy());
            let text = format!("Could not open {path}: {error}");
            reader.report.fail(&node.place, path_key, text);
            return None;
        }
    };
    let directory = path.parent().unwrap_or(Path::new(""));
    let parsed = access_files::parse(&text, Some(path.into()), directory, read);
    told(reader, name, parsed)
}

/// What was read, or `None` when it has been told what is wrong.
fn told<T>(
    reader: &mut Reader<'_>,
    name: &str,
    parsed: Result<Vec<T>, Vec<Wrong>>,
) -> Option<Vec<T>> {
    let wrong = match parsed {
        Ok(all) => return Some(all),
        Err(wrong) => wrong,
    };
    let key = reader.key(name);
    for Wrong { at, reason } in wrong {
        let (place, reason) = told_at(reader, name, &at, reason);
        reader.report.fail(&place, key.as_str(), reason);
    }
    None
}

//! The keys `pg_hba`, `pg_ident` and `hba` of `[general]`.
//!
//! Finds the text of the rules and of the maps, in the document or in a file of
//! its own; `hba` and `ident` read it. The invariant: every wrong line is told
//! with the file and the line where it stands.

use std::path::Path;

use super::cidr::Cidr;
use super::hba::{self, CertificateDemand, Hba, Rule, Transport};
use super::ident::{self, IdentMaps};
use super::keys::general::General;
use super::problem::{Place, quote, word};
use super::raw::{Node, Tree};
use super::reader::Reader;

/// `pg_hba` or `hba`, with the maps of `pg_ident`.
pub(super) fn read(reader: &mut Reader<'_>, general: &General) -> Hba {
    let maps = match reader.node("pg_ident") {
        Some(node) => lines(reader, "pg_ident", node, ident::parse).unwrap_or_default(),
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
            let rules = lines(reader, "pg_hba", node, |text| hba::parse(text, &maps));
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

/// Tells of rules that the TLS for clients leaves without use.
pub(super) fn check_tls(reader: &mut Reader<'_>, general: &General) {
    let Hba::Rules(rules) = &general.hba else {
        return;
    };
    for Rule {
        transport,
        certificate,
        line,
        ..
    } in rules
    {
        if *certificate != CertificateDemand::No && general.tls_ca_cert.is_none() {
            reader.fail(
                "pg_hba",
                format!(
                    "the rule on line {line} asks for a client certificate, which can only be \
                     checked if tls_ca_cert is set"
                ),
            );
        } else if *transport == Transport::HostSsl && general.client_tls.is_none() {
            reader.warn(
                "pg_hba",
                format!("hostssl on line {line} matches nobody because clients cannot use TLS"),
            );
        }
        if let CertificateDemand::Named { map: Some(map), .. } = certificate {
            if map.is_empty() {
                reader.warn(
                    "pg_hba",
                    format!(
                        "the rule on line {line} lets nobody in: pg_ident has no line for the \
                         map {}",
                        quote(map.name())
                    ),
                );
            }
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
    parse: impl Fn(&str) -> Result<T, Vec<(usize, String)>>,
) -> Option<T> {
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
                (Some(path), None) => return lines_of_file(reader, &key, path, parse),
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
    let wrong = match parse(text) {
        Ok(all) => return Some(all),
        Err(wrong) => wrong,
    };
    for (line, reason) in wrong {
        // Where in the file a line of the text stands depends on its quotes
        // and escapes, so the line is counted in the text.
        let reason = format!("line {line} of the text: {reason}");
        reader.report.fail(&inside.place, key.as_str(), reason);
    }
    None
}

fn lines_of_file<T>(
    reader: &mut Reader<'_>,
    key: &str,
    node: &Node,
    parse: impl Fn(&str) -> Result<T, Vec<(usize, String)>>,
) -> Option<T> {
    let path_key = format!("{key}.path");
    let Tree::Text(path) = &node.tree else {
        let found = node.tree.describe();
        let text = format!("expected a string, found {found}");
        reader.report.fail(&node.place, path_key, text);
        return None;
    };
    let text = match std::fs::read(path.as_str()) {
        // What is not UTF-8 in a comment harms nobody; in a name it is refused.
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => {
            let text = format!("Could not open {}: {error}", quote(path));
            reader.report.fail(&node.place, path_key, text);
            return None;
        }
    };
    let wrong = match parse(&text) {
        Ok(all) => return Some(all),
        Err(wrong) => wrong,
    };
    let file = Path::new(path.as_str()).into();
    for (line, reason) in wrong {
        let place = Place {
            line,
            ..Place::whole(&file)
        };
        reader.report.fail(&place, key, reason);
    }
    None
}

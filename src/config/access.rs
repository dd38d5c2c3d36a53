//! The keys `pg_hba` and `hba` of `[general]`.
//!
//! Finds the text of the rules, in the document or in a file of its own; `hba`
//! reads it. The invariant: every wrong rule is told with the file and the line
//! where it stands.

use std::path::Path;

use super::cidr::Cidr;
use super::hba::{self, Hba};
use super::keys::general::General;
use super::problem::{Place, quote, word};
use super::raw::{Node, Tree};
use super::reader::Reader;

/// `pg_hba` or `hba`.
pub(super) fn read(reader: &mut Reader<'_>, general: &General) -> Hba {
    match (reader.node("pg_hba"), reader.node("hba")) {
        (None, None) => Hba::Anyone,
        (Some(_), Some(_)) => {
            reader.fail(
                "pg_hba",
                "general.hba and general.pg_hba cannot be specified at the same time",
            );
            Hba::Anyone
        }
        (Some(node), None) => Hba::Rules(rules(reader, node)),
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

fn rules(reader: &mut Reader<'_>, node: &Node) -> Vec<hba::Rule> {
    let inside = match &node.tree {
        Tree::Text(_) => None,
        Tree::Table(table) => {
            for (name, node) in table {
                if name != "path" && name != "content" {
                    let key = format!("general.pg_hba.{}", word(name));
                    reader
                        .report
                        .fail(&node.place, key, "only path and content are known here");
                }
            }
            match (table.get("path"), table.get("content")) {
                (Some(path), None) => return rules_of_file(reader, path),
                (None, Some(content)) => Some(content),
                _ => {
                    reader.fail("pg_hba", "write either path or content");
                    return Vec::new();
                }
            }
        }
        other => {
            let found = other.describe();
            reader.fail(
                "pg_hba",
                format!("expected the text, or a table with path or content, found {found}"),
            );
            return Vec::new();
        }
    };
    let node = inside.unwrap_or(node);
    let Tree::Text(text) = &node.tree else {
        reader.fail(
            "pg_hba",
            format!("content: expected a string, found {}", node.tree.describe()),
        );
        return Vec::new();
    };
    let key = "general.pg_hba";
    match hba::parse(text) {
        Ok(rules) => {
            if rules.is_empty() {
                reader.warn("pg_hba", "holds no rule, so nobody can log in");
            }
            rules
        }
        Err(wrong) => {
            for (line, reason) in wrong {
                // Where in the file a line of the text stands depends on its quotes
                // and escapes, so the line is counted in the text.
                reader.report.fail(
                    &node.place,
                    key,
                    format!("rule on line {line} of the text: {reason}"),
                );
            }
            Vec::new()
        }
    }
}

fn rules_of_file(reader: &mut Reader<'_>, node: &Node) -> Vec<hba::Rule> {
    let Tree::Text(path) = &node.tree else {
        reader.fail(
            "pg_hba",
            format!("path: expected a string, found {}", node.tree.describe()),
        );
        return Vec::new();
    };
    let text = match std::fs::read_to_string(path.as_str()) {
        Ok(text) => text,
        Err(e) => {
            reader.report.fail(
                &node.place,
                "general.pg_hba.path",
                format!("Could not open {}: {e}", quote(path)),
            );
            return Vec::new();
        }
    };
    match hba::parse(&text) {
        Ok(rules) => {
            if rules.is_empty() {
                reader.warn(
                    "pg_hba",
                    format!("{} holds no rule, so nobody can log in", quote(path)),
                );
            }
            rules
        }
        Err(wrong) => {
            let file = Path::new(path.as_str()).into();
            for (line, reason) in wrong {
                let place = Place {
                    line,
                    ..Place::whole(&file)
                };
                reader.report.fail(&place, "general.pg_hba", reason);
            }
            Vec::new()
        }
    }
}

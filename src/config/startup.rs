//! `startup_parameters`: what every server connection is started with.
//!
//! Reads the table of one layer and lays one layer over another. The invariant:
//! names are in canonical spelling, none is one that the pooler sets itself, and
//! all of them fit into PostgreSQL's startup packet.

use std::collections::BTreeMap;

use super::problem::word;
use super::raw::Tree;
use super::reader::Reader;

/// Parameters by canonical name.
pub(super) type Parameters = BTreeMap<String, String>;

const KEY: &str = "startup_parameters";

/// PostgreSQL's limit for the startup packet (MAX_STARTUP_PACKET_LENGTH).
const PACKET: usize = 10_000;

/// What is left for parameters beside user, database and application_name.
const BUDGET: usize = PACKET - 512;

/// These keep their capitals; every other name is written small.
const SPELLED: [&str; 6] = [
    "client_encoding",
    "DateStyle",
    "IntervalStyle",
    "TimeZone",
    "standard_conforming_strings",
    "application_name",
];

/// These the pooler sets itself, or nobody may.
const RESERVED: [&str; 6] = [
    "user",
    "database",
    "replication",
    "options",
    "role",
    "session_authorization",
];

/// Reads the table of one layer.
pub(super) fn read(reader: &mut Reader<'_>) -> Parameters {
    let mut parameters = Parameters::new();
    let Some(node) = reader.node(KEY) else {
        return parameters;
    };
    let Tree::Table(table) = &node.tree else {
        reader.fail(
            KEY,
            format!("expected a table of texts, found {}", node.tree.describe()),
        );
        return parameters;
    };
    for (name, node) in table {
        let key = format!("{}.{}", reader.key(KEY), word(name));
        let value = match &node.tree {
            Tree::Text(text) if text.contains('\0') => {
                Err("must not contain a NUL character".into())
            }
            Tree::Text(text) => Ok(text.to_string()),
            Tree::Integer(number) => Ok(number.to_string()),
            Tree::Bool(true) => Ok("on".into()),
            Tree::Bool(false) => Ok("off".into()),
            other => Err(format!("expected a string, found {}", other.describe())),
        };
        match canonical(name).and_then(|name| Ok((name, value?))) {
            Ok((name, value)) => {
                if parameters.insert(name, value).is_some() {
                    reader
                        .report
                        .fail(&node.place, key, "is set twice, in different spellings");
                }
            }
            Err(reason) => reader.report.fail(&node.place, key, reason),
        }
    }
    check_budget(reader, &parameters, "");
    parameters
}

/// Lays a pool's parameters over the general ones.
pub(super) fn merge(reader: &mut Reader<'_>, general: &Parameters, pool: Parameters) -> Parameters {
    let only_pool = used(&pool);
    let mut merged = general.clone();
    merged.extend(pool);
    if only_pool <= BUDGET && used(general) <= BUDGET {
        check_budget(reader, &merged, " together with those of [general]");
    }
    merged
}

/// Whether the startup packet of this user fits.
pub(super) fn fits(parameters: &Parameters, user: &str, database: &str, application: &str) -> bool {
    let pair = |name: &str, value: &str| name.len() + value.len() + 2;
    let application = match parameters.contains_key("application_name") {
        true => 0,
        false => pair("application_name", application),
    };
    // Length, protocol version, the pairs, and the NUL at the end.
    let packet = 4
        + 4
        + pair("user", user)
        + pair("database", database)
        + application
        + used(parameters)
        + 1;
    packet <= PACKET
}

fn canonical(name: &str) -> Result<String, String> {
    let mut letters = name.bytes();
    let first = letters
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if !first || !letters.all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.') {
        return Err("is not the name of a parameter".into());
    }
    let small = name.to_ascii_lowercase();
    if RESERVED.contains(&small.as_str()) || small.starts_with("_pq_.") {
        return Err("is reserved; it cannot be set here".into());
    }
    let spelled = SPELLED
        .iter()
        .find(|spelled| spelled.eq_ignore_ascii_case(name));
    Ok(spelled.map_or(small, |spelled| spelled.to_string()))
}

fn used(parameters: &Parameters) -> usize {
    parameters
        .iter()
        .map(|(name, value)| name.len() + value.len() + 2)
        .sum()
}

fn check_budget(reader: &mut Reader<'_>, parameters: &Parameters, also: &str) {
    let used = used(parameters);
    if used > BUDGET {
        reader.fail(
            KEY,
            format!("take {used} bytes{also}; PostgreSQL has room for {BUDGET}"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_spelling() {
        assert_eq!(canonical("timezone"), Ok("TimeZone".into()));
        assert_eq!(canonical("DATESTYLE"), Ok("DateStyle".into()));
        assert_eq!(canonical("Work_Mem"), Ok("work_mem".into()));
        assert_eq!(canonical("my.Setting"), Ok("my.setting".into()));
    }

    #[test]
    fn reserved_and_impossible_names_are_refused() {
        for name in ["User", "DATABASE", "options", "role", "_pq_.x", "_PQ_.x"] {
            assert!(canonical(name).unwrap_err().contains("reserved"), "{name}");
        }
        for name in ["", "1a", ".a", "a-b", "a b", "é"] {
            assert!(
                canonical(name).unwrap_err().contains("not the name"),
                "{name}"
            );
        }
    }

    #[test]
    fn the_packet_of_a_user_must_fit() {
        let none = Parameters::new();
        assert!(fits(&none, "app", "app", "pg_doorman"));
        assert!(!fits(&none, &"u".repeat(PACKET), "app", "pg_doorman"));
        let full = Parameters::from([("work_mem".into(), "x".repeat(BUDGET - 10))]);
        assert!(fits(&full, "app", "app", "pg_doorman"));
        assert!(!fits(&full, &"u".repeat(500), "app", "pg_doorman"));
    }
}

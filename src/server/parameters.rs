//! Server settings by name: what PostgreSQL reports, what was reported to a client, what the pooler has
//! applied.
//!
//! Names compare as PostgreSQL compares them, without regard to case, and keep the spelling they came
//! in. Values are bytes: they come in whatever encoding the connection has.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A setting as it is shown: its spelling and its value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Setting {
    spelling: String,
    #[serde(with = "serde_bytes")]
    value: Vec<u8>,
}

/// A set of settings.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Parameters(BTreeMap<String, Setting>);

/// What PostgreSQL reports but nobody can set in a session, or only by statements whose effect is undone
/// in another way (SET ROLE, SET SESSION AUTHORIZATION).
const NOT_SETTABLE: [&str; 7] = [
    "in_hot_standby",
    "integer_datetimes",
    "is_superuser",
    "role",
    "server_encoding",
    "server_version",
    "session_authorization",
];

/// The settings that decide as whom statements run. Only they are set last and reset first: the rights to set the
/// others depend on them.
const IDENTITY: [&str; 2] = ["session_authorization", "role"];

impl Parameters {
    /// Whether `name` decides as whom statements run.
    pub fn is_identity(name: &str) -> bool {
        IDENTITY.iter().any(|one| one.eq_ignore_ascii_case(name))
    }

    /// Whether `name`, or what it is at, follows from as whom statements run.
    pub fn is_of_identity(name: &str) -> bool {
        Parameters::is_identity(name) || name.eq_ignore_ascii_case("is_superuser")
    }

    /// Who is to run the statements, in the order in which it has to be set.
    pub fn identity(&self) -> impl Iterator<Item = (&str, &[u8])> {
        (IDENTITY.iter()).filter_map(|name| self.get(name).map(|value| (*name, value)))
    }

    /// Whether a session can set `name` at all.
    pub fn is_settable(name: &str) -> bool {
        !NOT_SETTABLE
            .iter()
            .any(|fixed| fixed.eq_ignore_ascii_case(name))
    }

    /// Sets `name`; true if that changed anything.
    pub fn set(&mut self, name: &str, value: &[u8]) -> bool {
        let setting = Setting {
            spelling: name.to_owned(),
            value: value.to_owned(),
        };
        match self.0.insert(name.to_ascii_lowercase(), setting) {
            Some(before) => before.value != value,
            None => true,
        }
    }

    /// Takes `name` out.
    pub fn remove(&mut self, name: &str) {
        self.0.remove(&name.to_ascii_lowercase());
    }

    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        if self.0.is_empty() {
            return None;
        }
        let setting = if name.bytes().any(|b| b.is_ascii_uppercase()) {
            self.0.get(&name.to_ascii_lowercase())
        } else {
            self.0.get(name)
        };
        setting.map(|setting| setting.value.as_slice())
    }

    /// How `name` is spelled here.
    pub fn spelling(&self, name: &str) -> Option<&str> {
        let setting = self.0.get(&name.to_ascii_lowercase())?;
        Some(&setting.spelling)
    }

    /// All settings: spelling and value, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0
            .values()
            .map(|setting| (setting.spelling.as_str(), setting.value.as_slice()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The settings of `self` that `other` has not, or has with another value.
    pub fn differing_from<'a>(
        &'a self,
        other: &'a Parameters,
    ) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.0.iter().filter_map(|(name, setting)| {
            let same = other
                .0
                .get(name)
                .is_some_and(|theirs| theirs.value == setting.value);
            (!same).then_some((setting.spelling.as_str(), setting.value.as_slice()))
        })
    }

    /// The names of `self` that `other` lacks.
    pub fn missing_in<'a>(&'a self, other: &'a Parameters) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(|(name, _)| !other.0.contains_key(*name))
            .map(|(_, setting)| setting.spelling.as_str())
    }
}

/// Whether `literal` can write this text as a constant. A backslash beside bytes beyond ASCII may be half of a
/// character, in SJIS and others, and nothing that is done to it is right in all encodings.
pub fn is_constant(text: &[u8]) -> bool {
    text.is_ascii() || !text.contains(&b'\\')
}

/// Appends `text` as an expression that means the same whatever `standard_conforming_strings` and the client's
/// encoding are: a string constant, if it can be one.
pub fn literal(sql: &mut Vec<u8>, text: &[u8]) {
    if !is_constant(text) {
        sql.extend_from_slice(b"pg_catalog.convert_from(pg_catalog.decode('");
        for byte in text {
            sql.extend_from_slice(format!("{byte:02x}").as_bytes());
        }
        sql.extend_from_slice(b"','hex'),pg_catalog.current_setting('client_encoding'))");
        return;
    }
    if text.contains(&b'\\') {
        sql.extend_from_slice(b" E");
    }
    sql.push(b'\'');
    for &byte in text {
        if byte == b'\'' || byte == b'\\' {
            sql.push(byte);
        }
        sql.push(byte);
    }
    sql.push(b'\'');
}

/// A statement that sets the parameters given with a value and resets those given without, each exactly
/// as the startup packet would have it: `set_config`, unlike SET, takes a list such as `a, b` as one raw
/// value. `None` if there is nothing to do.
pub fn set_statement<'a>(
    parameters: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>,
) -> Option<Vec<u8>> {
    let mut sql = Vec::new();
    for (name, value) in parameters {
        sql.extend_from_slice(if sql.is_empty() { b"SELECT " } else { b", " });
        sql.extend_from_slice(b"pg_catalog.set_config(");
        literal(&mut sql, name.as_bytes());
        sql.push(b',');
        match value {
            Some(value) => literal(&mut sql, value),
            None => sql.extend_from_slice(b"NULL"),
        }
        sql.extend_from_slice(b",false)");
    }
    (!sql.is_empty()).then_some(sql)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(of: &[(&str, &str)]) -> Parameters {
        let mut parameters = Parameters::default();
        for (name, value) in of {
            parameters.set(name, value.as_bytes());
        }
        parameters
    }

    #[test]
    fn names_compare_without_case_and_keep_their_spelling() {
        let mut told = parameters(&[("TimeZone", "UTC")]);
        assert_eq!(told.get("timezone"), Some(&b"UTC"[..]));
        assert_eq!(told.get("TIMEZONE"), Some(&b"UTC"[..]));
        assert!(!told.set("TimeZone", b"UTC"));
        assert!(told.set("TimeZone", b"Asia/Tokyo"));
        assert_eq!(told.iter().next(), Some(("TimeZone", &b"Asia/Tokyo"[..])));
    }

    #[test]
    fn only_what_differs_is_set() {
        let wanted = parameters(&[("DateStyle", "ISO, DMY"), ("TimeZone", "UTC")]);
        let found = parameters(&[("DateStyle", "ISO, MDY"), ("TimeZone", "UTC")]);
        let sql = set_statement(wanted.differing_from(&found).map(|(n, v)| (n, Some(v))));
        assert_eq!(
            sql.unwrap(),
            b"SELECT pg_catalog.set_config('DateStyle','ISO, DMY',false)"
        );
        assert!(set_statement(wanted.differing_from(&wanted).map(|(n, v)| (n, Some(v)))).is_none());
    }

    #[test]
    fn half_a_character_is_no_backslash() {
        // In SJIS, a name in double quotes of one character.
        let value = parameters(&[]);
        let mut path = value;
        path.set("search_path", b"\"\x95\x5c\"");
        let sql = set_statement(path.iter().map(|(n, v)| (n, Some(v)))).unwrap();
        assert_eq!(
            String::from_utf8(sql).unwrap(),
            "SELECT pg_catalog.set_config('search_path',pg_catalog.convert_from(pg_catalog.decode('22955c22',\
             'hex'),pg_catalog.current_setting('client_encoding')),false)"
        );
    }

    #[test]
    fn values_cannot_leave_their_quotes() {
        let hostile = parameters(&[("application_name", "a'b\\'; drop table t --")]);
        let sql = set_statement(hostile.iter().map(|(n, v)| (n, Some(v)))).unwrap();
        assert_eq!(
            String::from_utf8(sql).unwrap(),
            "SELECT pg_catalog.set_config('application_name', E'a''b\\\\''; drop table t --',false)"
        );
    }
}

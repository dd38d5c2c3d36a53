//! The statements that bring a client's startup settings back where a RESET has gone back to the server's.
//!
//! In a direct session RESET goes back to what the startup packet asked for. Here the packet was another's, so these
//! settings are made once more. Invariant: a setting that is not at a default any more keeps its value.

use super::parameters::{Parameters, is_constant, literal};

/// Settings whose value is a list of identifiers, which SET would take for one.
const LISTS: [&str; 2] = ["search_path", "temp_tablespaces"];

/// The setting that decides how the others' bytes are read.
const CLIENT_ENCODING: &str = "client_encoding";

/// What is to be brought back.
#[derive(Debug)]
pub struct Restore {
    /// Names of settings that have gone back.
    pub names: Vec<String>,
    /// They have, and no others can have.
    pub exact: bool,
    /// For the transaction only.
    pub local: bool,
    /// There is one.
    pub in_block: bool,
}

impl Restore {
    /// The statements, one after the other, for a client whose startup packet has `startup_settings`, on a server
    /// connection that has logged in as `user`.
    pub fn statements(&self, startup_settings: &Parameters, user: &[u8]) -> Vec<Vec<u8>> {
        let (mut encoding, mut others) = (Parameters::default(), startup_settings.clone());
        if let Some(value) = startup_settings.get(CLIENT_ENCODING) {
            if startup_settings.iter().any(|(_, value)| !value.is_ascii()) {
                encoding.set(CLIENT_ENCODING, value);
                others.remove(CLIENT_ENCODING);
            }
        }
        let part = |startup_settings: &Parameters| match self.exact {
            true => self.known(startup_settings),
            false => self.unknown(startup_settings, user),
        };
        [part(&encoding), part(&others)].concat()
    }

    /// The statements that set what has gone back. In a block they take no snapshot, so that the transaction can still
    /// choose its isolation.
    fn known(&self, startup_settings: &Parameters) -> Vec<Vec<u8>> {
        let mut statements = Vec::new();
        let plain = (self.names.iter()).filter(|name| !Parameters::is_identity(name));
        let plain = plain.filter_map(|name| Some((name.as_str(), startup_settings.get(name)?)));
        // Who may not be allowed to set the others.
        let identity = startup_settings.identity();
        let identity = identity.filter(|(name, _)| self.names.iter().any(|one| one == name));
        for (name, value) in plain.chain(identity) {
            let parts = if !is_constant(value) {
                None
            } else if !LISTS.contains(&name) {
                Some(vec![value.to_vec()])
            } else {
                identifiers(value).filter(|_| self.in_block)
            };
            statements.push(match parts {
                Some(parts) => self.set(name, &parts),
                None => self.set_config(name, value),
            });
        }
        statements
    }

    fn set(&self, name: &str, value: &[Vec<u8>]) -> Vec<u8> {
        let verb: &[u8] = if self.local { b"SET LOCAL " } else { b"SET " };
        let mut sql = verb.to_vec();
        let parts = name.split('.').map(|part| part.replace('"', "\"\""));
        let parts: Vec<_> = parts.map(|part| format!("\"{part}\"")).collect();
        sql.extend_from_slice(parts.join(".").as_bytes());
        sql.extend_from_slice(b" TO ");
        for (place, part) in value.iter().enumerate() {
            sql.extend_from_slice(if place > 0 { b"," } else { b"" });
            literal(&mut sql, part);
        }
        sql
    }

    fn set_config(&self, name: &str, value: &[u8]) -> Vec<u8> {
        let mut sql = b"SELECT pg_catalog.set_config(".to_vec();
        literal(&mut sql, name.as_bytes());
        sql.push(b',');
        literal(&mut sql, value);
        sql.extend_from_slice(if self.local { b",true)" } else { b",false)" });
        sql
    }

    /// The statements that set those of `startup_settings` that are at a default now. If the role may have gone back
    /// too, they also set the role of a session that has just logged in as `user`.
    fn unknown(&self, startup_settings: &Parameters, user: &[u8]) -> Vec<Vec<u8>> {
        let mut values = Vec::new();
        for (name, value) in startup_settings.iter() {
            if Parameters::is_identity(name) {
                continue;
            }
            values.extend_from_slice(if values.is_empty() { b"(" } else { b",(" });
            literal(&mut values, name.as_bytes());
            values.push(b',');
            literal(&mut values, value);
            values.push(b')');
        }
        let mut statements = Vec::new();
        if !values.is_empty() {
            let local: &[u8] = if self.local { b"true" } else { b"false" };
            // What no view shows, settings of nobody's, is empty after a RESET.
            let parts: [&[u8]; 5] = [
                b"SELECT pg_catalog.set_config(w.name, w.value, ",
                local,
                b") FROM (VALUES ",
                &values,
                b") AS w(name, value) LEFT JOIN pg_catalog.pg_settings AS s \
                  ON pg_catalog.lower(s.name) OPERATOR(pg_catalog.=) pg_catalog.lower(w.name) \
                  WHERE CASE WHEN s.name IS NULL \
                  THEN COALESCE(pg_catalog.current_setting(w.name, true), '') OPERATOR(pg_catalog.=) '' \
                  ELSE s.source OPERATOR(pg_catalog.<>) 'session' END",
            ];
            statements.push(parts.concat());
        }
        for (name, value) in startup_settings.identity() {
            if !self.names.iter().any(|one| one == name) {
                continue;
            }
            let mut sql = self.set_config(name, value);
            sql.extend_from_slice(b" WHERE pg_catalog.current_setting(");
            literal(&mut sql, name.as_bytes());
            sql.extend_from_slice(b") OPERATOR(pg_catalog.=) ");
            literal(&mut sql, if name == "role" { b"none" } else { user });
            statements.push(sql);
        }
        statements
    }
}

/// The identifiers in a list, as PostgreSQL reads it (`SplitIdentifierString`). `None` if it is none or empty.
fn identifiers(list: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    let mut rest = list.trim_ascii_start();
    loop {
        let mut name = Vec::new();
        if rest.first() == Some(&b'"') {
            rest = &rest[1..];
            loop {
                let end = rest.iter().position(|&b| b == b'"')?;
                name.extend_from_slice(&rest[..end]);
                rest = &rest[end + 1..];
                if rest.first() != Some(&b'"') {
                    break;
                }
                name.push(b'"');
                rest = &rest[1..];
            }
        } else {
            let ends = |b: &u8| *b == b',' || b.is_ascii_whitespace();
            let end = rest.iter().position(ends).unwrap_or(rest.len());
            if end == 0 || !rest[..end].is_ascii() {
                return None;
            }
            name.extend(rest[..end].to_ascii_lowercase());
            rest = &rest[end..];
        }
        found.push(name);
        rest = rest.trim_ascii_start();
        match rest.split_first() {
            None => return Some(found),
            Some((b',', after)) => rest = after.trim_ascii_start(),
            Some(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn startup_settings(of: &[(&str, &str)]) -> Parameters {
        let mut startup_settings = Parameters::default();
        for (name, value) in of {
            startup_settings.set(name, value.as_bytes());
        }
        startup_settings
    }

    #[test]
    fn a_setting_is_made_again_as_it_was_asked_for() {
        let startup_settings = startup_settings(&[
            ("DateStyle", "Postgres, MDY"),
            ("my.\"x", "it's"),
            ("role", "team"),
            ("search_path", "\"$user\", \"a\"\"b\",Public"),
            ("temp_tablespaces", ""),
            ("work_mem", "1MB"),
        ]);
        let mut names = ["role", "search_path", "temp_tablespaces", "my.\"x"].map(str::to_owned);
        let sql = |names: &[String], local| {
            let restore = Restore {
                names: names.to_vec(),
                exact: true,
                local,
                in_block: local,
            };
            let statements = restore.statements(&startup_settings, b"app");
            String::from_utf8(statements.join(&b';')).unwrap()
        };
        assert_eq!(
            sql(&names, true),
            "SET LOCAL \"search_path\" TO '$user','a\"b','public';\
             SELECT pg_catalog.set_config('temp_tablespaces','',true);\
             SET LOCAL \"my\".\"\"\"x\" TO 'it''s';SET LOCAL \"role\" TO 'team'"
        );
        names[0] = "datestyle".to_owned();
        assert_eq!(
            sql(&names[..2], false),
            "SET \"datestyle\" TO 'Postgres, MDY';\
             SELECT pg_catalog.set_config('search_path','\"$user\", \"a\"\"b\",Public',false)"
        );
    }

    #[test]
    fn lists_are_parted_as_postgresql_does_or_not_at_all() {
        for list in ["", " ", ",", "a,", "a b", "\"a", "\"a\"b", "\u{e4}"] {
            assert_eq!(identifiers(list.as_bytes()), None, "{list}");
        }
    }
}

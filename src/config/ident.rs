//! User-name maps: who may log in as whom, by the name in his certificate.
//!
//! Reads the lines of a `pg_ident.conf` (PostgreSQL manual, "User Name Maps"):
//! `MAP SYSTEM-USERNAME DATABASE-USERNAME`. Either name can be a regular
//! expression, which begins with a slash; `\1` in a database user name stands for
//! what the first parentheses of the system user name's expression matched. The
//! invariant: a line is either understood in full or refused with its number.

use std::collections::BTreeMap;
use std::sync::Arc;

use regex_lite::Regex;

use super::fields::{self, Line, Word, single};
use super::problem::quote;

/// All maps of a file, by their names.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct IdentMaps(BTreeMap<String, Arc<[Mapping]>>);

/// One map: the lines that begin with its name. Without any it lets nobody in.
#[derive(Clone, Debug, PartialEq)]
pub struct IdentMap {
    name: String,
    lines: Arc<[Mapping]>,
}

#[derive(Clone, Debug, PartialEq)]
struct Mapping {
    system: SystemUser,
    database: DatabaseUser,
}

/// The middle word of a line.
#[derive(Clone, Debug, PartialEq)]
enum SystemUser {
    Name(String),
    Pattern(Pattern),
}

/// The last word of a line.
#[derive(Clone, Debug, PartialEq)]
enum DatabaseUser {
    All,
    Name(String),
    /// A name around what the system user's pattern captured.
    Captured {
        before: String,
        after: String,
    },
    Pattern(Pattern),
}

/// A regular expression, equal to others of the same text.
#[derive(Clone, Debug)]
struct Pattern(Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl IdentMaps {
    /// The map of this name; an empty one if no line is about it.
    pub(super) fn named(&self, name: &str) -> IdentMap {
        IdentMap {
            name: name.into(),
            lines: self.0.get(name).cloned().unwrap_or_default(),
        }
    }
}

impl IdentMap {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it lets nobody in.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Whether whoever is called `system` outside may log in as `user`.
    pub fn allows(&self, system: &str, user: &str) -> bool {
        self.lines.iter().any(|line| line.allows(system, user))
    }
}

impl Mapping {
    fn allows(&self, system: &str, user: &str) -> bool {
        let captured = match &self.system {
            SystemUser::Name(name) if name == system => None,
            SystemUser::Name(_) => return false,
            SystemUser::Pattern(pattern) => match pattern.0.captures(system) {
                Some(captures) => captures.get(1).map(|group| group.as_str()),
                None => return false,
            },
        };
        match &self.database {
            DatabaseUser::All => true,
            DatabaseUser::Name(name) => name == user,
            DatabaseUser::Captured { before, after } => {
                // Parentheses that took no part in the match stand for nothing.
                let captured = captured.unwrap_or_default();
                let rest = user.strip_prefix(before.as_str());
                rest.and_then(|rest| rest.strip_suffix(after.as_str())) == Some(captured)
            }
            DatabaseUser::Pattern(pattern) => pattern.0.is_match(user),
        }
    }
}

/// Reads all maps of a text, or says of every wrong line what is wrong:
/// `(line, reason)`.
pub(super) fn parse(text: &str) -> Result<IdentMaps, Vec<(usize, String)>> {
    let mut maps: BTreeMap<String, Vec<Mapping>> = BTreeMap::new();
    for (name, mapping) in fields::parse(text, mapping)? {
        maps.entry(name).or_default().push(mapping);
    }
    let shared = |(name, lines): (String, Vec<Mapping>)| (name, lines.into());
    Ok(IdentMaps(maps.into_iter().map(shared).collect()))
}

fn mapping(line: &Line) -> Result<(String, Mapping), String> {
    let [map, system, database] = line.fields.as_slice() else {
        let first = line.fields.first().and_then(|field| field.first());
        if let Some(word) = first.filter(|word| word.text.starts_with("include")) {
            return Err(format!(
                "{} is not supported; write the maps here",
                quote(&word.text)
            ));
        }
        return Err("the form of a line is: MAP SYSTEM-USERNAME DATABASE-USERNAME".into());
    };
    let system = system_user(single(system)?)?;
    let database = database_user(single(database)?, &system)?;
    let name = single(map)?.text.clone();
    Ok((name, Mapping { system, database }))
}

fn system_user(word: &Word) -> Result<SystemUser, String> {
    Ok(match word.text.strip_prefix('/') {
        Some(pattern) => SystemUser::Pattern(self::pattern(pattern)?),
        None => SystemUser::Name(word.text.clone()),
    })
}

fn database_user(word: &Word, system: &SystemUser) -> Result<DatabaseUser, String> {
    let text = word.text.as_str();
    if word.is("all") {
        return Ok(DatabaseUser::All);
    }
    if let Some(pattern) = text.strip_prefix('/') {
        return Ok(DatabaseUser::Pattern(self::pattern(pattern)?));
    }
    if !word.quoted && text.starts_with(['+', '@']) {
        return Err(format!(
            "{}: membership in a role and files of names are not supported; write all or a name \
             (quoted, if it is a name)",
            quote(text)
        ));
    }
    let SystemUser::Pattern(pattern) = system else {
        return Ok(DatabaseUser::Name(text.into()));
    };
    match text.split_once(r"\1") {
        // The expression itself is the first of its own groups.
        Some(_) if pattern.0.captures_len() < 2 => Err(format!(
            "regular expression {} has no subexpressions as requested by backreference in {}",
            quote(pattern.0.as_str()),
            quote(text)
        )),
        Some((before, after)) => Ok(DatabaseUser::Captured {
            before: before.into(),
            after: after.into(),
        }),
        None => Ok(DatabaseUser::Name(text.into())),
    }
}

fn pattern(text: &str) -> Result<Pattern, String> {
    match Regex::new(text) {
        Ok(regex) => Ok(Pattern(regex)),
        Err(error) => Err(format!(
            "invalid regular expression {}: {error}",
            quote(text)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(text: &str, system: &str, user: &str) -> bool {
        parse(text).unwrap().named("m").allows(system, user)
    }

    fn refusal(text: &str) -> String {
        let mut wrong = parse(text).unwrap_err();
        assert_eq!(wrong.len(), 1, "{text}");
        wrong.remove(0).1
    }

    #[test]
    fn any_line_of_the_map_may_let_a_user_in() {
        let text = "# who\n\
                    m ann app\n\
                    m ann \"web\"\n\
                    m \"CN=bob smith,O=us\" app\n\
                    other eve app\n";
        assert!(allows(text, "ann", "app") && allows(text, "ann", "web"));
        assert!(allows(text, "CN=bob smith,O=us", "app"));
        assert!(!allows(text, "ann", "root") && !allows(text, "eve", "app"));
        assert!(!allows(text, "Ann", "app") && !allows(text, "ann", "App"));
        assert!(parse(text).unwrap().named("nobody").is_empty());
    }

    #[test]
    fn expressions_match_and_capture_as_in_postgresql() {
        let text = r"m /^(.*)@mydomain\.com$ \1
                     m /^(.*)@otherdomain\.com$ guest
                     m root all
                     m ops /^app_
                     m /^(a)?b$ x\1y";
        assert!(allows(text, "ann@mydomain.com", "ann"));
        assert!(!allows(text, "ann@mydomain.com", "bob"));
        assert!(!allows(text, "ann@mydomain.community", "ann"));
        assert!(allows(text, "bob@otherdomain.com", "guest"));
        assert!(allows(text, "root", "anybody"));
        assert!(allows(text, "ops", "app_1") && !allows(text, "ops", "web"));
        assert!(allows(text, "ab", "xay") && allows(text, "b", "xy"));
        assert!(!allows(text, "ab", "xayy") && !allows(text, "ab", "xy"));
    }

    #[test]
    fn without_anchors_an_expression_matches_anywhere_in_the_name() {
        assert!(allows("m /ann app", "joann", "app"));
    }

    #[test]
    fn a_quoted_all_is_a_name_and_a_backreference_needs_an_expression() {
        assert!(!allows("m ann \"all\"", "ann", "app"));
        assert!(allows("m ann \"all\"", "ann", "all"));
        assert!(allows(r"m ann \1", "ann", r"\1"));
    }

    #[test]
    fn every_other_line_is_refused() {
        assert!(refusal("m ann").contains("MAP SYSTEM-USERNAME"));
        assert!(refusal("m ann app extra").contains("MAP SYSTEM-USERNAME"));
        assert!(refusal("m ann,bob app").contains("a list stands"));
        assert!(refusal("m ann +staff").contains("membership"));
        assert!(refusal("include maps.conf").contains("include"));
        assert!(refusal("m /(a app").contains("invalid regular expression"));
        assert!(refusal(r"m /^a$ \1").contains("has no subexpressions"));
        assert!(refusal("m \"ann app").contains("does not end"));
    }
}

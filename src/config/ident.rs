//! User-name maps: who may log in as whom, by the name in his certificate or the operating system's.
//!
//! Reads the lines of a `pg_ident.conf` (PostgreSQL manual, "User Name Maps"):
//! `MAP SYSTEM-USERNAME DATABASE-USERNAME`. Either name can be a regular
//! expression, which begins with a slash; `\1` in a database user name stands for
//! what the first parentheses of the system user name's expression matched. The
//! invariant: a line is either understood in full or refused with its number.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::access_files::Line;
use super::fields::{Word, single};
use super::hba::{UserMatch, user};
use super::pattern::Pattern;
use super::problem::quote;

/// All maps of a file, by their names.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct IdentMaps(BTreeMap<Vec<u8>, Arc<[Mapping]>>);

/// One map: the lines that begin with its name. Without any it lets nobody in.
#[derive(Clone, Debug, PartialEq)]
pub struct IdentMap {
    name: String,
    lines: Arc<[Mapping]>,
}

/// A line.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mapping {
    system: SystemUser,
    database: DatabaseUser,
}

/// The middle word of a line.
#[derive(Clone, Debug, PartialEq)]
enum SystemUser {
    Name(Vec<u8>),
    Pattern(Pattern),
}

/// The last word of a line.
#[derive(Clone, Debug, PartialEq)]
enum DatabaseUser {
    /// As in a rule.
    One(UserMatch),
    /// A name around what the system user's pattern captured.
    Captured { before: Vec<u8>, after: Vec<u8> },
}

impl IdentMaps {
    /// The map of this name; an empty one if no line is about it.
    pub(super) fn named(&self, name: &[u8]) -> IdentMap {
        IdentMap {
            name: String::from_utf8_lossy(name).into_owned(),
            lines: self.0.get(name).cloned().unwrap_or_default(),
        }
    }

    /// The maps that these lines make.
    pub(super) fn of(lines: Vec<(Vec<u8>, Mapping)>) -> IdentMaps {
        let mut maps: BTreeMap<Vec<u8>, Vec<Mapping>> = BTreeMap::new();
        for (name, mapping) in lines {
            maps.entry(name).or_default().push(mapping);
        }
        let shared = |(name, lines): (Vec<u8>, Vec<Mapping>)| (name, lines.into());
        IdentMaps(maps.into_iter().map(shared).collect())
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

    /// Whether whoever is called `system` outside may log in as a certain user. `is_user` says whether an entry is
    /// about that user, `user` is its name.
    ///
    /// # Errors
    /// That of `is_user`.
    pub fn allows<E>(
        &self,
        system: &[u8],
        user: &[u8],
        is_user: &mut dyn FnMut(&UserMatch) -> Result<bool, E>,
    ) -> Result<bool, E> {
        for line in self.lines.iter() {
            let captured = match &line.system {
                SystemUser::Name(name) if name == system => &b""[..],
                SystemUser::Name(_) => continue,
                SystemUser::Pattern(pattern) => match pattern.first_group(system) {
                    Some(captured) => captured,
                    None => continue,
                },
            };
            let fits = match &line.database {
                DatabaseUser::One(entry) => is_user(entry)?,
                DatabaseUser::Captured { before, after } => {
                    let rest = user.strip_prefix(before.as_slice());
                    rest.and_then(|rest| rest.strip_suffix(after.as_slice())) == Some(captured)
                }
            };
            if fits {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Reads a line: the name of the map, and what it says.
pub(super) fn mapping(line: &Line) -> Result<(Vec<u8>, Mapping), String> {
    let [map, system, database] = line.fields.as_slice() else {
        return Err("the form of a line is: MAP SYSTEM-USERNAME DATABASE-USERNAME".into());
    };
    let system = system_user(single(system, "system user")?)?;
    let database = database_user(single(database, "database user")?, &system)?;
    let name = single(map, "map")?.text.clone();
    Ok((name, Mapping { system, database }))
}

fn system_user(word: &Word) -> Result<SystemUser, String> {
    Ok(match word.text.strip_prefix(b"/") {
        Some(pattern) => SystemUser::Pattern(Pattern::new(pattern)?),
        None => SystemUser::Name(word.text.clone()),
    })
}

fn database_user(word: &Word, system: &SystemUser) -> Result<DatabaseUser, String> {
    let entry = user(word)?;
    let (UserMatch::Name(name), SystemUser::Pattern(pattern)) = (&entry, system) else {
        return Ok(DatabaseUser::One(entry));
    };
    let Some(place) = name.windows(2).position(|two| two == b"\\1") else {
        return Ok(DatabaseUser::One(entry));
    };
    if !pattern.has_group() {
        return Err(format!(
            "regular expression {} has no subexpressions as requested by backreference in {}",
            pattern.shown(),
            quote(&String::from_utf8_lossy(name))
        ));
    }
    Ok(DatabaseUser::Captured {
        before: name[..place].into(),
        after: name[place + 2..].into(),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::access_files::{self, Wrong};

    fn parse(text: &str) -> Result<IdentMaps, Vec<Wrong>> {
        let lines = access_files::parse(text.as_bytes(), None, Path::new("/"), mapping)?;
        Ok(IdentMaps::of(lines))
    }

    fn allows(text: &str, system: &str, user: &str) -> bool {
        let map = parse(text).unwrap().named(b"m");
        let mut is_user = |entry: &UserMatch| {
            Ok::<_, ()>(match entry {
                UserMatch::All => true,
                UserMatch::MemberOf(role) => role == b"staff" && user == "ann",
                UserMatch::Name(name) => name == user.as_bytes(),
                UserMatch::Pattern(pattern) => pattern.is_match(user.as_bytes()),
            })
        };
        map.allows(system.as_bytes(), user.as_bytes(), &mut is_user)
            .unwrap()
    }

    fn refusal(text: &str) -> String {
        let mut wrong = parse(text).unwrap_err();
        assert_eq!(wrong.len(), 1, "{text}");
        wrong.remove(0).reason
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
        assert!(parse(text).unwrap().named(b"nobody").is_empty());
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
    fn a_role_stands_for_its_members_as_in_a_rule() {
        assert!(allows("m /^x$ +staff", "x", "ann") && !allows("m /^x$ +staff", "x", "bob"));
        assert!(!allows("m x \"+staff\"", "x", "ann"));
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
        assert!(refusal("include maps.conf").contains("could not open file \"/maps.conf\""));
        assert!(refusal("m /(a app").contains("invalid regular expression"));
        assert!(refusal(r"m /^a$ \1").contains("has no subexpressions"));
    }
}

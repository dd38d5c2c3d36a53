//! Users from a file in the form of PgBouncer's `userlist.txt`: `"name" "password"` on each line.
//!
//! Makes no pool. Invariant: a line is understood or refused with its number, and no message shows a password.

use std::collections::BTreeMap;
use std::path::Path;

use super::keys::general::General;
use super::password::Password;
use super::problem::{Place, quote};
use super::reader::Reader;
use super::secret::Secret;

/// The longest name that PostgreSQL knows, in bytes.
const MAX_NAME: usize = 63;

/// What the file says of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilePassword {
    /// What PostgreSQL stores.
    Stored(Password),
    /// The password itself.
    Plain(Secret),
}

/// Users by their names.
pub type FileUsers = BTreeMap<String, FilePassword>;

/// Reads the file of `auth_file`, if there is one.
pub(super) fn read(reader: &mut Reader<'_>, general: &General) -> FileUsers {
    let mut users = FileUsers::new();
    let Some(path) = &general.auth_file else {
        return users;
    };
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) => {
            let path = quote(&path.to_string_lossy());
            reader.fail("auth_file", format!("Could not open {path}: {error}"));
            return users;
        }
    };
    let (key, file) = (reader.key("auth_file"), path.as_path().into());
    let at = |line| Place {
        line,
        ..Place::whole(&file)
    };
    for (number, line) in (1..).zip(text.split(|&byte| byte == b'\n')) {
        match user(line) {
            Ok(None) => {}
            Ok(Some((name, password))) => {
                if users.insert(name, password).is_some() {
                    let text = "the user was there before; this line counts";
                    reader.report.warn(&at(number), key.as_str(), text);
                }
            }
            Err(why) => reader.report.fail(&at(number), key.as_str(), why),
        }
    }
    let plain = users
        .values()
        .filter(|password| matches!(password, FilePassword::Plain(_)));
    match plain.count() {
        0 => {}
        count => tell_of_plain(reader, path, count),
    }
    users
}

fn tell_of_plain(reader: &mut Reader<'_>, path: &Path, count: usize) {
    let path = quote(&path.to_string_lossy());
    reader.warn(
        "auth_file",
        format!(
            "{path} has {count} passwords in clear text; write what PostgreSQL stores in rolpassword of pg_authid"
        ),
    );
}

/// The user of a line, unless the line is empty or a comment.
fn user(line: &[u8]) -> Result<Option<(String, FilePassword)>, String> {
    let line = std::str::from_utf8(line).map_err(|_| "the line is not UTF-8")?;
    let line = line.trim();
    if line.is_empty() || line.starts_with(';') {
        return Ok(None);
    }
    let form = "the form of a line is: \"name\" \"password\"";
    let (name, rest) = quoted(line).ok_or(form)?;
    let (password, _) = quoted(rest.trim_start()).ok_or(form)?;
    if name.is_empty() || name.len() > MAX_NAME || name.contains('\0') {
        return Err("this is not the name of a user; a name has 1 to 63 bytes".into());
    }
    let password = match Password::parse(&password) {
        Ok(stored @ (Password::Empty | Password::Md5(_) | Password::Scram(_))) => {
            FilePassword::Stored(stored)
        }
        Err(why) if password.starts_with("SCRAM-SHA-256$") => return Err(why),
        Ok(Password::Jwt(_)) | Err(_) => FilePassword::Plain(Secret::new(password)),
    };
    Ok(Some((name, password)))
}

/// The text in quotes at the start, and what follows it. Two quotes inside are one.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut rest = text.strip_prefix('"')?;
    let mut inside = String::new();
    loop {
        let (before, after) = rest.split_once('"')?;
        inside.push_str(before);
        match after.strip_prefix('"') {
            Some(after) => {
                inside.push('"');
                rest = after;
            }
            None => return Some((inside, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_pgbouncer_reads_them() {
        let (name, password) = user(b"\"a \"\"b\" \t\"hunter2\" more\r").unwrap().unwrap();
        assert_eq!(name, "a \"b");
        assert_eq!(password, FilePassword::Plain(Secret::new("hunter2")));
        assert!(!format!("{password:?}").contains("hunter2"));
        let hash = b"\"a\" \"md5d41d8cd98f00b204e9800998ecf8427e\"";
        let (_, password) = user(hash).unwrap().unwrap();
        assert!(matches!(password, FilePassword::Stored(Password::Md5(_))));
        assert_eq!(user(b"; \"a\" \"b\"").unwrap(), None);
        assert_eq!(user(b"  ").unwrap(), None);
        for wrong in [
            "a b",
            "\"a\"",
            "\"a\" b",
            "\"a\" \"b",
            "\"\" \"b\"",
            "\"a\" \"SCRAM-SHA-256$x\"",
        ] {
            assert!(user(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}

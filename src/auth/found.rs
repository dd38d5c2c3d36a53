//! Passwords that `auth_query` has found: what a row of its result says, and how long that is believed.
//!
//! Runs no query and waits for nobody. Invariant: what is remembered is bounded, whatever names strangers make up,
//! and an answer is not used after its time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::challenge::Kind;
use super::verifier::Verifier;
use crate::config::{AuthQuery, Password};
use crate::net::clock::MonotonicTime;

/// Names for which the query has found nobody and that are remembered, at most.
const MAX_UNKNOWN: usize = 4096;

/// Users that are remembered, at most.
const MAX_FOUND: usize = 65_536;

/// The columns that may hold the password, the first that is there counts.
const PASSWORD_COLUMNS: [&str; 3] = ["passwd", "password", "rolpassword"];

/// What is stored of the password, as a row of the query's result says.
///
/// # Errors
/// Why it says nothing that is understood, without any part of it.
pub fn read_row(
    columns: &[String],
    row: &[Option<Vec<u8>>],
) -> Result<Option<Verifier>, &'static str> {
    let named = |name: &&str| columns.iter().position(|column| column == *name);
    let place = match PASSWORD_COLUMNS.iter().find_map(named) {
        Some(place) => place,
        None if columns.len() == 1 => 0,
        // As PgBouncer has it: the name, then the password.
        None if columns.len() == 2 => 1,
        None => {
            return Err(
                "its result has no column passwd or password; name the password's column so",
            );
        }
    };
    let Some(Some(text)) = row.get(place) else {
        return Ok(Some(Verifier::None));
    };
    let text = std::str::from_utf8(text).map_err(|_| "it has found a password that is not text")?;
    match Password::parse(text) {
        Ok(Password::Empty) => Ok(Some(Verifier::None)),
        Ok(Password::Jwt(_)) | Err(_) => Err(
            "it has found neither an MD5 hash nor a SCRAM verifier; it has to select rolpassword of \
             pg_authid, or passwd of pg_shadow",
        ),
        Ok(password) => Ok(Some(Verifier::from(&password))),
    }
}

/// How long what is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// How long a user who was found is remembered.
    pub found: Duration,
    /// How long one who was not is.
    pub unknown: Duration,
    /// How long a user is not looked for again because of a failed login.
    pub between: Duration,
}

impl Times {
    /// Those of this table of the configuration.
    pub fn of(config: &AuthQuery) -> Times {
        Times {
            found: config.cache_ttl,
            unknown: config.cache_failure_ttl,
            between: config.min_interval,
        }
    }
}

/// What the query said of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What is stored of the password; `None`: there is no such user.
    pub verifier: Option<Verifier>,
    /// When the query was begun.
    pub asked_at: MonotonicTime,
}

/// What is remembered of all users of one query.
#[derive(Debug, Default)]
pub struct Cache {
    found: HashMap<String, Answer>,
    unknown: HashMap<String, Answer>,
    /// How users have been asked for their passwords, each way once.
    kinds: Arc<Vec<Kind>>,
    /// The same, as it was when somebody first tried to log in under a name. What stands in for the password of a
    /// name depends on it, and must not change only because another user was found.
    seen: HashMap<String, Arc<Vec<Kind>>>,
}

impl Cache {
    /// What is known of the user and may be used now.
    pub fn get(&self, user: &str, times: &Times, now: MonotonicTime) -> Option<Answer> {
        let answer = self.last(user)?;
        let limit = match answer.verifier {
            Some(Verifier::Md5(_) | Verifier::Scram(_)) => times.found,
            Some(Verifier::None) | None => times.unknown,
        };
        (now.since(answer.asked_at) < limit).then(|| answer.clone())
    }

    /// The last answer, however old.
    fn last(&self, user: &str) -> Option<&Answer> {
        self.found.get(user).or_else(|| self.unknown.get(user))
    }

    /// Whether a failed login is no reason to ask for the user again, because that was done a moment ago.
    pub fn is_recent(&self, user: &str, times: &Times, now: MonotonicTime) -> bool {
        self.last(user)
            .is_some_and(|answer| now.since(answer.asked_at) < times.between)
    }

    /// Remembers an answer, unless a later one is known.
    pub fn put(&mut self, user: &str, answer: Answer) {
        if (self.last(user)).is_some_and(|known| known.asked_at > answer.asked_at) {
            return;
        }
        self.forget(user);
        let kind = answer.verifier.as_ref().and_then(Kind::of);
        if let Some(kind) = kind.filter(|kind| !self.kinds.contains(kind)) {
            Arc::make_mut(&mut self.kinds).push(kind);
        }
        let (map, most) = match answer.verifier {
            Some(Verifier::Md5(_) | Verifier::Scram(_)) => (&mut self.found, MAX_FOUND),
            Some(Verifier::None) | None => (&mut self.unknown, MAX_UNKNOWN),
        };
        if map.len() >= most {
            map.clear();
        }
        map.insert(user.to_owned(), answer);
    }

    /// Forgets what is known of the user.
    pub fn forget(&mut self, user: &str) {
        self.found.remove(user);
        self.unknown.remove(user);
    }

    /// How users are asked for their passwords, each way once: the same for this name each time.
    pub fn kinds_for(&mut self, user: &str) -> Arc<Vec<Kind>> {
        if let Some(kinds) = self.seen.get(user) {
            return Arc::clone(kinds);
        }
        if self.seen.len() < MAX_FOUND {
            self.seen.insert(user.to_owned(), Arc::clone(&self.kinds));
        }
        Arc::clone(&self.kinds)
    }

    /// How many users are remembered, those included that are not there.
    pub fn len(&self) -> usize {
        self.found.len() + self.unknown.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The users who were found, for another process.
    pub fn all_found(&self) -> Vec<(String, Answer)> {
        (self.found.iter())
            .map(|(user, answer)| (user.clone(), answer.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MD5: &str = "md5d41d8cd98f00b204e9800998ecf8427e";
    const TIMES: Times = Times {
        found: Duration::from_secs(60),
        unknown: Duration::from_secs(10),
        between: Duration::from_secs(1),
    };

    fn at(seconds: u64) -> MonotonicTime {
        MonotonicTime::from_micros(seconds * 1_000_000)
    }

    fn answer(verifier: Option<&str>, seconds: u64) -> Answer {
        Answer {
            verifier: verifier.map(Verifier::of),
            asked_at: at(seconds),
        }
    }

    fn read(columns: &[&str], row: &[Option<&str>]) -> Result<Option<Verifier>, &'static str> {
        let columns: Vec<String> = columns.iter().map(|&name| name.to_owned()).collect();
        let row: Vec<_> = (row.iter())
            .map(|text| text.map(|text| text.as_bytes().to_vec()))
            .collect();
        read_row(&columns, &row)
    }

    #[test]
    fn the_password_is_found_by_its_column() {
        let expected = Ok(Some(Verifier::of(MD5)));
        assert_eq!(read(&["x"], &[Some(MD5)]), expected);
        assert_eq!(read(&["usename", "x"], &[Some("joe"), Some(MD5)]), expected);
        let three = ["passwd", "usename", "password"];
        assert_eq!(read(&three, &[Some(MD5), Some("a"), Some("b")]), expected);
        let names = ["rolname", "rolpassword", "z"];
        assert_eq!(read(&names, &[Some("joe"), Some(MD5), None]), expected);
        assert!(read(&["a", "b", "c"], &[None, None, None]).is_err());
    }

    #[test]
    fn no_password_is_none_and_plain_text_is_an_error() {
        assert_eq!(read(&["passwd"], &[None]), Ok(Some(Verifier::None)));
        assert_eq!(read(&["passwd"], &[Some("")]), Ok(Some(Verifier::None)));
        let error = read(&["passwd"], &[Some("hunter2")]).unwrap_err();
        assert!(!error.contains("hunter2"));
    }

    #[test]
    fn an_answer_is_used_for_its_time_only() {
        let mut cache = Cache::default();
        cache.put("joe", answer(Some(MD5), 100));
        cache.put("nobody", answer(None, 100));
        assert!(cache.get("joe", &TIMES, at(159)).is_some());
        assert!(cache.get("joe", &TIMES, at(160)).is_none());
        assert!(cache.get("nobody", &TIMES, at(109)).is_some());
        assert!(cache.get("nobody", &TIMES, at(110)).is_none());
        assert!(cache.is_recent("joe", &TIMES, at(100)));
        assert!(!cache.is_recent("joe", &TIMES, at(101)));
        assert!(!cache.is_recent("jane", &TIMES, at(100)));
    }

    #[test]
    fn an_answer_that_comes_late_does_not_replace_a_newer_one() {
        let mut cache = Cache::default();
        cache.put("joe", answer(Some(MD5), 100));
        cache.put("joe", answer(None, 99));
        assert!(
            cache
                .get("joe", &TIMES, at(100))
                .unwrap()
                .verifier
                .is_some()
        );
        cache.put("joe", answer(None, 101));
        assert_eq!(cache.get("joe", &TIMES, at(101)).unwrap().verifier, None);
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn what_stands_in_for_a_name_does_not_change_when_another_user_is_found() {
        let mut cache = Cache::default();
        assert_eq!(*cache.kinds_for("stranger"), []);
        cache.put("joe", answer(Some(MD5), 100));
        assert_eq!(*cache.kinds_for("stranger"), []);
        assert_eq!(*cache.kinds_for("other"), [Kind::Md5]);
    }

    #[test]
    fn made_up_names_take_bounded_room_and_no_place_of_users() {
        let mut cache = Cache::default();
        cache.put("joe", answer(Some(MD5), 100));
        for n in 0..3 * MAX_UNKNOWN {
            cache.put(&format!("stranger {n}"), answer(None, 100));
            assert!(cache.len() <= MAX_UNKNOWN + 1);
        }
        assert!(cache.get("joe", &TIMES, at(100)).is_some());
    }
}

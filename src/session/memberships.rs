//! The roles of which users are members, for rules with `+ROLE` and `samerole`: asked of PostgreSQL over the
//! connections of `auth_query`, or else over those of a pool of the database.
//!
//! Which rule asks is not known here. Invariant: an answer is believed for `BELIEVED`, and without an answer there
//! is an error, never a guess.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::own_query;
use super::shared::Shared;
use crate::auth::ServerSecret;
use crate::config;
use crate::net::clock::MonotonicTime;
use crate::pool::pool::Pool;

/// How long an answer is believed.
const BELIEVED: Duration = Duration::from_secs(30);

/// Users that are remembered, at most.
const MAX_USERS: usize = 16_384;

/// All roles of which a user is a member, itself included, as PostgreSQL's `pg_hba.conf` counts them: at any distance,
/// whether or not privileges are inherited, and a superuser is no member but of its own. Their names come as
/// hexadecimal digits, because a name may hold everything.
const ROLES_OF: &str = "\
WITH RECURSIVE roles(role) AS (
    SELECT oid FROM pg_catalog.pg_roles WHERE rolname = $1::pg_catalog.name
    UNION
    SELECT roleid FROM pg_catalog.pg_auth_members JOIN roles ON member = role
)
SELECT pg_catalog.string_agg(pg_catalog.encode(pg_catalog.convert_to(rolname::pg_catalog.text, 'UTF8'), 'hex'), ' ')
FROM roles JOIN pg_catalog.pg_roles ON oid = role";

type Roles = Arc<BTreeSet<Vec<u8>>>;

/// What is remembered: by the pool's name in the configuration, and the user's.
#[derive(Debug, Default)]
pub struct Memberships(Mutex<HashMap<(String, String), (Roles, MonotonicTime)>>);

impl Memberships {
    /// Forgets everything: another server may be asked now.
    pub fn forget(&self) {
        self.0.lock().clear();
    }

    /// Whether the user is a member of the role, for a login to this database.
    ///
    /// # Errors
    /// Why nobody can say, for the log.
    pub fn is_member(
        &self,
        shared: &Shared,
        (database, user): (&str, &str),
        role: &[u8],
        deadline: Option<MonotonicTime>,
    ) -> Result<bool, String> {
        let settings = shared.settings();
        // Without a pool there is nothing that the client could be let in to.
        let Some(pool) = settings.serving(database) else {
            return Ok(false);
        };
        let key = (pool.name.clone(), user.to_owned());
        let known = self.0.lock().get(&key).cloned();
        let now = MonotonicTime::now();
        if let Some((roles, _)) = known.filter(|(_, asked_at)| now.since(*asked_at) < BELIEVED) {
            return Ok(roles.contains(role));
        }
        let unavailable = |why: String| format!("the roles of \"{user}\" are not known: {why}");
        let over = connections(shared, pool, database, user).ok_or_else(|| {
            unavailable(
                "no connection can ask for them; write an auth_query, or a user with server_password, for this database"
                    .into(),
            )
        })?;
        let told = || shared.ends_logins();
        let rows = own_query::ask(&over, ROLES_OF, user, deadline, &told).map_err(unavailable)?;
        let roles = match rows.rows.first().and_then(|row| row.first()) {
            Some(Some(text)) => {
                read(text).ok_or_else(|| unavailable("a malformed answer".into()))?
            }
            _ => BTreeSet::new(),
        };
        let is_member = roles.contains(role);
        let mut all = self.0.lock();
        if all.len() >= MAX_USERS {
            all.clear();
        }
        all.insert(key, (Arc::new(roles), now));
        Ok(is_member)
    }
}

/// The connections over which to ask: those of `auth_query`; else those of a pool of the database, best of one that
/// has some, or can make one without a client's proof.
fn connections(
    shared: &Shared,
    pool: &config::Pool,
    database: &str,
    user: &str,
) -> Option<Arc<Pool>> {
    if let Some(lookup) = shared.lookups.of(&pool.name) {
        return Some(Arc::clone(lookup.pool()));
    }
    let names = pool.users.iter().map(|user| user.username.as_str());
    let pools = names.filter_map(|name| shared.pools.find(database, name));
    pools.max_by_key(|pool| {
        let credentials = pool.config().login.credentials(None);
        let can_connect = credentials.secret != ServerSecret::None;
        let own = pool.user == user;
        (pool.snapshot().total > 0, can_connect, own)
    })
}

fn read(text: &[u8]) -> Option<BTreeSet<Vec<u8>>> {
    let text = std::str::from_utf8(text).ok()?;
    text.split(' ').map(from_hex).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| {
        let digit = char::from(*byte).to_digit(16)?;
        u8::try_from(digit).ok()
    };
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some(digit(high)? * 16 + digit(low)?),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_as_digits() {
        let roles = read(b"737461666620 61").unwrap();
        assert!(roles.contains(&b"staff "[..]) && roles.contains(&b"a"[..]) && roles.len() == 2);
        assert_eq!(read(b"7"), None);
        assert_eq!(read(b"xx"), None);
    }
}

//! Users that the configuration does not name are looked up in PostgreSQL, by `auth_query`: in the thread of the
//! login that asks, over a few connections of their own.
//!
//! What an answer means and how long it holds is said in [`auth::found`](crate::auth::found). Invariant: of all
//! logins of one user that need an answer one runs the query, the others wait for its answer; no lock is held
//! meanwhile, and a login that has to stop does not wait.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::own_query;
use crate::auth::Verifier;
use crate::auth::challenge::Kind;
use crate::auth::found::{self, Answer, Cache, Times};
use crate::config::{AuthQuery, Settings};
use crate::net::clock::MonotonicTime;
use crate::pool::pool::Pool;
use crate::pool::pool_config::PoolConfig;
use crate::pool::pool_configs;
use crate::pool::pools::Pools;

/// How often a login that waits for another one's answer looks whether it has to stop.
const LOOK_UP: Duration = Duration::from_millis(100);

/// Why a user could not be looked up, for the log. The client only learns that it was not possible.
#[derive(Debug, Clone)]
pub struct Unavailable(pub String);

/// The lookups of all pools, by the pool's name in the configuration.
#[derive(Debug, Default)]
pub struct Lookups(Mutex<BTreeMap<String, Arc<UserLookup>>>);

/// What has happened, for the console.
#[derive(Debug, Default)]
pub struct Counts {
    /// Answers that were known.
    pub hits: AtomicU64,
    /// Answers that were not.
    pub misses: AtomicU64,
    /// Queries because of a failed login.
    pub refetches: AtomicU64,
    /// Failed logins that were no reason for a query, because there had been one a moment ago.
    pub rate_limited: AtomicU64,
    /// Logins that succeeded.
    pub successes: AtomicU64,
    /// Logins that failed.
    pub failures: AtomicU64,
    /// Queries.
    pub queries: AtomicU64,
    /// Queries that failed.
    pub errors: AtomicU64,
}

/// Adds one.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The users that one `auth_query` finds.
#[derive(Debug)]
pub struct UserLookup {
    query: AuthQuery,
    times: Times,
    pool: Arc<Pool>,
    state: Mutex<State>,
    /// See there.
    pub counts: Counts,
}

#[derive(Debug, Default)]
struct State {
    cache: Cache,
    /// Queries under way, by user.
    underway: HashMap<String, Arc<Query>>,
}

/// A query under way, for those who wait for its answer.
#[derive(Debug, Default)]
struct Query {
    outcome: Mutex<Option<Result<Answer, Unavailable>>>,
    done: Condvar,
}

/// A user as it was found.
#[derive(Debug, Clone)]
pub struct Found {
    /// What is known.
    pub answer: Answer,
    /// It was remembered from an earlier login.
    pub remembered: bool,
}

impl Lookups {
    /// The lookup of the pool with this name in the configuration.
    pub fn of(&self, pool: &str) -> Option<Arc<UserLookup>> {
        self.0.lock().get(pool).cloned()
    }

    /// All of them.
    pub fn all(&self) -> Vec<(String, Arc<UserLookup>)> {
        let all = self.0.lock();
        all.iter()
            .map(|(name, lookup)| (name.clone(), Arc::clone(lookup)))
            .collect()
    }

    /// Makes the lookups as the settings say. One whose query is unchanged and asked of the same server keeps what it
    /// remembers.
    pub fn apply(&self, settings: &Settings, pools: &Pools) {
        let mut all = self.0.lock();
        let mut before = std::mem::take(&mut *all);
        let mut ended: Vec<Arc<UserLookup>> = Vec::new();
        for (name, pool) in &settings.pools {
            let Some(query) = &pool.auth_query else {
                continue;
            };
            let config = pool_configs::of_query(settings, pool, query);
            let old = before.remove(name);
            let lookup = match old {
                Some(old) if old.goes_on_with(query, &config) => {
                    old.pool.change_config(config);
                    old
                }
                old => {
                    ended.extend(old);
                    UserLookup::new(name, query.clone(), config, pools)
                }
            };
            all.insert(name.clone(), lookup);
        }
        drop(all);
        ended.extend(before.into_values());
        for lookup in ended {
            lookup.pool.close();
        }
    }
}

impl UserLookup {
    fn new(name: &str, query: AuthQuery, config: PoolConfig, pools: &Pools) -> Arc<UserLookup> {
        Arc::new(UserLookup {
            times: Times::of(&query),
            pool: pools.new_own(name, &query.user, config),
            query,
            state: Mutex::default(),
            counts: Counts::default(),
        })
    }

    /// Whether what is remembered holds with this configuration, too.
    fn goes_on_with(&self, query: &AuthQuery, config: &PoolConfig) -> bool {
        let own = &self.query;
        let same_query =
            (&own.query, &own.user, &own.database) == (&query.query, &query.user, &query.database);
        same_query
            && self.times == Times::of(query)
            && self.pool.config().leads_to_same_server(config)
    }

    /// The connections that the query runs on.
    pub(super) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// How users are asked for their passwords, each way once.
    pub fn kinds_for(&self, user: &str) -> Arc<Vec<Kind>> {
        self.state.lock().cache.kinds_for(user)
    }

    /// How many users are remembered.
    pub fn remembered(&self) -> usize {
        self.state.lock().cache.len()
    }

    /// The users who were found, for another process.
    pub fn all_found(&self) -> Vec<(String, Answer)> {
        self.state.lock().cache.all_found()
    }

    /// Takes up what another process has found.
    pub fn remember(&self, user: &str, answer: Answer) {
        self.state.lock().cache.put(user, answer);
    }

    /// What is known of the user, or what the query says, which must have answered at `deadline`. `told` says whether
    /// logins have to stop.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub fn find(
        &self,
        user: &str,
        deadline: Option<MonotonicTime>,
        told: &dyn Fn() -> bool,
    ) -> Result<Found, Unavailable> {
        let known = {
            let state = self.state.lock();
            state.cache.get(user, &self.times, MonotonicTime::now())
        };
        if let Some(answer) = known {
            count(&self.counts.hits);
            return Ok(Found {
                answer,
                remembered: true,
            });
        }
        count(&self.counts.misses);
        let answer = self.ask_once(user, deadline, told)?;
        Ok(Found {
            answer,
            remembered: false,
        })
    }

    /// Looks the user up again, because a login has failed with what was remembered. `None` if that says nothing
    /// new, or was done a moment ago.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub fn find_again(
        &self,
        user: &str,
        before: &Answer,
        deadline: Option<MonotonicTime>,
        told: &dyn Fn() -> bool,
    ) -> Result<Option<Answer>, Unavailable> {
        let now = MonotonicTime::now();
        let newer = {
            let state = self.state.lock();
            let known = state.cache.get(user, &self.times, now);
            let newer = known.filter(|known| known.asked_at > before.asked_at);
            if newer.is_none() && state.cache.is_recent(user, &self.times, now) {
                count(&self.counts.rate_limited);
                return Ok(None);
            }
            newer
        };
        let answer = match newer {
            Some(answer) => answer,
            None => {
                count(&self.counts.refetches);
                self.ask_once(user, deadline, told)?
            }
        };
        Ok((answer.verifier != before.verifier).then_some(answer))
    }

    /// Forgets what is known of the user: PostgreSQL does not let it in with that.
    pub fn forget(&self, user: &str) {
        self.state.lock().cache.forget(user);
    }

    /// Runs the query, unless that is under way for another login: then its answer is awaited.
    fn ask_once(
        &self,
        user: &str,
        deadline: Option<MonotonicTime>,
        told: &dyn Fn() -> bool,
    ) -> Result<Answer, Unavailable> {
        let (query, mine) = {
            let mut state = self.state.lock();
            match state.underway.get(user) {
                Some(query) => (Arc::clone(query), false),
                None => {
                    let query = Arc::new(Query::default());
                    state.underway.insert(user.to_owned(), Arc::clone(&query));
                    (query, true)
                }
            }
        };
        if !mine {
            return query.wait(told);
        }
        // If this thread panics those that wait must not do so for ever.
        let _end = Underway {
            lookup: self,
            user,
            query: &query,
        };
        let asked_at = MonotonicTime::now();
        count(&self.counts.queries);
        let outcome = self.ask(user, deadline, told);
        let outcome = outcome.map(|verifier| Answer { verifier, asked_at });
        match &outcome {
            Ok(answer) => self.state.lock().cache.put(user, answer.clone()),
            Err(_) => count(&self.counts.errors),
        }
        *query.outcome.lock() = Some(outcome.clone());
        outcome
    }

    /// Runs the query.
    fn ask(
        &self,
        user: &str,
        deadline: Option<MonotonicTime>,
        told: &dyn Fn() -> bool,
    ) -> Result<Option<Verifier>, Unavailable> {
        let query = &self.query.query;
        let rows = own_query::ask(&self.pool, query, user, deadline, told).map_err(Unavailable)?;
        match rows.rows.as_slice() {
            [] => Ok(None),
            [row] => found::read_row(&rows.columns, row)
                .map_err(|why| Unavailable(format!("the query is wrong: {why}"))),
            _ => Err(Unavailable(
                "the query is wrong: it finds more than one row; a name has one".into(),
            )),
        }
    }
}

/// Ends a query for those who wait for it, whatever has become of it.
struct Underway<'a> {
    lookup: &'a UserLookup,
    user: &'a str,
    query: &'a Query,
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        self.lookup.state.lock().underway.remove(self.user);
        let mut outcome = self.query.outcome.lock();
        outcome.get_or_insert_with(|| Err(Unavailable("its login broke off".into())));
        drop(outcome);
        self.query.done.notify_all();
    }
}

impl Query {
    fn wait(&self, told: &dyn Fn() -> bool) -> Result<Answer, Unavailable> {
        let mut outcome = self.outcome.lock();
        loop {
            if let Some(outcome) = &*outcome {
                return outcome.clone();
            }
            self.done.wait_for(&mut outcome, LOOK_UP);
            if outcome.is_none() {
                // Nothing else is known to be done under the lock of another's query.
                let stop = parking_lot::MutexGuard::unlocked(&mut outcome, told);
                if stop {
                    return Err(Unavailable("interrupted".into()));
                }
            }
        }
    }
}

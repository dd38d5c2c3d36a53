//! Pools that the configuration does not name: made when a client has logged in whose user or database was found
//! elsewhere, and removed when they were unused for a while.
//!
//! Who may log in is not decided here. Invariant: a pool that is still held is not removed, so a session never loses
//! its pool but by a reload.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::pool::Pool;
use super::pool_config::{Origin, PoolConfig};
use super::pools::{Key, Pools};
use super::state::close_all;
use crate::config::ANY_DATABASE;
use crate::net::clock::MonotonicTime;

/// There are as many databases as there may be that the configuration does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyDatabases;

/// When pools that the configuration does not name are removed.
#[derive(Debug, Clone, Copy)]
pub struct Unused {
    /// For how long a pool of a configured database must have had no client and no connection.
    pub user: Duration,
    /// For how long that of another database must have had no client; `None`: it stays.
    pub database: Option<Duration>,
}

/// How many of them were made and removed.
#[derive(Debug, Clone, Copy, Default)]
pub struct FoundCounts {
    /// Made.
    pub created: u64,
    /// Removed.
    pub destroyed: u64,
}

/// The name of the pool in the configuration that serves it.
fn configured_name(pool: &Pool) -> String {
    match pool.config().origin {
        Origin::AnyDatabase => ANY_DATABASE.to_owned(),
        Origin::FoundUser | Origin::Configured => pool.database.clone(),
    }
}

impl Pools {
    /// How many pools that the configuration does not name are there for this pool of the configuration, and the
    /// counts of them.
    pub fn found(&self, name: &str) -> (usize, FoundCounts) {
        let is_its = |pool: &&Arc<Pool>| {
            pool.config().origin != Origin::Configured && configured_name(pool) == name
        };
        let there = self.all().iter().filter(is_its).count();
        let counts = self.found_counts.lock().get(name).copied();
        (there, counts.unwrap_or_default())
    }

    /// The pool of this key, which is made if there is none. A pool that the configuration does not name goes on by
    /// this configuration.
    ///
    /// # Errors
    /// If it would be one of more than `most` databases that the configuration does not name.
    pub fn ensure(
        &self,
        key: &Key,
        config: PoolConfig,
        most: usize,
    ) -> Result<Arc<Pool>, TooManyDatabases> {
        let there = self.pools.read().get(key).cloned();
        if let Some(pool) = there {
            return Ok(up_to_date(pool, config));
        }
        let mut pools = self.pools.write();
        if let Some(pool) = pools.get(key).cloned() {
            drop(pools);
            return Ok(up_to_date(pool, config));
        }
        if config.origin == Origin::AnyDatabase {
            let of_any = |pool: &&Arc<Pool>| pool.config().origin == Origin::AnyDatabase;
            let mut names: Vec<&str> = (pools.values().filter(of_any))
                .map(|pool| pool.database.as_str())
                .collect();
            // They are sorted by their databases.
            names.dedup();
            if names.len() >= most && !names.contains(&key.0.as_str()) {
                return Err(TooManyDatabases);
            }
        }
        log::info!("[{}@{}] creating pool", key.1, key.0);
        let permits = self.permits(&key.0);
        let limit = config.database_limit;
        permits.set_limit(limit.map_or(usize::MAX, |limit| limit.most + limit.reserve));
        let pool = Pool::new(&key.0, &key.1, config, Arc::clone(&self.numbers), permits);
        pools.insert(key.clone(), Arc::clone(&pool));
        drop(pools);
        let name = configured_name(&pool);
        self.found_counts.lock().entry(name).or_default().created += 1;
        Ok(pool)
    }

    /// Removes pools that the configuration does not name and that were unused for so long.
    pub fn sweep(&self, unused: Unused) {
        if self.expects.load(Ordering::Acquire) {
            return;
        }
        let now = MonotonicTime::now();
        let due: Vec<Key> = (self.pools.read().iter())
            .filter(|(_, pool)| pool.is_due(unused, now, 1))
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            self.remove_if(&key, |pool| pool.is_due(unused, now, 1));
        }
    }

    /// Removes the pool of a login that has failed after all, if the configuration does not name it, it has no
    /// connection, and nobody but the caller has it.
    pub fn discard(&self, pool: Arc<Pool>) {
        let key = (pool.database.clone(), pool.user.clone());
        drop(pool);
        let at_once = Unused {
            user: Duration::ZERO,
            database: Some(Duration::ZERO),
        };
        self.remove_if(&key, |pool| {
            pool.snapshot().total == 0 && pool.is_due(at_once, MonotonicTime::now(), 1)
        });
    }

    fn remove_if(&self, key: &Key, is_due: impl Fn(&Arc<Pool>) -> bool) {
        let mut pools = self.pools.write();
        if !pools.get(key).is_some_and(is_due) {
            return;
        }
        let removed = pools.remove(key);
        let of_database = (key.0.clone(), String::new());
        let last = (pools.range(of_database..).next()).is_none_or(|(other, _)| other.0 != key.0);
        if last {
            self.permits.lock().remove(&key.0);
        }
        drop(pools);
        if let Some(pool) = removed {
            log::info!("[{}@{}] removing pool: it is not used", key.1, key.0);
            pool.close();
            let name = configured_name(&pool);
            self.found_counts.lock().entry(name).or_default().destroyed += 1;
        }
    }
}

fn up_to_date(pool: Arc<Pool>, config: PoolConfig) -> Arc<Pool> {
    pool.unused_since.store(0, Ordering::Relaxed);
    if pool.config().origin != Origin::Configured {
        pool.change_config(config);
    }
    pool
}

impl Pool {
    /// Whether it has been unused for so long that it is to be removed. `holders` are those that hold it without
    /// using it. To be asked while nobody can begin to use it.
    fn is_due(self: &Arc<Pool>, unused: Unused, now: MonotonicTime, holders: usize) -> bool {
        let state = self.lock();
        let limit = match state.config.origin {
            Origin::Configured => return false,
            // It never had a connection, so there may be no such database.
            _ if state.total() == 0 && state.reported.is_none() => Some(Duration::ZERO),
            Origin::FoundUser if state.total() > 0 => None,
            Origin::FoundUser => Some(unused.user),
            Origin::AnyDatabase => unused.database,
        };
        let in_use = state.total() > state.idle.len() || state.paused || !state.queue.is_empty();
        drop(state);
        if in_use || limit.is_none() || Arc::strong_count(self) > holders {
            self.unused_since.store(0, Ordering::Relaxed);
            return false;
        }
        let since = match self.unused_since.load(Ordering::Relaxed) {
            0 => {
                let since = now.micros().max(1);
                self.unused_since.store(since, Ordering::Relaxed);
                since
            }
            since => since,
        };
        limit.is_some_and(|limit| now.since(MonotonicTime::from_micros(since)) >= limit)
    }

    /// Closes what lies idle.
    pub fn release(&self) {
        let leaving: Vec<_> = self.lock().idle.drain(..).collect();
        close_all(leaving, "PAUSE or RECONNECT");
    }
}

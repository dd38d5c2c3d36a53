//! All pools, by database and user.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use crossbeam::channel::{Receiver, Sender, bounded};
use parking_lot::{Mutex, RwLock};

use super::database_limit::DatabasePermits;
use super::found::FoundCounts;
use super::pool::Pool;
use super::pool_config::PoolConfig;

/// A pool's name: database, then user.
pub type Key = (String, String);

/// All pools.
#[derive(Debug)]
pub struct Pools {
    pub(super) pools: RwLock<BTreeMap<Key, Arc<Pool>>>,
    /// The pools of connections that the pooler uses itself. They end when nobody else has them.
    own: Mutex<Vec<Weak<Pool>>>,
    /// The permits of each database; they stay when a database goes and comes back.
    pub(super) permits: Mutex<BTreeMap<String, Arc<DatabasePermits>>>,
    notify: Sender<()>,
    /// Wakes the janitor to look which pool needs a permit.
    pub(super) rung: Receiver<()>,
    pub(super) numbers: Arc<AtomicU64>,
    /// How many pools that the configuration does not name were made and removed, by the name of the pool in the
    /// configuration that serves them.
    pub(super) found_counts: Mutex<BTreeMap<String, FoundCounts>>,
    /// Sessions come from another process: no pool is removed because nobody uses it.
    pub(super) expects: AtomicBool,
}

impl Default for Pools {
    fn default() -> Pools {
        let (notify, rung) = bounded(1);
        Pools {
            pools: RwLock::default(),
            own: Mutex::default(),
            permits: Mutex::default(),
            notify,
            rung,
            numbers: Arc::default(),
            found_counts: Mutex::default(),
            expects: AtomicBool::new(false),
        }
    }
}

impl Pools {
    /// The pool of `user` in `database`.
    pub fn find(&self, database: &str, user: &str) -> Option<Arc<Pool>> {
        let key = (database.to_owned(), user.to_owned());
        self.pools.read().get(&key).cloned()
    }

    /// The last number given to a server connection.
    pub fn last_number(&self) -> u64 {
        self.numbers.load(Ordering::Relaxed)
    }

    /// Gives server connections no number up to `number`.
    pub fn start_from(&self, number: u64) {
        self.numbers.fetch_max(number, Ordering::Relaxed);
    }

    /// Sessions come from another process, and what they come to must be there.
    pub fn expect_more(&self) {
        self.expects.store(true, Ordering::Release);
    }

    /// Nothing more comes from another process.
    pub fn expect_no_more(&self) {
        self.expects.store(false, Ordering::Release);
        for pool in self.all() {
            pool.expect_no_more();
        }
    }

    /// All pools, in the order of their names.
    pub fn all(&self) -> Vec<Arc<Pool>> {
        self.pools.read().values().cloned().collect()
    }

    /// A pool of connections that the pooler uses itself. It has no place among those of clients, and its limit is
    /// its own.
    pub fn new_own(&self, database: &str, user: &str, config: PoolConfig) -> Arc<Pool> {
        let permits = DatabasePermits::new(self.notify.clone());
        let pool = Pool::new(database, user, config, Arc::clone(&self.numbers), permits);
        let mut own = self.own.lock();
        own.retain(|pool| pool.strong_count() > 0);
        own.push(Arc::downgrade(&pool));
        pool
    }

    /// The pools of connections that the pooler uses itself.
    pub fn own(&self) -> Vec<Arc<Pool>> {
        self.own.lock().iter().filter_map(Weak::upgrade).collect()
    }

    pub(super) fn permits(&self, database: &str) -> Arc<DatabasePermits> {
        let mut all = self.permits.lock();
        let permits = all
            .entry(database.to_owned())
            .or_insert_with(|| DatabasePermits::new(self.notify.clone()));
        Arc::clone(permits)
    }

    /// Puts `pool_configs` in force: new pools are added, and pools that are not in it are closed. The other pools keep
    /// their connections. `found` gives the configuration of a pool whose user or database the configuration file does
    /// not name; if there is none, the pool is closed.
    pub fn apply(
        &self,
        mut pool_configs: BTreeMap<Key, PoolConfig>,
        found: impl Fn(&Key, &PoolConfig) -> Option<PoolConfig>,
    ) {
        let mut removed = Vec::new();
        let mut pools = self.pools.write();
        pools.retain(|key, pool| {
            if pool_configs.contains_key(key) {
                return true;
            }
            let config = found(key, &pool.config());
            let stays = config.is_some();
            if let Some(config) = config {
                pool_configs.insert(key.clone(), config);
            } else {
                removed.push(Arc::clone(pool));
            }
            stays
        });
        let mut changed = Vec::new();
        for (key, config) in pool_configs {
            let permits = self.permits(&key.0);
            let limit = config.database_limit;
            permits.set_limit(limit.map_or(usize::MAX, |limit| limit.most + limit.reserve));
            match pools.get(&key) {
                Some(pool) => changed.push((Arc::clone(pool), config)),
                None => {
                    log::info!("[{}@{}] creating pool", key.1, key.0);
                    let pool =
                        Pool::new(&key.0, &key.1, config, Arc::clone(&self.numbers), permits);
                    pools.insert(key, pool);
                }
            }
        }
        drop(pools);
        for (pool, config) in changed {
            pool.change_config(config);
        }
        for pool in removed {
            log::info!("[{}@{}] removing pool", pool.user, pool.database);
            pool.close();
        }
    }
}

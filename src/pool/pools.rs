//! All pools, by database and user.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::channel::{Receiver, Sender, bounded};
use parking_lot::{Mutex, RwLock};

use super::database_limit::DatabasePermits;
use super::pool::Pool;
use super::pool_config::PoolConfig;

/// A pool's name: database, then user.
pub type Key = (String, String);

/// All pools.
#[derive(Debug)]
pub struct Pools {
    pools: RwLock<BTreeMap<Key, Arc<Pool>>>,
    /// The seats of each database; they stay when a database goes and comes back.
    permits: Mutex<BTreeMap<String, Arc<DatabasePermits>>>,
    notify: Sender<()>,
    /// Rings when somebody should look who needs a seat.
    pub(super) rung: Receiver<()>,
    numbers: Arc<AtomicU64>,
}

impl Default for Pools {
    fn default() -> Pools {
        let (notify, rung) = bounded(1);
        Pools {
            pools: RwLock::default(),
            permits: Mutex::default(),
            notify,
            rung,
            numbers: Arc::default(),
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

    /// Nothing more comes from another process.
    pub fn expect_no_more(&self) {
        for pool in self.all() {
            pool.expect_no_more();
        }
    }

    /// All pools, in the order of their names.
    pub fn all(&self) -> Vec<Arc<Pool>> {
        self.pools.read().values().cloned().collect()
    }

    fn permits(&self, database: &str) -> Arc<DatabasePermits> {
        let mut all = self.permits.lock();
        let permits = all
            .entry(database.to_owned())
            .or_insert_with(|| DatabasePermits::new(self.notify.clone()));
        Arc::clone(permits)
    }

    /// Makes the pools as `pool_configs` say: new ones are added, those that are not in it are closed, the
    /// others go on by the new plan with the connections they have.
    pub fn apply(&self, pool_configs: BTreeMap<Key, PoolConfig>) {
        let mut removed = Vec::new();
        let mut pools = self.pools.write();
        pools.retain(|key, pool| {
            let stays = pool_configs.contains_key(key);
            if !stays {
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

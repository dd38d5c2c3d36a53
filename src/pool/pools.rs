//! All pools, by database and user.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use super::plan::Plan;
use super::pool::Pool;

/// A pool's name: database, then user.
pub type Key = (String, String);

/// All pools.
#[derive(Debug, Default)]
pub struct Pools {
    pools: RwLock<BTreeMap<Key, Arc<Pool>>>,
    numbers: Arc<AtomicU64>,
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

    /// Makes the pools as `plans` say: new ones are added, those that are not in it are closed, the
    /// others go on by the new plan with the connections they have.
    pub fn apply(&self, plans: BTreeMap<Key, Plan>) {
        let mut removed = Vec::new();
        let mut pools = self.pools.write();
        pools.retain(|key, pool| {
            let stays = plans.contains_key(key);
            if !stays {
                removed.push(Arc::clone(pool));
            }
            stays
        });
        let mut changed = Vec::new();
        for (key, plan) in plans {
            match pools.get(&key) {
                Some(pool) => changed.push((Arc::clone(pool), plan)),
                None => {
                    log::info!("[{}@{}] creating pool", key.1, key.0);
                    let pool = Pool::new(&key.0, &key.1, plan, Arc::clone(&self.numbers));
                    pools.insert(key, pool);
                }
            }
        }
        drop(pools);
        for (pool, plan) in changed {
            pool.change_plan(plan);
        }
        for pool in removed {
            log::info!("[{}@{}] removing pool", pool.user, pool.database);
            pool.close();
        }
    }
}

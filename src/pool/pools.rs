//! All pools, by database and user.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::channel::{Receiver, Sender, bounded};
use parking_lot::{Mutex, RwLock};

use super::plan::Plan;
use super::pool::Pool;
use crate::server::seats::Seats;

/// A pool's name: database, then user.
pub type Key = (String, String);

/// All pools.
#[derive(Debug)]
pub struct Pools {
    pools: RwLock<BTreeMap<Key, Arc<Pool>>>,
    /// The seats of each database; they stay when a database goes and comes back.
    seats: Mutex<BTreeMap<String, Arc<Seats>>>,
    bell: Sender<()>,
    /// Rings when somebody should look who needs a seat.
    pub(super) rung: Receiver<()>,
    numbers: Arc<AtomicU64>,
}

impl Default for Pools {
    fn default() -> Pools {
        let (bell, rung) = bounded(1);
        Pools {
            pools: RwLock::default(),
            seats: Mutex::default(),
            bell,
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

    fn seats(&self, database: &str) -> Arc<Seats> {
        let mut all = self.seats.lock();
        let seats = all
            .entry(database.to_owned())
            .or_insert_with(|| Seats::new(self.bell.clone()));
        Arc::clone(seats)
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
            let seats = self.seats(&key.0);
            let limit = plan.database_limit;
            seats.set_limit(limit.map_or(usize::MAX, |limit| limit.most + limit.reserve));
            match pools.get(&key) {
                Some(pool) => changed.push((Arc::clone(pool), plan)),
                None => {
                    log::info!("[{}@{}] creating pool", key.1, key.0);
                    let pool = Pool::new(&key.0, &key.1, plan, Arc::clone(&self.numbers), seats);
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

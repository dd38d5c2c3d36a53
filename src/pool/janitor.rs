//! The thread that looks after all pools: it closes idle connections that are too old, keeps `min_pool_size` warm, ends
//! the periods of the averages, grants permits of `max_db_connections` ([`database_limit`]), and removes unused pools.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};
use crossbeam::select;

use super::database_limit;
use super::found::Unused;
use super::pools::Pools;
use super::totals::PERIOD;
use crate::net::clock::MonotonicTime;
use crate::net::thread;

/// How often the janitor makes its round for connections that are missing.
const ROUND: Duration = Duration::from_secs(1);

/// How often it looks for a connection that can be closed while somebody waits for a permit, and tries again
/// while somebody waits for a server that is down.
const SCARCE_ROUND: Duration = Duration::from_millis(100);

/// The running janitor. Dropping this ends its thread.
#[derive(Debug)]
pub struct Janitor {
    _home: Sender<()>,
}

/// The settings that the janitor follows.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// How often it closes connections.
    pub cycle: Duration,
    /// How many at most over all pools.
    pub at_most: Option<usize>,
    /// How long a database that the configuration does not name may be unused.
    pub autodb_idle_timeout: Option<Duration>,
}

/// Gives the settings in force, at each round.
pub type Rules = dyn Fn() -> Rule + Send;

impl Janitor {
    /// Starts the janitor; it asks for its rules at each round.
    ///
    /// # Errors
    /// If its thread cannot be started.
    pub fn start(pools: Arc<Pools>, rules: Box<Rules>) -> io::Result<Janitor> {
        let (home, called_home) = bounded(0);
        std::thread::Builder::new()
            .stack_size(256 * 1024)
            .spawn(move || {
                thread::name("janitor");
                work(&pools, &rules, &called_home);
            })?;
        Ok(Janitor { _home: home })
    }
}

fn work(pools: &Pools, rules: &Rules, home: &Receiver<()>) {
    let mut last_cycle = MonotonicTime::now();
    let mut next_period = MonotonicTime::now().after(PERIOD);
    let mut next_round = MonotonicTime::now();
    let mut first = 0;
    loop {
        let now = MonotonicTime::now();
        let rule = (next_round <= now).then(rules);
        if let Some(rule) = rule {
            pools.sweep(Unused {
                user: rule.cycle,
                database: rule.autodb_idle_timeout,
            });
        }
        let mut all = pools.all();
        all.extend(pools.own());
        if let Some(rule) = rule {
            next_round = now.after(ROUND);
            let mut quota = 0;
            if now.since(last_cycle) >= rule.cycle {
                last_cycle = now;
                quota = rule.at_most.unwrap_or(usize::MAX);
            }
            if !all.is_empty() {
                // Another pool is first each time, or the same one would use up the quota for ever.
                let length = all.len();
                all.rotate_left(first % length);
            }
            if quota > 0 {
                first = first.wrapping_add(1);
            }
            for pool in &all {
                quota -= pool.maintain(quota).min(quota);
            }
            if next_period <= now {
                next_period = now.after(PERIOD);
                for pool in &all {
                    pool.end_period();
                }
            }
        }
        let is_scarce = database_limit::grant(&all);
        let round = next_round.remaining();
        let mut retries = false;
        for pool in &all {
            retries |= pool.retry();
        }
        let wait = if is_scarce || retries {
            round.min(SCARCE_ROUND)
        } else {
            round
        };
        select! {
            recv(home) -> _ => return,
            recv(pools.rung) -> _ => {}
            default(wait) => {}
        }
    }
}

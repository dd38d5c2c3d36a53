//! The thread that looks after idle connections: closes those whose time has come, keeps the minimum
//! warm, and ends the periods of the averages.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::pools::Pools;
use super::totals::PERIOD;
use crate::net::clock::Moment;
use crate::net::thread;

/// How often the janitor makes its round for connections that are missing.
const ROUND: Duration = Duration::from_secs(1);

/// The janitor at work; dropping it sends it home.
#[derive(Debug)]
pub struct Janitor {
    _home: Sender<()>,
}

impl Janitor {
    /// Starts the janitor: every `cycle` it closes up to `at_most` connections over all pools, without
    /// limit if that is 0.
    ///
    /// # Errors
    /// If its thread cannot be started.
    pub fn start(pools: Arc<Pools>, cycle: Duration, at_most: usize) -> io::Result<Janitor> {
        let (home, called_home) = bounded(0);
        std::thread::Builder::new()
            .stack_size(256 * 1024)
            .spawn(move || {
                thread::name("janitor");
                work(&pools, cycle, at_most, &called_home);
            })?;
        Ok(Janitor { _home: home })
    }
}

fn work(pools: &Pools, cycle: Duration, at_most: usize, home: &Receiver<()>) {
    let mut next_cycle = Moment::now().after(cycle);
    let mut next_period = Moment::now().after(PERIOD);
    let mut first = 0;
    loop {
        let now = Moment::now();
        let mut quota = 0;
        if next_cycle <= now {
            next_cycle = now.after(cycle);
            quota = if at_most == 0 { usize::MAX } else { at_most };
        }
        let mut all = pools.all();
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
        match home.recv_timeout(ROUND) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

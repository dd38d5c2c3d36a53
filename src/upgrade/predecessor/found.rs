//! What the predecessor sends of its pools: their state, and what the configuration does not say of them.
//!
//! Invariant: when a session is given, the successor knows its pool, and what its client has proved to have.

use std::io;
use std::sync::Arc;

use super::super::messages::{self, FoundPool, FoundUsers, Message, Pool};
use super::HandOver;
use crate::auth::Proof;
use crate::net::fd_channel::FdChannel;
use crate::pool::pool;
use crate::pool::pool_config::Origin;
use crate::session::shared::Shared;

/// Users in one message.
const TOGETHER: usize = 1000;

impl HandOver<'_> {
    /// Gives the state of a pool. What it does from then on follows as a difference.
    pub(super) fn give_pool(&mut self, pool: &Arc<pool::Pool>) -> io::Result<()> {
        pool.set_leaving(true);
        let now = pool.snapshot();
        let proof = pool.proof();
        self.given_pools
            .insert(Arc::as_ptr(pool) as usize, proof.is_some());
        let found = (now.config.origin != Origin::Configured).then(|| FoundPool {
            verifier: now.config.login.verifier().cloned(),
        });
        if !self
            .sent_work
            .iter()
            .any(|(told, _)| Arc::ptr_eq(told, pool))
        {
            self.sent_work.push((Arc::clone(pool), now.totals.all));
        }
        let (proved, password) = match proof {
            Some(Proof::Key(key)) => (Some(key), None),
            Some(Proof::Password(password)) => (None, Some(password)),
            None => (None, None),
        };
        let message = Message::Pool(Box::new(Pool {
            database: pool.database.clone(),
            user: pool.user.clone(),
            paused: now.paused,
            totals: now.totals,
            proved,
            password,
            connections: now.idle + now.in_use + now.connecting,
            leads_to: now.config.leads_to(),
            found,
        }));
        messages::queue(&mut self.channel, &message, Vec::new())
    }

    /// Gives a pool that was made since the others were given, or whose first client has logged in since.
    pub(super) fn give_pool_if_news(&mut self, pool: &Arc<pool::Pool>) -> io::Result<()> {
        let given = self.given_pools.get(&(Arc::as_ptr(pool) as usize));
        match given {
            Some(true) => Ok(()),
            Some(false) if pool.proof().is_none() => Ok(()),
            Some(false) | None => self.give_pool(pool),
        }
    }
}

/// Gives the users that `auth_query` has found, so that they need not be asked for again.
pub(super) fn give_users(shared: &Shared, channel: &mut FdChannel) -> io::Result<()> {
    for (pool, lookup) in shared.lookups.all() {
        let mut all = lookup.all_found().into_iter().filter_map(|(user, answer)| {
            let verifier = answer.verifier?;
            Some((user, verifier, answer.asked_at))
        });
        loop {
            let users: Vec<_> = all.by_ref().take(TOGETHER).collect();
            if users.is_empty() {
                break;
            }
            let pool = pool.clone();
            let message = Message::Found(FoundUsers { pool, users });
            messages::queue(channel, &message, Vec::new())?;
        }
    }
    Ok(())
}

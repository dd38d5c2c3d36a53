//! What the successor takes of the predecessor's pools: their state, and what the configuration does not say of them.
//!
//! Invariant: a pool that the successor's configuration leaves no room for is not made.

use std::sync::Arc;

use super::super::messages::{FoundUsers, Pool};
use crate::auth::found::Answer;
use crate::pool::pool;
use crate::pool::pool_configs;
use crate::session::shared::Shared;

/// Takes the state of a pool, which is made if the configuration does not name it.
pub(super) fn take_pool(shared: &Shared, told: &Pool) {
    if let Some(pool) = shared.pools.find(&told.database, &told.user) {
        inherit(&pool, told);
    } else if let Some(pool) = make(shared, told) {
        inherit(&pool, told);
    }
}

/// The same, once sessions are served here: a pool that is there goes on as it is.
pub(super) fn take_late_pool(shared: &Shared, told: &Pool) {
    let there = shared.pools.find(&told.database, &told.user);
    let pool = match there {
        Some(pool) => pool,
        None => {
            if let Some(pool) = make(shared, told) {
                inherit(&pool, told);
            }
            return;
        }
    };
    if let (Some(proof), None) = (told.proof(), pool.proof()) {
        pool.note_proof(proof);
    }
}

fn inherit(pool: &pool::Pool, told: &Pool) {
    pool.inherit(
        told.totals.clone(),
        told.paused,
        told.proof(),
        told.connections,
        told.leads_to == pool.config().leads_to(),
    );
}

fn make(shared: &Shared, told: &Pool) -> Option<Arc<pool::Pool>> {
    let verifier = told.found.as_ref()?.verifier.as_ref();
    let settings = shared.settings();
    let (key, config) = pool_configs::found(&settings, &told.database, &told.user, verifier)?;
    // Its sessions look for it under the name that it has had.
    let key = (key.0, told.user.clone());
    shared.pools.ensure(&key, config, usize::MAX).ok()
}

/// Takes users that `auth_query` has found, if it is asked here, too.
pub(super) fn take_users(shared: &Shared, found: &FoundUsers) {
    let Some(lookup) = shared.lookups.of(&found.pool) else {
        return;
    };
    for (user, verifier, asked_at) in &found.users {
        let answer = Answer {
            verifier: Some(verifier.clone()),
            asked_at: *asked_at,
        };
        lookup.remember(user, answer);
    }
}

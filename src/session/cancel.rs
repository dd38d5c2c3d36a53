//! A CancelRequest: what it means for the session it names, wherever that session is.
//!
//! PostgreSQL is asked to cancel what the session's backend runs, or the session leaves the queue. While
//! two processes share the clients, a session that is not here may be in the other one: the request is
//! passed on, at most there and back.

use std::sync::Arc;
use std::time::Duration;

use super::registry::{Cancel, CancelKey, Handle};
use super::shared::Shared;
use crate::net::clock::MonotonicTime;
use crate::pool::pool_configs::server_sockets;
use crate::server::backend::BackendKey;
use crate::server::cancel;

/// How long a CancelRequest may take to reach PostgreSQL.
const LIMIT: Duration = Duration::from_secs(5);

/// How long a session may take to get its thread.
const THREAD_WAIT: Duration = Duration::from_secs(1);

/// How often it is looked whether it has it.
const LOOK: Duration = Duration::from_millis(2);

/// Cancels what the session with this key is doing. False if it is not here: the session is unknown, or
/// on its way to another process.
pub fn cancel(shared: &Shared, key: &CancelKey) -> bool {
    let Some(handle) = shared.sessions.by_cancel_key(key) else {
        return false;
    };
    let deadline = MonotonicTime::now().after(THREAD_WAIT);
    loop {
        match handle.cancel() {
            Cancel::Send(backend) => {
                send(shared, &handle, &backend);
                return true;
            }
            Cancel::Done => return true,
            Cancel::Away if shared.is_handing_over() || deadline <= MonotonicTime::now() => {
                return false;
            }
            Cancel::Away => std::thread::sleep(LOOK),
        }
    }
}

/// [`cancel()`], or passes the request on to the process that may have the session.
pub fn cancel_anywhere(shared: &Shared, key: CancelKey) {
    if !cancel(shared, &key) {
        cancel_elsewhere(shared, key);
    }
}

/// Passes a CancelRequest for a session that is not here on to the process that may have it. Never waits.
pub(crate) fn cancel_elsewhere(shared: &Shared, key: CancelKey) {
    if !shared.pass_on(key) {
        log::debug!("cancel request for no session of ours");
    }
}

fn send(shared: &Shared, handle: &Arc<Handle>, backend: &BackendKey) {
    let sockets = server_sockets(&shared.settings().general);
    let config = shared.pools.find(&handle.info.database, &handle.info.user);
    let config = config.map(|pool| pool.config());
    let way = cancel::Way {
        encryption: config.as_ref().map(|config| &config.encryption),
        host: config.as_ref().map_or("", |config| &config.host),
        sockets: &sockets,
    };
    let sent = cancel::send(backend, way, LIMIT);
    handle.cancel_done(backend, sent.is_ok());
    match sent {
        Ok(()) => log::info!(
            "{} cancel request forwarded to {} pid={}",
            handle.tag(),
            backend.address,
            backend.process_id
        ),
        Err(error) => log::warn!(
            "{} cancel request could not be forwarded to {} pid={}: {error}",
            handle.tag(),
            backend.address,
            backend.process_id
        ),
    }
}

//! A CancelRequest: what it means for the session it names, wherever that session is.
//!
//! PostgreSQL is asked to cancel what the session's backend runs, or the session leaves the queue. While
//! two processes share the clients, a session that is not here may be in the other one: the request is
//! passed on, at most there and back.

use std::sync::Arc;
use std::time::Duration;

use super::house::House;
use super::registry::{Cancel, CancelKey, Handle};
use crate::net::clock::Moment;
use crate::pool::plans::server_sockets;
use crate::server::backend::BackendKey;
use crate::server::cancel;

/// How long a CancelRequest may take to reach PostgreSQL.
const LIMIT: Duration = Duration::from_secs(5);

/// How long a session may take to get its thread.
const SEATING: Duration = Duration::from_secs(1);

/// How often it is looked whether it has it.
const LOOK: Duration = Duration::from_millis(2);

/// Cancels what the session with this key is doing. False if it is not here: the session is unknown, or
/// on its way to another process.
pub fn cancel(house: &House, key: &CancelKey) -> bool {
    let Some(handle) = house.sessions.by_cancel_key(key) else {
        return false;
    };
    let deadline = Moment::now().after(SEATING);
    loop {
        match handle.cancel() {
            Cancel::Send(backend) => {
                send(house, &handle, &backend);
                return true;
            }
            Cancel::Done => return true,
            Cancel::Away if house.is_moving() || deadline <= Moment::now() => return false,
            Cancel::Away => std::thread::sleep(LOOK),
        }
    }
}

/// [`cancel`], or passes the request on to the process that may have the session.
pub fn cancel_anywhere(house: &House, key: CancelKey) {
    if !cancel(house, &key) {
        cancel_elsewhere(house, key);
    }
}

/// Passes a CancelRequest for a session that is not here on to the process that may have it. Never waits.
pub(super) fn cancel_elsewhere(house: &House, key: CancelKey) {
    if !house.pass_on(key) {
        log::debug!("cancel request for no session of ours");
    }
}

fn send(house: &House, handle: &Arc<Handle>, backend: &BackendKey) {
    let sockets = server_sockets(&house.settings().general);
    let plan = house.pools.find(&handle.who.database, &handle.who.user);
    let plan = plan.map(|pool| pool.plan());
    let way = cancel::Way {
        encryption: plan.as_ref().map(|plan| &plan.encryption),
        host: plan.as_ref().map_or("", |plan| &plan.host),
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

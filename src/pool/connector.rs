//! The thread that makes one connection for a pool and hands it in.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::database_limit::Permit;
use super::pool::Pool;
use crate::net::thread;
use crate::server::login::{self, ConnectError};
use crate::server::target::Target;

/// Bytes of stack: name resolution by plug-ins of the C library needs the most.
const STACK: usize = 512 * 1024;

/// Starts a thread that connects to `target` and hands the outcome to the pool. Connections it makes
/// belong to `epoch` and keep the permit.
///
/// # Errors
/// If the thread cannot be started.
pub(super) fn start(
    pool: &Arc<Pool>,
    target: Target,
    number: u64,
    epoch: u64,
    permit: Permit,
) -> io::Result<()> {
    let pool = Arc::clone(pool);
    thread::spawn(STACK, move || {
        thread::name(&format!("s{number} {}@{}", pool.user, pool.database));
        // The pool counts on an outcome, also if this panics.
        let mut made = catch_unwind(AssertUnwindSafe(|| login::connect(&target, number)))
            .unwrap_or_else(|_| {
                Err(ConnectError::Broken(
                    "an error in the pooler itself (a panic, see above)".into(),
                ))
            });
        if let Ok(connection) = &mut made {
            connection.backend.permit = Some(Box::new(permit));
            log::info!(
                "[{}@{}] new server connection #{number} to {target} pid={}",
                pool.user,
                pool.database,
                connection.backend.key.process_id
            );
        } else {
            drop(permit);
        }
        // If no connection could be made, its permit is free by now.
        pool.connected(made, &target, epoch);
    })
}

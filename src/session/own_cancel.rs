//! Cancelling what a client that is gone has left running, in threads beside those that drive sessions.
//!
//! Invariant: a request counts as under way from [`OwnCancels::begin`] until PostgreSQL has dealt with it or the time
//! is up. Then the session is woken.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, unbounded};

use super::registry::Handle;
use crate::net::thread;
use crate::pool::pool_config::PoolConfig;
use crate::server::backend::BackendKey;
use crate::server::cancel;

/// Threads that send such requests at a time, and their stacks.
const WORKERS: usize = 16;
const STACK: usize = 128 * 1024;

/// How long a thread waits for the next one.
const LINGER: Duration = Duration::from_millis(100);

/// One request.
#[derive(Debug)]
pub(super) struct OwnCancel {
    handle: Arc<Handle>,
    backend: Arc<BackendKey>,
    config: Arc<PoolConfig>,
    limit: Duration,
}

impl OwnCancel {
    /// A request for what the session runs on its backend, to be done within `limit`.
    pub(super) fn new(
        handle: Arc<Handle>,
        backend: Arc<BackendKey>,
        config: Arc<PoolConfig>,
        limit: Duration,
    ) -> OwnCancel {
        OwnCancel {
            handle,
            backend,
            config,
            limit,
        }
    }

    fn send(self) {
        let config = &self.config;
        let way = cancel::Way {
            encryption: Some(&config.encryption),
            host: &config.host,
            sockets: &config.sockets,
        };
        let sent = cancel::send(&self.backend, way, self.limit);
        self.done(sent.map_err(|error| error.to_string()));
    }

    fn done(self, sent: Result<(), String>) {
        if let Err(why) = &sent {
            log::warn!(
                "{} could not cancel the query of a client that is gone, pid={}: {why}",
                self.handle.tag(),
                self.backend.process_id
            );
        }
        self.handle.cancel_done(&self.backend, sent.is_ok());
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct OwnCancels {
    requests: (Sender<OwnCancel>, Receiver<OwnCancel>),
    workers: AtomicUsize,
}

impl Default for OwnCancels {
    fn default() -> OwnCancels {
        OwnCancels {
            // No more are in it than there are sessions.
            requests: unbounded(),
            workers: AtomicUsize::new(0),
        }
    }
}

impl OwnCancels {
    /// Sends a request, soon.
    pub(super) fn begin(self: &Arc<OwnCancels>, request: OwnCancel) {
        request.backend.cancel_begins();
        let _ = self.requests.0.send(request);
        if self.workers.fetch_add(1, Ordering::SeqCst) >= WORKERS {
            self.workers.fetch_sub(1, Ordering::SeqCst);
            return;
        }
        let own = Arc::clone(self);
        let started = thread::spawn(STACK, move || own.work());
        if let Err(error) = started {
            if self.workers.fetch_sub(1, Ordering::SeqCst) == 1 {
                for request in self.requests.1.try_iter() {
                    request.done(Err(format!("no thread for it: {error}")));
                }
            }
        }
    }

    fn work(&self) {
        thread::name("cancel");
        while let Ok(request) = self.requests.1.recv_timeout(LINGER) {
            request.send();
        }
        self.workers.fetch_sub(1, Ordering::SeqCst);
        // A caller that saw as many threads as there may be has left its request to this one.
        for request in self.requests.1.try_iter() {
            request.send();
        }
    }
}

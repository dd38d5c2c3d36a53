//! Start-up: signals are blocked, listening sockets bound or taken over, the shared state made, and clients accepted
//! last.
//!
//! What happens from then on is in [`main_loop`](crate::daemon::main_loop).

use std::io::{self, IsTerminal};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use crossbeam::channel::{Sender, unbounded};
use nix::sys::signal::{SigSet, Signal};
use thiserror::Error;

use super::main_loop::{Event, MainLoop, ProcessControl, Upgrade};
use super::notify::Notify;
use super::pidfile::{self, PidFile};
use super::status_file::{StatusFile, UpgradeState};
use crate::admin::console::AdminConsole;
use crate::auth::MockSecret;
use crate::client::client_threads::ClientThreads;
use crate::config::{General, Settings, Web};
use crate::log::logging;
use crate::net::address::Address;
use crate::net::listener::{Listener, Sharing};
use crate::net::unix_listener::{SocketFile, bind_unix};
use crate::net::{limits, thread, wait};
use crate::pool::janitor::{Janitor, Rule};
use crate::session::shared::Shared;
use crate::upgrade::launch::Origin;
use crate::upgrade::successor::InheritedState;

/// Descriptors the process needs beside those of its clients and servers.
const SPARE_DESCRIPTORS: u64 = 64;

/// Connections the kernel may hold unless told otherwise, at least: one too many waits for a second.
const LEAST_BACKLOG: usize = 1024;

/// Connections to the metrics that the kernel may hold.
const WEB_BACKLOG: i32 = 64;

/// Those that an upgrade needs in addition, while sessions are under way.
const IN_FLIGHT: u64 = 512;

/// Descriptors that room is made for beforehand, at most: 8 bytes of kernel memory each.
const MAX_ROOM: u64 = 64 * 1024;

/// The variable that makes SIGINT a shutdown also without a terminal.
const SHUTDOWN_ONLY: &str = "PG_DOORMAN_CI_SHUTDOWN_ONLY";

/// Why the process could not begin to serve, with its exit code (`sysexits.h`).
#[derive(Debug, Error)]
#[error("{why}")]
pub struct StartError {
    /// The exit code.
    pub code: u8,
    /// Why, in a sentence for the operator.
    pub why: String,
}

impl StartError {
    /// EX_OSERR: the operating system refuses something.
    pub const OS: u8 = 71;
    /// EX_CONFIG: the configuration asks for what cannot be had.
    pub const CONFIG: u8 = 78;
}

fn cannot(code: u8) -> impl FnOnce(io::Error) -> StartError {
    move |error| StartError {
        code,
        why: error.to_string(),
    }
}

fn no_thread(error: io::Error) -> StartError {
    StartError {
        code: StartError::OS,
        why: format!("no thread can be started: {error}; raise the limit (ulimit -u, TasksMax=)"),
    }
}

/// What a process starts from.
pub struct Start {
    /// The settings.
    pub settings: Settings,
    /// How the process was started.
    pub origin: Origin,
    /// A listening socket to use instead of `host` and `port`.
    pub listener: Option<OwnedFd>,
    /// The hand-over, if there is a predecessor.
    pub hand_over: Option<OwnedFd>,
    /// Whether this is a daemon.
    pub daemon: bool,
    /// Its pid file, if not as the configuration says.
    pub pid_file: Option<PathBuf>,
    /// The process that has started this one.
    pub started_by: u32,
}

fn taken_signals() -> SigSet {
    let mut set = SigSet::empty();
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ] {
        set.add(signal);
    }
    set
}

/// Starts the process: what it needs is made in an order in which nothing has to be undone for a client, and clients
/// are accepted last.
///
/// # Errors
/// [`StartError`].
pub(super) fn start_process(start: Start) -> Result<MainLoop, StartError> {
    let Start {
        settings,
        origin,
        listener,
        hand_over,
        daemon,
        pid_file,
        started_by,
    } = start;
    let signals = taken_signals();
    wait::prepare_process(&signals).map_err(cannot(StartError::OS))?;
    log::info!(
        "Welcome to PgDoorman! (Version {})",
        env!("CARGO_PKG_VERSION")
    );
    for warning in &settings.warnings {
        log::warn!("{warning}");
    }
    if nix::unistd::geteuid().is_root() {
        log::warn!(
            "running as root: a fault in the pooler would give away the whole machine; \
             run it as a user of its own"
        );
    }
    check_descriptors(&settings);
    let general = settings.general.clone();
    let web = settings.web.clone();
    let config_file = settings.path.clone();
    let upgrade_state = match hand_over {
        Some(_) => UpgradeState::TakingOver,
        None => UpgradeState::Serving,
    };
    let status_file = StatusFile::open(origin.program(), &config_file, upgrade_state)
        .map_err(cannot(StartError::OS))?;
    let notify = Notify::from_environment().map_err(cannot(StartError::OS))?;
    let pid_path = match (daemon, pid_file.or(general.daemon_pid_file.clone())) {
        (false, _) => None,
        (true, Some(path)) => Some(path),
        (true, None) => Some(pidfile::usual_path().map_err(cannot(StartError::CONFIG))?),
    };
    let announce = |fd| InheritedState::announce(fd, pid_path.as_deref());
    let mut inherited = match hand_over.map(announce) {
        // The predecessor has given this process up and goes on serving.
        Some(Err(error)) => {
            return Err(StartError {
                code: 1,
                why: format!("the hand-over was broken off: {error}"),
            });
        }
        Some(Ok(inherited)) => Some(inherited),
        None => None,
    };
    let (shared, listeners, socket_file) = match &mut inherited {
        Some(inherited) => {
            if let Some(Err(error)) = inherited.log_filter().map(logging::set_filter) {
                log::warn!("the predecessor's log level is not understood here: {error}");
            }
            let listeners = std::mem::take(&mut inherited.listeners);
            let file = listeners
                .iter()
                .find_map(|listener| match listener.address() {
                    Address::Unix(path) => SocketFile::adopt(path).ok(),
                    Address::Tcp(_) => None,
                });
            (inherited.shared(settings), listeners, file)
        }
        None => {
            let (listeners, file) = bind(&general, listener, started_by)?;
            let mock = MockSecret::random().map_err(|error| StartError {
                code: 1,
                why: format!("no randomness: {error}"),
            })?;
            (Shared::new(settings, mock), listeners, file)
        }
    };
    let given = inherited.as_mut();
    let given = given.map(|inherited| std::mem::take(&mut inherited.web_listeners));
    *shared.web_listeners.lock() = web_listeners(&web, &general, given, started_by)?;
    thread::restore_priority();
    let (sender, events) = unbounded();
    start_signal_thread(signals, sender.clone()).map_err(no_thread)?;
    let lever = ProcessControl {
        events: sender.clone(),
    };
    let console = AdminConsole::new(Arc::clone(&shared), Box::new(lever));
    let _ = shared.console.set(Arc::new(console));
    let janitor = start_janitor(&shared).map_err(no_thread)?;
    let client_threads = start_reception(&shared).map_err(no_thread)?;
    // Nothing after this can fail and end clients that were accepted or came from the predecessor.
    client_threads.pause();
    // The last check before clients are accepted: no other instance may run.
    let pid = std::process::id();
    let pid_file = match (&pid_path, inherited.is_some()) {
        (None, _) => None,
        (Some(path), true) => Some(PidFile::adopt(path, pid)),
        (Some(path), false) => {
            let file = PidFile::write(path, pid);
            Some(file.map_err(|error| StartError {
                code: StartError::OS,
                why: error.to_string(),
            })?)
        }
    };
    let opened = listeners.into_iter().try_for_each(|listener| {
        log::info!("Running on {}", listener.address());
        client_threads.open(listener)
    });
    if let Err(error) = opened {
        // What could not be removed is found to be stale by the next one who starts.
        let _ = pid_file.as_ref().map(PidFile::remove_if_mine);
        return Err(no_thread(error));
    }
    let upgrade = match inherited {
        Some(inherited) => {
            let tell = sender.clone();
            let on_end = move |lives| drop(tell.send(Event::TookOver(lives)));
            inherited
                .receive(Arc::clone(&shared), Arc::clone(&client_threads), on_end)
                .map_err(no_thread)?;
            Upgrade::TakingOver
        }
        None => Upgrade::Idle,
    };
    if let Err(error) = crate::web::http::start(&shared) {
        log::error!("metrics are not served, no thread can be started: {error}");
    }
    client_threads.resume();
    log::info!("Accepting connections");
    let shutdown_only = std::env::var_os(SHUTDOWN_ONLY).is_some_and(|value| value == "1");
    Ok(MainLoop {
        shared,
        config_file,
        events,
        sender,
        client_threads,
        origin,
        at_terminal: shutdown_only || !daemon && io::stdin().is_terminal(),
        upgrade,
        requester: Arc::default(),
        control: Arc::default(),
        shutdown_wanted: false,
        upgrade_wanted: false,
        successor: Arc::default(),
        successors_pid_file: Arc::default(),
        notify,
        status_file,
        pid_file,
        socket_file,
        _janitor: janitor,
    })
}

/// Starts the threads in reserve and that of the first shared set.
fn start_reception(shared: &Arc<Shared>) -> io::Result<Arc<ClientThreads>> {
    let limit = limits::threads();
    thread::limit(limit.of_all);
    let client_threads = ClientThreads::new(Arc::clone(shared), limit.most)?;
    log::info!("No more than {limit}");
    Ok(client_threads)
}

fn start_janitor(shared: &Arc<Shared>) -> io::Result<Janitor> {
    let pools = Arc::clone(&shared.pools);
    let shared = Arc::clone(shared);
    Janitor::start(
        pools,
        Box::new(move || {
            let general = &shared.settings().general;
            Rule {
                cycle: general.retain_connections_time,
                at_most: general.retain_connections_max,
                autodb_idle_timeout: general.autodb_idle_timeout,
            }
        }),
    )
}

/// Binds what the configuration says, or takes the listening socket that was passed.
fn bind(
    general: &General,
    inherited: Option<OwnedFd>,
    started_by: u32,
) -> Result<(Vec<Listener>, Option<SocketFile>), StartError> {
    let backlog = general
        .backlog
        .map_or(general.max_connections.max(LEAST_BACKLOG), |n| n as usize);
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    let mut listeners = match inherited {
        Some(fd) => vec![Listener::inherit(fd).map_err(cannot(StartError::CONFIG))?],
        None => {
            let sharing = Sharing {
                all: general.so_reuseport,
                with: started_by,
            };
            Listener::bind_tcp(&general.host, general.port, backlog, sharing)
                .map_err(cannot(StartError::CONFIG))?
        }
    };
    let mut socket_file = None;
    if let Some(directory) = &general.unix_socket_dir {
        let mode = general.unix_socket_mode;
        let (listener, file) =
            bind_unix(directory, general.port, mode, backlog).map_err(cannot(StartError::OS))?;
        listeners.push(listener);
        socket_file = Some(file);
    }
    Ok((listeners, socket_file))
}

/// The listening sockets of the metrics: those that the predecessor has given, or else new ones. A successor goes on
/// without if they cannot be bound.
fn web_listeners(
    web: &Web,
    general: &General,
    given: Option<Vec<Listener>>,
    started_by: u32,
) -> Result<Vec<Arc<Listener>>, StartError> {
    if !web.enabled {
        return Ok(Vec::new());
    }
    let is_successor = given.is_some();
    let mut listeners = given.unwrap_or_default();
    if listeners.is_empty() {
        let sharing = Sharing {
            all: general.so_reuseport,
            with: started_by,
        };
        let host = std::slice::from_ref(&web.host);
        listeners = match Listener::bind_tcp(host, web.port, WEB_BACKLOG, sharing) {
            Ok(listeners) => listeners,
            Err(error) if is_successor => {
                log::error!("metrics are not served: {error}");
                Vec::new()
            }
            Err(error) => return Err(cannot(StartError::CONFIG)(error)),
        };
    }
    for listener in &listeners {
        log::info!("Serving metrics on {}", listener.address());
    }
    Ok(listeners.into_iter().map(Arc::new).collect())
}

fn check_descriptors(settings: &Settings) {
    let servers: usize = settings
        .pools
        .values()
        .flat_map(|pool| &pool.users)
        .map(|user| user.pool_size)
        .sum();
    let wanted = (settings.general.max_connections + servers) as u64 + SPARE_DESCRIPTORS;
    let limit = match super::descriptors::raise_limit() {
        Ok((_, limit)) => limit,
        Err(error) => return log::warn!("could not raise the limit of open files: {error}"),
    };
    if limit < wanted {
        log::warn!(
            "the limit of open files is {limit}; max_connections and all pool sizes together need {wanted}. \
             Raise it (ulimit -n, LimitNOFILE=) or lower max_connections"
        );
    }
    let room = (wanted + IN_FLIGHT).min(limit).min(MAX_ROOM);
    if let Err(error) = super::descriptors::make_room(room) {
        log::debug!("no room for {room} descriptors: {error}");
    }
}

fn start_signal_thread(signals: SigSet, events: Sender<Event>) -> io::Result<()> {
    std::thread::Builder::new()
        .stack_size(64 * 1024)
        .spawn(move || {
            thread::name("signals");
            while let Ok(signal) = signals.wait() {
                if events.send(Event::Signal(signal)).is_err() {
                    return;
                }
            }
        })
        .map(drop)
}

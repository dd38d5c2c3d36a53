//! A thread's work for one client: log it in, drive its session, and say in the log how it ended; or hand
//! the session on if it is to move.

use std::sync::Arc;
use std::time::Duration;

use super::acceptor::Command;
use super::client_threads::{AcceptGuard, ClientThreads};
use super::login::{self, Rejected};
use super::login_permit::LoginPermit;
use super::new_connection::NewConnection;
use crate::net::address::Address;
use crate::net::clock::MonotonicTime;
use crate::net::exchange::{Exchange, ExchangeError};
use crate::net::thread;
use crate::session::brief_read::Pace;
use crate::session::checkout::{GivenBack, Spare};
use crate::session::client::{Client, ClientKind, ConsoleSession, Reply};
use crate::session::close_reason::CloseReason;
use crate::session::console::{self, ConsoleEnd, Rights};
use crate::session::driver::Driver;
use crate::session::registry::{Handle, signals};
use crate::session::shared::{Shared, Stage};
use crate::session::suspend::Stop;

/// Serves one connection from its first packet until its client is logged in, or gone. `in_reserve`: this is
/// the thread in reserve, and there is no other.
pub(super) fn log_in(
    client_threads: &ClientThreads,
    connection: NewConnection,
    permit: LoginPermit,
    arriving: AcceptGuard,
    in_reserve: bool,
) -> Option<Client> {
    let shared = &client_threads.shared;
    let id = shared.sessions.next_id();
    thread::name(&format!("c{id} login"));
    let address = connection.opening.address.clone();
    let unix = matches!(address, Address::Unix(_));
    permit.runs_here();
    let logging_in = shared.login_begins(id);
    drop(arriving);
    let outcome = login::log_in(client_threads, id, connection, permit, in_reserve);
    // If it has logged in it is in the registry by now: it is never in neither.
    drop(logging_in);
    match outcome {
        Ok(client) => {
            if shared.settings().general.log_client_connections {
                let kind = match &client.handle().info.tls {
                    Some(tls) => format!("TLS, {tls}"),
                    None if unix => "unix".to_owned(),
                    None => "plain".to_owned(),
                };
                log::info!(
                    "{} client connected from {address} ({kind})",
                    client.handle().tag()
                );
            }
            Some(client)
        }
        Err(Rejected { refusal, socket }) => {
            client_threads.rejections.note(Some(id), &address, &refusal);
            if let Some(socket) = socket {
                client_threads.tell_acceptor(Command::Linger(socket, address));
            }
            None
        }
    }
}

/// How a thread has come to have no guest.
enum ThreadExit {
    /// It has left, or somebody else has it. What is kept of it is for the next.
    Gone(Option<Spare>),
    /// It is to move.
    Parked(Client),
}

/// Serves a guest until it leaves, or until it moves: then it is handed to whoever moves it. A server connection
/// may come from the guest before and stay for the next.
pub(super) fn run_client(
    shared: &Arc<Shared>,
    mut client: Client,
    spare: Option<Spare>,
) -> Option<Spare> {
    // At the console it would be held for as long as the session lasts.
    let mut spare = spare.filter(|_| matches!(client.kind, ClientKind::Pool(_)));
    loop {
        let parked = match serve_until_parked(shared, client, spare.take()) {
            ThreadExit::Gone(spare) => return spare,
            ThreadExit::Parked(client) => client,
        };
        if parked.awaits_reply() {
            if let Some(console) = shared.console.get() {
                console.upgrade(parked);
            }
            return None;
        }
        // Whoever was to move it has given up in the meantime: it goes on here.
        match shared.hand_in(parked) {
            Ok(()) => return None,
            Err(back) => client = *back,
        }
    }
}

fn serve_until_parked(
    shared: &Arc<Shared>,
    mut client: Client,
    mut spare: Option<Spare>,
) -> ThreadExit {
    let handle = Arc::clone(client.handle());
    thread::name(&format!(
        "c{} {}@{}",
        handle.info.id, handle.info.user, handle.info.database
    ));
    let mut pace = Pace::new(MonotonicTime::now());
    let (entry, client_permit, text, trouble) = loop {
        let Client {
            entry,
            client_permit,
            kind,
        } = client;
        let detached = match kind {
            ClientKind::Pool(detached) => detached,
            ClientKind::Console(console) => match serve_console(shared, &handle, console) {
                Ok(text) => break (entry, client_permit, text, false),
                Err(kind) => {
                    return ThreadExit::Parked(Client {
                        entry,
                        client_permit,
                        kind,
                    });
                }
            },
        };
        let driver = Driver::new(
            Arc::clone(shared),
            Arc::clone(&handle),
            detached,
            pace,
            spare.take(),
        );
        match driver.run() {
            Stop::Closed(close_reason) => {
                break (
                    entry,
                    client_permit,
                    close_reason.to_string(),
                    close_reason.is_trouble(),
                );
            }
            Stop::HandOver(detached) => {
                let kind = ClientKind::Pool(detached);
                return ThreadExit::Parked(Client {
                    entry,
                    client_permit,
                    kind,
                });
            }
            Stop::Idle(detached, so_far, given_back, until) => {
                pace = so_far;
                let watch = detached.client.watch();
                let kind = ClientKind::Pool(detached);
                client = Client {
                    entry,
                    client_permit,
                    kind,
                };
                let kept = match given_back {
                    GivenBack::Kept(spare) => Some(Some(spare)),
                    GivenBack::Free => Some(None),
                    // Those who have a thread wait for server connections already.
                    GivenBack::Handed => None,
                };
                if let Some(kept) = kept.filter(|_| shared.lobby.is_crowded()) {
                    // Somebody has something to say and no thread.
                    match shared.lobby.enter(client) {
                        Ok(()) => return ThreadExit::Gone(kept),
                        Err(back) => client = *back,
                    }
                }
                match handle.bed.sleep(client, watch, until) {
                    Some(back) => client = back,
                    None => return ThreadExit::Gone(None),
                }
            }
        }
    };
    let line = format!(
        "{} client disconnected from {}: {text}, session={:?}",
        handle.tag(),
        handle.info.address,
        handle.info.connected_at.elapsed()
    );
    if trouble {
        log::warn!("{line}");
    } else if shared.settings().general.log_client_disconnections {
        log::info!("{line}");
    } else {
        log::debug!("{line}");
    }
    drop(entry);
    drop(client_permit);
    ThreadExit::Gone(None)
}

/// Serves a console session.
///
/// # Errors
/// The session, if it is to move or to rest.
fn serve_console(
    shared: &Arc<Shared>,
    handle: &Arc<Handle>,
    console_session: ConsoleSession,
) -> Result<String, ClientKind> {
    handle.driven_here();
    handle.at_rest();
    let rights = console_session.rights;
    let must_stop = || {
        shared.stage() == Stage::Stopping
            || handle.signals() & (signals::HAND_OVER | signals::STOP) != 0
    };
    let mut exchange = Exchange {
        stream: console_session.client,
        inbox: console_session.unread,
        deadline: None,
        must_stop: &must_stop,
    };
    if let Reply::Owed(reply) = console_session.reply {
        if let Err(broken) = exchange.send(&reply) {
            return Ok(broken.to_string());
        }
    }
    let Some(console) = shared.console.get() else {
        return Ok("there is no console".to_owned());
    };
    let (text, close_reason) = match console::serve(&mut exchange, &**console, rights) {
        ConsoleEnd::Left => ("client sent Terminate".to_owned(), CloseReason::Left),
        ConsoleEnd::Broken(ExchangeError::Interrupted) if shared.stage() != Stage::Stopping => {
            return Err(rest(exchange, rights, Reply::Given));
        }
        ConsoleEnd::Rests => return Err(rest(exchange, rights, Reply::Awaited)),
        ConsoleEnd::Broken(ExchangeError::Interrupted) => {
            ("the pooler stops".to_owned(), CloseReason::Stopped)
        }
        ConsoleEnd::Broken(broken) => (broken.to_string(), CloseReason::Left),
        ConsoleEnd::Violation(what) => (what, CloseReason::Left),
    };
    let limit = shared.patience_at_the_end(Duration::from_secs(2));
    exchange.stream.finish(&close_reason.message(), limit);
    Ok(text)
}

fn rest(exchange: Exchange<'_>, rights: Rights, reply: Reply) -> ClientKind {
    ClientKind::Console(ConsoleSession {
        client: exchange.stream,
        rights,
        unread: exchange.inbox,
        reply,
    })
}

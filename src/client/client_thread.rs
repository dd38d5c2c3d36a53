//! A thread's work for one client: log it in, drive its session or serve it at the console; or hand it on if it is to
//! move, or joins a set.

use std::sync::Arc;
use std::time::Duration;

use super::acceptor::Command;
use super::client_threads::{AcceptGuard, ClientThreads};
use super::login::{self, Rejected};
use super::login_permit::LoginPermit;
use super::new_connection::NewConnection;
use crate::net::address::Address;
use crate::net::exchange::{Exchange, ExchangeError};
use crate::net::thread;
use crate::session::client::{Client, ClientKind, ConsoleSession, Reply};
use crate::session::close_reason::CloseReason;
use crate::session::console::{self, ConsoleEnd, Rights};
use crate::session::driven::{Driven, Left, note_end};
use crate::session::registry::{Handle, signals};
use crate::session::shared::{Shared, Stage};

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

/// Drives a session in this thread, until it ends, moves to another process or joins a set.
pub(super) fn serve_session(shared: &Arc<Shared>, driven: Box<Driven>) {
    match driven.serve(shared) {
        Left::Ended => {}
        Left::Joins(driven) => shared.sets.join(driven),
        Left::Moves(client) => {
            if let Err(back) = shared.hand_in(client) {
                // The hand-over has ended in the meantime: the session goes on here.
                if let Some(driven) = back.driven(shared) {
                    shared.sets.join(driven);
                }
            }
        }
    }
}

/// Serves a client of the console until it leaves, or until it moves: then it is handed to the upgrade thread.
pub(super) fn serve_at_console(shared: &Arc<Shared>, mut client: Client) {
    loop {
        let handle = Arc::clone(client.handle());
        handle.driven_here();
        thread::name(&handle.thread_name());
        let Client {
            entry,
            client_permit,
            kind,
        } = client;
        let console = match kind {
            ClientKind::Console(console) => console,
            ClientKind::Pool(detached) => {
                let driven = Driven::new(shared, entry, client_permit, detached);
                return shared.sets.join(Box::new(driven));
            }
        };
        let kind = match serve_console(shared, &handle, console) {
            Ok(text) => {
                note_end(shared, &handle, &text, false);
                drop(entry);
                drop(client_permit);
                return;
            }
            Err(kind) => kind,
        };
        let parked = Client {
            entry,
            client_permit,
            kind,
        };
        if parked.awaits_reply() {
            if let Some(console) = shared.console.get() {
                console.upgrade(parked);
            }
            return;
        }
        // The hand-over has ended in the meantime: the session goes on here.
        match shared.hand_in(parked) {
            Ok(()) => return,
            Err(back) => client = *back,
        }
    }
}

/// Serves a console session.
///
/// # Errors
/// The session, if it is to move or has to wait for a reply.
fn serve_console(
    shared: &Arc<Shared>,
    handle: &Arc<Handle>,
    console_session: ConsoleSession,
) -> Result<String, ClientKind> {
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

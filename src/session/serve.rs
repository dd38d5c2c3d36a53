//! A thread's work for one client: log it in, drive its session, and say in the log how it ended; or hand
//! the session on if it is to move.

use std::sync::Arc;
use std::time::Duration;

use super::accept::{Arriving, Reception};
use super::acceptor::Command;
use super::console::{self, ConsoleEnd, Rights};
use super::driver::Driver;
use super::ending::Ending;
use super::guest::{AtConsole, Guest, Reply, What};
use super::house::{House, Stage};
use super::lend::{GivenBack, Spare};
use super::login::{self, Rejected};
use super::login_permit::LoginPermit;
use super::new_connection::NewConnection;
use super::pace::Pace;
use super::registry::{Handle, told};
use super::rests::Rests;
use crate::net::address::Address;
use crate::net::clock::Moment;
use crate::net::dialogue::{Broken, Dialogue};
use crate::net::thread;

/// Serves one connection from its first packet until its client is logged in, or gone. `in_reserve`: this is
/// the thread in reserve, and there is no other.
pub(super) fn receive(
    reception: &Reception,
    connection: NewConnection,
    permit: LoginPermit,
    arriving: Arriving,
    in_reserve: bool,
) -> Option<Guest> {
    let house = &reception.house;
    let id = house.sessions.next_id();
    thread::name(&format!("c{id} login"));
    let address = connection.opening.address.clone();
    let unix = matches!(address, Address::Unix(_));
    permit.runs_here();
    let logging_in = house.login_begins(id);
    drop(arriving);
    let outcome = login::log_in(house, id, connection, permit, in_reserve);
    // If it has logged in it is in the registry by now: it is never in neither.
    drop(logging_in);
    match outcome {
        Ok(guest) => {
            if house.settings().general.log_client_connections {
                let kind = match &guest.handle().who.tls {
                    Some(tls) => format!("TLS, {tls}"),
                    None if unix => "unix".to_owned(),
                    None => "plain".to_owned(),
                };
                log::info!(
                    "{} client connected from {address} ({kind})",
                    guest.handle().tag()
                );
            }
            Some(guest)
        }
        Err(Rejected { refusal, socket }) => {
            reception.rejections.note(Some(id), &address, &refusal);
            if let Some(socket) = socket {
                reception.tell_acceptor(Command::Linger(socket, address));
            }
            None
        }
    }
}

/// How a thread has come to have no guest.
enum Done {
    /// It has left, or somebody else has it. What is kept of it is for the next.
    Gone(Option<Spare>),
    /// It is to move.
    Parked(Guest),
}

/// Serves a guest until it leaves, or until it moves: then it is handed to whoever moves it. A server connection
/// may come from the guest before and stay for the next.
pub(super) fn serve_guest(
    house: &Arc<House>,
    mut guest: Guest,
    spare: Option<Spare>,
) -> Option<Spare> {
    // At the console it would be held for as long as the session lasts.
    let mut spare = spare.filter(|_| matches!(guest.what, What::Pool(_)));
    loop {
        let parked = match serve_until_parked(house, guest, spare.take()) {
            Done::Gone(spare) => return spare,
            Done::Parked(guest) => guest,
        };
        if parked.awaits_reply() {
            if let Some(console) = house.console.get() {
                console.upgrade(parked);
            }
            return None;
        }
        // Whoever was to move it has given up in the meantime: it goes on here.
        match house.park(parked) {
            Ok(()) => return None,
            Err(back) => guest = *back,
        }
    }
}

fn serve_until_parked(house: &Arc<House>, mut guest: Guest, mut spare: Option<Spare>) -> Done {
    let handle = Arc::clone(guest.handle());
    thread::name(&format!(
        "c{} {}@{}",
        handle.who.id, handle.who.user, handle.who.database
    ));
    let mut pace = Pace::new(Moment::now());
    let (entry, place, text, trouble) = loop {
        let Guest { entry, place, what } = guest;
        let resting = match what {
            What::Pool(resting) => resting,
            What::Console(console) => match serve_console(house, &handle, console) {
                Ok(text) => break (entry, place, text, false),
                Err(what) => return Done::Parked(Guest { entry, place, what }),
            },
        };
        let driver = Driver::new(
            Arc::clone(house),
            Arc::clone(&handle),
            resting,
            pace,
            spare.take(),
        );
        match driver.run() {
            Rests::Ended(ending) => break (entry, place, ending.to_string(), ending.is_trouble()),
            Rests::ToMove(resting) => {
                let what = What::Pool(resting);
                return Done::Parked(Guest { entry, place, what });
            }
            Rests::Silent(resting, so_far, given_back, until) => {
                pace = so_far;
                let client = resting.client.watch();
                let what = What::Pool(resting);
                guest = Guest { entry, place, what };
                let kept = match given_back {
                    GivenBack::Kept(spare) => Some(Some(spare)),
                    GivenBack::Free => Some(None),
                    // Those who have a thread wait for server connections already.
                    GivenBack::Handed => None,
                };
                if let Some(kept) = kept.filter(|_| house.lobby.is_crowded()) {
                    // Somebody has something to say and no thread.
                    match house.lobby.enter(guest) {
                        Ok(()) => return Done::Gone(kept),
                        Err(back) => guest = *back,
                    }
                }
                match handle.bed.sleep(guest, client, until) {
                    Some(back) => guest = back,
                    None => return Done::Gone(None),
                }
            }
        }
    };
    let line = format!(
        "{} client disconnected from {}: {text}, session={:?}",
        handle.tag(),
        handle.who.address,
        handle.who.connected_at.elapsed()
    );
    if trouble {
        log::warn!("{line}");
    } else if house.settings().general.log_client_disconnections {
        log::info!("{line}");
    } else {
        log::debug!("{line}");
    }
    drop(entry);
    drop(place);
    Done::Gone(None)
}

/// Serves a console session.
///
/// # Errors
/// The session, if it is to move or to rest.
fn serve_console(
    house: &Arc<House>,
    handle: &Arc<Handle>,
    at_console: AtConsole,
) -> Result<String, What> {
    handle.driven_here();
    handle.at_rest();
    let rights = at_console.rights;
    let told_to_stop =
        || house.stage() == Stage::Stopping || handle.told() & (told::MOVE | told::STOP) != 0;
    let mut dialogue = Dialogue {
        stream: at_console.client,
        inbox: at_console.unread,
        deadline: None,
        told_to_stop: &told_to_stop,
    };
    if let Reply::Owed(reply) = at_console.reply {
        if let Err(broken) = dialogue.send(&reply) {
            return Ok(broken.to_string());
        }
    }
    let Some(console) = house.console.get() else {
        return Ok("there is no console".to_owned());
    };
    let (text, ending) = match console::serve(&mut dialogue, &**console, rights) {
        ConsoleEnd::Left => ("client sent Terminate".to_owned(), Ending::Left),
        ConsoleEnd::Broken(Broken::Told) if house.stage() != Stage::Stopping => {
            return Err(rest(dialogue, rights, Reply::Given));
        }
        ConsoleEnd::Rests => return Err(rest(dialogue, rights, Reply::Awaited)),
        ConsoleEnd::Broken(Broken::Told) => ("the pooler stops".to_owned(), Ending::Stopped),
        ConsoleEnd::Broken(broken) => (broken.to_string(), Ending::Left),
        ConsoleEnd::Violation(what) => (what, Ending::Left),
    };
    let limit = house.patience_at_the_end(Duration::from_secs(2));
    dialogue.stream.finish(&ending.message(), limit);
    Ok(text)
}

fn rest(dialogue: Dialogue<'_>, rights: Rights, reply: Reply) -> What {
    What::Console(AtConsole {
        client: dialogue.stream,
        rights,
        unread: dialogue.inbox,
        reply,
    })
}

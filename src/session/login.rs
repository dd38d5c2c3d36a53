//! A connection from its first packet to its session: the login, within `client_login_timeout`.
//!
//! Ends in a session to be driven, a console session, a CancelRequest that has been passed on, or a refusal. Does not
//! check passwords; that is `session::authenticate`. Invariant: a client counts among `max_connections` only when it
//! has proved who it is.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::authenticate::refused;
use super::cancel::cancel_anywhere;
use super::client_settings;
use super::console::Rights;
use super::guest::{AtConsole, Guest, Reply, Resting, What};
use super::house::{House, Place, Stage};
use super::login_permit::LoginPermit;
use super::new_connection::NewConnection;
use super::refusal::{Refusal, say};
use super::registry::{CancelKey, Entry, Handle, Identity, told};
use super::session::{Session, process_id};
use crate::auth::certificate::PeerCertificate;
use crate::auth::challenge::Kind;
use crate::auth::crypto;
use crate::auth::hba::{self, Client, Transport};
use crate::auth::{self, Verifier};
use crate::config::Settings;
use crate::net::address::Address;
use crate::net::clock::Moment;
use crate::net::dialogue::Dialogue;
use crate::net::stream::Stream;
use crate::pool::plans::client_sockets;
use crate::pool::pool::Pool;
use crate::pool::waiter::Waiter;
use crate::server::parameters::Parameters;
use crate::tls::suite::Negotiated;
use crate::wire::backend::{self, TransactionStatus};
use crate::wire::sqlstate;
use crate::wire::startup::{self, FirstPacket, Startup};

/// The names of the database that is the console.
pub const CONSOLE_DATABASES: [&str; 2] = ["pgdoorman", "pgbouncer"];

/// A login that came to nothing. The client has been told.
#[derive(Debug)]
pub struct Rejected {
    /// Why.
    pub refusal: Refusal,
    /// The socket, to be kept until the client has read its last words.
    pub socket: Option<OwnedFd>,
}

/// Logs a connection in. On refusal the client has been told. `in_reserve`: only a CancelRequest or a session
/// at the console can be served.
///
/// # Errors
/// What has become of it otherwise.
pub fn log_in(
    house: &Arc<House>,
    id: u64,
    connection: NewConnection,
    permit: LoginPermit,
    in_reserve: bool,
) -> Result<Guest, Rejected> {
    let settings = house.settings();
    let NewConnection { socket, opening } = connection;
    let unix = matches!(opening.address, Address::Unix(_));
    let stream = Stream::new(socket, unix, &client_sockets(&settings.general));
    let told_to_stop = || house.ends_logins() || permit.must_close();
    let mut dialogue = Dialogue {
        stream,
        inbox: opening.unread,
        deadline: opening.deadline,
        told_to_stop: &told_to_stop,
    };
    let mut login = Login {
        house,
        settings: &settings,
        id,
        address: &opening.address,
        connected_at: opening.connected_at,
        tls_agreed: opening.tls_agreed,
        in_reserve,
        permit: &permit,
        tls: None,
        certificate: None,
        end_point: None,
    };
    let refusal = match login.run(&mut dialogue) {
        Ok(arrived) => return Ok(arrived.settle(dialogue.stream, dialogue.inbox)),
        Err(_) if permit.must_close() && house.stage() != Stage::Stopping => Refusal::Crowded,
        // Another process serves the clients of this one, and those who have not logged in cannot go there.
        Err(Refusal::Words { code, .. })
            if code == sqlstate::ADMIN_SHUTDOWN && house.stage() != Stage::Stopping =>
        {
            say(
                sqlstate::POOLER_SHUTDOWN,
                "the pooler was upgraded during the login; connect again",
            )
        }
        Err(refusal) => refusal,
    };
    let last = refusal.message();
    let socket = if last.is_empty() {
        None
    } else {
        dialogue.stream.say_last(&last)
    };
    Err(Rejected { refusal, socket })
}

/// A client that is in, but whose connection is still that of the login.
pub(super) struct Arrived {
    pub(super) entry: Entry,
    pub(super) place: Place,
    pub(super) at: LoggedInTo,
}

/// What a client has logged in to.
pub(super) enum LoggedInTo {
    /// A pool.
    Pool(Arc<Pool>, Box<Session>),
    /// The console.
    Console(Rights),
}

impl Arrived {
    fn settle(self, client: Stream, unread: Vec<u8>) -> Guest {
        let what = match self.at {
            LoggedInTo::Pool(pool, mut session) => {
                session.client.unread = unread;
                What::Pool(Resting {
                    pool,
                    session,
                    client,
                    server: None,
                    server_deadline: None,
                    spoke: None,
                })
            }
            LoggedInTo::Console(rights) => What::Console(AtConsole {
                client,
                rights,
                unread,
                reply: Reply::Given,
            }),
        };
        Guest {
            entry: self.entry,
            place: self.place,
            what,
        }
    }
}

pub(super) struct Login<'a> {
    pub(super) house: &'a Arc<House>,
    pub(super) settings: &'a Settings,
    pub(super) id: u64,
    pub(super) address: &'a Address,
    pub(super) connected_at: Moment,
    /// A TLS handshake was agreed on.
    pub(super) tls_agreed: bool,
    in_reserve: bool,
    pub(super) permit: &'a LoginPermit,
    /// What TLS with it has agreed on.
    pub(super) tls: Option<Negotiated>,
    /// The certificate it has shown.
    pub(super) certificate: Option<PeerCertificate>,
    /// The hash of the certificate that the client was shown, for channel binding; `None` without TLS.
    pub(super) end_point: Option<Vec<u8>>,
}

impl Login<'_> {
    fn run(&mut self, dialogue: &mut Dialogue<'_>) -> Result<Arrived, Refusal> {
        let startup = match self.first_packet(dialogue)? {
            FirstPacket::Cancel { process_id, secret } => {
                self.house.arrivals.cancel.fetch_add(1, Ordering::Relaxed);
                cancel_anywhere(self.house, CancelKey { process_id, secret });
                return Err(Refusal::Done);
            }
            FirstPacket::Startup(startup) => startup,
            FirstPacket::Ssl | FirstPacket::GssEnc => {
                return Err(say(
                    sqlstate::PROTOCOL_VIOLATION,
                    "a second request for encryption",
                ));
            }
        };
        let arrivals = &self.house.arrivals;
        let count = match self.tls {
            Some(_) => &arrivals.tls,
            None => &arrivals.plain,
        };
        count.fetch_add(1, Ordering::Relaxed);
        if startup.replication {
            return Err(say(
                sqlstate::FEATURE_NOT_SUPPORTED,
                "replication connections cannot be pooled; connect to PostgreSQL directly",
            ));
        }
        if startup.minor > startup::NEWEST_MINOR || !startup.protocol_options.is_empty() {
            // Never a newer one than was asked for: the client would break off.
            let minor = startup.minor.min(startup::NEWEST_MINOR);
            let mut answer = Vec::new();
            backend::negotiate_protocol_version(&mut answer, minor, &startup.protocol_options);
            dialogue.send(&answer)?;
        }
        let console = CONSOLE_DATABASES.contains(&startup.database.as_str());
        if self.in_reserve && !console {
            return Err(say(
                sqlstate::TOO_MANY_CONNECTIONS,
                "sorry, too many clients already: no thread can be started for another",
            ));
        }
        if self.house.is_full(console) {
            return Err(full());
        }
        if console {
            self.console(dialogue, startup)
        } else {
            self.pool(dialogue, startup)
        }
    }

    /// The client has proved who it is, or need not: it gets its place.
    pub(super) fn admit(&self, console: bool) -> Result<Place, Refusal> {
        let place = self.house.admit(console).ok_or_else(full)?;
        self.permit.release();
        Ok(place)
    }

    /// What the rules say about the client, unless they keep it out.
    pub(super) fn verdict(&self, startup: &Startup) -> Result<hba::Verdict, Refusal> {
        let client = Client {
            transport: match self.address {
                Address::Tcp(_) => Transport::Tcp,
                Address::Unix(_) => Transport::Unix,
            },
            tls: self.tls.is_some(),
            certificate: self.certificate.as_ref(),
            address: self.address.ip(),
            database: &startup.database,
            user: &startup.user,
        };
        let rules = &self.settings.general.hba;
        let verdict = if CONSOLE_DATABASES.contains(&client.database) {
            hba::console_verdict(rules, &client, &CONSOLE_DATABASES)
        } else {
            hba::verdict(rules, &client)
        };
        match hba::refusal(&verdict, &client) {
            None => Ok(verdict),
            Some(refused) => Err(Refusal::Words {
                code: sqlstate::INVALID_AUTHORIZATION,
                words: refused.words,
                log: refused.log,
            }),
        }
    }

    fn pool(&self, dialogue: &mut Dialogue<'_>, startup: Startup) -> Result<Arrived, Refusal> {
        if self.house.stage() != Stage::Open {
            return Err(say(sqlstate::POOLER_SHUTDOWN, "pooler is shut down now"));
        }
        // The rules come first: who is kept out by them learns nothing of what databases there are.
        let verdict = self.verdict(&startup)?;
        let Some(configured) = self.settings.pools.get(&startup.database) else {
            return Err(say(
                sqlstate::INVALID_CATALOG_NAME,
                format!(
                    "No connection pool configured for database: {}, user: {}. Please check your connection parameters.",
                    startup.database, startup.user
                ),
            ));
        };
        let verifier = configured
            .user(&startup.user)
            .map(|user| Verifier::from(&user.password));
        let kinds = configured.users.iter();
        let kinds = kinds.filter_map(|user| Kind::of_password(&user.password));
        let login = auth::login(
            &verdict,
            &startup.user,
            verifier.as_ref(),
            kinds,
            &self.house.mock,
        )
        .map_err(|error| say(sqlstate::INTERNAL_ERROR, error.to_string()))?
        .ok_or_else(|| refused(&startup.user, "no rule lets it in"))?;
        let doom = login.doom.map(|doom| doom.to_string());
        let proved = self.prove(dialogue, &startup.user, login.challenge, doom)?;
        let place = self.admit(false)?;
        let pool = self
            .house
            .pools
            .find(&startup.database, &startup.user)
            .ok_or_else(|| refused(&startup.user, "there is no such user"))?;
        if let Some(key) = proved {
            pool.note_proved_key(key);
        }
        let secret = random_secret(startup.secret_length())?;
        let waiter = Arc::new(Waiter::default());
        let told = || self.house.ends_logins() || dialogue.stream.has_hung_up();
        let names: Vec<String> = startup
            .settings
            .iter()
            .map(|(name, _)| name.clone())
            .collect();
        let effect = client_settings::settle(startup.settings, &pool, &waiter, &told)?;
        let chosen = effect.chosen(&names);
        let entry = self.enter(Identity {
            id: self.id,
            secret: secret.clone(),
            database: startup.database.clone(),
            user: startup.user.clone(),
            application_name: application_name(&effect.reported),
            address: self.address.clone(),
            connected_at: self.connected_at,
            console: false,
            tls: self.tls.clone(),
        });
        self.greet(dialogue, entry.handle(), &effect.reported)?;
        let mut session = Session::new(
            self.id,
            secret,
            startup.database,
            startup.user,
            self.address.clone(),
            self.connected_at,
            (&*pool.plan()).into(),
            effect.reported,
            effect.unreported,
            Arc::new(chosen),
        );
        session.defaults = effect.defaults;
        session.as_sent = effect.as_sent;
        Ok(Arrived {
            entry,
            place,
            at: LoggedInTo::Pool(pool, Box::new(session)),
        })
    }

    pub(super) fn enter(&self, who: Identity) -> Entry {
        let entry = self.house.sessions.enter(Handle::new(who));
        let handle = entry.handle();
        if let Some(flag) = self.house.moving_flag(handle.who.console) {
            handle.tell(flag);
        }
        // The stage may have changed since it was looked at, when nobody knew of this session.
        match self.house.stage() {
            Stage::Open => {}
            Stage::Draining if handle.who.console => {}
            Stage::Draining => handle.tell(told::DRAIN),
            Stage::Stopping => handle.tell(told::STOP),
        }
        entry
    }

    /// ParameterStatus for each parameter, BackendKeyData, ReadyForQuery.
    pub(super) fn greet(
        &self,
        dialogue: &mut Dialogue<'_>,
        handle: &Arc<Handle>,
        parameters: &Parameters,
    ) -> Result<(), Refusal> {
        let mut greeting = Vec::new();
        for (name, value) in parameters.iter() {
            backend::parameter_status(&mut greeting, name.as_bytes(), value);
        }
        backend::backend_key_data(&mut greeting, process_id(handle.who.id), &handle.who.secret);
        backend::ready_for_query(&mut greeting, TransactionStatus::Idle);
        Ok(dialogue.send(&greeting)?)
    }
}

fn full() -> Refusal {
    say(
        sqlstate::TOO_MANY_CONNECTIONS,
        "sorry, too many clients already",
    )
}

pub(super) fn random_secret(length: usize) -> Result<Vec<u8>, Refusal> {
    let mut secret = vec![0; length];
    crypto::fill_randomly(&mut secret).map_err(|error| {
        say(
            sqlstate::INTERNAL_ERROR,
            format!("no randomness for a cancel key: {error}"),
        )
    })?;
    Ok(secret)
}

fn application_name(parameters: &Parameters) -> Vec<u8> {
    parameters
        .get("application_name")
        .unwrap_or_default()
        .to_vec()
}

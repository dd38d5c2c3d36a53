//! A connection from its first packet to its session: the login, within `client_login_timeout`.
//!
//! Ends in a session to be driven, a console session, a CancelRequest that has been passed on, or a refusal. Does not
//! check passwords; that is `client::authenticate`. Invariant: a client counts among `max_connections` only when it
//! has proved who it is.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::authenticate::refused;
use super::client_settings;
use super::client_threads::ClientThreads;
use super::known_user::KnownUser;
use super::login_error::{LoginError, say};
use super::login_permit::LoginPermit;
use super::new_connection::NewConnection;
use crate::auth::certificate::PeerCertificate;
use crate::auth::crypto;
use crate::auth::hba::{self, Transport};
use crate::auth::{self, Proof};
use crate::config::Settings;
use crate::net::address::Address;
use crate::net::clock::MonotonicTime;
use crate::net::exchange::Exchange;
use crate::net::stream::Stream;
use crate::pool::pool::Pool;
use crate::pool::pool_configs::client_sockets;
use crate::pool::waiter::Waiter;
use crate::relay::session::{Session, process_id};
use crate::server::parameters::Parameters;
use crate::session::cancel::cancel_anywhere;
use crate::session::client::{Client, ClientKind, ConsoleSession, DetachedSession, Reply};
use crate::session::console::Rights;
use crate::session::registry::{CancelKey, ClientInfo, Handle, RegistryGuard, signals};
use crate::session::shared::{ClientPermit, Shared, Stage};
use crate::tls::suite::Negotiated;
use crate::wire::backend::{self, TransactionStatus};
use crate::wire::sqlstate;
use crate::wire::startup::{self, FirstPacket, Startup};

/// The names of the database that is the console.
pub const CONSOLE_DATABASES: [&str; 2] = ["pgdoorman", "pgbouncer"];

/// A failed login. The client has got its error.
#[derive(Debug)]
pub struct Rejected {
    /// Why.
    pub refusal: LoginError,
    /// The socket, to be kept until the client has read its last message.
    pub socket: Option<OwnedFd>,
}

/// Logs a connection in. If this fails, the client has got its error. `in_reserve`: only a CancelRequest or a session
/// at the console can be served.
///
/// # Errors
/// What has become of it otherwise.
pub fn log_in(
    client_threads: &ClientThreads,
    id: u64,
    connection: NewConnection,
    permit: LoginPermit,
    in_reserve: bool,
) -> Result<Client, Rejected> {
    let shared = &client_threads.shared;
    let settings = shared.settings();
    let NewConnection { socket, opening } = connection;
    let unix = matches!(opening.address, Address::Unix(_));
    let stream = Stream::new(socket, unix, &client_sockets(&settings.general));
    let must_stop = || shared.ends_logins() || permit.must_close();
    let mut exchange = Exchange {
        stream,
        inbox: opening.unread,
        deadline: opening.deadline,
        must_stop: &must_stop,
    };
    let mut login = Login {
        client_threads,
        shared,
        settings: &settings,
        id,
        address: &opening.address,
        connected_at: opening.connected_at,
        tls_agreed: opening.tls_agreed,
        in_reserve,
        permit: &permit,
        tls: None,
        certificate: None,
        channel_binding: None,
    };
    let refusal = match login.run(&mut exchange) {
        Ok(arrived) => return Ok(arrived.into_client(exchange.stream, exchange.inbox)),
        Err(_) if permit.must_close() && shared.stage() != Stage::Stopping => LoginError::Crowded,
        // Another process serves the clients of this one, and those who have not logged in cannot go there.
        Err(LoginError::Message { code, .. })
            if code == sqlstate::ADMIN_SHUTDOWN && shared.stage() != Stage::Stopping =>
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
        exchange.stream.say_last(&last)
    };
    Err(Rejected { refusal, socket })
}

/// A client that is in, but whose connection is still that of the login.
pub(super) struct LoggedIn {
    pub(super) entry: RegistryGuard,
    pub(super) client_permit: ClientPermit,
    pub(super) at: LoggedInTo,
}

/// What a client has logged in to.
pub(super) enum LoggedInTo {
    /// A pool.
    Pool(Arc<Pool>, Box<Session>),
    /// The console.
    Console(Rights),
}

impl LoggedIn {
    fn into_client(self, client: Stream, unread: Vec<u8>) -> Client {
        let kind = match self.at {
            LoggedInTo::Pool(pool, mut session) => {
                session.client.unread = unread;
                ClientKind::Pool(DetachedSession {
                    pool,
                    session,
                    client,
                    server: None,
                    server_deadline: None,
                })
            }
            LoggedInTo::Console(rights) => ClientKind::Console(ConsoleSession {
                client,
                rights,
                unread,
                reply: Reply::Given,
            }),
        };
        Client {
            entry: self.entry,
            client_permit: self.client_permit,
            kind,
        }
    }
}

pub(super) struct Login<'a> {
    pub(super) client_threads: &'a ClientThreads,
    pub(super) shared: &'a Arc<Shared>,
    pub(super) settings: &'a Settings,
    pub(super) id: u64,
    pub(super) address: &'a Address,
    pub(super) connected_at: MonotonicTime,
    /// A TLS handshake was agreed on.
    pub(super) tls_agreed: bool,
    in_reserve: bool,
    pub(super) permit: &'a LoginPermit,
    /// What TLS with it has agreed on.
    pub(super) tls: Option<Negotiated>,
    /// The certificate it has shown.
    pub(super) certificate: Option<PeerCertificate>,
    /// The hash of the certificate that the client was shown, for channel binding; `None` without TLS.
    pub(super) channel_binding: Option<Vec<u8>>,
}

impl Login<'_> {
    fn run(&mut self, exchange: &mut Exchange<'_>) -> Result<LoggedIn, LoginError> {
        let startup = match self.first_packet(exchange)? {
            FirstPacket::Cancel { process_id, secret } => {
                self.shared
                    .accept_counters
                    .cancel
                    .fetch_add(1, Ordering::Relaxed);
                cancel_anywhere(self.shared, CancelKey { process_id, secret });
                return Err(LoginError::Done);
            }
            FirstPacket::Startup(startup) => startup,
            FirstPacket::Ssl | FirstPacket::GssEnc => {
                return Err(say(
                    sqlstate::PROTOCOL_VIOLATION,
                    "a second request for encryption",
                ));
            }
        };
        let accept_counters = &self.shared.accept_counters;
        let count = match self.tls {
            Some(_) => &accept_counters.tls,
            None => &accept_counters.plain,
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
            exchange.send(&answer)?;
        }
        let console = CONSOLE_DATABASES.contains(&startup.database.as_str());
        if self.in_reserve && !console {
            return Err(say(
                sqlstate::TOO_MANY_CONNECTIONS,
                "sorry, too many clients already: no thread can be started for another",
            ));
        }
        if self.shared.is_full(console) {
            return Err(full());
        }
        if console {
            self.console(exchange, startup)
        } else {
            self.pool(exchange, startup)
        }
    }

    /// The client has proved who it is, or need not: it gets its permit, one of `max_connections`.
    pub(super) fn admit(&self, console: bool) -> Result<ClientPermit, LoginError> {
        let client_permit = self.shared.admit(console).ok_or_else(full)?;
        self.permit.release();
        Ok(client_permit)
    }

    /// What the rules say about the client, unless they keep it out.
    pub(super) fn verdict(
        &self,
        startup: &Startup,
        exchange: &Exchange<'_>,
    ) -> Result<hba::Verdict, LoginError> {
        let client = hba::Client {
            transport: match self.address {
                Address::Tcp(_) => Transport::Tcp,
                Address::Unix(_) => Transport::Unix,
            },
            tls: self.tls.is_some(),
            certificate: self.certificate.as_ref(),
            address: self.address.ip(),
            system_user: exchange.stream.system_user(),
            database: &startup.database,
            user: &startup.user,
        };
        let rules = &self.settings.general.hba;
        let verdict = if CONSOLE_DATABASES.contains(&client.database) {
            hba::console_verdict(rules, &client, &CONSOLE_DATABASES)
        } else {
            let whom = (client.database, client.user);
            hba::verdict(rules, &client, &|role| {
                let memberships = &self.shared.memberships;
                memberships.is_member(self.shared, whom, role, exchange.deadline)
            })
        };
        match hba::refusal(&verdict, &client) {
            None => Ok(verdict),
            Some(refused) => Err(LoginError::Message {
                code: refused.code,
                message: refused.words,
                log: refused.log,
            }),
        }
    }

    fn pool(&self, exchange: &mut Exchange<'_>, startup: Startup) -> Result<LoggedIn, LoginError> {
        if self.shared.stage() != Stage::Open {
            return Err(say(sqlstate::POOLER_SHUTDOWN, "pooler is shut down now"));
        }
        // The rules come first: a client that they refuse does not learn which databases exist.
        let verdict = self.verdict(&startup, exchange)?;
        let Some(configured) = self.settings.serving(&startup.database) else {
            return Err(say(
                sqlstate::INVALID_CATALOG_NAME,
                format!(
                    "No connection pool configured for database: {}, user: {}. Please check your connection parameters.",
                    startup.database, startup.user
                ),
            ));
        };
        let known = self.known_user(configured, &startup.user, exchange.deadline)?;
        let proved = self.authenticate(exchange, &verdict, &startup.user, &known);
        known.note_outcome(proved.is_ok());
        let proved = proved?;
        let client_permit = self.admit(false)?;
        let pool = self.pool_of(&startup, &known)?;
        if let Some(proof) = proved {
            pool.note_proof(proof);
        }
        let secret = random_secret(startup.secret_length())?;
        let waiter = Arc::new(Waiter::default());
        let interrupted = || self.shared.ends_logins() || exchange.stream.has_hung_up();
        let names: Vec<String> = startup
            .settings
            .iter()
            .map(|(name, _)| name.clone())
            .collect();
        let effect =
            client_settings::resolve(startup.settings.clone(), &pool, &waiter, &interrupted);
        drop(waiter);
        let effect = match effect {
            Ok(effect) => effect,
            Err(why) => return Err(known.not_connected(why, pool)),
        };
        let startup_settings = effect.startup_settings(&names);
        let entry = self.enter(ClientInfo {
            id: self.id,
            secret: secret.clone(),
            database: pool.database.clone(),
            user: pool.user.clone(),
            application_name: application_name(&effect.reported),
            address: self.address.clone(),
            connected_at: self.connected_at,
            console: false,
            tls: self.tls.clone(),
        });
        self.greet(exchange, entry.handle(), &effect.reported)?;
        let mut session = Session::new(
            self.id,
            secret,
            pool.database.clone(),
            pool.user.clone(),
            self.address.clone(),
            self.connected_at,
            (&*pool.config()).into(),
            effect.reported,
            effect.untracked,
            Arc::new(startup_settings),
        );
        session.defaults = effect.defaults;
        session.as_sent = effect.as_sent;
        Ok(LoggedIn {
            entry,
            client_permit,
            at: LoggedInTo::Pool(pool, Box::new(session)),
        })
    }

    /// Asks the client for what the rules demand. Returns what it has proved to have, if the pooler can use that.
    fn authenticate(
        &self,
        exchange: &mut Exchange<'_>,
        verdict: &hba::Verdict,
        user: &str,
        known: &KnownUser<'_>,
    ) -> Result<Option<Proof>, LoginError> {
        if let (hba::Verdict::Password { .. }, Some(key)) = (verdict, known.token_key()) {
            return self.token(exchange, user, key).map(|()| None);
        }
        let verifier = known.verifier();
        let kinds = known.kinds.iter().copied();
        let login = auth::login(verdict, user, verifier.as_ref(), kinds, &self.shared.mock)
            .map_err(|error| say(sqlstate::INTERNAL_ERROR, error.to_string()))?
            .ok_or_else(|| refused(user, "no rule lets it in"))?;
        let will_fail = login.will_fail.map(|will_fail| will_fail.to_string());
        let key = self.prove(exchange, user, login.challenge, will_fail, &|| {
            known.look_again()
        })?;
        Ok(key.map(Proof::Key))
    }

    pub(super) fn enter(&self, info: ClientInfo) -> RegistryGuard {
        let entry = self.shared.sessions.enter(Handle::new(info));
        let handle = entry.handle();
        if let Some(flag) = self.shared.handover_signal(handle.info.console) {
            handle.signal(flag);
        }
        // The stage may have changed since it was looked at, when nobody knew of this session.
        match self.shared.stage() {
            Stage::Open => {}
            Stage::Draining if handle.info.console => {}
            Stage::Draining => handle.signal(signals::DRAIN),
            Stage::Stopping => handle.signal(signals::STOP),
        }
        entry
    }

    /// ParameterStatus for each parameter, BackendKeyData, ReadyForQuery.
    pub(super) fn greet(
        &self,
        exchange: &mut Exchange<'_>,
        handle: &Arc<Handle>,
        parameters: &Parameters,
    ) -> Result<(), LoginError> {
        let mut greeting = Vec::new();
        for (name, value) in parameters.iter() {
            backend::parameter_status(&mut greeting, name.as_bytes(), value);
        }
        backend::backend_key_data(
            &mut greeting,
            process_id(handle.info.id),
            &handle.info.secret,
        );
        backend::ready_for_query(&mut greeting, TransactionStatus::Idle);
        Ok(exchange.send(&greeting)?)
    }
}

fn full() -> LoginError {
    say(
        sqlstate::TOO_MANY_CONNECTIONS,
        "sorry, too many clients already",
    )
}

pub(super) fn random_secret(length: usize) -> Result<Vec<u8>, LoginError> {
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

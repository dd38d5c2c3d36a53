//! How one pool is to be run: the settings that concern it, worked out.
//!
//! A [`PoolConfig`] is replaced as a whole at a reload and is never changed.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::auth::{Proof, ServerCredentials, ServerSecret, Verifier};
use crate::net::stream::SocketOptions;
use crate::server::server_tls::Encryption;
use crate::server::target::Target;

/// When a server connection goes back to the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Mode {
    /// After each transaction.
    Transaction,
    /// When the client leaves.
    Session,
}

impl Mode {
    /// The word for it in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Mode::Transaction => "transaction",
            Mode::Session => "session",
        }
    }
}

/// With what the pool logs in to PostgreSQL.
#[derive(Debug, Clone, PartialEq)]
pub enum Login {
    /// With what the configuration says.
    Given(ServerCredentials),
    /// With what clients prove when they log in themselves.
    PassThrough {
        /// The user, here and there.
        user: String,
        /// What the configuration stores of the user's password.
        verifier: Verifier,
    },
}

impl Login {
    /// Whether connections made with the other are as good. A password that a role has changed ends none of its
    /// connections, as in PostgreSQL.
    fn is_same_role(&self, other: &Login) -> bool {
        match (self, other) {
            (Login::PassThrough { user, .. }, Login::PassThrough { user: own, .. }) => user == own,
            _ => self == other,
        }
    }

    /// What is known of the user's password, if that is all the pooler has to log in with.
    pub fn verifier(&self) -> Option<&Verifier> {
        match self {
            Login::Given(_) => None,
            Login::PassThrough { verifier, .. } => Some(verifier),
        }
    }

    /// The credentials, given what a client has proved to have, if one has.
    pub fn credentials(&self, proved: Option<&Proof>) -> ServerCredentials {
        match self {
            Login::Given(credentials) => credentials.clone(),
            Login::PassThrough { user, verifier } => ServerCredentials {
                user: user.clone(),
                secret: match (verifier, proved) {
                    (_, Some(Proof::Password(password))) => {
                        ServerSecret::Password(password.clone())
                    }
                    (Verifier::Md5(hash), _) => ServerSecret::Md5Hash(hash.clone()),
                    (Verifier::Scram(scram), Some(Proof::Key(key))) => scram
                        .pass_through(key.clone())
                        .map_or(ServerSecret::None, ServerSecret::ScramKeys),
                    (Verifier::None, _) | (Verifier::Scram(_), None) => ServerSecret::None,
                },
            },
        }
    }
}

/// The limit on the server connections of all users of a database together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatabaseLimit {
    /// Connections at most.
    pub most: usize,
    /// Connections more for a short time.
    pub reserve: usize,
    /// How long a user without any connection waits for a place before its clients are told.
    pub patience: Duration,
    /// How old an idle connection must be before it is closed for another user's sake.
    pub min_lifetime: Duration,
    /// By how much longer than the first client of a user one of another user has to have waited to be served
    /// in its place.
    pub fairness_delay: Duration,
    /// Connections of a user that are not closed for another's sake.
    pub guaranteed: usize,
}

/// How long clients may take for what; `None`: as long as they like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// To send something, without a server connection.
    pub client_idle: Option<Duration>,
    /// To send something, in a transaction.
    pub idle_transaction: Option<Duration>,
    /// For a query.
    pub query: Option<Duration>,
    /// For a transaction.
    pub transaction: Option<Duration>,
}

/// Why there is a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The configuration names its database and its user.
    Configured,
    /// The configuration names its database. The user was found elsewhere, and has logged in.
    FoundUser,
    /// The configuration does not name its database, to which a client has logged in.
    AnyDatabase,
}

/// How one pool is to be run.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolConfig {
    /// Why there is the pool.
    pub origin: Origin,
    /// Server connections at most.
    pub size: usize,
    /// Server connections that are kept warm.
    pub min_size: usize,
    /// When connections go back.
    pub mode: Mode,
    /// How long a client may wait for a connection, all in all.
    pub query_wait_timeout: Duration,
    /// How long clients may take for what.
    pub timeouts: Timeouts,
    /// How long a connection may lie idle.
    pub idle_timeout: Option<Duration>,
    /// How old a connection may get.
    pub server_lifetime: Option<Duration>,
    /// After lying idle for this long a connection is tried before it is used.
    pub idle_check: Option<Duration>,
    /// Whether the connection that was idle longest is used first.
    pub round_robin: bool,
    /// The limit on the connections of all users of the database.
    pub database_limit: Option<DatabaseLimit>,
    /// Connections that are made at the same time, at most.
    pub parallel_creates: usize,
    /// Whether what clients leave behind is undone.
    pub clean: bool,
    /// Whether prepared statements of clients follow them from one connection to the next.
    pub prepared_statements: bool,
    /// Statements that are remembered although no client has them prepared.
    pub prepared_cache: usize,
    /// Statements kept on one connection.
    pub prepared_per_server: usize,
    /// Bytes of their text.
    pub prepared_bytes_per_server: usize,
    /// Bytes that one client may have the pooler keep for it.
    pub memory_per_client: usize,
    /// Named statements one client may have.
    pub prepared_per_client: usize,
    /// Where PostgreSQL is.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The database's name there.
    pub server_database: String,
    /// With what to log in.
    pub login: Login,
    /// Startup parameters set by the operator, `application_name` apart.
    pub startup_parameters: BTreeMap<String, String>,
    /// The `application_name` of connections nobody has used yet.
    pub application_name: String,
    /// How long connecting and logging in may take.
    pub connect_timeout: Duration,
    /// How connections are encrypted.
    pub encryption: Encryption,
    /// How sockets are set up.
    pub sockets: SocketOptions,
    /// The simple query that is answered with PostgreSQL's last answer to it; none if empty.
    pub check_query: String,
    /// Whether a changed parameter of a client is worth a line in the log.
    pub log_parameter_changes: bool,
}

impl PoolConfig {
    /// Where and as whom to connect.
    pub fn target(&self, proved: Option<&Proof>) -> Target {
        let mut parameters: Vec<(String, String)> = self
            .startup_parameters
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if !self
            .startup_parameters
            .keys()
            .any(|name| name.eq_ignore_ascii_case("application_name"))
        {
            parameters.push(("application_name".into(), self.application_name.clone()));
        }
        Target {
            host: self.host.clone(),
            port: self.port,
            database: self.server_database.clone(),
            credentials: self.login.credentials(proved),
            parameters,
            encryption: self.encryption.clone(),
            sockets: self.sockets,
            timeout: self.connect_timeout,
        }
    }

    /// Where connections made under this configuration lead and how they begin, secrets apart, to be compared by
    /// another process.
    pub fn leads_to(&self) -> String {
        let user = match &self.login {
            Login::Given(credentials) => &credentials.user,
            Login::PassThrough { user, .. } => user,
        };
        format!(
            "{user}@{}:{} {} {} {:?} {}",
            self.host,
            self.port,
            self.server_database,
            self.application_name,
            self.startup_parameters,
            self.encryption.fingerprint()
        )
    }

    /// Whether connections made under this configuration are as good as those made under `other`.
    pub fn leads_to_same_server(&self, other: &PoolConfig) -> bool {
        self.host == other.host
            && self.port == other.port
            && self.server_database == other.server_database
            && self.login.is_same_role(&other.login)
            && self.startup_parameters == other.startup_parameters
            && self.application_name == other.application_name
            && self.encryption == other.encryption
    }
}

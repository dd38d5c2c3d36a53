//! `[pools.NAME]`: a database that clients can connect to.

use super::auth_query::AuthQuery;
use super::general::General;
use super::prelude::*;
use super::user::User;

keys! {
    /// A `[pools.NAME]` table, with what it inherits from `[general]` filled in.
    pub struct Pool under General {
        group "Where PostgreSQL is" {
            /// PostgreSQL's host, or the directory of its Unix socket, which begins with /.
            server_host: String = is("\"127.0.0.1\""), Kind::Name, NewServers, Works;
            /// PostgreSQL's port.
            server_port: u16 = is("5432"), integer(1, 65_535), NewServers, Works;
            /// The database's name in PostgreSQL.
            server_database: String = unset("the pool's name", "\"app\""),
                Kind::Name, NewServers, Works;
            /// The application_name that server connections start with.
            application_name: String = is("\"pg_doorman\""), Kind::Text, NewServers, Works;
        }
        group "How connections are shared" {
            /// Whether what a client changed is undone before the next client gets the server
            /// connection. False is for clients that change nothing. An open transaction is
            /// rolled back in any case.
            cleanup_server_connections: bool = is("true"), Kind::Bool, Live, Works;
            /// Whether each parameter change that PostgreSQL reports to a client is logged.
            log_client_parameter_status_changes: bool = is("false"), Kind::Bool, Live, Works;
        }
        group "Limit for all users together" {
            /// How many server connections all users of this pool may have together. At the
            /// limit, a free one of another user is closed for the client that has waited
            /// longest. 0: no limit.
            max_db_connections: Option<usize> = is("0"), integer_or_off(MANY), Live, Works;
            /// How much longer a client of another user must have waited than the first waiting
            /// client of this user, for a server connection that this user returns to be closed
            /// for it. Counts at the limit of max_db_connections.
            fairness_delay: Duration = is("\"100ms\""), duration_from_zero(), Live, Works;
            /// How old a free server connection must be before it may be closed for another
            /// user whose client has waited for less than fairness_delay.
            min_connection_lifetime: Duration = is("\"30s\""), duration_from_zero(), Live, Works;
            /// How many server connections there may be for a short time above
            /// max_db_connections. They are closed once they are free, by
            /// retain_connections_time.
            reserve_pool_size: usize = is("0"), integer(0, MANY), Live, Works;
            /// How long the clients of a user without any server connection wait at the limit
            /// of max_db_connections and reserve_pool_size, before they get error 53300.
            reserve_pool_timeout: Duration = is("\"3s\""), duration_from_zero(), Live, Works;
            /// How many server connections of a user are never closed for another user. The
            /// larger one of this and min_pool_size counts.
            min_guaranteed_pool_size: usize = is("0"), integer(0, MANY), Live, Works;
        }
        inherits "general" {
            pool_mode: PoolMode;
            pool_size: usize;
            connect_timeout: Duration;
            idle_timeout: Option<Duration>;
            server_lifetime: Option<Duration>;
            client_idle_timeout: Option<Duration>;
            idle_transaction_timeout: Option<Duration>;
            query_timeout: Option<Duration>;
            transaction_timeout: Option<Duration>;
            prepared_statements_cache_size: usize;
            server_prepared_statements_cache_size: Option<usize>;
            server_tls_mode: ServerTlsMode;
            server_tls_ca_cert: Option<PathBuf>;
            server_tls_crl: Option<PathBuf>;
            server_tls_certificate: Option<PathBuf>;
            server_tls_private_key: Option<PathBuf>;
            server_tls_min_version: TlsVersion;
            server_tls_cipher_suites: Option<Vec<String>>;
        }
    }
    besides {
        group "Parameters" {
            /// Parameters of this pool's server connections; those of `[general]` are added.
            startup_parameters = unset("those of [general]", "{ work_mem = \"64MB\" }"),
                Kind::Own("a table of texts"), NewServers, Works;
        }
        group "Who may log in" {
            /// The users, each in a table `[[pools.NAME.users]]`.
            users = unset("none", "[]"), Kind::Own("a list of tables"), Live, Works;
            /// A query that finds the passwords of further users, in a table
            /// `[pools.NAME.auth_query]`.
            auth_query = unset("that of [general]", "{}"), Kind::Own("a table"), Live, Works;
        }
    }
    also {
        /// The name clients use as database.
        name: String;
        /// How long a client may wait for a server connection.
        query_wait_timeout: Duration;
        /// From which idle time on a connection is tried before use; `None`: never.
        server_idle_check_timeout: Option<Duration>;
        /// Whether the connection unused longest is used first.
        server_round_robin: bool;
        /// How many connections may be opened at the same time: the smaller one of
        /// `max_concurrent_creates` and `scaling_max_parallel_creates`.
        max_concurrent_creates: usize;
        /// Parameters of server connections, those of `[general]` included, names in
        /// canonical spelling.
        startup_parameters: BTreeMap<String, String>;
        /// TLS to PostgreSQL, from the keys `server_tls_*`.
        server_tls: Arc<ServerTls>;
        /// The users, in the order of the file.
        users: Vec<User>;
        /// The `auth_query` table, or that of `[general]`, if there is one.
        auth_query: Option<AuthQuery>;
    }
}

impl Pool {
    /// The user of this name.
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.iter().find(|user| user.username == name)
    }
}

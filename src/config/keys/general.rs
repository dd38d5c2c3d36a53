//! `[general]`: what holds for the whole program, and defaults for all pools.

use super::super::hba::Hba;
use super::super::userlist::FileUsers;
use super::prelude::*;

keys! {
    /// The `[general]` table. Durations and sizes that are `None` are off.
    pub struct General under () {
        group "Where clients connect" {
            /// The addresses to listen on: one, several with commas, or a list.
            /// Empty: no TCP, only the Unix socket.
            host: Vec<String> = is("\"0.0.0.0\""), Kind::List, Restart, Works;
            /// The port to listen on, also part of the Unix socket's name.
            port: u16 = is("5432"), integer(1, 65_535), Restart, Works;
            /// How many connections the kernel may hold that the pooler has not accepted yet.
            /// 0: as many as max_connections, and at least 1024.
            backlog: Option<u32> = is("0"), integer_or_off(MANY), Restart, Works;
            /// Whether other processes may listen on the same port (SO_REUSEPORT). The kernel
            /// then divides clients among them, and a CancelRequest may reach the wrong one.
            so_reuseport: bool = is("false"), Kind::Bool, Restart, Works;
            /// The directory of the Unix socket. The socket's name is `.s.PGSQL.PORT`.
            unix_socket_dir: Option<PathBuf> = unset("no Unix socket", "\"/run/pg_doorman\""),
                Kind::Path, Restart, Works;
            /// The permissions of the Unix socket: who may connect to it.
            unix_socket_mode: u32 = is("\"0600\""), Kind::Permissions, Restart, Works;
            /// How many clients may be connected, console sessions included. A client over the
            /// limit gets error 53300.
            max_connections: usize = is("8192"), integer(1, MANY), NewClients, Works;
            /// How many clients may have a thread of their own. Shared threads drive the others, and
            /// busy clients for which there is no processor. 0: each client has one, as far as the
            /// system's limits on threads allow.
            client_threads: usize = is("64"), integer(0, MANY), Restart, Works;
            /// How many connections may be open whose client has not sent a whole first packet.
            /// At the limit, a connection of the address that has most of them is closed: the
            /// one that has sent nothing for longest. The limit is never more than a quarter of
            /// the limit of open files.
            max_unauthenticated_connections: usize = is("4096"),
                integer(1, MANY), NewClients, Works;
            /// How long a client may take from its first byte to the end of its login.
            client_login_timeout: Option<Duration> = is("\"60s\""),
                duration_or_off(), NewClients, Works;
        }
        group "Console" {
            /// The administrator of the console (database pgdoorman or pgbouncer).
            admin_username: String = required("\"admin\""), Kind::Name, NewClients, Works;
            /// The administrator's password: plain text, a SCRAM verifier or an MD5 hash. The
            /// console asks for it by SCRAM, or by MD5 if this is an MD5 hash.
            admin_password: Secret = required("\"change-me\""), Kind::Secret, NewClients, Works;
            /// A user of the console who may give SHOW and no other command, for monitoring.
            stats_username: Option<String> = unset("none", "\"stats\""), Kind::Name, NewClients, Works;
            /// The password of stats_username: plain text, a SCRAM verifier or an MD5 hash.
            stats_password: Option<Secret> = unset("none", "\"change-me\""),
                Kind::Secret, NewClients, Works;
        }
        group "Users from a file" {
            /// A file of users for all pools, in the form of PgBouncer's userlist.txt:
            /// "name" "password" on each line. The password is what PostgreSQL stores, or in
            /// plain text. Users of a pool come first. A reload reads the file again.
            auth_file: Option<PathBuf> = unset("none", "\"/etc/pg_doorman/userlist.txt\""),
                Kind::Path, NewClients, Works;
        }
        group "Time limits" {
            /// How long a new connection to PostgreSQL may take, from connecting to its
            /// first ReadyForQuery.
            connect_timeout: Duration = is("\"3s\""), duration(), NewServers, Works;
            /// How long a request may wait for a server connection, all reasons of waiting
            /// together. Then the request fails and the session goes on. The error is 53300 if
            /// the pool is full, 08006 or 57P03 if PostgreSQL cannot be reached. 0: no limit.
            query_wait_timeout: Duration = is("\"5s\""), duration_from_zero(), Live, Works;
            /// How long a server connection may be unused before it is closed, give or take a
            /// fifth.
            idle_timeout: Option<Duration> = is("\"10m\""), duration_or_off(), Live, Works;
            /// How old a server connection may get, give or take a fifth. An older one is
            /// closed when no client has it.
            server_lifetime: Option<Duration> = is("\"20m\""), duration_or_off(), Live, Works;
            /// How long a server connection may be unused before it is tried with an empty
            /// query, ahead of the next client.
            server_idle_check_timeout: Option<Duration> = is("\"60s\""),
                duration_or_off(), Live, Works;
            /// How long a client's requests go on after the client has closed its connection
            /// without a Terminate. Then what still runs for the client is canceled. What runs
            /// for a client whose connection is reset is canceled at once.
            client_gone_timeout: Duration = is("\"1s\""), duration_from_zero(), Live, Works;
            /// How long PostgreSQL may read nothing of a request that is being sent to it,
            /// before the server connection is closed. The time counts only while PostgreSQL
            /// owes no earlier reply and gets no data of a COPY.
            server_write_timeout: Duration = is("\"5s\""), duration(), Live, Works;
            /// How long a client that holds a server connection may leave its replies unread,
            /// or send no more of a message that it has begun, before its session is ended. The
            /// time counts only in transaction mode, and only while another client waits for
            /// the pool. 0: no limit.
            client_stall_timeout: Option<Duration> = is("\"60s\""), duration_or_off(), Live, Works;
            /// How long a client without a server connection may send nothing, before its
            /// session is ended with 57P05.
            client_idle_timeout: Option<Duration> = is("0"), duration_with_unit(), Live, Works;
            /// How long a client may send nothing in a transaction, before its session is ended
            /// with 25P03 and the transaction is rolled back.
            idle_transaction_timeout: Option<Duration> = is("0"), duration_with_unit(), Live, Works;
            /// How long a query may take, before it is canceled and the client's session is
            /// ended with 57014. The time in which the client reads the rows is included.
            query_timeout: Option<Duration> = is("0"), duration_with_unit(), Live, Works;
            /// How long a transaction may take, before the client's session is ended with 25P04
            /// and the transaction is rolled back.
            transaction_timeout: Option<Duration> = is("0"), duration_with_unit(), Live, Works;
            /// How long transactions may go on after SIGINT or SHUTDOWN.
            shutdown_timeout: Duration = is("\"10s\""), duration_from_zero(), Live, Works;
            /// How long a client may read nothing in the middle of a row of more than 1 MiB,
            /// before its session is ended to free the server connection. A client that reads
            /// slowly is not ended.
            proxy_copy_data_timeout: Duration = is("\"15s\""), duration(), Live, Works;
        }
        group "Pools" {
            /// How many server connections a user may have in one pool. Users that auth_query
            /// finds share them if it has a server_user.
            pool_size: usize = is("40"), integer(1, MANY), Live, Works;
            /// How long a client keeps its server connection: transaction, until its
            /// transaction ends; session, until it leaves.
            pool_mode: PoolMode = is("\"transaction\""), Kind::OneOf(PoolMode::WORDS), Live, Works;
            /// How long a database that `[pools."*"]` serves may be without clients before its
            /// pools are removed and their server connections closed. 0: never.
            autodb_idle_timeout: Option<Duration> = is("\"1h\""), duration_or_off(), Live, Works;
            /// How many databases `[pools."*"]` may serve at a time. A login to one more gets
            /// error 53300.
            autodb_max_databases: usize = is("1000"), integer(1, MANY), Live, Works;
        }
        group "Server connections" {
            /// How often server connections past their idle_timeout or server_lifetime are
            /// closed, and missing ones of min_pool_size opened.
            retain_connections_time: Duration = is("\"30s\""), duration(), Live, Works;
            /// How many server connections past their time are closed at once, over all pools.
            /// 0: all.
            retain_connections_max: Option<usize> = is("3"), integer_or_off(MANY), Live, Works;
            /// Which free server connection is used first: true, the one unused for longest;
            /// false, the one used last.
            server_round_robin: bool = is("false"), Kind::Bool, Live, Works;
            /// How many server connections a pool may be opening at the same time.
            max_concurrent_creates: usize = is("4"), integer(1, MANY), Live, Works;
            /// A second limit of the server connections that a pool may be opening at the same
            /// time. The smaller one of this and max_concurrent_creates counts.
            scaling_max_parallel_creates: usize = is("2"), integer(1, MANY), Live, Works;
        }
        group "Log" {
            /// Whether each login is logged.
            log_client_connections: bool = is("false"), Kind::Bool, Live, Works;
            /// Whether each end of a client's session is logged, with its reason.
            log_client_disconnections: bool = is("false"), Kind::Bool, Live, Works;
            /// Logs go to this file instead of to standard error. The file is opened anew at
            /// each reload, so that logrotate can move it away. A daemon (option -d) without
            /// log_file and syslog_prog_name logs to /var/log/pg_doorman/pg_doorman.log, or to
            /// syslog if that directory cannot be written to.
            log_file: Option<PathBuf> =
                unset("see syslog_prog_name", "\"/var/log/pg_doorman/pg_doorman.log\""),
                Kind::Path, Restart, Works;
            /// Logs go to syslog under this name instead of to standard error.
            syslog_prog_name: Option<String> = unset("logs go to standard error", "\"pg_doorman\""),
                Kind::Name, Restart, Works;
        }
        group "Process" {
            /// The file in which a daemon (option -d) writes its process id. Unset, it is
            /// /run/pg_doorman/pg_doorman.pid, or pg_doorman.pid in $XDG_RUNTIME_DIR if the
            /// first cannot be written.
            daemon_pid_file: Option<PathBuf> =
                unset("see above", "\"/run/pg_doorman/pg_doorman.pid\""), Kind::Path, Restart, Works;
        }
        group "Sockets, to clients and to PostgreSQL" {
            /// How long a TCP connection may carry nothing before the kernel asks whether the
            /// other side still exists.
            tcp_keepalives_idle: Option<Duration> = is("5"), seconds(Zero::Off), NewConnections, Works;
            /// How long the kernel waits between two keepalive probes. 0: the kernel decides.
            tcp_keepalives_interval: Option<Duration> = is("5"),
                seconds(Zero::Off), NewConnections, Works;
            /// How many keepalive probes may stay unanswered before the connection counts as
            /// dead. 0: the kernel decides.
            tcp_keepalives_count: Option<u32> = is("5"), integer_or_off(127), NewConnections, Works;
            /// Set to 0, closing a client's socket drops unsent data, and clients may read
            /// "connection reset" instead of the last error. Other numbers have no effect: the
            /// pooler itself waits a moment until its last bytes are taken.
            tcp_so_linger: Option<Duration> = unset("the system's way", "0"),
                seconds(Zero::Value), NewConnections, Works;
            /// Whether small packets are sent at once.
            tcp_no_delay: bool = is("true"), Kind::Bool, NewConnections, Works;
            /// How long the other side's host may acknowledge nothing of what was sent, before
            /// the connection counts as lost. A peer that is busy and reads nothing is not
            /// lost.
            tcp_user_timeout: Option<Duration> = is("60"), seconds(Zero::Off), NewConnections, Works;
            /// The kernel's buffer for a TCP socket, each way. 0: the kernel decides.
            tcp_socket_buffer_size: Option<u64> = is("0"), size_or_off(), NewConnections, Works;
            /// The kernel's buffer for a Unix socket, each way. 0: the kernel decides.
            unix_socket_buffer_size: Option<u64> = is("\"1MB\""), size_or_off(), NewConnections, Works;
        }
        group "Memory" {
            /// How many bytes the clients' unfinished messages may take together. Only messages
            /// that cannot be passed on in pieces count, which are the statements that clients
            /// prepare (Parse). A client whose message exceeds the limit gets error 53200. 0:
            /// no limit.
            max_memory_usage: Option<u64> = is("\"256MB\""), size_or_off(), Live, Works;
        }
        group "Prepared statements" {
            /// Whether, in transaction mode, the statements that a client prepares by the
            /// protocol (Parse) follow it from one server connection to the next. If false,
            /// such statements end with the transaction. Statements of SQL's PREPARE end with
            /// the transaction in either case. SQL's EXECUTE finds no statement that follows
            /// its client. In session mode a client's statements are on its own server
            /// connection.
            prepared_statements: bool = is("true"), Kind::Bool, Live, Works;
            /// How many statements are remembered, for all pools together, before statements
            /// that no client has prepared any more are forgotten. Statements that a client has
            /// prepared are always kept. 1 or more while prepared_statements is on.
            prepared_statements_cache_size: usize = is("8192"), integer(0, MANY), Live, Works;
            /// How many statements are kept prepared on one server connection. With more, the
            /// least recently used are closed. 0 keeps none after the transaction. Statements
            /// over 16 KiB are never kept.
            server_prepared_statements_cache_size: Option<usize> =
                unset("1024", "1024"), integer(0, MANY), Live, Works;
            /// How many bytes of statement text are kept prepared on one server connection.
            /// With more, the least recently used statements are closed. 0: no limit.
            server_prepared_statements_memory: Option<u64> =
                is("\"8MB\""), size_or_off(), Live, Works;
            /// How many bytes the prepared statements of one client may take: their texts,
            /// their names, and 256 bytes for each. A Parse over the limit is refused with
            /// 53200 until the client closes statements. Nothing else is kept for a client
            /// without a bound: requests and replies pass in pieces. 0: no limit.
            client_memory_limit: Option<u64> = is("\"256MB\""), size_or_off(), Live, Works;
            /// How many named statements one client may have. A Parse over the limit is refused
            /// with 53400 until the client closes statements. 0: no limit.
            client_prepared_statements_max: Option<usize> = is("10000"),
                integer_or_off(MANY), Live, Works;
            /// A simple query that is answered from memory: with what PostgreSQL last answered
            /// to it in the pool, and without a server connection. The query must match byte
            /// for byte and be outside of a transaction. The answer is used as long as the pool
            /// has a server connection and none is lost. It must be the same for all clients.
            /// Errors are not kept, nor answers of a query that leaves anything behind. An
            /// empty text: no such query.
            pooler_check_query: String = is("\";\""), Kind::Text, Live, Works;
        }
        group "Tokens" {
            /// The claim that names the user in a client's JSON Web Token. Such a user has
            /// jwt-pkey-fpath:FILE as its password.
            jwt_username_claim: String = is("\"preferred_username\""), Kind::Name, NewClients, Works;
            /// The audience that a client's JSON Web Token must be issued for (claim aud).
            jwt_audience: Option<String> = unset("aud is not checked", "\"pg_doorman\""),
                Kind::Name, NewClients, Works;
        }
        group "TLS for clients" {
            /// Whether clients use TLS: never; if they ask for it (allow and prefer); always
            /// (require); always, and with a certificate of their own that tls_ca_cert has
            /// signed (verify-ca and verify-full). Clients of the Unix socket never do.
            tls_mode: Option<ClientTlsMode> =
                unset("allow, if there is a certificate", "\"disable\""),
                Kind::OneOf(ClientTlsMode::WORDS), NewClients, Works;
            /// The certificate shown to clients, followed by its chain (PEM).
            tls_certificate: Option<PathBuf> = unset("no TLS", "\"/etc/pg_doorman/server.crt\""),
                Kind::Path, NewClients, Works;
            /// The private key of tls_certificate, without a passphrase (PEM).
            tls_private_key: Option<PathBuf> = unset("no TLS", "\"/etc/pg_doorman/server.key\""),
                Kind::Path, NewClients, Works;
            /// The authorities whose client certificates are accepted (PEM). If set, clients
            /// are asked for a certificate. Rules of pg_hba can demand one of some clients, by
            /// the method cert or the option clientcert.
            tls_ca_cert: Option<PathBuf> = unset("none", "\"/etc/pg_doorman/clients.crt\""),
                Kind::Path, NewClients, Works;
            /// The client certificates that the authorities of tls_ca_cert have revoked (PEM).
            tls_crl: Option<PathBuf> = unset("none", "\"/etc/pg_doorman/clients.crl\""),
                Kind::Path, NewClients, Works;
            /// The oldest TLS version that clients may use.
            tls_min_version: TlsVersion = is("\"TLSv1.2\""),
                Kind::OneOf(TlsVersion::WORDS), NewClients, Works;
            /// The cipher suites that clients may use, best first, by OpenSSL's names.
            tls_cipher_suites: Option<Vec<String>> =
                unset("all there are", SUITES),
                Kind::List, NewClients, Works;
            /// How many TLS handshakes of clients begin in a second. 0: no limit.
            tls_rate_limit_per_second: Option<u32> = is("0"),
                integer_or_off(MANY), Live, Works;
        }
        group "TLS to PostgreSQL" {
            /// Whether server connections use TLS: never; if PostgreSQL refuses plain ones
            /// (allow); if it offers it (prefer); always (require); always, and its
            /// certificate must be signed by server_tls_ca_cert (verify-ca), and must also
            /// name the server_host (verify-full). Unix sockets never do.
            server_tls_mode: ServerTlsMode = is("\"allow\""),
                Kind::OneOf(ServerTlsMode::WORDS), NewServers, Works;
            /// The authorities that PostgreSQL's certificate must be signed by (PEM).
            server_tls_ca_cert: Option<PathBuf> =
                unset("none", "\"/etc/pg_doorman/postgres-ca.crt\""),
                Kind::Path, NewServers, Works;
            /// The certificates that the authorities of server_tls_ca_cert have revoked (PEM).
            server_tls_crl: Option<PathBuf> = unset("none", "\"/etc/pg_doorman/postgres.crl\""),
                Kind::Path, NewServers, Works;
            /// The certificate shown to PostgreSQL if it asks, followed by its chain (PEM).
            server_tls_certificate: Option<PathBuf> =
                unset("none", "\"/etc/pg_doorman/client.crt\""),
                Kind::Path, NewServers, Works;
            /// The private key of server_tls_certificate, without a passphrase (PEM).
            server_tls_private_key: Option<PathBuf> =
                unset("none", "\"/etc/pg_doorman/client.key\""),
                Kind::Path, NewServers, Works;
            /// The oldest TLS version that is offered to PostgreSQL.
            server_tls_min_version: TlsVersion = is("\"TLSv1.2\""),
                Kind::OneOf(TlsVersion::WORDS), NewServers, Works;
            /// The cipher suites that are offered to PostgreSQL, best first, by OpenSSL's
            /// names.
            server_tls_cipher_suites: Option<Vec<String>> = unset("all there are", SUITES),
                Kind::List, NewServers, Works;
        }
    }
    besides {
        group "Who may log in" {
            /// Rules as in PostgreSQL's pg_hba.conf: the text itself, { path = "FILE" }, or
            /// { content = "TEXT" }.
            pg_hba =
                unset("everybody may try to log in", "{ path = \"/etc/pg_doorman/pg_hba.conf\" }"),
                Kind::Own("the text, or a table with path or content"), NewClients, Works;
            /// User-name maps as in PostgreSQL's pg_ident.conf, for rules of pg_hba with the
            /// option map: the text itself, { path = "FILE" }, or { content = "TEXT" }.
            pg_ident =
                unset("no maps", "{ path = \"/etc/pg_doorman/pg_ident.conf\" }"),
                Kind::Own("the text, or a table with path or content"), NewClients, Works;
            /// Networks from which TCP clients may log in: the older form of pg_hba, and not
            /// together with it.
            hba = unset("from everywhere", "[\"10.0.0.0/8\"]"),
                Kind::Own("a list of networks"), NewClients, Works;
            /// A query that finds the passwords of users that are not in this file, for all
            /// pools without an auth_query table of their own: a table `[general.auth_query]`.
            auth_query = unset("only the users of this file", "{}"),
                Kind::Own("a table"), Live, Works;
        }
        group "TLS for clients" {
            /// Further certificates, for clients that ask for a server by one of the names in
            /// them (SNI). Other clients are shown tls_certificate.
            tls_certificates = unset("none", "[]"),
                Kind::Own("a list of tables"), NewClients, Works;
        }
        group "Parameters" {
            /// Parameters that every server connection is started with, whatever clients say.
            startup_parameters = unset("none", "{ statement_timeout = \"30s\" }"),
                Kind::Own("a table of texts"), NewServers, Works;
        }
    }
    also {
        /// Who may log in, from `pg_hba` or `hba`.
        hba: Hba;
        /// The users of `auth_file`.
        file_users: Arc<FileUsers>;
        /// TLS for clients, from the keys `tls_*`; `None`: it is not offered.
        client_tls: Option<Arc<ClientTls>>;
        /// TLS to PostgreSQL, from the keys `server_tls_*`.
        server_tls: Arc<ServerTls>;
        /// Parameters of every server connection, names in canonical spelling.
        startup_parameters: BTreeMap<String, String>;
    }
}

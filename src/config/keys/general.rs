//! `[general]`: what holds for the whole program, and defaults for all pools.

use super::super::hba::Hba;
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
            /// How many connections the kernel may hold that are not accepted yet.
            /// 0: as many as max_connections, and at least 1024.
            backlog: Option<u32> = is("0"), integer_or_off(MANY), Restart, Works;
            /// Whether other processes may listen on the same port (SO_REUSEPORT). The kernel
            /// then divides clients among them, and a CancelRequest may reach the wrong one.
            so_reuseport: bool = is("false"), Kind::Bool, Restart, Works;
            /// The directory of the Unix socket, whose name there is `.s.PGSQL.PORT`.
            unix_socket_dir: Option<PathBuf> = unset("no Unix socket", "\"/run/pg_doorman\""),
                Kind::Path, Restart, Works;
            /// Who may connect to the Unix socket.
            unix_socket_mode: u32 = is("\"0600\""), Kind::Permissions, Restart, Works;
            /// How many clients may be connected, console sessions included. Those over
            /// the limit are told 53300.
            max_connections: usize = is("8192"), integer(1, MANY), NewClients, Works;
            /// How many connections may be open whose client has sent no whole first packet.
            /// Where that many are, the one that has been silent longest is closed, of the
            /// address with most of them. A quarter of the limit of open files is the most.
            max_unauthenticated_connections: usize = is("4096"),
                integer(1, MANY), NewClients, Works;
            /// How long a client may take from its first byte to the end of its login.
            client_login_timeout: Option<Duration> = is("\"60s\""),
                duration_or_off(), NewClients, Works;
        }
        group "Console" {
            /// The administrator of the console (database pgdoorman or pgbouncer).
            admin_username: String = required("\"admin\""), Kind::Name, NewClients, Works;
            /// The administrator's password: plain text, or what PostgreSQL would store of it.
            /// It is asked for by SCRAM, or by MD5 if only an MD5 hash is here.
            admin_password: Secret = required("\"change-me\""), Kind::Secret, NewClients, Works;
            /// A user of the console who may SHOW and nothing else, for monitoring.
            stats_username: Option<String> = unset("none", "\"stats\""), Kind::Name, NewClients, Works;
            /// The password of stats_username, in the forms of admin_password.
            stats_password: Option<Secret> = unset("none", "\"change-me\""),
                Kind::Secret, NewClients, Works;
        }
        group "Time limits" {
            /// How long a new connection to PostgreSQL may take, from connecting to its
            /// first ReadyForQuery.
            connect_timeout: Duration = is("\"3s\""), duration(), NewServers, Works;
            /// How long a client may wait for a server connection, all reasons of waiting
            /// together. Then its request fails, and the session goes on: 53300 if the pool is
            /// full, 08006 or 57P03 if PostgreSQL cannot be reached.
            query_wait_timeout: Duration = is("\"5s\""), duration_from_zero(), Live, Works;
            /// How long a server connection may be unused before it is closed, give or take a
            /// fifth.
            idle_timeout: Option<Duration> = is("\"10m\""), duration_or_off(), Live, Works;
            /// How old a server connection may get, give or take a fifth; it is closed when it
            /// is next free.
            server_lifetime: Option<Duration> = is("\"20m\""), duration_or_off(), Live, Works;
            /// A server connection unused for longer than this is tried with an empty query
            /// before a client gets it.
            server_idle_check_timeout: Option<Duration> = is("\"60s\""),
                duration_or_off(), Live, Works;
            /// A client that closes its connection without a Terminate may still read what it
            /// asked for. After this time, what still runs for it is canceled. What runs for a
            /// client whose connection is reset is canceled at once.
            client_gone_timeout: Duration = is("\"1s\""), duration_from_zero(), Live, Works;
            /// How long PostgreSQL may read nothing of a request that it has begun to be sent, before
            /// its connection is closed. The time counts only while PostgreSQL owes no other
            /// reply and gets no data of a COPY.
            server_write_timeout: Duration = is("\"5s\""), duration(), Live, Works;
            /// How long a client that holds a server connection may read nothing of what waits for
            /// it, or send nothing more of half a message, before its session is cut off. The
            /// time counts only in transaction mode, and only if another client waits for the
            /// pool. 0: no limit.
            client_stall_timeout: Option<Duration> = is("\"60s\""), duration_or_off(), Live, Works;
            /// How long a client without a server connection may send nothing, before its session
            /// is ended with 57P05.
            client_idle_timeout: Option<Duration> = is("0"), duration_with_unit(), Live, Works;
            /// How long a client may send nothing in a transaction, before its session is ended
            /// with 25P03 and its transaction rolled back.
            idle_transaction_timeout: Option<Duration> = is("0"), duration_with_unit(), Live, Works;
            /// How long a query may take, before it is canceled and its client's session ended with
            /// 57014. This includes the time in which the client reads the rows.
            query_timeout: Option<Duration> = is("0"), duration_with_unit(), Live, Works;
            /// How long a transaction may take, before its client's session is ended with 25P04 and
            /// the transaction rolled back.
            transaction_timeout: Option<Duration> = is("0"), duration_with_unit(), Live, Works;
            /// How long transactions may go on after SIGINT or SHUTDOWN.
            shutdown_timeout: Duration = is("\"10s\""), duration_from_zero(), Live, Works;
            /// How long a client may read nothing in the middle of a row of more than 1 MiB,
            /// before its session is cut off to free the server connection. However slowly it
            /// reads, it is not cut off while it reads.
            proxy_copy_data_timeout: Duration = is("\"15s\""), duration(), Live, Works;
        }
        group "Server connections" {
            /// How often connections past their time are closed and missing ones opened.
            retain_connections_time: Duration = is("\"30s\""), duration(), Live, Works;
            /// How many of them are closed at a time, over all pools. 0: all.
            retain_connections_max: Option<usize> = is("3"), integer_or_off(MANY), Live, Works;
            /// Which free connection is used first: true, the one unused longest; false, the
            /// one used last.
            server_round_robin: bool = is("false"), Kind::Bool, Live, Works;
            /// How many connections a pool may be opening at the same time.
            max_concurrent_creates: usize = is("4"), integer(1, MANY), Live, Works;
            /// A second limit for the same; the smaller one counts.
            scaling_max_parallel_creates: usize = is("2"), integer(1, MANY), Live, Works;
        }
        group "Log" {
            /// Whether each login is logged.
            log_client_connections: bool = is("false"), Kind::Bool, Live, Works;
            /// Whether each client's leaving is logged, with its reason.
            log_client_disconnections: bool = is("false"), Kind::Bool, Live, Works;
            /// Logs go to syslog under this name instead of to standard error.
            syslog_prog_name: Option<String> = unset("logs go to standard error", "\"pg_doorman\""),
                Kind::Name, Restart, Works;
        }
        group "Process" {
            /// Where a daemon (option -d) writes its process id. Unset, it is
            /// /run/pg_doorman/pg_doorman.pid, or pg_doorman.pid in $XDG_RUNTIME_DIR if the
            /// first cannot be written.
            daemon_pid_file: Option<PathBuf> =
                unset("see above", "\"/run/pg_doorman/pg_doorman.pid\""), Kind::Path, Restart, Works;
        }
        group "Sockets, to clients and to PostgreSQL" {
            /// After how long a silence TCP asks whether the other side is still there.
            tcp_keepalives_idle: Option<Duration> = is("5"), seconds(Zero::Off), NewConnections, Works;
            /// How long it waits before it asks again. 0: the system decides.
            tcp_keepalives_interval: Option<Duration> = is("5"),
                seconds(Zero::Off), NewConnections, Works;
            /// How often it asks before the connection counts as dead. 0: the system decides.
            tcp_keepalives_count: Option<u32> = is("5"), integer_or_off(127), NewConnections, Works;
            /// How long closing a client's socket waits for unsent data. Set to 0, clients
            /// may read "connection reset" instead of the last error.
            tcp_so_linger: Option<Duration> = unset("the system's way", "0"),
                seconds(Zero::Value), NewConnections, Works;
            /// Whether small packets are sent at once.
            tcp_no_delay: bool = is("true"), Kind::Bool, NewConnections, Works;
            /// How long the other side's host may acknowledge nothing of what was sent, before its
            /// connection counts as lost. A peer that is busy and reads nothing is not lost.
            tcp_user_timeout: Option<Duration> = is("60"), seconds(Zero::Off), NewConnections, Works;
            /// The kernel's buffer for a TCP socket, each way. 0: the kernel decides.
            tcp_socket_buffer_size: Option<u64> = is("0"), size_or_off(), NewConnections, Works;
            /// The kernel's buffer for a Unix socket, each way. 0: the kernel decides.
            unix_socket_buffer_size: Option<u64> = is("\"1MB\""), size_or_off(), NewConnections, Works;
        }
        group "Memory" {
            /// How much memory the clients' unfinished messages may take together: those that
            /// cannot be passed on in pieces, which are the statements they prepare (Parse). A
            /// client whose message is too much is told 53200. 0: no limit.
            max_memory_usage: Option<u64> = is("\"256MB\""), size_or_off(), Live, Works;
        }
        group "Prepared statements" {
            /// Whether, in transaction mode, the statements a client prepares by the protocol
            /// (Parse) follow it from one server connection to the next. If not, they end
            /// with the transaction. Statements of SQL's PREPARE end with the transaction in
            /// either case. SQL's EXECUTE finds no statement that follows its client. In
            /// session mode a client's statements are on its own server connection.
            prepared_statements: bool = is("true"), Kind::Bool, Live, Works;
            /// How many statements are remembered, for all pools together, before those that
            /// no client has prepared any more are forgotten. Those that clients have are
            /// kept, however many there are. 1 or more while prepared_statements is on.
            prepared_statements_cache_size: usize = is("8192"), integer(0, MANY), Live, Works;
            /// How many statements are kept prepared on one server connection; with more, the
            /// least recently used are closed. 0: none is kept beyond its transaction, as none of
            /// more than 16 KiB ever is.
            server_prepared_statements_cache_size: Option<usize> =
                unset("1024", "1024"), integer(0, MANY), Live, Works;
            /// How many bytes of statements' texts are kept prepared on one server connection;
            /// with more, the least recently used are closed. 0: no limit.
            server_prepared_statements_memory: Option<u64> =
                is("\"8MB\""), size_or_off(), Live, Works;
            /// How many bytes of prepared statements, texts and names, one client may have the
            /// pooler keep, 256 bytes for each counted as well. Another Parse is refused with
            /// 53200 until the client closes some. Nothing else of a client is kept without a
            /// bound: its replies and requests pass in pieces. 0: no limit.
            client_memory_limit: Option<u64> = is("\"256MB\""), size_or_off(), Live, Works;
            /// How many named statements one client may have. Another Parse is refused with 53400
            /// until it closes some. 0: as many as it likes.
            client_prepared_statements_max: Option<usize> = is("10000"),
                integer_or_off(MANY), Live, Works;
            /// How many unnamed statements are remembered for one client. 0: all.
            client_anonymous_prepared_cache_size: Option<usize> =
                unset("as prepared_statements_cache_size", "256"),
                integer(0, MANY), NewClients, Ignored(ONE_UNNAMED);
            /// How often unused statement texts are looked for, in seconds.
            query_interner_gc_interval_seconds: usize = is("60"),
                integer(1, MANY), Live, Ignored(FORGOTTEN_BY_NUMBER);
            /// How long the text of an unused unnamed statement is kept, in seconds.
            query_interner_anon_idle_ttl_seconds: Option<usize> = is("60"),
                integer_or_off(MANY), Live, Ignored(FORGOTTEN_BY_NUMBER);
            /// A simple query that, outside of a transaction and byte for byte, is answered with
            /// what PostgreSQL last answered to it in the same pool, without a server connection,
            /// for as long as the pool has one and none is lost. Its answer has to be the same for
            /// all clients; errors, and what leaves anything behind, are not kept. An empty text:
            /// none.
            pooler_check_query: String = is("\";\""), Kind::Text, Live, Works;
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
            /// Its private key, without a passphrase (PEM).
            tls_private_key: Option<PathBuf> = unset("no TLS", "\"/etc/pg_doorman/server.key\""),
                Kind::Path, NewClients, Works;
            /// The authorities whose client certificates are accepted (PEM). Clients are then
            /// asked for one; pg_hba rules can demand it of some, by the method cert or the
            /// option clientcert.
            tls_ca_cert: Option<PathBuf> = unset("none", "\"/etc/pg_doorman/clients.crt\""),
                Kind::Path, NewClients, Works;
            /// The client certificates that those have revoked (PEM).
            tls_crl: Option<PathBuf> = unset("none", "\"/etc/pg_doorman/clients.crl\""),
                Kind::Path, NewClients, Works;
            /// The oldest version that is accepted.
            tls_min_version: TlsVersion = is("\"TLSv1.2\""),
                Kind::OneOf(TlsVersion::WORDS), NewClients, Works;
            /// The suites that are accepted, best first, by OpenSSL's names.
            tls_cipher_suites: Option<Vec<String>> =
                unset("all there are", SUITES),
                Kind::List, NewClients, Works;
            /// How many TLS handshakes are begun in a second.
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
            /// The certificates that those have revoked (PEM).
            server_tls_crl: Option<PathBuf> = unset("none", "\"/etc/pg_doorman/postgres.crl\""),
                Kind::Path, NewServers, Works;
            /// The certificate shown to PostgreSQL if it asks, followed by its chain (PEM).
            server_tls_certificate: Option<PathBuf> =
                unset("none", "\"/etc/pg_doorman/client.crt\""),
                Kind::Path, NewServers, Works;
            /// Its private key, without a passphrase (PEM).
            server_tls_private_key: Option<PathBuf> =
                unset("none", "\"/etc/pg_doorman/client.key\""),
                Kind::Path, NewServers, Works;
            /// The oldest version that is offered.
            server_tls_min_version: TlsVersion = is("\"TLSv1.2\""),
                Kind::OneOf(TlsVersion::WORDS), NewServers, Works;
            /// The suites that are offered, best first, by OpenSSL's names.
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
            /// option map, in the same forms.
            pg_ident =
                unset("no maps", "{ path = \"/etc/pg_doorman/pg_ident.conf\" }"),
                Kind::Own("the text, or a table with path or content"), NewClients, Works;
            /// The older form: networks from which TCP clients may log in. Not together with
            /// pg_hba.
            hba = unset("from everywhere", "[\"10.0.0.0/8\"]"),
                Kind::Own("a list of networks"), NewClients, Works;
        }
        group "TLS for clients" {
            /// Further certificates, for clients that ask for a server by a name of one of them
            /// (SNI). All others are shown tls_certificate.
            tls_certificates = unset("none", "[]"),
                Kind::Own("a list of tables"), NewClients, Works;
        }
        group "Parameters" {
            /// Parameters that every server connection is started with, whatever clients say.
            startup_parameters = unset("none", "{ statement_timeout = \"30s\" }"),
                Kind::Own("a table of texts"), NewServers, Works;
        }
        group "Accepted, without effect" {
            /// Whether clients' parameters are set on the server connection they get.
            sync_server_parameters = is("false"),
                Kind::Bool, Live, Ignored("clients' parameters are always in effect");
            /// The size from which a server's message is passed on in pieces.
            message_size_to_be_stream = is("\"1MB\""),
                size_or_off(), Live, Ignored(ALWAYS_STREAMED);
            /// How full a pool may be and still open connections without waiting, in percent.
            scaling_warm_pool_ratio = is("20"), integer(0, 100), Live, Ignored(STRICT_QUEUE);
            /// How often a client tries again before it waits.
            scaling_fast_retries = is("10"), integer(0, MANY), Live, Ignored(STRICT_QUEUE);
            /// The old name of client_anonymous_prepared_cache_size.
            client_prepared_statements_cache_size = unset("see there", "256"),
                integer(0, MANY), NewClients, Alias("client_anonymous_prepared_cache_size");
            /// Threads of the async runtime.
            worker_threads = is("4"), Kind::Any, Restart, Ignored(RUNTIME);
            /// Whether those are bound to processors.
            worker_cpu_affinity_pinning = is("false"), Kind::Any, Restart, Ignored(RUNTIME);
            /// Their stack.
            worker_stack_size = unset("the system's", "\"8MB\""),
                Kind::Any, Restart, Ignored(RUNTIME);
            /// Its threads for blocking calls.
            max_blocking_threads = unset("its own", "64"), Kind::Any, Restart, Ignored(RUNTIME);
            /// How often its shared queue is looked at.
            tokio_global_queue_interval = unset("its own", "5"),
                Kind::Any, Restart, Ignored(RUNTIME);
            /// How often it looks for events.
            tokio_event_interval = unset("its own", "1"), Kind::Any, Restart, Ignored(RUNTIME);
            /// Where Patroni answers.
            patroni_api_urls = unset("none", "[\"http://10.0.0.1:8008\"]"),
                Kind::Any, Live, Ignored(PATRONI);
            /// How long a failed server is not tried.
            fallback_cooldown = unset("its own", "\"30s\""), Kind::Any, Live, Ignored(PATRONI);
            /// How long Patroni may take to answer.
            patroni_api_timeout = unset("its own", "\"5s\""), Kind::Any, Live, Ignored(PATRONI);
            /// How long connecting to another member may take.
            fallback_connect_timeout = unset("its own", "\"5s\""),
                Kind::Any, Live, Ignored(PATRONI);
            /// How old a connection to another member may get.
            fallback_lifetime = unset("its own", "\"30s\""), Kind::Any, Live, Ignored(PATRONI);
        }
    }
    also {
        /// Who may log in, from `pg_hba` or `hba`.
        hba: Hba;
        /// TLS for clients, from the keys `tls_*`; `None`: it is not offered.
        client_tls: Option<Arc<ClientTls>>;
        /// TLS to PostgreSQL, from the keys `server_tls_*`.
        server_tls: Arc<ServerTls>;
        /// Parameters of every server connection, names in canonical spelling.
        startup_parameters: BTreeMap<String, String>;
    }
}

//! What the steps that every request goes through cost, each by itself: no client, no PostgreSQL, no
//! network in between. `bench/run` says how fast the pooler is; this says where a change of that came
//! from.
//!
//! Each operation runs in rounds of about equal length, after a warm-up. Printed are the median of the
//! rounds and the fastest, in nanoseconds per operation: where they are far apart the machine was doing
//! something else, and neither is worth much.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use pg_doorman::auth::{ServerCredentials, ServerSecret};
use pg_doorman::net::address::Address;
use pg_doorman::net::clock::MonotonicTime;
use pg_doorman::net::encrypted::Encrypted;
use pg_doorman::net::fd_channel::FdChannel;
use pg_doorman::net::stream::SocketOptions;
use pg_doorman::pool::pool::{Pool, Request};
use pg_doorman::pool::pool_config::{Login, Mode, Origin, PoolConfig, Timeouts};
use pg_doorman::pool::totals::Counters;
use pg_doorman::pool::waiter::Waiter;
use pg_doorman::relay::output::{Output, Pieces};
use pg_doorman::relay::session::{Rules, Session};
use pg_doorman::relay::shared_statements::SharedStatements as _;
use pg_doorman::server::backend::{Backend, BackendKey};
use pg_doorman::server::dirty::{self, DirtyState};
use pg_doorman::server::parameters::Parameters;
use pg_doorman::server::prepared::Prepared;
use pg_doorman::server::server_tls::Encryption;
use pg_doorman::session::statement_registry::StatementRegistry;
use pg_doorman::upgrade::messages::{self, Moved, Standing};
use pg_doorman::wire::backend::{self, TransactionStatus};
use pg_doorman::wire::{frontend, write};

/// How thorough a run is.
struct Effort {
    warm_up: Duration,
    round: Duration,
    rounds: usize,
}

/// For `cargo bench`.
const THOROUGH: Effort = Effort {
    warm_up: Duration::from_millis(200),
    round: Duration::from_millis(50),
    rounds: 21,
};

/// For whoever only wants to know that everything still runs.
const GLANCE: Effort = Effort {
    warm_up: Duration::from_millis(1),
    round: Duration::from_millis(1),
    rounds: 1,
};

/// Runs operations and prints what they cost.
struct Bench {
    effort: Effort,
    /// Only operations with this in their name.
    wanted: Option<String>,
}

impl Bench {
    fn from_arguments() -> Bench {
        // Cargo says --bench when it is asked for a benchmark and not for a test of all targets.
        let thorough = std::env::args().any(|argument| argument == "--bench");
        let wanted = std::env::args()
            .skip(1)
            .find(|argument| !argument.starts_with("--"));
        Bench {
            effort: if thorough { THOROUGH } else { GLANCE },
            wanted,
        }
    }

    fn measure(&self, name: &str, mut operation: impl FnMut()) {
        if self
            .wanted
            .as_ref()
            .is_some_and(|wanted| !name.contains(wanted.as_str()))
        {
            return;
        }
        // The clock is read once per batch, or it would be most of what is measured.
        let mut batch: u32 = 1;
        let started = Instant::now();
        let each = loop {
            let took = timed(batch, &mut operation);
            if started.elapsed() >= self.effort.warm_up {
                break took / batch;
            }
            batch = batch.saturating_mul(2).min(1 << 16);
        };
        let operations = self.effort.round.as_nanos() / each.as_nanos().max(1);
        let operations = u32::try_from(operations).unwrap_or(u32::MAX).max(1);
        let mut rounds: Vec<f64> = (0..self.effort.rounds)
            .map(|_| timed(operations, &mut operation).as_secs_f64() * 1e9 / f64::from(operations))
            .collect();
        rounds.sort_by(f64::total_cmp);
        let (median, fastest) = (rounds[rounds.len() / 2], rounds[0]);
        println!("{name:<46} {median:>10.1} {fastest:>10.1}");
    }
}

fn timed(count: u32, operation: &mut impl FnMut()) -> Duration {
    let started = Instant::now();
    for _ in 0..count {
        operation();
    }
    started.elapsed()
}

fn main() -> io::Result<()> {
    let bench = Bench::from_arguments();
    println!(
        "{:<46} {:>10} {:>10}",
        "ns per operation", "median", "fastest"
    );
    simple_query(&bench);
    prepared_hit(&bench);
    rows(&bench);
    scans(&bench);
    statement_hit(&bench);
    comparisons(&bench);
    moves(&bench)?;
    pool_turn(&bench)
}

// ---- the relay ----

/// A session between its client and a server connection, and what it wants written.
struct Relay {
    session: Session,
    /// The server connection while the session has none.
    spare: Option<Box<Backend>>,
    rules: Rules,
    statements: StatementRegistry,
    out: Output,
}

impl Relay {
    fn new() -> Relay {
        let reported = Arc::new(settings());
        let rules = Rules {
            mode: Mode::Transaction,
            follow_statements: true,
            prepared_cache: 1000,
            prepared_per_server: 1000,
            prepared_bytes_per_server: usize::MAX,
            memory_per_client: usize::MAX,
            prepared_per_client: 10_000,
            clean: true,
            log_parameters: false,
        };
        let key = BackendKey::new(
            1,
            Address::Unix("/run/postgresql".into()),
            1,
            vec![0; 4],
            None,
        );
        let backend = Backend {
            news: None,
            key: Arc::new(key),
            used_at: MonotonicTime::now(),
            epoch: 0,
            fresh: Arc::clone(&reported),
            reported: Arc::clone(&reported),
            applied: Arc::default(),
            dirty: DirtyState::NONE,
            status: TransactionStatus::Idle,
            prepared: Prepared::default(),
            permit: None,
        };
        Relay {
            session: Session::new(
                1,
                vec![0; 4],
                "shop".into(),
                "app".into(),
                Address::Unix("/run/pg_doorman".into()),
                MonotonicTime::now(),
                rules,
                reported,
                Arc::default(),
                Arc::default(),
            ),
            spare: Some(Box::new(backend)),
            rules,
            statements: StatementRegistry::default(),
            out: Output::default(),
        }
    }

    fn lend(&mut self) {
        if let Some(backend) = self.spare.take() {
            self.session
                .take_connection(backend, self.rules, false, &mut self.out);
        }
    }

    fn client_sends(&mut self, bytes: &[u8]) {
        let step = self
            .session
            .take_from_client(bytes, &self.statements, &mut self.out);
        assert!(step.is_ok_and(|(consumed, _)| consumed == bytes.len()));
        pretend_to_write(&mut self.out.server, bytes);
    }

    fn server_sends(&mut self, bytes: &[u8]) {
        let step = self
            .session
            .take_from_server(bytes, &self.statements, &mut self.out);
        assert!(step.is_ok_and(|consumed| consumed == bytes.len()));
        pretend_to_write(&mut self.out.client, bytes);
    }

    /// A transaction: a connection is lent, requests and replies pass, and it is given back.
    fn transaction(&mut self, requests: &[u8], replies: &[u8]) {
        self.lend();
        self.client_sends(requests);
        self.server_sends(replies);
        self.spare = self.session.give_up_connection();
    }
}

fn pretend_to_write(pieces: &mut Pieces, input: &[u8]) {
    match pieces.single(input) {
        Some(slice) => {
            black_box(slice);
        }
        None => pieces.slices(input).for_each(|slice| {
            black_box(&*slice);
        }),
    }
    pieces.clear();
}

/// What PostgreSQL 17 reports after login.
fn settings() -> Parameters {
    let mut parameters = Parameters::default();
    for (name, value) in [
        ("application_name", "shop"),
        ("client_encoding", "UTF8"),
        ("DateStyle", "ISO, MDY"),
        ("default_transaction_read_only", "off"),
        ("in_hot_standby", "off"),
        ("integer_datetimes", "on"),
        ("IntervalStyle", "postgres"),
        ("is_superuser", "off"),
        ("scram_iterations", "4096"),
        ("search_path", "\"$user\", public"),
        ("server_encoding", "UTF8"),
        ("server_version", "17.2"),
        ("session_authorization", "app"),
        ("standard_conforming_strings", "on"),
        ("TimeZone", "Etc/UTC"),
    ] {
        parameters.set(name, value.as_bytes());
    }
    parameters
}

/// The type of a column of integers.
const INT4: u32 = 23;

fn simple_query(bench: &Bench) {
    let mut requests = Vec::new();
    frontend::query(
        &mut requests,
        "SELECT abalance FROM pgbench_accounts WHERE aid = 4711;",
    );
    let mut replies = Vec::new();
    backend::row_description(&mut replies, &[("abalance", INT4)]);
    backend::data_row(&mut replies, &["0"]);
    backend::command_complete(&mut replies, "SELECT 1");
    backend::ready_for_query(&mut replies, TransactionStatus::Idle);
    let mut relay = Relay::new();
    bench.measure("relay: a simple query and its reply", || {
        relay.transaction(black_box(&requests), black_box(&replies));
    });
}

fn prepared_hit(bench: &Bench) {
    let mut first = Vec::new();
    write::message(&mut first, frontend::PARSE, |body| {
        write::c_string(body, b"P_1");
        write::c_string(
            body,
            b"SELECT abalance FROM pgbench_accounts WHERE aid = $1;",
        );
        body.extend_from_slice(&[0, 0]);
    });
    frontend::bare(&mut first, frontend::SYNC);
    let mut first_reply = Vec::new();
    write::message(&mut first_reply, backend::PARSE_COMPLETE, |_| {});
    backend::ready_for_query(&mut first_reply, TransactionStatus::Idle);

    let mut requests = Vec::new();
    write::message(&mut requests, frontend::BIND, |body| {
        write::c_string(body, b"");
        write::c_string(body, b"P_1");
        // No formats, one parameter, no result formats.
        body.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 4]);
        body.extend_from_slice(b"4711");
        body.extend_from_slice(&[0, 0]);
    });
    write::message(&mut requests, frontend::EXECUTE, |body| {
        write::c_string(body, b"");
        body.extend_from_slice(&[0; 4]);
    });
    frontend::bare(&mut requests, frontend::SYNC);
    let mut replies = Vec::new();
    write::message(&mut replies, backend::BIND_COMPLETE, |_| {});
    backend::data_row(&mut replies, &["0"]);
    backend::command_complete(&mut replies, "SELECT 1");
    backend::ready_for_query(&mut replies, TransactionStatus::Idle);

    let mut relay = Relay::new();
    relay.transaction(&first, &first_reply);
    bench.measure("relay: Bind, Execute, Sync of a known statement", || {
        relay.transaction(black_box(&requests), black_box(&replies));
    });
}

fn rows(bench: &Bench) {
    let mut query = Vec::new();
    frontend::query(&mut query, "SELECT * FROM t");
    let mut rows = Vec::new();
    let value = "x".repeat(96);
    while rows.len() < 16 * 1024 {
        backend::data_row(&mut rows, &["4711", &value]);
    }
    let mut relay = Relay::new();
    relay.lend();
    relay.client_sends(&query);
    bench.measure("relay: 16 KiB of rows of 100 bytes", || {
        relay.server_sends(black_box(&rows));
    });
}

// ---- texts, statements, settings ----

/// SQL of this length in which nothing leaves a trace.
fn harmless_sql(length: usize) -> Vec<u8> {
    b"SELECT abalance, filler FROM pgbench_accounts WHERE aid = 4711 AND bid IN (1, 2, 3) ORDER BY 1; "
        .iter()
        .copied()
        .cycle()
        .take(length)
        .collect()
}

fn scans(bench: &Bench) {
    for (name, length) in [
        ("traces: 100 bytes of text", 100),
        ("traces: 16 KiB of text", 16 * 1024),
    ] {
        let text = harmless_sql(length);
        assert!(dirty::of_text(&text).is_clean());
        bench.measure(name, || {
            black_box(dirty::of_text(black_box(&text)));
        });
    }
}

fn statement_hit(bench: &Bench) {
    let statements = StatementRegistry::default();
    let definition = |number: usize| {
        let mut definition = harmless_sql(100);
        definition.extend_from_slice(format!("-- {number}\0\0\0").as_bytes());
        definition
    };
    let under = std::sync::Arc::from(&b"="[..]);
    let held: Vec<_> = (0..1000)
        .map(|number| statements.intern(&definition(number), &under, 1000))
        .collect();
    let wanted = definition(held.len() / 2);
    bench.measure("statements: one of 1000, known", || {
        black_box(statements.intern(black_box(&wanted), &under, 1000));
    });
}

fn comparisons(bench: &Bench) {
    let reported_to_client = Arc::new(settings());
    let same = Arc::clone(&reported_to_client);
    let equal = Arc::new(settings());
    // As the relay does it: by address first, in full only if that fails.
    let are_equal = |one: &Arc<Parameters>, other: &Arc<Parameters>| {
        Arc::ptr_eq(one, other) || one.differing_from(other).next().is_none()
    };
    bench.measure("settings: compared, one copy", || {
        black_box(are_equal(black_box(&reported_to_client), black_box(&same)));
    });
    bench.measure("settings: compared, two equal copies", || {
        black_box(are_equal(black_box(&reported_to_client), black_box(&equal)));
    });
}

// ---- the pool ----

fn pool_turn(bench: &Bench) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    let server = std::thread::spawn(move || log_one_in(&listener));
    let (notify, _rung) = crossbeam::channel::bounded(1);
    let numbers = Arc::new(AtomicU64::new(1));
    let pool = Pool::new(
        "shop",
        "app",
        config(port),
        numbers,
        pg_doorman::pool::database_limit::DatabasePermits::new(notify),
    );
    let waiter = Arc::<Waiter>::default();
    assert!(matches!(pool.request(&waiter), Ok(Request::Queued)));
    let deadline = MonotonicTime::now().after(Duration::from_secs(30));
    let Ok((connection, _)) = pool.wait(&waiter, deadline, || false) else {
        return Err(io::Error::other("no connection"));
    };
    let work = Counters {
        transactions: 1,
        ..Counters::default()
    };
    pool.give_back(connection, &work, MonotonicTime::now());
    bench.measure(
        "pool: lent and given back, nobody else there",
        || match pool.request(black_box(&waiter)) {
            Ok(Request::Met(connection)) => {
                pool.give_back(connection, black_box(&work), MonotonicTime::now())
            }
            other => unreachable!("{other:?}"),
        },
    );
    drop(server.join());
    Ok(())
}

// ---- the hand-over ----

/// A silent session is written down, passed through a socket pair, and read.
fn moves(bench: &Bench) -> io::Result<()> {
    let relay = Relay::new();
    let moved = || Moved {
        session: &relay.session,
        apart: Vec::new(),
        standing: Standing::default(),
        reported_to_client: None,
        server_deadline: None,
        client_tls: None::<&Encrypted>,
        server_tls: None,
    };
    let mut words = Vec::new();
    bench.measure("hand-over: a silent session is written", || {
        words.clear();
        let _ = ciborium::into_writer(&moved(), &mut words);
        black_box(&words);
    });
    let (mut ours, theirs) = FdChannel::pair()?;
    let mut theirs = FdChannel::over(theirs);
    bench.measure("hand-over: written, passed and read", || {
        let moved = messages::post_named(&mut ours, "Session", &moved(), Vec::new())
            .and_then(|()| ours.flush())
            .and_then(|()| theirs.fill())
            .and_then(|()| messages::take(&mut theirs));
        assert!(matches!(black_box(moved), Ok(Some(_))));
    });
    Ok(())
}

/// A server's start-up and not a word more: the pool asks for nothing else.
fn log_one_in(listener: &TcpListener) -> io::Result<TcpStream> {
    let (mut stream, _) = listener.accept()?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut packet = vec![0; (u32::from_be_bytes(length) as usize).saturating_sub(4)];
    stream.read_exact(&mut packet)?;
    let mut answer = Vec::new();
    backend::authentication_ok(&mut answer);
    backend::backend_key_data(&mut answer, 1, b"none");
    backend::ready_for_query(&mut answer, TransactionStatus::Idle);
    stream.write_all(&answer)?;
    // Kept open: dropped with the thread's result.
    Ok(stream)
}

fn config(port: u16) -> PoolConfig {
    PoolConfig {
        origin: Origin::Configured,
        size: 1,
        min_size: 0,
        mode: Mode::Transaction,
        query_wait_timeout: Duration::from_secs(5),
        timeouts: Timeouts::default(),
        idle_timeout: Some(Duration::from_secs(600)),
        server_lifetime: Some(Duration::from_secs(3600)),
        idle_check: None,
        round_robin: false,
        database_limit: None,
        parallel_creates: 1,
        clean: true,
        prepared_statements: true,
        prepared_cache: 1000,
        prepared_per_server: 1000,
        prepared_bytes_per_server: usize::MAX,
        memory_per_client: usize::MAX,
        prepared_per_client: 10_000,
        host: "127.0.0.1".into(),
        port,
        server_database: "shop".into(),
        login: Login::Given(ServerCredentials {
            user: "app".into(),
            secret: ServerSecret::None,
        }),
        startup_parameters: BTreeMap::new(),
        application_name: "pg_doorman".into(),
        connect_timeout: Duration::from_secs(5),
        encryption: Encryption::none(),
        sockets: SocketOptions::default(),
        check_query: ";".into(),
        log_parameter_changes: false,
    }
}

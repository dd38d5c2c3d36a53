//! Pools against a listener that speaks PostgreSQL's start-up and not a word more.
//!
//! What is asked here is who gets which connection and how many there are, in states a real server cannot
//! be brought into: a login that hangs until it is let through, a server that refuses exactly one of
//! them. Nothing is timed; what is awaited is a condition, and a test that waits in vain for half a
//! minute has failed.

mod changes;
mod check;
mod database_limit;
mod failure;
mod maintenance;
mod numbers;
mod queue;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::database_limit::DatabasePermits;
use super::pool::{NoConnection, Pool, Request, Snapshot};
use super::pool_config::{Login, Mode, Origin, PoolConfig, Timeouts};
use super::totals::Counters;
use super::waiter::Waiter;
use crate::auth::{ServerCredentials, ServerSecret};
use crate::net::clock::MonotonicTime;
use crate::net::stream::SocketOptions;
use crate::server::backend::Connection;
use crate::server::server_tls::Encryption;
use crate::wire::backend::{self, TransactionStatus};
use crate::wire::error::{Severity, error_response};
use crate::wire::sqlstate;

/// Longer than anything here takes.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// Waits for a condition that another thread brings about.
pub(crate) fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = MonotonicTime::now().after(LONG);
    while !condition() {
        assert!(MonotonicTime::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What the server does with the next logins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    /// Lets them in.
    Open,
    /// Lets them wait.
    Shut,
    /// Sends them away, because of who they are.
    Refusing,
    /// Sends them away, since there is no place.
    Full,
}

#[derive(Debug)]
struct Gate {
    door: Door,
    /// What becomes of single ones although it is shut.
    exceptions: VecDeque<Door>,
    inside: Vec<TcpStream>,
}

/// The server's side.
#[derive(Debug)]
struct Shared {
    port: u16,
    gate: Mutex<Gate>,
    turned: Condvar,
    attempts: AtomicUsize,
    ended: AtomicBool,
}

/// A server that logs everybody in, or not, and then says nothing.
pub(crate) struct Server(Arc<Shared>);

impl Server {
    pub(crate) fn start() -> Server {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let house = Arc::new(Shared {
            port: listener.local_addr().unwrap().port(),
            gate: Mutex::new(Gate {
                door: Door::Open,
                exceptions: VecDeque::new(),
                inside: Vec::new(),
            }),
            turned: Condvar::new(),
            attempts: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
        });
        let porter = Arc::clone(&house);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if porter.ended.load(Ordering::Acquire) {
                    return;
                }
                let number = porter.attempts.fetch_add(1, Ordering::AcqRel);
                let porter = Arc::clone(&porter);
                // A pooler that has given up on the login is no failure of the test.
                std::thread::spawn(move || porter.receive(stream.ok()?, number));
            }
        });
        Server(house)
    }

    fn set(&self, door: Door) {
        self.0.gate.lock().door = door;
        self.0.turned.notify_all();
    }

    /// Lets one in although the door is shut.
    fn pass_one(&self) {
        self.except_one(Door::Open);
    }

    /// Does this to one of those that wait, or to the first that comes.
    fn except_one(&self, door: Door) {
        self.0.gate.lock().exceptions.push_back(door);
        self.0.turned.notify_all();
    }

    fn attempts(&self) -> usize {
        self.0.attempts.load(Ordering::Acquire)
    }

    /// Closes all connections.
    pub(crate) fn hang_up(&self) {
        for stream in self.0.gate.lock().inside.drain(..) {
            stream.shutdown(Shutdown::Both).unwrap();
        }
    }

    /// How many connections the pooler has open.
    fn open(&self) -> usize {
        let mut gate = self.0.gate.lock();
        gate.inside.retain(|stream| {
            // A Terminate or an end: either way it is gone.
            stream.set_nonblocking(true).unwrap();
            stream.peek(&mut [0]).is_err()
        });
        gate.inside.len()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
        self.set(Door::Refusing);
        let _ = TcpStream::connect(("127.0.0.1", self.0.port));
    }
}

impl Shared {
    fn receive(&self, mut stream: TcpStream, number: usize) -> Option<()> {
        let mut length = [0; 4];
        stream.read_exact(&mut length).ok()?;
        let mut packet = vec![0; u32::from_be_bytes(length) as usize - 4];
        stream.read_exact(&mut packet).ok()?;
        let mut gate = self.gate.lock();
        let verdict = loop {
            if gate.door != Door::Shut {
                break gate.door;
            }
            if let Some(door) = gate.exceptions.pop_front() {
                break door;
            }
            self.turned.wait(&mut gate);
        };
        let mut answer = Vec::new();
        if verdict != Door::Open {
            let code = match verdict {
                Door::Full => sqlstate::TOO_MANY_CONNECTIONS,
                _ => sqlstate::INVALID_PASSWORD,
            };
            error_response(&mut answer, Severity::Fatal, code, "not today");
            return stream.write_all(&answer).ok();
        }
        backend::authentication_ok(&mut answer);
        backend::parameter_status(&mut answer, b"server_version", b"17.0");
        let port = self.port.to_string();
        backend::parameter_status(&mut answer, b"port_of_test", port.as_bytes());
        let process_id = i32::try_from(number).ok()?;
        backend::backend_key_data(&mut answer, process_id, b"sec.");
        backend::ready_for_query(&mut answer, TransactionStatus::Idle);
        stream.write_all(&answer).ok()?;
        gate.inside.push(stream);
        Some(())
    }
}

pub(crate) fn config(server: &Server, size: usize) -> PoolConfig {
    PoolConfig {
        origin: Origin::Configured,
        size,
        min_size: 0,
        mode: Mode::Transaction,
        query_wait_timeout: LONG,
        timeouts: Timeouts::default(),
        idle_timeout: None,
        server_lifetime: None,
        idle_check: None,
        round_robin: false,
        database_limit: None,
        parallel_creates: 4,
        clean: true,
        prepared_statements: true,
        prepared_cache: 10,
        prepared_per_server: 10,
        prepared_per_client: 10,
        prepared_bytes_per_server: usize::MAX,
        memory_per_client: usize::MAX,
        host: "127.0.0.1".into(),
        port: server.0.port,
        server_database: "db".into(),
        login: Login::Given(ServerCredentials {
            user: "user".into(),
            secret: ServerSecret::None,
        }),
        startup_parameters: std::collections::BTreeMap::new(),
        application_name: "pg_doorman".into(),
        connect_timeout: LONG,
        encryption: Encryption::none(),
        sockets: SocketOptions::default(),
        check_query: ";".into(),
        log_parameter_changes: false,
    }
}

pub(crate) fn pool_of(config: PoolConfig) -> Arc<Pool> {
    let (notify, _) = crossbeam::channel::bounded(1);
    let numbers = Arc::new(AtomicU64::new(1));
    Pool::new("db", "user", config, numbers, DatabasePermits::new(notify))
}

fn pool(server: &Server, size: usize) -> Arc<Pool> {
    pool_of(config(server, size))
}

fn never() -> bool {
    false
}

fn obtain_until(
    pool: &Arc<Pool>,
    waiter: &Arc<Waiter>,
    deadline: MonotonicTime,
) -> Result<Connection, NoConnection> {
    match pool.request(waiter)? {
        Request::Met(connection) => Ok(connection),
        Request::Queued => pool
            .wait(waiter, deadline, never)
            .map(|(connection, _)| connection),
    }
}

fn obtain(pool: &Arc<Pool>) -> Result<Connection, NoConnection> {
    obtain_until(pool, &Arc::default(), MonotonicTime::now().after(LONG))
}

fn number(connection: &Connection) -> u64 {
    connection.backend.key.id
}

fn give_back(pool: &Arc<Pool>, connection: Connection) {
    pool.give_back(connection, &Counters::default(), MonotonicTime::now());
}

/// Lends out `count` connections at the same time.
fn check_out(pool: &Arc<Pool>, count: usize) -> Vec<Connection> {
    (0..count).map(|_| obtain(pool).unwrap()).collect()
}

/// Lets the pool have `count` idle connections; their numbers, in the order in which they came back.
fn fill(pool: &Arc<Pool>, count: usize) -> Vec<u64> {
    let in_use = check_out(pool, count);
    let numbers = in_use.iter().map(number).collect();
    for connection in in_use {
        give_back(pool, connection);
    }
    numbers
}

fn idle_numbers(pool: &Arc<Pool>) -> Vec<u64> {
    let mut numbers = Vec::new();
    pool.for_each_idle(|connection| numbers.push(number(connection)));
    numbers
}

fn total(snapshot: &Snapshot) -> usize {
    snapshot.idle + snapshot.in_use + snapshot.connecting
}

/// A client that waits in a thread of its own and sends what came of it.
fn client<T: Send + 'static>(
    pool: &Arc<Pool>,
    then: impl FnOnce(&Arc<Pool>, Result<Connection, NoConnection>) -> T + Send + 'static,
) -> JoinHandle<T> {
    let before = pool.snapshot().waiting;
    let own = Arc::clone(pool);
    let thread = std::thread::spawn(move || {
        let got = obtain(&own);
        then(&own, got)
    });
    until("the client is in the queue", || {
        pool.snapshot().waiting > before
    });
    thread
}

/// A client that keeps the number of the connection it got and gives the connection back.
fn passing_client(pool: &Arc<Pool>) -> JoinHandle<Result<u64, NoConnection>> {
    client(pool, |pool, got| {
        let connection = got?;
        let number = number(&connection);
        give_back(pool, connection);
        Ok(number)
    })
}

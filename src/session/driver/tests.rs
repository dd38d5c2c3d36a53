//! A driver between two sockets of the test: bytes in, bytes out, and what it waits for. No thread drives it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use socket2::Socket;

use super::{Driver, Step, Wanted};
use crate::auth::MockSecret;
use crate::config;
use crate::net::address::Address;
use crate::net::clock::MonotonicTime;
use crate::net::stream::{SocketOptions, Stream};
use crate::net::wait::{Interest, Readiness, Woken};
use crate::pool::pool::Pool;
use crate::pool::tests::{LONG, Server, config as pool_config, pool_of};
use crate::relay::session::{Phase, Session};
use crate::server::backend::{Backend, BackendKey, Connection};
use crate::server::dirty::DirtyState;
use crate::server::parameters::Parameters;
use crate::server::prepared::Prepared;
use crate::session::client::DetachedSession;
use crate::session::close_reason::CloseReason;
use crate::session::registry::{Cancel, ClientInfo, Handle, signals};
use crate::session::shared::Shared;
use crate::wire::backend::TransactionStatus;

pub(in crate::session) const SELECT: &[u8] = b"Q\0\0\0\x0dselect 1\0";
pub(in crate::session) const REPLY: &[u8] = b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I";
const IN_BLOCK: &[u8] = b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05T";

const READ_BOTH: (Option<Interest>, Option<Interest>) =
    (Some(Interest::READ), Some(Interest::READ));

/// All that a session of the pooler asks of a new connection is known.
fn reported() -> Arc<Parameters> {
    let mut parameters = Parameters::default();
    for (name, value) in [
        ("client_encoding", "UTF8"),
        ("default_transaction_deferrable", "off"),
        ("default_transaction_isolation", "read committed"),
        ("default_transaction_read_only", "off"),
        ("jit", "on"),
        ("search_path", "public"),
        ("TimeZone", "UTC"),
    ] {
        parameters.set(name, value.as_bytes());
    }
    Arc::new(parameters)
}

fn pair() -> (UnixStream, Stream) {
    let (here, there) = UnixStream::pair().unwrap();
    here.set_read_timeout(Some(LONG)).unwrap();
    let stream = Stream::new(Socket::from(there), true, &SocketOptions::default());
    (here, stream)
}

fn nowhere() -> Address {
    Address::Unix(PathBuf::from("/nowhere"))
}

/// A pool of one connection, whose other end is here, and a session that uses it.
struct Scene {
    client: UnixStream,
    server: UnixStream,
    pool: Arc<Pool>,
    handle: Arc<Handle>,
    driver: Driver,
    _listener: Server,
}

/// A pool of one idle connection, and the connection's other end.
pub(in crate::session) fn pool_of_one() -> (Server, Arc<Pool>, UnixStream) {
    let listener = Server::start();
    let pool = pool_of(pool_config(&listener, 1));
    let (server, stream) = pair();
    pool.adopt(Connection {
        backend: Box::new(Backend {
            news: None,
            key: Arc::new(BackendKey::new(1, nowhere(), 1, vec![1, 2, 3, 4], None)),
            used_at: MonotonicTime::now(),
            epoch: 0,
            fresh: reported(),
            reported: reported(),
            applied: Arc::default(),
            dirty: DirtyState::NONE,
            status: TransactionStatus::Idle,
            prepared: Prepared::default(),
            permit: None,
        }),
        stream,
    });
    (listener, pool, server)
}

/// What sessions share, with no pool configured.
pub(in crate::session) fn shared() -> Arc<Shared> {
    let text = "[general]\nadmin_username = \"admin\"\nadmin_password = \"secret\"\n[pools]\n";
    let settings = config::parse(text, Path::new("/nowhere/pg_doorman.toml")).unwrap();
    Shared::new(settings, MockSecret::random().unwrap())
}

/// The client with this number.
pub(in crate::session) fn info(id: u64) -> ClientInfo {
    ClientInfo {
        id,
        secret: vec![9; 4],
        database: "db".into(),
        user: "user".into(),
        application_name: Vec::new(),
        address: nowhere(),
        connected_at: MonotonicTime::now(),
        console: false,
        tls: None,
    }
}

/// A session of this client's that uses the pool, and the other end of its socket.
pub(in crate::session) fn session_of(
    info: &ClientInfo,
    pool: &Arc<Pool>,
) -> (UnixStream, DetachedSession) {
    let (client, stream) = pair();
    let mut session = Session::new(
        info.id,
        info.secret.clone(),
        "db".into(),
        "user".into(),
        nowhere(),
        MonotonicTime::now(),
        (&*pool.config()).into(),
        reported(),
        Arc::default(),
        Arc::default(),
    );
    session.defaults = reported();
    let detached = DetachedSession {
        pool: Arc::clone(pool),
        session: Box::new(session),
        client: stream,
        server: None,
        server_deadline: None,
    };
    (client, detached)
}

fn scene() -> Scene {
    let (listener, pool, server) = pool_of_one();
    let info = info(1);
    let (client, detached) = session_of(&info, &pool);
    let handle = Arc::new(Handle::new(info));
    let driver = Driver::new(shared(), Arc::clone(&handle), detached);
    Scene {
        client,
        server,
        pool,
        handle,
        driver,
        _listener: listener,
    }
}

fn readable() -> Readiness {
    Readiness {
        readable: true,
        ..Readiness::default()
    }
}

impl Scene {
    /// What it waits for.
    fn waits(&mut self) -> Wanted {
        match self.driver.advance() {
            Step::Waits(wanted) => wanted,
            other => panic!("{other:?}"),
        }
    }

    /// Its client sends this.
    fn asks(&mut self, bytes: &[u8]) -> Wanted {
        let wanted = self.waits();
        self.client.write_all(bytes).unwrap();
        let (client, server) = (readable(), Readiness::default());
        self.driver
            .ready(&wanted, Ok(Woken::Ready { client, server }));
        self.waits()
    }

    /// Its server sends this.
    fn is_answered(&mut self, bytes: &[u8]) -> Wanted {
        let wanted = self.waits();
        self.server.write_all(bytes).unwrap();
        let (client, server) = (Readiness::default(), readable());
        self.driver
            .ready(&wanted, Ok(Woken::Ready { client, server }));
        self.waits()
    }

    fn is_woken(&mut self) -> Step {
        let wanted = self.waits();
        self.driver.ready(&wanted, Ok(Woken::Interrupted));
        self.driver.advance()
    }
}

pub(in crate::session) fn has(mut socket: &UnixStream, bytes: &[u8]) {
    let mut seen = vec![0; bytes.len()];
    socket.read_exact(&mut seen).unwrap();
    assert_eq!(seen, bytes);
}

#[test]
fn a_request_goes_to_the_server_and_its_reply_comes_back() {
    let mut it = scene();
    let wanted = it.asks(SELECT);
    has(&it.server, SELECT);
    assert_eq!((wanted.client, wanted.server), READ_BOTH);
    assert!(it.driver.is_busy());
    let wanted = it.is_answered(REPLY);
    has(&it.client, REPLY);
    assert_eq!((wanted.client, wanted.server), (Some(Interest::READ), None));
    assert!(!it.driver.is_busy());
    assert_eq!(it.pool.snapshot().idle, 1);
}

#[test]
fn half_a_request_is_no_request() {
    let mut it = scene();
    let wanted = it.asks(&SELECT[..7]);
    assert_eq!((wanted.client, wanted.server), (Some(Interest::READ), None));
    it.asks(&SELECT[7..]);
    has(&it.server, SELECT);
}

#[test]
fn who_waits_for_a_server_connection_is_woken_by_it() {
    let mut it = scene();
    let taken = it.pool.take_idle().unwrap();
    let wanted = it.asks(SELECT);
    // Its socket still tells that the client has gone, and nothing else ends the wait but the time.
    assert_eq!(wanted.client, Some(Interest::default()));
    assert!(wanted.server.is_none() && wanted.until.is_some());
    assert!(matches!(it.is_woken(), Step::Waits(_)), "it has come");
    it.pool.put_back(taken);
    assert!(matches!(it.is_woken(), Step::Waits(_)));
    has(&it.server, SELECT);
}

#[test]
fn who_waits_for_a_server_connection_can_be_cancelled() {
    let mut it = scene();
    let taken = it.pool.take_idle().unwrap();
    it.asks(SELECT);
    assert!(matches!(it.handle.cancel(), Cancel::Done));
    assert!(matches!(it.is_woken(), Step::Waits(_)));
    let mut reply = [0; 5];
    (&it.client).read_exact(&mut reply).unwrap();
    assert_eq!(reply[0], b'E');
    it.pool.put_back(taken);
    assert_eq!(it.pool.snapshot().idle, 1, "nobody waits for it");
}

#[test]
fn a_server_connection_that_is_being_cancelled_does_not_go_back() {
    let mut it = scene();
    it.asks(SELECT);
    let Cancel::Send(key) = it.handle.cancel() else {
        panic!("it runs something");
    };
    it.is_answered(REPLY);
    has(&it.client, REPLY);
    assert_eq!(it.pool.snapshot().in_use, 1);
    has(&it.server, SELECT);
    it.handle.cancel_done(&key, true);
    assert!(matches!(it.is_woken(), Step::Waits(_)));
    // One round trip later the signal has been taken notice of.
    has(&it.server, b"Q\0\0\0\x06;\0");
    it.is_answered(b"I\0\0\0\x04Z\0\0\0\x05I");
    assert_eq!(it.pool.snapshot().idle, 1);
}

#[test]
fn a_session_moves_in_the_middle_of_a_transaction() {
    let mut it = scene();
    it.asks(SELECT);
    it.is_answered(IN_BLOCK);
    it.handle.signal(signals::HAND_OVER);
    assert!(matches!(it.driver.advance(), Step::Moves));
    assert!(it.handle.is_away());
    let detached = it.driver.detach();
    assert_eq!(detached.session.phase(), Phase::Serving);
    assert!(detached.server.is_some() && detached.session.link.is_some());
    assert_eq!(it.pool.snapshot().in_use, 1);
}

#[test]
fn a_client_that_leaves_in_a_transaction_is_waited_for_by_nobody() {
    let mut it = scene();
    it.asks(SELECT);
    has(&it.server, SELECT);
    it.is_answered(IN_BLOCK);
    let wanted = it.asks(b"X\0\0\0\x04");
    assert_eq!((wanted.client, wanted.server), (None, Some(Interest::READ)));
    has(&it.server, b"Q\0\0\0\x0dROLLBACK\0");
    it.is_answered(b"C\0\0\0\x0dROLLBACK\0Z\0\0\0\x05I");
    assert_eq!(it.pool.snapshot().idle, 1);
    // It may still be reading its last replies.
    it.client.shutdown(std::net::Shutdown::Both).unwrap();
    assert!(matches!(it.driver.advance(), Step::Ends(CloseReason::Left)));
}

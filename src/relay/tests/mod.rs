//! The relay against bytes: a session between a client and a server that are byte strings.
//!
//! | file | what it tries |
//! |---|---|
//! | `messages` | the messages themselves, as short words |
//! | `simple` | Query and FunctionCall, what may come at any time, what does not fit |
//! | `batches` | the extended protocol: order, errors, streams cut anywhere |
//! | `begin` | a BEGIN that PostgreSQL hears of with the request behind it |
//! | `check` | a query that is answered with PostgreSQL's last answer to it |
//! | `statements` | prepared statements that follow their client |
//! | `reading` | a statement belongs to the settings it is read under |
//! | `shapes` | rows that have got another shape |
//! | `stale` | statements that have to be parsed anew |
//! | `copy` | COPY, in both protocols |
//! | `settings` | a connection gets its client's settings |
//! | `cleaning` | what a client left is undone |
//! | `leaving` | the client is gone, at every point |
//! | `model` | random scripts, with and without the pooler, against a model of PostgreSQL |
//! | `noise` | any bytes at all |

mod batches;
mod begin;
mod check;
mod cleaning;
mod copy;
mod defaults;
mod leaving;
mod messages;
mod model;
mod noise;
mod reading;
mod settings;
mod shapes;
mod simple;
mod stale;
mod statements;

use std::path::PathBuf;
use std::sync::Arc;

use super::output::{Output, Pieces};
use super::replies::Desync;
use super::requests::{Violation, Wants};
use super::session::{Phase, Rules, Session};
use crate::net::address::Address;
use crate::net::clock::MonotonicTime;
use crate::pool::pool_config::Mode;
use crate::relay::shared_statements::SharedStatements as _;
use crate::server::backend::{Backend, BackendKey};
use crate::server::dirty::DirtyState;
use crate::server::parameters::Parameters;
use crate::server::prepared::Prepared;
use crate::session::statement_registry::StatementRegistry;
use crate::wire::backend::TransactionStatus;

fn rules() -> Rules {
    Rules {
        mode: Mode::Transaction,
        follow_statements: true,
        prepared_cache: 100,
        prepared_per_server: 100,
        prepared_per_client: 100,
        prepared_bytes_per_server: usize::MAX,
        memory_per_client: usize::MAX,
        clean: true,
        log_parameters: false,
    }
}

fn parameters(of: &[(&str, &str)]) -> Arc<Parameters> {
    let mut parameters = Parameters::default();
    for (name, value) in of {
        parameters.set(name, value.as_bytes());
    }
    Arc::new(parameters)
}

/// What every server reports and every client has been told, unless a test says otherwise: all that is
/// followed, so that nothing needs to be asked for.
const REPORTED: [(&str, &str); 7] = [
    ("client_encoding", "UTF8"),
    ("default_transaction_deferrable", "off"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("jit", "on"),
    ("search_path", "public"),
    ("TimeZone", "UTC"),
];

fn backend() -> Box<Backend> {
    let address = Address::Unix(PathBuf::from("/nowhere"));
    let reported = parameters(&REPORTED);
    Box::new(Backend {
        news: None,
        key: Arc::new(BackendKey::new(1, address, 1, vec![1, 2, 3, 4], None)),
        used_at: MonotonicTime::now(),
        epoch: 0,
        fresh: Arc::clone(&reported),
        reported,
        applied: Arc::default(),
        dirty: DirtyState::NONE,
        status: TransactionStatus::Idle,
        prepared: Prepared::default(),
        permit: None,
    })
}

fn session(
    reported_to_client: Arc<Parameters>,
    untracked: Arc<Parameters>,
    startup_settings: Arc<Parameters>,
) -> Session {
    Session::new(
        42,
        vec![9; 4],
        "shop".into(),
        "app".into(),
        Address::Unix(PathBuf::from("/nowhere")),
        MonotonicTime::now(),
        rules(),
        reported_to_client,
        untracked,
        startup_settings,
    )
}

fn bytes(pieces: &Pieces, input: &[u8]) -> Vec<u8> {
    pieces
        .slices(input)
        .flat_map(|slice| slice.to_vec())
        .collect()
}

/// A session, and what stands on either side of it.
struct Between {
    session: Session,
    statements: Arc<StatementRegistry>,
    rules: Rules,
    /// The connection that lies idle, if one does.
    idle: Option<Box<Backend>>,
    /// Whether the idle connection is to be tried before it is used.
    check: bool,
    /// What the client sent and the session has not taken.
    from_client: Vec<u8>,
    /// What the server sent and the session has not taken.
    from_server: Vec<u8>,
    to_client: Vec<u8>,
    to_server: Vec<u8>,
}

impl Between {
    fn new() -> Between {
        let reported_to_client = parameters(&REPORTED);
        Between::with(
            session(reported_to_client, Arc::default(), Arc::default()),
            rules(),
        )
    }

    fn with(session: Session, rules: Rules) -> Between {
        Between {
            session,
            statements: Arc::default(),
            rules,
            idle: Some(backend()),
            check: false,
            from_client: Vec::new(),
            from_server: Vec::new(),
            to_client: Vec::new(),
            to_server: Vec::new(),
        }
    }

    /// The client sends; the session takes what it can, and the idle connection if it wants one.
    fn try_client(&mut self, sent: &[u8]) -> Result<Wants, Violation> {
        self.from_client.extend_from_slice(sent);
        loop {
            if !self.session.reads_client() || self.from_client.is_empty() {
                return Ok(Wants::More);
            }
            let mut out = Output::default();
            let step =
                self.session
                    .take_from_client(&self.from_client, &*self.statements, &mut out);
            let input = std::mem::take(&mut self.from_client);
            self.collect(&out, &input);
            let (n, wants) = step?;
            self.from_client = input[n..].to_vec();
            match wants {
                Wants::Server if self.idle.is_some() => self.attach(),
                _ => return Ok(wants),
            }
        }
    }

    fn client(&mut self, sent: &[&[u8]]) {
        let wants = self.try_client(&sent.concat());
        assert_eq!(wants, Ok(Wants::More));
    }

    /// The server sends; a connection that is to go back is laid aside.
    fn try_server(&mut self, sent: &[u8]) -> Result<(), Desync> {
        self.from_server.extend_from_slice(sent);
        let mut out = Output::default();
        let input = std::mem::take(&mut self.from_server);
        let step = self
            .session
            .take_from_server(&input, &*self.statements, &mut out);
        self.collect(&out, &input);
        // What is to be taken up again is in front of what has come since.
        let mut again = std::mem::take(&mut self.session.client.unread);
        again.append(&mut self.from_client);
        self.from_client = again;
        self.from_server = input[step?..].to_vec();
        self.put_aside();
        Ok(())
    }

    /// Afterwards the client, who may have been kept waiting, is listened to again.
    fn server(&mut self, sent: &[&[u8]]) {
        assert_eq!(self.try_server(&sent.concat()), Ok(()));
        self.client(&[]);
    }

    fn attach(&mut self) {
        let backend = self.idle.take().expect("a connection lies idle");
        let mut out = Output::default();
        self.session
            .take_connection(backend, self.rules, self.check, &mut out);
        self.collect(&out, &[]);
    }

    /// The request that waits for a server connection is cancelled.
    fn refuse(&mut self) {
        let mut out = Output::default();
        self.session.client.unread = std::mem::take(&mut self.from_client);
        self.session.refuse_request("57014", "canceled", &mut out);
        self.from_client = std::mem::take(&mut self.session.client.unread);
        self.collect(&out, &[]);
        let wants = self.try_client(&[]);
        assert!(wants.is_ok());
    }

    fn put_aside(&mut self) {
        if self.session.phase() == Phase::Returning {
            self.idle = Some(self.session.give_back_connection().expect("it is at rest"));
        }
    }

    /// What the driver does before it waits.
    fn end_turn(&mut self) {
        let mut out = Output::default();
        self.session.end_turn(&mut out);
        self.collect(&out, &[]);
        self.put_aside();
    }

    fn client_gone(&mut self) -> bool {
        let mut out = Output::default();
        self.from_client.clear();
        let usable = self.session.client_gone(&mut out);
        self.collect(&out, &[]);
        self.put_aside();
        usable
    }

    fn collect(&mut self, out: &Output, input: &[u8]) {
        self.to_client.extend(bytes(&out.client, input));
        self.to_server.extend(bytes(&out.server, input));
    }

    /// The server has got exactly this since it was last asked.
    #[track_caller]
    fn server_gets(&mut self, expected: &[&[u8]]) {
        let got = std::mem::take(&mut self.to_server);
        same("the server", &got, &expected.concat());
    }

    /// The client has got exactly this since it was last asked.
    #[track_caller]
    fn client_gets(&mut self, expected: &[&[u8]]) {
        let got = std::mem::take(&mut self.to_client);
        same("the client", &got, &expected.concat());
    }

    /// One exchange that passes as it is, both ways.
    #[track_caller]
    fn passes(&mut self, request: &[&[u8]], reply: &[&[u8]]) {
        self.client(request);
        self.server_gets(request);
        self.server(reply);
        self.client_gets(reply);
    }

    fn is_back(&self) -> bool {
        self.idle.is_some() && self.session.phase() == Phase::Idle
    }

    fn link(&self) -> &crate::relay::session::ServerLink {
        self.session.link.as_ref().expect("a connection is lent")
    }
}

#[track_caller]
fn same(whom: &str, got: &[u8], expected: &[u8]) {
    assert!(
        got == expected,
        "{whom} got\n    {}\nand should have got\n    {}",
        got.escape_ascii(),
        expected.escape_ascii()
    );
}

/// Numbers that are as good as random and the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).unwrap_or(0) % sides
    }
}

//! Plays steps on both sides and compares: PostgreSQL directly, and through the pooler.
//!
//! The direct side goes first, message by message, and is given the time it needs. What it has replied is then
//! expected of the pooler, whose side gets the step's messages in one write. A client need not be answered while
//! others may hold all server connections of the pool. Each wait has a limit: a hang is a fault.

use std::time::{Duration, Instant};

use crate::connection::{Address, Connection, wait_any};
use crate::conversation::Conversation;
use crate::coverage::Coverage;
use crate::excluded;
use crate::fault::{Fault, brief, told};
use crate::frontend::Front;
use crate::pooler::{Pool, Pooler};
use crate::postgres::{CLIENTS, DATABASES, Postgres};
use crate::probe;
use crate::reply::{Oids, Reply};
use crate::step::Step;

/// How long PostgreSQL itself may take.
pub const DIRECT: Duration = Duration::from_secs(20);

/// One client, on both sides.
pub struct Client {
    /// Its connection to PostgreSQL.
    pub direct: Connection,
    /// Its connection to the pooler.
    pub pooled: Connection,
    /// Where its conversation stands.
    pub conversation: Conversation,
    startup: Vec<(String, String)>,
    begun: bool,
    /// Whether it has sent Terminate.
    pub leaving: bool,
    /// How many replies it must get, if not all.
    pub(crate) due: Option<usize>,
    dirty: bool,
    /// Whether it has sent a query that sleeps until it is cancelled.
    pub sleeps: bool,
    /// How many replies were the same.
    pub compared: usize,
}

impl Client {
    /// Whether all was replied that PostgreSQL has replied.
    pub fn satisfied(&self) -> bool {
        self.pooled.replies.len() >= self.direct.replies.len()
            && (self.pooled.closed || !self.direct.closed)
    }
}

/// Both sides.
pub struct Arena<'a> {
    /// The servers.
    pub postgres: &'a mut Postgres,
    pub(crate) pooler: &'a mut Pooler,
    /// The pool under test.
    pub pool: &'static Pool,
    /// The clients; none where nobody is logged in.
    pub clients: Vec<Option<Client>>,
    oids: Oids,
    pub(crate) coverage: &'a mut Coverage,
    pub(crate) limit: Duration,
}

impl<'a> Arena<'a> {
    /// Both sides, with nobody logged in.
    pub fn new(
        postgres: &'a mut Postgres,
        pooler: &'a mut Pooler,
        pool: &'static Pool,
        coverage: &'a mut Coverage,
        limit: Duration,
    ) -> Self {
        let clients = (0..CLIENTS).map(|_| None).collect();
        Self {
            postgres,
            pooler,
            pool,
            clients,
            oids: Oids::default(),
            coverage,
            limit,
        }
    }

    /// Where to connect to the pooler: half of the clients use TCP.
    pub fn pooled_address(&self, client: usize) -> Address {
        if client % 2 == 0 {
            self.pooler.unix()
        } else {
            Address::Tcp(self.pooler.port)
        }
    }

    /// Plays a step. What makes no sense (any more) is passed over.
    pub fn play(&mut self, step: &Step) -> Result<(), Fault> {
        match step {
            Step::Login(client, settings) => self.login(*client, settings),
            Step::Send(client, messages) => self.send(*client, messages, &[]),
            Step::Leave(client, how) => self.leave(*client, how),
            Step::Cancel(client) => self.cancel(*client),
            Step::Upgrade => self
                .pooler
                .upgrade()
                .map_err(|why| Fault::new("upgrade", why)),
            Step::Probe => {
                self.finish()?;
                let pooled = [self.pooled_address(0), self.pooled_address(1)];
                probe::compare(
                    self.postgres,
                    &pooled,
                    self.pool,
                    &mut self.oids,
                    self.limit,
                )
            }
        }?;
        if !matches!(step, Step::Probe | Step::Upgrade) {
            return Ok(());
        }
        match self.pooler.trouble() {
            Some(why) => Err(Fault::new("pooler", why)),
            None => Ok(()),
        }
    }

    fn login(&mut self, number: usize, settings: &[(String, String)]) -> Result<(), Fault> {
        if self.clients[number].is_some() {
            return Ok(());
        }
        let words = |database: &str| {
            let mut words = vec![
                ("user".into(), "app".into()),
                ("database".into(), database.into()),
            ];
            words.extend_from_slice(settings);
            words
        };
        let mut direct = open(&self.postgres.address(), &words(DATABASES[0]))?;
        settle(&mut direct)?;
        let pooled = open(&self.pooled_address(number), &words(self.pool.name))?;
        self.clients[number] = Some(Client {
            direct,
            pooled,
            conversation: Conversation::new(),
            startup: settings.to_vec(),
            begun: false,
            leaving: false,
            due: None,
            dirty: false,
            sleeps: false,
            compared: 0,
        });
        self.await_all(Some(number))
    }

    /// Sends messages, and these bytes behind them to the pooler.
    fn send(&mut self, number: usize, messages: &[Front], behind: &[u8]) -> Result<(), Fault> {
        let pool = self.pool;
        let Some(client) = self.clients[number]
            .as_mut()
            .filter(|client| !client.leaving)
        else {
            return Ok(());
        };
        if waits_behind_traces(pool, client) {
            return Ok(());
        }
        let mut bytes = Vec::new();
        client.conversation.read();
        let mut before = None;
        for (at, message) in messages.iter().enumerate() {
            if excluded::is_left_out(pool, client, before, message) {
                continue;
            }
            before = Some(message);
            self.coverage
                .note(message.kind(), client.conversation.place());
            client.conversation.sent(message);
            self.postgres.changed |= excluded::defines(message.sql());
            client.dirty |= excluded::leaves_traces(message.sql()) || message.kind() == 'F';
            client.sleeps |= message.sql().contains("pg_sleep");
            let message = message.bytes();
            let from = client.direct.replies.len();
            client.direct.send(&message);
            settle(&mut client.direct)?;
            client.conversation.replied(&client.direct.replies[from..]);
            bytes.extend_from_slice(&message);
            if client.dirty && client.conversation.at_rest() && !client.direct.closed {
                end_transaction(client, pool)?;
                if !pool.session && at + 1 < messages.len() {
                    client.begun = true;
                    client.pooled.send(&std::mem::take(&mut bytes));
                    self.await_all(None)?;
                    return self.send(number, &messages[at + 1..], behind);
                }
            }
        }
        client.sleeps &= !client.conversation.at_rest();
        client.begun |= !messages.is_empty();
        bytes.extend_from_slice(behind);
        client.pooled.send(&bytes);
        self.await_all(None)
    }

    /// Whether others may hold all server connections of the pool.
    pub fn may_wait(&self, number: usize) -> bool {
        let holds = |client: &Client| {
            !client.pooled.closed
                && if self.pool.session {
                    client.begun
                } else {
                    client.leaving || !client.conversation.at_rest()
                }
        };
        let others = self
            .clients
            .iter()
            .enumerate()
            .filter(|(other, client)| *other != number && client.as_ref().is_some_and(holds));
        others.count() >= self.pool.size
    }

    /// Waits for what is expected of the pooler. `login`: who must not wait for a server connection.
    pub fn await_all(&mut self, login: Option<usize>) -> Result<(), Fault> {
        let start = Instant::now();
        loop {
            let mut done = true;
            for number in 0..CLIENTS {
                let may_wait = login != Some(number) && self.may_wait(number);
                let leaving = self.clients.iter().flatten().all(|client| client.leaving);
                if let Some(client) = self.clients[number].as_mut() {
                    client.pooled.pump();
                }
                self.compare(number)?;
                let Some(client) = self.clients[number].as_ref() else {
                    continue;
                };
                let same = client.direct.parameters == client.pooled.parameters
                    || !client.conversation.at_rest()
                    || client.leaving
                    || !client.satisfied();
                done &= (client.satisfied() && same) || (may_wait && !leaving);
                if client.direct.closed && client.pooled.closed {
                    self.clients[number] = None;
                }
            }
            if done {
                return Ok(());
            }
            if start.elapsed() > self.limit {
                return Err(self.hang(login));
            }
            let pooled = self.clients.iter().flatten().map(|client| &client.pooled);
            wait_any(pooled, Duration::from_millis(100));
        }
    }

    /// Compares what has come so far.
    pub fn compare(&mut self, number: usize) -> Result<(), Fault> {
        let Some(client) = self.clients[number].as_mut() else {
            return Ok(());
        };
        let (expected, got) = (&client.direct.replies, &client.pooled.replies);
        while let (Some(wanted), Some(reply)) =
            (expected.get(client.compared), got.get(client.compared))
        {
            if !self.oids.equal(wanted, reply) {
                let kind = format!("{} for {}", brief(reply), brief(wanted));
                return Err(Fault::new(
                    kind,
                    format!(
                        "expected {wanted}\ngot      {reply}\n{}",
                        told(client, number)
                    ),
                ));
            }
            client.compared += 1;
        }
        if let Some(more) = got[client.compared..]
            .iter()
            .find(|reply| b"ZEG".contains(&reply.kind))
        {
            let kind = format!("{} for nothing", brief(more));
            return Err(Fault::new(
                kind,
                format!(
                    "PostgreSQL says nothing more\ngot {more}\n{}",
                    told(client, number)
                ),
            ));
        }
        if client.pooled.closed && !client.direct.closed {
            return Err(Fault::new(
                "closed",
                format!(
                    "the pooler has closed the connection\n{}",
                    told(client, number)
                ),
            ));
        }
        if client.pooled.closed && client.direct.closed {
            let due = client.due.unwrap_or(expected.len());
            if got.len() < due.min(expected.len()) {
                let missing = &expected[got.len()];
                let kind = format!("closed before {}", brief(missing));
                return Err(Fault::new(
                    kind,
                    format!(
                        "the pooler closed before {missing}\n{}",
                        told(client, number)
                    ),
                ));
            }
            if client.direct.asides != client.pooled.asides {
                let show = |all: &[Reply]| {
                    all.iter()
                        .map(ToString::to_string)
                        .collect::<Vec<_>>()
                        .join(" ")
                };
                let (wanted, came) = (show(&client.direct.asides), show(&client.pooled.asides));
                return Err(Fault::new(
                    "notices",
                    format!("client {number}\nexpected {wanted}\ngot      {came}"),
                ));
            }
        }
        Ok(())
    }
}

/// Whether what this client sends now would be of one write with something that ends with the transaction: it has not
/// been answered yet, and the server connection may be kept for what follows (`excluded`).
pub fn waits_behind_traces(pool: &Pool, client: &Client) -> bool {
    !pool.session && client.dirty && client.conversation.at_rest() && !client.satisfied()
}

/// The direct side at the end of a transaction, where the pooler ends what the manual says.
fn end_transaction(client: &mut Client, pool: &Pool) -> Result<(), Fault> {
    let (replies, asides) = (client.direct.replies.len(), client.direct.asides.len());
    let mut all = excluded::end_of_transaction(pool, &client.startup);
    if all.is_empty() {
        return Ok(());
    }
    client.direct.send(&quietly(
        "select name from pg_catalog.pg_prepared_statements where from_sql",
    ));
    settle(&mut client.direct)?;
    let found = &client.direct.replies[replies..];
    let names = found
        .iter()
        .filter(|reply| reply.kind == b'D')
        .map(|row| String::from_utf8_lossy(&row.body[6..]).into_owned());
    all.extend(names.map(|name| format!("deallocate \"{name}\"")));
    let bytes: Vec<u8> = all.iter().flat_map(|sql| quietly(sql)).collect();
    client.direct.send(&bytes);
    settle(&mut client.direct)?;
    client.direct.replies.truncate(replies);
    client.direct.asides.truncate(asides);
    Ok(())
}

/// A batch that leaves the unnamed statement as it is, which a simple query would drop.
fn quietly(sql: &str) -> Vec<u8> {
    let name = || "end of transaction".to_string();
    let batch = [
        Front::Parse(name(), sql.into()),
        Front::Bind(name(), name(), Vec::new()),
        Front::Execute(name(), 0),
        Front::Close(b'S', name()),
        Front::Sync,
        Front::Close(b'S', name()),
        Front::Sync,
    ];
    batch.iter().flat_map(Front::bytes).collect()
}

fn open(address: &Address, words: &[(String, String)]) -> Result<Connection, Fault> {
    Connection::open(address, words).map_err(|why| Fault::new("connect", why.to_string()))
}

/// Waits until PostgreSQL has done what it was sent.
pub fn settle(direct: &mut Connection) -> Result<(), Fault> {
    if direct.settle(DIRECT) {
        Ok(())
    } else {
        Err(Fault::new("harness", "PostgreSQL does not come to rest"))
    }
}

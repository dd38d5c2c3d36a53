//! How clients leave, and how what they run is cancelled.

use std::time::{Duration, Instant};

use crate::arena::{Arena, Client, DIRECT, settle, waits_behind_traces};
use crate::connection::{Address, Connection};
use crate::conversation::Place;
use crate::excluded;
use crate::fault::Fault;
use crate::frontend::{self, Front};
use crate::postgres::CLIENTS;
use crate::step::Leave;

impl Arena<'_> {
    /// A client leaves.
    pub fn leave(&mut self, number: usize, how: &Leave) -> Result<(), Fault> {
        if self.clients[number]
            .as_ref()
            .is_none_or(|client| client.leaving)
        {
            return Ok(());
        }
        if self.clients[number]
            .as_ref()
            .is_some_and(|client| client.sleeps)
        {
            self.cancel(number)?;
        }
        let waits = self.clients[number]
            .as_ref()
            .is_some_and(|client| !client.satisfied());
        match how {
            Leave::Terminate(messages)
                if !messages
                    .iter()
                    .any(|message| message.sql().contains("pg_sleep")) =>
            {
                let x = frontend::Front::Other(b'X', Vec::new()).bytes();
                if let Some(client) = &mut self.clients[number] {
                    self.coverage.note('X', client.conversation.place());
                }
                self.send_last(number, messages, &x)
            }
            Leave::Abrupt(..) | Leave::Run(_) if !waits => {
                let Some(mut client) = self.clients[number].take() else {
                    return Ok(());
                };
                let (bytes, run, reset) = match how {
                    Leave::Abrupt(bytes, reset) => (bytes.clone(), Vec::new(), *reset),
                    Leave::Run(messages) => (
                        Vec::new(),
                        messages.iter().flat_map(Front::bytes).collect(),
                        true,
                    ),
                    Leave::Terminate(_) => return Ok(()),
                };
                client.direct.send(&bytes);
                client
                    .pooled
                    .send(if run.is_empty() { &bytes } else { &run });
                end(client, reset);
                Ok(())
            }
            _ => self.leave(number, &Leave::Terminate(Vec::new())),
        }
    }

    fn send_last(&mut self, number: usize, messages: &[Front], x: &[u8]) -> Result<(), Fault> {
        // The direct side first has the messages, then Terminate; the pooler all at once.
        let Some(client) = self.clients[number].as_mut() else {
            return Ok(());
        };
        let waits = waits_behind_traces(self.pool, client);
        let messages = if waits { &[][..] } else { messages };
        let mut all: Vec<u8> = Vec::new();
        let mut before = None;
        for message in messages {
            if excluded::is_left_out(self.pool, client, before, message) {
                continue;
            }
            before = Some(message);
            all.extend(message.bytes());
            self.coverage
                .note(message.kind(), client.conversation.place());
            client.conversation.sent(message);
            self.postgres.changed |= excluded::defines(message.sql());
            let from = client.direct.replies.len();
            client.direct.send(&message.bytes());
            settle(&mut client.direct)?;
            client.conversation.replied(&client.direct.replies[from..]);
        }
        let (copying, told) = (
            client.conversation.place() == Place::CopyingIn,
            client.direct.replies.len(),
        );
        client.direct.send(x);
        settle(&mut client.direct)?;
        if copying {
            client.direct.replies.truncate(told);
        }
        client.leaving = true;
        let ready = (client.direct.replies.iter()).rposition(|reply| reply.kind == b'Z');
        let open = &client.direct.replies[ready.map_or(0, |at| at + 1)..];
        let has = |kinds: &[u8]| open.iter().any(|reply| kinds.contains(&reply.kind));
        // An error is sent at once, and all that was kept back with it.
        if has(b"HD") && !has(b"E") {
            client.due = ready.map(|at| at + 1);
        }
        if client.conversation.is_in_unended_copy() {
            let replies = &client.direct.replies;
            let begun = replies.iter().rposition(|reply| reply.kind == b'G');
            client.due = begun.map(|at| at + 1);
        }
        all.extend(x);
        client.pooled.send(&all);
        self.await_all(None)
    }

    /// What a client runs is cancelled.
    pub fn cancel(&mut self, number: usize) -> Result<(), Fault> {
        let Some(client) = self.clients[number].as_ref() else {
            return Ok(());
        };
        let calm = client.conversation.at_rest() && client.satisfied();
        if client.leaving || client.pooled.pid == 0 || !(client.sleeps || calm) {
            return Ok(());
        }
        let (direct, pooled) = (
            frontend::cancel(client.direct.pid, &client.direct.key),
            frontend::cancel(client.pooled.pid, &client.pooled.key),
        );
        if client.sleeps {
            let start = Instant::now();
            while self.postgres.asleep() == 0 {
                if start.elapsed() > self.limit {
                    return Err(Fault::new("hang before a cancel", self.place(number)));
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        say(&self.postgres.address(), &direct)?;
        say(&self.pooled_address(number), &pooled)?;
        if let Some(client) = self.clients[number].as_mut() {
            let from = client.direct.replies.len();
            if client.sleeps {
                let start = Instant::now();
                while client.direct.replies.len() == from
                    && !client.direct.closed
                    && start.elapsed() < DIRECT
                {
                    client.direct.wait(Duration::from_millis(20));
                    client.direct.pump();
                }
            }
            settle(&mut client.direct)?;
            client.conversation.replied(&client.direct.replies[from..]);
            client.sleeps = false;
        }
        self.await_all(None)
    }

    /// Everybody leaves, those who need not wait first.
    pub fn finish(&mut self) -> Result<(), Fault> {
        for _ in 0..=CLIENTS {
            for number in 0..CLIENTS {
                if self.clients[number]
                    .as_ref()
                    .is_some_and(|client| client.satisfied() && !client.leaving)
                {
                    self.leave(number, &Leave::Terminate(Vec::new()))?;
                }
            }
        }
        for number in 0..CLIENTS {
            self.leave(number, &Leave::Terminate(Vec::new()))?;
        }
        self.await_all(None)
    }
}

/// Closes a client's connections, and waits for the end of its backend.
fn end(client: Client, reset: bool) {
    let path = format!("/proc/{}", client.direct.pid);
    drop(client.direct);
    if reset {
        client.pooled.reset();
    }
    let start = Instant::now();
    while std::path::Path::new(&path).exists() && start.elapsed() < DIRECT {
        std::thread::yield_now();
    }
}

/// Sends a packet and waits until the other end closes.
fn say(address: &Address, packet: &[u8]) -> Result<(), Fault> {
    let mut connection =
        Connection::bare(address).map_err(|why| Fault::new("connect", why.to_string()))?;
    connection.send(packet);
    let start = Instant::now();
    while !connection.closed {
        if start.elapsed() > DIRECT {
            return Err(Fault::new("hang", "a CancelRequest is not taken"));
        }
        connection.wait(Duration::from_millis(50));
        connection.pump();
    }
    Ok(())
}

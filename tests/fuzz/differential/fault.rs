//! What a fault is called, and what is printed of it.

use crate::arena::{Arena, Client};
use crate::connection::Connection;
use crate::reply::Reply;

/// A difference, or a hang.
#[derive(Debug)]
pub struct Fault {
    /// Its kind: the same for faults that look alike.
    pub kind: String,
    /// What was expected and what came.
    pub detail: String,
}

impl Fault {
    /// A fault of this kind.
    pub fn new(kind: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            detail: detail.into(),
        }
    }
}

impl Arena<'_> {
    /// Says who waits for what.
    pub fn hang(&self, login: Option<usize>) -> Fault {
        if let Some(number) = login.filter(|number| {
            self.clients[*number]
                .as_ref()
                .is_some_and(|client| !client.satisfied())
        }) {
            return Fault::new("hang of a login", self.place(number));
        }
        for (number, client) in self.clients.iter().enumerate() {
            let Some(client) = client else { continue };
            if client.satisfied()
                && client.conversation.at_rest()
                && client.direct.parameters != client.pooled.parameters
                && !client.leaving
            {
                let differ = |one: &Connection, other: &Connection| {
                    let all = one
                        .parameters
                        .iter()
                        .filter(|(name, value)| other.parameters.get(*name) != Some(value));
                    all.map(|(name, value)| format!("{name}={value:?}"))
                        .collect::<Vec<_>>()
                        .join(", ")
                };
                return Fault::new(
                    "parameters",
                    format!(
                        "client {number} is told\nexpected {}\ngot      {}",
                        differ(&client.direct, &client.pooled),
                        differ(&client.pooled, &client.direct)
                    ),
                );
            }
        }
        let waiting = self.clients.iter().enumerate().find(|(number, client)| {
            client.as_ref().is_some_and(|client| !client.satisfied()) && !self.may_wait(*number)
        });
        let number = waiting.map_or(0, |(number, _)| number);
        let Some(client) = self.clients[number].as_ref() else {
            return Fault::new("hang", "nobody waits");
        };
        let missing = client.direct.replies.get(client.pooled.replies.len());
        let kind = missing.map_or_else(|| "close".into(), brief);
        Fault::new(
            format!("hang before {kind}"),
            format!("nothing comes\n{}", told(client, number)),
        )
    }

    /// What this client was told last.
    pub fn place(&self, number: usize) -> String {
        self.clients[number]
            .as_ref()
            .map(|client| told(client, number))
            .unwrap_or_default()
    }
}

/// What a client was told last, on both sides.
pub fn told(client: &Client, number: usize) -> String {
    let show = |all: &[Reply], from: usize| {
        let from = from.min(all.len());
        let words: Vec<_> = all[from..]
            .iter()
            .take(12)
            .map(ToString::to_string)
            .collect();
        words.join(" ")
    };
    let from = client.compared.saturating_sub(4);
    format!(
        "client {number} reads, from its reply {from} on\n  expected {}\n  got      {}{}",
        show(&client.direct.replies, from),
        show(&client.pooled.replies, from),
        if client.pooled.closed {
            " (closed)"
        } else {
            ""
        }
    )
}

/// A reply in the name of a fault's kind.
pub fn brief(reply: &Reply) -> String {
    match reply.kind {
        b'E' => format!("E {}", reply.field(b'C')),
        b'Z' => reply.to_string(),
        kind => char::from(kind).to_string(),
    }
}

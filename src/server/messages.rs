//! Reading whole messages in a conversation in turns, as logging in is, on either side of the pooler.

use crate::net::exchange::{Exchange, ExchangeError};
use crate::wire::frame;
use crate::wire::write;
use thiserror::Error;

/// A message taken out of the conversation.
#[derive(Debug)]
pub struct Taken {
    /// Its kind.
    pub kind: u8,
    /// Its body.
    pub body: Vec<u8>,
}

impl Taken {
    /// The message as it came.
    pub fn whole(&self) -> Vec<u8> {
        let mut whole = Vec::new();
        write::message(&mut whole, self.kind, |out| {
            out.extend_from_slice(&self.body)
        });
        whole
    }
}

/// Why there is no next message.
#[derive(Debug, Error)]
pub enum NoMessage {
    /// The conversation broke off.
    #[error("{0}")]
    Broken(#[from] ExchangeError),
    /// What came is no message, or one longer than is sensible here.
    #[error("{0}")]
    Malformed(String),
}

/// Waits for the next message, whose body may have up to `longest` bytes.
///
/// # Errors
/// [`NoMessage`].
pub fn next(exchange: &mut Exchange<'_>, longest: usize) -> Result<Taken, NoMessage> {
    loop {
        let head =
            frame::header(&exchange.inbox).map_err(|bad| NoMessage::Malformed(bad.to_string()))?;
        match head {
            Some(head) if head.body > longest => {
                return Err(NoMessage::Malformed(format!(
                    "a message of type \"{}\" with {} bytes, where at most {longest} make sense",
                    head.kind.escape_ascii(),
                    head.body
                )));
            }
            Some(head) if exchange.inbox.len() >= head.whole() => {
                let mut body = exchange.take(head.whole());
                body.drain(..frame::HEADER);
                return Ok(Taken {
                    kind: head.kind,
                    body,
                });
            }
            _ => exchange.read_more()?,
        }
    }
}

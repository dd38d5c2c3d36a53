//! A sequence: steps that are played, one after the other, on both sides.

use std::fmt;

use crate::frontend::Front;

/// How a client leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leave {
    /// With Terminate, behind these messages and in one write with them.
    Terminate(Vec<Front>),
    /// Without a word, but for these bytes, the beginning of a message; with a reset or without.
    Abrupt(Vec<u8>, bool),
    /// As `Abrupt`, right behind these messages, of which the direct side hears nothing: they may change nothing.
    Run(Vec<Front>),
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A client logs in with these settings.
    Login(usize, Vec<(String, String)>),
    /// A client sends these messages in one write.
    Send(usize, Vec<Front>),
    /// A client leaves.
    Leave(usize, Leave),
    /// What this client runs is cancelled.
    Cancel(usize),
    /// Another process of the pooler takes over.
    Upgrade,
    /// All clients leave; others come and must see nothing of them.
    Probe,
}

impl fmt::Display for Step {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |messages: &[Front]| {
            let mut words: Vec<String> = Vec::new();
            let mut times = 0;
            for (at, message) in messages.iter().enumerate() {
                times += 1;
                if messages.get(at + 1) != Some(message) {
                    words.push(if times == 1 {
                        message.to_string()
                    } else {
                        format!("{times}×{message}")
                    });
                    times = 0;
                }
            }
            words.join(" ")
        };
        match self {
            Self::Login(client, settings) => {
                let words: Vec<_> = settings
                    .iter()
                    .map(|(name, value)| format!("{name}={value:?}"))
                    .collect();
                write!(to, "client {client}: logs in {}", words.join(" "))
            }
            Self::Send(client, messages) => write!(to, "client {client}: {}", list(messages)),
            Self::Leave(client, Leave::Terminate(messages)) => {
                write!(to, "client {client}: {} X", list(messages))
            }
            Self::Leave(client, Leave::Abrupt(bytes, reset)) => write!(
                to,
                "client {client}: {} bytes of a message, {}",
                bytes.len(),
                if *reset { "reset" } else { "close" }
            ),
            Self::Leave(client, Leave::Run(messages)) => {
                write!(to, "client {client}: {} reset", list(messages))
            }
            Self::Cancel(client) => write!(to, "client {client}: is cancelled"),
            Self::Upgrade => write!(to, "upgrade"),
            Self::Probe => write!(to, "all leave; probe"),
        }
    }
}

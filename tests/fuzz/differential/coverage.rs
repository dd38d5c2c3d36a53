//! Which message was sent in which state of the conversation, and how often.

use std::collections::BTreeMap;
use std::fmt;

use crate::conversation::{PLACES, Place};

/// The messages that a client can send.
const MESSAGES: &str = "QPBDECSHFdcfX";

/// The counts.
#[derive(Default)]
pub struct Coverage(BTreeMap<(char, Place), u64>);

impl Coverage {
    /// This message is sent in this state.
    pub fn note(&mut self, message: char, place: Place) {
        *self.0.entry((message, place)).or_default() += 1;
    }

    /// What was not sent anywhere where it could be.
    pub fn missing(&self) -> Vec<String> {
        let all = MESSAGES
            .chars()
            .flat_map(|message| PLACES.map(|place| (message, place)));
        let never = all.filter(|pair| !self.0.contains_key(pair));
        never
            .map(|(message, place)| format!("{message} in {place:?}"))
            .collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{:8}", "message")?;
        for place in PLACES {
            write!(to, "{:>12}", format!("{place:?}"))?;
        }
        for message in MESSAGES.chars() {
            write!(to, "\n{message:8}")?;
            for place in PLACES {
                write!(
                    to,
                    "{:>12}",
                    self.0.get(&(message, place)).copied().unwrap_or(0)
                )?;
            }
        }
        Ok(())
    }
}

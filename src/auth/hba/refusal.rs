//! What a client reads that the rules keep out, and what the log reads.
//!
//! Invariant: the client does not learn which line refuses it.

use std::fmt;

use super::{Client, Reason, Verdict};
use crate::wire::sqlstate::{self, SqlState};

/// Why a client is kept out. Its severity is FATAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// SQLSTATE.
    pub code: SqlState,
    /// For the client, in PostgreSQL's words.
    pub words: String,
    /// For the log, which may know more.
    pub log: String,
}

/// Why a verdict keeps the client out, or `None` when it does not.
pub fn refusal(verdict: &Verdict, client: &Client<'_>) -> Option<Refused> {
    let Verdict::No(reason) = verdict else {
        return None;
    };
    let rejects = || format!("pg_hba.conf rejects connection for {client}");
    let user = client.user;
    let mut code = sqlstate::INVALID_AUTHORIZATION;
    let (words, more) = match reason {
        Reason::NoRule => (format!("no pg_hba.conf entry for {client}"), None),
        Reason::Reject(at) => (rejects(), Some(format!("pg_hba rule on {at}"))),
        Reason::NotBuiltIn(at, method) => (
            rejects(),
            Some(format!(
                "method {method} is not built in (pg_hba rule on {at})"
            )),
        ),
        Reason::NoCertificate(at) => (
            "connection requires a valid client certificate".to_owned(),
            Some(format!("pg_hba rule on {at}")),
        ),
        Reason::WrongCertificate(at, why) => (
            format!("certificate authentication failed for user \"{user}\""),
            Some(format!("{why} (pg_hba rule on {at})")),
        ),
        Reason::WrongPeer(at, why) => (
            format!("Peer authentication failed for user \"{user}\""),
            Some(format!("{why} (pg_hba rule on {at})")),
        ),
        Reason::Unknown(at, why) => {
            code = sqlstate::CANNOT_CONNECT_NOW;
            (
                "the access rules cannot be checked at the moment; try again later".to_owned(),
                Some(format!("{why} (pg_hba rule on {at})")),
            )
        }
    };
    Some(Refused {
        code,
        log: match more {
            Some(more) => format!("{words}: {more}"),
            None => words.clone(),
        },
        words,
    })
}

impl fmt::Display for Client<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => write!(f, "host \"{}\"", address.to_canonical())?,
            None => f.write_str("host \"[local]\"")?,
        }
        let encryption = match self.tls {
            true => "SSL encryption",
            false => "no encryption",
        };
        let (user, database) = (self.user, self.database);
        write!(
            f,
            ", user \"{user}\", database \"{database}\", {encryption}"
        )
    }
}

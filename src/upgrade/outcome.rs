//! The outcome of an upgrade, as the log and the console show it.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::admin::table::Table;
use crate::wire::backend::{self, TransactionStatus};
use crate::wire::error::{Severity, error_response};
use crate::wire::sqlstate;

/// How a hand-over went that came to its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Sessions that moved.
    #[serde(default)]
    pub moved: usize,
    /// How long the longest of them was held.
    #[serde(default)]
    pub longest: Duration,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { moved, longest } = self;
        write!(
            f,
            "{moved} sessions moved, the longest was held for {longest:?}"
        )
    }
}

/// The reply to `UPGRADE` on the console, ReadyForQuery included: one row, or an error that says why the
/// upgrade was abandoned.
pub fn reply(outcome: &Result<Outcome, String>) -> Vec<u8> {
    let mut out = Vec::new();
    match outcome {
        Ok(outcome) => {
            let mut table = Table::new("success numeric: sessions_moved longest_held_ms");
            table.row(vec![
                "t".to_owned(),
                outcome.moved.to_string(),
                format!("{:.3}", outcome.longest.as_secs_f64() * 1000.0),
            ]);
            table.write(&mut out, "UPGRADE");
        }
        Err(why) => error_response(
            &mut out,
            Severity::Error,
            sqlstate::SYSTEM_ERROR,
            &format!("upgrade abandoned, the old process goes on serving: {why}"),
        ),
    }
    backend::ready_for_query(&mut out, TransactionStatus::Idle);
    out
}

/// The reply to `UPGRADE` when none can begin now.
pub fn refusal(why: &str) -> Vec<u8> {
    let mut out = Vec::new();
    error_response(
        &mut out,
        Severity::Error,
        sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE,
        &format!("no upgrade can begin: {why}"),
    );
    backend::ready_for_query(&mut out, TransactionStatus::Idle);
    out
}

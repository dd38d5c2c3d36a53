//! A question of the pooler's own with a parameter, on a connection that no client has: sent by the extended protocol,
//! and read to its ReadyForQuery.
//!
//! Does not know what is asked. Invariant: after an answer or PostgreSQL's refusal the connection is between requests;
//! after any other error it must be closed.

use super::backend::Backend;
use super::messages::{self, NoMessage};
use crate::net::exchange::Exchange;
use crate::wire::backend::{self, TransactionStatus};
use crate::wire::error::ErrorFields;
use crate::wire::frame::c_string;
use crate::wire::{frontend, write};

/// The longest message that makes sense in answer, in bytes.
const MAX_LENGTH: usize = 1024 * 1024;

/// Rows that are kept, at most.
const MAX_ROWS: usize = 2;

/// What PostgreSQL has answered.
#[derive(Debug, Default)]
pub struct Rows {
    /// The names of the columns.
    pub columns: Vec<String>,
    /// The first rows, as text.
    pub rows: Vec<Vec<Option<Vec<u8>>>>,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum NoAnswer {
    /// PostgreSQL refuses, in these words.
    Refused(ErrorFields),
    /// The connection broke, or is of no more use.
    Lost(String),
}

impl From<NoMessage> for NoAnswer {
    fn from(error: NoMessage) -> NoAnswer {
        NoAnswer::Lost(error.to_string())
    }
}

/// Asks `sql` with one parameter, and reads the answer.
///
/// # Errors
/// [`NoAnswer`].
pub fn ask(
    exchange: &mut Exchange<'_>,
    backend: &mut Backend,
    sql: &str,
    parameter: &str,
) -> Result<Rows, NoAnswer> {
    exchange
        .send(&request(sql, parameter))
        .map_err(|broken| NoAnswer::Lost(broken.to_string()))?;
    let (mut answer, mut refused) = (Rows::default(), None);
    loop {
        let message = messages::next(exchange, MAX_LENGTH)?;
        match message.kind {
            backend::ROW_DESCRIPTION => {
                answer.columns = column_names(&message.body)
                    .ok_or_else(|| NoAnswer::Lost("a malformed RowDescription".into()))?;
            }
            backend::DATA_ROW if answer.rows.len() < MAX_ROWS => {
                let row = backend::parse_data_row(&message.body)
                    .ok_or_else(|| NoAnswer::Lost("a malformed DataRow".into()))?;
                answer.rows.push(row);
            }
            backend::DATA_ROW => {}
            backend::PARAMETER_STATUS => {
                if let Some((name, value)) = backend::parse_parameter_status(&message.body) {
                    backend.note_parameter(name, value);
                }
            }
            backend::ERROR_RESPONSE => refused = Some(ErrorFields::parse(&message.body)),
            backend::COPY_IN_RESPONSE | backend::COPY_OUT_RESPONSE => {
                return Err(NoAnswer::Lost("it is a COPY".into()));
            }
            backend::READY_FOR_QUERY => {
                backend.status = TransactionStatus::parse(&message.body).unwrap_or_default();
                return match refused {
                    _ if backend.in_transaction() => {
                        Err(NoAnswer::Lost("it leaves a transaction open".into()))
                    }
                    Some(fields) => Err(NoAnswer::Refused(fields)),
                    None => Ok(answer),
                };
            }
            _ => {}
        }
    }
}

/// Parse, Bind, Describe, Execute and Sync of the unnamed statement. Everything is text, and PostgreSQL finds out
/// the parameter's type.
fn request(sql: &str, parameter: &str) -> Vec<u8> {
    let mut out = Vec::new();
    write::message(&mut out, frontend::PARSE, |out| {
        write::c_string(out, b"");
        write::c_string(out, sql.as_bytes());
        out.extend_from_slice(&0_i16.to_be_bytes());
    });
    write::message(&mut out, frontend::BIND, |out| {
        write::c_string(out, b"");
        write::c_string(out, b"");
        out.extend_from_slice(&0_i16.to_be_bytes());
        out.extend_from_slice(&1_i16.to_be_bytes());
        let length = i32::try_from(parameter.len()).unwrap_or(-1);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(parameter.as_bytes());
        out.extend_from_slice(&0_i16.to_be_bytes());
    });
    write::message(&mut out, frontend::DESCRIBE, |out| {
        out.push(b'P');
        write::c_string(out, b"");
    });
    write::message(&mut out, frontend::EXECUTE, |out| {
        write::c_string(out, b"");
        out.extend_from_slice(&0_i32.to_be_bytes());
    });
    frontend::bare(&mut out, frontend::SYNC);
    out
}

/// The names in the body of a RowDescription.
fn column_names(body: &[u8]) -> Option<Vec<String>> {
    /// Bytes of a column behind its name: table, column, type, size, modifier, format.
    const REST: usize = 18;
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let mut names = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (name, after) = c_string(rest)?;
        names.push(String::from_utf8_lossy(name).into_owned());
        rest = after.get(REST..)?;
    }
    Some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_columns_are_read_whole_or_not_at_all() {
        let mut body = vec![0, 2];
        for name in ["passwd", "b"] {
            body.extend_from_slice(name.as_bytes());
            body.extend_from_slice(&[0; 19]);
        }
        assert_eq!(column_names(&body).unwrap(), ["passwd", "b"]);
        for cut in 0..body.len() {
            assert_eq!(column_names(&body[..cut]), None, "{cut}");
        }
    }
}

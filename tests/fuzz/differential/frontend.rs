//! The messages of a client: as values, as bytes, and as the text in which a sequence is printed.
//!
//! Knows nothing of replies. What it builds may be refused by PostgreSQL, but always has a valid frame.

use std::fmt;

/// One message from a client to the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Front {
    /// Query.
    Query(String),
    /// Parse: statement's name and text.
    Parse(String, String),
    /// Bind: portal, statement, parameters in text format.
    Bind(String, String, Vec<Option<String>>),
    /// Describe: `S` or `P` (or nonsense), and the name.
    Describe(u8, String),
    /// Execute: portal and how many rows.
    Execute(String, i32),
    /// Close: `S` or `P` (or nonsense), and the name.
    Close(u8, String),
    /// Sync.
    Sync,
    /// Flush.
    Flush,
    /// FunctionCall: the function's OID and its arguments in text format.
    Call(u32, Vec<Option<String>>),
    /// CopyData.
    Data(Vec<u8>),
    /// CopyDone.
    Done,
    /// CopyFail.
    Fail(String),
    /// A message with this type and body, whatever they are.
    Other(u8, Vec<u8>),
}

impl Front {
    /// The letter that says what this message is.
    pub fn kind(&self) -> char {
        match self {
            Self::Query(_) => 'Q',
            Self::Parse(..) => 'P',
            Self::Bind(..) => 'B',
            Self::Describe(..) => 'D',
            Self::Execute(..) => 'E',
            Self::Close(..) => 'C',
            Self::Sync => 'S',
            Self::Flush => 'H',
            Self::Call(..) => 'F',
            Self::Data(_) => 'd',
            Self::Done => 'c',
            Self::Fail(_) => 'f',
            Self::Other(kind, _) => char::from(*kind),
        }
    }

    /// The text of a statement in it.
    pub fn sql(&self) -> &str {
        match self {
            Self::Query(sql) | Self::Parse(_, sql) => sql,
            _ => "",
        }
    }

    /// The message as it goes over the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let mut body = Vec::new();
        match self {
            Self::Query(sql) | Self::Fail(sql) => text(&mut body, sql),
            Self::Parse(name, sql) => {
                text(&mut body, name);
                text(&mut body, sql);
                body.extend_from_slice(&[0, 0]);
            }
            Self::Bind(portal, statement, values) => {
                text(&mut body, portal);
                text(&mut body, statement);
                body.extend_from_slice(&[0, 0]);
                arguments(&mut body, values);
                body.extend_from_slice(&[0, 0]);
            }
            Self::Describe(kind, name) | Self::Close(kind, name) => {
                body.push(*kind);
                text(&mut body, name);
            }
            Self::Execute(portal, limit) => {
                text(&mut body, portal);
                body.extend_from_slice(&limit.to_be_bytes());
            }
            Self::Call(oid, values) => {
                body.extend_from_slice(&oid.to_be_bytes());
                body.extend_from_slice(&[0, 0]);
                arguments(&mut body, values);
                body.extend_from_slice(&[0, 0]);
            }
            Self::Data(data) | Self::Other(_, data) => body.extend_from_slice(data),
            Self::Sync | Self::Flush | Self::Done => {}
        }
        let kind = u8::try_from(self.kind()).unwrap_or(b'?');
        let mut message = vec![kind];
        message.extend_from_slice(&length(body.len() + 4));
        message.extend_from_slice(&body);
        message
    }
}

/// The startup packet of protocol 3.0.
pub fn startup(parameters: &[(String, String)]) -> Vec<u8> {
    let mut body = vec![0, 3, 0, 0];
    for (name, value) in parameters {
        text(&mut body, name);
        text(&mut body, value);
    }
    body.push(0);
    [&length(body.len() + 4)[..], &body].concat()
}

/// The request to cancel what this session runs.
pub fn cancel(pid: i32, key: &[u8]) -> Vec<u8> {
    [
        &length(12 + key.len())[..],
        &80_877_102_u32.to_be_bytes(),
        &pid.to_be_bytes(),
        key,
    ]
    .concat()
}

fn length(count: usize) -> [u8; 4] {
    u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes()
}

fn text(body: &mut Vec<u8>, value: &str) {
    body.extend_from_slice(value.as_bytes());
    body.push(0);
}

fn arguments(body: &mut Vec<u8>, values: &[Option<String>]) {
    body.extend_from_slice(&u16::try_from(values.len()).unwrap_or(0).to_be_bytes());
    for value in values {
        match value {
            None => body.extend_from_slice(&(-1_i32).to_be_bytes()),
            Some(value) => {
                body.extend_from_slice(&length(value.len()));
                body.extend_from_slice(value.as_bytes());
            }
        }
    }
}

fn short(sql: &str) -> String {
    if sql.len() <= 300 {
        return format!("{sql:?}");
    }
    format!(
        "{:?}.. ({} bytes)",
        sql.chars().take(100).collect::<String>(),
        sql.len()
    )
}

fn listed(values: &[Option<String>]) -> String {
    let words: Vec<_> = values
        .iter()
        .map(|value| value.as_deref().unwrap_or("NULL"))
        .collect();
    format!("({})", words.join(", "))
}

impl fmt::Display for Front {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Query(sql) => write!(to, "Q({})", short(sql)),
            Self::Parse(name, sql) => write!(to, "P[{name}]({})", short(sql)),
            Self::Bind(portal, statement, values) => {
                write!(to, "B[{portal}<-{statement}]{}", listed(values))
            }
            Self::Describe(kind, name) => write!(to, "D[{}:{name}]", char::from(*kind)),
            Self::Execute(portal, limit) => write!(to, "E[{portal}]({limit})"),
            Self::Close(kind, name) => write!(to, "C[{}:{name}]", char::from(*kind)),
            Self::Call(oid, values) => write!(to, "F[{oid}]{}", listed(values)),
            Self::Data(data) => write!(to, "d({})", short(&String::from_utf8_lossy(data))),
            Self::Fail(why) => write!(to, "f({why:?})"),
            Self::Other(kind, body) => write!(to, "{:?}{body:?}", char::from(*kind)),
            Self::Sync | Self::Flush | Self::Done => write!(to, "{}", self.kind()),
        }
    }
}

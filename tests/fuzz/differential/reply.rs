//! The messages of a server, made comparable.
//!
//! Removed are process ids and keys and the F, L and R fields of errors. OIDs of objects that were made while the
//! test ran differ between two databases: they are equal if they always stand for the same OID of the other side.

use std::collections::HashMap;
use std::fmt;

/// OIDs from here on belong to objects that initdb has not made.
const FIRST_OWN_OID: u32 = 16384;

/// One message from a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Its type letter.
    pub kind: u8,
    /// Its body, without what may differ.
    pub body: Vec<u8>,
}

impl Reply {
    /// The message, without what may differ.
    pub fn new(kind: u8, body: &[u8]) -> Self {
        let body = match kind {
            b'E' | b'N' => fields(body)
                .filter(|field| !b"FLR".contains(&field[0]))
                .filter(|field| field[0] != b'H' || !body.windows(6).any(|code| code == b"C26000"))
                .flat_map(|field| [field, &[0]].concat())
                .collect(),
            b'A' => body.get(4..).unwrap_or_default().to_vec(),
            _ => body.to_vec(),
        };
        Self { kind, body }
    }

    /// Whether a server may say this at any time.
    pub fn is_asynchronous(&self) -> bool {
        matches!(self.kind, b'N' | b'A' | b'S' | b'K')
    }

    /// A field of an error or a notice.
    pub fn field(&self, letter: u8) -> String {
        fields(&self.body)
            .find(|field| field[0] == letter)
            .map(|field| String::from_utf8_lossy(&field[1..]).into_owned())
            .unwrap_or_default()
    }

    /// The OIDs in this message as positions in its body.
    fn oids(&self) -> Vec<usize> {
        let count = usize::from(u16::from_be_bytes([
            self.body.first().copied().unwrap_or(0),
            self.body.get(1).copied().unwrap_or(0),
        ]));
        match self.kind {
            b't' => (0..count).map(|each| 2 + 4 * each).collect(),
            b'T' => {
                let (mut found, mut at) = (Vec::new(), 2);
                for _ in 0..count {
                    at += self.body[at..]
                        .iter()
                        .position(|byte| *byte == 0)
                        .unwrap_or(0)
                        + 1;
                    found.extend([at, at + 6]);
                    at += 18;
                }
                found
            }
            _ => Vec::new(),
        }
    }
}

fn fields(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    body.split(|byte| *byte == 0)
        .filter(|field| !field.is_empty())
}

/// Which OID of the one side stands for which of the other.
#[derive(Default)]
pub struct Oids {
    there: HashMap<u32, u32>,
    back: HashMap<u32, u32>,
}

impl Oids {
    /// Whether the two messages say the same.
    pub fn equal(&mut self, one: &Reply, other: &Reply) -> bool {
        if one == other {
            return true;
        }
        if one.kind != other.kind || one.body.len() != other.body.len() {
            return false;
        }
        let (mut left, mut right) = (one.body.clone(), other.body.clone());
        for at in one.oids() {
            let (Some(here), Some(there)) = (oid(&left, at), oid(&right, at)) else {
                return false;
            };
            let own = here >= FIRST_OWN_OID && there >= FIRST_OWN_OID;
            if own
                && *self.there.entry(here).or_insert(there) == there
                && *self.back.entry(there).or_insert(here) == here
            {
                left[at..at + 4].fill(0);
                right[at..at + 4].fill(0);
            }
        }
        left == right
    }
}

fn oid(body: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(body.get(at..at + 4)?.try_into().ok()?))
}

impl fmt::Display for Reply {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = char::from(self.kind);
        match self.kind {
            b'E' | b'N' => {
                write!(
                    to,
                    "{kind}({} {} {:?}",
                    self.field(b'S'),
                    self.field(b'C'),
                    self.field(b'M')
                )?;
                let more = fields(&self.body).filter(|field| !b"SVCM".contains(&field[0]));
                for field in more {
                    write!(to, " {:?}", String::from_utf8_lossy(field))?;
                }
                if self.field(b'V') != self.field(b'S') {
                    write!(to, " V={:?}", self.field(b'V'))?;
                }
                write!(to, ")")
            }
            b'Z' => write!(to, "Z{}", String::from_utf8_lossy(&self.body)),
            b'1' | b'2' | b'3' | b'n' | b's' | b'I' | b'c' => write!(to, "{kind}"),
            _ => {
                let shown: String = String::from_utf8_lossy(&self.body)
                    .chars()
                    .take(120)
                    .collect();
                write!(to, "{kind}({shown:?})")
            }
        }
    }
}

//! ErrorResponse and NoticeResponse: reading the fields the pooler needs, and writing its own.
//!
//! Does not decide what is an error. Field codes: PostgreSQL manual, "Error and Notice Message Fields".

use std::fmt;

use super::frame::c_string;
use super::write;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The statement failed; the session goes on.
    Error,
    /// The session ends.
    Fatal,
}

impl Severity {
    fn word(self) -> &'static [u8] {
        match self {
            Severity::Error => b"ERROR",
            Severity::Fatal => b"FATAL",
        }
    }
}

/// What an ErrorResponse may say beside its message; empty where it does not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct More {
    /// DETAIL.
    pub detail: String,
    /// HINT: what to do about it.
    pub hint: String,
}

/// What PostgreSQL said in an ErrorResponse, as far as the pooler looks at it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ErrorFields {
    /// The severity in its untranslated form, e.g. `FATAL`.
    pub severity: String,
    /// The SQLSTATE.
    pub code: String,
    /// The primary message.
    pub message: String,
    /// What it says beside the message, if it does.
    pub more: Option<Box<More>>,
    /// The routine in PostgreSQL's source that found it.
    pub routine: String,
}

impl ErrorFields {
    /// Reads the body of an ErrorResponse or NoticeResponse. Missing fields are left empty: a server may
    /// leave out any of them.
    pub fn parse(mut body: &[u8]) -> ErrorFields {
        let mut fields = ErrorFields::default();
        while let Some((&code, rest)) = body.split_first() {
            if code == 0 {
                break;
            }
            let Some((text, rest)) = c_string(rest) else {
                break;
            };
            let text = || String::from_utf8_lossy(text).into_owned();
            match code {
                b'V' => fields.severity = text(),
                b'S' if fields.severity.is_empty() => fields.severity = text(),
                b'C' => fields.code = text(),
                b'M' => fields.message = text(),
                b'D' => fields.more.get_or_insert_default().detail = text(),
                b'H' => fields.more.get_or_insert_default().hint = text(),
                b'R' => fields.routine = text(),
                _ => {}
            }
            body = rest;
        }
        fields
    }

    /// Whether the server closes the connection after this message.
    pub fn is_fatal(&self) -> bool {
        matches!(self.severity.as_str(), "FATAL" | "PANIC")
    }
}

impl fmt::Display for ErrorFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.severity, self.code, self.message)
    }
}

/// Appends an ErrorResponse in the pooler's own words.
pub fn error_response(out: &mut Vec<u8>, severity: Severity, code: &str, message: &str) {
    write::message(out, super::backend::ERROR_RESPONSE, |out| {
        for (field, text) in [
            (b'S', severity.word()),
            (b'V', severity.word()),
            (b'C', code.as_bytes()),
            (b'M', message.as_bytes()),
        ] {
            out.push(field);
            write::c_string(out, text);
        }
        out.push(0);
    });
}

//! Messages that PostgreSQL sends: their kinds, those the pooler reads, and those it writes itself.

use serde::{Deserialize, Serialize};

use super::frame::c_string;
use super::write;

/// Authentication in all its forms.
pub const AUTHENTICATION: u8 = b'R';
/// BackendKeyData.
pub const BACKEND_KEY_DATA: u8 = b'K';
/// BindComplete.
pub const BIND_COMPLETE: u8 = b'2';
/// CloseComplete.
pub const CLOSE_COMPLETE: u8 = b'3';
/// CommandComplete.
pub const COMMAND_COMPLETE: u8 = b'C';
/// CopyData, from the server.
pub const COPY_DATA_RESPONSE: u8 = b'd';
/// CopyDone, from the server.
pub const COPY_DONE_RESPONSE: u8 = b'c';
/// CopyInResponse.
pub const COPY_IN_RESPONSE: u8 = b'G';
/// CopyOutResponse.
pub const COPY_OUT_RESPONSE: u8 = b'H';
/// DataRow.
pub const DATA_ROW: u8 = b'D';
/// EmptyQueryResponse.
pub const EMPTY_QUERY_RESPONSE: u8 = b'I';
/// ErrorResponse.
pub const ERROR_RESPONSE: u8 = b'E';
/// FunctionCallResponse.
pub const FUNCTION_CALL_RESPONSE: u8 = b'V';
/// NegotiateProtocolVersion.
pub const NEGOTIATE_PROTOCOL_VERSION: u8 = b'v';
/// NoData.
pub const NO_DATA: u8 = b'n';
/// NoticeResponse.
pub const NOTICE_RESPONSE: u8 = b'N';
/// NotificationResponse.
pub const NOTIFICATION_RESPONSE: u8 = b'A';
/// ParameterDescription.
pub const PARAMETER_DESCRIPTION: u8 = b't';
/// ParameterStatus.
pub const PARAMETER_STATUS: u8 = b'S';
/// ParseComplete.
pub const PARSE_COMPLETE: u8 = b'1';
/// PortalSuspended.
pub const PORTAL_SUSPENDED: u8 = b's';
/// ReadyForQuery.
pub const READY_FOR_QUERY: u8 = b'Z';
/// RowDescription.
pub const ROW_DESCRIPTION: u8 = b'T';

/// The transaction status that ReadyForQuery carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum TransactionStatus {
    /// `I`: not in a transaction block.
    #[default]
    Idle,
    /// `T`: in a transaction block.
    InTransaction,
    /// `E`: in a failed transaction block.
    Failed,
}

impl TransactionStatus {
    /// Reads the body of a ReadyForQuery.
    pub fn parse(body: &[u8]) -> Option<TransactionStatus> {
        match body {
            b"I" => Some(TransactionStatus::Idle),
            b"T" => Some(TransactionStatus::InTransaction),
            b"E" => Some(TransactionStatus::Failed),
            _ => None,
        }
    }

    fn letter(self) -> u8 {
        match self {
            TransactionStatus::Idle => b'I',
            TransactionStatus::InTransaction => b'T',
            TransactionStatus::Failed => b'E',
        }
    }
}

/// The requests for authentication that PostgreSQL can make and this program knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authentication<'a> {
    /// AuthenticationOk.
    Ok,
    /// AuthenticationCleartextPassword.
    Cleartext,
    /// AuthenticationMD5Password with its salt.
    Md5([u8; 4]),
    /// AuthenticationSASL with the mechanisms offered.
    Sasl(Vec<&'a [u8]>),
    /// AuthenticationSASLContinue.
    SaslContinue(&'a [u8]),
    /// AuthenticationSASLFinal.
    SaslFinal(&'a [u8]),
    /// Another method (Kerberos, GSSAPI, SSPI, ...), by its number.
    Other(i32),
}

impl<'a> Authentication<'a> {
    /// Reads the body of an Authentication message; `None` if it is malformed.
    pub fn parse(body: &'a [u8]) -> Option<Authentication<'a>> {
        let (code, rest) = super::frame::int32(body)?;
        Some(match code {
            0 => Authentication::Ok,
            3 => Authentication::Cleartext,
            5 => Authentication::Md5(rest.try_into().ok()?),
            10 => {
                let mut mechanisms = Vec::new();
                let mut rest = rest;
                while let Some((name, more)) = c_string(rest) {
                    if name.is_empty() {
                        break;
                    }
                    mechanisms.push(name);
                    rest = more;
                }
                Authentication::Sasl(mechanisms)
            }
            11 => Authentication::SaslContinue(rest),
            12 => Authentication::SaslFinal(rest),
            other => Authentication::Other(other),
        })
    }
}

/// Appends an AuthenticationOk.
pub fn authentication_ok(out: &mut Vec<u8>) {
    write::message(out, AUTHENTICATION, |out| out.extend_from_slice(&[0; 4]));
}

/// Appends an AuthenticationCleartextPassword.
pub fn authentication_cleartext(out: &mut Vec<u8>) {
    write::message(out, AUTHENTICATION, |out| {
        out.extend_from_slice(&3_i32.to_be_bytes());
    });
}

/// Appends an AuthenticationMD5Password.
pub fn authentication_md5(out: &mut Vec<u8>, salt: [u8; 4]) {
    write::message(out, AUTHENTICATION, |out| {
        out.extend_from_slice(&5_i32.to_be_bytes());
        out.extend_from_slice(&salt);
    });
}

/// Appends an AuthenticationSASL that offers `mechanisms`.
pub fn authentication_sasl(out: &mut Vec<u8>, mechanisms: &[&str]) {
    write::message(out, AUTHENTICATION, |out| {
        out.extend_from_slice(&10_i32.to_be_bytes());
        for mechanism in mechanisms {
            write::c_string(out, mechanism.as_bytes());
        }
        out.push(0);
    });
}

/// Appends an AuthenticationSASLContinue.
pub fn authentication_sasl_continue(out: &mut Vec<u8>, data: &[u8]) {
    write::message(out, AUTHENTICATION, |out| {
        out.extend_from_slice(&11_i32.to_be_bytes());
        out.extend_from_slice(data);
    });
}

/// Appends an AuthenticationSASLFinal.
pub fn authentication_sasl_final(out: &mut Vec<u8>, data: &[u8]) {
    write::message(out, AUTHENTICATION, |out| {
        out.extend_from_slice(&12_i32.to_be_bytes());
        out.extend_from_slice(data);
    });
}

/// Reads the body of a ParameterStatus: name and value.
pub fn parse_parameter_status(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name, rest) = c_string(body)?;
    let (value, _) = c_string(rest)?;
    Some((name, value))
}

/// Reads the body of a DataRow of text: each column's bytes, or `None` for NULL.
pub fn parse_data_row(body: &[u8]) -> Option<Vec<Option<Vec<u8>>>> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let mut columns = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = super::frame::int32(rest)?;
        match usize::try_from(length) {
            Ok(length) => {
                columns.push(Some(after.get(..length)?.to_vec()));
                rest = &after[length..];
            }
            Err(_) => {
                columns.push(None);
                rest = after;
            }
        }
    }
    Some(columns)
}

/// Appends a ParameterStatus.
pub fn parameter_status(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    write::message(out, PARAMETER_STATUS, |out| {
        write::c_string(out, name);
        write::c_string(out, value);
    });
}

/// Appends a BackendKeyData.
pub fn backend_key_data(out: &mut Vec<u8>, process_id: i32, secret: &[u8]) {
    write::message(out, BACKEND_KEY_DATA, |out| {
        out.extend_from_slice(&process_id.to_be_bytes());
        out.extend_from_slice(secret);
    });
}

/// Appends a ReadyForQuery.
pub fn ready_for_query(out: &mut Vec<u8>, status: TransactionStatus) {
    write::message(out, READY_FOR_QUERY, |out| out.push(status.letter()));
}

/// Appends a CommandComplete.
pub fn command_complete(out: &mut Vec<u8>, tag: &str) {
    write::message(out, COMMAND_COMPLETE, |out| {
        write::c_string(out, tag.as_bytes());
    });
}

/// Appends an EmptyQueryResponse.
pub fn empty_query_response(out: &mut Vec<u8>) {
    write::message(out, EMPTY_QUERY_RESPONSE, |_| {});
}

/// Appends a NegotiateProtocolVersion: the minor version of protocol 3 that will be spoken, and
/// the options that were not understood.
pub fn negotiate_protocol_version(out: &mut Vec<u8>, minor: u32, options: &[Vec<u8>]) {
    write::message(out, NEGOTIATE_PROTOCOL_VERSION, |out| {
        // The manual calls this field the newest minor version; libpq reads it as a whole version.
        out.extend_from_slice(&(super::startup::PROTOCOL_3_0 + minor).to_be_bytes());
        let count = u32::try_from(options.len()).unwrap_or(0);
        out.extend_from_slice(&count.to_be_bytes());
        for option in options {
            write::c_string(out, option);
        }
    });
}

/// A column of a result the pooler itself makes: its name and its type's OID.
pub type Column<'a> = (&'a str, u32);

/// Appends a RowDescription of columns in text format.
pub fn row_description(out: &mut Vec<u8>, columns: &[Column<'_>]) {
    write::message(out, ROW_DESCRIPTION, |out| {
        let count = u16::try_from(columns.len()).unwrap_or(0);
        out.extend_from_slice(&count.to_be_bytes());
        for (name, oid) in columns {
            write::c_string(out, name.as_bytes());
            out.extend_from_slice(&[0; 6]); // no table, no attribute number
            out.extend_from_slice(&oid.to_be_bytes());
            let size: i16 = if *oid == 23 { 4 } else { -1 };
            out.extend_from_slice(&size.to_be_bytes());
            out.extend_from_slice(&(-1_i32).to_be_bytes());
            out.extend_from_slice(&[0; 2]); // text format
        }
    });
}

/// Appends a DataRow of text values, none of them NULL.
pub fn data_row<T: AsRef<str>>(out: &mut Vec<u8>, values: &[T]) {
    write::message(out, DATA_ROW, |out| {
        let count = u16::try_from(values.len()).unwrap_or(0);
        out.extend_from_slice(&count.to_be_bytes());
        for value in values {
            let value = value.as_ref().as_bytes();
            let length = i32::try_from(value.len()).unwrap_or(-1);
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(value);
        }
    });
}

//! Messages that clients send: their kinds, and those the pooler itself sends to PostgreSQL.

use super::write;

/// Bind: makes a portal from a statement.
pub const BIND: u8 = b'B';
/// Close: of a statement or portal.
pub const CLOSE: u8 = b'C';
/// CopyData, in both directions.
pub const COPY_DATA: u8 = b'd';
/// CopyDone, in both directions.
pub const COPY_DONE: u8 = b'c';
/// CopyFail.
pub const COPY_FAIL: u8 = b'f';
/// Describe: of a statement or portal.
pub const DESCRIBE: u8 = b'D';
/// Execute: runs a portal.
pub const EXECUTE: u8 = b'E';
/// Flush.
pub const FLUSH: u8 = b'H';
/// FunctionCall.
pub const FUNCTION_CALL: u8 = b'F';
/// Parse: makes a prepared statement.
pub const PARSE: u8 = b'P';
/// PasswordMessage, SASLInitialResponse, SASLResponse and GSSResponse share one letter.
pub const PASSWORD: u8 = b'p';
/// Query: the simple protocol.
pub const QUERY: u8 = b'Q';
/// Sync: ends a batch of the extended protocol.
pub const SYNC: u8 = b'S';
/// Terminate.
pub const TERMINATE: u8 = b'X';

/// Appends a Query.
pub fn query(out: &mut Vec<u8>, sql: &str) {
    write::message(out, QUERY, |out| write::c_string(out, sql.as_bytes()));
}

/// Appends a message that has no body: Sync, Flush, CopyDone or Terminate.
pub fn bare(out: &mut Vec<u8>, kind: u8) {
    write::message(out, kind, |_| {});
}

/// Appends a CopyFail with its reason.
pub fn copy_fail(out: &mut Vec<u8>, reason: &str) {
    write::message(out, COPY_FAIL, |out| {
        write::c_string(out, reason.as_bytes())
    });
}

/// Appends a PasswordMessage.
pub fn password(out: &mut Vec<u8>, password: &[u8]) {
    write::message(out, PASSWORD, |out| write::c_string(out, password));
}

/// Appends a SASLInitialResponse.
pub fn sasl_initial_response(out: &mut Vec<u8>, mechanism: &str, first: &[u8]) {
    write::message(out, PASSWORD, |out| {
        write::c_string(out, mechanism.as_bytes());
        let length = i32::try_from(first.len()).unwrap_or(-1);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(first);
    });
}

/// Appends a SASLResponse.
pub fn sasl_response(out: &mut Vec<u8>, data: &[u8]) {
    write::message(out, PASSWORD, |out| out.extend_from_slice(data));
}

/// Appends a StartupMessage of protocol 3.0 with `parameters` in their order.
pub fn startup<'a>(out: &mut Vec<u8>, parameters: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) {
    write::untyped(out, |out| {
        out.extend_from_slice(&super::startup::PROTOCOL_3_0.to_be_bytes());
        for (name, value) in parameters {
            write::c_string(out, name);
            write::c_string(out, value);
        }
        out.push(0);
    });
}

/// Appends an SSLRequest.
pub fn ssl_request(out: &mut Vec<u8>) {
    write::untyped(out, |out| {
        out.extend_from_slice(&super::startup::SSL_REQUEST.to_be_bytes());
    });
}

/// Appends a CancelRequest for the backend with this process id and secret key.
pub fn cancel_request(out: &mut Vec<u8>, process_id: i32, secret: &[u8]) {
    write::untyped(out, |out| {
        out.extend_from_slice(&super::startup::CANCEL_REQUEST.to_be_bytes());
        out.extend_from_slice(&process_id.to_be_bytes());
        out.extend_from_slice(secret);
    });
}

//! Alerts (RFC 8446 section 6, RFC 5246 section 7.2), and the faults that call for them.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The number of an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert(pub u8);

impl Alert {
    /// The sender has nothing more to say.
    pub const CLOSE_NOTIFY: Alert = Alert(0);
    /// A message that has no place here.
    pub const UNEXPECTED_MESSAGE: Alert = Alert(10);
    /// A record that cannot be opened, whatever the reason.
    pub const BAD_RECORD_MAC: Alert = Alert(20);
    /// A record that is too long.
    pub const RECORD_OVERFLOW: Alert = Alert(22);
    /// A field outside its range.
    pub const ILLEGAL_PARAMETER: Alert = Alert(47);
    /// A message whose length is not what it should be.
    pub const DECODE_ERROR: Alert = Alert(50);
    /// Our own trouble.
    pub const INTERNAL_ERROR: Alert = Alert(80);
    /// The handshake is called off; followed by a close_notify.
    pub const USER_CANCELED: Alert = Alert(90);
    /// TLS 1.2: the sender does not renegotiate.
    pub const NO_RENEGOTIATION: Alert = Alert(100);

    /// Its name in the RFCs, of those an established connection can meet.
    pub fn name(self) -> &'static str {
        match self.0 {
            0 => "close_notify",
            10 => "unexpected_message",
            20 => "bad_record_mac",
            22 => "record_overflow",
            40 => "handshake_failure",
            42 => "bad_certificate",
            43 => "unsupported_certificate",
            44 => "certificate_revoked",
            45 => "certificate_expired",
            46 => "certificate_unknown",
            47 => "illegal_parameter",
            48 => "unknown_ca",
            49 => "access_denied",
            50 => "decode_error",
            51 => "decrypt_error",
            70 => "protocol_version",
            71 => "insufficient_security",
            80 => "internal_error",
            90 => "user_canceled",
            100 => "no_renegotiation",
            109 => "missing_extension",
            112 => "unrecognized_name",
            116 => "certificate_required",
            120 => "no_application_protocol",
            _ => "unknown alert",
        }
    }
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.0)
    }
}

/// Why a connection cannot go on. Sticky: once met, it is met again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Error)]
pub enum Fault {
    /// The peer broke the rules; it has been told by this alert.
    #[error("TLS: the peer broke the protocol: {0}")]
    Ours(Alert),
    /// The peer says that we did, or that it gives up, by this alert.
    #[error("TLS: the peer sent a fatal alert: {0}")]
    Theirs(Alert),
}

//! Channel binding by `tls-server-end-point` (RFC 5802, section 6; RFC 5929,
//! section 4.1): a login counts only on a TLS connection with the certificate
//! that the other side sees too, so nobody stands in between.
//!
//! The hash of the certificate comes from the handshake; here it is data.
//! Invariant: what a client says in its gs2 header is what it repeats, signed, in
//! `c=`; so a header that was changed on the way is found out.

use crate::wire::base64;

/// The only type of binding there is, here as in PostgreSQL.
pub(super) const END_POINT: &str = "tls-server-end-point";

/// A mechanism, as AuthenticationSASL and SASLInitialResponse name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// Without channel binding.
    Sha256,
    /// With channel binding, hence only over TLS.
    Sha256Plus,
}

impl Mechanism {
    /// Its registered name (RFC 7677).
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Sha256 => "SCRAM-SHA-256",
            Mechanism::Sha256Plus => "SCRAM-SHA-256-PLUS",
        }
    }

    /// The mechanism of this name.
    pub fn named(name: &[u8]) -> Option<Mechanism> {
        [Mechanism::Sha256, Mechanism::Sha256Plus]
            .into_iter()
            .find(|mechanism| mechanism.name().as_bytes() == name)
    }
}

/// What the pooler says of channel binding when it logs in to PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Binding {
    /// `n`: it could not bind. There is no TLS, or the server's certificate has no
    /// hash to bind to.
    Impossible,
    /// `y`: it could and believes that the server could not. A server that could
    /// learns so that its offer was struck out on the way.
    NotOffered,
    /// `p`: it binds to the certificate of this hash.
    EndPoint(Vec<u8>),
}

impl Binding {
    /// What to say and which mechanism to use towards a server that offers
    /// channel binding or not; `channel_binding` is the hash of its certificate.
    pub fn choose(offered: bool, channel_binding: Option<&[u8]>) -> Binding {
        match (offered, channel_binding) {
            (true, Some(hash)) => Binding::EndPoint(hash.to_vec()),
            (false, Some(_)) => Binding::NotOffered,
            (_, None) => Binding::Impossible,
        }
    }

    /// The mechanism that goes with it.
    pub fn mechanism(&self) -> Mechanism {
        match self {
            Binding::EndPoint(_) => Mechanism::Sha256Plus,
            Binding::Impossible | Binding::NotOffered => Mechanism::Sha256,
        }
    }

    /// What client-first-message begins with.
    pub(super) fn gs2_header(&self) -> String {
        match self {
            Binding::Impossible => "n,,".into(),
            Binding::NotOffered => "y,,".into(),
            Binding::EndPoint(_) => format!("p={END_POINT},,"),
        }
    }

    /// The value of `c=` in client-final-message.
    pub(super) fn repeated(&self) -> String {
        let hash = match self {
            Binding::EndPoint(hash) => hash.as_slice(),
            Binding::Impossible | Binding::NotOffered => &[],
        };
        repeated(&self.gs2_header(), hash)
    }
}

/// The gs2 header again, now with the data that are bound to, in base64.
pub(super) fn repeated(gs2_header: &str, bound: &[u8]) -> String {
    base64::encode(&[gs2_header.as_bytes(), bound].concat())
}

//! TLS whose connections can go on in another process, on a stock OpenSSL.
//!
//! OpenSSL does the handshake ([`handshake`]) and never sees a byte of application data: from the first
//! one on, [`channel`] opens and seals the records itself, with keys that are plain data. So a connection
//! is the same before and after it has moved, and nothing of it is hidden in a library.
//!
//! Knows no sockets and nothing of PostgreSQL.
//!
//! | file | what it is |
//! |---|---|
//! | [`suite`] | versions and cipher suites |
//! | [`nodump`] | memory that core dumps leave out |
//! | [`openssl_memory`] | OpenSSL's memory, wiped when it is given back |
//! | [`x509`] | what OpenSSL knows of a certificate and its crate does not show |
//! | [`secret`] | bytes that are wiped and never printed |
//! | [`schedule`] | from a handshake's secrets to keys, and from each secret to the next |
//! | [`direction`] | one direction's key and sequence number: seals and opens single records |
//! | [`alert`] | alerts, and the faults that call for them |
//! | [`channel`] | both directions and the rules: data, KeyUpdate, alerts, limits |
//! | [`identity`] | certificates, keys, authorities: what handshakes stand on |
//! | [`server_name`] | what a client asks for by name |
//! | `channel_binding` | the hash of a certificate for channel binding (`tls-server-end-point`) |
//! | [`handshake`] | both roles of the handshake |

pub mod alert;
pub mod channel;
mod channel_binding;
pub mod direction;
pub mod handshake;
pub mod identity;
pub mod nodump;
pub mod openssl_memory;
pub mod schedule;
pub mod secret;
pub mod server_name;
pub mod suite;
pub mod x509;

#[cfg(test)]
pub(crate) mod tests;

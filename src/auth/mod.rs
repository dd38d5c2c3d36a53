//! Which clients may log in, and how the pooler logs in itself: the password side of
//! PostgreSQL's client authentication, without a socket, a thread or a pool.
//!
//! | file | what it is |
//! |---|---|
//! | [`verifier`] | what is stored instead of a password: nothing, an MD5 hash, a SCRAM verifier |
//! | [`md5`] | the MD5 challenge, asked of a client and answered to a server |
//! | [`scram`] | SCRAM-SHA-256, both parties |
//! | [`jwt`] | JSON Web Tokens in place of passwords |
//! | [`keys`] | the secrets that travel between the parts, wiped when dropped |
//! | [`credentials`] | what the pooler knows to log in to PostgreSQL |
//! | [`certificate`] | the name in a client's certificate |
//! | [`hba`] | which rule decides about a client, and what it says |
//! | [`challenge`] | rule and verifier together: what the client is asked for |
//! | [`found`] | what `auth_query` has found, and how long that is believed |
//! | [`crypto`] | the few primitives of OpenSSL all of this stands on |
//!
//! Everything here takes bytes and gives bytes. Whatever goes wrong, the
//! client reads one and the same sentence, [`refusal`]; the reason is for the
//! log. No error, log sentence or `Debug` output of this room contains a
//! password, a key, a hash or a salt.

pub mod certificate;
pub mod challenge;
pub mod credentials;
pub mod crypto;
pub mod found;
pub mod hba;
pub mod jwt;
pub mod keys;
pub mod md5;
pub mod scram;
pub mod verifier;

pub use certificate::PeerCertificate;
pub use challenge::{Challenge, Kind, Login, LoginFailure, login};
pub use credentials::{ServerCredentials, ServerSecret};
pub use keys::{ClientKey, Password, Proof, ServerKey};
pub use md5::Md5Challenge;
pub use scram::{
    Binding, ClientExchange, Mechanism, MockSecret, Outcome, PassThrough, ScramError,
    ServerExchange,
};
pub use verifier::{Md5Hash, ScramVerifier, Verifier};

/// The error for a client whose login fails, whatever the reason: the
/// sentence PostgreSQL uses for a wrong password and for an unknown user.
pub fn refusal(user: &str) -> String {
    format!("password authentication failed for user \"{user}\"")
}

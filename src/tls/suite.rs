//! The versions and cipher suites whose connections can be carried: TLS 1.3 and 1.2, AEAD only.

use std::fmt;

use openssl::cipher::{Cipher, CipherRef};
use openssl::hash::MessageDigest;
use serde::{Deserialize, Serialize};

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Version {
    /// TLS 1.2, RFC 5246.
    Tls12,
    /// TLS 1.3, RFC 8446.
    Tls13,
}

impl Version {
    /// Its name, as PostgreSQL's `pg_stat_ssl` and OpenSSL write it.
    pub fn name(self) -> &'static str {
        match self {
            Version::Tls12 => "TLSv1.2",
            Version::Tls13 => "TLSv1.3",
        }
    }
}

/// What a handshake has agreed on, to be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Negotiated {
    /// The version.
    pub version: Version,
    /// OpenSSL's name of the cipher suite.
    pub suite: String,
}

impl fmt::Display for Negotiated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.version.name(), self.suite)
    }
}

/// The AEAD of a cipher suite, and with it the suite's hash: all suites that are allowed here have the
/// same hash for the same AEAD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Aead {
    /// AES-128-GCM with SHA-256.
    Aes128Gcm,
    /// AES-256-GCM with SHA-384.
    Aes256Gcm,
    /// ChaCha20-Poly1305 with SHA-256.
    ChaCha20Poly1305,
}

/// Bytes of an authentication tag, of each AEAD.
pub const TAG: usize = 16;

/// Bytes of a nonce, of each AEAD.
pub const NONCE: usize = 12;

impl Aead {
    /// The AEAD of a suite by OpenSSL's name for it: `TLS_AES_256_GCM_SHA384`,
    /// `ECDHE-RSA-AES128-GCM-SHA256`. `None` for a suite that is not allowed here.
    pub fn of_suite(version: Version, name: &str) -> Option<Aead> {
        let bulk = match version {
            Version::Tls13 => name.strip_prefix("TLS_")?,
            Version::Tls12 => name
                .strip_prefix("ECDHE-RSA-")
                .or_else(|| name.strip_prefix("ECDHE-ECDSA-"))?,
        };
        match bulk {
            "AES_128_GCM_SHA256" | "AES128-GCM-SHA256" => Some(Aead::Aes128Gcm),
            "AES_256_GCM_SHA384" | "AES256-GCM-SHA384" => Some(Aead::Aes256Gcm),
            "CHACHA20_POLY1305_SHA256" | "CHACHA20-POLY1305" => Some(Aead::ChaCha20Poly1305),
            _ => None,
        }
    }

    /// Bytes of a key.
    pub fn key_length(self) -> usize {
        match self {
            Aead::Aes128Gcm => 16,
            Aead::Aes256Gcm | Aead::ChaCha20Poly1305 => 32,
        }
    }

    /// Bytes of each record's nonce that travel with it: TLS 1.2 sends eight of AES-GCM's (RFC 5288), and
    /// nothing else does (RFC 7905, RFC 8446 section 5.3).
    pub fn explicit_nonce(self, version: Version) -> usize {
        match (version, self) {
            (Version::Tls12, Aead::Aes128Gcm | Aead::Aes256Gcm) => 8,
            _ => 0,
        }
    }

    /// The hash of the key schedule.
    pub fn hash(self) -> MessageDigest {
        match self {
            Aead::Aes128Gcm | Aead::ChaCha20Poly1305 => MessageDigest::sha256(),
            Aead::Aes256Gcm => MessageDigest::sha384(),
        }
    }

    /// OpenSSL's cipher.
    pub(super) fn cipher(self) -> &'static CipherRef {
        match self {
            Aead::Aes128Gcm => Cipher::aes_128_gcm(),
            Aead::Aes256Gcm => Cipher::aes_256_gcm(),
            Aead::ChaCha20Poly1305 => Cipher::chacha20_poly1305(),
        }
    }
}

//! TLS as meant: what a listener offers its clients and what a pool demands of
//! PostgreSQL, with the files read and found to be in order.
//!
//! Plain data; making OpenSSL's objects of it is another room's business. The
//! invariant: every certificate, key and list in here was parsed by OpenSSL when
//! the settings were loaded, and a key fits its certificate. A file that changes
//! on disk afterwards changes nothing here until the next reload, when the
//! settings then differ.

use std::path::PathBuf;
use std::sync::Arc;
use std::{fmt, io};

use super::setting::{ServerTlsMode, TlsVersion};
use crate::tls::nodump::Pages;

/// TLS for clients: they may use it, or must.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTls {
    /// Whether a client that comes over TCP without TLS is let in too.
    pub plain_allowed: bool,
    /// Who the pooler is.
    pub identity: Identity,
    /// Who it is to clients that ask for a name of one of these, and not of `identity`.
    pub others: Vec<Identity>,
    /// Whether clients show certificates.
    pub certificates: ClientCertificates,
    /// The versions and suites that are accepted.
    pub protocols: Protocols,
}

/// Whether clients show certificates of their own. One that is shown is always
/// verified, and the handshake fails if it is bad.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// They are not asked for any.
    NotAsked,
    /// They may, and these must have signed it; HBA rules can demand it.
    Asked(Authorities),
    /// They must, and these must have signed it.
    Demanded(Authorities),
}

/// TLS to PostgreSQL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerTls {
    /// When it is used, and how much of the certificate is verified.
    pub mode: ServerTlsMode,
    /// Who must have signed PostgreSQL's certificate: there in the modes
    /// `verify-ca` and `verify-full`, and only in those.
    pub authorities: Option<Authorities>,
    /// Who the pooler is, should PostgreSQL ask.
    pub identity: Option<Identity>,
    /// The versions and suites that are offered.
    pub protocols: Protocols,
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The certificate, followed by the chain that leads to its authority.
    pub certificate: PemFile,
    /// Its key.
    pub key: PrivateKey,
}

/// The authorities whose signature counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorities {
    /// Their certificates, one or more.
    pub certificates: PemFile,
    /// The certificates they have revoked.
    pub revoked: Option<PemFile>,
}

/// A file in PEM form (RFC 7468) without secrets, as it was when the settings
/// were loaded.
#[derive(Clone, PartialEq, Eq)]
pub struct PemFile {
    /// Where it was read.
    pub path: PathBuf,
    /// All of it.
    pub text: Vec<u8>,
}

impl fmt::Debug for PemFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PemFile({})", self.path.display())
    }
}

/// A private key in PEM form without a passphrase, wiped when it is dropped and left out of core dumps.
#[derive(Clone)]
pub struct PrivateKey {
    /// Where it was read.
    pub path: PathBuf,
    text: Arc<Pages>,
}

impl PrivateKey {
    pub(super) fn new(path: PathBuf, text: &[u8]) -> io::Result<Self> {
        let text = Arc::new(Pages::new(text)?);
        Ok(PrivateKey { path, text })
    }

    /// The PEM text. Whoever calls this is responsible for where it goes.
    pub fn expose(&self) -> &[u8] {
        self.text.expose()
    }
}

impl PartialEq for PrivateKey {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path && self.expose() == other.expose()
    }
}

impl Eq for PrivateKey {}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.path.display())
    }
}

/// The versions and suites of a handshake. There is always at least one suite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocols {
    suites: Vec<Suite>,
}

impl Default for Protocols {
    /// All there are, of both versions.
    fn default() -> Self {
        Protocols {
            suites: Suite::ALL.to_vec(),
        }
    }
}

impl Protocols {
    /// Those of `suites` that belong to `oldest` or a later version; `None` if none do.
    pub(super) fn new(oldest: TlsVersion, suites: &[Suite]) -> Option<Self> {
        let suites: Vec<Suite> = suites
            .iter()
            .copied()
            .filter(|suite| suite.version() >= oldest)
            .collect();
        (!suites.is_empty()).then_some(Protocols { suites })
    }

    /// The suites, best first.
    pub fn suites(&self) -> &[Suite] {
        &self.suites
    }

    /// The oldest version that there is a suite for.
    #[cfg(test)]
    pub fn oldest(&self) -> TlsVersion {
        let versions = self.suites.iter().map(|suite| suite.version());
        versions.min().unwrap_or_default()
    }

    /// The newest version that there is a suite for.
    #[cfg(test)]
    pub fn newest(&self) -> TlsVersion {
        let versions = self.suites.iter().map(|suite| suite.version());
        versions.max().unwrap_or_default()
    }

    /// The suites of one version as OpenSSL's list: for `SSL_CTX_set_cipher_list` (TLS 1.2) or
    /// `SSL_CTX_set_ciphersuites` (TLS 1.3). Empty if that version is not spoken.
    pub fn openssl_list(&self, version: TlsVersion) -> String {
        let names: Vec<&str> = self
            .suites
            .iter()
            .filter(|suite| suite.version() == version)
            .map(|suite| suite.name())
            .collect();
        names.join(":")
    }
}

macro_rules! suites {
    ($($(#[$meta:meta])* $suite:ident = $name:literal $version:ident,)*) => {
        /// The suites there are: those with an AEAD cipher (RFC 5116), and for TLS 1.2 with an
        /// ephemeral key exchange, since only those can go on in another process.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Suite {
            $($(#[$meta])* $suite,)*
        }

        impl Suite {
            /// All of them, best first.
            pub const ALL: &'static [Suite] = &[$(Suite::$suite),*];

            /// OpenSSL's name, which is also that of the configuration.
            pub fn name(self) -> &'static str {
                match self { $(Suite::$suite => $name,)* }
            }

            /// The only version it belongs to.
            pub fn version(self) -> TlsVersion {
                match self { $(Suite::$suite => TlsVersion::$version,)* }
            }
        }
    };
}

suites! {
    /// RFC 8446, appendix B.4.
    Aes256GcmSha384 = "TLS_AES_256_GCM_SHA384" Tls13,
    /// RFC 8446, appendix B.4.
    Aes128GcmSha256 = "TLS_AES_128_GCM_SHA256" Tls13,
    /// RFC 8446, appendix B.4.
    Chacha20Poly1305Sha256 = "TLS_CHACHA20_POLY1305_SHA256" Tls13,
    /// RFC 5289.
    EcdheEcdsaAes256GcmSha384 = "ECDHE-ECDSA-AES256-GCM-SHA384" Tls12,
    /// RFC 5289.
    EcdheRsaAes256GcmSha384 = "ECDHE-RSA-AES256-GCM-SHA384" Tls12,
    /// RFC 5289.
    EcdheEcdsaAes128GcmSha256 = "ECDHE-ECDSA-AES128-GCM-SHA256" Tls12,
    /// RFC 5289.
    EcdheRsaAes128GcmSha256 = "ECDHE-RSA-AES128-GCM-SHA256" Tls12,
    /// RFC 7905.
    EcdheEcdsaChacha20Poly1305 = "ECDHE-ECDSA-CHACHA20-POLY1305" Tls12,
    /// RFC 7905.
    EcdheRsaChacha20Poly1305 = "ECDHE-RSA-CHACHA20-POLY1305" Tls12,
}

impl Suite {
    /// The suite of this name.
    pub(super) fn named(name: &str) -> Option<Suite> {
        let named = |suite: &&Suite| suite.name().eq_ignore_ascii_case(name);
        Suite::ALL.iter().find(named).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_without_a_suite_is_not_spoken() {
        let all = Protocols::default();
        assert_eq!(
            (all.oldest(), all.newest()),
            (TlsVersion::Tls12, TlsVersion::Tls13)
        );
        let newest = Protocols::new(TlsVersion::Tls13, Suite::ALL).unwrap();
        assert_eq!(newest.oldest(), TlsVersion::Tls13);
        assert_eq!(newest.openssl_list(TlsVersion::Tls12), "");
        let old = [
            Suite::EcdheRsaAes128GcmSha256,
            Suite::EcdheRsaChacha20Poly1305,
        ];
        let old = Protocols::new(TlsVersion::Tls12, &old).unwrap();
        assert_eq!(old.newest(), TlsVersion::Tls12);
        assert_eq!(
            old.openssl_list(TlsVersion::Tls12),
            "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-CHACHA20-POLY1305"
        );
        assert_eq!(Protocols::new(TlsVersion::Tls13, old.suites()), None);
    }

    #[test]
    fn every_suite_is_known_to_openssl_by_its_name() {
        use openssl::ssl::{SslContext, SslMethod};
        // One at a time: in a list OpenSSL passes over what it does not know.
        for suite in Suite::ALL {
            let mut context = SslContext::builder(SslMethod::tls()).unwrap();
            let taken = match suite.version() {
                TlsVersion::Tls12 => context.set_cipher_list(suite.name()),
                TlsVersion::Tls13 => context.set_ciphersuites(suite.name()),
            };
            assert!(taken.is_ok(), "{suite:?}");
        }
    }
}

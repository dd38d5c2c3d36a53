//! TLS to PostgreSQL: whether it is asked for, and the conversation that leads to it.
//!
//! Does not decide what to do when PostgreSQL will not; that is the mode's business, in
//! [`login`](crate::server::login).

use std::sync::{Arc, OnceLock};

use openssl::sha::Sha256;

use crate::config::{ServerTls, ServerTlsMode, TlsVersion};
use crate::net::exchange::{Exchange, ExchangeError, NotEncrypted};
use crate::tls::handshake::{Host, Peer};
use crate::tls::identity::{Connector, TlsFiles};
use crate::wire::frontend;

/// PostgreSQL's answer to an SSLRequest: yes.
const WILLING: u8 = b'S';
/// PostgreSQL's answer to an SSLRequest: no.
const UNWILLING: u8 = b'N';

/// How connections of a pool are encrypted. Two are equal if a connection made by one could have been made by
/// the other: what the files say counts, not where they lie.
#[derive(Debug, Clone)]
pub struct Encryption {
    settings: Arc<ServerTls>,
    fingerprint: String,
    /// Made at once where files are needed for it, else when the first connection needs it: OpenSSL takes some
    /// milliseconds to begin, which most poolers that take connections over do not need to spend.
    connector: Arc<OnceLock<Option<Connector>>>,
}

impl PartialEq for Encryption {
    fn eq(&self, other: &Encryption) -> bool {
        self.fingerprint == other.fingerprint
    }
}

/// Why a connection is not encrypted.
#[derive(Debug)]
pub enum NoTls {
    /// PostgreSQL will not. The connection can be used without.
    Unwilling,
    /// It failed, for this reason. The connection is of no more use.
    Failed(String),
    /// The conversation broke off.
    Broken(ExchangeError),
}

impl From<ExchangeError> for NoTls {
    fn from(broken: ExchangeError) -> NoTls {
        NoTls::Broken(broken)
    }
}

impl Encryption {
    /// As the settings want it.
    pub fn new(settings: &Arc<ServerTls>) -> Encryption {
        let encryption = Encryption {
            settings: Arc::clone(settings),
            fingerprint: fingerprint(settings),
            connector: Arc::default(),
        };
        if settings.authorities.is_some() || settings.identity.is_some() {
            encryption.connector();
        }
        encryption
    }

    /// What connections are encrypted by. `None`: TLS is never used, or OpenSSL does not accept what it should be
    /// used with, which the configuration's tests have not found.
    fn connector(&self) -> Option<&Connector> {
        let made = self.connector.get_or_init(|| match self.settings.mode {
            ServerTlsMode::Disable => None,
            _ => connector(&self.settings)
                .map_err(|error| log::error!("TLS to PostgreSQL cannot be used: {error}"))
                .ok(),
        });
        made.as_ref()
    }

    /// No TLS at all.
    pub fn none() -> Encryption {
        Encryption::new(&Arc::new(ServerTls {
            mode: ServerTlsMode::Disable,
            ..ServerTls::default()
        }))
    }

    /// When TLS is used.
    pub fn mode(&self) -> ServerTlsMode {
        self.settings.mode
    }

    /// The mode, and a hash of what else a connection stands on: to be compared, also by another process.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Asks PostgreSQL for TLS and goes over to it.
    ///
    /// # Errors
    /// [`NoTls`].
    pub fn request(&self, exchange: &mut Exchange<'_>, host: &str) -> Result<Peer, NoTls> {
        let Some(connector) = self.connector() else {
            return Err(NoTls::Unwilling);
        };
        let mut request = Vec::new();
        frontend::ssl_request(&mut request);
        exchange.send(&request)?;
        while exchange.inbox.is_empty() {
            exchange.read_more()?;
        }
        match exchange.inbox[..] {
            [WILLING] => {}
            [UNWILLING] => {
                exchange.inbox.clear();
                return Err(NoTls::Unwilling);
            }
            // Whoever put it there wants it taken for something that came over TLS (CVE-2021-23222).
            [WILLING, ..] => {
                let why = "unencrypted data came behind PostgreSQL's consent to TLS; this may be an attack";
                return Err(NoTls::Failed(why.to_owned()));
            }
            _ => {
                let why = "it does not answer a request for TLS as PostgreSQL does";
                return Err(NoTls::Failed(why.to_owned()));
            }
        }
        exchange.inbox.clear();
        let host = Host {
            name: host,
            verified: self.settings.mode == ServerTlsMode::VerifyFull,
        };
        exchange
            .connect_tls(connector, host)
            .map_err(|error| match error {
                NotEncrypted::Broken(broken) => NoTls::Broken(broken),
                NotEncrypted::Refused(why) => NoTls::Failed(why),
            })
    }
}

fn connector(settings: &ServerTls) -> Result<Connector, openssl::error::ErrorStack> {
    let authorities = settings.authorities.as_ref();
    Connector::new(&TlsFiles {
        identity: (settings.identity.as_ref())
            .map(|own| (&own.certificate.text[..], own.key.expose())),
        authorities: authorities.map(|who| &who.certificates.text[..]),
        revoked: authorities
            .and_then(|who| who.revoked.as_ref())
            .map(|file| &*file.path),
        suites_12: &settings.protocols.openssl_list(TlsVersion::Tls12),
        suites_13: &settings.protocols.openssl_list(TlsVersion::Tls13),
    })
}

/// See [`Encryption::fingerprint`]. Our private key is left out: the certificate says which it is.
fn fingerprint(settings: &ServerTls) -> String {
    let mode = settings.mode;
    if mode == ServerTlsMode::Disable {
        return mode.to_string();
    }
    let authorities = settings.authorities.as_ref();
    let revoked = authorities.and_then(|who| who.revoked.as_ref());
    let files = [
        authorities.map(|who| &who.certificates),
        revoked,
        settings.identity.as_ref().map(|own| &own.certificate),
    ];
    let mut hash = Sha256::new();
    for file in files {
        let text = file.map_or(&[][..], |file| &file.text);
        hash.update(&text.len().to_be_bytes());
        hash.update(text);
    }
    for suite in settings.protocols.suites() {
        hash.update(suite.name().as_bytes());
    }
    let hash = hash.finish();
    let digits = hash.iter().map(|byte| format!("{byte:02x}"));
    format!("{mode} {}", digits.collect::<String>())
}

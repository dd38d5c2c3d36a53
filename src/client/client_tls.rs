//! TLS with clients: the certificates and keys of their handshakes.
//!
//! A reload replaces them for later handshakes. Established connections stay as they are.

use std::sync::Arc;

use parking_lot::RwLock;

use crate::config::{ClientCertificates, ClientTls, Identity, Settings, TlsVersion};
use crate::tls::identity::{Acceptor, ClientCertPolicy, Pair, TlsFiles};

/// TLS with clients.
#[derive(Debug, Default)]
pub struct Encryption {
    current: RwLock<Option<(Arc<ClientTls>, Arc<Acceptor>)>>,
}

impl Encryption {
    /// Goes over to these settings. What OpenSSL does not accept, which the configuration's tests have not
    /// found, is logged, and TLS is not offered. A client that must use TLS is then refused.
    pub fn apply(&self, settings: &Settings) {
        let wanted = settings.general.client_tls.as_ref();
        let same = match (&*self.current.read(), wanted) {
            (Some((now, _)), Some(wanted)) => now == wanted,
            (None, None) => true,
            _ => false,
        };
        if same {
            return;
        }
        let made = wanted.and_then(|wanted| match acceptor(wanted) {
            Ok(acceptor) => Some((Arc::clone(wanted), Arc::new(acceptor))),
            Err(error) => {
                log::error!("TLS cannot be offered to clients: {error}");
                None
            }
        });
        *self.current.write() = made;
    }

    /// What handshakes stand on now; `None`: TLS is not offered.
    pub fn acceptor(&self) -> Option<Arc<Acceptor>> {
        let current = self.current.read();
        current.as_ref().map(|(_, acceptor)| Arc::clone(acceptor))
    }
}

fn acceptor(settings: &ClientTls) -> Result<Acceptor, openssl::error::ErrorStack> {
    let (ask, authorities) = match &settings.certificates {
        ClientCertificates::NotAsked => (ClientCertPolicy::Nothing, None),
        ClientCertificates::Asked(who) => (ClientCertPolicy::Offered, Some(who)),
        ClientCertificates::Demanded(who) => (ClientCertPolicy::Demanded, Some(who)),
    };
    let material = TlsFiles {
        identity: Some(pair(&settings.identity)),
        authorities: authorities.map(|who| &who.certificates.text[..]),
        revoked: authorities
            .and_then(|who| who.revoked.as_ref())
            .map(|file| &*file.path),
        suites_12: &settings.protocols.openssl_list(TlsVersion::Tls12),
        suites_13: &settings.protocols.openssl_list(TlsVersion::Tls13),
    };
    let others: Vec<Pair<'_>> = settings.others.iter().map(pair).collect();
    Acceptor::new(&material, &others, ask)
}

fn pair(identity: &Identity) -> Pair<'_> {
    (&identity.certificate.text, identity.key.expose())
}

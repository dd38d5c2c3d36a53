//! What handshakes stand on: our certificate and key, the authorities the peer's certificate is judged by,
//! the suites that may be agreed on. Made once and used for every handshake until it is replaced.
//!
//! Invariant: nothing that the record layer cannot carry can be negotiated, and nothing of a session is kept
//! for another: no tickets, no session cache, no early data, no renegotiation, no compression.

use std::fmt;
use std::path::Path;

use openssl::error::ErrorStack;
use openssl::pkey::PKey;
use openssl::ssl::{
    AlpnError, NameType, SniError, SslContext, SslContextBuilder, SslFiletype, SslMethod,
    SslOptions, SslRef, SslSessionCacheMode, SslVerifyMode, SslVersion, select_next_proto,
};
use openssl::stack::Stack;
use openssl::x509::X509;
use openssl::x509::store::{X509Lookup, X509StoreBuilder};
use openssl::x509::verify::X509VerifyFlags;

use super::handshake::note_key_log;
use super::server_name::{ByName, names};

/// The application protocol of PostgreSQL in the wire form of ALPN, registered with IANA.
const POSTGRESQL: &[u8] = b"\x0apostgresql";

/// A certificate with its chain, and its private key, in PEM form.
pub type Pair<'a> = (&'a [u8], &'a [u8]);

/// What a side brings to its handshakes; files in PEM form.
#[derive(Clone, Copy)]
pub struct TlsFiles<'a> {
    /// Who we are.
    pub identity: Option<Pair<'a>>,
    /// Those who must have signed the peer's certificate.
    pub authorities: Option<&'a [u8]>,
    /// The file of the certificates they have revoked.
    pub revoked: Option<&'a Path>,
    /// The TLS 1.2 suites, as OpenSSL's list; empty: not that version.
    pub suites_12: &'a str,
    /// The TLS 1.3 suites, as OpenSSL's list; empty: not that version.
    pub suites_13: &'a str,
}

/// Whether clients are asked for a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertPolicy {
    /// No.
    Nothing,
    /// They may have one; a bad one ends the handshake.
    Offered,
    /// They must have one.
    Demanded,
}

/// The server's side of handshakes.
pub struct Acceptor {
    pub(super) context: SslContext,
}

/// The client's side of handshakes.
pub struct Connector {
    pub(super) context: SslContext,
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}

impl Acceptor {
    /// The server's side with this material. A client that asks for a name of one of the `others`, and not
    /// of ours, is shown that one instead.
    ///
    /// # Errors
    /// If OpenSSL does not accept it.
    pub fn new(
        material: &TlsFiles<'_>,
        others: &[Pair<'_>],
        ask: ClientCertPolicy,
    ) -> Result<Acceptor, ErrorStack> {
        let mut contexts = ByName::default();
        if let Some(own) = material.identity {
            contexts.add(names_of(own)?, &None);
        }
        for &other in others {
            let material = TlsFiles {
                identity: Some(other),
                ..*material
            };
            let context = server_builder(&material, ask)?.build();
            contexts.add(names_of(other)?, &Some(context));
        }
        let mut builder = server_builder(material, ask)?;
        builder.set_servername_callback(move |ssl, _| choose(&contexts, ssl));
        let context = builder.build();
        Ok(Acceptor { context })
    }
}

/// Goes over to the context for the name that the client asks for; `None` is the one it is in already, which
/// is also for those who ask for another name or for none.
fn choose(contexts: &ByName<Option<SslContext>>, ssl: &mut SslRef) -> Result<(), SniError> {
    let asked = ssl.servername(NameType::HOST_NAME);
    match asked.and_then(|name| contexts.find(name)) {
        Some(Some(context)) => ssl
            .set_ssl_context(context)
            .map_err(|_| SniError::ALERT_FATAL),
        Some(None) => Ok(()),
        // The client is not told that its name was used.
        None => Err(SniError::NOACK),
    }
}

fn names_of((chain, _): Pair<'_>) -> Result<Vec<String>, ErrorStack> {
    let chain = X509::stack_from_pem(chain)?;
    Ok(chain.first().map_or_else(Vec::new, |leaf| names(leaf)))
}

impl Connector {
    /// The client's side with this material. With authorities the server's certificate must be signed by
    /// one of them; without, any will do.
    ///
    /// # Errors
    /// If OpenSSL does not accept it.
    pub fn new(material: &TlsFiles<'_>) -> Result<Connector, ErrorStack> {
        let mut builder = builder(material)?;
        builder.set_verify(match material.authorities {
            Some(_) => SslVerifyMode::PEER,
            None => SslVerifyMode::NONE,
        });
        builder.set_alpn_protos(POSTGRESQL)?;
        Ok(Connector {
            context: builder.build(),
        })
    }
}

/// All that handshakes of the server's side stand on but the choice by name, which OpenSSL leaves to the
/// context a handshake begins in.
fn server_builder(
    material: &TlsFiles<'_>,
    ask: ClientCertPolicy,
) -> Result<SslContextBuilder, ErrorStack> {
    let mut builder = builder(material)?;
    builder.set_num_tickets(0)?;
    // Says which application a session belongs to. None is ever resumed, but a client that tries is
    // to be let in by a whole handshake.
    builder.set_session_id_context(b"pg_doorman")?;
    builder.set_verify(match ask {
        ClientCertPolicy::Nothing => SslVerifyMode::NONE,
        ClientCertPolicy::Offered => SslVerifyMode::PEER,
        ClientCertPolicy::Demanded => SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT,
    });
    if let Some(authorities) = material.authorities {
        let mut names = Stack::new()?;
        for authority in X509::stack_from_pem(authorities)? {
            names.push(authority.subject_name().to_owned()?)?;
        }
        builder.set_client_ca_list(names);
    }
    builder.set_alpn_select_callback(|_, offered| {
        // Who offers other protocols only is no client of ours (PostgreSQL's alpn_cb).
        select_next_proto(POSTGRESQL, offered).ok_or(AlpnError::ALERT_FATAL)
    });
    Ok(builder)
}

fn builder(material: &TlsFiles<'_>) -> Result<SslContextBuilder, ErrorStack> {
    let mut builder = SslContext::builder(SslMethod::tls())?;
    builder.set_options(
        SslOptions::NO_TICKET
            | SslOptions::NO_COMPRESSION
            | SslOptions::NO_RENEGOTIATION
            | SslOptions::CIPHER_SERVER_PREFERENCE,
    );
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    let (old, new) = (SslVersion::TLS1_2, SslVersion::TLS1_3);
    let (with_old, with_new) = (
        !material.suites_12.is_empty(),
        !material.suites_13.is_empty(),
    );
    builder.set_min_proto_version(Some(if with_old { old } else { new }))?;
    builder.set_max_proto_version(Some(if with_new { new } else { old }))?;
    if with_old {
        builder.set_cipher_list(material.suites_12)?;
    }
    if with_new {
        builder.set_ciphersuites(material.suites_13)?;
    }
    if let Some((chain, key)) = material.identity {
        let mut chain = X509::stack_from_pem(chain)?.into_iter();
        if let Some(leaf) = chain.next() {
            builder.set_certificate(&leaf)?;
        }
        for issuer in chain {
            builder.add_extra_chain_cert(issuer)?;
        }
        let key = PKey::private_key_from_pem(key)?;
        builder.set_private_key(&key)?;
        builder.check_private_key()?;
    }
    if let Some(authorities) = material.authorities {
        let mut store = X509StoreBuilder::new()?;
        for authority in X509::stack_from_pem(authorities)? {
            store.add_cert(authority)?;
        }
        if let Some(revoked) = material.revoked {
            let lookup = store.add_lookup(X509Lookup::file())?;
            lookup.load_crl_file(revoked, SslFiletype::PEM)?;
            store.set_flags(X509VerifyFlags::CRL_CHECK | X509VerifyFlags::CRL_CHECK_ALL)?;
        }
        builder.set_cert_store(store.build());
    }
    builder.set_keylog_callback(|_, line| note_key_log(line));
    Ok(builder)
}

//! The TLS keys: from modes and paths to TLS as meant.
//!
//! Files are read by `tls_files`. The invariant: a configuration that insists on
//! TLS is never loaded unless it can be kept; running without it, with no more
//! than a warning, would be dangerous.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::keys::general::General;
use super::keys::pool::Pool;
use super::keys::tls_certificate::TlsCertificate;
use super::problem::quote;
use super::raw::Tree;
use super::reader::Reader;
use super::setting::{ClientTlsMode, ServerTlsMode, TlsVersion};
use super::tls::{
    Authorities, ClientCertificates, ClientTls, Identity, Protocols, ServerTls, Suite,
};
use super::tls_files;

/// TLS for clients; `None`: it is not offered.
pub(super) fn clients(reader: &mut Reader<'_>, general: &General) -> Option<Arc<ClientTls>> {
    let certificate = general.tls_certificate.is_some();
    let key = general.tls_private_key.is_some();
    if key && !certificate {
        reader.fail(
            "tls_private_key",
            "tls_private_key is set but tls_certificate is not",
        );
    }
    if certificate && !key {
        reader.fail(
            "tls_certificate",
            "tls_certificate is set but tls_private_key is not",
        );
    }
    if reader.has("tls_certificates") && !certificate {
        reader.fail(
            "tls_certificates",
            "tls_certificates is set but tls_certificate, for clients that ask for none of \
             their names, is not",
        );
    }
    let mode = match general.tls_mode {
        Some(mode) => mode,
        None if certificate => ClientTlsMode::Allow,
        None => ClientTlsMode::Disable,
    };
    let (required, verified) = match mode {
        ClientTlsMode::Disable => return None,
        ClientTlsMode::Allow | ClientTlsMode::Prefer => (false, false),
        ClientTlsMode::Require => (true, false),
        ClientTlsMode::VerifyCa | ClientTlsMode::VerifyFull => (true, true),
    };
    if !certificate || !key {
        let text = format!("tls_mode is {mode} but tls_certificate or tls_private_key is not set");
        if required {
            reader.fail("tls_mode", text);
        } else {
            reader.warn("tls_mode", format!("{text}, so nobody can use TLS"));
        }
    }
    if verified && general.tls_ca_cert.is_none() {
        reader.fail(
            "tls_mode",
            format!("tls_mode is {mode} but tls_ca_cert is not set"),
        );
    }
    let protocols = protocols(
        reader,
        ["tls_min_version", "tls_cipher_suites"],
        general.tls_min_version,
        general.tls_cipher_suites.as_deref(),
    );
    let identity = identity(
        reader,
        ["tls_certificate", "tls_private_key"],
        [&general.tls_certificate, &general.tls_private_key],
    );
    let others = others(reader, identity.as_ref());
    let authorities = authorities(
        reader,
        ["tls_ca_cert", "tls_crl"],
        [&general.tls_ca_cert, &general.tls_crl],
    );
    Some(Arc::new(ClientTls {
        plain_allowed: !required,
        identity: identity?,
        others,
        certificates: match authorities {
            Some(authorities) if verified => ClientCertificates::Demanded(authorities),
            Some(authorities) => ClientCertificates::Asked(authorities),
            None => ClientCertificates::NotAsked,
        },
        protocols: protocols?,
    }))
}

/// The list `tls_certificates`, beside the `first` one.
fn others(reader: &mut Reader<'_>, first: Option<&Identity>) -> Vec<Identity> {
    const LIST: &str = "tls_certificates";
    let Some(node) = reader.node(LIST) else {
        return Vec::new();
    };
    let Tree::List(items) = &node.tree else {
        let found = node.tree.describe();
        reader.fail(LIST, format!("expected a list of tables, found {found}"));
        return Vec::new();
    };
    let mut taken: BTreeSet<String> = first
        .map(|first| tls_files::names(&first.certificate).into_iter().collect())
        .unwrap_or_default();
    let mut others = Vec::new();
    for (number, node) in items.iter().enumerate() {
        let path = format!("{}.{number}", reader.key(LIST));
        let Tree::Table(table) = &node.tree else {
            let text = format!("expected a table, found {}", node.tree.describe());
            reader.report.fail(&node.place, path, text);
            continue;
        };
        let keys = TlsCertificate::KEYS;
        let mut reader = Reader::new(table, keys, path, &node.place, reader.report);
        let files = TlsCertificate::read(&mut reader, &());
        let Some(identity) = identity(
            &mut reader,
            ["certificate", "private_key"],
            [&files.certificate, &files.private_key],
        ) else {
            continue;
        };
        let names = tls_files::names(&identity.certificate);
        let path = tls_files::name(&identity.certificate.path);
        if names.is_empty() {
            let text = format!(
                "the certificate in {path} has no DNS name in its subjectAltName, so nobody can \
                 ask for it"
            );
            reader.fail("certificate", text);
        } else if names.iter().all(|name| taken.contains(name)) {
            let text = format!(
                "the certificate in {path} is never shown: those before it have all of its names"
            );
            reader.warn("certificate", text);
        }
        taken.extend(names);
        others.push(identity);
    }
    others
}

/// What a table, `[general]` or a pool's, says of TLS to PostgreSQL.
struct ServerKeys<'a> {
    mode: ServerTlsMode,
    authorities: &'a Option<PathBuf>,
    revoked: &'a Option<PathBuf>,
    certificate: &'a Option<PathBuf>,
    key: &'a Option<PathBuf>,
    oldest: TlsVersion,
    suites: Option<&'a [String]>,
}

/// What `[general]` says.
pub(super) fn servers(reader: &mut Reader<'_>, general: &General) -> Arc<ServerTls> {
    let keys = ServerKeys {
        mode: general.server_tls_mode,
        authorities: &general.server_tls_ca_cert,
        revoked: &general.server_tls_crl,
        certificate: &general.server_tls_certificate,
        key: &general.server_tls_private_key,
        oldest: general.server_tls_min_version,
        suites: general.server_tls_cipher_suites.as_deref(),
    };
    Arc::new(build(reader, &keys).unwrap_or_default())
}

/// What the pool says itself, over what it inherits; if it says nothing, all is
/// inherited, and told at `[general]`.
pub(super) fn servers_of_pool(
    reader: &mut Reader<'_>,
    pool: &Pool,
    general: &General,
) -> Arc<ServerTls> {
    let keys = [
        "server_tls_mode",
        "server_tls_ca_cert",
        "server_tls_crl",
        "server_tls_certificate",
        "server_tls_private_key",
        "server_tls_min_version",
        "server_tls_cipher_suites",
    ];
    if !keys.iter().any(|key| reader.has(key)) {
        return Arc::clone(&general.server_tls);
    }
    let keys = ServerKeys {
        mode: pool.server_tls_mode,
        authorities: &pool.server_tls_ca_cert,
        revoked: &pool.server_tls_crl,
        certificate: &pool.server_tls_certificate,
        key: &pool.server_tls_private_key,
        oldest: pool.server_tls_min_version,
        suites: pool.server_tls_cipher_suites.as_deref(),
    };
    Arc::new(build(reader, &keys).unwrap_or_default())
}

fn build(reader: &mut Reader<'_>, keys: &ServerKeys<'_>) -> Option<ServerTls> {
    let mode = keys.mode;
    if keys.key.is_some() && keys.certificate.is_none() {
        reader.fail(
            "server_tls_private_key",
            "server_tls_private_key is set but server_tls_certificate is not",
        );
    }
    if keys.certificate.is_some() && keys.key.is_none() {
        reader.fail(
            "server_tls_certificate",
            "server_tls_certificate is set but server_tls_private_key is not",
        );
    }
    let verifies = matches!(mode, ServerTlsMode::VerifyCa | ServerTlsMode::VerifyFull);
    if verifies && keys.authorities.is_none() {
        reader.fail(
            "server_tls_mode",
            format!("server_tls_mode is '{mode}' but server_tls_ca_cert is not set"),
        );
    }
    if mode == ServerTlsMode::Disable {
        return Some(ServerTls {
            mode,
            ..ServerTls::default()
        });
    }
    let protocols = protocols(
        reader,
        ["server_tls_min_version", "server_tls_cipher_suites"],
        keys.oldest,
        keys.suites,
    );
    let identity = identity(
        reader,
        ["server_tls_certificate", "server_tls_private_key"],
        [keys.certificate, keys.key],
    );
    let authorities = authorities(
        reader,
        ["server_tls_ca_cert", "server_tls_crl"],
        [keys.authorities, keys.revoked],
    );
    if authorities.is_some() && !verifies && reader.has("server_tls_ca_cert") {
        reader.warn(
            "server_tls_ca_cert",
            format!(
                "has no effect while server_tls_mode is {mode}, which accepts any certificate; \
                 write verify-ca or verify-full"
            ),
        );
    }
    Some(ServerTls {
        mode,
        authorities: authorities.filter(|_| verifies),
        identity,
        protocols: protocols?,
    })
}

/// Reads a certificate and its key; what is wrong or worth knowing is told at
/// the key it concerns.
fn identity(
    reader: &mut Reader<'_>,
    [certificate_key, key_key]: [&str; 2],
    [certificate, key]: [&Option<PathBuf>; 2],
) -> Option<Identity> {
    let (certificate, key) = (certificate.as_ref()?, key.as_ref()?);
    let certificate = told(reader, certificate_key, tls_files::certificate(certificate));
    let key = told(reader, key_key, tls_files::private_key(key));
    let identity = tls_files::identity(certificate?, key?);
    identity.map_err(|reason| reader.fail(key_key, reason)).ok()
}

fn authorities(
    reader: &mut Reader<'_>,
    [ca_key, crl_key]: [&str; 2],
    [ca, crl]: [&Option<PathBuf>; 2],
) -> Option<Authorities> {
    if ca.is_none() && crl.is_some() {
        reader.fail(crl_key, format!("needs {ca_key}"));
    }
    let certificates = told(reader, ca_key, tls_files::authorities(ca.as_ref()?))?;
    let revoked = match crl {
        Some(path) => {
            let read = tls_files::revocations(path).map(|file| (file, None));
            Some(told(reader, crl_key, read)?)
        }
        None => None,
    };
    Some(Authorities {
        certificates,
        revoked,
    })
}

fn told<T>(
    reader: &mut Reader<'_>,
    key: &str,
    read: Result<(T, Option<String>), String>,
) -> Option<T> {
    match read {
        Ok((value, warning)) => {
            if let Some(warning) = warning {
                reader.warn(key, warning);
            }
            Some(value)
        }
        Err(reason) => {
            reader.fail(key, reason);
            None
        }
    }
}

/// The versions and suites; an unknown suite is an error, since leaving it out
/// could leave another one than was meant.
fn protocols(
    reader: &mut Reader<'_>,
    [oldest_key, suites_key]: [&str; 2],
    oldest: TlsVersion,
    names: Option<&[String]>,
) -> Option<Protocols> {
    let mut suites = Vec::new();
    let mut wrong = false;
    // A list may also be written as OpenSSL's, with colons.
    for name in names
        .unwrap_or_default()
        .iter()
        .flat_map(|names| names.split(':'))
    {
        match Suite::named(name.trim()) {
            Some(suite) => suites.push(suite),
            None => {
                wrong = true;
                let all: Vec<&str> = Suite::ALL.iter().map(|suite| suite.name()).collect();
                let all = all.join(", ");
                reader.fail(
                    suites_key,
                    format!("{} is not one of the AEAD suites {all}", quote(name)),
                );
            }
        }
    }
    if wrong {
        return None;
    }
    let chosen = if names.is_some() { &suites } else { Suite::ALL };
    let protocols = Protocols::new(oldest, chosen);
    if protocols.is_none() {
        reader.fail(
            suites_key,
            format!("holds no suite of {oldest} or later, which {oldest_key} asks for"),
        );
    }
    protocols
}

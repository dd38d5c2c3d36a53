//! The TLS keys: do they fit together, and can they be kept?
//!
//! TLS itself is another room. The invariant: a configuration that insists on TLS
//! is never loaded by a version that cannot do it; running without it, with no
//! more than a warning, would be dangerous.

use std::path::PathBuf;

use super::keys::general::General;
use super::keys::pool::Pool;
use super::reader::Reader;
use super::setting::{ClientTlsMode, ServerTlsMode};

/// Running without the TLS that was asked for would be dangerous, so that is an
/// error and no warning.
pub(super) fn check_clients(reader: &mut Reader<'_>, general: &General) {
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
    let Some(mode) = general.tls_mode else { return };
    if !matches!(
        mode,
        ClientTlsMode::Require | ClientTlsMode::VerifyCa | ClientTlsMode::VerifyFull
    ) {
        return;
    }
    if !certificate || !key {
        reader.fail(
            "tls_mode",
            format!("tls_mode is {mode} but tls_certificate or tls_private_key is not"),
        );
    }
    if mode != ClientTlsMode::Require && general.tls_ca_cert.is_none() {
        reader.fail(
            "tls_mode",
            format!("tls_mode is {mode} but tls_ca_cert is not set"),
        );
    }
    reader.fail(
        "tls_mode",
        format!(
            "TLS is not in this version; {mode} cannot be kept, only \"disable\" and \"allow\""
        ),
    );
}

pub(super) fn check_servers(
    reader: &mut Reader<'_>,
    mode: ServerTlsMode,
    [ca, certificate, key]: [&Option<PathBuf>; 3],
) {
    if key.is_some() && certificate.is_none() {
        reader.fail(
            "server_tls_private_key",
            "server_tls_private_key is set but server_tls_certificate is not",
        );
    }
    if certificate.is_some() && key.is_none() {
        reader.fail(
            "server_tls_certificate",
            "server_tls_certificate is set but server_tls_private_key is not",
        );
    }
    let verifies = matches!(mode, ServerTlsMode::VerifyCa | ServerTlsMode::VerifyFull);
    if verifies && ca.is_none() {
        reader.fail(
            "server_tls_mode",
            format!("server_tls_mode is '{mode}' but server_tls_ca_cert is not set"),
        );
    }
    if verifies || mode == ServerTlsMode::Require {
        reader.fail(
            "server_tls_mode",
            format!(
                "TLS is not in this version; {mode} cannot be kept, \
                 only \"disable\", \"allow\" and \"prefer\""
            ),
        );
    }
}

/// Only what the pool itself says; what it inherits is told at `[general]`.
pub(super) fn check_servers_of_pool(reader: &mut Reader<'_>, pool: &Pool) {
    let keys = [
        "server_tls_mode",
        "server_tls_ca_cert",
        "server_tls_certificate",
        "server_tls_private_key",
    ];
    if keys.iter().any(|key| reader.has(key)) {
        let files = [
            &pool.server_tls_ca_cert,
            &pool.server_tls_certificate,
            &pool.server_tls_private_key,
        ];
        check_servers(reader, pool.server_tls_mode, files);
    }
}

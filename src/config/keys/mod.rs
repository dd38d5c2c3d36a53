//! The settings, one file per table: each key is defined here and nowhere else.

pub mod auth_query;
pub mod general;
pub mod include;
pub mod pool;
pub mod tls_certificate;
pub mod upgrade;
pub mod user;
pub mod web;

use super::definition::Definition;

/// Every table with its keys, in the order of the reference.
pub const TABLES: &[(&str, &[Definition])] = &[
    ("[general]", general::General::KEYS),
    (
        "[[general.tls_certificates]]",
        tls_certificate::TlsCertificate::KEYS,
    ),
    ("[pools.NAME]", pool::Pool::KEYS),
    ("[[pools.NAME.users]]", user::User::KEYS),
    ("[pools.NAME.auth_query]", auth_query::AuthQuery::KEYS),
    ("[web]", web::Web::KEYS),
    ("[upgrade]", upgrade::Upgrade::KEYS),
    ("[include]", include::Include::KEYS),
];

/// What every table's file needs.
mod prelude {
    pub(super) use super::super::definition::{
        Definition, Effect::*, Preset, Reload, inherited, keys,
    };
    pub(super) use super::super::kind::{
        Kind, MANY, Zero, duration, duration_from_zero, duration_or_off, duration_with_unit,
        integer, integer_or_off, seconds, size_or_off,
    };
    pub(super) use super::super::password::Password;
    pub(super) use super::super::reader::{Reader, default_text};
    pub(super) use super::super::secret::Secret;
    pub(super) use super::super::setting::{
        ClientTlsMode, PoolMode, ServerTlsMode, Setting, TlsVersion,
    };
    pub(super) use super::super::tls::{ClientTls, ServerTls};
    pub(super) use super::super::token_key::TokenSigner;
    pub(super) use std::collections::BTreeMap;
    pub(super) use std::path::PathBuf;
    pub(super) use std::sync::Arc;
    pub(super) use std::time::Duration;

    pub(super) const SUITES: &str = "[\"TLS_AES_128_GCM_SHA256\", \"ECDHE-RSA-AES128-GCM-SHA256\"]";
}

//! The configuration file, from TOML text to settings that can be relied on.
//!
//! Two representations, and a step between them:
//!
//! - `raw`: the document as typed, a tree in which every value knows its file and
//!   line; `[include]` is merged here.
//! - [`Settings`]: the document as meant, plain typed data with every default and
//!   every override filled in.
//! - The step is made by one definition per key (`keys/`): name, type, default,
//!   range, reload class, effect and doc text. The same definitions give
//!   [`show()`], the rows of `SHOW CONFIG`, and the commented file
//!   `etc/pg_doorman.toml`, which a test writes (`tests/reference.rs`).
//!
//! | file | what it is |
//! |---|---|
//! | `raw` | the document as typed: values that know their file and line |
//! | `reader` | one table, read by its definitions |
//! | `definition` | one definition for each setting |
//! | `keys` | the definitions, one file for each table |
//! | `kind` | how a value may be written |
//! | `setting` | from a value to the type of a field, and back |
//! | `duration` | durations |
//! | `size` | sizes in bytes |
//! | `cidr` | networks |
//! | `secret` | texts that are never printed |
//! | [`password`] | a password as PostgreSQL stores it |
//! | `settings` | the document as meant |
//! | `access` | the keys `pg_hba`, `pg_ident` and `hba` |
//! | `hba` | host-based access rules |
//! | `ident` | user-name maps |
//! | `access_files` | the lines of `pg_hba.conf` and `pg_ident.conf`, with what they include |
//! | `fields` | a line, split into words |
//! | `pattern` | regular expressions, as PostgreSQL reads them |
//! | `userlist` | users from the file of `auth_file` |
//! | `startup` | `startup_parameters` |
//! | `tls` | TLS as meant |
//! | `tls_modes` | the TLS keys |
//! | `tls_files` | certificates, keys, authorities, revocations |
//! | `token_key` | the keys of JSON Web Tokens |
//! | `clear_text` | which users send their password or token in clear text |
//! | `problem` | errors and warnings, with their place |
//! | `compatibility` | settings of the async pg_doorman that have no effect here |
//! | `foreign` | names of settings of other poolers, for hints |
//! | `nearest` | the known name nearest to an unknown one |
//! | `show` | the rows of `SHOW CONFIG` |
//!
//! This room knows nothing of what happens at run time: it opens no socket and
//! logs in nobody. The invariant: [`load`] returns either settings that are right
//! as a whole, or an [`Error`] that tells everything that is wrong, each with
//! file, line, key and reason, and never a secret.

mod access;
mod access_files;
mod cidr;
mod clear_text;
mod compatibility;
mod definition;
mod duration;
mod fields;
mod foreign;
mod hba;
mod ident;
mod keys;
mod kind;
mod nearest;
pub mod password;
mod pattern;
mod problem;
mod raw;
mod reader;
mod secret;
mod setting;
mod settings;
mod show;
mod size;
mod startup;
mod tls;
mod tls_files;
mod tls_modes;
mod token_key;
mod userlist;

#[cfg(test)]
pub(crate) mod tests;

use std::path::Path;

pub use access_files::LinePlace;
pub use cidr::Cidr;
pub use definition::{Definition, Effect, Preset, Reload};
pub use hba::{
    AddressMatch, CertificateDemand, CertificateName, DatabaseMatch, Hba, Method, Network, Rule,
    Transport, UserMatch, is_in,
};
pub use ident::IdentMap;
pub use keys::TABLES;
pub use keys::auth_query::AuthQuery;
pub use keys::general::General;
pub use keys::pool::Pool;
pub use keys::upgrade::Upgrade;
pub use keys::user::User;
pub use keys::web::Web;
pub use kind::{Kind, Zero};
pub use password::Password;
pub use problem::{Error, ErrorKind, Place, Problem, Warning};
pub use secret::Secret;
pub use setting::{ClientTlsMode, PoolMode, ServerTlsMode, TlsVersion};
pub use settings::{ANY_DATABASE, Settings};
pub use show::{Row, show};
pub use tls::{
    Authorities, ClientCertificates, ClientTls, Identity, PemFile, PrivateKey, Protocols,
    ServerTls, Suite,
};
pub use token_key::{TokenAlgorithm, TokenKey, TokenSigner};

pub use userlist::{FilePassword, FileUsers};

use problem::Report;

/// Reads a configuration file and everything it includes.
///
/// # Errors
/// If the file cannot be read, is not TOML, or says something wrong; see
/// [`ErrorKind`]. All that is wrong in the document is told at once.
pub fn load(path: &Path) -> Result<Settings, Error> {
    let mut report = Report::default();
    let document = raw::read(path, &mut report)?;
    finish(&document, path, report)
}

/// Reads a configuration from a text, as if it stood in the file `path`.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str, path: &Path) -> Result<Settings, Error> {
    let mut report = Report::default();
    let document = raw::parse(text.as_bytes(), path, &mut report);
    report.stop()?;
    finish(&document, path, report)
}

fn finish(document: &raw::Document, path: &Path, mut report: Report) -> Result<Settings, Error> {
    let mut settings = settings::build(document, path, &mut report);
    settings.notes = std::mem::take(&mut report.notes);
    settings.warnings = report.finish()?;
    Ok(settings)
}

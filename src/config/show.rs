//! The rows of `SHOW CONFIG`.
//!
//! Knows the settings and their definitions, not the console. The invariant:
//! every key that has an effect has a row, and no row shows a secret.

use super::cidr::Cidr;
use super::definition::{Definition, Reload};
use super::hba::Hba;
use super::keys::auth_query::AuthQuery;
use super::keys::general::General;
use super::keys::pool::Pool;
use super::keys::upgrade::Upgrade;
use super::keys::user::User;
use super::keys::web::Web;
use super::settings::Settings;
use super::startup::Parameters;

/// One row of `SHOW CONFIG`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The key: bare for `[general]`, with its table for others.
    pub key: String,
    /// The value in effect. Durations are numbers of milliseconds (seconds for the
    /// TCP keys), sizes numbers of bytes; secrets are `***`.
    pub value: String,
    /// The default in the same form, `-` if there is none of its own.
    pub default: String,
    /// Whether a reload changes it.
    pub changeable: bool,
}

/// All rows, `[general]` first.
pub fn show(settings: &Settings) -> Vec<Row> {
    let mut rows = Vec::new();
    let general = &settings.general;
    add(&mut rows, "", General::KEYS, general.rows());
    rows.push(live("hba", access(&general.hba)));
    rows.push(live("tls_certificates", others(general)));
    rows.push(live(
        "startup_parameters",
        parameters(&general.startup_parameters),
    ));
    for (name, pool) in &settings.pools {
        let path = format!("pools.{name}.");
        add(&mut rows, &path, Pool::KEYS, pool.rows());
        let merged = parameters(&pool.startup_parameters);
        rows.push(live(&format!("{path}startup_parameters"), merged));
        let users: Vec<&str> = pool
            .users
            .iter()
            .map(|user| user.username.as_str())
            .collect();
        rows.push(live(&format!("{path}users"), users.join(", ")));
        if let Some(auth_query) = &pool.auth_query {
            let path = format!("{path}auth_query.");
            add(&mut rows, &path, AuthQuery::KEYS, auth_query.rows());
        }
        for user in &pool.users {
            let path = format!("pools.{name}.users.{}.", user.username);
            add(&mut rows, &path, User::KEYS, user.rows());
        }
    }
    add(&mut rows, "web.", Web::KEYS, settings.web.rows());
    add(
        &mut rows,
        "upgrade.",
        Upgrade::KEYS,
        settings.upgrade.rows(),
    );
    rows
}

fn live(key: &str, value: String) -> Row {
    Row {
        key: key.into(),
        value,
        default: "-".into(),
        changeable: true,
    }
}

fn access(hba: &Hba) -> String {
    match hba {
        Hba::Anyone => "anyone".into(),
        Hba::Networks(networks) => networks
            .iter()
            .map(Cidr::to_string)
            .collect::<Vec<_>>()
            .join(", "),
        Hba::Rules(rules) => format!("{} rules", rules.len()),
    }
}

/// The files of the further certificates.
fn others(general: &General) -> String {
    let others = general.client_tls.iter().flat_map(|tls| &tls.others);
    let paths: Vec<_> = others
        .map(|other| other.certificate.path.to_string_lossy())
        .collect();
    paths.join(", ")
}

fn parameters(parameters: &Parameters) -> String {
    let pairs: Vec<String> = parameters.iter().map(|(k, v)| format!("{k}={v}")).collect();
    pairs.join(", ")
}

fn add(rows: &mut Vec<Row>, path: &str, keys: &[Definition], shown: Vec<(&str, String, String)>) {
    rows.extend(shown.into_iter().map(|(name, value, default)| {
        Row {
            key: format!("{path}{name}"),
            value,
            default,
            changeable: keys
                .iter()
                .any(|key| key.name == name && key.reload != Reload::Restart),
        }
    }));
}

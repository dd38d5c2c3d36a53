//! The commented reference file, written from the definitions.
//!
//! The invariant: every key of every table is in it, once per table, with its
//! type, default, reload class and doc text; what is not a comment is a small
//! configuration that works; and `etc/pg_doorman.toml` is equal to it (a test
//! says so).

use std::fmt::Write;

use crate::config::compatibility::WITHOUT_EFFECT;
use crate::config::duration::Unit;
use crate::config::keys::include::Include;
use crate::config::keys::tls_certificate::TlsCertificate;
use crate::config::kind::MANY;
use crate::config::{
    AuthQuery, Definition, Effect, General, Kind, Pool, Preset, Reload, Upgrade, User, Web, Zero,
};

/// The complete reference file.
pub(super) fn reference() -> String {
    let mut out = String::from(HEAD);
    table(
        &mut out,
        "general",
        true,
        "What holds for the whole program, and defaults for all pools.",
        General::KEYS,
    );
    table(
        &mut out,
        "[general.tls_certificates]",
        false,
        "A further certificate for clients. One table for each.",
        TlsCertificate::KEYS,
    );
    table(
        &mut out,
        "pools.app",
        true,
        "A database: clients connect to it by this name. One table for each.",
        Pool::KEYS,
    );
    table(
        &mut out,
        "[pools.app.users]",
        true,
        "A user of the pool above. One table for each.",
        User::KEYS,
    );
    table(
        &mut out,
        "pools.app.auth_query",
        false,
        "Where passwords of users who are not in this file come from. [general.auth_query], with the same \
         settings, counts for all pools without such a table.",
        AuthQuery::KEYS,
    );
    table(
        &mut out,
        "web",
        false,
        "The metrics page; [prometheus] is its old name. Not in this version.",
        Web::KEYS,
    );
    table(
        &mut out,
        "upgrade",
        false,
        "How a new binary takes over.",
        Upgrade::KEYS,
    );
    table(
        &mut out,
        "include",
        false,
        "Further files of this configuration.",
        Include::KEYS,
    );
    without_effect(&mut out);
    out
}

const HEAD: &str = "\
# pg_doorman: reference of all settings.
#
# This file is generated from the program's own definitions. Every setting is
# here; those that are commented out show their default, or an example where there
# is no default. What is not commented out is a small configuration that works:
# it serves the database \"app\" of the PostgreSQL on this host to the user \"app\".
# Before using it, change admin_password and the user's password: both are
# \"change-me\" here.
#
# duration: a number of milliseconds, or text with a unit: \"500ms\", \"5s\", \"10m\",
#           \"2h\", \"1d\".
# size:     a number of bytes, or text with a unit (of 1024): \"64KB\", \"1MB\", \"2GB\".
#
# Each setting names what makes a change take effect: a reload (SIGHUP, or RELOAD
# on the console), or a restart. `pg_doorman -t FILE` tests a configuration.
";

/// What the example sets: table, key, value.
const EXAMPLE: &[(&str, &str, &str)] = &[
    ("general", "host", "\"127.0.0.1\""),
    ("general", "port", "6432"),
    ("general", "admin_username", "\"admin\""),
    ("general", "admin_password", "\"change-me\""),
    ("pools.app", "server_host", "\"127.0.0.1\""),
    ("pools.app", "server_port", "5432"),
    ("[pools.app.users]", "username", "\"app\""),
    // The password "change-me".
    (
        "[pools.app.users]",
        "password",
        "\"md56a60c7a5280cd2eab45b5809e7c48478\"",
    ),
    ("[pools.app.users]", "pool_size", "40"),
];

fn table(out: &mut String, name: &str, live: bool, about: &str, keys: &[Definition]) {
    let mark = if live { "" } else { "#" };
    let rule = "#".repeat(80);
    // Writing to a String cannot fail.
    let _ = write!(out, "\n{rule}\n# {about}\n{rule}\n\n{mark}[{name}]\n");
    let mut group = "";
    for key in keys.iter().filter(|key| !is_own_table(name, key.name)) {
        if key.group != group {
            group = key.group;
            let _ = write!(out, "\n# --- {group} ---\n");
        }
        entry(out, name, key);
    }
}

/// Keys that are shown as tables of their own.
fn is_own_table(table: &str, key: &str) -> bool {
    match table {
        "general" => key == "tls_certificates" || key == "auth_query",
        "pools.app" => key == "users" || key == "auth_query",
        _ => false,
    }
}

fn entry(out: &mut String, table: &str, key: &Definition) {
    out.push('\n');
    // Backticks are for rustdoc.
    comment(out, &key.doc.replace('`', ""));
    for fact in facts(key) {
        comment(out, &fact);
    }
    let value = match key.preset {
        Preset::Is(value)
        | Preset::Unset { example: value, .. }
        | Preset::Required { example: value }
        | Preset::Inherited { example: value, .. } => value,
    };
    let _ = match EXAMPLE
        .iter()
        .find(|(t, k, _)| *t == table && *k == key.name)
    {
        Some((_, _, value)) => writeln!(out, "{} = {value}", key.name),
        None => writeln!(out, "#{} = {value}", key.name),
    };
}

/// What is said of a setting beneath its text: how it is written, its default, when a change takes effect, and
/// whether it has any.
pub(crate) fn facts(key: &Definition) -> Vec<String> {
    let default = match key.preset {
        Preset::Is(value) => format!("Default: {value}."),
        Preset::Unset { means, .. } => format!("Default: {means}."),
        Preset::Required { .. } => "Required.".into(),
        Preset::Inherited { from, .. } => format!("Default: that of {from}."),
    };
    let mut written = written(&key.kind);
    if key.doc.contains(" 0: ") {
        // The text says better what 0 means.
        written = written.replace("; 0 means off", "");
    }
    let (written, takes_effect) = (capital(&written), takes_effect(key.reload));
    let first = format!("{written}. {default} Changes with: {takes_effect}.");
    let effect = match key.effect {
        Effect::Works => None,
        Effect::NotYet(what) => Some(format!("No effect yet: {what} is not in this version.")),
    };
    std::iter::once(first).chain(effect).collect()
}

/// The settings without effect, which stand in the reference as names only.
fn without_effect(out: &mut String) {
    let rule = "#".repeat(80);
    let _ = write!(out, "\n{rule}\n");
    let about = "Settings of the async pg_doorman that are accepted and have no effect, in any table. \
        So is the table [talos]: there is no Talos authentication here.";
    comment(out, about);
    let _ = writeln!(out, "{rule}");
    for line in names_without_effect() {
        out.push('\n');
        comment(out, &line);
    }
}

/// The names of settings without effect, and why they have none.
pub(crate) fn names_without_effect() -> impl Iterator<Item = String> {
    let line = |(reason, names): &(&str, &[&str])| format!("{}: {reason}.", names.join(", "));
    WITHOUT_EFFECT.iter().map(line)
}

/// What may be written.
fn written(kind: &Kind) -> String {
    match kind {
        Kind::Bool => "true or false".into(),
        Kind::Integer {
            min,
            max: MANY..,
            zero,
        } => {
            format!(
                "number{}{}",
                if *min > 0 {
                    format!(", {min} or more")
                } else {
                    String::new()
                },
                zero_words(*zero)
            )
        }
        Kind::Integer { min, max, zero } => {
            format!("number, {min} to {max}{}", zero_words(*zero))
        }
        Kind::Duration {
            unit: Unit::Milliseconds,
            zero,
        } => {
            format!("duration{}", zero_words(*zero))
        }
        Kind::Duration {
            unit: Unit::Seconds,
            zero,
        } => {
            format!(
                "duration, a bare number counts seconds{}",
                zero_words(*zero)
            )
        }
        Kind::Duration {
            unit: Unit::Named,
            zero,
        } => {
            format!("duration with its unit{}", zero_words(*zero))
        }
        Kind::Size { zero } => format!("size{}", zero_words(*zero)),
        Kind::Text | Kind::Name => "text".into(),
        Kind::Path => "path".into(),
        Kind::Secret => "secret text".into(),
        Kind::Verifier => "password verifier, or empty".into(),
        Kind::OneOf(words) => words
            .iter()
            .map(|word| format!("\"{word}\""))
            .collect::<Vec<_>>()
            .join(", "),
        Kind::Permissions => "octal permissions as text".into(),
        Kind::List => "text, or list of texts".into(),
        Kind::Own(words) => (*words).into(),
    }
}

fn zero_words(zero: Zero) -> &'static str {
    match zero {
        Zero::Off => "; 0 means off",
        Zero::Value => "",
        Zero::Refused => ", more than 0",
    }
}

/// When a changed value takes effect.
fn takes_effect(reload: Reload) -> &'static str {
    match reload {
        Reload::Live => "reload",
        Reload::NewClients => "reload, for new clients",
        Reload::NewServers => "reload, for new server connections",
        Reload::NewConnections => "reload, for new connections",
        Reload::Restart => "restart",
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters
        .next()
        .map(|first| first.to_ascii_uppercase().to_string() + letters.as_str())
        .unwrap_or_default()
}

/// Wraps a text at 80 columns.
fn comment(out: &mut String, text: &str) {
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.len() + 1 + word.len() > 80 {
            let _ = writeln!(out, "{line}");
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    let _ = writeln!(out, "{line}");
}

//! What the settings in a client's startup packet come to on its pool's servers.
//!
//! PostgreSQL itself says so: the settings are tried on a server connection once, and remembered for the
//! next client that sends the same. The client gets the values in effect as ParameterStatus. A
//! setting that PostgreSQL refuses is refused in PostgreSQL's words.

use std::fmt;
use std::sync::Arc;

use crate::net::clock::MonotonicTime;
use crate::net::exchange::Exchange;
use crate::pool::pool::{Lack, Pool};
use crate::pool::pool_config::PoolConfig;
use crate::pool::startup_cache::{Effect, Settings};
use crate::pool::totals::Counters;
use crate::pool::waiter::Waiter;
use crate::server::backend::{Backend, Connection};
use crate::server::dirty::RESET_SETTINGS;
use crate::server::messages;
use crate::server::parameters::{Parameters, set_statement};
use crate::session::checkout::{Checkout, CheckoutError, no_server};
use crate::wire::backend::{self, TransactionStatus};
use crate::wire::error::ErrorFields;
use crate::wire::startup::MAX_IDENTIFIER;
use crate::wire::{frontend, write};

const APPLICATION_NAME: &str = "application_name";
const CLIENT_ENCODING: &str = "client_encoding";

/// The longest message that makes sense in answer to a setting, in bytes.
const MAX_LENGTH: usize = 256 * 1024;

/// Why the settings cannot be had.
#[derive(Debug)]
pub enum StartupSettingsError {
    /// No server connection was to be had.
    CheckoutError(CheckoutError),
    /// PostgreSQL refuses a setting, in these words.
    Refused(ErrorFields),
    /// The server connection broke.
    Lost(String),
}

impl fmt::Display for StartupSettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartupSettingsError::CheckoutError(why) => f.write_str(&no_server(why).1),
            StartupSettingsError::Refused(fields) => fields.fmt(f),
            StartupSettingsError::Lost(how) => f.write_str(how),
        }
    }
}

/// Finds out what `wanted` comes to. `told` says whether the caller has to stop.
///
/// # Errors
/// [`StartupSettingsError`].
pub fn resolve(
    wanted: Settings,
    pool: &Arc<Pool>,
    waiter: &Arc<Waiter>,
    interrupted: &dyn Fn() -> bool,
) -> Result<Effect, StartupSettingsError> {
    let config = pool.config();
    let (mut name, mut settings) = (None, Settings::new());
    for (key, value) in wanted {
        let operators = config
            .startup_parameters
            .keys()
            .any(|fixed| fixed.eq_ignore_ascii_case(&key));
        if operators {
            continue;
        }
        if key.eq_ignore_ascii_case(APPLICATION_NAME) && value.len() <= MAX_IDENTIFIER {
            name = Some(value);
        } else {
            settings.push((key, value));
        }
    }
    let mut effect = find_out(settings, pool, &config, waiter, interrupted)?;
    let name = name.map(|name| clean_name(&name, &effect.reported));
    let is_news = |name: &Vec<u8>| effect.reported.get(APPLICATION_NAME) != Some(name);
    if let Some(name) = name.filter(is_news) {
        Arc::make_mut(&mut effect.reported).set(APPLICATION_NAME, &name);
    }
    effect.reported = pool.share(effect.reported);
    Ok(effect)
}

/// The name as PostgreSQL keeps it (`pg_clean_ascii`): bytes other than printable ASCII are written as
/// `\xNN` from version 16 on, as `?` before.
fn clean_name(name: &[u8], reported: &Parameters) -> Vec<u8> {
    let version = reported.get("server_version").unwrap_or_default();
    let digits = version.iter().take_while(|b| b.is_ascii_digit());
    let major = digits.fold(0_u32, |n, b| n.saturating_mul(10) + u32::from(b - b'0'));
    let mut clean = Vec::with_capacity(name.len());
    for &byte in name {
        match byte {
            32..127 => clean.push(byte),
            _ if major >= 16 => clean.extend_from_slice(format!("\\x{byte:02x}").as_bytes()),
            _ => clean.push(b'?'),
        }
    }
    clean
}

fn find_out(
    settings: Settings,
    pool: &Arc<Pool>,
    config: &PoolConfig,
    waiter: &Arc<Waiter>,
    interrupted: &dyn Fn() -> bool,
) -> Result<Effect, StartupSettingsError> {
    let mut checkout = Checkout::new(Arc::clone(pool), Arc::clone(waiter), false);
    if pool.defaults_are_old() {
        ask_for_defaults(&mut checkout, config, interrupted);
    }
    if let Some(defaults) = pool.defaults() {
        if settings.is_empty() {
            return Ok(without_settings(defaults));
        }
        if let Some(known) = pool.known_effect(&settings) {
            return Ok(known);
        }
    }
    let deadline = MonotonicTime::now().after(config.query_wait_timeout);
    let connection = match obtain(&mut checkout, deadline, interrupted) {
        Ok(connection) => connection,
        Err(why) => {
            return as_sent(&settings, pool, why).map_err(StartupSettingsError::CheckoutError);
        }
    };
    let (connection, tried) = if settings.is_empty() {
        (connection, Ok(()))
    } else {
        let try_on = |exchange: &mut Exchange<'_>, backend: &mut Backend| {
            try_settings(exchange, backend, &settings)
        };
        converse(connection, deadline, try_on)
    };
    let reported = Arc::clone(&connection.backend.reported);
    let fresh = Arc::clone(&connection.backend.fresh);
    let untracked = Arc::clone(&connection.backend.applied);
    match tried {
        Ok(()) | Err(StartupSettingsError::Refused(_)) => {
            checkout.give_back(connection, &Counters::default(), MonotonicTime::now());
        }
        Err(_) => {
            drop(connection);
            checkout.discard(&Counters::default());
        }
    }
    tried?;
    let defaults = pool.reported().unwrap_or(Arc::clone(&fresh));
    if settings.is_empty() {
        return Ok(without_settings(defaults));
    }
    // On top of the defaults that are known, which may be newer than those of this connection.
    let mut told = (*defaults).clone();
    let chosen = (settings.iter())
        .filter_map(|(name, _)| Some((reported.spelling(name)?, reported.get(name)?)));
    for (name, value) in reported.differing_from(&fresh).chain(chosen) {
        told.set(name, value);
    }
    let effect = Effect {
        reported: Arc::new(told),
        untracked,
        defaults,
        as_sent: false,
    };
    pool.learn_effect(settings, effect.clone());
    Ok(effect)
}

/// Takes a connection, waiting for one only as long as it may be made: one that others use may be long in coming.
fn obtain(
    checkout: &mut Checkout,
    deadline: MonotonicTime,
    interrupted: &dyn Fn() -> bool,
) -> Result<Connection, CheckoutError> {
    if let Some(connection) = checkout.obtain_at_once(MonotonicTime::now())? {
        return Ok(connection);
    }
    let pool = Arc::clone(checkout.pool());
    let waits_in_vain = || match pool.defaults() {
        Some(_) => !pool.is_connecting(),
        None => pool.is_full() && pool.reported().is_some(),
    };
    match checkout.wait(deadline, &|| interrupted() || waits_in_vain()) {
        Err(CheckoutError::Interrupted) if !interrupted() => {
            Err(CheckoutError::TimedOut(Lack::Connections(0)))
        }
        other => other,
    }
}

/// The ParameterStatus values if no server connection can be had: the values as the client has sent them. What they
/// come to follows with its first transaction.
fn as_sent(
    settings: &Settings,
    pool: &Arc<Pool>,
    why: CheckoutError,
) -> Result<Effect, CheckoutError> {
    let known = match (&why, pool.reported()) {
        (CheckoutError::TimedOut(_), Some(known)) => known,
        (CheckoutError::Failed(error), Some(known)) if error.can_heal() => match pool.defaults() {
            Some(_) => known,
            None => return Err(why),
        },
        _ => return Err(why),
    };
    let (mut reported, mut untracked) = ((*known).clone(), Parameters::default());
    for (name, value) in settings {
        if Parameters::is_settable(name) && known.get(name).is_some() {
            let spelling = known.spelling(name).unwrap_or(name).to_owned();
            reported.set(&spelling, value);
        } else {
            untracked.set(name, value);
        }
    }
    Ok(Effect {
        reported: Arc::new(reported),
        untracked: Arc::new(untracked),
        defaults: known,
        as_sent: true,
    })
}

fn without_settings(defaults: Arc<Parameters>) -> Effect {
    Effect {
        reported: Arc::clone(&defaults),
        untracked: Arc::default(),
        defaults,
        as_sent: false,
    }
}

/// Lets PostgreSQL say on an idle connection what has changed: it looks at a reload, or at the end of a recovery,
/// only with the next message. If none is idle and there may be one more, it is made.
fn ask_for_defaults(checkout: &mut Checkout, config: &PoolConfig, interrupted: &dyn Fn() -> bool) {
    let connection = match checkout.obtain_idle() {
        None if checkout.pool().is_full() => None,
        None => obtain(
            checkout,
            MonotonicTime::now().after(config.connect_timeout),
            interrupted,
        )
        .ok(),
        idle => idle,
    };
    let Some(connection) = connection else {
        return;
    };
    let before = Arc::clone(&connection.backend.reported);
    let deadline = MonotonicTime::now().after(config.connect_timeout);
    let (mut connection, asked) = converse(connection, deadline, |exchange, backend| {
        run(exchange, backend, b"")
    });
    match asked {
        Ok(()) => {
            connection.backend.note_changed_defaults(&before);
            checkout.give_back(connection, &Counters::default(), MonotonicTime::now());
        }
        Err(why) => {
            log::warn!(
                "[{}@{}] an idle server connection did not answer and is closed: {why}",
                checkout.pool().user,
                checkout.pool().database
            );
            drop(connection);
            checkout.discard(&Counters::default());
        }
    }
}

/// Lets the pooler send statements of its own on a connection that was just checked out.
fn converse(
    connection: Connection,
    deadline: MonotonicTime,
    what: impl FnOnce(&mut Exchange<'_>, &mut Backend) -> Result<(), StartupSettingsError>,
) -> (Connection, Result<(), StartupSettingsError>) {
    let Connection {
        mut backend,
        stream,
    } = connection;
    let mut exchange = Exchange {
        stream,
        inbox: Vec::new(),
        deadline: Some(deadline),
        must_stop: &|| false,
    };
    let done = what(&mut exchange, &mut backend);
    let stream = exchange.stream;
    (Connection { backend, stream }, done)
}

fn try_settings(
    exchange: &mut Exchange<'_>,
    backend: &mut Backend,
    settings: &Settings,
) -> Result<(), StartupSettingsError> {
    let is_encoding = |name: &str| name.eq_ignore_ascii_case(CLIENT_ENCODING);
    let mut stages: Vec<Settings> = Vec::new();
    let (encoding, others): (Settings, Settings) = settings
        .iter()
        .cloned()
        .partition(|(name, _)| is_encoding(name));
    let (identity, others): (Settings, Settings) =
        (others.into_iter()).partition(|(name, _)| Parameters::is_identity(name));
    stages.push(encoding);
    stages.push(others);
    stages.push(identity);
    // What an earlier client's settings were is of no matter to this one.
    let mut sql = vec![RESET_SETTINGS.as_bytes().to_vec()];
    sql.extend(stages.iter().filter_map(|stage| {
        set_statement(
            stage
                .iter()
                .map(|(name, value)| (name.as_str(), Some(&value[..]))),
        )
    }));
    backend.applied = Arc::default();
    for (n, statement) in sql.into_iter().enumerate() {
        run(exchange, backend, &statement)?;
        if n == 0 {
            backend.is_at_defaults();
        }
    }
    let mut untracked = Parameters::default();
    for (name, value) in settings {
        if backend.reported.get(name).is_none() || Parameters::is_identity(name) {
            untracked.set(name, value);
        }
    }
    backend.applied = Arc::new(untracked);
    Ok(())
}

/// Runs one statement of the pooler's own to its ReadyForQuery.
fn run(
    exchange: &mut Exchange<'_>,
    backend: &mut Backend,
    sql: &[u8],
) -> Result<(), StartupSettingsError> {
    let mut query = Vec::new();
    write::message(&mut query, frontend::QUERY, |out| write::c_string(out, sql));
    exchange
        .send(&query)
        .map_err(|broken| StartupSettingsError::Lost(broken.to_string()))?;
    let mut refused = None;
    loop {
        let message = messages::next(exchange, MAX_LENGTH)
            .map_err(|error| StartupSettingsError::Lost(error.to_string()))?;
        match message.kind {
            backend::PARAMETER_STATUS => {
                if let Some((name, value)) = backend::parse_parameter_status(&message.body) {
                    backend.note_parameter(name, value);
                }
            }
            backend::ERROR_RESPONSE => refused = Some(ErrorFields::parse(&message.body)),
            backend::READY_FOR_QUERY => {
                backend.status = TransactionStatus::parse(&message.body).unwrap_or_default();
                return match refused {
                    Some(fields) => Err(StartupSettingsError::Refused(fields)),
                    None => Ok(()),
                };
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_cleaned_as_the_server_of_this_version_cleans_it() {
        for (version, expected) in [("15.18 (Debian)", "a??b"), ("18beta1", "a\\xc3\\xa9b")] {
            let mut reported = Parameters::default();
            reported.set("server_version", version.as_bytes());
            let clean = clean_name("aéb".as_bytes(), &reported);
            assert_eq!(String::from_utf8(clean).unwrap(), expected);
        }
    }
}

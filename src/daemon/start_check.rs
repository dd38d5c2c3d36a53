//! What `-t` checks beside the configuration: whether a start would get what it needs of the system.
//!
//! Nothing is taken, made or left behind: a socket is bound for a moment and never listens. An upgrade tests the
//! new binary in the same way, but a successor gets the listening sockets from its predecessor. Their addresses
//! are not checked then.
//!
//! Invariant: what a running instance holds already is no failure.

use std::path::Path;

use super::instances::Instance;
use super::pidfile;
use super::start::StartError;
use crate::config::Settings;
use crate::log::file;
use crate::log::logging::LogOutput;
use crate::net::listener::Listener;
use crate::net::unix_listener;

/// Who would start.
#[derive(Debug, Clone, Copy)]
pub struct Starter<'a> {
    /// It would be a daemon, with a pid file.
    pub daemon: bool,
    /// Its pid file, if not as the configuration says.
    pub pid_file: Option<&'a Path>,
    /// It is given its TCP socket by descriptor.
    pub inherits_tcp: bool,
    /// It is given all its sockets, by a predecessor.
    pub succeeds: bool,
}

/// Checks whether a start with these settings would get what it needs. Returns what to tell the operator.
///
/// # Errors
/// [`StartError`], as the start would end.
pub fn check(settings: &Settings, starter: Starter<'_>) -> Result<Vec<String>, StartError> {
    let general = &settings.general;
    let mut notices = Vec::new();
    if let Some(path) = &general.log_file {
        file::check(path).map_err(cannot(StartError::OS))?;
    }
    if starter.daemon {
        match starter.pid_file.or(general.daemon_pid_file.as_deref()) {
            Some(path) => pidfile::check_writable(path).map_err(cannot(StartError::OS))?,
            None => pidfile::usual_path_unmade()
                .map(drop)
                .map_err(cannot(StartError::CONFIG))?,
        }
        if let (LogOutput::File { path }, Some(notice)) =
            file::target(general, true, starter.pid_file)
        {
            file::check(&path).map_err(cannot(StartError::OS))?;
            notices.push(notice);
        }
    }
    if starter.succeeds {
        return Ok(notices);
    }
    let runs = || !Instance::serving(&settings.path).is_empty();
    if !starter.inherits_tcp {
        let in_use =
            Listener::check_tcp(&general.host, general.port).map_err(cannot(StartError::CONFIG))?;
        if !in_use.is_empty() && !general.so_reuseport && !runs() {
            let addresses: Vec<String> = in_use.iter().map(ToString::to_string).collect();
            notices.push(format!(
                "another process has the port of {}; a start fails unless that is an instance to be upgraded",
                addresses.join(", ")
            ));
        }
    }
    if settings.web.enabled {
        let host = std::slice::from_ref(&settings.web.host);
        let in_use =
            Listener::check_tcp(host, settings.web.port).map_err(cannot(StartError::CONFIG))?;
        if !in_use.is_empty() && !general.so_reuseport && !runs() {
            let addresses: Vec<String> = in_use.iter().map(ToString::to_string).collect();
            notices.push(format!(
                "another process has the port of {} (web.port); a start fails unless that is an instance to be upgraded",
                addresses.join(", ")
            ));
        }
    }
    if let Some(directory) = &general.unix_socket_dir {
        check_socket(directory, general.port)?;
    }
    Ok(notices)
}

fn check_socket(directory: &Path, port: u16) -> Result<(), StartError> {
    unix_listener::check(directory, port).map_err(cannot(StartError::OS))
}

fn cannot<E: std::fmt::Display>(code: u8) -> impl FnOnce(E) -> StartError {
    move |error| StartError {
        code,
        why: error.to_string(),
    }
}

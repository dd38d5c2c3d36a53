//! From arguments to one of: test the configuration, or run. Exit codes are those of `sysexits.h` where one
//! fits.

use std::os::fd::RawFd;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use pg_doorman::config::{self, ErrorKind, Settings};
use pg_doorman::daemon::arguments::{Arguments, Command, UpgradeArguments};
use pg_doorman::daemon::start_check::{self, Starter};
use pg_doorman::daemon::{daemonise, descriptors, pid_keeper, upgrade_command};
use pg_doorman::daemon::{
    main_loop,
    start::{Start, StartError},
};
use pg_doorman::log::file;
use pg_doorman::log::logging::{self, LogOptions};
use pg_doorman::tls::openssl_memory;
use pg_doorman::upgrade::launch::{self, Origin};

fn main() -> ExitCode {
    let wipes = openssl_memory::wipe_when_freed();
    let arguments = Arguments::parse();
    if let Some(Command::Upgrade(wanted)) = &arguments.command {
        return upgrade(wanted, &arguments.config_file);
    }
    match run(&arguments, wipes) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(error.code)
        }
    }
}

fn upgrade(wanted: &UpgradeArguments, config_file: &Path) -> ExitCode {
    match upgrade_command::upgrade(wanted, config_file) {
        Ok(Some(outcome)) => println!("upgrade complete: {outcome}"),
        Ok(None) => {}
        Err(why) => {
            eprintln!("pg_doorman: {why}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn run(arguments: &Arguments, wipes: bool) -> Result<(), StartError> {
    let origin = Origin::remember();
    // A daemon's parent is another one by the time it is asked for.
    let started_by = std::os::unix::process::parent_id();
    let hand_over: Option<RawFd> = std::env::var(launch::VARIABLE)
        .ok()
        .and_then(|number| number.parse().ok());
    let serves_in_front = !arguments.test_config && !arguments.daemon && hand_over.is_none();
    if serves_in_front && (arguments.keep_pid || pid_keeper::is_first_process()) {
        pid_keeper::fork_keeper().map_err(os_error)?;
    }
    let wanted: Vec<RawFd> = arguments.inherit_fd.into_iter().chain(hand_over).collect();
    let inherited = descriptors::inherit(&wanted).map_err(os_error)?;
    let mut kept = inherited.kept.into_iter();
    let listener = arguments.inherit_fd.and_then(|_| kept.next());
    let hand_over = hand_over.and_then(|_| kept.next());
    let settings = load(arguments)?;
    if arguments.test_config {
        let path = arguments.config_file.display();
        for warning in settings.warnings.iter().chain(&settings.notes) {
            eprintln!("warning: {warning}");
        }
        if nix::unistd::geteuid().is_root() {
            eprintln!("warning: this is root; run the pooler as a user of its own");
        }
        println!("pg_doorman: the configuration file {path} syntax is ok");
        let starter = Starter {
            daemon: arguments.daemon,
            pid_file: arguments.pid_file.as_deref(),
            inherits_tcp: listener.is_some(),
            succeeds: std::env::var_os(launch::TEST_VARIABLE).is_some(),
        };
        for notice in start_check::check(&settings, starter)? {
            eprintln!("warning: {notice}");
        }
        println!("pg_doorman: configuration file {path} test is successful");
        tell_of_no_effect(&settings);
        return Ok(());
    }
    let (output, notice) = file::target(
        &settings.general,
        arguments.daemon,
        arguments.pid_file.as_deref(),
    );
    if let (Some(notice), None) = (notice, hand_over.as_ref()) {
        eprintln!("warning: {notice}");
    }
    // A successor is as much a daemon as its predecessor was.
    let ready = if arguments.daemon && hand_over.is_none() {
        Some(daemonise::daemonise().map_err(os_error)?)
    } else {
        None
    };
    let options = LogOptions {
        filter: arguments.log_level.clone(),
        format: arguments.log_format,
        colour: logging::colour_wanted(arguments.no_color),
        output,
    };
    if let Err(error) = logging::start(&options) {
        let error = os_error(error);
        if let Some(ready) = ready {
            ready.fail(error.code, &error.why);
        }
        return Err(error);
    }
    if inherited.closed > 0 {
        log::warn!(
            "closed {} descriptors that were inherited by accident",
            inherited.closed
        );
    }
    if !wipes {
        log::warn!("OpenSSL does not wipe its memory when it frees it: it was in use too early");
    }
    let start = Start {
        settings,
        origin,
        listener,
        hand_over,
        daemon: arguments.daemon,
        pid_file: arguments.pid_file.clone(),
        started_by,
    };
    main_loop::serve(start, ready)
}

fn tell_of_no_effect(settings: &Settings) {
    let warnings = settings.warnings.iter();
    match warnings
        .filter(|warning| warning.tells_of_no_effect())
        .count()
    {
        0 => {}
        1 => println!("pg_doorman: 1 setting has no effect here"),
        count => println!("pg_doorman: {count} settings have no effect here"),
    }
}

fn load(arguments: &Arguments) -> Result<Settings, StartError> {
    config::load(&arguments.config_file).map_err(|error| {
        for warning in error.warnings() {
            eprintln!("warning: {warning}");
        }
        let prefix = match error.kind() {
            ErrorKind::Open { .. } => "Configuration error: ",
            _ => "",
        };
        StartError {
            code: StartError::CONFIG,
            why: format!("Config parse error: {prefix}{error}"),
        }
    })
}

fn os_error(error: impl std::fmt::Display) -> StartError {
    StartError {
        code: StartError::OS,
        why: error.to_string(),
    }
}

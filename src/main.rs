//! From arguments to one of: test the configuration, or run. Exit codes are those of `sysexits.h` where one
//! fits.

use std::process::ExitCode;

use clap::Parser;

use pg_doorman::config::{self, ErrorKind, Settings};
use pg_doorman::daemon::arguments::Arguments;
use pg_doorman::daemon::life::{self, CannotStart};
use pg_doorman::daemon::logging::{self, LogOptions, LogOutput};
use pg_doorman::daemon::{daemonise, descriptors};

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(error.code)
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), CannotStart> {
    let inherited = descriptors::inherit(arguments.inherit_fd.as_slice()).map_err(os_error)?;
    let settings = load(arguments)?;
    if arguments.test_config {
        let path = arguments.config_file.display();
        for warning in &settings.warnings {
            eprintln!("warning: {warning}");
        }
        println!("pg_doorman: the configuration file {path} syntax is ok");
        println!("pg_doorman: configuration file {path} test is successful");
        return Ok(());
    }
    let ready = if arguments.daemon {
        Some(daemonise::daemonise().map_err(os_error)?)
    } else {
        None
    };
    let output = match &settings.general.syslog_prog_name {
        Some(ident) => LogOutput::Syslog {
            ident: ident.clone(),
        },
        None => LogOutput::Stderr,
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
    life::serve(settings, inherited.kept.into_iter().next(), ready)
}

fn load(arguments: &Arguments) -> Result<Settings, CannotStart> {
    config::load(&arguments.config_file).map_err(|error| {
        for warning in error.warnings() {
            eprintln!("warning: {warning}");
        }
        let prefix = match error.kind() {
            ErrorKind::Open { .. } => "Configuration error: ",
            _ => "",
        };
        CannotStart {
            code: CannotStart::CONFIG,
            why: format!("Config parse error: {prefix}{error}"),
        }
    })
}

fn os_error(error: impl std::fmt::Display) -> CannotStart {
    CannotStart {
        code: CannotStart::OS,
        why: error.to_string(),
    }
}

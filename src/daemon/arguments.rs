//! The command line: `pg_doorman [OPTIONS] [CONFIG_FILE]`, and `pg_doorman upgrade`. A configuration file
//! of that name is reached as `./upgrade`.
//!
//! It says what was asked for and does nothing about it. Each option can also come from the
//! environment where one is named; the command line wins. `NO_COLOR` is not among them, since
//! any value of it counts: see [`crate::log::logging::colour_wanted`].
//!
//! Invariant: help and version end with status 0, what cannot be understood with status 2, and
//! neither has any other effect.

use crate::log::filter::Filter;
use crate::log::format::LogFormat;
use clap::builder::BoolishValueParser;
use clap::{Args, Parser, Subcommand};
use std::os::fd::RawFd;
use std::path::PathBuf;

/// What was asked for. `Arguments::parse()` (of `clap::Parser`) reads it from the process and
/// ends the process on `-h`, `-V` and what cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, Parser)]
#[command(
    name = "pg_doorman",
    version,
    about = "A connection pooler for PostgreSQL",
    disable_help_subcommand = true,
    after_help = "NO_COLOR in the environment, not empty, does the same as --no-color.\n\
                  Exit status: 0 normal stop, 1 other failures, 2 wrong usage, 71 the operating \
                  system refused, 78 wrong configuration."
)]
pub struct Arguments {
    // The sentences below are printed by -h.
    /// The configuration, in TOML
    #[arg(
        value_name = "CONFIG_FILE",
        env = "CONFIG_FILE",
        default_value = "pg_doorman.toml"
    )]
    pub config_file: PathBuf,

    /// What is logged: error, warn, info, debug, trace or off; then, if wished, ,module=level
    #[arg(
        short = 'l',
        long,
        env = "LOG_LEVEL",
        default_value = "info",
        value_name = "LEVEL"
    )]
    pub log_level: Filter,

    /// Lines of text, or JSON objects
    #[arg(
        short = 'F',
        long,
        env = "LOG_FORMAT",
        default_value = "text",
        value_name = "FORMAT",
        value_enum,
        ignore_case = true
    )]
    pub log_format: LogFormat,

    /// Never colour the log
    #[arg(short = 'n', long)]
    pub no_color: bool,

    /// Run in the background, with a pid file
    #[arg(short = 'd', long, env = "DAEMON", value_parser = BoolishValueParser::new())]
    pub daemon: bool,

    /// The pid file of a daemon, in place of daemon_pid_file in the configuration
    #[arg(long, value_name = "FILE", requires = "daemon")]
    pub pid_file: Option<PathBuf>,

    /// Stay in front of the process that serves, so that the process id outlives upgrades
    ///
    /// For supervisors that watch the process they have started, such as runit or supervisord. The first
    /// process of a container always does so.
    #[arg(long, conflicts_with = "daemon")]
    pub keep_pid: bool,

    /// Use descriptor N, 3 or more, as the TCP socket that already listens
    #[arg(
        long,
        env = "INHERIT_FD",
        value_name = "N",
        value_parser = clap::value_parser!(i32).range(3..)
    )]
    pub inherit_fd: Option<RawFd>,

    /// Read and check the configuration, say what is wrong with it, and end
    #[arg(short = 't', long)]
    pub test_config: bool,

    /// What to do, if it is not to serve.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do instead of serving.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Upgrade a running instance, and say how that went
    #[command(
        after_help = "The instance is the one that runs with CONFIG_FILE, unless a process is named. \
                      Exit status: 0 a new process serves all its clients (or, with --if-changed, there was \
                      nothing to do), 1 it was not upgraded, and a line on standard error says why."
    )]
    Upgrade(UpgradeArguments),
}

/// Which instance, and when.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct UpgradeArguments {
    /// If an upgrade is under way already, wait until it is over instead of failing
    #[arg(long)]
    pub wait: bool,

    /// Do nothing unless its binary, or a library it uses, was replaced on disk
    #[arg(long)]
    pub if_changed: bool,

    /// The instance whose process id is in this file
    #[arg(long, value_name = "FILE", conflicts_with = "pid")]
    pub pid_file: Option<PathBuf>,

    /// The instance with this process id
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..=i64::from(i32::MAX)))]
    pub pid: Option<u32>,

    /// The instance that runs with this configuration file
    #[arg(value_name = "CONFIG_FILE", conflicts_with_all = ["pid", "pid_file"])]
    pub config_file: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_dir::{is_rerun, rerun};
    use clap::builder::Resettable;
    use clap::{CommandFactory as _, FromArgMatches as _};
    use std::path::Path;

    /// As if nothing were in the environment.
    fn parse(typed: &[&str]) -> Result<Arguments, clap::Error> {
        let mut matches = Arguments::command()
            .mut_args(|arg| arg.env(Resettable::Reset))
            .try_get_matches_from([&["pg_doorman"], typed].concat())?;
        Arguments::from_arg_matches_mut(&mut matches)
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn nothing_typed_means_the_defaults() {
        assert_eq!(
            parse(&[]).unwrap(),
            Arguments {
                config_file: "pg_doorman.toml".into(),
                log_level: Filter::level(log::LevelFilter::Info),
                log_format: LogFormat::Text,
                no_color: false,
                daemon: false,
                pid_file: None,
                keep_pid: false,
                inherit_fd: None,
                test_config: false,
                command: None,
            }
        );
    }

    #[test]
    fn every_option_has_its_short_and_its_long_form() {
        let short = parse(&["-ndt", "-l", "warn", "-F", "structured", "/etc/x.toml"]).unwrap();
        let long = parse(&[
            "--no-color",
            "--daemon",
            "--test-config",
            "--log-level=warn",
            "--log-format=structured",
            "/etc/x.toml",
        ])
        .unwrap();
        assert_eq!(short, long);
        assert!(short.no_color && short.daemon && short.test_config);
        assert_eq!(short.log_level.to_string(), "warn");
        assert_eq!(short.log_format, LogFormat::Structured);
        assert_eq!(short.config_file, Path::new("/etc/x.toml"));
    }

    #[test]
    fn debug_is_an_old_name_of_the_text_format_and_case_does_not_matter() {
        assert_eq!(parse(&["-F", "debug"]).unwrap().log_format, LogFormat::Text);
        assert_eq!(
            parse(&["-F", "TEXT", "-l", "INFO"]).unwrap(),
            parse(&[]).unwrap()
        );
    }

    #[test]
    fn an_inherited_descriptor_is_a_number_past_the_standard_ones() {
        assert_eq!(parse(&["--inherit-fd", "7"]).unwrap().inherit_fd, Some(7));
        for wrong in ["2", "-1", "x", "99999999999"] {
            assert!(parse(&["--inherit-fd", wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn help_and_version_end_with_0_and_wrong_usage_with_2() {
        let version = parse(&["-V"]).unwrap_err();
        assert_eq!(version.exit_code(), 0);
        assert_eq!(
            version.to_string(),
            concat!("pg_doorman ", env!("CARGO_PKG_VERSION"), "\n")
        );
        assert_eq!(parse(&["-h"]).unwrap_err().exit_code(), 0);
        for wrong in [
            &["--no-such"][..],
            &["-l", "loud"],
            &["-F", "xml"],
            &["a", "b"],
        ] {
            assert_eq!(parse(wrong).unwrap_err().exit_code(), 2, "{wrong:?}");
        }
    }

    #[test]
    fn the_command_and_a_configuration_file_do_not_collide() {
        let upgrade = |typed: &[&str]| match parse(typed).unwrap() {
            Arguments {
                command: Some(Command::Upgrade(wanted)),
                config_file,
                ..
            } => (wanted, config_file),
            other => panic!("{other:?}"),
        };
        let (wanted, file) = upgrade(&["upgrade", "--wait", "--if-changed", "--pid-file", "f"]);
        assert!(wanted.wait && wanted.if_changed);
        assert_eq!(wanted.pid_file.as_deref(), Some(Path::new("f")));
        assert_eq!(file, Path::new("pg_doorman.toml"));
        let (wanted, _) = upgrade(&["upgrade", "x.toml"]);
        assert_eq!(wanted.config_file.as_deref(), Some(Path::new("x.toml")));
        let (wanted, file) = upgrade(&["x.toml", "upgrade"]);
        assert_eq!(
            (wanted.config_file, file.as_path()),
            (None, Path::new("x.toml"))
        );
        for file in ["x.toml", "./upgrade", "help"] {
            let served = parse(&[file]).unwrap();
            assert_eq!(
                (served.command, served.config_file.as_path()),
                (None, Path::new(file))
            );
        }
        for wrong in [
            &["upgrade", "--pid", "0"][..],
            &["upgrade", "--pid", "1", "x.toml"],
            &["upgrade", "a", "b"],
        ] {
            assert_eq!(parse(wrong).unwrap_err().exit_code(), 2, "{wrong:?}");
        }
    }

    #[test]
    fn the_environment_serves_where_nothing_is_typed() {
        if is_rerun() {
            println!(
                "from environment {:?}",
                Arguments::try_parse_from(["pg_doorman"]).unwrap()
            );
            let typed = ["pg_doorman", "-l", "trace", "typed.toml"];
            println!("from both {:?}", Arguments::try_parse_from(typed).unwrap());
            return;
        }
        let output = rerun(
            module_path!(),
            "the_environment_serves_where_nothing_is_typed",
        )
        .env("CONFIG_FILE", "/etc/env.toml")
        .env("LOG_LEVEL", "debug")
        .env("LOG_FORMAT", "structured")
        .env("DAEMON", "1")
        .env("INHERIT_FD", "9")
        .output()
        .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let line = |start: &str| {
            said.lines()
                .find_map(|line| line.split_once(start))
                .unwrap()
                .1
        };
        let (bare, typed) = (line("from environment "), line("from both "));
        for expected in [
            "/etc/env.toml",
            "Debug",
            "Structured",
            "daemon: true",
            "Some(9)",
        ] {
            assert!(bare.contains(expected), "{expected} in {bare}");
        }
        assert!(
            typed.contains("typed.toml") && typed.contains("Trace"),
            "{typed}"
        );
        assert!(typed.contains("daemon: true"), "{typed}");
    }

    #[test]
    fn a_path_in_the_variable_daemon_is_wrong_usage_not_yes() {
        if is_rerun() {
            let code = Arguments::try_parse_from(["pg_doorman"]).map_err(|error| error.exit_code());
            println!("code {code:?}");
            return;
        }
        let output = rerun(
            module_path!(),
            "a_path_in_the_variable_daemon_is_wrong_usage_not_yes",
        )
        .env("DAEMON", "/usr/sbin/pg_doorman")
        .output()
        .unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).contains("code Err(2)"));
    }
}

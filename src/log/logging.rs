//! The log of the process: where records go and in which form.
//!
//! Records come from `log`'s macros; `fern` puts together the filter (`log_filter`), the form
//! (`log_format`) and the output (`stderr`, `log_file` or `syslog`). This file does neither of those itself.
//!
//! Invariant: logging never fails, never panics and never makes a thread wait longer than a
//! tenth of a second, whatever happens to the log's reader.

pub use super::filter::{Filter, FilterError, filter, set_filter};
pub use super::format::LogFormat;

use super::file::{self, LogFile};
use super::filter;
use super::format::{Line, Style};
use super::stderr::{Lines, PATIENCE};
use super::syslog::{DEV_LOG, Syslog};
use log::Log;
use std::ffi::OsStr;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use thiserror::Error;

/// How the log is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOptions {
    /// What is written, until [`set_filter`] changes it.
    pub filter: Filter,
    /// In which form.
    pub format: LogFormat,
    /// Whether text on standard error is coloured; see [`colour_wanted`].
    pub colour: bool,
    /// Where to.
    pub output: LogOutput,
}

/// Where the log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard error.
    Stderr,
    /// A file that is appended to (`log_file`).
    File {
        /// Its path.
        path: PathBuf,
    },
    /// The syslog daemon at `/dev/log`, facility USER. Standard error while there is none.
    Syslog {
        /// The name of the program in each record (`syslog_prog_name`).
        ident: String,
    },
}

/// Why the log could not be started.
#[derive(Debug, Error)]
pub enum LogError {
    /// This process already has a logger.
    #[error("the log was already started")]
    Started,
    /// No socket to syslog could be made.
    #[error("could not make a socket for syslog: {0}")]
    Syslog(io::Error),
    /// The log file could not be opened.
    #[error("{0}")]
    File(io::Error),
}

/// Starts the log, for the whole process and its whole life. No thread is made.
///
/// # Errors
///
/// [`LogError`] if there is a log already, or no socket for syslog. An absent syslog daemon is
/// no error: it may start later.
pub fn start(options: &LogOptions) -> Result<(), LogError> {
    let logger = match &options.output {
        LogOutput::Stderr => {
            let style = match options.format {
                LogFormat::Text => Style::Text {
                    colour: options.colour,
                },
                LogFormat::Structured => Style::Structured,
            };
            logger(style, Box::new(Lines::new(io::stderr(), style, PATIENCE)))
        }
        LogOutput::File { path } => {
            let style = match options.format {
                LogFormat::Text => Style::Text { colour: false },
                LogFormat::Structured => Style::Structured,
            };
            let file = LogFile::open(path).map_err(LogError::File)?;
            logger(style, Box::new(Lines::new(file, style, PATIENCE)))
        }
        LogOutput::Syslog { ident } => {
            let style = match options.format {
                LogFormat::Text => Style::Untimed,
                LogFormat::Structured => Style::Structured,
            };
            let syslog =
                Syslog::new(Path::new(DEV_LOG), ident, PATIENCE).map_err(LogError::Syslog)?;
            logger(style, Box::new(syslog))
        }
    };
    log::set_boxed_logger(logger).map_err(|_| LogError::Started)?;
    filter::install(&options.filter);
    Ok(())
}

/// Opens the log file anew, if the log goes to one: logrotate may have moved it away.
pub fn reopen() {
    if let Err(error) = file::reopen() {
        log::error!("{error}; the log goes on in the old file");
    }
}

/// Filter, form and output as one logger.
fn logger(style: Style, output: Box<dyn Log>) -> Box<dyn Log> {
    fern::Dispatch::new()
        .filter(filter::allows)
        .format(move |out, _, record| {
            out.finish(format_args!(
                "{}",
                Line::new(style, SystemTime::now(), record)
            ));
        })
        .chain(output)
        .into_log()
        .1
}

/// Whether the log on standard error is to be coloured: it is a terminal, `no_color` (`-n`) is
/// not given, and `NO_COLOR` in the environment is unset or empty.
pub fn colour_wanted(no_color: bool) -> bool {
    let variable = std::env::var_os("NO_COLOR");
    decide_colour(no_color, variable.as_deref(), io::stderr().is_terminal())
}

fn decide_colour(no_color: bool, variable: Option<&OsStr>, terminal: bool) -> bool {
    terminal && !no_color && variable.is_none_or(OsStr::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_dir::{is_rerun, rerun};

    #[test]
    fn colours_need_a_terminal_and_nobody_against_them() {
        let var = |text| Some(OsStr::new(text));
        assert!(decide_colour(false, None, true));
        assert!(decide_colour(false, var(""), true));
        assert!(!decide_colour(false, var("0"), true));
        assert!(!decide_colour(true, None, true));
        assert!(!decide_colour(false, None, false));
    }

    /// Runs in a process of its own: there is one log per process.
    fn log_some(format: LogFormat) {
        start(&LogOptions {
            filter: "info,chatty=debug".parse().unwrap(),
            format,
            colour: false,
            output: LogOutput::Stderr,
        })
        .unwrap();
        log::info!("first\nrecord");
        log::debug!("not wanted");
        log::debug!(target: "pg_doorman::chatty", "wanted");
        set_filter("error").unwrap();
        log::warn!("no longer wanted");
        log::error!("last");
        assert!(matches!(
            start(&LogOptions {
                filter: Filter::level(log::LevelFilter::Trace),
                format,
                colour: false,
                output: LogOutput::Stderr,
            }),
            Err(LogError::Started)
        ));
        assert_eq!(filter(), "error");
        log::error!("really last");
    }

    /// What the process wrote to its standard error, line by line.
    fn logged_by(test: &str) -> Vec<String> {
        let output = rerun(module_path!(), test).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        said.lines().map(str::to_owned).collect()
    }

    #[test]
    fn text_goes_to_standard_error_as_filtered() {
        if is_rerun() {
            return log_some(LogFormat::Text);
        }
        let lines = logged_by("text_goes_to_standard_error_as_filtered");
        let after_time: Vec<_> = lines.iter().filter_map(|line| line.get(25..)).collect();
        assert_eq!(after_time.len(), 4, "{lines:?}");
        assert_eq!(after_time[0], " INFO first\\nrecord");
        assert!(after_time[1].starts_with("DEBUG src/log/logging.rs:"));
        assert!(after_time[1].ends_with(": wanted"));
        assert_eq!(after_time[2], "ERROR last");
        assert_eq!(after_time[3], "ERROR really last");
    }

    #[test]
    fn structured_records_are_json_line_by_line() {
        if is_rerun() {
            return log_some(LogFormat::Structured);
        }
        let lines = logged_by("structured_records_are_json_line_by_line");
        let messages: Vec<_> = lines
            .iter()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .map(|object| object["message"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(messages, ["first\nrecord", "wanted", "last", "really last"]);
    }
}

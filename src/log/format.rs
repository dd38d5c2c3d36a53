//! What one log record looks like: a line of text, or one JSON object.
//!
//! This file writes nothing anywhere and decides nothing about levels.
//!
//! Invariant: one record is one line, whatever is in it. Messages carry texts of PostgreSQL and
//! names chosen by clients; none of them can begin a line of its own or move a terminal's cursor.

use log::{Level, Record};
use serde::Serialize;
use std::fmt::{self, Write as _};
use std::time::SystemTime;

/// The forms of a log record an operator can choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// `2026-01-02T03:04:05.678Z  INFO message`; at `debug` and `trace` with `src/file.rs:12: `
    /// before the message. The time is UTC. `debug` is an old name of the same.
    #[value(alias = "debug")]
    Text,
    /// One JSON object a line: `timestamp`, `level`, `file`, `line`, `message`.
    Structured,
}

/// The forms of a log record, as the place where it goes wants them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// [`LogFormat::Text`], in colours or not.
    Text { colour: bool },
    /// [`LogFormat::Text`] without the time: the receiver notes that itself.
    Untimed,
    /// [`LogFormat::Structured`].
    Structured,
}

/// One record, to be printed as one line (the line's end is not part of it).
pub(super) struct Line<'a> {
    style: Style,
    now: SystemTime,
    record: &'a Record<'a>,
    message: fmt::Arguments<'a>,
}

impl<'a> Line<'a> {
    /// The record with its own message.
    pub(super) fn new(style: Style, now: SystemTime, record: &'a Record<'a>) -> Line<'a> {
        Line {
            style,
            // The only times that cannot be written are before 1970 and after 9999: a machine
            // whose clock is that wrong still gets its log.
            now: now.max(SystemTime::UNIX_EPOCH),
            record,
            message: *record.args(),
        }
    }

    fn text(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = self.record.level();
        match self.style {
            Style::Text { colour: true } => {
                let time = humantime::format_rfc3339_millis(self.now);
                write!(
                    f,
                    "\x1b[2m{time}\x1b[0m {}{level:>5}\x1b[0m ",
                    colour(level)
                )?;
            }
            Style::Text { colour: false } | Style::Structured => {
                let time = humantime::format_rfc3339_millis(self.now);
                write!(f, "{time} {level:>5} ")?;
            }
            Style::Untimed => write!(f, "{level} ")?,
        }
        if level >= Level::Debug {
            if let Some(file) = self.record.file() {
                write!(f, "{file}:{}: ", self.record.line().unwrap_or(0))?;
            }
        }
        write!(Escaped { to: f, json: false }, "{}", self.message)
    }

    fn structured(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[derive(Serialize)]
        struct Fields<'a> {
            timestamp: String,
            level: &'a str,
            file: Option<&'a str>,
            line: Option<u32>,
            message: fmt::Arguments<'a>,
        }
        let mut timestamp = String::new();
        write!(timestamp, "{}", humantime::format_rfc3339_millis(self.now))?;
        let fields = Fields {
            timestamp,
            level: self.record.level().as_str(),
            file: self.record.file(),
            line: self.record.line(),
            message: self.message,
        };
        let json = serde_json::to_string(&fields).map_err(|_| fmt::Error)?;
        // JSON itself is content with some characters that many readers take for a line's end.
        Escaped { to: f, json: true }.write_str(&json)
    }
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.style {
            Style::Structured => self.structured(f),
            Style::Text { .. } | Style::Untimed => self.text(f),
        }
    }
}

fn colour(level: Level) -> &'static str {
    match level {
        Level::Error => "\x1b[31m",
        Level::Warn => "\x1b[33m",
        Level::Info => "\x1b[32m",
        Level::Debug => "\x1b[34m",
        Level::Trace => "\x1b[35m",
    }
}

/// Passes text on with every character escaped that is a control character or ends a line.
struct Escaped<'a, 'b> {
    to: &'a mut fmt::Formatter<'b>,
    json: bool,
}

impl fmt::Write for Escaped<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some((at, found)) = rest
            .char_indices()
            .find(|(_, c)| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'))
        {
            self.to.write_str(rest.get(..at).unwrap_or_default())?;
            if self.json {
                // None of these lies beyond the 16 bits of such an escape.
                write!(self.to, "\\u{:04x}", u32::from(found))?;
            } else {
                write!(self.to, "{}", found.escape_default())?;
            }
            rest = rest.get(at + found.len_utf8()..).unwrap_or_default();
        }
        self.to.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    const TEXT: Style = Style::Text { colour: false };

    fn line(style: Style, level: Level, message: fmt::Arguments<'_>) -> String {
        let now = UNIX_EPOCH + Duration::from_millis(1_767_323_045_678);
        line_at(now, style, level, message)
    }

    fn line_at(now: SystemTime, style: Style, level: Level, message: fmt::Arguments<'_>) -> String {
        let record = Record::builder()
            .level(level)
            .file(Some("src/pool/queue.rs"))
            .line(Some(12))
            .args(message)
            .build();
        Line::new(style, now, &record).to_string()
    }

    #[test]
    fn text_has_utc_milliseconds_and_a_padded_level() {
        assert_eq!(
            line(TEXT, Level::Info, format_args!("Accepting connections")),
            "2026-01-02T03:04:05.678Z  INFO Accepting connections"
        );
        assert_eq!(
            line(TEXT, Level::Error, format_args!("gone")),
            "2026-01-02T03:04:05.678Z ERROR gone"
        );
    }

    #[test]
    fn only_debug_and_trace_say_where_they_come_from() {
        assert_eq!(
            line(TEXT, Level::Debug, format_args!("gone")),
            "2026-01-02T03:04:05.678Z DEBUG src/pool/queue.rs:12: gone"
        );
        assert!(
            line(TEXT, Level::Trace, format_args!("")).ends_with("TRACE src/pool/queue.rs:12: ")
        );
        assert!(!line(TEXT, Level::Warn, format_args!("")).contains("queue.rs"));
    }

    #[test]
    fn without_a_time_the_level_comes_first() {
        assert_eq!(
            line(Style::Untimed, Level::Info, format_args!("a\nb")),
            "INFO a\\nb"
        );
    }

    #[test]
    fn colours_are_around_time_and_level_and_never_in_plain_text() {
        let coloured = line(
            Style::Text { colour: true },
            Level::Warn,
            format_args!("slow"),
        );
        assert_eq!(
            coloured,
            "\x1b[2m2026-01-02T03:04:05.678Z\x1b[0m \x1b[33m WARN\x1b[0m slow"
        );
        assert!(!line(TEXT, Level::Warn, format_args!("slow")).contains('\x1b'));
    }

    #[test]
    fn a_message_cannot_begin_a_line_or_move_the_cursor() {
        let nasty = "a\r\nb\tc\0d\x1b[2Je\u{85}f\u{9b}g\u{2028}h\x7f é \\";
        assert!(line(TEXT, Level::Info, format_args!("{nasty}")).ends_with(
            "INFO a\\r\\nb\\tc\\u{0}d\\u{1b}[2Je\\u{85}f\\u{9b}g\\u{2028}h\\u{7f} é \\"
        ));
        let json = line(Style::Structured, Level::Info, format_args!("{nasty}"));
        assert!(
            !json.contains(|c: char| c.is_control() || c == '\u{2028}'),
            "{json}"
        );
        let back: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(back["message"], nasty);
    }

    #[test]
    fn structured_is_one_object_with_five_keys_in_this_order() {
        assert_eq!(
            line(
                Style::Structured,
                Level::Info,
                format_args!("user \"{}\"", "app")
            ),
            "{\"timestamp\":\"2026-01-02T03:04:05.678Z\",\"level\":\"INFO\",\
             \"file\":\"src/pool/queue.rs\",\"line\":12,\"message\":\"user \\\"app\\\"\"}"
        );
    }

    #[test]
    fn a_clock_before_1970_does_not_cost_the_message() {
        let before = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(
            line_at(before, TEXT, Level::Info, format_args!("gone")),
            "1970-01-01T00:00:00.000Z  INFO gone"
        );
    }
}

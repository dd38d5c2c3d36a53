//! Reading a command: words parted by blanks, without regard to case, a trailing semicolon left out.

/// A command of the console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `SHOW what`, in lower case.
    Show(String),
    /// `RELOAD`.
    Reload,
    /// `PAUSE`, of one database or all.
    Pause(Option<String>),
    /// `RESUME`, of one database or all.
    Resume(Option<String>),
    /// `RECONNECT`, of one database or all.
    Reconnect(Option<String>),
    /// `SHUTDOWN`.
    Shutdown,
    /// `UPGRADE`.
    Upgrade,
    /// `SET log_level = filter`.
    SetLogLevel(String),
    /// `SET` of something else.
    SetOther(String),
    /// Anything else.
    Unknown,
}

impl Command {
    /// Reads a command.
    pub fn parse(text: &str) -> Command {
        let text = text.trim().trim_end_matches(';').trim();
        let mut words = text.split_whitespace();
        let verb = words.next().unwrap_or_default().to_ascii_lowercase();
        let rest: Vec<&str> = words.collect();
        // Database names keep their case, and may be quoted as identifiers are.
        let target = |rest: &[&str]| rest.first().map(|name| name.trim_matches('"').to_owned());
        match (verb.as_str(), rest.as_slice()) {
            ("show", [_, ..]) => Command::Show(rest.join(" ").to_ascii_lowercase()),
            ("reload", []) => Command::Reload,
            ("pause", [] | [_]) => Command::Pause(target(&rest)),
            ("resume", [] | [_]) => Command::Resume(target(&rest)),
            ("reconnect", [] | [_]) => Command::Reconnect(target(&rest)),
            ("shutdown", _) => Command::Shutdown,
            ("upgrade", []) => Command::Upgrade,
            ("set", [_, ..]) => Command::parse_set(&rest.join(" ")),
            _ => Command::Unknown,
        }
    }

    fn parse_set(text: &str) -> Command {
        let (name, value) = match text.split_once('=') {
            Some(parts) => parts,
            None => text.split_once(" to ").unwrap_or((text, "")),
        };
        let value = value.trim().trim_matches('\'').to_owned();
        if name.trim().eq_ignore_ascii_case("log_level") {
            Command::SetLogLevel(value)
        } else {
            Command::SetOther(name.trim().to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Command;

    #[test]
    fn case_blanks_and_semicolons_do_not_matter() {
        assert_eq!(
            Command::parse("  show\n POOLS ; "),
            Command::Show("pools".into())
        );
        assert_eq!(Command::parse("RELOAD;"), Command::Reload);
        assert_eq!(
            Command::parse("Pause \"Shop\""),
            Command::Pause(Some("Shop".into()))
        );
        assert_eq!(Command::parse("resume"), Command::Resume(None));
    }

    #[test]
    fn the_log_level_is_set_with_or_without_quotes() {
        let expected = Command::SetLogLevel("info,pool=debug".into());
        assert_eq!(
            Command::parse("SET log_level = 'info,pool=debug';"),
            expected
        );
        assert_eq!(Command::parse("set LOG_LEVEL=info,pool=debug"), expected);
        assert_eq!(Command::parse("SET x = 1"), Command::SetOther("x".into()));
    }

    #[test]
    fn what_is_no_command_is_unknown() {
        assert_eq!(Command::parse("KILL shop"), Command::Unknown);
        assert_eq!(Command::parse("select 1"), Command::Unknown);
    }
}

//! Which log records are written: a level, and other levels for some modules.
//!
//! A filter is typed as `info` or `info,session=debug,pg_doorman::pool=trace`. The one in force
//! can be changed at any time ([`set_filter`]). This file does not write records.
//!
//! Invariant: `log`'s own maximum is always the highest level any part of the filter in force
//! allows. So a record nobody wants costs one atomic load and a comparison, in `log`'s macro;
//! the lock here is only read for records that this maximum lets through.

use log::{Level, LevelFilter};
use parking_lot::RwLock;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// What comes before the names of this program's own modules in a record's target.
const OWN: &str = "pg_doorman::";

/// A level, and other levels for some modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    level: LevelFilter,
    /// The longest name first, so that the first that fits is the most exact.
    modules: Vec<(String, LevelFilter)>,
}

/// Why a text is not a filter. Its text is fit for a client of the console.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FilterError {
    /// Not the name of a level.
    #[error(
        "Invalid log level '{}'. Valid: error, warn, info, debug, trace, off, and after one of these ,module=level",
        .0.escape_debug()
    )]
    Level(String),
    /// Not a path of module names.
    #[error("Invalid module name '{}'", .0.escape_debug())]
    Module(String),
}

impl Filter {
    /// The filter that lets every module write records of `level` and more important ones.
    pub const fn level(level: LevelFilter) -> Filter {
        Filter {
            level,
            modules: Vec::new(),
        }
    }

    /// Whether a record of `level` from the module `target` is written.
    pub fn allows(&self, level: Level, target: &str) -> bool {
        let own = target.strip_prefix(OWN);
        let exact = self
            .modules
            .iter()
            .find(|(name, _)| {
                is_inside(target, name) || own.is_some_and(|own| is_inside(own, name))
            })
            .map(|(_, level)| *level);
        level <= exact.unwrap_or(self.level)
    }

    /// The highest level any module may write.
    pub fn most(&self) -> LevelFilter {
        self.modules
            .iter()
            .map(|(_, level)| *level)
            .fold(self.level, |most, level| most.max(level))
    }
}

/// Whether the module `target` is the module `name` or one within it.
fn is_inside(target: &str, name: &str) -> bool {
    target
        .strip_prefix(name)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Filter, FilterError> {
        let mut parts = text.split(',').map(str::trim);
        let level = level_from(parts.next().unwrap_or_default())?;
        let mut modules: Vec<(String, LevelFilter)> = Vec::new();
        for part in parts {
            let (name, level) = part
                .split_once('=')
                .ok_or_else(|| FilterError::Level(part.to_owned()))?;
            let name = module_from(name.trim())?;
            let level = level_from(level.trim())?;
            modules.retain(|(known, _)| known != name);
            modules.push((name.to_owned(), level));
        }
        modules.sort_by(|(a, _), (b, _)| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        Ok(Filter { level, modules })
    }
}

fn level_from(text: &str) -> Result<LevelFilter, FilterError> {
    if text.eq_ignore_ascii_case("warning") {
        return Ok(LevelFilter::Warn);
    }
    text.parse()
        .map_err(|_| FilterError::Level(text.to_owned()))
}

fn module_from(text: &str) -> Result<&str, FilterError> {
    let word = |word: &str| {
        !word.is_empty()
            && word
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    if text.split("::").all(word) {
        Ok(text)
    } else {
        Err(FilterError::Module(text.to_owned()))
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&name_of(self.level))?;
        for (module, level) in &self.modules {
            write!(f, ",{module}={}", name_of(*level))?;
        }
        Ok(())
    }
}

fn name_of(level: LevelFilter) -> String {
    level.as_str().to_ascii_lowercase()
}

/// The filter in force and the one to return to.
struct Live {
    now: Filter,
    at_start: Filter,
}

static LIVE: RwLock<Live> = RwLock::new(Live {
    now: Filter::level(LevelFilter::Info),
    at_start: Filter::level(LevelFilter::Info),
});

/// Makes `filter` the one in force, and the one that `default` means from now on.
pub(super) fn install(filter: &Filter) {
    let mut live = LIVE.write();
    live.at_start = filter.clone();
    live.now = filter.clone();
    // Under the lock, so that of two changes at once both halves are of the same one.
    log::set_max_level(filter.most());
}

/// Changes, from now on and for all threads, what is written: `level`,
/// `level,module=level,...`, or `default` for what the log was started with.
///
/// # Errors
///
/// [`FilterError`] if the text is none of these; nothing has changed then.
pub fn set_filter(text: &str) -> Result<(), FilterError> {
    let wanted = match text.trim() {
        word if word.eq_ignore_ascii_case("default") => None,
        other => Some(other.parse::<Filter>()?),
    };
    let mut live = LIVE.write();
    live.now = wanted.unwrap_or_else(|| live.at_start.clone());
    log::set_max_level(live.now.most());
    Ok(())
}

/// The filter in force, in the form in which [`set_filter`] takes it.
pub fn filter() -> String {
    LIVE.read().now.to_string()
}

/// Whether the filter in force lets this record through.
pub(super) fn allows(metadata: &log::Metadata<'_>) -> bool {
    LIVE.read().now.allows(metadata.level(), metadata.target())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_dir::{is_rerun, rerun};

    fn parse(text: &str) -> Filter {
        text.parse().unwrap()
    }

    #[test]
    fn a_bare_level_holds_for_every_module() {
        let filter = parse("info");
        assert!(filter.allows(Level::Info, "pg_doorman::session"));
        assert!(filter.allows(Level::Error, "clap"));
        assert!(!filter.allows(Level::Debug, "pg_doorman::session"));
    }

    #[test]
    fn a_module_has_its_own_level_with_or_without_the_programs_name() {
        for typed in ["warn,session=debug", "warn,pg_doorman::session=debug"] {
            let filter = parse(typed);
            assert!(filter.allows(Level::Debug, "pg_doorman::session"));
            assert!(filter.allows(Level::Debug, "pg_doorman::session::relay"));
            assert!(!filter.allows(Level::Info, "pg_doorman::sessions"));
            assert!(!filter.allows(Level::Info, "pg_doorman::pool"));
        }
    }

    #[test]
    fn the_longest_module_name_decides() {
        let filter = parse("off,session=error,session::relay=trace");
        assert!(filter.allows(Level::Trace, "pg_doorman::session::relay"));
        assert!(!filter.allows(Level::Warn, "pg_doorman::session::registry"));
        assert!(!filter.allows(Level::Error, "pg_doorman::pool"));
    }

    #[test]
    fn the_most_is_the_highest_level_of_any_part() {
        assert_eq!(parse("info").most(), LevelFilter::Info);
        assert_eq!(parse("info,pool=trace").most(), LevelFilter::Trace);
        assert_eq!(parse("info,pool=off").most(), LevelFilter::Info);
    }

    #[test]
    fn a_filter_is_printed_in_the_form_in_which_it_is_read() {
        let printed = parse(" INFO , pool = Warning, pool::queue=trace,pool=debug").to_string();
        assert_eq!(printed, "info,pool::queue=trace,pool=debug");
        assert_eq!(parse(&printed).to_string(), printed);
    }

    #[test]
    fn what_is_not_a_filter_is_named_in_the_error() {
        for (typed, wrong) in [
            ("", FilterError::Level(String::new())),
            ("loud", FilterError::Level("loud".into())),
            ("info,debug", FilterError::Level("debug".into())),
            ("info,", FilterError::Level(String::new())),
            ("pool=debug", FilterError::Level("pool=debug".into())),
            ("info,pool=loud", FilterError::Level("loud".into())),
            ("info,=debug", FilterError::Module(String::new())),
            ("info,a:b=debug", FilterError::Module("a:b".into())),
            ("info,a b=debug", FilterError::Module("a b".into())),
        ] {
            assert_eq!(typed.parse::<Filter>(), Err(wrong), "{typed:?}");
        }
        assert!(
            FilterError::Level("lo\nud".into())
                .to_string()
                .starts_with("Invalid log level 'lo\\nud'. Valid: error, warn, info, ")
        );
    }

    #[test]
    fn the_filter_in_force_can_be_changed_and_brought_back() {
        if is_rerun() {
            install(&parse("warn"));
            assert_eq!(log::max_level(), LevelFilter::Warn);
            set_filter("info,pool=debug").unwrap();
            println!("now {} up to {}", filter(), log::max_level());
            assert!(set_filter("loud").is_err());
            println!("still {}", filter());
            set_filter("Default").unwrap();
            println!("again {} up to {}", filter(), log::max_level());
            return;
        }
        let output = rerun(
            module_path!(),
            "the_filter_in_force_can_be_changed_and_brought_back",
        )
        .output()
        .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("now info,pool=debug up to DEBUG"), "{said}");
        assert!(said.contains("still info,pool=debug"), "{said}");
        assert!(said.contains("again warn up to WARN"), "{said}");
    }
}

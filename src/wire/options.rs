//! The `options` of a startup packet: the command-line arguments of a PostgreSQL backend, read as the
//! settings that they stand for (`process_postgres_switches` in postgres.c, `pg_split_opts` in postinit.c).
//!
//! Whether a setting exists and may be set is PostgreSQL's to say.

use super::startup::StartupError;

/// Arguments that take a value, and the setting that it is for.
const WITH_VALUE: [(u8, &str); 7] = [
    (b'B', "shared_buffers"),
    (b'h', "listen_addresses"),
    (b'k', "unix_socket_directories"),
    (b'N', "max_connections"),
    (b'p', "port"),
    (b'S', "work_mem"),
    (b'W', "post_auth_delay"),
];

/// Arguments without a value, and the setting that they stand for.
const WITHOUT_VALUE: [(u8, &str, &str); 7] = [
    (b'e', "datestyle", "euro"),
    (b'F', "fsync", "false"),
    (b'i', "listen_addresses", "*"),
    (b'l', "ssl", "true"),
    (b'O', "allow_system_table_mods", "true"),
    (b'P', "ignore_system_indexes", "true"),
    (b's', "log_statement_stats", "true"),
];

/// What `-f` switches off.
const PLANS: [(u8, &str); 8] = [
    (b'b', "enable_bitmapscan"),
    (b'h', "enable_hashjoin"),
    (b'i', "enable_indexscan"),
    (b'm', "enable_mergejoin"),
    (b'n', "enable_nestloop"),
    (b'o', "enable_indexonlyscan"),
    (b's', "enable_seqscan"),
    (b't', "enable_tidscan"),
];

/// What `-t` switches on, by the letters that PostgreSQL looks at.
const STATISTICS: [(&[u8], &str); 3] = [
    (b"pa", "log_parser_stats"),
    (b"pl", "log_planner_stats"),
    (b"e", "log_executor_stats"),
];

/// Reads the value of `options`: words parted by blanks, a backslash takes the next byte as it is. As
/// getopt has it, letters without a value may share a word, and a value may be in the word of its letter.
///
/// # Errors
/// [`StartupError::Options`] with the first word that is not understood.
pub fn parse_options(text: &[u8]) -> Result<Vec<(String, Vec<u8>)>, StartupError> {
    let mut settings = Vec::new();
    let mut words = split_words(text).into_iter();
    while let Some(word) = words.next() {
        let wrong = || StartupError::Options(String::from_utf8_lossy(&word).into_owned());
        let Some(mut letters) = word.strip_prefix(b"-").filter(|rest| !rest.is_empty()) else {
            return Err(wrong());
        };
        while let Some((&letter, rest)) = letters.split_first() {
            letters = rest;
            let plain = WITHOUT_VALUE.iter().find(|(plain, ..)| *plain == letter);
            if let Some((_, name, value)) = plain {
                settings.push(((*name).to_owned(), value.as_bytes().to_vec()));
                continue;
            }
            let value = match rest {
                b"" => words.next().ok_or_else(wrong)?,
                rest => rest.to_vec(),
            };
            settings.push(with_value(letter, value).ok_or_else(wrong)?);
            break;
        }
    }
    Ok(settings)
}

/// The setting that an argument with a value stands for.
fn with_value(letter: u8, value: Vec<u8>) -> Option<(String, Vec<u8>)> {
    let switched = |name: &str, on: &str| Some((name.to_owned(), on.as_bytes().to_vec()));
    match letter {
        b'c' | b'-' => {
            let at = value.iter().position(|&b| b == b'=')?;
            // PostgreSQL takes a dash in such a name for an underscore (ParseLongOption).
            let name = String::from_utf8_lossy(&value[..at]).replace('-', "_");
            Some((name, value[at + 1..].to_vec()))
        }
        b'f' => {
            let (_, name) = PLANS.iter().find(|(config, _)| [*config] == *value)?;
            switched(name, "false")
        }
        b't' => {
            let mut known = STATISTICS.iter();
            let (_, name) = known.find(|(letters, _)| value.starts_with(letters))?;
            switched(name, "true")
        }
        _ => {
            let (_, name) = WITH_VALUE.iter().find(|(known, _)| *known == letter)?;
            Some(((*name).to_owned(), value))
        }
    }
}

fn split_words(text: &[u8]) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        // isspace() in the C locale has the vertical tab too.
        if byte.is_ascii_whitespace() || byte == 0x0b {
            words.extend(word.take());
        } else {
            let taken = match byte {
                b'\\' => bytes.next().copied(),
                byte => Some(byte),
            };
            word.get_or_insert_default().extend(taken);
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, StartupError> {
        let settings = parse_options(text.as_bytes())?.into_iter();
        let shown = settings.map(|(name, value)| format!("{name}={}", value.escape_ascii()));
        Ok(shown.collect::<Vec<_>>().join("; "))
    }

    #[test]
    fn arguments_stand_for_settings() {
        for (text, expected) in [
            ("", ""),
            ("-c geqo=off", "geqo=off"),
            ("-cgeqo=off --search-path=a,b", "geqo=off; search_path=a,b"),
            (r"-c work_mem=1\ MB", "work_mem=1 MB"),
            ("-e", "datestyle=euro"),
            ("-S 8192", "work_mem=8192"),
            (
                "-eS8192 -fi",
                "datestyle=euro; work_mem=8192; enable_indexscan=false",
            ),
            (
                "-f i -t pl",
                "enable_indexscan=false; log_planner_stats=true",
            ),
            ("-c a=b=c\td", "error"),
        ] {
            let shown = read(text).unwrap_or("error".into());
            assert_eq!(shown, expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_argument_is_refused_by_its_word() {
        for (text, word) in [
            ("geqo=off", "geqo=off"),
            ("-", "-"),
            ("-c", "-c"),
            ("-c geqo", "-c"),
            ("-x", "-x"),
            ("-f z", "-f"),
            ("-S", "-S"),
        ] {
            assert_eq!(
                read(text),
                Err(StartupError::Options(word.into())),
                "{text}"
            );
        }
    }

    #[test]
    fn values_may_be_in_any_encoding() {
        let settings = parse_options(b"-c my.name=\xcf\xf0\xe8").unwrap();
        assert_eq!(settings, [("my.name".to_owned(), b"\xcf\xf0\xe8".to_vec())]);
    }
}

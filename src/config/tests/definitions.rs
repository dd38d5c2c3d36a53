//! The definitions against themselves, and against the reference file.

use super::*;

#[test]
fn every_definition_has_a_doc_and_a_default_that_passes_its_own_check() {
    for (table, keys) in TABLES {
        for (index, key) in keys.iter().enumerate() {
            let name = format!("{table} {}", key.name);
            assert!(key.doc.trim().ends_with('.'), "{name} has no sentence");
            assert!(
                !keys[..index].iter().any(|k| k.name == key.name),
                "{name} is there twice"
            );
            let text = match key.preset {
                Preset::Is(text) => text,
                Preset::Unset { example, .. }
                | Preset::Required { example }
                | Preset::Inherited { example, .. } => example,
            };
            let node =
                raw::parse_value(text).unwrap_or_else(|| panic!("{name}: {text} is not TOML"));
            if !matches!(key.kind, Kind::Own(_)) {
                assert!(key.kind.read(&node).is_ok(), "{name}: {text}");
            }
        }
    }
}

const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/etc/pg_doorman.toml");

/// `UPDATE_REFERENCE=1 cargo test reference` writes the file anew.
#[test]
fn the_reference_file_is_what_the_definitions_say() {
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(REFERENCE, reference()).unwrap();
    }
    let written = std::fs::read_to_string(REFERENCE).unwrap();
    assert!(
        written == reference(),
        "stale; run: UPDATE_REFERENCE=1 cargo test reference"
    );
    let settings = parse(&written, Path::new(REFERENCE)).unwrap();
    assert_eq!(warnings(&settings), [""; 0]);
}

#[test]
fn every_setting_of_the_reference_is_known_when_it_is_uncommented() {
    let lines = reference()
        .lines()
        .map(uncommented)
        .collect::<Vec<_>>()
        .join("\n");
    let settings = match read(&lines) {
        Ok(settings) => settings,
        Err(error) => panic!("{error}"),
    };
    let told = warnings(&settings);
    assert!(!told.iter().any(|w| w.contains("unknown")), "{told:#?}");
    // Each key must be there, in each of its tables.
    let keys: usize = TABLES.iter().map(|(_, keys)| keys.len()).sum();
    let written = lines
        .lines()
        .filter(|l| l.contains(" = ") && !l.starts_with('#'))
        .count();
    // Not as keys: tls_certificates, users, auth_query (twice). Left commented below: hba, pg_hba,
    // pg_ident, auth_file, and files for TLS to PostgreSQL in two tables.
    assert_eq!(written, keys - 4 - 4 - 2 * FILES.len());
}

/// Settings that name a file which is read, and not there.
const FILES: [&str; 4] = [
    "server_tls_ca_cert",
    "server_tls_crl",
    "server_tls_certificate",
    "server_tls_private_key",
];

/// What a setting's comment mark hides; not the two that exclude each other or
/// name a file that is not there.
fn uncommented(line: &str) -> &str {
    match line.strip_prefix('#') {
        Some(rest)
            if ["hba ", "pg_hba ", "pg_ident ", "auth_file "]
                .iter()
                .any(|key| rest.starts_with(key)) =>
        {
            line
        }
        Some(rest) if FILES.iter().any(|file| rest.starts_with(file)) => line,
        Some(rest)
            if rest.starts_with('[') || rest.starts_with(|c: char| c.is_ascii_lowercase()) =>
        {
            rest
        }
        _ => line,
    }
}

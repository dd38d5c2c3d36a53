//! The names that PgBouncer and PgCat have for settings, and what takes their place here.
//!
//! Used for hints only: none of these names has an effect. Invariant: a setting that is known where it stands
//! gets no hint.

/// What takes the place of the setting of another pooler, if it is one.
pub(super) fn hint(name: &str) -> Option<&'static str> {
    let lower = name.to_ascii_lowercase();
    NAMES
        .iter()
        .find(|(names, _)| names.contains(&lower.as_str()))
        .map(|(_, hint)| *hint)
}

/// Settings that PgBouncer has by the same name and counts in seconds, and the number from which on a bare number is
/// taken for milliseconds without a word: a second, or a minute for times that are minutes or hours.
pub(super) const COUNTED_IN_SECONDS: [(&str, i128); 7] = [
    ("autodb_idle_timeout", 60_000),
    ("client_login_timeout", 1000),
    ("connect_timeout", 1000),
    ("idle_timeout", 60_000),
    ("query_wait_timeout", 1000),
    ("reserve_pool_timeout", 1000),
    ("server_lifetime", 60_000),
];

const NAMES: &[(&[&str], &str)] = &[
    (
        &["databases"],
        "write a table [pools.NAME] for each database",
    ),
    (&["pgbouncer"], "write [general]"),
    (&["listen_addr"], "write `host` in [general]"),
    (&["listen_port"], "write `port` in [general]"),
    (&["max_client_conn"], "write `max_connections` in [general]"),
    (&["default_pool_size"], "write `pool_size` in [general]"),
    (
        &["server_idle_timeout"],
        "write `idle_timeout`, with a unit (\"600s\")",
    ),
    (
        &["server_connect_timeout", "server_login_retry"],
        "write `connect_timeout`, with a unit (\"15s\")",
    ),
    (
        &[
            "server_check_delay",
            "server_check_query",
            "healthcheck_delay",
            "healthcheck_timeout",
        ],
        "write `server_idle_check_timeout`, with a unit (\"30s\")",
    ),
    (&["dbname"], "write `server_database` in [pools.NAME]"),
    (
        &["auth_type", "auth_hba_file"],
        "write `pg_hba = { path = \"FILE\" }` in [general]",
    ),
    (
        &["auth_ident_file"],
        "write `pg_ident = { path = \"FILE\" }` in [general]",
    ),
    (
        &["auth_user"],
        "write `user` in [general.auth_query] or [pools.NAME.auth_query]",
    ),
    (
        &["auth_dbname"],
        "write `database` in [general.auth_query] or [pools.NAME.auth_query]",
    ),
    (
        &["admin_users"],
        "write `admin_username` and `admin_password` in [general]",
    ),
    (
        &["stats_users"],
        "write `stats_username` and `stats_password` in [general]",
    ),
    (
        &["max_prepared_statements"],
        "write `server_prepared_statements_cache_size`; 0 there keeps none",
    ),
    (
        &["server_reset_query", "server_reset_query_always"],
        "it is not needed: what a client leaves behind is undone",
    ),
    (
        &["ignore_startup_parameters", "track_extra_parameters"],
        "it is not needed: every startup parameter is kept",
    ),
    (&["client_tls_sslmode"], "write `tls_mode`"),
    (&["client_tls_key_file"], "write `tls_private_key`"),
    (&["client_tls_cert_file"], "write `tls_certificate`"),
    (&["client_tls_ca_file"], "write `tls_ca_cert`"),
    (&["server_tls_sslmode"], "write `server_tls_mode`"),
    (&["server_tls_key_file"], "write `server_tls_private_key`"),
    (&["server_tls_cert_file"], "write `server_tls_certificate`"),
    (&["server_tls_ca_file"], "write `server_tls_ca_cert`"),
    (&["logfile"], "write `log_file` in [general]"),
    (&["pidfile"], "write `daemon_pid_file` in [general]"),
    (
        &["syslog", "syslog_ident"],
        "write `syslog_prog_name` in [general]",
    ),
    (&["log_connections"], "write `log_client_connections`"),
    (&["log_disconnections"], "write `log_client_disconnections`"),
    (
        &["tcp_keepalive", "tcp_keepidle"],
        "write `tcp_keepalives_idle`",
    ),
    (&["tcp_keepintvl"], "write `tcp_keepalives_interval`"),
    (&["tcp_keepcnt"], "write `tcp_keepalives_count`"),
    (
        &["server_round_robin_lifo", "server_fast_close"],
        "there is nothing like it here",
    ),
    (
        &["shards", "database", "servers"],
        "write `server_host`, `server_port` and `server_database` in [pools.NAME]",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys;

    #[test]
    fn no_setting_of_ours_is_taken_for_one_of_another_pooler() {
        for (_, definitions) in keys::TABLES {
            for definition in *definitions {
                let own = definition.name;
                let elsewhere = ["database", "databases"].contains(&own);
                assert!(hint(own).is_none() || elsewhere, "{own}");
            }
        }
    }

    #[test]
    fn names_of_other_poolers_are_known_in_any_case() {
        assert_eq!(hint("LISTEN_ADDR"), Some("write `host` in [general]"));
        assert_eq!(hint("port"), None);
    }
}

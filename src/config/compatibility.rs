//! The settings of the async pg_doorman that have no effect here.
//!
//! An existing file may have them, with any value, in any table; its operator is told why they do nothing. Only names
//! of the async pg_doorman stand here: those of other poolers are in `foreign`.

/// Why a setting has no effect, if it is one of these.
pub(super) fn no_effect(name: &str) -> Option<&'static str> {
    let mut all = WITHOUT_EFFECT.iter();
    all.find(|(_, names)| names.contains(&name))
        .map(|(reason, _)| *reason)
}

/// The reason, and the settings without effect for this reason.
pub(super) const WITHOUT_EFFECT: &[(&str, &[&str])] = &[
    (
        "there is no async runtime here, each client has a thread",
        &[
            "worker_threads",
            "worker_cpu_affinity_pinning",
            "worker_stack_size",
            "max_blocking_threads",
            "tokio_global_queue_interval",
            "tokio_event_interval",
        ],
    ),
    (
        "there is no fallback to Patroni members",
        &[
            "patroni_api_urls",
            "fallback_cooldown",
            "patroni_api_timeout",
            "fallback_connect_timeout",
            "fallback_lifetime",
        ],
    ),
    (
        "a client has one unnamed statement, as in PostgreSQL",
        &[
            "client_anonymous_prepared_cache_size",
            "client_prepared_statements_cache_size",
        ],
    ),
    (
        "unused statements are forgotten by prepared_statements_cache_size",
        &[
            "query_interner_gc_interval_seconds",
            "query_interner_anon_idle_ttl_seconds",
        ],
    ),
    (
        "a waiting client gets the next free connection in strict order",
        &["scaling_warm_pool_ratio", "scaling_fast_retries"],
    ),
    (
        "clients' parameters are always in effect",
        &["sync_server_parameters"],
    ),
    (
        "large messages are always passed on in pieces",
        &["message_size_to_be_stream"],
    ),
    (
        "there is no web interface",
        &[
            "ui",
            "ui_anonymous",
            "log_tap_max_entries",
            "sso_enabled",
            "sso_proxy_url",
            "sso_public_key_file",
            "sso_audience",
            "sso_allowed_users",
            "trusted_proxies",
            "sso_groups_claim",
            "sso_admin_groups",
            "sso_require_https",
        ],
    ),
];

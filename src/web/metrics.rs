//! The text of `GET /metrics`, in Prometheus' format 0.0.4.
//!
//! Does not look at sessions. Invariant: each family has one header, and its samples follow at once.

use std::fmt::{Display, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::pool::pool::{Pool, Snapshot};
use crate::session::shared::Shared;

/// A pool, and its state at the time of the scrape.
type Row = (Arc<Pool>, Snapshot);

/// Name, type, help, and the value for one pool.
type Family = (
    &'static str,
    &'static str,
    &'static str,
    fn(&Snapshot) -> u64,
);

/// The families with one sample for each pool.
const OF_POOLS: [Family; 11] = [
    ("pool_size", "gauge", "Configured size", |now| {
        now.config.size as u64
    }),
    ("pools_paused", "gauge", "1 if PAUSE is in force", |now| {
        u64::from(now.paused)
    }),
    (
        "pools_maxwait_microseconds",
        "gauge",
        "Longest wait in the queue now",
        |now| micros(now),
    ),
    ("pools_queries_count", "gauge", "Queries so far", |now| {
        now.totals.all.queries
    }),
    ("pools_queries_total", "counter", "Queries so far", |now| {
        now.totals.all.queries
    }),
    (
        "pools_queries_total_time",
        "gauge",
        "Milliseconds in queries",
        |now| now.totals.all.query_micros / 1000,
    ),
    (
        "pools_transactions_count",
        "gauge",
        "Transactions so far",
        |now| now.totals.all.transactions,
    ),
    (
        "pools_transactions_total",
        "counter",
        "Transactions so far",
        |now| now.totals.all.transactions,
    ),
    (
        "pools_transactions_total_time",
        "gauge",
        "Milliseconds in transactions",
        |now| now.totals.all.transaction_micros / 1000,
    ),
    (
        "pools_avg_wait_time",
        "gauge",
        "Average wait in milliseconds in the last period",
        |now| now.totals.recent.wait_micros / 1000,
    ),
    (
        "pools_server_errors_total",
        "counter",
        "ErrorResponses from PostgreSQL",
        |now| now.totals.all.errors,
    ),
];

fn micros(now: &Snapshot) -> u64 {
    u64::try_from(now.longest_wait.as_micros()).unwrap_or(u64::MAX)
}

/// The text.
pub fn text(shared: &Shared) -> String {
    let mut out = String::new();
    head(&mut out, "build_info", "gauge", "Version of the pooler");
    sample(
        &mut out,
        "build_info",
        &[("version", env!("CARGO_PKG_VERSION"))],
        1,
    );
    let counters = &shared.accept_counters;
    let types = [
        ("plain", &counters.plain),
        ("tls", &counters.tls),
        ("cancel", &counters.cancel),
        ("total", &counters.total),
    ];
    for (name, kind) in [
        ("connection_count", "gauge"),
        ("connections_total", "counter"),
    ] {
        head(&mut out, name, kind, "Accepted connections by type");
        for (label, count) in types {
            sample(
                &mut out,
                name,
                &[("type", label)],
                count.load(Ordering::Relaxed),
            );
        }
    }
    head(
        &mut out,
        "sessions",
        "gauge",
        "Clients that have logged in, the console's included",
    );
    sample(&mut out, "sessions", &[], shared.sessions.len());
    let rows: Vec<Row> = (shared.pools.all().into_iter())
        .map(|pool| (Arc::clone(&pool), pool.snapshot()))
        .collect();
    for (name, kind, help, value) in OF_POOLS {
        head(&mut out, name, kind, help);
        for (pool, now) in &rows {
            of_pool(&mut out, name, None, pool, value(now));
        }
    }
    head(&mut out, "pools_clients", "gauge", "Clients by state");
    for (pool, now) in &rows {
        of_pool(
            &mut out,
            "pools_clients",
            Some(("status", "waiting")),
            pool,
            now.waiting as u64,
        );
        of_pool(
            &mut out,
            "pools_clients",
            Some(("status", "active")),
            pool,
            now.in_use as u64,
        );
    }
    head(
        &mut out,
        "pools_servers",
        "gauge",
        "Server connections by state",
    );
    for (pool, now) in &rows {
        of_pool(
            &mut out,
            "pools_servers",
            Some(("status", "active")),
            pool,
            now.in_use as u64,
        );
        of_pool(
            &mut out,
            "pools_servers",
            Some(("status", "idle")),
            pool,
            now.idle as u64,
        );
    }
    for (name, kind) in [("pools_bytes", "gauge"), ("pools_bytes_total", "counter")] {
        head(
            &mut out,
            name,
            kind,
            "Bytes from (received) and to (sent) PostgreSQL",
        );
        for (pool, now) in &rows {
            let all = &now.totals.all;
            of_pool(
                &mut out,
                name,
                Some(("direction", "received")),
                pool,
                all.received,
            );
            of_pool(&mut out, name, Some(("direction", "sent")), pool, all.sent);
        }
    }
    out
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(
        out,
        "# HELP pg_doorman_{name} {help}\n# TYPE pg_doorman_{name} {kind}"
    );
}

fn of_pool(out: &mut String, name: &str, more: Option<(&str, &str)>, pool: &Pool, value: u64) {
    let mut labels = vec![
        ("user", pool.user.as_str()),
        ("database", pool.database.as_str()),
    ];
    labels.extend(more);
    sample(out, name, &labels, value);
}

fn sample(out: &mut String, name: &str, labels: &[(&str, &str)], value: impl Display) {
    let _ = write!(out, "pg_doorman_{name}");
    for (n, (label, text)) in labels.iter().enumerate() {
        let before = if n == 0 { '{' } else { ',' };
        let _ = write!(out, "{before}{label}=\"{}\"", escape(text));
    }
    let end = if labels.is_empty() { "" } else { "}" };
    let _ = writeln!(out, "{end} {value}");
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut out = String::new();
        sample(&mut out, "x", &[("user", "a\"b\\c\nd"), ("type", "e")], 7);
        assert_eq!(out, "pg_doorman_x{user=\"a\\\"b\\\\c\\nd\",type=\"e\"} 7\n");
    }
}

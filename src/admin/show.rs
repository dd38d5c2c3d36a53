//! What the console shows: one function for each SHOW, each a table of what the registries hold.
//!
//! Column names and their order are those dashboards know; they are never changed, only added to.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::show_hba;
use super::table::Table;
use crate::config;
use crate::pool::pool::{Pool, Snapshot};
use crate::pool::pool_config::PoolConfig;
use crate::pool::totals::{Counters, Shortage};
use crate::server::backend::BackendKey;
use crate::session::registry::{Activity, Handle};
use crate::session::shared::Shared;
use crate::tls::suite::Negotiated;

/// What makes a table.
type Show = fn(&Shared) -> Table;

/// The words after SHOW, with what they show.
const SHOWS: [(&str, Show); 14] = [
    ("help", help),
    ("config", config),
    ("databases", databases),
    ("pools", pools),
    ("clients", clients),
    ("servers", servers),
    ("connections", connections),
    ("stats", stats),
    ("version", version),
    ("users", users),
    ("lists", lists),
    ("pool_coordinator", pool_coordinator),
    ("auth_query", auth_query),
    ("hba", show_hba::hba),
];

/// The table for `SHOW what` (lower case); `None` if there is no such thing.
pub fn show(shared: &Shared, what: &str) -> Option<Table> {
    SHOWS
        .iter()
        .find(|(word, _)| *word == what)
        .map(|(_, table)| table(shared))
}

fn help(_: &Shared) -> Table {
    let mut table = Table::new("item");
    let shows: Vec<String> = SHOWS[1..]
        .iter()
        .map(|(word, _)| word.to_ascii_uppercase())
        .collect();
    for line in [
        format!("SHOW HELP|LOG_LEVEL|{}", shows.join("|")),
        "SET log_level = '<filter>'".to_owned(),
        "RELOAD".to_owned(),
        "PAUSE [<db>]".to_owned(),
        "RESUME [<db>]".to_owned(),
        "RECONNECT [<db>]".to_owned(),
        "SHUTDOWN".to_owned(),
        "UPGRADE".to_owned(),
    ] {
        table.row(vec![line]);
    }
    table
}

fn config(shared: &Shared) -> Table {
    let mut table = Table::new("key value default changeable");
    for row in config::show(&shared.settings()) {
        let changeable = if row.changeable { "yes" } else { "no" };
        table.row(vec![row.key, row.value, row.default, changeable.to_owned()]);
    }
    table
}

fn databases(shared: &Shared) -> Table {
    let mut table = Table::new(
        "name host port database force_user int4: pool_size min_pool_size reserve_pool text: \
         pool_mode int4: max_connections current_connections",
    );
    for pool in shared.pools.all() {
        let now = pool.snapshot();
        let config = &now.config;
        table.row(vec![
            pool.database.clone(),
            config.host.clone(),
            config.port.to_string(),
            config.server_database.clone(),
            pool.user.clone(),
            config.size.to_string(),
            config.min_size.to_string(),
            "0".to_owned(),
            config.mode.word().to_owned(),
            config.size.to_string(),
            (now.idle + now.in_use).to_string(),
        ]);
    }
    table
}

/// The sessions of one pool, counted by what they do.
#[derive(Default)]
struct Clients {
    idle: usize,
    active: usize,
    waiting: usize,
    oldest_active: u128,
}

fn clients_of(sessions: &[Arc<Handle>], pool: &Pool) -> Clients {
    let mut count = Clients::default();
    for handle in sessions {
        if handle.info.console
            || handle.info.user != pool.user
            || handle.info.database != pool.database
        {
            continue;
        }
        match handle.activity() {
            Activity::Idle | Activity::Login => count.idle += 1,
            Activity::Active => {
                count.active += 1;
                let age = handle.active_for().as_millis();
                count.oldest_active = count.oldest_active.max(age);
            }
            Activity::Waiting => count.waiting += 1,
        }
    }
    count
}

fn pools(shared: &Shared) -> Table {
    let mut table = Table::new(
        "database user pool_mode numeric: cl_idle cl_active cl_waiting cl_cancel_req \
         sv_active sv_idle sv_used sv_login pool_size maxwait maxwait_us avg_xact_time text: \
         paused fallback_active numeric: oldest_active_age_ms",
    );
    let sessions = shared.sessions.all();
    for pool in shared.pools.all() {
        let now = pool.snapshot();
        let clients = clients_of(&sessions, &pool);
        let wait = now.longest_wait;
        table.row(vec![
            pool.database.clone(),
            pool.user.clone(),
            now.config.mode.word().to_owned(),
            clients.idle.to_string(),
            clients.active.to_string(),
            // Clients in login wait as well.
            clients.waiting.max(now.waiting).to_string(),
            "0".to_owned(),
            now.in_use.to_string(),
            now.idle.to_string(),
            "0".to_owned(),
            now.connecting.to_string(),
            now.config.size.to_string(),
            wait.as_secs().to_string(),
            wait.subsec_micros().to_string(),
            now.totals.recent.transaction_micros.to_string(),
            u8::from(now.paused).to_string(),
            "0".to_owned(),
            clients.oldest_active.to_string(),
        ]);
    }
    table
}

fn clients(shared: &Shared) -> Table {
    let mut table = Table::new(
        "client_id database user application_name addr tls state wait numeric: \
         transaction_count query_count error_count age_seconds text: tls_version tls_cipher thread",
    );
    for handle in shared.sessions.all() {
        let (state, wait) = match handle.activity() {
            Activity::Active => ("active", "idle"),
            Activity::Waiting => ("waiting", "idle"),
            Activity::Idle | Activity::Login => ("idle", "read"),
        };
        table.row(vec![
            format!("#c{}", handle.info.id),
            handle.info.database.clone(),
            handle.info.user.clone(),
            String::from_utf8_lossy(&handle.info.application_name).into_owned(),
            handle.info.address.to_string(),
            handle.info.tls.is_some().to_string(),
            state.to_owned(),
            wait.to_owned(),
            handle.transactions.get().to_string(),
            handle.queries.get().to_string(),
            handle.errors.get().to_string(),
            handle.info.connected_at.elapsed().as_secs().to_string(),
            tls_version(handle.info.tls.as_ref()),
            tls_suite(handle.info.tls.as_ref()),
            handle.thread_name(),
        ]);
    }
    table
}

fn tls_version(tls: Option<&Negotiated>) -> String {
    tls.map_or("", |tls| tls.version.name()).to_owned()
}

fn tls_suite(tls: Option<&Negotiated>) -> String {
    tls.map_or("", |tls| &tls.suite).to_owned()
}

fn servers(shared: &Shared) -> Table {
    let mut table = Table::new(
        "server_id server_process_id database_name user application_name tls state wait \
         numeric: transaction_count query_count bytes_sent bytes_received age_seconds \
         prepare_cache_hit prepare_cache_miss prepare_cache_size text: tls_version tls_cipher",
    );
    let mut row = |key: &BackendKey, database: &str, user: &str, name: &[u8], state: &str| {
        let tally = &key.tally;
        let mut values = vec![
            format!("0x{:08X}", key.id),
            key.process_id.to_string(),
            database.to_owned(),
            user.to_owned(),
            String::from_utf8_lossy(name).into_owned(),
            key.tls.is_some().to_string(),
            state.to_owned(),
            if state == "idle" { "idle" } else { "read" }.to_owned(),
        ];
        let (hits, misses) = (tally.prepared_hits.get(), tally.prepared_misses.get());
        let numbers = [
            tally.transactions.get(),
            tally.queries.get(),
            tally.bytes_sent.get(),
            tally.bytes_received.get(),
            key.connected_at.elapsed().as_secs(),
            hits,
            misses,
            tally.prepared_held.get(),
        ];
        values.extend(numbers.map(|n| n.to_string()));
        values.push(tls_version(key.tls.as_ref()));
        values.push(tls_suite(key.tls.as_ref()));
        table.row(values);
    };
    for pool in shared.pools.all() {
        pool.for_each_idle(|connection| {
            let backend = &connection.backend;
            let name = backend.reported.get("application_name").unwrap_or_default();
            row(&backend.key, &pool.database, &pool.user, name, "idle");
        });
    }
    for handle in shared.sessions.all() {
        if let Some(key) = handle.running_on() {
            let name = &handle.info.application_name;
            row(
                &key,
                &handle.info.database,
                &handle.info.user,
                name,
                "active",
            );
        }
    }
    table
}

fn connections(shared: &Shared) -> Table {
    let mut table = Table::new("numeric: total errors tls plain cancel");
    let accept_counters = &shared.accept_counters;
    let [total, tls, plain, cancel] = [
        &accept_counters.total,
        &accept_counters.tls,
        &accept_counters.plain,
        &accept_counters.cancel,
    ]
    .map(|count| count.load(Ordering::Relaxed));
    let errors = total.saturating_sub(tls + plain + cancel);
    table.row(
        [total, errors, tls, plain, cancel]
            .map(|n| n.to_string())
            .to_vec(),
    );
    table
}

fn stats(shared: &Shared) -> Table {
    let mut table = Table::new(
        "database user numeric: total_xact_count total_query_count total_received total_sent \
         total_xact_time total_query_time total_wait_time total_errors avg_xact_count \
         avg_query_count avg_recv avg_sent avg_errors avg_xact_time avg_query_time \
         avg_wait_time",
    );
    for pool in shared.pools.all() {
        let Snapshot { totals, .. } = pool.snapshot();
        let (all, recent): (Counters, Counters) = (totals.all, totals.recent);
        let mut row = vec![pool.database.clone(), pool.user.clone()];
        let numbers = [
            all.transactions,
            all.queries,
            all.received,
            all.sent,
            all.transaction_micros,
            all.query_micros,
            all.wait_micros,
            all.errors,
            recent.transactions,
            recent.queries,
            recent.received,
            recent.sent,
            recent.errors,
            recent.transaction_micros,
            recent.query_micros,
            recent.wait_micros,
        ];
        row.extend(numbers.map(|n| n.to_string()));
        table.row(row);
    }
    table
}

fn version(_: &Shared) -> Table {
    let mut table = Table::new("version");
    table.row(vec![format!("PgDoorman {}", env!("CARGO_PKG_VERSION"))]);
    table
}

fn users(shared: &Shared) -> Table {
    let mut table = Table::new("name pool_mode");
    for pool in shared.pools.all() {
        let config: Arc<PoolConfig> = pool.config();
        table.row(vec![pool.user.clone(), config.mode.word().to_owned()]);
    }
    table
}

fn lists(shared: &Shared) -> Table {
    let mut table = Table::new("list int4: items");
    let pools = shared.pools.all();
    let sessions = shared.sessions.all();
    let (mut free, mut used) = (0, 0);
    for pool in &pools {
        let now = pool.snapshot();
        free += now.idle;
        used += now.in_use;
    }
    let busy = sessions
        .iter()
        .filter(|handle| matches!(handle.activity(), Activity::Active | Activity::Waiting))
        .count();
    // The console counts as a database, a user and a pool.
    let rows = [
        ("databases", pools.len() + 1),
        ("users", pools.len() + 1),
        ("pools", pools.len() + 1),
        ("free_clients", sessions.len() - busy),
        ("used_clients", busy),
        ("login_clients", shared.logins()),
        ("free_servers", free),
        ("used_servers", used),
        ("dns_names", 0),
        ("dns_zones", 0),
        ("dns_queries", 0),
        ("dns_pending", 0),
    ];
    for (list, items) in rows {
        table.row(vec![list.to_owned(), items.to_string()]);
    }
    table
}

/// The databases whose users share a number of connections (`max_db_connections`).
fn pool_coordinator(shared: &Shared) -> Table {
    let mut table = Table::new(
        "database numeric: max_db_conn current reserve_size reserve_used evictions \
         reserve_acq exhaustions",
    );
    let pools = shared.pools.all();
    // Those of one database stand together.
    for users in pools.chunk_by(|one, next| one.database == next.database) {
        let mut shortage = Shortage::default();
        for pool in users {
            shortage.add(&pool.snapshot().totals.shortage);
        }
        let Some(limit) = users[0].config().database_limit else {
            continue;
        };
        let taken = users[0].permits_taken();
        let mut values = vec![users[0].database.clone()];
        let numbers = [
            limit.most,
            taken,
            limit.reserve,
            taken.saturating_sub(limit.most),
        ];
        values.extend(numbers.map(|n| n.to_string()));
        let counts = [
            shortage.evictions,
            shortage.of_reserve,
            shortage.exhaustions,
        ];
        values.extend(counts.map(|n| n.to_string()));
        table.row(values);
    }
    table
}

fn auth_query(shared: &Shared) -> Table {
    let mut table = Table::new(
        "database numeric: cache_entries cache_hits cache_misses cache_refetches cache_rate_limited \
         auth_success auth_failure executor_queries executor_errors dynamic_pools_current \
         dynamic_pools_created dynamic_pools_destroyed",
    );
    for (name, lookup) in shared.lookups.all() {
        let counts = &lookup.counts;
        let counted = [
            &counts.hits,
            &counts.misses,
            &counts.refetches,
            &counts.rate_limited,
            &counts.successes,
            &counts.failures,
            &counts.queries,
            &counts.errors,
        ];
        let (current, pools) = shared.pools.found(&name);
        let mut row = vec![name, lookup.remembered().to_string()];
        row.extend(counted.map(|count| count.load(Ordering::Relaxed).to_string()));
        row.push(current.to_string());
        row.push(pools.created.to_string());
        row.push(pools.destroyed.to_string());
        table.row(row);
    }
    table
}

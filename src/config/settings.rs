//! The configuration as meant: every value checked, every override resolved.
//!
//! Reads the document's tables by their definitions and makes the checks that
//! need more than one key. The invariant: a [`Settings`] that exists is right as
//! a whole; whatever is wrong anywhere has been told, all of it, and there is
//! none.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::access;
use super::clear_text;
use super::duration;
use super::foreign;
use super::keys::auth_query::AuthQuery;
use super::keys::general::General;
use super::keys::include::Include;
use super::keys::pool::Pool;
use super::keys::upgrade::Upgrade;
use super::keys::user::User;
use super::keys::web::Web;
use super::nearest::nearest;
use super::problem::{Place, Report, Warning, quote, word};
use super::raw::{Document, Node, Table, Tree};
use super::reader::{self, Reader};
use super::startup::{self, Parameters};
use super::tls_modes;
use super::token_key::TokenSigner;
use super::userlist;

/// The name of the pool that serves every database without a pool of its own.
pub const ANY_DATABASE: &str = "*";

/// The whole configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The main file.
    pub path: PathBuf,
    /// `[general]`.
    pub general: General,
    /// `[pools.NAME]`, by the name clients use as database.
    pub pools: BTreeMap<String, Pool>,
    /// `[web]`.
    pub web: Web,
    /// `[upgrade]`.
    pub upgrade: Upgrade,
    /// What to tell the operator, in the order of the file.
    pub warnings: Vec<Warning>,
    /// What to tell when the configuration is only tested.
    pub notes: Vec<Warning>,
}

impl Settings {
    /// The pool that serves this database: its own, or that of any database.
    pub fn serving(&self, database: &str) -> Option<&Pool> {
        (self.pools.get(database))
            .filter(|pool| !pool.is_for_any_database())
            .or_else(|| self.pools.get(ANY_DATABASE))
    }
}

impl Pool {
    /// Whether it serves every database without a pool of its own.
    pub fn is_for_any_database(&self) -> bool {
        self.name == ANY_DATABASE
    }
}

const TOP: [&str; 7] = [
    "general",
    "pools",
    "web",
    "prometheus",
    "upgrade",
    "include",
    "talos",
];

/// Reads every table. `warnings` is left empty: the report holds them.
pub(super) fn build(document: &Document, path: &Path, report: &mut Report) -> Settings {
    tell_unknown_tables(document, report);
    let empty = Table::new();
    let none = (&empty, &document.top);

    let general = match table(document, "general", report) {
        Some((table, place)) => general(table, place, report),
        None => {
            if !document.root.contains_key("general") {
                report.fail(&document.top, "general", "the table [general] is missing");
            }
            // Its defaults serve the tables that inherit from it; what is missing in
            // it is already told.
            self::general(&empty, &document.top, &mut Report::default())
        }
    };
    let shared = document
        .root
        .get("general")
        .and_then(|node| match &node.tree {
            Tree::Table(table) => table.get("auth_query"),
            _ => None,
        });
    let mut pools = BTreeMap::new();
    match table(document, "pools", report) {
        Some((tables, _)) => {
            for (name, node) in tables {
                let path = format!("pools.{}", word(name));
                if let Some(table) = as_table(node, &path, report) {
                    pools.insert(
                        name.clone(),
                        pool(name, table, node, &general, shared, report),
                    );
                }
            }
        }
        None => {
            if !document.root.contains_key("pools") {
                report.fail(
                    &document.top,
                    "pools",
                    "the table [pools] is missing; it may be empty",
                );
            }
        }
    }
    for (name, pool) in &pools {
        if let Some(text) = clear_text::users(&general, pool) {
            report.warn(&document.top, format!("pools.{}.users", word(name)), text);
        }
    }
    let (web, place) = web_table(document, report).unwrap_or(none);
    let mut reader = Reader::new(web, Web::KEYS, "web", place, report);
    let web = Web::read(&mut reader, &());
    if web.enabled && !reader.has("host") {
        reader.warn(
            "host",
            "is not set, so metrics are served on 127.0.0.1 only; the async pg_doorman served them on 0.0.0.0",
        );
    }
    let (upgrade, place) = table(document, "upgrade", report).unwrap_or(none);
    let upgrade = Upgrade::read(
        &mut Reader::new(upgrade, Upgrade::KEYS, "upgrade", place, report),
        &(),
    );
    if let Some((include, place)) = table(document, "include", report) {
        Include::read(
            &mut Reader::new(include, Include::KEYS, "include", place, report),
            &(),
        );
    }
    if let Some((_, place)) = table(document, "talos", report) {
        report.warn(
            place,
            "talos",
            "has no effect: there is no Talos authentication here",
        );
    }
    Settings {
        path: path.into(),
        general,
        pools,
        web,
        upgrade,
        warnings: Vec::new(),
        notes: Vec::new(),
    }
}

fn tell_unknown_tables(document: &Document, report: &mut Report) {
    for (name, node) in &document.root {
        if !TOP.contains(&name.as_str()) {
            let text = match nearest(name, TOP).filter(|_| foreign::hint(name).is_none()) {
                Some(near) => format!("unknown table, ignored; did you mean `{near}`?"),
                None => reader::unknown(name, &[]),
            };
            report.warn(&node.place, word(name), text);
        }
    }
}

fn table<'a>(
    document: &'a Document,
    name: &str,
    report: &mut Report,
) -> Option<(&'a Table, &'a Place)> {
    let node = document.root.get(name)?;
    Some((as_table(node, name, report)?, &node.place))
}

fn as_table<'a>(node: &'a Node, path: &str, report: &mut Report) -> Option<&'a Table> {
    if let Tree::Table(table) = &node.tree {
        return Some(table);
    }
    report.fail(
        &node.place,
        path,
        format!("expected a table, found {}", node.tree.describe()),
    );
    None
}

/// `[web]`, or its old name.
fn web_table<'a>(document: &'a Document, report: &mut Report) -> Option<(&'a Table, &'a Place)> {
    if let Some(old) = document.root.get("prometheus") {
        if document.root.contains_key("web") {
            report.fail(
                &old.place,
                "prometheus",
                "is the old name of [web], which is there too; write one",
            );
        } else {
            report.warn(&old.place, "prometheus", "is an old name; write [web]");
            return table(document, "prometheus", report);
        }
    }
    table(document, "web", report)
}

fn general(table: &Table, place: &Place, report: &mut Report) -> General {
    let mut reader = Reader::new(table, General::KEYS, "general", place, report);
    let mut general = General::read(&mut reader, &());
    general.hba = access::read(&mut reader, &general);
    general.file_users = Arc::new(userlist::read(&mut reader, &general));
    general.startup_parameters = startup::read(&mut reader);
    if general.host.is_empty() && general.unix_socket_dir.is_none() {
        reader.fail(
            "host",
            "is empty and unix_socket_dir is not set, so nobody could connect",
        );
    }
    if general.log_file.is_some() && general.syslog_prog_name.is_some() {
        reader.warn("syslog_prog_name", "has no effect: `log_file` is set too");
    }
    if general.admin_password.is_empty() && reader.has("admin_password") {
        reader.warn(
            "admin_password",
            "is empty: the administrator can enter the console only by a rule of pg_hba that names it",
        );
    }
    match (&general.stats_username, &general.stats_password) {
        (Some(name), _) if *name == general.admin_username => {
            reader.fail(
                "stats_username",
                "is the administrator's name; write another",
            );
        }
        (Some(_), None) => reader.fail(
            "stats_username",
            "is set but stats_password is not, so this user could not log in",
        ),
        (None, Some(_)) => reader.warn("stats_password", "is set but stats_username is not"),
        _ => {}
    }
    if general.prepared_statements && general.prepared_statements_cache_size == 0 {
        reader.fail("prepared_statements_cache_size", NO_CACHE);
    }
    if general
        .tcp_socket_buffer_size
        .is_some_and(|size| size < 65_536)
    {
        reader.warn(
            "tcp_socket_buffer_size",
            "is very small; less than 64KB costs throughput",
        );
    }
    match general.tls_rate_limit_per_second {
        Some(limit) if limit < 100 => {
            reader.fail(
                "tls_rate_limit_per_second",
                "tls rate limit should be > 100",
            );
        }
        Some(limit) if limit % 100 != 0 => {
            reader.fail(
                "tls_rate_limit_per_second",
                "tls rate limit should be multiple 100",
            );
        }
        _ => {}
    }
    general.client_tls = tls_modes::clients(&mut reader, &general);
    access::check_rules(&mut reader, &general);
    general.server_tls = tls_modes::servers(&mut reader, &general);
    general
}

/// `shared` is `[general.auth_query]`.
fn pool(
    name: &str,
    table: &Table,
    node: &Node,
    general: &General,
    shared: Option<&Node>,
    report: &mut Report,
) -> Pool {
    let path = format!("pools.{}", word(name));
    let mut reader = Reader::new(table, Pool::KEYS, path.as_str(), &node.place, report);
    let mut pool = Pool::read(&mut reader, general);
    pool.name = name.into();
    if pool.server_database.is_empty() && name != ANY_DATABASE {
        pool.server_database = name.into();
    }
    pool.query_wait_timeout = match general.query_wait_timeout {
        // As in PgBouncer.
        Duration::ZERO => duration::MAX_LENGTH,
        limit => limit,
    };
    pool.server_idle_check_timeout = general.server_idle_check_timeout;
    pool.server_round_robin = general.server_round_robin;
    pool.max_concurrent_creates = general
        .max_concurrent_creates
        .min(general.scaling_max_parallel_creates);

    if name.is_empty() || name.contains('\0') {
        reader
            .report
            .fail(&node.place, &path, "is not the name of a database");
    }
    if name == "pgdoorman" || name == "pgbouncer" {
        let text = "cannot be reached: this database name belongs to the console";
        reader.report.warn(&node.place, &path, text);
    }
    if let Some(why) = not_a_host(&pool.server_host) {
        reader.fail("server_host", why);
    }
    pool.server_tls = tls_modes::servers_of_pool(&mut reader, &pool, general);
    let own = startup::read(&mut reader);
    pool.startup_parameters = startup::merge(&mut reader, &general.startup_parameters, own);
    if let Some(node) = reader.node("users") {
        pool.users = users(&path, node, &pool, reader.report);
    }
    pool.auth_query = match (reader.node("auth_query"), shared) {
        (Some(node), _) => auth_query(&path, node, &pool, reader.report),
        (None, Some(node)) => auth_query("general", node, &pool, reader.report),
        (None, None) => None,
    };
    if pool.users.is_empty()
        && pool.auth_query.is_none()
        && general.file_users.is_empty()
        && !reader.has("users")
    {
        let text = "has no users and no auth_query, so nobody can log in; write a table \
                    [[pools.NAME.users]] or [pools.NAME.auth_query]";
        reader.report.warn(&node.place, &path, text);
    }
    if name == ANY_DATABASE {
        any_database(&mut reader, &pool);
    }
    limits(&mut reader, &pool, general);
    pool
}

/// What has to hold for the pool that serves every database without one of its own.
fn any_database(reader: &mut Reader<'_>, pool: &Pool) {
    match &pool.auth_query {
        Some(found) if found.database.is_empty() => reader.fail(
            "auth_query",
            "needs `database`: a name that a client made up is no database to run the query in",
        ),
        Some(_) | None => {}
    }
    if pool.users.iter().any(|user| user.min_pool_size > 0) {
        reader.warn(
            "users",
            "min_pool_size counts from a user's first login to each database on",
        );
    }
}

/// Why a `server_host` can never be resolved, if it cannot.
fn not_a_host(host: &str) -> Option<&'static str> {
    let is_address = host.parse::<std::net::IpAddr>().is_ok();
    if host.starts_with('/') || is_address {
        None
    } else if host.contains("://") {
        Some("is a URL; write the host here, and the port as server_port")
    } else if host.contains(',') {
        Some("is a list of hosts; a pool has one")
    } else if host.contains(char::is_whitespace) {
        Some("has a blank in it")
    } else if host.starts_with('[') {
        Some("is an address in brackets; write it without them")
    } else if host.contains(':') {
        Some("has a colon in it; write the port as server_port")
    } else {
        None
    }
}

const NO_CACHE: &str = "The value of prepared_statements_cache should be greater than 0 \
                        if prepared_statements are enabled";

fn limits(reader: &mut Reader<'_>, pool: &Pool, general: &General) {
    if general.prepared_statements
        && pool.prepared_statements_cache_size == 0
        && reader.has("prepared_statements_cache_size")
    {
        reader.fail("prepared_statements_cache_size", NO_CACHE);
    }
    let Some(limit) = pool.max_db_connections else {
        return;
    };
    // Saturating, since each of them may be as large as a number can be.
    let kept = pool
        .users
        .iter()
        .fold(0usize, |sum, user| sum.saturating_add(user.min_pool_size));
    if kept > limit {
        reader.fail(
            "max_db_connections",
            format!(
                "sum of min_pool_size ({kept}) exceeds max_db_connections ({limit}); \
                 lower the one or raise the other"
            ),
        );
    }
    if pool.reserve_pool_timeout > pool.query_wait_timeout {
        reader.warn(
            "reserve_pool_timeout",
            "is longer than query_wait_timeout, so it is never reached",
        );
    }
}

fn auth_query(pool_path: &str, node: &Node, pool: &Pool, report: &mut Report) -> Option<AuthQuery> {
    let path = format!("{pool_path}.auth_query");
    let table = as_table(node, &path, report)?;
    let mut reader = Reader::new(table, AuthQuery::KEYS, path, &node.place, report);
    let mut auth_query = AuthQuery::read(&mut reader, pool);
    if auth_query.database.is_empty() {
        auth_query.database = pool.server_database.clone();
    }
    if !auth_query.query.contains("$1") {
        reader.fail(
            "query",
            "has no $1, so it would find the same for every user",
        );
    }
    let logs_in_itself = |name: &String| {
        let mut users = pool.users.iter();
        pool.server_tls_certificate.is_some()
            || users.any(|user| user.server_name() == name && user.server_password.is_some())
    };
    if let (Some(name), None) = (&auth_query.server_user, &auth_query.server_password) {
        if !logs_in_itself(name) {
            reader.fail(
                "server_user",
                "needs server_password; write \"\" if PostgreSQL asks this role for none",
            );
        }
    }
    if auth_query.server_password.is_some() && auth_query.server_user.is_none() {
        reader.fail("server_password", "needs server_user");
    }
    if auth_query.min_pool_size > auth_query.pool_size {
        reader.fail(
            "min_pool_size",
            above_pool_size(auth_query.min_pool_size, auth_query.pool_size),
        );
    }
    Some(auth_query)
}

fn above_pool_size(min: usize, size: usize) -> String {
    format!("min_pool_size ({min}) must not exceed pool_size ({size})")
}

/// The list `[[users]]`, or the older numbered tables `[users.0]`.
fn users(pool_path: &str, node: &Node, pool: &Pool, report: &mut Report) -> Vec<User> {
    let path = format!("{pool_path}.users");
    let mut nodes: Vec<(u64, &Node)> = Vec::new();
    match &node.tree {
        Tree::List(items) => nodes.extend((0..).zip(items)),
        Tree::Table(table) => {
            for (key, node) in table {
                match key.parse() {
                    Ok(number) => nodes.push((number, node)),
                    Err(_) => report.fail(
                        &node.place,
                        format!("{path}.{}", word(key)),
                        "expected a number: users are written as [[...users]], \
                         or as [...users.0], [...users.1]",
                    ),
                }
            }
            nodes.sort_by_key(|(number, _)| *number);
        }
        other => {
            report.fail(
                &node.place,
                path,
                format!("expected a list of tables, found {}", other.describe()),
            );
            return Vec::new();
        }
    }
    let mut names = BTreeSet::new();
    let mut users = Vec::new();
    for (number, node) in nodes {
        let path = format!("{path}.{number}");
        let Some(table) = as_table(node, &path, report) else {
            continue;
        };
        let mut reader = Reader::new(table, User::KEYS, path, &node.place, report);
        let mut user = User::read(&mut reader, pool);
        check_user(&mut reader, &mut user, pool);
        if !user.username.is_empty() && !names.insert(user.username.clone()) {
            let name = quote(&user.username).replace('"', "'");
            reader.fail(
                "username",
                format!("duplicate username {name} in pool users"),
            );
        }
        users.push(user);
    }
    users
}

fn check_user(reader: &mut Reader<'_>, user: &mut User, pool: &Pool) {
    if user.min_pool_size > user.pool_size && user.pool_size > 0 {
        reader.fail(
            "min_pool_size",
            above_pool_size(user.min_pool_size, user.pool_size),
        );
    }
    if user.server_password.is_some() && user.server_username.is_none() {
        reader.fail("server_password", "needs server_username");
    }
    if let Some(path) = user.server_token_key() {
        match TokenSigner::load(Path::new(path)) {
            Ok((signer, told)) => {
                user.server_token = Some(signer);
                if let Some(told) = told {
                    reader.warn("server_password", told);
                }
            }
            Err(why) => reader.fail("server_password", why),
        }
    }
    let parameters: &Parameters = &pool.startup_parameters;
    if !startup::fits(
        parameters,
        user.server_name(),
        &pool.server_database,
        &pool.application_name,
    ) {
        reader.fail(
            "username",
            "with the startup_parameters, this user's startup packet is longer than \
             PostgreSQL accepts (10000 bytes)",
        );
    }
}

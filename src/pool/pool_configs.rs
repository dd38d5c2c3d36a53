//! From the settings to the [`PoolConfig`] of each pool: those that the configuration names, and those of users and
//! databases that are found when a client logs in.

use std::collections::BTreeMap;
use std::time::Duration;

use super::pool_config::{DatabaseLimit, Login, Mode, Origin, PoolConfig, Timeouts};
use super::pools::Key;
use crate::auth::{Password, ServerCredentials, ServerSecret, Verifier};
use crate::config::{self, AuthQuery, FilePassword, General, Pool, PoolMode, Settings, User};
use crate::net::stream::SocketOptions;
use crate::server::server_tls::Encryption;

/// How clients' sockets are set up.
pub fn client_sockets(general: &General) -> SocketOptions {
    let bytes = |size: Option<u64>| usize::try_from(size.unwrap_or(0)).unwrap_or(0);
    SocketOptions {
        no_delay: general.tcp_no_delay,
        keepalive_idle: general.tcp_keepalives_idle,
        keepalive_interval: general.tcp_keepalives_interval,
        keepalive_count: general.tcp_keepalives_count,
        user_timeout: general.tcp_user_timeout,
        // Any other value would make `close` wait in the kernel, and with it all sessions of a set. The pooler itself
        // waits until its last bytes are taken.
        linger: general.tcp_so_linger.filter(Duration::is_zero),
        tcp_buffer: bytes(general.tcp_socket_buffer_size),
        unix_buffer: bytes(general.unix_socket_buffer_size),
    }
}

/// How sockets to PostgreSQL are set up: as those of clients, except that nothing makes them forget the
/// Terminate or the CancelRequest that was sent last.
pub fn server_sockets(general: &General) -> SocketOptions {
    SocketOptions {
        linger: None,
        ..client_sockets(general)
    }
}

/// The configuration of every user of every pool.
pub fn pool_configs(settings: &Settings) -> BTreeMap<Key, PoolConfig> {
    let sockets = server_sockets(&settings.general);
    let mut pool_configs = BTreeMap::new();
    for (database, pool) in &settings.pools {
        if pool.is_for_any_database() {
            continue;
        }
        let encryption = Encryption::new(&pool.server_tls);
        for user in &pool.users {
            let key = (database.clone(), user.username.clone());
            let encryption = encryption.clone();
            let config = config(&settings.general, pool, user, encryption, sockets);
            pool_configs.insert(key, config);
        }
    }
    pool_configs
}

/// The pool for a user or a database that the configuration does not name, whose client has proved who it is.
/// `verifier` is what was found of its password. `None` if the configuration names both, or knows no way to the
/// user.
pub fn found(
    settings: &Settings,
    database: &str,
    user: &str,
    verifier: Option<&Verifier>,
) -> Option<(Key, PoolConfig)> {
    let pool = settings.serving(database)?;
    let any = pool.is_for_any_database();
    let (user, login) = match (pool.user(user), &pool.auth_query) {
        (Some(_), _) if !any => return None,
        (Some(user), _) => (user.clone(), login(pool, user)),
        (None, _) if settings.general.file_users.contains_key(user) => {
            let user = file_user(settings, pool, user)?;
            let login = login(pool, &user);
            (user, login)
        }
        (None, Some(query)) => {
            let found = found_user(pool, query, user);
            let login = match &query.server_user {
                Some(_) => login(pool, &found),
                None => Login::PassThrough {
                    user: user.to_owned(),
                    verifier: verifier?.clone(),
                },
            };
            (found, login)
        }
        (None, None) => return None,
    };
    let general = &settings.general;
    let encryption = Encryption::new(&pool.server_tls);
    let mut config = config(general, pool, &user, encryption, server_sockets(general));
    config.login = login;
    config.origin = Origin::FoundUser;
    if any {
        config.origin = Origin::AnyDatabase;
        if config.server_database.is_empty() {
            config.server_database = database.to_owned();
        }
    }
    Some(((database.to_owned(), user.username), config))
}

/// A user of `auth_file`, as the configuration would name it in this pool.
pub fn file_user(settings: &Settings, pool: &Pool, name: &str) -> Option<User> {
    let (password, server_password) = match settings.general.file_users.get(name)? {
        FilePassword::Stored(password) => (password.clone(), None),
        FilePassword::Plain(text) => (config::Password::Empty, Some(text.clone())),
    };
    Some(User {
        password,
        server_password,
        ..named(pool, name)
    })
}

/// A user that the query has found, as the configuration would name it.
fn found_user(pool: &Pool, query: &AuthQuery, name: &str) -> User {
    User {
        pool_size: query.pool_size,
        min_pool_size: query.min_pool_size,
        server_username: query.server_user.clone(),
        server_password: query.server_password.clone(),
        ..named(pool, query.server_user.as_deref().unwrap_or(name))
    }
}

/// A user of this name, with all that a pool says of its users.
fn named(pool: &Pool, name: &str) -> User {
    User {
        username: name.to_owned(),
        password: config::Password::Empty,
        pool_size: pool.pool_size,
        min_pool_size: 0,
        pool_mode: pool.pool_mode,
        server_username: None,
        server_password: None,
        server_token: None,
        server_lifetime: pool.server_lifetime,
        client_idle_timeout: pool.client_idle_timeout,
        idle_transaction_timeout: pool.idle_transaction_timeout,
        query_timeout: pool.query_timeout,
        transaction_timeout: pool.transaction_timeout,
        auth_pam_service: None,
    }
}

/// The pool of the connections that an `auth_query` runs on.
pub fn of_query(settings: &Settings, pool: &Pool, query: &AuthQuery) -> PoolConfig {
    let general = &settings.general;
    let mut user = found_user(pool, query, &query.user);
    user.pool_mode = PoolMode::Session;
    user.pool_size = query.workers;
    user.min_pool_size = 0;
    let encryption = Encryption::new(&pool.server_tls);
    let mut config = config(general, pool, &user, encryption, server_sockets(general));
    config.login = Login::Given(ServerCredentials {
        user: query.user.clone(),
        secret: match query.password.expose() {
            "" => ServerSecret::None,
            password => ServerSecret::Password(Password::new(password.to_owned())),
        },
    });
    config.server_database = query.database.clone();
    // They come on top: a login must not wait for the clients that have all the connections.
    config.database_limit = None;
    config
}

fn config(
    general: &General,
    pool: &Pool,
    user: &User,
    encryption: Encryption,
    sockets: SocketOptions,
) -> PoolConfig {
    let mode = match user.pool_mode {
        PoolMode::Transaction => Mode::Transaction,
        PoolMode::Session => Mode::Session,
    };
    PoolConfig {
        origin: Origin::Configured,
        size: user.pool_size,
        min_size: user.min_pool_size,
        mode,
        query_wait_timeout: pool.query_wait_timeout,
        timeouts: Timeouts {
            client_idle: user.client_idle_timeout,
            idle_transaction: user.idle_transaction_timeout,
            query: user.query_timeout,
            transaction: user.transaction_timeout,
        },
        idle_timeout: pool.idle_timeout,
        server_lifetime: user.server_lifetime,
        idle_check: pool.server_idle_check_timeout,
        round_robin: pool.server_round_robin,
        database_limit: pool.max_db_connections.map(|most| DatabaseLimit {
            most,
            reserve: pool.reserve_pool_size,
            patience: pool.reserve_pool_timeout,
            min_lifetime: pool.min_connection_lifetime,
            fairness_delay: pool.fairness_delay,
            guaranteed: pool.min_guaranteed_pool_size,
        }),
        parallel_creates: pool.max_concurrent_creates,
        clean: pool.cleanup_server_connections,
        prepared_statements: general.prepared_statements && mode == Mode::Transaction,
        prepared_cache: pool.prepared_statements_cache_size,
        prepared_per_server: pool
            .server_prepared_statements_cache_size
            .unwrap_or(PREPARED_PER_SERVER),
        prepared_bytes_per_server: bytes(general.server_prepared_statements_memory),
        memory_per_client: bytes(general.client_memory_limit),
        prepared_per_client: general.client_prepared_statements_max.unwrap_or(usize::MAX),
        host: pool.server_host.clone(),
        port: pool.server_port,
        server_database: pool.server_database.clone(),
        login: login(pool, user),
        startup_parameters: pool.startup_parameters.clone(),
        application_name: pool.application_name.clone(),
        connect_timeout: pool.connect_timeout,
        encryption,
        sockets,
        check_query: general.pooler_check_query.clone(),
        log_parameter_changes: pool.log_client_parameter_status_changes,
    }
}

fn login(pool: &Pool, user: &User) -> Login {
    // The role that all found users share may be a user itself.
    let shared = pool
        .auth_query
        .as_ref()
        .filter(|query| query.server_user.as_deref() == Some(user.server_name()));
    let shared = shared.and_then(|query| query.server_password.as_ref());
    match user.server_password.as_ref().or(shared) {
        Some(password) => Login::Given(ServerCredentials {
            user: user.server_name().to_owned(),
            secret: match &user.server_token {
                Some(signer) => ServerSecret::TokenKey(signer.clone()),
                None => ServerSecret::Password(Password::new(password.expose().to_owned())),
            },
        }),
        None if user.server_name() == user.username => Login::PassThrough {
            user: user.username.clone(),
            verifier: Verifier::from(&user.password),
        },
        None => Login::Given(ServerCredentials {
            user: user.server_name().to_owned(),
            secret: ServerSecret::None,
        }),
    }
}

/// Statements that a server connection keeps, unless the configuration says otherwise.
const PREPARED_PER_SERVER: usize = 1024;

/// A size in bytes; without one there is no limit.
fn bytes(size: Option<u64>) -> usize {
    size.and_then(|size| usize::try_from(size).ok())
        .unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn linger_is_for_clients_alone() {
        let text = r#"
            [general]
            admin_username = "admin"
            admin_password = "secret"
            tcp_so_linger = 0
            [pools]
        "#;
        let settings = crate::config::parse(text, Path::new("test.toml")).unwrap();
        assert_eq!(
            client_sockets(&settings.general).linger,
            Some(Duration::ZERO)
        );
        assert_eq!(server_sockets(&settings.general).linger, None);
        let text = text.replace("tcp_so_linger = 0", "tcp_so_linger = 5");
        let settings = crate::config::parse(&text, Path::new("test.toml")).unwrap();
        assert_eq!(client_sockets(&settings.general).linger, None);
    }
}

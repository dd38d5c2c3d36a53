//! `[[pools.NAME.users]]`: a user who can log in to a pool.

use super::pool::Pool;
use super::prelude::*;

keys! {
    /// A `[`[pools.NAME.users]]`` table, with what it inherits from its pool filled in.
    pub struct User under Pool {
        group "" {
            /// The name the client logs in with.
            username: String = required("\"app\""), Kind::Name, Live, Works;
            /// The password as PostgreSQL stores it (SELECT rolpassword FROM pg_authid), or
            /// empty for users who log in by trust.
            password: Password = required("\"\""), Kind::Verifier, NewClients, Works;
            /// How many server connections this user may have in this pool.
            pool_size: usize = required("40"), integer(1, MANY), Live, Works;
            /// How many are kept open.
            min_pool_size: usize = is("0"), integer(0, MANY), Live, Works;
            /// As in the pool.
            pool_mode: PoolMode = inherited("pools.NAME.pool_mode", "\"transaction\""),
                Kind::OneOf(PoolMode::WORDS), Live, Works;
            /// The name used at PostgreSQL instead of username.
            server_username: Option<String> = unset("username", "\"app\""),
                Kind::Name, NewServers, Works;
            /// The password used at PostgreSQL, in plain text.
            server_password: Option<Secret> =
                unset("what the client proved is passed on", "\"secret\""),
                Kind::Secret, NewServers, Works;
            /// As in the pool.
            server_lifetime: Option<Duration> = inherited("pools.NAME.server_lifetime", "\"20m\""),
                duration_or_off(), Live, Works;
            /// As in the pool.
            client_idle_timeout: Option<Duration> =
                inherited("pools.NAME.client_idle_timeout", "\"1h\""),
                duration_with_unit(), Live, Works;
            /// As in the pool.
            idle_transaction_timeout: Option<Duration> =
                inherited("pools.NAME.idle_transaction_timeout", "\"5m\""),
                duration_with_unit(), Live, Works;
            /// As in the pool.
            query_timeout: Option<Duration> =
                inherited("pools.NAME.query_timeout", "\"10m\""),
                duration_with_unit(), Live, Works;
            /// As in the pool.
            transaction_timeout: Option<Duration> =
                inherited("pools.NAME.transaction_timeout", "\"30m\""),
                duration_with_unit(), Live, Works;
            /// The PAM service that checks the password.
            auth_pam_service: Option<String> = unset("no PAM", "\"pg_doorman\""),
                Kind::Name, Live, NotYet("PAM");
        }
    }
    besides {}
    also {}
}

impl User {
    /// The name used at PostgreSQL.
    pub fn server_name(&self) -> &str {
        self.server_username.as_deref().unwrap_or(&self.username)
    }
}

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
            /// How many server connections of this user are kept open.
            min_pool_size: usize = is("0"), integer(0, MANY), Live, Works;
            /// How long a client of this user keeps its server connection: transaction, until
            /// its transaction ends; session, until it leaves.
            pool_mode: PoolMode = inherited("pools.NAME.pool_mode", "\"transaction\""),
                Kind::OneOf(PoolMode::WORDS), Live, Works;
            /// The name that the pooler logs in with at PostgreSQL, instead of username.
            server_username: Option<String> = unset("username", "\"app\""),
                Kind::Name, NewServers, Works;
            /// The password that the pooler logs in with at PostgreSQL, in plain text.
            server_password: Option<Secret> =
                unset("what the client proved is passed on", "\"secret\""),
                Kind::Secret, NewServers, Works;
            /// How old a server connection of this user may get, give or take a fifth.
            server_lifetime: Option<Duration> = inherited("pools.NAME.server_lifetime", "\"20m\""),
                duration_or_off(), Live, Works;
            /// How long a client of this user without a server connection may send nothing,
            /// before its session is ended with 57P05.
            client_idle_timeout: Option<Duration> =
                inherited("pools.NAME.client_idle_timeout", "\"1h\""),
                duration_with_unit(), Live, Works;
            /// How long a client of this user may send nothing in a transaction, before its
            /// session is ended with 25P03.
            idle_transaction_timeout: Option<Duration> =
                inherited("pools.NAME.idle_transaction_timeout", "\"5m\""),
                duration_with_unit(), Live, Works;
            /// How long a query of this user may take, before it is canceled and the client's
            /// session is ended with 57014.
            query_timeout: Option<Duration> =
                inherited("pools.NAME.query_timeout", "\"10m\""),
                duration_with_unit(), Live, Works;
            /// How long a transaction of this user may take, before the client's session is
            /// ended with 25P04.
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

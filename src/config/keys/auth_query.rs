//! `[pools.NAME.auth_query]`: passwords of further users from PostgreSQL itself.

use super::pool::Pool;
use super::prelude::*;

keys! {
    /// A `[pools.NAME.auth_query]` table.
    pub struct AuthQuery under Pool {
        group "" {
            /// The query; $1 is the name of the user who logs in.
            query: String =
                required("\"SELECT rolname, rolpassword FROM pg_authid WHERE rolname = $1\""),
                Kind::Name, Live, Works;
            /// The user who runs it.
            user: String = required("\"pg_doorman_auth\""), Kind::Name, Live, Works;
            /// That user's password, in plain text.
            password: Secret = is("\"\""), Kind::Secret, Live, Works;
            /// The database it runs in.
            database: String = unset("the pool's name", "\"postgres\""), Kind::Name, Live, Works;
            /// How many connections it runs on.
            workers: usize = is("2"), integer(1, MANY), Live, Works;
            /// The user that all found users share at PostgreSQL.
            server_user: Option<String> = unset("each their own", "\"app\""),
                Kind::Name, NewServers, Works;
            /// That user's password, in plain text.
            server_password: Option<Secret> =
                unset("what the client proved is passed on", "\"secret\""),
                Kind::Secret, NewServers, Works;
            /// How many server connections a found user may have.
            pool_size: usize = is("40"), integer(1, MANY), Live, Works;
            /// How many are kept open.
            min_pool_size: usize = is("0"), integer(0, MANY), Live, Works;
            /// How long a found password is remembered.
            cache_ttl: Duration = is("\"1h\""), duration_from_zero(), Live, Works;
            /// How long it is remembered that there is no such user.
            cache_failure_ttl: Duration = is("\"30s\""), duration_from_zero(), Live, Works;
            /// How often a user's password is asked for again at most.
            min_interval: Duration = is("\"1s\""), duration_from_zero(), Live, Works;
        }
    }
    besides {}
    also {}
}

//! `[pools.NAME.auth_query]` and `[general.auth_query]`: passwords of further users from PostgreSQL itself.

use super::pool::Pool;
use super::prelude::*;

keys! {
    /// An `auth_query` table. That of `[general]` counts for each pool that has none of its own.
    pub struct AuthQuery under Pool {
        group "" {
            /// The query. $1 is the name of the user who logs in. The result is one row with the
            /// password as PostgreSQL stores it, or no row.
            query: String =
                required("\"SELECT passwd FROM pgdoorman.get_auth($1)\""),
                Kind::Name, Live, Works;
            /// The PostgreSQL role that runs the query.
            user: String = required("\"pgdoorman_auth\""), Kind::Name, Live, Works;
            /// The password of that role, in plain text.
            password: Secret = is("\"\""), Kind::Secret, Live, Works;
            /// The database that the query runs in. `[pools."*"]` requires it.
            database: String = unset("the pool's server_database", "\"postgres\""),
                Kind::Name, Live, Works;
            /// How many server connections the query may use at a time. They are opened when
            /// needed, and do not count for max_db_connections.
            workers: usize = is("2"), integer(1, 100), Live, Works;
            /// The PostgreSQL role of all server connections for users that the query finds.
            server_user: Option<String> = unset("each user's own name", "\"app\""),
                Kind::Name, NewServers, Works;
            /// The password of server_user, in plain text.
            server_password: Option<Secret> =
                unset("what the client proved is passed on", "\"secret\""),
                Kind::Secret, NewServers, Works;
            /// How many server connections are kept open for such a user, once it has logged in.
            min_pool_size: usize = is("0"), integer(0, MANY), Live, Works;
            /// How long a password that the query found is remembered.
            cache_ttl: Duration = is("\"1h\""), duration_from_zero(), Live, Works;
            /// How long it is remembered that the query found no such user.
            cache_failure_ttl: Duration = is("\"30s\""), duration_from_zero(), Live, Works;
            /// How long after a query for a user a failed login of that user does not run the
            /// query again.
            min_interval: Duration = is("\"1s\""), duration_from_zero(), Live, Works;
        }
        inherits "pools.NAME" {
            pool_size: usize;
        }
    }
    besides {}
    also {}
}

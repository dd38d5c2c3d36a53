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
            /// empty for users who need none. jwt-pkey-fpath:FILE: the client sends a JSON Web
            /// Token as its password, and the public key in FILE checks its signature.
            password: Password = required("\"\""), Kind::Verifier, NewClients, Works;
            /// How many server connections of this user are kept open.
            min_pool_size: usize = is("0"), integer(0, MANY), Live, Works;
            /// The name that the pooler logs in with at PostgreSQL, instead of username.
            server_username: Option<String> = unset("username", "\"app\""),
                Kind::Name, NewServers, Works;
            /// The password that the pooler logs in with at PostgreSQL, in plain text.
            /// jwt-priv-key-fpath:FILE: a JSON Web Token that the private key in FILE signs.
            server_password: Option<Secret> =
                unset("what the client proved is passed on", "\"secret\""),
                Kind::Secret, NewServers, Works;
            /// The PAM service that checks the password.
            auth_pam_service: Option<String> = unset("no PAM", "\"pg_doorman\""),
                Kind::Name, Live, NotYet("PAM");
        }
        inherits "pools.NAME" {
            pool_mode: PoolMode;
            pool_size: usize;
            server_lifetime: Option<Duration>;
            client_idle_timeout: Option<Duration>;
            idle_transaction_timeout: Option<Duration>;
            query_timeout: Option<Duration>;
            transaction_timeout: Option<Duration>;
        }
    }
    besides {}
    also {
        /// The key of `server_password`, if that names one.
        server_token: Option<TokenSigner>;
    }
}

/// What precedes the path of a private key.
const TOKEN_KEY: &str = "jwt-priv-key-fpath:";

impl User {
    /// The path of the private key that `server_password` names, if it does.
    pub(in crate::config) fn server_token_key(&self) -> Option<&str> {
        self.server_password
            .as_ref()?
            .expose()
            .strip_prefix(TOKEN_KEY)
    }

    /// The name used at PostgreSQL.
    pub fn server_name(&self) -> &str {
        self.server_username.as_deref().unwrap_or(&self.username)
    }
}

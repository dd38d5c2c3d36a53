//! `[web]` (formerly `[prometheus]`): the metrics page.

use super::prelude::*;

keys! {
    /// The `[web]` table.
    pub struct Web under () {
        group "" {
            /// Whether GET /metrics is answered.
            enabled: bool = is("false"), Kind::Bool, Restart, NotYet(WEB);
            /// The address it listens on.
            host: String = is("\"0.0.0.0\""), Kind::Name, Restart, Works;
            /// The port it listens on.
            port: u16 = is("9127"), integer(1, 65_535), Restart, Works;
        }
    }
    besides {
        group "Accepted, without effect" {
            /// Whether there is a web interface.
            ui = is("false"), Kind::Any, Restart, Ignored(UI);
            /// Whether it may be seen without logging in.
            ui_anonymous = is("false"), Kind::Any, Restart, Ignored(UI);
            /// How many log lines it shows.
            log_tap_max_entries = is("8192"), Kind::Any, Restart, Ignored(UI);
            /// Whether it uses single sign-on.
            sso_enabled = is("false"), Kind::Any, Restart, Ignored(UI);
            /// Where that is.
            sso_proxy_url = unset("none", "\"https://sso.example.com\""),
                Kind::Any, Restart, Ignored(UI);
            /// Its public key.
            sso_public_key_file = unset("none", "\"/etc/pg_doorman/sso.pem\""),
                Kind::Any, Restart, Ignored(UI);
            /// Its audience.
            sso_audience = unset("none", "\"pg_doorman\""), Kind::Any, Restart, Ignored(UI);
            /// Who may log in.
            sso_allowed_users = is("[\"*\"]"), Kind::Any, Restart, Ignored(UI);
            /// Whose forwarded addresses are believed.
            trusted_proxies = unset("none", "[\"127.0.0.1\"]"), Kind::Any, Restart, Ignored(UI);
            /// The claim that holds the groups.
            sso_groups_claim = is("\"groups\""), Kind::Any, Restart, Ignored(UI);
            /// The groups of administrators.
            sso_admin_groups = unset("none", "[\"dba\"]"), Kind::Any, Restart, Ignored(UI);
            /// Whether it insists on HTTPS.
            sso_require_https = unset("its own", "true"), Kind::Any, Restart, Ignored(UI);
        }
    }
    also {}
}

//! `[web]` (formerly `[prometheus]`): the metrics page.

use super::prelude::*;

keys! {
    /// The `[web]` table.
    pub struct Web under () {
        group "" {
            /// Whether GET /metrics, /healthz and /readyz are answered.
            enabled: bool = is("false"), Kind::Bool, Restart, Works;
            /// The address it listens on. `*` stands for all.
            host: String = is("\"127.0.0.1\""), Kind::Name, Restart, Works;
            /// The port it listens on.
            port: u16 = is("9127"), integer(1, 65_535), Restart, Works;
        }
    }
    besides {}
    also {}
}

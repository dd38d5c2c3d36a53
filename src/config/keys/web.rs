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
    besides {}
    also {}
}

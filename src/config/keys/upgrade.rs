//! `[upgrade]`: how a new binary takes over.

use super::prelude::*;

keys! {
    /// The `[upgrade]` table.
    pub struct Upgrade under () {
        group "" {
            /// Whether sessions move to the new process. If not, it takes new clients, and
            /// those that are there finish their transactions on the old one within
            /// `shutdown_timeout` and are told 58006.
            migrate: bool = is("true"), Kind::Bool, Live, Works;
            /// How long the new process may take to answer before it is given up.
            timeout: Duration = is("\"30s\""), duration(), Live, Works;
            /// How long the new binary may take to test the configuration.
            validate_timeout: Duration = is("\"10s\""), duration(), Live, Works;
        }
    }
    besides {}
    also {}
}

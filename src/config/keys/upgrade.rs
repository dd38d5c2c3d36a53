//! `[upgrade]`: how a new binary takes over.

use super::prelude::*;

keys! {
    /// The `[upgrade]` table.
    pub struct Upgrade under () {
        group "" {
            /// Whether sessions move to the new process. If false, the new process takes new
            /// clients only. Clients of the old process finish their transactions within
            /// shutdown_timeout and get error 58006.
            migrate: bool = is("true"), Kind::Bool, Live, Works;
            /// How long the new process may take to answer before the upgrade fails and the old
            /// process goes on.
            timeout: Duration = is("\"30s\""), duration(), Live, Works;
            /// How long the new binary may take to test the configuration.
            validate_timeout: Duration = is("\"10s\""), duration(), Live, Works;
        }
    }
    besides {}
    also {}
}

//! `[upgrade]`: how a new binary takes over.

use super::prelude::*;

keys! {
    /// The `[upgrade]` table.
    pub struct Upgrade under () {
        group "" {
            /// Whether sessions move to the new process; if not, they end with their
            /// transaction.
            migrate: bool = is("true"), Kind::Bool, Live, NotYet(UPGRADE);
            /// How long the new process may take to answer before it is given up.
            timeout: Duration = is("\"30s\""), duration(), Live, Works;
            /// How long the new binary may take to test the configuration.
            validate_timeout: Duration = is("\"10s\""), duration(), Live, Works;
        }
    }
    besides {}
    also {}
}

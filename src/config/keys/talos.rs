//! `[talos]`: accepted and without effect.

use super::prelude::*;

keys! {
    /// The `[talos]` table.
    pub struct Talos under () {
        group "" {}
    }
    besides {
        group "" {
            /// Public keys.
            keys = unset("none", "[]"), Kind::Any, Restart, Works;
            /// Databases.
            databases = unset("none", "[]"), Kind::Any, Restart, Works;
        }
    }
    also {}
}

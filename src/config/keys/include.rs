//! `[include]`: further files of the same document.

use super::prelude::*;

keys! {
    /// The `[include]` table; `raw` has acted on it by the time it is checked.
    pub struct Include under () {
        group "" {}
    }
    besides {
        group "" {
            /// Files that are merged into this one in order, later ones over earlier ones;
            /// relative names start at the working directory.
            files = unset("none", "[]"), Kind::Own("a list of files"), Live, Works;
        }
    }
    also {}
}

//! The relay against byte literals.

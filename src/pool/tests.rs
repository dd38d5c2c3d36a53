//! Pools against connections made of socket pairs.

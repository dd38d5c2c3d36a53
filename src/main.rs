//! pg_doorman
fn main() {}

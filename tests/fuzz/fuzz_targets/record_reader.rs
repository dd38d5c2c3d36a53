//! The record reader under libFuzzer; what holds is said in `script.rs`.
#![no_main]

#[path = "../script.rs"]
mod script;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| script::play(bytes));

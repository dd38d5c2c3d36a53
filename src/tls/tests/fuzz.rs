//! The script that a fuzzer plays with the record reader, here with scripts from a generator: the same in
//! every run, and few enough for every run. `tests/fuzz` plays it without end.

#[path = "../../../tests/fuzz/script.rs"]
mod script;

#[test]
fn whatever_a_peer_does_to_the_record_reader() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..1500u64 {
        let length = random() % if round % 10 == 0 { 4000 } else { 300 };
        let script: Vec<u8> = (0..length).map(|_| random() as u8).collect();
        script::play(&script);
    }
}

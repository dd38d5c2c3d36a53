//! Published keys and records, and some that an independent implementation has computed.

use openssl::hash::MessageDigest;
use serde_json::Value;

use super::super::channel::APPLICATION_DATA;
use super::super::direction::{Direction, Way};
use super::super::schedule::{prf, traffic_keys};
use super::super::secret::Secret;
use super::super::suite::{Aead, Version};
use super::record;

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors.json")).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap();
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

fn aead(value: &Value) -> Aead {
    Aead::of_suite(Version::Tls13, value.as_str().unwrap()).unwrap()
}

fn direction(aead: Aead, way: Way, secret: &[u8], sequence: u64) -> Direction {
    let keys = traffic_keys(aead, &Secret::new(secret).unwrap()).unwrap();
    Direction::new(Version::Tls13, aead, way, keys, sequence)
}

/// Seals what the vector says and opens what it gives.
fn check(aead: Aead, secret: &[u8], sequence: u64, kind: u8, plaintext: &[u8], sealed: &[u8]) {
    let mut ours = direction(aead, Way::Out, secret, sequence);
    assert_eq!(record(&mut ours, kind, plaintext), sealed);
    let mut theirs = direction(aead, Way::In, secret, sequence);
    let mut opened = sealed.to_vec();
    let at = theirs.open(&mut opened).unwrap();
    let mut expected = plaintext.to_vec();
    expected.push(kind);
    assert_eq!(opened[at], expected);
}

#[test]
fn the_trace_of_rfc_8448_is_reproduced() {
    let vectors = &vectors()["tls13"];
    let aead = aead(&vectors["suite"]);
    for side in ["client", "server"] {
        let secret = bytes(&vectors[format!("{side}_application_traffic_secret_0")]);
        let keys = traffic_keys(aead, &Secret::new(&secret).unwrap()).unwrap();
        assert_eq!(keys.key.expose(), bytes(&vectors[format!("{side}_key")]));
        assert_eq!(keys.iv.expose(), bytes(&vectors[format!("{side}_iv")]));
    }
    for record in vectors["records"].as_array().unwrap() {
        let side = record["from"].as_str().unwrap();
        check(
            aead,
            &bytes(&vectors[format!("{side}_application_traffic_secret_0")]),
            record["seq"].as_u64().unwrap(),
            u8::try_from(record["type"].as_u64().unwrap()).unwrap(),
            &bytes(&record["plaintext"]),
            &bytes(&record["record"]),
        );
    }
}

#[test]
fn every_suite_and_its_key_update_agree_with_another_implementation() {
    for case in vectors()["tls13_computed"]["cases"].as_array().unwrap() {
        let aead = aead(&case["suite"]);
        let (secret, plaintext) = (bytes(&case["secret"]), bytes(&case["plaintext"]));
        if let Some(sequence) = case["seq"].as_u64() {
            let sealed = bytes(&case["record"]);
            check(
                aead,
                &secret,
                sequence,
                APPLICATION_DATA,
                &plaintext,
                &sealed,
            );
        }
        let mut ours = direction(aead, Way::Out, &secret, 77);
        ours.update().unwrap();
        assert_eq!(
            record(&mut ours, APPLICATION_DATA, &plaintext),
            bytes(&case["record_seq0_after_key_update"])
        );
        let next = bytes(&case["next_secret_after_key_update"]);
        let sealed = bytes(&case["record_seq0_after_key_update"]);
        check(aead, &next, 0, APPLICATION_DATA, &plaintext, &sealed);
    }
}

#[test]
fn the_pseudo_random_function_of_tls_1_2_agrees_with_its_test_vector() {
    let vector = &vectors()["tls12_prf_sha256"];
    let expected = bytes(&vector["output"]);
    let mut out = vec![0; expected.len()];
    prf(
        MessageDigest::sha256(),
        &bytes(&vector["secret"]),
        vector["label"].as_str().unwrap(),
        &[&bytes(&vector["seed"])],
        &mut out,
    )
    .unwrap();
    assert_eq!(out, expected);
}

#[test]
fn no_secret_is_printed() {
    let ours = direction(Aead::Aes128Gcm, Way::Out, &[0xab; 32], 0);
    let keys = traffic_keys(Aead::Aes128Gcm, &Secret::new(&[0xab; 32]).unwrap()).unwrap();
    assert_eq!(format!("{ours:?}"), "Out Aes128Gcm #0");
    assert_eq!(
        format!("{keys:?}"),
        "Keys { secret: Secret(***), key: Secret(***), iv: Secret(***) }"
    );
}

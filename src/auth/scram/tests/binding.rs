//! SCRAM-SHA-256-PLUS: exchanges that are bound to a certificate, and every way
//! of getting it wrong.

use super::*;

/// The hash of a certificate: bytes 0 to 31.
fn channel_binding() -> Vec<u8> {
    (0..32).collect()
}

// As rfc(), now over TLS; computed by Python's hmac and hashlib.
const FIRST: &[u8] = b"p=tls-server-end-point,,n=,r=rOprNGfwEbeRWgbNEkqO";
const FINAL: &[u8] =
    b"c=cD10bHMtc2VydmVyLWVuZC1wb2ludCwsAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=,\
      r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
      p=Q8h71kjaoMzNI7dPksDrhRE/5mTUObF0fUHVIgBOWQg=";
const SERVER_FINAL: &[u8] = b"v=ykwoqH8mLqO5AQCeuwwf6lsj9f8zyJZT/CcvAbN4Ssc=";

/// A server that offers binding to this hash, with the nonce of the RFC.
fn server(channel_binding: Vec<u8>) -> ServerExchange {
    let mut server = ServerExchange::with_nonce(rfc().0, false, RFC_SERVER_NONCE.into());
    server.offer_binding(channel_binding);
    server
}

#[test]
fn an_exchange_bound_to_a_certificate_byte_for_byte() {
    let mut server = server(channel_binding());
    let server_first = server.client_first(Mechanism::Sha256Plus, FIRST).unwrap();
    assert_eq!(server_first, RFC_SERVER_FIRST.as_bytes());
    let Ok(Outcome::Proven {
        server_final,
        client_key,
    }) = server.client_final(FINAL)
    else {
        panic!("the right proof is refused");
    };
    assert_eq!(server_final, SERVER_FINAL);
    assert_eq!(client_key, rfc().1);
}

#[test]
fn the_keys_of_an_unbound_login_log_in_bound() {
    let (verifier, client_key) = rfc();
    let keys = verifier.pass_through(client_key).unwrap();
    let nonce = "rOprNGfwEbeRWgbNEkqO".to_owned();
    let binding = Binding::choose(true, Some(&channel_binding()));
    assert_eq!(binding.mechanism(), Mechanism::Sha256Plus);
    let mut client = ClientExchange::with_keys_and_nonce(keys, binding, nonce);
    assert_eq!(client.first().unwrap(), FIRST);
    assert_eq!(
        client.continue_(RFC_SERVER_FIRST.as_bytes()).unwrap(),
        FINAL
    );
    client.finish(SERVER_FINAL).unwrap();
}

#[test]
fn a_client_by_password_binds_too() {
    let binding = Binding::choose(true, Some(&channel_binding()));
    let mut client = ClientExchange::with_password(&password("pencil"), binding).unwrap();
    let mut server = server(channel_binding());
    let first = client.first().unwrap();
    let server_first = server.client_first(Mechanism::Sha256Plus, &first).unwrap();
    let last = client.continue_(&server_first).unwrap();
    let Ok(Outcome::Proven { server_final, .. }) = server.client_final(&last) else {
        panic!("the right password is refused");
    };
    client.finish(&server_final).unwrap();
}

#[test]
fn a_client_that_sees_another_certificate_is_refused() {
    let mut other = channel_binding();
    other[31] ^= 1;
    let mut server = server(other);
    server.client_first(Mechanism::Sha256Plus, FIRST).unwrap();
    let error = server.client_final(FINAL).unwrap_err();
    assert_eq!(error, ScramError::BoundElsewhere);
    assert_eq!(error.words(), Some("SCRAM channel binding check failed"));
}

#[test]
fn binding_is_offered_only_with_a_certificate() {
    let plain = ServerExchange::new(&rfc().0, false).unwrap();
    assert_eq!(plain.mechanisms(), ["SCRAM-SHA-256"]);
    assert_eq!(
        server(channel_binding()).mechanisms(),
        ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]
    );
    for mechanism in [Mechanism::Sha256, Mechanism::Sha256Plus] {
        assert_eq!(
            Mechanism::named(mechanism.name().as_bytes()),
            Some(mechanism)
        );
    }
    assert_eq!(Mechanism::named(b"scram-sha-256"), None);
}

#[test]
fn an_offer_that_was_struck_out_on_the_way_is_noticed() {
    let binding = Binding::choose(false, Some(&channel_binding()));
    let mut client = ClientExchange::with_password(&password("pencil"), binding).unwrap();
    let first = client.first().unwrap();
    assert!(first.starts_with(b"y,,n=,r="));
    let error = server(channel_binding())
        .client_first(Mechanism::Sha256, &first)
        .unwrap_err();
    assert_eq!(error, ScramError::Downgrade);
    assert_eq!(
        error.words(),
        Some("SCRAM channel binding negotiation error")
    );
    // Where nothing was offered, the client is right.
    let mut plain = ServerExchange::new(&rfc().0, false).unwrap();
    assert!(plain.client_first(Mechanism::Sha256, &first).is_ok());
}

#[test]
fn a_header_changed_from_y_to_n_on_the_way_is_noticed() {
    let (verifier, client_key) = rfc();
    let keys = verifier.pass_through(client_key).unwrap();
    let mut client = ClientExchange::with_keys(keys, Binding::NotOffered).unwrap();
    let mut first = client.first().unwrap();
    first[0] = b'n';
    let mut server = server(channel_binding());
    let server_first = server.client_first(Mechanism::Sha256, &first).unwrap();
    let last = client.continue_(&server_first).unwrap();
    assert_eq!(
        server.client_final(&last).unwrap_err(),
        ScramError::ChannelBinding
    );
}

#[test]
fn a_client_may_do_without_binding() {
    let mut client = by_password("pencil");
    let first = client.first().unwrap();
    assert!(first.starts_with(b"n,,"));
    let mut server = server(channel_binding());
    let server_first = server.client_first(Mechanism::Sha256, &first).unwrap();
    let last = client.continue_(&server_first).unwrap();
    assert!(matches!(
        server.client_final(&last),
        Ok(Outcome::Proven { .. })
    ));
}

#[test]
fn mechanism_and_header_must_say_the_same() {
    let cases: [(Mechanism, &[u8]); 4] = [
        (Mechanism::Sha256, FIRST),
        (Mechanism::Sha256Plus, b"n,,n=,r=x"),
        (Mechanism::Sha256Plus, b"y,,n=,r=x"),
        (Mechanism::Sha256Plus, b"p=tls-unique,,n=,r=x"),
    ];
    for (mechanism, first) in cases {
        let error = server(channel_binding()).client_first(mechanism, first);
        assert!(
            matches!(
                error,
                Err(ScramError::Malformed(_) | ScramError::Unsupported(_))
            ),
            "{error:?}"
        );
    }
    let mut plain = ServerExchange::new(&rfc().0, false).unwrap();
    assert_eq!(
        plain
            .client_first(Mechanism::Sha256Plus, FIRST)
            .unwrap_err(),
        ScramError::Unsupported("channel binding")
    );
}

#[test]
fn what_is_said_to_postgresql_depends_on_its_offer_and_its_certificate() {
    let hash = channel_binding();
    assert_eq!(Binding::choose(true, None), Binding::Impossible);
    assert_eq!(Binding::choose(false, None), Binding::Impossible);
    assert_eq!(Binding::choose(false, Some(&hash)), Binding::NotOffered);
    assert_eq!(
        Binding::choose(false, Some(&hash)).mechanism(),
        Mechanism::Sha256
    );
}

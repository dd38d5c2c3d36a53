//! Whole exchanges: the RFC's, and every party here against another.

mod binding;

use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

use super::*;
use crate::auth::keys::{ClientKey, Password, ServerKey, StoredKey};
use crate::auth::verifier::{ScramVerifier, Verifier};
use crate::auth::{crypto, refusal};
use crate::wire::base64;

/// A verifier as PostgreSQL would make it, and the ClientKey belonging to it.
fn derive(password: &str, salt: &[u8], iterations: u32) -> (ScramVerifier, ClientKey) {
    let mut salted = [0; 32];
    openssl::pkcs5::pbkdf2_hmac(
        password.as_bytes(),
        salt,
        iterations as usize,
        openssl::hash::MessageDigest::sha256(),
        &mut salted,
    )
    .unwrap();
    let client_key = ClientKey::new(crypto::hmac(&salted, &[b"Client Key"]).unwrap());
    let server_key = crypto::hmac(&salted, &[b"Server Key"]).unwrap();
    let text = format!(
        "SCRAM-SHA-256${iterations}:{}${}:{}",
        base64::encode(salt),
        base64::encode(&crypto::sha256(client_key.bytes())),
        base64::encode(&server_key),
    );
    let Verifier::Scram(verifier) = Verifier::of(&text) else {
        panic!("not a verifier: {text}");
    };
    (verifier, client_key)
}

fn pencil() -> (ScramVerifier, ClientKey) {
    derive("pencil", b"sixteen bytes...", 4096)
}

fn password(text: &str) -> Password {
    Password::new(text.to_owned())
}

fn by_password(text: &str) -> ClientExchange {
    ClientExchange::with_password(&password(text), Binding::Impossible).unwrap()
}

/// Runs client against server to the end of what the server says.
fn run(client: &mut ClientExchange, server: &mut ServerExchange) -> Result<Outcome, ScramError> {
    let server_first = server.client_first(Mechanism::Sha256, &client.first()?)?;
    server.client_final(&client.continue_(&server_first)?)
}

const RFC_FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
const RFC_SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
const RFC_SERVER_FIRST: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                                s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const RFC_FINAL: &[u8] = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                           p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
const RFC_SERVER_FINAL: &[u8] = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

fn rfc() -> (ScramVerifier, ClientKey) {
    let salt = base64::decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    derive("pencil", &salt, 4096)
}

#[test]
fn the_exchange_of_rfc_7677_section_3() {
    let (verifier, client_key) = rfc();
    let mut server = ServerExchange::with_nonce(verifier, false, RFC_SERVER_NONCE.into());
    let server_first = server.client_first(Mechanism::Sha256, RFC_FIRST).unwrap();
    assert_eq!(server_first, RFC_SERVER_FIRST.as_bytes());
    let Outcome::Proven {
        server_final,
        client_key: recovered,
    } = server.client_final(RFC_FINAL).unwrap()
    else {
        panic!("the RFC's own proof is refused");
    };
    assert_eq!(server_final, RFC_SERVER_FINAL);
    assert_eq!(recovered, client_key);
}

#[test]
fn another_clients_library_logs_in_by_its_password() {
    // The password has what SASLprep changes: a no-break space.
    let text = postgres_protocol::password::scram_sha_256("pen\u{a0}cil".as_bytes());
    let Verifier::Scram(verifier) = Verifier::of(&text) else {
        panic!("a verifier of that library is not read");
    };
    for binding in [ChannelBinding::unsupported(), ChannelBinding::unrequested()] {
        let mut client = ScramSha256::new(b"pen cil", binding);
        let mut server = ServerExchange::new(&verifier, false).unwrap();
        let server_first = server
            .client_first(Mechanism::Sha256, client.message())
            .unwrap();
        client.update(&server_first).unwrap();
        let outcome = server.client_final(client.message()).unwrap();
        let Outcome::Proven {
            server_final,
            client_key,
        } = outcome
        else {
            panic!("the right password is refused");
        };
        client.finish(&server_final).unwrap();
        assert!(verifier.pass_through(client_key).is_some());
    }
}

#[test]
fn a_wrong_password_is_refused_and_is_no_error() {
    let (verifier, _) = pencil();
    let mut client = by_password("pencil2");
    let mut server = ServerExchange::new(&verifier, false).unwrap();
    assert!(matches!(
        run(&mut client, &mut server),
        Ok(Outcome::Refused)
    ));
    assert_eq!(
        refusal("joe"),
        "password authentication failed for user \"joe\""
    );
}

#[test]
fn what_one_client_proved_logs_the_pooler_in() {
    let (verifier, _) = pencil();
    let mut client = by_password("pencil");
    let mut pooler = ServerExchange::new(&verifier, false).unwrap();
    let Ok(Outcome::Proven {
        server_final,
        client_key,
    }) = run(&mut client, &mut pooler)
    else {
        panic!("the right password is refused");
    };
    client.finish(&server_final).unwrap();

    // A hand-over lies between: the keys go through CBOR.
    let keys = verifier.pass_through(client_key).unwrap();
    let mut cbor = Vec::new();
    ciborium::into_writer(&keys, &mut cbor).unwrap();
    let keys: PassThrough = ciborium::from_reader(&cbor[..]).unwrap();

    let mut pooler = ClientExchange::with_keys(keys, Binding::Impossible).unwrap();
    let mut postgres = ServerExchange::new(&verifier, false).unwrap();
    let Ok(Outcome::Proven { server_final, .. }) = run(&mut pooler, &mut postgres) else {
        panic!("the recovered key is refused");
    };
    pooler.finish(&server_final).unwrap();
}

#[test]
fn keys_of_another_verifier_are_refused_with_the_reason() {
    let (ours, client_key) = pencil();
    let keys = ours.pass_through(client_key).unwrap();
    let against = |salt: &[u8], iterations| {
        let (theirs, _) = derive("pencil", salt, iterations);
        let mut client = ClientExchange::with_keys(keys.clone(), Binding::Impossible).unwrap();
        let mut server = ServerExchange::new(&theirs, false).unwrap();
        run(&mut client, &mut server).unwrap_err()
    };
    assert_eq!(against(b"another salt", 4096), ScramError::SaltDiffers);
    let error = against(b"sixteen bytes...", 5000);
    assert_eq!(
        error,
        ScramError::IterationsDiffer {
            ours: 4096,
            theirs: 5000
        }
    );
    assert!(error.to_string().contains("rolpassword"));
}

#[test]
fn a_server_that_does_not_know_the_verifier_is_not_trusted() {
    let (verifier, client_key) = rfc();
    let keys = verifier.pass_through(client_key).unwrap();
    let exchange = || {
        let nonce = "rOprNGfwEbeRWgbNEkqO".to_owned();
        let mut client =
            ClientExchange::with_keys_and_nonce(keys.clone(), Binding::Impossible, nonce);
        client.first().unwrap();
        client.continue_(RFC_SERVER_FIRST.as_bytes()).unwrap();
        client
    };
    // The RFC's signature is over n=user; ours is over n=, so it is wrong here.
    assert_eq!(
        exchange().finish(RFC_SERVER_FINAL),
        Err(ScramError::ServerSignature)
    );
    assert_eq!(
        exchange().finish(b"e=invalid-proof"),
        Err(ScramError::ServerRefused("invalid-proof".into()))
    );
    assert!(matches!(
        exchange().finish(b""),
        Err(ScramError::Malformed(_))
    ));
}

#[test]
fn a_nonce_the_server_did_not_extend_is_refused() {
    let (verifier, client_key) = rfc();
    for theirs in ["abc", "xyz", "ab", "xabcdef"] {
        let keys = verifier.pass_through(client_key.clone()).unwrap();
        let mut client =
            ClientExchange::with_keys_and_nonce(keys, Binding::Impossible, "abc".into());
        client.first().unwrap();
        let message = format!("r={theirs},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
        assert_eq!(
            client.continue_(message.as_bytes()),
            Err(ScramError::Nonce),
            "{theirs}"
        );
    }
}

#[test]
fn a_client_that_changes_the_nonce_or_the_header_is_refused() {
    let start = || {
        let mut server = ServerExchange::with_nonce(rfc().0, false, RFC_SERVER_NONCE.into());
        server.client_first(Mechanism::Sha256, RFC_FIRST).unwrap();
        server
    };
    let text = String::from_utf8(RFC_FINAL.to_vec()).unwrap();
    let nonce = text.replace("k0,p=", "k1,p=");
    assert_eq!(
        start().client_final(nonce.as_bytes()).unwrap_err(),
        ScramError::Nonce
    );
    // `eSws` is `y,,` where the client had said `n,,`: a downgrade attempt.
    for other in ["eSws", "", "biwsAAAA"] {
        let header = text.replace("biws", other);
        assert_eq!(
            start().client_final(header.as_bytes()).unwrap_err(),
            ScramError::ChannelBinding
        );
    }
    // An added extension is signed: the proof does not fit any more.
    let extended = text.replace(",p=", ",x=1,p=");
    assert!(matches!(
        start().client_final(extended.as_bytes()),
        Ok(Outcome::Refused)
    ));
}

fn mock_of(user: &str, secret: &MockSecret) -> ServerExchange {
    ServerExchange::new(&secret.verifier(user, 4096, 16).unwrap(), true).unwrap()
}

#[test]
fn a_mock_exchange_looks_like_a_real_one_and_fails() {
    let secret = MockSecret::random().unwrap();
    let first = b"n,,n=,r=abcdefghijklmnopqrstuvwx";
    let said = |mut server: ServerExchange| {
        String::from_utf8(server.client_first(Mechanism::Sha256, first).unwrap()).unwrap()
    };
    let mock = || mock_of("nobody", &secret);
    let real = said(ServerExchange::new(&pencil().0, false).unwrap());
    let mocked = said(mock());
    let shape = |text: &str| -> Vec<(char, usize)> {
        text.split(',')
            .map(|part| (part.chars().next().unwrap(), part.len()))
            .collect()
    };
    assert_eq!(shape(&real), shape(&mocked));
    assert!(real.ends_with(",i=4096") && mocked.ends_with(",i=4096"));

    let salt = |text: &str| text.split(',').nth(1).unwrap().to_owned();
    assert_eq!(salt(&said(mock())), salt(&mocked), "stable for one user");
    let other = mock_of("nobody2", &secret);
    assert_ne!(salt(&said(other)), salt(&mocked), "differs between users");
    let elsewhere = MockSecret::random().unwrap();
    let other = mock_of("nobody", &elsewhere);
    assert_ne!(salt(&said(other)), salt(&mocked), "needs the secret");

    let mut client = by_password("pencil");
    assert!(matches!(
        run(&mut client, &mut mock()),
        Ok(Outcome::Refused)
    ));
}

#[test]
fn a_doomed_exchange_refuses_even_the_right_proof() {
    let mut server = ServerExchange::with_nonce(rfc().0, true, RFC_SERVER_NONCE.into());
    server.client_first(Mechanism::Sha256, RFC_FIRST).unwrap();
    assert!(matches!(
        server.client_final(RFC_FINAL),
        Ok(Outcome::Refused)
    ));
}

#[test]
fn steps_out_of_order_are_errors_and_an_error_is_the_end() {
    let order = ScramError::OutOfOrder;
    let (verifier, client_key) = rfc();

    let mut server = ServerExchange::new(&verifier, false).unwrap();
    assert_eq!(server.client_final(RFC_FINAL).unwrap_err(), order);
    assert_eq!(
        server
            .client_first(Mechanism::Sha256, RFC_FIRST)
            .unwrap_err(),
        order
    );
    let mut server = ServerExchange::new(&verifier, false).unwrap();
    assert!(server.client_first(Mechanism::Sha256, b"junk").is_err());
    assert_eq!(
        server
            .client_first(Mechanism::Sha256, RFC_FIRST)
            .unwrap_err(),
        order
    );

    let keys = verifier.pass_through(client_key).unwrap();
    let by_password = || by_password("pencil");
    let by_keys = || ClientExchange::with_keys(keys.clone(), Binding::Impossible).unwrap();
    let ways: [&dyn Fn() -> ClientExchange; 2] = [&by_password, &by_keys];
    for new in ways {
        assert_eq!(new().continue_(b"").unwrap_err(), order);
        assert_eq!(new().finish(b"").unwrap_err(), order);
        let mut client = new();
        client.first().unwrap();
        assert_eq!(client.first().unwrap_err(), order);
        let mut client = new();
        client.first().unwrap();
        assert!(client.continue_(b"junk").is_err());
        assert_eq!(client.finish(b"v=").unwrap_err(), order);
        assert_eq!(client.continue_(b"junk").unwrap_err(), order);
    }
}

#[test]
fn a_login_by_password_reports_the_servers_refusal() {
    let mut client = by_password("pencil");
    let mut server = ServerExchange::new(&pencil().0, false).unwrap();
    assert!(matches!(
        run(&mut client, &mut server),
        Ok(Outcome::Proven { .. })
    ));
    let error = client.finish(b"e=no-way").unwrap_err().to_string();
    assert!(
        error.starts_with("PostgreSQL refused the SCRAM proof"),
        "{error}"
    );
}

#[test]
fn a_server_cannot_make_us_hash_for_hours() {
    let mut client = by_password("pencil");
    let first = String::from_utf8(client.first().unwrap()).unwrap();
    let (_, nonce) = first.split_once("r=").unwrap();
    let message = format!("r={nonce}x,s=AAAA,i=2147483647");
    assert!(matches!(
        client.continue_(message.as_bytes()),
        Err(ScramError::TooManyIterations(2_147_483_647))
    ));
}

#[test]
fn a_password_is_hashed_as_often_as_postgresql_does_it() {
    let text = postgres_protocol::password::scram_sha_256(b"pencil");
    let Verifier::Scram(stored) = Verifier::of(&text) else {
        panic!("a verifier of PostgreSQL is not read");
    };
    let keys = PassThrough::of_password("pencil", stored.salt(), stored.iterations()).unwrap();
    assert_eq!(stored.pass_through(keys.client_key.clone()), Some(keys));
    let mut client = by_password("pencil");
    let first = String::from_utf8(client.first().unwrap()).unwrap();
    let (_, nonce) = first.split_once("r=").unwrap();
    let message = format!("r={nonce}x,s=AAAA,i=120000");
    assert!(client.continue_(message.as_bytes()).is_ok());
}

#[test]
fn garbage_from_a_server_is_an_error_for_either_way_of_logging_in() {
    let (verifier, client_key) = rfc();
    let keys = verifier.pass_through(client_key).unwrap();
    let by_password = || by_password("pencil");
    let by_keys = || ClientExchange::with_keys(keys.clone(), Binding::Impossible).unwrap();
    let ways: [&dyn Fn() -> ClientExchange; 2] = [&by_password, &by_keys];
    for new in ways {
        for at in 0..70 {
            for byte in *b"\0,=rs\xc3\xff+" {
                let mut client = new();
                let first = String::from_utf8(client.first().unwrap()).unwrap();
                let (_, nonce) = first.split_once("r=").unwrap();
                let mut message =
                    format!("r={nonce}xyz,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=1").into_bytes();
                let index = at % message.len();
                message[index] = byte;
                if client.continue_(&message).is_ok() {
                    assert!(client.finish(&message).is_err());
                }
                let mut client = new();
                client.first().unwrap();
                assert!(client.continue_(&message[..index]).is_err());
            }
        }
    }
}

#[test]
fn debug_of_an_exchange_shows_no_key() {
    let keys = PassThrough {
        client_key: ClientKey::new([1; 32]),
        server_key: ServerKey::new([2; 32]),
        iterations: 4096,
        salt: vec![3; 16],
    };
    let shown = format!("{keys:?} {:?}", StoredKey::new([4; 32]));
    assert!(!shown.contains("1, 1") && !shown.contains("2, 2") && !shown.contains("4, 4"));
    let exchange = ClientExchange::with_keys(keys, Binding::Impossible).unwrap();
    assert_eq!(format!("{exchange:?}"), "ClientExchange(with keys)");
}

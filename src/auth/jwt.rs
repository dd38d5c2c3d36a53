//! JSON Web Tokens (RFC 7519) in place of passwords: those that clients send are checked, and those for PostgreSQL
//! signed.
//!
//! Reads no file and no clock. Invariant: the key decides which algorithm a token must be signed with; what the token
//! says of it must be the same, and "none" never is.

use std::time::Duration;

use openssl::bn::{BigNum, BigNumRef};
use openssl::ecdsa::EcdsaSig;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::{Signer, Verifier};
use serde_json::{Map, Value};
use thiserror::Error;
use zeroize::Zeroizing;

use super::crypto::CryptoError;
use crate::config::{TokenAlgorithm, TokenKey, TokenSigner};
use crate::wire::base64;

/// Bytes of each half of an ES256 signature.
const ES256_HALF: usize = 32;

/// How long a token of the pooler's own holds.
const LIFETIME: Duration = Duration::from_secs(120);

/// The claim that names the user in a token of the pooler's own.
const USER_CLAIM: &str = "preferred_username";

/// What a token must say.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The claim that names the user.
    pub claim: &'a str,
    /// The user.
    pub user: &'a str,
    /// Whom the token must be meant for; `None`: anybody.
    pub audience: Option<&'a str>,
}

/// Why a token is refused, for the log.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TokenError {
    /// It is not a signed token.
    #[error("it is not a JSON Web Token: {0}")]
    Malformed(&'static str),
    /// It says that it is signed in another way than the key allows.
    #[error("the token is not signed with {0}, as the key demands")]
    Algorithm(&'static str),
    /// Its signature is wrong.
    #[error("the signature of the token is wrong")]
    Signature,
    /// A claim is missing or of the wrong type.
    #[error("the token has no usable \"{0}\"")]
    Claim(String),
    /// It does not hold any more.
    #[error("the token has expired")]
    Expired,
    /// It does not hold yet.
    #[error("the token is not valid yet")]
    TooEarly,
    /// It was issued for somebody else.
    #[error("the token was issued for another user")]
    User,
    /// It was issued for another service.
    #[error("the token was issued for another audience than jwt_audience")]
    Audience,
}

/// Checks a token. `now` is the time since 1970.
///
/// # Errors
/// Why it does not prove that the client is the expected user.
pub fn verify(
    token: &[u8],
    key: &TokenKey,
    expected: Expected<'_>,
    now: Duration,
) -> Result<(), TokenError> {
    let malformed = TokenError::Malformed;
    let token = std::str::from_utf8(token).map_err(|_| malformed("it is not text"))?;
    let (signed, signature) = token.rsplit_once('.').ok_or(malformed("no dots"))?;
    let (header, claims) = signed.split_once('.').ok_or(malformed("only one dot"))?;
    let header = object(header).ok_or(malformed("its header is not a JSON object"))?;
    if header.get("alg").and_then(Value::as_str) != Some(key.algorithm.name()) {
        return Err(TokenError::Algorithm(key.algorithm.name()));
    }
    // What is critical must be understood (RFC 7515, section 4.1.11), and there is nothing that is.
    if header.contains_key("crit") {
        return Err(malformed("it has critical extensions"));
    }
    let signature = decode(signature).ok_or(malformed("its signature is not base64url"))?;
    let genuine = is_signed(signed.as_bytes(), &signature, key);
    if !genuine.unwrap_or(false) {
        return Err(TokenError::Signature);
    }
    let claims = object(claims).ok_or(malformed("its claims are not a JSON object"))?;
    check_claims(&claims, expected, now)
}

fn check_claims(
    claims: &Map<String, Value>,
    expected: Expected<'_>,
    now: Duration,
) -> Result<(), TokenError> {
    let now = now.as_secs_f64();
    let time = |name: &str| match claims.get(name) {
        None => Ok(None),
        Some(value) => match value.as_f64() {
            Some(time) => Ok(Some(time)),
            None => Err(TokenError::Claim(name.to_owned())),
        },
    };
    let expires = time("exp")?.ok_or_else(|| TokenError::Claim("exp".to_owned()))?;
    if now >= expires {
        return Err(TokenError::Expired);
    }
    if time("nbf")?.is_some_and(|from| now < from) {
        return Err(TokenError::TooEarly);
    }
    match claims.get(expected.claim).and_then(Value::as_str) {
        None => return Err(TokenError::Claim(expected.claim.to_owned())),
        Some(user) if user != expected.user => return Err(TokenError::User),
        Some(_) => {}
    }
    let Some(audience) = expected.audience else {
        return Ok(());
    };
    let meant = match claims.get("aud") {
        Some(Value::String(only)) => only == audience,
        Some(Value::Array(several)) => several.iter().any(|one| one == audience),
        _ => return Err(TokenError::Claim("aud".to_owned())),
    };
    if meant {
        Ok(())
    } else {
        Err(TokenError::Audience)
    }
}

fn is_signed(signed: &[u8], signature: &[u8], key: &TokenKey) -> Result<bool, ErrorStack> {
    match key.algorithm {
        TokenAlgorithm::Rs256 => {
            Verifier::new(MessageDigest::sha256(), &key.key)?.verify_oneshot(signature, signed)
        }
        TokenAlgorithm::Es256 => {
            if signature.len() != 2 * ES256_HALF {
                return Ok(false);
            }
            let (r, s) = signature.split_at(ES256_HALF);
            let (r, s) = (BigNum::from_slice(r)?, BigNum::from_slice(s)?);
            let der = EcdsaSig::from_private_components(r, s)?.to_der()?;
            Verifier::new(MessageDigest::sha256(), &key.key)?.verify_oneshot(&der, signed)
        }
        TokenAlgorithm::EdDsa => {
            Verifier::new_without_digest(&key.key)?.verify_oneshot(signature, signed)
        }
    }
}

/// A token of the pooler's own, which says that it is `user`. `now` is the time since 1970.
///
/// # Errors
/// If OpenSSL cannot sign.
pub fn sign(signer: &TokenSigner, user: &str, now: Duration) -> Result<String, CryptoError> {
    let (from, until) = (now.as_secs(), (now + LIFETIME).as_secs());
    let header = serde_json::json!({"alg": signer.algorithm.name(), "typ": "JWT"});
    let claims = serde_json::json!({USER_CLAIM: user, "iat": from, "nbf": from, "exp": until});
    let parts = [header, claims].map(|part| encode(part.to_string().as_bytes()));
    Ok(signed(signer, &parts.join("."))?)
}

/// The content with its signature.
fn signed(signer: &TokenSigner, content: &str) -> Result<String, ErrorStack> {
    let key = PKey::private_key_from_pem(signer.key.expose())?;
    let bytes = content.as_bytes();
    let signature = match signer.algorithm {
        TokenAlgorithm::Rs256 => {
            Signer::new(MessageDigest::sha256(), &key)?.sign_oneshot_to_vec(bytes)?
        }
        TokenAlgorithm::Es256 => {
            let der = Signer::new(MessageDigest::sha256(), &key)?.sign_oneshot_to_vec(bytes)?;
            let signature = EcdsaSig::from_der(&der)?;
            let half = |number: &BigNumRef| number.to_vec_padded(ES256_HALF as i32);
            [half(signature.r())?, half(signature.s())?].concat()
        }
        TokenAlgorithm::EdDsa => Signer::new_without_digest(&key)?.sign_oneshot_to_vec(bytes)?,
    };
    Ok(format!("{content}.{}", encode(&signature)))
}

fn object(part: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&decode(part)?).ok()
}

/// Base64url without padding (RFC 7515, section 2).
fn decode(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    if text.contains(['+', '/', '=']) {
        return None;
    }
    let mut usual = Zeroizing::new(text.replace('-', "+").replace('_', "/"));
    let padding = usual.len().next_multiple_of(4) - usual.len();
    usual.extend(std::iter::repeat_n('=', padding));
    base64::decode(&usual).map(Zeroizing::new)
}

fn encode(bytes: &[u8]) -> String {
    let usual = base64::encode(bytes);
    usual
        .trim_end_matches('=')
        .replace('+', "-")
        .replace('/', "_")
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;
    use crate::config::{self, Password};
    use crate::test_dir::Scratch;

    const NOW: Duration = Duration::from_secs(1_800_000_000);
    const EXPECTED: Expected<'_> = Expected {
        claim: "preferred_username",
        user: "joe",
        audience: None,
    };

    /// A pair of keys of a kind, as the configuration reads them.
    fn pair(directory: &Scratch, kind: &[&str]) -> (TokenSigner, TokenKey) {
        let (private, public) = (
            directory.path().join("key"),
            directory.path().join("key.pub"),
        );
        let run = |arguments: &[&str], from: Option<&Path>, to: &Path| {
            let mut command = Command::new("openssl");
            command.args(arguments).arg("-out").arg(to);
            if let Some(from) = from {
                command.arg("-in").arg(from);
            }
            assert!(command.output().unwrap().status.success());
        };
        run(&[&["genpkey"], kind].concat(), None, &private);
        run(&["pkey", "-pubout"], Some(&private), &public);
        let text = format!(
            "[general]\nadmin_username = 'a'\nadmin_password = 'b'\n[pools.shop]\n\
             server_host = 'localhost'\n[[pools.shop.users]]\nusername = 'joe'\npool_size = 1\n\
             password = 'jwt-pkey-fpath:{}'\nserver_username = 'joe'\n\
             server_password = 'jwt-priv-key-fpath:{}'\n",
            public.display(),
            private.display()
        );
        let settings = config::parse(&text, Path::new("test.toml")).unwrap();
        let user = settings.pools["shop"].users[0].clone();
        let Password::Jwt(key) = user.password else {
            panic!("no key");
        };
        (user.server_token.unwrap(), key)
    }

    fn token(signer: &TokenSigner, header: &str, claims: &str) -> String {
        signed(
            signer,
            &[header, claims]
                .map(|part| encode(part.as_bytes()))
                .join("."),
        )
        .unwrap()
    }

    const KINDS: [&[&str]; 3] = [
        &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
        &["-algorithm", "ED25519"],
    ];

    #[test]
    fn a_token_of_each_algorithm_is_taken_and_a_changed_one_is_not() {
        let directory = Scratch::new();
        for kind in KINDS {
            let (signer, key) = pair(&directory, kind);
            let token = sign(&signer, "joe", NOW).unwrap();
            let check = |token: &str| verify(token.as_bytes(), &key, EXPECTED, NOW);
            assert_eq!(check(&token), Ok(()), "{kind:?}");
            for at in (0..token.len()).step_by(7) {
                let mut torn = token.clone().into_bytes();
                torn[at] = if torn[at] == b'A' { b'B' } else { b'A' };
                let torn = String::from_utf8(torn).unwrap();
                assert!(check(&torn).is_err(), "{kind:?} {at}");
                assert!(check(&token[..at]).is_err(), "{kind:?} {at}");
            }
            let expired = verify(token.as_bytes(), &key, EXPECTED, NOW + LIFETIME);
            assert_eq!(expired, Err(TokenError::Expired));
            let early = verify(token.as_bytes(), &key, EXPECTED, NOW - LIFETIME);
            assert_eq!(early, Err(TokenError::TooEarly));
            let jim = Expected {
                user: "jim",
                ..EXPECTED
            };
            assert_eq!(
                verify(token.as_bytes(), &key, jim, NOW),
                Err(TokenError::User)
            );
        }
    }

    #[test]
    fn the_key_decides_about_the_algorithm() {
        let directory = Scratch::new();
        let (signer, key) = pair(&directory, KINDS[1]);
        let claims = r#"{"preferred_username":"joe","exp":1800000001}"#;
        let check = |token: &str| verify(token.as_bytes(), &key, EXPECTED, NOW);
        assert_eq!(check(&token(&signer, r#"{"alg":"ES256"}"#, claims)), Ok(()));
        for wrong in ["none", "None", "HS256", "RS256", "es256", ""] {
            let header = format!(r#"{{"alg":"{wrong}"}}"#);
            let refused = Err(TokenError::Algorithm("ES256"));
            assert_eq!(check(&token(&signer, &header, claims)), refused, "{wrong}");
            // Without a signature, as "none" is written.
            let bare = [&*header, claims]
                .map(|part| encode(part.as_bytes()))
                .join(".");
            assert_eq!(check(&format!("{bare}.")), refused, "{wrong}");
        }
        let critical = token(&signer, r#"{"alg":"ES256","crit":["exp"]}"#, claims);
        assert!(matches!(check(&critical), Err(TokenError::Malformed(_))));
        let (_, other) = pair(&directory, KINDS[1]);
        let foreign = verify(
            token(&signer, r#"{"alg":"ES256"}"#, claims).as_bytes(),
            &other,
            EXPECTED,
            NOW,
        );
        assert_eq!(foreign, Err(TokenError::Signature));
    }

    #[test]
    fn claims_must_be_there_and_of_their_types() {
        let directory = Scratch::new();
        let (signer, key) = pair(&directory, KINDS[2]);
        let check = |claims: &str, audience: Option<&str>| {
            let token = token(&signer, r#"{"alg":"EdDSA","typ":"JWT"}"#, claims);
            let expected = Expected {
                claim: "sub",
                user: "joe",
                audience,
            };
            verify(token.as_bytes(), &key, expected, NOW)
        };
        let missing = |name: &str| Err(TokenError::Claim(name.to_owned()));
        assert_eq!(check(r#"{"sub":"joe","exp":1800000000.5}"#, None), Ok(()));
        assert_eq!(check(r#"{"sub":"joe"}"#, None), missing("exp"));
        assert_eq!(
            check(r#"{"sub":"joe","exp":"1800000001"}"#, None),
            missing("exp")
        );
        assert_eq!(check(r#"{"sub":"joe","exp":null}"#, None), missing("exp"));
        assert_eq!(
            check(r#"{"sub":["joe"],"exp":1800000001}"#, None),
            missing("sub")
        );
        assert_eq!(
            check(r#"{"preferred_username":"joe","exp":1800000001}"#, None),
            missing("sub")
        );
        assert_eq!(
            check(r#"{"sub":"joe","exp":1800000001,"nbf":[]}"#, None),
            missing("nbf")
        );
        let late = r#"{"sub":"joe","exp":1800000009,"nbf":1800000001}"#;
        assert_eq!(check(late, None), Err(TokenError::TooEarly));
        for (audience, outcome) in [
            ("\"db\"", Ok(())),
            ("[\"web\",\"db\"]", Ok(())),
            ("\"web\"", Err(TokenError::Audience)),
            ("[]", Err(TokenError::Audience)),
            ("1", missing("aud")),
        ] {
            let claims = format!(r#"{{"sub":"joe","exp":1800000001,"aud":{audience}}}"#);
            assert_eq!(check(&claims, Some("db")), outcome, "{audience}");
            assert_eq!(check(&claims, None), Ok(()), "{audience}");
        }
        assert_eq!(
            check(r#"{"sub":"joe","exp":1800000001}"#, Some("db")),
            missing("aud")
        );
        assert!(check("[]", None).is_err() && check("", None).is_err());
    }
}

//! The four messages of SCRAM (RFC 5802, section 7), read.
//!
//! Only grammar: whether a nonce or a proof is the right one is for the
//! parties to say. Invariant: any bytes give the parts of a message, borrowed
//! from it, or an error; nothing panics.

use super::super::crypto::DIGEST_LENGTH;
use super::{MAX_MESSAGE_LENGTH, ScramError};
use crate::config::password;
use crate::wire::base64;

/// client-first-message.
#[derive(Debug)]
pub(super) struct ClientFirst<'a> {
    /// With both commas: `n,,`, say. The client repeats it in `c=`.
    pub gs2_header: &'a str,
    /// What it says of channel binding.
    pub flag: Flag<'a>,
    /// Everything after the gs2 header: signed by both parties.
    pub bare: &'a str,
    pub nonce: &'a str,
}

/// What a client says of channel binding.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Flag<'a> {
    /// `n`: it cannot, or does not want to.
    Not,
    /// `y`: it could, and believes that we cannot.
    NotOffered,
    /// `p`: it does, by this type of binding.
    By(&'a str),
}

/// client-final-message.
#[derive(Debug)]
pub(super) struct ClientFinal<'a> {
    /// The value of `c=`, in base64 as sent.
    pub channel_binding: &'a str,
    pub nonce: &'a str,
    /// Everything before `,p=`: signed by both parties.
    pub without_proof: &'a str,
    pub proof: [u8; DIGEST_LENGTH],
}

/// server-first-message.
#[derive(Debug)]
pub(super) struct ServerFirst<'a> {
    /// All of it: signed by both parties.
    pub text: &'a str,
    pub nonce: &'a str,
    pub salt: Vec<u8>,
    pub iterations: u32,
}

/// server-final-message.
#[derive(Debug)]
pub(super) enum ServerFinal<'a> {
    Signature([u8; DIGEST_LENGTH]),
    Refused(&'a str),
}

impl<'a> ClientFirst<'a> {
    pub fn parse(message: &'a [u8]) -> Result<Self, ScramError> {
        let text = bounded_text(message)?;
        let (flag, rest) = split(text, "the gs2 header ends early")?;
        let flag = match (flag, flag.strip_prefix("p=")) {
            ("n", _) => Flag::Not,
            ("y", _) => Flag::NotOffered,
            (_, Some(kind)) => Flag::By(kind),
            _ => {
                return Err(ScramError::Malformed("the channel-binding flag is unknown"));
            }
        };
        let (authzid, bare) = split(rest, "the gs2 header ends early")?;
        if !authzid.is_empty() {
            return Err(ScramError::Unsupported("an authorization identity"));
        }
        let gs2_header = &text[..text.len() - bare.len()];

        if bare.starts_with("m=") {
            return Err(ScramError::Unsupported("a mandatory extension"));
        }
        // The user's name is that of the StartupMessage; the one here is
        // ignored, as PostgreSQL does (libpq sends an empty one).
        let (name, rest) = split(bare, "there is no nonce in client-first-message")?;
        value(name, "n=", "client-first-message does not begin with n=")?;
        let mut rest = rest.split(',');
        let nonce = nonce(rest.next())?;
        extensions(rest)?;
        Ok(ClientFirst {
            gs2_header,
            flag,
            bare,
            nonce,
        })
    }
}

impl<'a> ClientFinal<'a> {
    pub fn parse(message: &'a [u8]) -> Result<Self, ScramError> {
        let text = bounded_text(message)?;
        let (without_proof, proof) = text.rsplit_once(',').ok_or(ScramError::Malformed(
            "there is no proof in client-final-message",
        ))?;
        let proof = value(proof, "p=", "client-final-message does not end with p=")?;
        let proof = base64::decode_exactly(proof)
            .ok_or(ScramError::Malformed("the proof is not base64 of 32 bytes"))?;
        let mut parts = without_proof.split(',');
        let channel_binding = value(
            parts.next().unwrap_or_default(),
            "c=",
            "client-final-message does not begin with c=",
        )?;
        let nonce = nonce(parts.next())?;
        extensions(parts)?;
        Ok(ClientFinal {
            channel_binding,
            nonce,
            without_proof,
            proof,
        })
    }
}

impl<'a> ServerFirst<'a> {
    pub fn parse(message: &'a [u8]) -> Result<Self, ScramError> {
        let text = bounded_text(message)?;
        if text.starts_with("m=") {
            return Err(ScramError::Unsupported("a mandatory extension"));
        }
        let mut parts = text.split(',');
        let nonce = nonce(parts.next())?;
        let salt = value(
            parts.next().unwrap_or_default(),
            "s=",
            "there is no salt in server-first-message",
        )?;
        let salt = password::salt(salt).ok_or(ScramError::Malformed(
            "the salt is not base64 of 1 to 256 bytes",
        ))?;
        let iterations = value(
            parts.next().unwrap_or_default(),
            "i=",
            "there is no iteration count in server-first-message",
        )?;
        let iterations = password::iteration_count(iterations).ok_or(ScramError::Malformed(
            "the iteration count is not a number from 1 to 2147483647",
        ))?;
        extensions(parts)?;
        Ok(ServerFirst {
            text,
            nonce,
            salt,
            iterations,
        })
    }
}

impl<'a> ServerFinal<'a> {
    pub fn parse(message: &'a [u8]) -> Result<Self, ScramError> {
        let text = bounded_text(message)?;
        let mut parts = text.split(',');
        let first = parts.next().unwrap_or_default();
        if let Some(word) = first.strip_prefix("e=") {
            return Ok(ServerFinal::Refused(word));
        }
        let signature = value(first, "v=", "server-final-message does not begin with v=")?;
        let signature = base64::decode_exactly(signature).ok_or(ScramError::Malformed(
            "the server's signature is not base64 of 32 bytes",
        ))?;
        extensions(parts)?;
        Ok(ServerFinal::Signature(signature))
    }
}

/// The message as text. A zero byte or a control character has no place in
/// any of the four, and would end up in a log line.
fn bounded_text(message: &[u8]) -> Result<&str, ScramError> {
    if message.len() > MAX_MESSAGE_LENGTH {
        return Err(ScramError::TooLong);
    }
    let text =
        std::str::from_utf8(message).map_err(|_| ScramError::Malformed("it is not UTF-8"))?;
    if text.chars().any(char::is_control) {
        return Err(ScramError::Malformed("it contains a control character"));
    }
    Ok(text)
}

/// What stands before and after the first comma.
fn split<'a>(text: &'a str, missing: &'static str) -> Result<(&'a str, &'a str), ScramError> {
    text.split_once(',').ok_or(ScramError::Malformed(missing))
}

/// The value of an attribute.
fn value<'a>(attribute: &'a str, name: &str, missing: &'static str) -> Result<&'a str, ScramError> {
    attribute
        .strip_prefix(name)
        .ok_or(ScramError::Malformed(missing))
}

/// The value of `r=`: printable ASCII; the comma has been split off.
fn nonce(attribute: Option<&str>) -> Result<&str, ScramError> {
    let nonce = value(attribute.unwrap_or_default(), "r=", "there is no nonce")?;
    if nonce.is_empty() || !nonce.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(ScramError::Malformed("the nonce is not printable"));
    }
    Ok(nonce)
}

/// Optional extensions: read, and ignored, as the RFC wants; a mandatory one
/// cannot be.
fn extensions<'a>(attributes: impl Iterator<Item = &'a str>) -> Result<(), ScramError> {
    for attribute in attributes {
        match attribute.as_bytes() {
            [b'm', b'=', ..] => return Err(ScramError::Unsupported("a mandatory extension")),
            [name, b'=', _, ..] if name.is_ascii_alphabetic() => {}
            _ => return Err(ScramError::Malformed("an extension is not name=value")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(text: &str) -> Result<ClientFirst<'_>, ScramError> {
        ClientFirst::parse(text.as_bytes())
    }

    #[test]
    fn client_first_is_taken_apart() {
        let message = first("n,,n=user,r=rOprNGfwEbeRWgbNEkqO").unwrap();
        assert_eq!(message.gs2_header, "n,,");
        assert_eq!(message.bare, "n=user,r=rOprNGfwEbeRWgbNEkqO");
        assert_eq!(message.nonce, "rOprNGfwEbeRWgbNEkqO");
        let message = first("y,,n=,r=x,z=1,q=2").unwrap();
        assert_eq!(
            (message.gs2_header, message.flag),
            ("y,,", Flag::NotOffered)
        );
        let message = first("p=tls-server-end-point,,n=,r=x").unwrap();
        assert_eq!(message.gs2_header, "p=tls-server-end-point,,");
        assert_eq!(message.flag, Flag::By("tls-server-end-point"));
    }

    #[test]
    fn what_client_first_must_not_demand_is_refused_by_name() {
        let cases = [
            ("n,a=admin,n=,r=x", "an authorization identity"),
            ("n,,m=x,n=,r=x", "a mandatory extension"),
            ("n,,n=,r=x,m=x", "a mandatory extension"),
        ];
        for (text, what) in cases {
            assert_eq!(first(text).unwrap_err(), ScramError::Unsupported(what));
        }
    }

    #[test]
    fn client_first_out_of_shape_is_an_error() {
        for text in [
            "",
            "n",
            "n,",
            "n,,",
            "n,,n=",
            "n,,r=x",
            "n,,n=,r=",
            "n,,n=,r=é",
            "n,,n=,r=a b",
            "q,,n=,r=x",
            "N,,n=,r=x",
            "n,,n=,r=x,",
            "n,,n=,r=x,1=2",
            "n,,n=,r=x,e=",
            "nn,,n=,r=x",
            "n,,n=a\0b,r=x",
            ",,n=,r=x",
        ] {
            let error = first(text).unwrap_err();
            assert!(matches!(error, ScramError::Malformed(_)), "{text:?}");
        }
        let long = format!("n,,n=,r={}", "x".repeat(MAX_MESSAGE_LENGTH));
        assert_eq!(first(&long).unwrap_err(), ScramError::TooLong);
        assert!(ClientFirst::parse(b"n,,n=\xff,r=x").is_err());
    }

    #[test]
    fn client_final_is_taken_apart() {
        let text = b"c=biws,r=abc,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        let message = ClientFinal::parse(text).unwrap();
        assert_eq!(message.channel_binding, "biws");
        assert_eq!(message.nonce, "abc");
        assert_eq!(message.without_proof, "c=biws,r=abc");
        for text in [
            "",
            ",",
            "p=",
            "c=biws,r=abc",
            "c=biws,r=abc,p=",
            "c=biws,r=abc,p=AAAA",
            "r=abc,c=biws,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
            "c=biws,r=abc,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=,x=1",
            "c=biws,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        ] {
            assert!(ClientFinal::parse(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_servers_messages_are_taken_apart() {
        let message = ServerFirst::parse(b"r=abc,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096").unwrap();
        assert_eq!(
            (message.nonce, message.salt.len(), message.iterations),
            ("abc", 16, 4096)
        );
        for text in [
            "",
            "r=abc",
            "r=abc,s=,i=1",
            "r=abc,s=AAAA,i=0",
            "r=abc,s=AAAA,i=+1",
            "r=abc,s=AAAA,i=2147483648",
            "m=1,r=abc,s=AAAA,i=1",
            "r=,s=AAAA,i=1",
        ] {
            assert!(ServerFirst::parse(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(matches!(
            ServerFinal::parse(b"e=invalid-proof"),
            Ok(ServerFinal::Refused("invalid-proof"))
        ));
        assert!(ServerFinal::parse(b"v=AAAA").is_err());
    }

    #[test]
    fn mutated_messages_never_panic() {
        let seeds: [&[u8]; 6] = [
            b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
            b"p=tls-unique,a=x,n=,r=x,m=1",
            b"c=biws,r=abc,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
            b"r=abc,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
            b"e=other-error,x=\xc3\xa9",
        ];
        // A fixed linear congruence: the same inputs on every run.
        let mut state = 1u64;
        let mut next = move || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 33) as usize
        };
        for round in 0..20_000 {
            let mut bytes = seeds[round % seeds.len()].to_vec();
            for _ in 0..1 + next() % 3 {
                let at = next() % (bytes.len() + 1);
                match next() % 4 {
                    0 => bytes.insert(at, next() as u8),
                    1 if at < bytes.len() => bytes[at] = b"\0,=aicnmprsvy\xff\xc3"[next() % 15],
                    2 => bytes.truncate(at),
                    _ if at < bytes.len() => bytes[at] ^= 1 << (next() % 8),
                    _ => {}
                }
            }
            let _ = ClientFirst::parse(&bytes);
            let _ = ClientFinal::parse(&bytes);
            let _ = ServerFirst::parse(&bytes);
            let _ = ServerFinal::parse(&bytes);
        }
    }
}

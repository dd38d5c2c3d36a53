//! The hash by which SCRAM is bound to a server's certificate, `tls-server-end-point` (RFC 5929 section 4.1).
//!
//! As libpq and PostgreSQL do it: the hash of the certificate's own signature, SHA-256 where that one is
//! weaker. Invariant: where there is none (Ed25519 and its like sign without a hash, and RFC 5929 leaves
//! them undefined) there is no binding either, and a login is one without it. It never fails because of it,
//! as libpq's does: that one stops with "could not find digest for NID UNDEF".

use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::x509::X509Ref;

/// The hash of a server's certificate. `None` if its signature names no hash.
pub(super) fn channel_binding(certificate: &X509Ref) -> Option<Vec<u8>> {
    let signature = certificate.signature_algorithm().object().nid();
    let hash = match signature {
        Nid::RSASSAPSS => pss_hash(&certificate.to_der().ok()?)?,
        _ => signature.signature_algorithms()?.digest,
    };
    let hash = match hash {
        Nid::MD5 | Nid::SHA1 => MessageDigest::sha256(),
        other => MessageDigest::from_nid(other)?,
    };
    certificate.digest(hash).ok().map(|digest| digest.to_vec())
}

const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;
/// `[0] EXPLICIT`, the hash's place among the parameters.
const HASH_ALGORITHM: u8 = 0xa0;

/// id-sha1 (RFC 8017 appendix A.1).
const SHA1: &[u8] = &[0x2b, 0x0e, 0x03, 0x02, 0x1a];
/// Of id-sha224 and the others of SHA-2 all but the last byte (RFC 8017 appendix A.1).
const SHA2: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];

/// The hash of an RSASSA-PSS signature, which the parameters of its algorithm name (RFC 8017 appendix A.2.3)
/// and OpenSSL's crate does not show. `der` is the certificate.
fn pss_hash(der: &[u8]) -> Option<Nid> {
    let (certificate, _) = element(SEQUENCE, der)?;
    let (_, behind) = element(SEQUENCE, certificate)?;
    let (algorithm, _) = element(SEQUENCE, behind)?;
    let (_, behind) = element(OBJECT_IDENTIFIER, algorithm)?;
    let (parameters, _) = element(SEQUENCE, behind)?;
    let Some((hash, _)) = element(HASH_ALGORITHM, parameters) else {
        return Some(Nid::SHA1);
    };
    let (hash, _) = element(SEQUENCE, hash)?;
    let (name, _) = element(OBJECT_IDENTIFIER, hash)?;
    match name.split_last()? {
        _ if name == SHA1 => Some(Nid::SHA1),
        (1, SHA2) => Some(Nid::SHA256),
        (2, SHA2) => Some(Nid::SHA384),
        (3, SHA2) => Some(Nid::SHA512),
        (4, SHA2) => Some(Nid::SHA224),
        _ => None,
    }
}

/// The contents of the DER element (X.690) that `bytes` begin with, if it has this tag, and what follows it.
fn element(tag: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let [found, short, rest @ ..] = bytes else {
        return None;
    };
    if *found != tag {
        return None;
    }
    // The length is this byte or in as many more as its lower bits say.
    let (length, rest) = match short.checked_sub(0x80) {
        None => (usize::from(*short), rest),
        Some(more @ 1..=4) => {
            let (length, rest) = rest.split_at_checked(usize::from(more))?;
            let length = length.iter().try_fold(0usize, |length, byte| {
                length.checked_mul(256)?.checked_add(usize::from(*byte))
            })?;
            (length, rest)
        }
        Some(_) => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_is_taken_only_whole_and_of_its_tag() {
        assert_eq!(
            element(SEQUENCE, &[0x30, 1, 7, 8]),
            Some((&[7][..], &[8][..]))
        );
        assert_eq!(
            element(SEQUENCE, &[0x30, 0x82, 0, 1, 7]),
            Some((&[7][..], &[][..]))
        );
        let torn: [&[u8]; 6] = [
            &[],
            &[0x30],
            &[0x31, 0],
            &[0x30, 2, 7],
            &[0x30, 0x82, 0],
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
        ];
        for bytes in torn {
            assert_eq!(element(SEQUENCE, bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn the_parameters_of_a_signature_name_its_hash() {
        let certificate = |parameters: &[u8]| {
            let wrap = |tag, inside: &[u8]| [&[tag, inside.len() as u8], inside].concat();
            let algorithm = [&[OBJECT_IDENTIFIER, 1, 0][..], &wrap(SEQUENCE, parameters)].concat();
            wrap(
                SEQUENCE,
                &[wrap(SEQUENCE, b"to be signed"), wrap(SEQUENCE, &algorithm)].concat(),
            )
        };
        let named = |oid: &[u8]| {
            let name = [&[OBJECT_IDENTIFIER, oid.len() as u8], oid].concat();
            let algorithm = [&[SEQUENCE, name.len() as u8], &name[..]].concat();
            certificate(&[&[HASH_ALGORITHM, algorithm.len() as u8], &algorithm[..]].concat())
        };
        // What is the default is left out.
        assert_eq!(pss_hash(&certificate(&[])), Some(Nid::SHA1));
        assert_eq!(pss_hash(&named(SHA1)), Some(Nid::SHA1));
        assert_eq!(pss_hash(&named(&[SHA2, &[2]].concat())), Some(Nid::SHA384));
        assert_eq!(pss_hash(&named(&[SHA2, &[99]].concat())), None);
    }

    #[test]
    fn no_certificate_at_all_has_no_hash() {
        let mut bytes = [0x30; 64];
        for end in 0..bytes.len() {
            assert_eq!(pss_hash(&bytes[..end]), None);
            bytes[end] = 0x80;
            assert_eq!(pss_hash(&bytes), None);
        }
    }
}

//! The hash by which SCRAM is bound to a server's certificate, `tls-server-end-point` (RFC 5929 section 4.1).
//!
//! As libpq and PostgreSQL do it: the hash of the certificate's own signature, SHA-256 where that one is
//! weaker. Invariant: where there is none (Ed25519 and its like sign without a hash, and RFC 5929 leaves
//! them undefined) there is no binding either, and a login is one without it. It never fails because of it,
//! as libpq's does: that one stops with "could not find digest for NID UNDEF".

use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::x509::X509Ref;

use super::x509::signature_hash;

/// The hash of a server's certificate. `None` if its signature names no hash.
pub(super) fn channel_binding(certificate: &X509Ref) -> Option<Vec<u8>> {
    let hash = signature_hash(certificate)?;
    let hash = match hash {
        Nid::MD5 | Nid::SHA1 => MessageDigest::sha256(),
        other => MessageDigest::from_nid(other)?,
    };
    certificate.digest(hash).ok().map(|digest| digest.to_vec())
}

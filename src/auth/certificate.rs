//! The name in a client's certificate, as PostgreSQL reads it
//! (`be-secure-openssl.c`): its common name, and the whole of its subject.
//!
//! Whether the certificate is any good was decided in the handshake. Invariant: a
//! name that could be read in two ways (one with a NUL in it, one that is not
//! text) is no name.

use openssl::nid::Nid;
use openssl::x509::{X509NameEntryRef, X509Ref};

use crate::tls::x509::rfc_2253;

/// Who a client is by its certificate, which an authority has signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The first common name of its subject, if that has one.
    pub common_name: Option<String>,
    /// Its subject in the form of RFC 2253, the last part first, as OpenSSL writes
    /// it with `XN_FLAG_RFC2253`.
    pub distinguished_name: Option<String>,
}

impl PeerCertificate {
    /// What this certificate says.
    pub fn of(certificate: &X509Ref) -> PeerCertificate {
        let subject = certificate.subject_name();
        PeerCertificate {
            common_name: subject
                .entries_by_nid(Nid::COMMONNAME)
                .next()
                .and_then(text)
                .filter(|name| !name.is_empty()),
            distinguished_name: (subject.entries().all(|entry| text(entry).is_some()))
                .then(|| rfc_2253(subject))
                .flatten()
                .filter(|name| !name.is_empty()),
        }
    }
}

fn text(entry: &X509NameEntryRef) -> Option<String> {
    let text = entry.data().to_string().ok()?;
    (!text.contains(['\0', char::REPLACEMENT_CHARACTER])).then_some(text)
}

#[cfg(test)]
mod tests {
    use openssl::ec::{EcGroup, EcKey};
    use openssl::hash::MessageDigest;
    use openssl::pkey::PKey;
    use openssl::x509::{X509, X509NameBuilder};

    use super::*;

    fn with_subject(subject: &[(&str, &str)]) -> PeerCertificate {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        let mut name = X509NameBuilder::new().unwrap();
        for (field, value) in subject {
            name.append_entry_by_text(field, value).unwrap();
        }
        let mut certificate = X509::builder().unwrap();
        certificate.set_subject_name(&name.build()).unwrap();
        certificate.set_pubkey(&key).unwrap();
        certificate.sign(&key, MessageDigest::sha256()).unwrap();
        PeerCertificate::of(&certificate.build())
    }

    #[test]
    fn the_names_are_those_that_openssl_prints() {
        // openssl x509 -subject -nameopt RFC2253
        let peer = with_subject(&[
            ("C", "DE"),
            ("O", "Zw\u{f6}lf, + \"Co\""),
            ("CN", " ann#"),
            ("CN", "second"),
        ]);
        assert_eq!(peer.common_name.as_deref(), Some(" ann#"));
        assert_eq!(
            peer.distinguished_name.as_deref(),
            Some(r#"CN=second,CN=\ ann#,O=Zw\C3\B6lf\, \+ \"Co\",C=DE"#)
        );
    }

    #[test]
    fn a_certificate_without_a_name_names_nobody() {
        let nobody = PeerCertificate {
            common_name: None,
            distinguished_name: None,
        };
        assert_eq!(with_subject(&[]), nobody);
        assert_eq!(with_subject(&[("CN", "ann\0eve")]), nobody);
        assert_eq!(with_subject(&[("O", "x")]).common_name, None);
    }
}

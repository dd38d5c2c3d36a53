//! The name in a client's certificate, as PostgreSQL reads it
//! (`be-secure-openssl.c`): its common name, and the whole of its subject.
//!
//! Whether the certificate is any good was decided in the handshake. Invariant: a
//! name that could be read in two ways (one with a NUL in it, one that is not
//! text) is no name.

use openssl::nid::Nid;
use openssl::x509::{X509NameEntryRef, X509NameRef, X509Ref};

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
            distinguished_name: rfc_2253(subject).filter(|name| !name.is_empty()),
        }
    }
}

fn text(entry: &X509NameEntryRef) -> Option<String> {
    let text = entry.data().to_string().ok()?;
    (!text.contains(['\0', char::REPLACEMENT_CHARACTER])).then_some(text)
}

fn rfc_2253(name: &X509NameRef) -> Option<String> {
    let joined = joined_to_next(&name.to_der().ok()?)?;
    let mut out = String::new();
    let entries: Vec<&X509NameEntryRef> = name.entries().collect();
    if entries.len() != joined.len() {
        return None;
    }
    for (index, entry) in entries.iter().enumerate().rev() {
        // What has no short name stands as its number, its value in hexadecimal:
        // too rare to be worth it here.
        let nid = entry.object().nid();
        if nid == Nid::UNDEF {
            return None;
        }
        out.push_str(nid.short_name().ok()?);
        out.push('=');
        escape(&mut out, &text(entry)?);
        match index.checked_sub(1) {
            Some(next) if joined[next] => out.push('+'),
            Some(_) => out.push(','),
            None => {}
        }
    }
    Some(out)
}

/// RFC 2253, section 2.4, and as OpenSSL everything outside of ASCII in
/// hexadecimal.
fn escape(out: &mut String, value: &str) {
    let last = value.len().saturating_sub(1);
    for (index, byte) in value.bytes().enumerate() {
        let special = match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => true,
            b'#' => index == 0,
            b' ' => index == 0 || index == last,
            _ => false,
        };
        if special {
            out.push('\\');
        }
        match byte {
            b' '..=b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("\\{byte:02X}")),
        }
    }
}

/// Of every attribute of a DER-encoded name, whether it is of one part with the
/// next: a name is a SEQUENCE of SETs of attributes (RFC 5280, section 4.1.2.4).
fn joined_to_next(der: &[u8]) -> Option<Vec<bool>> {
    let (_, mut parts, _) = element(der)?;
    let mut joined = Vec::new();
    while !parts.is_empty() {
        let (_, mut attributes, rest) = element(parts)?;
        parts = rest;
        while !attributes.is_empty() {
            let (_, _, rest) = element(attributes)?;
            attributes = rest;
            joined.push(!attributes.is_empty());
        }
    }
    Some(joined)
}

/// Tag and content of the first DER element, and what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let length = if first < 0x80 {
        usize::from(first)
    } else {
        let (digits, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
        rest = after;
        let append = |sum: usize, digit: &u8| Some(sum.checked_mul(256)? + usize::from(*digit));
        digits.iter().try_fold(0, append)?
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
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

    #[test]
    fn parts_of_several_attributes_are_seen_in_the_encoding() {
        // SEQUENCE { SET { a }, SET { b, c } }, each attribute an empty SEQUENCE.
        let der = b"\x30\x08\x31\x02\x30\x00\x31\x04\x30\x00\x30\x00";
        let der = &[&[0x30, 10], &der[2..]].concat();
        assert_eq!(joined_to_next(der), Some(vec![false, true, false]));
        for end in 0..der.len() {
            assert_eq!(joined_to_next(&der[..end]), None, "{end}");
        }
    }
}

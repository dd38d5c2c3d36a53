//! Certificates made for one test.

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509Name};

use super::super::identity::TlsFiles;

pub(crate) const SUITES_12: &str = "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384";
pub(crate) const SUITES_13: &str = "TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";

/// A certificate and its key.
pub(crate) struct Issued {
    pub(crate) certificate: X509,
    key: PKey<Private>,
    pub(crate) pem: Vec<u8>,
    pub(crate) key_pem: Vec<u8>,
}

pub(crate) fn rsa() -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap()
}

pub(crate) fn elliptic() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

/// An authority.
pub(crate) fn authority() -> Issued {
    issue(
        &[("CN", "an authority")],
        None,
        elliptic(),
        MessageDigest::sha256(),
    )
}

/// A certificate for a subject, signed by the issuer or by itself.
pub(crate) fn issue(
    subject: &[(&str, &str)],
    issuer: Option<&Issued>,
    key: PKey<Private>,
    hash: MessageDigest,
) -> Issued {
    let mut name = X509Name::builder().unwrap();
    for (field, text) in subject {
        name.append_entry_by_text(field, text).unwrap();
    }
    let name = name.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    let mut serial = BigNum::new().unwrap();
    serial.rand(64, MsbOption::MAYBE_ZERO, false).unwrap();
    let serial = serial.to_asn1_integer().unwrap();
    builder.set_serial_number(&serial).unwrap();
    builder.set_subject_name(&name).unwrap();
    let from = issuer.map_or(&*name, |issuer| issuer.certificate.subject_name());
    builder.set_issuer_name(from).unwrap();
    builder
        .set_not_before(&Asn1Time::days_from_now(0).unwrap())
        .unwrap();
    builder
        .set_not_after(&Asn1Time::days_from_now(2).unwrap())
        .unwrap();
    builder.set_pubkey(&key).unwrap();
    if issuer.is_none() {
        let mut constraint = BasicConstraints::new();
        builder
            .append_extension(constraint.critical().ca().build().unwrap())
            .unwrap();
    }
    let names = SubjectAlternativeName::new()
        .dns("db.example")
        .ip("192.0.2.1")
        .build(&builder.x509v3_context(None, None))
        .unwrap();
    builder.append_extension(names).unwrap();
    builder
        .sign(issuer.map_or(&key, |issuer| &issuer.key), hash)
        .unwrap();
    let certificate = builder.build();
    Issued {
        pem: certificate.to_pem().unwrap(),
        key_pem: key.private_key_to_pem_pkcs8().unwrap(),
        certificate,
        key,
    }
}

impl Issued {
    /// This identity, any suite, and nobody else's authority.
    pub(crate) fn material(&self) -> TlsFiles<'_> {
        TlsFiles {
            identity: Some((&self.pem, &self.key_pem)),
            ..anonymous()
        }
    }
}

/// No identity.
pub(crate) fn anonymous() -> TlsFiles<'static> {
    TlsFiles {
        identity: None,
        authorities: None,
        revoked: None,
        suites_12: SUITES_12,
        suites_13: SUITES_13,
    }
}

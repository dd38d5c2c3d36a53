//! The files that TLS and tokens need: certificates, keys, authorities, revocations.
//!
//! Reads each once and lets OpenSSL look at it; knows no key of the
//! configuration. The invariant: what is returned can be given to OpenSSL again
//! without an error, and no reason for refusing contains any of a key's text.

use std::cell::Cell;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use openssl::asn1::Asn1Time;
use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private, Public};
use openssl::ssl::{SslContext, SslMethod};
use openssl::x509::{X509, X509Crl, X509Ref};
use zeroize::Zeroizing;

use super::tls::{Identity, PemFile, PrivateKey};
use crate::tls::server_name;

/// Larger than any bundle of authorities.
const LARGEST: u64 = 4 << 20;

/// The certificate of an identity and what to know about it.
pub(super) fn certificate(path: &Path) -> Result<(PemFile, Option<String>), String> {
    let file = pem(path)?;
    let leaf = certificates(&file)?.swap_remove(0);
    let told = validity(&leaf).map(|when| format!("the certificate in {} {when}", name(path)));
    Ok((file, told))
}

/// The names by which a client can ask for the certificate of an identity.
pub(super) fn names(file: &PemFile) -> Vec<String> {
    let leaf = certificates(file).map(|mut all| all.swap_remove(0));
    leaf.map_or_else(|_| Vec::new(), |leaf| server_name::names(&leaf))
}

/// A private key, and what to know about who else can read it.
pub(super) fn private_key(path: &Path) -> Result<(PrivateKey, Option<String>), String> {
    let (text, told) = read(path, true)?;
    parse_key(path, &text)?;
    let key = PrivateKey::new(path.into(), &text)
        .map_err(|error| format!("no memory for the key in {}: {error}", name(path)))?;
    Ok((key, told))
}

/// Both together, if they belong together and OpenSSL would use them.
pub(super) fn identity(certificate: PemFile, key: PrivateKey) -> Result<Identity, String> {
    let mut chain = certificates(&certificate)?;
    let leaf = chain.remove(0);
    let parsed = parse_key(&key.path, key.expose())?;
    let same = leaf
        .public_key()
        .is_ok_and(|public| public.public_eq(&parsed));
    if !same {
        return Err(format!(
            "the key in {} is not that of the certificate in {}{}",
            name(&key.path),
            name(&certificate.path),
            if chain.is_empty() {
                ""
            } else {
                ", whose first certificate must be the pooler's own"
            }
        ));
    }
    let accepted = || -> Result<(), ErrorStack> {
        let mut context = SslContext::builder(SslMethod::tls())?;
        context.set_certificate(&leaf)?;
        for issuer in chain {
            context.add_extra_chain_cert(issuer)?;
        }
        context.set_private_key(&parsed)?;
        context.check_private_key()
    };
    accepted().map_err(|error| {
        format!(
            "OpenSSL does not accept the certificate in {}: {}",
            name(&certificate.path),
            reason(&error)
        )
    })?;
    Ok(Identity { certificate, key })
}

/// The certificates of authorities, and what to know about them.
pub(super) fn authorities(path: &Path) -> Result<(PemFile, Option<String>), String> {
    let file = pem(path)?;
    let all: Vec<Option<String>> = (certificates(&file)?.iter())
        .map(|certificate| validity(certificate))
        .collect();
    // A bundle may well hold some that are past.
    let told = match all.as_slice() {
        [Some(when), rest @ ..] if rest.iter().all(Option::is_some) => {
            Some(format!("the certificate in {} {when}", name(path)))
        }
        _ => None,
    };
    Ok((file, told))
}

/// A list of revoked certificates.
pub(super) fn revocations(path: &Path) -> Result<PemFile, String> {
    let file = pem(path)?;
    match X509Crl::from_pem(&file.text) {
        Ok(_) => Ok(file),
        Err(error) => Err(format!(
            "{} holds no certificate revocation list in PEM form: {}",
            name(path),
            reason(&error)
        )),
    }
}

/// A public key, of those who sign tokens.
pub(super) fn public_key(path: &Path) -> Result<PKey<Public>, String> {
    let (text, _) = read(path, false)?;
    PKey::public_key_from_pem(&text).map_err(|error| {
        format!(
            "{} holds no public key in PEM form (-----BEGIN PUBLIC KEY-----): {}",
            name(path),
            reason(&error)
        )
    })
}

fn pem(path: &Path) -> Result<PemFile, String> {
    let (mut text, _) = read(path, false)?;
    Ok(PemFile {
        path: path.into(),
        text: std::mem::take(&mut *text),
    })
}

fn certificates(file: &PemFile) -> Result<Vec<X509>, String> {
    match X509::stack_from_pem(&file.text) {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(format!(
            "{} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)",
            name(&file.path)
        )),
        Err(error) => Err(format!(
            "{} holds a damaged certificate: {}",
            name(&file.path),
            reason(&error)
        )),
    }
}

fn parse_key(path: &Path, text: &[u8]) -> Result<PKey<Private>, String> {
    // Without a callback OpenSSL would ask for the passphrase on the terminal.
    let asked = Cell::new(false);
    let parsed = PKey::private_key_from_pem_callback(text, |_| {
        asked.set(true);
        Ok(0)
    });
    parsed.map_err(|error| {
        if asked.get() {
            return format!(
                "the key in {} is encrypted and there is nobody to ask for its passphrase; \
                 write it without one: openssl pkey -in FILE -out NEWFILE",
                name(path)
            );
        }
        format!(
            "{} holds no private key in PEM form (-----BEGIN PRIVATE KEY-----): {}",
            name(path),
            reason(&error)
        )
    })
}

/// The text; for a key also whether it is exposed to others.
fn read(path: &Path, key: bool) -> Result<(Zeroizing<Vec<u8>>, Option<String>), String> {
    let failed = |error: std::io::Error| format!("Could not open {}: {error}", name(path));
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(format!("{} is not a regular file", name(path)));
    }
    let file = File::open(path).map_err(failed)?;
    let size = usize::try_from(metadata.len().min(LARGEST)).unwrap_or(0);
    // With room for one byte more: memory that is given up to grow is not wiped.
    let mut text = Zeroizing::new(Vec::with_capacity(size + 32));
    file.take(LARGEST).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 >= LARGEST {
        return Err(format!("{} is larger than any PEM file", name(path)));
    }
    let owner = metadata.uid();
    let told = if key {
        exposed(path, owner, metadata.mode())
    } else {
        None
    };
    Ok((text, told))
}

/// PostgreSQL's rule (`check_ssl_key_file_permissions`), there an error: only its
/// owner may read it, or, if that is root, also a group.
fn exposed(path: &Path, owner: u32, mode: u32) -> Option<String> {
    let ours = nix::unistd::geteuid().as_raw();
    if owner != ours && owner != 0 {
        return Some(format!(
            "private key file {} should be owned by the user the pooler runs as, or root",
            name(path)
        ));
    }
    let wrong = if owner == ours { 0o077 } else { 0o037 };
    (mode & wrong != 0).then(|| {
        format!(
            "private key file {} has group or world access; its permissions should be u=rw (0600) \
             or less if owned by the user the pooler runs as, or u=rw,g=r (0640) or less if owned \
             by root",
            name(path)
        )
    })
}

/// Why a certificate does not hold today.
fn validity(certificate: &X509Ref) -> Option<String> {
    let now = Asn1Time::days_from_now(0).ok()?;
    if certificate.not_after() < now {
        Some(format!("expired on {}", certificate.not_after()))
    } else if certificate.not_before() > now {
        Some(format!("is not valid before {}", certificate.not_before()))
    } else {
        None
    }
}

/// A file for a message: all of it, for the end of a path says which one it is.
pub(super) fn name(path: &Path) -> String {
    format!("{path:?}")
}

/// OpenSSL's last word; it never quotes the input.
fn reason(error: &ErrorStack) -> String {
    let last = error.errors().last();
    last.and_then(|error| error.reason())
        .unwrap_or("no reason given")
        .into()
}

//! The key schedule: from a handshake's secrets to the keys of both directions, and from each TLS 1.3
//! traffic secret to the next.
//!
//! Every output here is at most one hash long, or is made block by block, so HMAC is all it takes.

use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::Signer;
use zeroize::Zeroizing;

use super::secret::{MAX_LENGTH, Secret};
use super::suite::{Aead, NONCE, Version};

/// What one direction of a connection is protected with.
#[derive(Debug, Clone)]
pub struct Keys {
    /// TLS 1.3: the traffic secret the others come from. Empty in TLS 1.2.
    pub secret: Secret,
    /// The key.
    pub key: Secret,
    /// The IV: all twelve bytes, or with TLS 1.2 and AES-GCM the first four.
    pub iv: Secret,
}

fn hmac(hash: MessageDigest, key: &[u8], parts: &[&[u8]]) -> Result<Secret, ErrorStack> {
    let key = PKey::hmac(key)?;
    let mut signer = Signer::new(hash, &key)?;
    for part in parts {
        signer.update(part)?;
    }
    let mut out = Zeroizing::new([0; MAX_LENGTH]);
    let length = signer.sign(&mut out[..])?;
    Secret::new(&out[..length]).ok_or_else(ErrorStack::get)
}

/// HKDF-Expand-Label (RFC 8446 section 7.1) with an empty context. `length` is at most that of the hash.
///
/// # Errors
/// If OpenSSL cannot compute, or more is asked for than one block.
pub fn expand_label(
    hash: MessageDigest,
    secret: &Secret,
    label: &str,
    length: usize,
) -> Result<Secret, ErrorStack> {
    const PREFIX: &str = "tls13 ";
    let short = |n: usize| u8::try_from(n).map_err(|_| ErrorStack::get());
    let info = [
        &[0, short(length)?, short(PREFIX.len() + label.len())?][..],
        PREFIX.as_bytes(),
        label.as_bytes(),
        &[0],
    ];
    // HKDF-Expand (RFC 5869): the first block is HMAC(secret, info | 1).
    let block = hmac(
        hash,
        secret.expose(),
        &[info[0], info[1], info[2], info[3], &[1]],
    )?;
    let wanted = block.expose().get(..length).ok_or_else(ErrorStack::get)?;
    Secret::new(wanted).ok_or_else(ErrorStack::get)
}

/// The keys of a TLS 1.3 traffic secret (RFC 8446 section 7.3).
///
/// # Errors
/// If OpenSSL cannot compute.
pub fn traffic_keys(aead: Aead, secret: &Secret) -> Result<Keys, ErrorStack> {
    let hash = aead.hash();
    Ok(Keys {
        secret: secret.clone(),
        key: expand_label(hash, secret, "key", aead.key_length())?,
        iv: expand_label(hash, secret, "iv", NONCE)?,
    })
}

/// The traffic secret that follows this one after a KeyUpdate (RFC 8446 section 7.2).
///
/// # Errors
/// If OpenSSL cannot compute.
pub fn next_secret(aead: Aead, secret: &Secret) -> Result<Secret, ErrorStack> {
    let hash = aead.hash();
    expand_label(hash, secret, "traffic upd", secret.expose().len())
}

/// TLS 1.2's pseudo-random function (RFC 5246 section 5), filling `out`.
///
/// # Errors
/// If OpenSSL cannot compute.
pub fn prf(
    hash: MessageDigest,
    secret: &[u8],
    label: &str,
    seed: &[&[u8]],
    out: &mut [u8],
) -> Result<(), ErrorStack> {
    let label = label.as_bytes();
    let empty: &[u8] = &[];
    let (first, second) = (
        seed.first().copied().unwrap_or(empty),
        seed.get(1).copied().unwrap_or(empty),
    );
    let mut a = hmac(hash, secret, &[label, first, second])?;
    let mut filled = 0;
    while filled < out.len() {
        let block = hmac(hash, secret, &[a.expose(), label, first, second])?;
        let n = block.expose().len().min(out.len() - filled);
        if n == 0 {
            return Err(ErrorStack::get());
        }
        out[filled..filled + n].copy_from_slice(&block.expose()[..n]);
        filled += n;
        a = hmac(hash, secret, &[a.expose()])?;
    }
    Ok(())
}

/// The keys of both directions of a TLS 1.2 connection (RFC 5246 section 6.3): the client's and the
/// server's.
///
/// # Errors
/// If OpenSSL cannot compute.
pub fn key_block(
    aead: Aead,
    master: &Secret,
    client_random: &[u8],
    server_random: &[u8],
) -> Result<(Keys, Keys), ErrorStack> {
    let key = aead.key_length();
    let iv = NONCE - aead.explicit_nonce(Version::Tls12);
    let mut block = Zeroizing::new([0; 2 * (32 + NONCE)]);
    let seed = [server_random, client_random];
    let block = &mut block[..2 * (key + iv)];
    prf(aead.hash(), master.expose(), "key expansion", &seed, block)?;
    let cut = |from: usize, length: usize| {
        Secret::new(&block[from..from + length]).ok_or_else(ErrorStack::get)
    };
    let none = || Secret::new(&[]).ok_or_else(ErrorStack::get);
    let client = Keys {
        secret: none()?,
        key: cut(0, key)?,
        iv: cut(2 * key, iv)?,
    };
    let server = Keys {
        secret: none()?,
        key: cut(key, key)?,
        iv: cut(2 * key + iv, iv)?,
    };
    Ok((client, server))
}

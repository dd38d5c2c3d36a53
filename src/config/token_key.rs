//! The keys of JSON Web Tokens: public ones that tell whether a client's token is genuine, and private ones for
//! tokens of the pooler's own.
//!
//! Files are read by `tls_files`. Making and checking tokens is `auth`'s. Invariant: the kind of a key, and nothing
//! that a token says, decides which algorithm its signatures are checked with.

use std::fmt;
use std::path::{Path, PathBuf};

use openssl::nid::Nid;
use openssl::pkey::{HasPublic, Id, PKey, PKeyRef, Public};

use super::tls::PrivateKey;
use super::tls_files;

/// Bits of an RSA key, at least (RFC 7518, section 3.3).
const LEAST_RSA_BITS: u32 = 2048;

/// How tokens are signed (RFC 7518, RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenAlgorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl TokenAlgorithm {
    /// Its name in a token's header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    /// The only one that a key is used with.
    fn of<T: HasPublic>(key: &PKeyRef<T>) -> Result<Self, &'static str> {
        match key.id() {
            Id::RSA if key.bits() < LEAST_RSA_BITS => Err("an RSA key of less than 2048 bits"),
            Id::RSA => Ok(Self::Rs256),
            Id::ED25519 => Ok(Self::EdDsa),
            Id::EC => match key.ec_key().ok().and_then(|key| key.group().curve_name()) {
                Some(Nid::X9_62_PRIME256V1) => Ok(Self::Es256),
                _ => Err("a key on another curve than P-256"),
            },
            _ => Err("a key of another kind"),
        }
    }
}

/// The public key of those who issue tokens.
#[derive(Clone)]
pub struct TokenKey {
    path: PathBuf,
    /// OpenSSL's.
    pub key: PKey<Public>,
    /// What tokens must be signed with.
    pub algorithm: TokenAlgorithm,
}

/// The private key that the pooler signs its own tokens with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSigner {
    /// The key.
    pub key: PrivateKey,
    /// What tokens are signed with.
    pub algorithm: TokenAlgorithm,
}

impl TokenKey {
    /// Reads a public key.
    ///
    /// # Errors
    /// Why the file is of no use.
    pub(super) fn load(path: &Path) -> Result<TokenKey, String> {
        let key = tls_files::public_key(path)?;
        Ok(TokenKey {
            algorithm: TokenAlgorithm::of(&key).map_err(|what| unfit(path, what))?,
            path: path.into(),
            key,
        })
    }
}

impl TokenSigner {
    /// Reads a private key, and what to know about who else can read it.
    ///
    /// # Errors
    /// Why the file is of no use.
    pub(super) fn load(path: &Path) -> Result<(TokenSigner, Option<String>), String> {
        let (key, told) = tls_files::private_key(path)?;
        let parsed = PKey::private_key_from_pem(key.expose()).map_err(|error| error.to_string())?;
        let algorithm = TokenAlgorithm::of(&parsed).map_err(|what| unfit(path, what))?;
        Ok((TokenSigner { key, algorithm }, told))
    }
}

fn unfit(path: &Path, what: &str) -> String {
    format!(
        "{} holds {what}; tokens need RSA (2048 bits or more), EC on P-256, or Ed25519",
        tls_files::name(path)
    )
}

impl PartialEq for TokenKey {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path && self.key.public_eq(&other.key)
    }
}

impl Eq for TokenKey {}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenKey({})", self.path.display())
    }
}

//! One direction of a connection: its key, its IV and the number of its next record. Seals and opens
//! single records in place; knows nothing of what they say.
//!
//! OpenSSL's cipher context is keyed once and used for every record of the key; it is made anew from the
//! data when the direction has come from another process. Invariant: no sequence number, and so no nonce,
//! is ever used twice with a key.

use std::fmt;
use std::ops::Range;

use openssl::cipher_ctx::CipherCtx;
use openssl::error::ErrorStack;
use serde::{Deserialize, Serialize};

use super::alert::Alert;
use super::schedule::{self, Keys};
use super::secret::Secret;
use super::suite::{Aead, NONCE, TAG, Version};

/// Bytes of a record's header.
pub const HEADER: usize = 5;

/// Whether a direction is ours to write or the peer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// We open what the peer has sealed.
    In,
    /// We seal.
    Out,
}

/// One direction of a connection.
#[derive(Serialize, Deserialize)]
pub struct Direction {
    version: Version,
    aead: Aead,
    way: Way,
    secret: Secret,
    key: Secret,
    iv: Secret,
    /// The number of the next record.
    sequence: u64,
    #[serde(skip)]
    context: Option<CipherCtx>,
}

impl fmt::Debug for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} #{}", self.way, self.aead, self.sequence)
    }
}

impl Direction {
    /// A direction whose next record has number `sequence`.
    pub fn new(version: Version, aead: Aead, way: Way, keys: Keys, sequence: u64) -> Direction {
        Direction {
            version,
            aead,
            way,
            secret: keys.secret,
            key: keys.key,
            iv: keys.iv,
            sequence,
            context: None,
        }
    }

    /// The number of the next record.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Makes the next record's number another: nobody seals eight million records in a test.
    #[cfg(test)]
    pub(super) fn set_sequence(&mut self, sequence: u64) {
        self.sequence = sequence;
    }

    /// Bytes between a record's start and its data.
    pub fn headroom(&self) -> usize {
        HEADER + self.aead.explicit_nonce(self.version)
    }

    /// Bytes between the end of a record's data and its own: TLS 1.3 hides the content type there.
    pub fn tailroom(&self) -> usize {
        TAG + usize::from(self.version == Version::Tls13)
    }

    /// Keys the cipher context if that has not been done: where it cannot be, the connection cannot be
    /// carried in this process.
    ///
    /// # Errors
    /// If OpenSSL does not have the cipher (FIPS) or the data is not of its lengths.
    pub fn prepare(&mut self) -> Result<(), ErrorStack> {
        self.context().map(drop)
    }

    fn context(&mut self) -> Result<&mut CipherCtx, ErrorStack> {
        if self.context.is_none() {
            let iv = NONCE - self.aead.explicit_nonce(self.version);
            if self.key.expose().len() != self.aead.key_length() || self.iv.expose().len() != iv {
                return Err(ErrorStack::get());
            }
            let mut context = CipherCtx::new()?;
            let (cipher, key) = (Some(self.aead.cipher()), Some(self.key.expose()));
            match self.way {
                Way::In => context.decrypt_init(cipher, key, None)?,
                Way::Out => context.encrypt_init(cipher, key, None)?,
            }
            self.context = Some(context);
        }
        self.context.as_mut().ok_or_else(ErrorStack::get)
    }

    /// Goes on to the next traffic secret, as a KeyUpdate wants it: the record after it has number 0.
    ///
    /// # Errors
    /// If OpenSSL cannot compute.
    pub fn update(&mut self) -> Result<(), ErrorStack> {
        let next = schedule::next_secret(self.aead, &self.secret)?;
        let keys = schedule::traffic_keys(self.aead, &next)?;
        self.secret = keys.secret;
        self.key = keys.key;
        self.iv = keys.iv;
        self.sequence = 0;
        self.context = None;
        Ok(())
    }

    /// The nonce of the next record. `explicit` is the part of it that travels with the record, if any.
    fn nonce(&self, explicit: &[u8]) -> [u8; NONCE] {
        let mut nonce = [0; NONCE];
        let iv = self.iv.expose();
        for (to, from) in nonce.iter_mut().zip(iv) {
            *to = *from;
        }
        if explicit.is_empty() {
            for (to, from) in nonce[NONCE - 8..]
                .iter_mut()
                .zip(self.sequence.to_be_bytes())
            {
                *to ^= from;
            }
        } else {
            for (to, from) in nonce[NONCE - 8..].iter_mut().zip(explicit) {
                *to = *from;
            }
        }
        nonce
    }

    /// What the tag vouches for beside the data: in TLS 1.3 the record's header as it stands, in TLS 1.2
    /// the sequence number and the header with the length of the plaintext.
    fn associated(&self, header: [u8; HEADER], plaintext: usize) -> ([u8; 8 + HEADER], usize) {
        let mut out = [0; 8 + HEADER];
        match self.version {
            Version::Tls13 => {
                out[..HEADER].copy_from_slice(&header);
                (out, HEADER)
            }
            Version::Tls12 => {
                out[..8].copy_from_slice(&self.sequence.to_be_bytes());
                out[8..11].copy_from_slice(&header[..3]);
                let length = u16::try_from(plaintext).unwrap_or(u16::MAX);
                out[11..].copy_from_slice(&length.to_be_bytes());
                (out, out.len())
            }
        }
    }

    /// Takes the number for one record.
    fn advance(&mut self) -> Option<()> {
        self.sequence = self.sequence.checked_add(1)?;
        Some(())
    }

    /// Seals `data` bytes that lie [`headroom`](Direction::headroom) behind the start of `record` as a
    /// record of this content type, in place. Returns the length of the record.
    ///
    /// # Errors
    /// `internal_error` if there is too little room, no sequence number is left or OpenSSL fails.
    pub fn seal(&mut self, kind: u8, record: &mut [u8], data: usize) -> Result<usize, Alert> {
        let start = self.headroom();
        let inner = data + self.tailroom() - TAG;
        let whole = start + inner + TAG;
        let length = u16::try_from(whole - HEADER).map_err(|_| Alert::INTERNAL_ERROR)?;
        let record = record.get_mut(..whole).ok_or(Alert::INTERNAL_ERROR)?;
        let outer = match self.version {
            Version::Tls13 => {
                record[start + data] = kind;
                super::channel::APPLICATION_DATA
            }
            Version::Tls12 => kind,
        };
        let [high, low] = length.to_be_bytes();
        let header = [outer, 3, 3, high, low];
        record[..HEADER].copy_from_slice(&header);
        let explicit = self.sequence.to_be_bytes();
        let explicit = &explicit[..start - HEADER];
        record[HEADER..start].copy_from_slice(explicit);
        let nonce = self.nonce(explicit);
        let (associated, length) = self.associated(header, inner);
        let (data, tag) = record[start..].split_at_mut(inner);
        let run = |context: &mut CipherCtx| -> Result<(), ErrorStack> {
            context.encrypt_init(None, None, Some(&nonce))?;
            context.cipher_update(&associated[..length], None)?;
            if inner > 0 {
                context.cipher_update_inplace(data, inner)?;
            }
            context.cipher_final(&mut [])?;
            context.tag(tag)
        };
        self.context()
            .and_then(run)
            .map_err(|_| Alert::INTERNAL_ERROR)?;
        self.advance().ok_or(Alert::INTERNAL_ERROR)?;
        Ok(whole)
    }

    /// Opens a whole record in place: where in it the plaintext lies.
    ///
    /// # Errors
    /// `bad_record_mac`, whatever is wrong with it; `internal_error` if no sequence number is left.
    pub fn open(&mut self, record: &mut [u8]) -> Result<Range<usize>, Alert> {
        let start = self.headroom();
        let end = record
            .len()
            .checked_sub(TAG)
            .filter(|&end| end >= start)
            .ok_or(Alert::BAD_RECORD_MAC)?;
        let header = *record.first_chunk().ok_or(Alert::BAD_RECORD_MAC)?;
        let nonce = self.nonce(&record[HEADER..start]);
        let (associated, length) = self.associated(header, end - start);
        let (data, tag) = record[start..].split_at_mut(end - start);
        let run = |context: &mut CipherCtx| -> Result<(), ErrorStack> {
            context.decrypt_init(None, None, Some(&nonce))?;
            context.set_tag(tag)?;
            context.cipher_update(&associated[..length], None)?;
            if !data.is_empty() {
                context.cipher_update_inplace(data, end - start)?;
            }
            context.cipher_final(&mut []).map(drop)
        };
        // The error is popped off OpenSSL's queue with the result, so none is left for a later caller.
        self.context()
            .and_then(run)
            .map_err(|_| Alert::BAD_RECORD_MAC)?;
        self.advance().ok_or(Alert::INTERNAL_ERROR)?;
        Ok(start..end)
    }
}

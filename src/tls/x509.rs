//! What OpenSSL knows of a certificate and its crate does not show.

use std::ffi::{c_int, c_ulong, c_void};
use std::ptr;

use foreign_types::ForeignTypeRef;
use openssl::nid::Nid;
use openssl::x509::{X509NameRef, X509Ref};

/// XN_FLAG_RFC2253 of OpenSSL's x509.h, with what it is made of.
const RFC_2253: c_ulong = 0x0111_0317;

/// BIO_CTRL_INFO of OpenSSL's bio.h.
const CONTENT: c_int = 3;

#[allow(unsafe_code)]
unsafe extern "C" {
    fn X509_get_signature_info(
        certificate: *const c_void,
        hash: *mut c_int,
        key: *mut c_int,
        bits: *mut c_int,
        flags: *mut u32,
    ) -> c_int;
    fn X509_NAME_print_ex(
        out: *mut c_void,
        name: *const c_void,
        indent: c_int,
        flags: c_ulong,
    ) -> c_int;
    safe fn BIO_s_mem() -> *const c_void;
    fn BIO_new(kind: *const c_void) -> *mut c_void;
    fn BIO_ctrl(bio: *mut c_void, what: c_int, number: isize, to: *mut c_void) -> isize;
    fn BIO_free(bio: *mut c_void) -> c_int;
}

/// The hash of a certificate's signature. `None` if it is one without a hash, as Ed25519.
pub(super) fn signature_hash(certificate: &X509Ref) -> Option<Nid> {
    let mut hash = 0;
    let none = ptr::null_mut();
    // SAFETY: the certificate lives, and a null pointer asks for nothing.
    #[allow(unsafe_code)]
    let known = unsafe {
        let certificate = certificate.as_ptr().cast::<c_void>();
        X509_get_signature_info(certificate, &raw mut hash, none, none, ptr::null_mut())
    };
    let hash = Nid::from_raw(hash);
    (known == 1 && hash != Nid::UNDEF).then_some(hash)
}

/// A name in the form of RFC 2253, the last part first, as PostgreSQL has it from OpenSSL.
pub fn rfc_2253(name: &X509NameRef) -> Option<String> {
    // SAFETY: the name lives, and so does what the bytes are read from until they are copied.
    #[allow(unsafe_code)]
    unsafe {
        let bio = BIO_new(BIO_s_mem());
        if bio.is_null() {
            return None;
        }
        let written = X509_NAME_print_ex(bio, name.as_ptr().cast::<c_void>(), 0, RFC_2253);
        let mut content: *const u8 = ptr::null();
        let length = BIO_ctrl(bio, CONTENT, 0, (&raw mut content).cast());
        let text = usize::try_from(length)
            .ok()
            .filter(|_| written >= 0 && !content.is_null())
            .map(|length| std::slice::from_raw_parts(content, length).to_vec());
        BIO_free(bio);
        String::from_utf8(text?).ok()
    }
}

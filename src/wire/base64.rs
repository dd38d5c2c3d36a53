//! Base64 as SASL messages and stored passwords have it: with padding and without line breaks (RFC 4648,
//! section 4), and one spelling for each value.

use openssl::base64;
use zeroize::Zeroizing;

/// The base64 of `bytes`, which are few: a key, a salt, a nonce.
pub fn encode(bytes: &[u8]) -> String {
    base64::encode_block(bytes)
}

/// The bytes that `text` is the one base64 spelling of, or `None`.
///
/// OpenSSL alone would take surrounding blanks, padding in the middle and stray low bits. One value having one
/// spelling is what makes the comparison of a channel-binding value, or of a salt, exact.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let body = text
        .strip_suffix("==")
        .or_else(|| text.strip_suffix('='))
        .unwrap_or(text);
    let alphabet = |b: u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
    if text.len() % 4 != 0 || !body.bytes().all(alphabet) {
        return None;
    }
    let bytes = base64::decode_block(text).ok()?;
    (base64::encode_block(&bytes) == text).then_some(bytes)
}

/// As [`decode`], for a value of exactly `N` bytes.
pub fn decode_exactly<const N: usize>(text: &str) -> Option<[u8; N]> {
    let bytes = Zeroizing::new(decode(text)?);
    <[u8; N]>::try_from(&bytes[..]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_one_spelling() {
        assert_eq!(decode("").as_deref(), Some(&b""[..]));
        assert_eq!(decode("biws").as_deref(), Some(&b"n,,"[..]));
        assert_eq!(decode("aQ==").as_deref(), Some(&b"i"[..]));
        assert_eq!(decode_exactly("aQ=="), Some(*b"i"));
        assert_eq!(decode_exactly::<2>("aQ=="), None);
        for wrong in [
            "aR==", "aQ=", "aQ", "aQ==aQ==", " aQ==", "aQ==\n", "====", "=", "==", "===", "a===",
            "biw-", "bi\0s", "biwß",
        ] {
            assert_eq!(decode(wrong), None, "{wrong:?}");
        }
    }
}

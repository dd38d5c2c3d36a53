//! Writing messages: the length of a message is never computed by hand, it is written back when the body
//! is there.

/// Appends a message of `kind` to `out`; `body` appends its body.
///
/// A body that outgrows what a length field can say is cut off with the message itself: nothing is
/// appended. Nothing in this program writes bodies of that size.
pub fn message(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.push(kind);
    counted(out, start, body);
}

/// Appends a message without a kind, as the startup packet is.
pub fn untyped(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    counted(out, start, body);
}

fn counted(out: &mut Vec<u8>, start: usize, body: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    match u32::try_from(out.len() - at) {
        Ok(length) => out[at..at + 4].copy_from_slice(&length.to_be_bytes()),
        Err(_) => out.truncate(start),
    }
}

/// Appends `text` and its NUL. A NUL inside `text` would end it early for the reader and let the rest be
/// read as something else, so the text is cut there.
pub fn c_string(out: &mut Vec<u8>, text: &[u8]) {
    let end = text.iter().position(|&b| b == 0).unwrap_or(text.len());
    out.extend_from_slice(&text[..end]);
    out.push(0);
}

//! Messages as short words, written by hand and not by the code under test.

pub type Bytes = Vec<u8>;

pub fn message(kind: u8, body: &[u8]) -> Bytes {
    let length = u32::try_from(body.len() + 4).expect("a short body");
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

fn strings(of: &[&str]) -> Bytes {
    of.iter()
        .flat_map(|text| [text.as_bytes(), b"\0"].concat())
        .collect()
}

pub fn query(sql: &str) -> Bytes {
    message(b'Q', &strings(&[sql]))
}

pub fn parse(name: &str, sql: &str) -> Bytes {
    message(b'P', &[&strings(&[name, sql])[..], &[0, 0]].concat())
}

pub fn bind(statement: &str) -> Bytes {
    bind_to("", statement)
}

pub fn bind_to(portal: &str, statement: &str) -> Bytes {
    bind_with(portal, statement, b"7")
}

pub fn bind_with(portal: &str, statement: &str, argument: &[u8]) -> Bytes {
    let length = u32::try_from(argument.len()).expect("a short argument");
    let body = [
        &strings(&[portal, statement])[..],
        &[0, 0, 0, 1],
        &length.to_be_bytes(),
        argument,
        &[0, 0],
    ];
    message(b'B', &body.concat())
}

pub fn describe(statement: &str) -> Bytes {
    message(b'D', &strings(&[&format!("S{statement}")]))
}

pub fn describe_portal(portal: &str) -> Bytes {
    message(b'D', &strings(&[&format!("P{portal}")]))
}

pub fn close(statement: &str) -> Bytes {
    message(b'C', &strings(&[&format!("S{statement}")]))
}

pub fn close_portal(portal: &str) -> Bytes {
    message(b'C', &strings(&[&format!("P{portal}")]))
}

pub fn execute() -> Bytes {
    message(b'E', b"\0\0\0\0\0")
}

pub fn sync() -> Bytes {
    message(b'S', b"")
}

pub fn flush() -> Bytes {
    message(b'H', b"")
}

/// What the pooler sends behind Syncs of which it is not known whether they are answered.
pub fn mark() -> Bytes {
    [close("DOORMAN_refuses"), sync()].concat()
}

/// The same where the server may be discarding everything up to a Sync.
pub fn mark_behind_skipping() -> Bytes {
    [sync(), mark()].concat()
}

/// What the pooler ends a batch with whose client is gone.
pub fn fail_batch() -> Bytes {
    let nobodys = [&strings(&["DOORMAN_refuses"])[..], &[0; 4]].concat();
    [message(b'E', &nobodys), sync()].concat()
}

pub fn terminate() -> Bytes {
    message(b'X', b"")
}

pub fn function_call() -> Bytes {
    message(b'F', b"\0\0\x03\xbb\0\0\0\0\0\0")
}

pub fn copy_data(data: &str) -> Bytes {
    message(b'd', data.as_bytes())
}

pub fn copy_done() -> Bytes {
    message(b'c', b"")
}

pub fn copy_fail(why: &str) -> Bytes {
    message(b'f', &strings(&[why]))
}

// From here on: what the server says.

pub fn ready() -> Bytes {
    message(b'Z', b"I")
}

pub fn ready_in_transaction() -> Bytes {
    message(b'Z', b"T")
}

pub fn ready_failed() -> Bytes {
    message(b'Z', b"E")
}

pub fn parsed() -> Bytes {
    message(b'1', b"")
}

pub fn bound() -> Bytes {
    message(b'2', b"")
}

pub fn closed() -> Bytes {
    message(b'3', b"")
}

pub fn no_data() -> Bytes {
    message(b'n', b"")
}

pub fn takes_parameters() -> Bytes {
    message(b't', b"\0\x01\0\0\0\x17")
}

pub fn columns() -> Bytes {
    let field = b"n\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0";
    message(b'T', &[&[0, 1], &field[..]].concat())
}

pub fn row(values: &[&str]) -> Bytes {
    let mut body = u16::try_from(values.len())
        .expect("few columns")
        .to_be_bytes()
        .to_vec();
    for value in values {
        let length = u32::try_from(value.len()).expect("a short value");
        body.extend_from_slice(&length.to_be_bytes());
        body.extend_from_slice(value.as_bytes());
    }
    message(b'D', &body)
}

pub fn complete(tag: &str) -> Bytes {
    message(b'C', &strings(&[tag]))
}

pub fn nothing_to_run() -> Bytes {
    message(b'I', b"")
}

pub fn suspended() -> Bytes {
    message(b's', b"")
}

fn fields(severity: &str, code: &str, words: &str) -> Bytes {
    let fields = [
        &format!("S{severity}")[..],
        &format!("V{severity}"),
        &format!("C{code}"),
        &format!("M{words}"),
        "",
    ];
    strings(&fields)
}

pub fn error(code: &str, words: &str) -> Bytes {
    message(b'E', &fields("ERROR", code, words))
}

pub fn fatal(code: &str, words: &str) -> Bytes {
    message(b'E', &fields("FATAL", code, words))
}

pub fn notice(words: &str) -> Bytes {
    message(b'N', &fields("NOTICE", "00000", words))
}

pub fn notification(channel: &str) -> Bytes {
    message(
        b'A',
        &[&[0, 0, 0, 9], &strings(&[channel, "hello"])[..]].concat(),
    )
}

pub fn parameter(name: &str, value: &str) -> Bytes {
    message(b'S', &strings(&[name, value]))
}

pub fn copy_in() -> Bytes {
    message(b'G', b"\0\0\x01\0\0")
}

pub fn copy_out() -> Bytes {
    message(b'H', b"\0\0\x01\0\0")
}

/// Everything PostgreSQL says to one row of a SELECT in the simple protocol.
pub fn selected(value: &str) -> Bytes {
    [columns(), row(&[value]), complete("SELECT 1"), ready()].concat()
}

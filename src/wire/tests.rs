//! The wire room against bytes as they stand in the manual.

use super::backend::{self, Authentication, TransactionStatus};
use super::error::{ErrorFields, Severity, error_response};
use super::frame::{self, BadLength, Header};
use super::frontend;
use super::startup::{self, FirstPacket, StartupError};

fn packet(code: u32, body: &[u8]) -> Vec<u8> {
    let mut out = (8 + body.len() as u32).to_be_bytes().to_vec();
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(body);
    out
}

#[test]
fn a_header_needs_five_bytes() {
    assert_eq!(frame::header(b"Q\0\0\0"), Ok(None));
    assert_eq!(
        frame::header(b"Q\0\0\0\x0d"),
        Ok(Some(Header {
            kind: b'Q',
            body: 9
        }))
    );
}

#[test]
fn lengths_below_four_and_beyond_a_gigabyte_are_refused() {
    let bad = |length| Err(BadLength { kind: b'Q', length });
    assert_eq!(frame::header(b"Q\0\0\0\x03"), bad(3));
    assert_eq!(frame::header(b"Q\xff\xff\xff\xff"), bad(u32::MAX));
    assert_eq!(frame::header(b"Q\x40\0\0\0"), bad(0x4000_0000));
}

#[test]
fn a_startup_packet_gives_user_database_and_settings() {
    let bytes = packet(
        startup::PROTOCOL_3_0,
        b"user\0j\xc3\xb6rg\0database\0\0application_name\0\0options\0-c geqo=off -cwork_mem=1\\ MB --search-path=a,b\0\0",
    );
    assert_eq!(startup::length(&bytes), Ok(Some(bytes.len())));
    let Ok(FirstPacket::Startup(start)) = startup::parse(&bytes) else {
        panic!("not a startup packet");
    };
    assert_eq!(start.user, "jörg");
    assert_eq!(start.database, "jörg");
    let settings: Vec<_> = start
        .settings
        .iter()
        .map(|(n, v)| (n.as_str(), &**v))
        .collect();
    assert_eq!(
        settings,
        [
            ("geqo", &b"off"[..]),
            ("work_mem", b"1 MB"),
            ("search_path", b"a,b"),
            ("application_name", b""),
        ]
    );
}

#[test]
fn names_are_cut_as_postgresql_cuts_them_and_values_may_be_any_bytes() {
    let long = "n".repeat(70);
    let mut body = format!("user\0{long}\0application_name\0").into_bytes();
    body.extend_from_slice(b"\xcf\xf0\xe8\0\0");
    let Ok(FirstPacket::Startup(start)) = startup::parse(&packet(startup::PROTOCOL_3_0, &body))
    else {
        panic!("not a startup packet");
    };
    assert_eq!(start.user, long[..63]);
    assert_eq!(
        start.settings,
        [("application_name".to_owned(), b"\xcf\xf0\xe8".to_vec())]
    );
}

#[test]
fn a_startup_packet_cut_short_is_refused_wherever_it_is_cut() {
    let whole = packet(startup::PROTOCOL_3_0, b"user\0u\0database\0d\0\0");
    for end in 8..whole.len() {
        assert!(startup::parse(&whole[..end]).is_err(), "cut at {end}");
    }
}

#[test]
fn a_cancel_request_without_its_key_is_refused() {
    let short = packet(startup::CANCEL_REQUEST, b"");
    assert_eq!(startup::parse(&short), Err(StartupError::Cancel));
    let whole = packet(startup::CANCEL_REQUEST, b"\0\0\0\x2a\x01\x02\x03\x04");
    assert_eq!(
        startup::parse(&whole),
        Ok(FirstPacket::Cancel {
            process_id: 42,
            secret: vec![1, 2, 3, 4]
        })
    );
}

#[test]
fn lengths_of_a_first_packet_are_bounded() {
    assert_eq!(startup::length(&[0, 0, 0, 7]), Err(StartupError::Length(7)));
    assert!(startup::length(b"GET ").is_err());
    assert_eq!(startup::length(&[0, 0]), Ok(None));
}

#[test]
fn an_error_response_reads_back_as_written() {
    let mut out = Vec::new();
    error_response(
        &mut out,
        Severity::Fatal,
        "53300",
        "sorry, too many clients already",
    );
    let head = frame::header(&out).unwrap().unwrap();
    assert_eq!((head.kind, head.whole()), (b'E', out.len()));
    let fields = ErrorFields::parse(&out[frame::HEADER..]);
    assert!(fields.is_fatal());
    assert_eq!(fields.code, "53300");
    assert_eq!(fields.message, "sorry, too many clients already");
}

#[test]
fn ready_for_query_tells_the_transaction_status() {
    let mut out = Vec::new();
    backend::ready_for_query(&mut out, TransactionStatus::Failed);
    assert_eq!(out, b"Z\0\0\0\x05E");
    assert_eq!(
        TransactionStatus::parse(b"T"),
        Some(TransactionStatus::InTransaction)
    );
    assert_eq!(TransactionStatus::parse(b"x"), None);
}

#[test]
fn authentication_requests_are_told_apart() {
    assert_eq!(
        Authentication::parse(b"\0\0\0\x05abcd"),
        Some(Authentication::Md5(*b"abcd"))
    );
    assert_eq!(
        Authentication::parse(b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"),
        Some(Authentication::Sasl(vec![
            b"SCRAM-SHA-256-PLUS",
            b"SCRAM-SHA-256"
        ]))
    );
    assert_eq!(Authentication::parse(b"\0\0\0\x05abc"), None);
}

#[test]
fn a_nul_inside_a_text_cannot_smuggle_in_another_field() {
    let mut out = Vec::new();
    frontend::query(&mut out, "select 1\0; drop table t");
    assert_eq!(out, b"Q\0\0\0\x0dselect 1\0");
}

#[test]
fn parsers_survive_any_bytes() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    for round in 0..20_000 {
        let bytes: Vec<u8> = (0..round % 64).map(|_| random() % 80).collect();
        let _ = frame::header(&bytes);
        let _ = startup::parse(&bytes);
        let _ = startup::length(&bytes);
        let _ = ErrorFields::parse(&bytes);
        let _ = Authentication::parse(&bytes);
        let _ = backend::parse_parameter_status(&bytes);
        let mut versioned = packet(startup::PROTOCOL_3_0, &bytes);
        versioned.truncate(4 + round % 70);
        let _ = startup::parse(&versioned);
    }
}

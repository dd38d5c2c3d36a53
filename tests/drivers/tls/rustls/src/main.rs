//! rustls, with the protocol by hand, one connection: a round of work for every line read. TLS_VERSION is 1.2 or
//! 1.3, TLS_SUITE one of rustls's names. With 1.3 it changes its keys in every round and asks the same of the
//! other side.

use std::env;
use std::io::{self, BufRead, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, version};

type Tls = StreamOwned<ClientConnection, TcpStream>;
type Done<T> = Result<T, Box<dyn std::error::Error>>;

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_default()
}

fn main() -> Done<()> {
    let mut tls = connect()?;
    let mut startup = Vec::from(196_608i32.to_be_bytes());
    for text in [
        "user",
        &variable("PGUSER"),
        "database",
        &variable("PGDATABASE"),
    ] {
        startup.extend_from_slice(text.as_bytes());
        startup.push(0);
    }
    startup.push(0);
    let length = i32::try_from(startup.len() + 4)?.to_be_bytes();
    tls.write_all(&[&length[..], &startup].concat())?;
    replies(&mut tls)?;
    println!("connected");
    for line in io::stdin().lock().lines() {
        line?;
        round(&mut tls)?;
        println!("round");
    }
    message(&mut tls, b'X', b"")?;
    // The other side says goodbye, or this is an error: the end of the file alone could be an attacker's.
    let mut rest = Vec::new();
    tls.read_to_end(&mut rest)?;
    assert!(rest.is_empty());
    println!("done");
    Ok(())
}

fn connect() -> Done<Tls> {
    let mut provider = ring::default_provider();
    let suite = variable("TLS_SUITE");
    provider
        .cipher_suites
        .retain(|known| suite.is_empty() || format!("{:?}", known.suite()) == suite);
    assert!(!provider.cipher_suites.is_empty(), "{suite} is unknown");
    let versions = match variable("TLS_VERSION").as_str() {
        "1.2" => [&version::TLS12],
        _ => [&version::TLS13],
    };
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(variable("PGSSLROOTCERT"))?)?;
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&versions)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let host = variable("PGHOST");
    let mut socket = TcpStream::connect((host.as_str(), variable("PGPORT").parse()?))?;
    socket.set_nodelay(true)?;
    socket.write_all(&[0, 0, 0, 8, 4, 210, 22, 47])?;
    let mut answer = [0];
    socket.read_exact(&mut answer)?;
    assert_eq!(&answer, b"S");
    let client = ClientConnection::new(Arc::new(config), ServerName::try_from(host)?)?;
    Ok(StreamOwned::new(client, socket))
}

fn message(tls: &mut Tls, kind: u8, body: &[u8]) -> Done<()> {
    let length = u32::try_from(body.len() + 4)?.to_be_bytes();
    tls.write_all(&[&[kind], &length[..], body].concat())?;
    tls.flush()?;
    Ok(())
}

/// Reads up to ReadyForQuery; the first columns of all rows.
fn replies(tls: &mut Tls) -> Done<Vec<Vec<u8>>> {
    let mut rows = Vec::new();
    loop {
        let mut head = [0; 5];
        tls.read_exact(&mut head)?;
        let [kind, length @ ..] = head;
        let mut body = vec![0; usize::try_from(u32::from_be_bytes(length))? - 4];
        tls.read_exact(&mut body)?;
        match kind {
            b'D' => rows.push(body.split_off(6)),
            b'E' => return Err(String::from_utf8_lossy(&body).into()),
            b'Z' => return Ok(rows),
            _ => {}
        }
    }
}

fn ask(tls: &mut Tls, sql: &str) -> Done<Vec<Vec<u8>>> {
    message(tls, b'Q', &[sql.as_bytes(), b"\0"].concat())?;
    replies(tls)
}

fn round(tls: &mut Tls) -> Done<()> {
    for n in 0..50 {
        assert_eq!(
            ask(tls, &format!("select {n} + 1"))?,
            [(n + 1).to_string().into_bytes()]
        );
    }
    if variable("TLS_VERSION") == "1.3" {
        tls.conn.refresh_traffic_keys()?;
    }
    let rows = ask(
        tls,
        "select repeat(n::text, 200) from generate_series(1, 3000) n",
    )?;
    assert_eq!(rows.len(), 3000);
    for (row, n) in rows.iter().zip(1..) {
        assert_eq!(row, format!("{n}").repeat(200).as_bytes());
    }
    let sent = "0123456789".repeat(100_000);
    let answer = ask(tls, &format!("select length('{sent}')"))?;
    assert_eq!(answer, [b"1000000"]);
    if variable("TLS_VERSION") == "1.3" {
        tls.conn.refresh_traffic_keys()?;
    }
    assert_eq!(ask(tls, "select 'still here'")?, [b"still here"]);
    Ok(())
}

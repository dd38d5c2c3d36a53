//! Handshakes between our two roles, and of each with a plain OpenSSL on the other side.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;

use openssl::hash::{MessageDigest, hash};
use openssl::ssl::{Ssl, SslContext, SslMethod, SslStream, SslVerifyMode};

use super::super::handshake::{Established, Failure, Host, accept, connect};
use super::super::identity::{Acceptor, ClientCertPolicy, Connector, TlsFiles};
use super::super::suite::Version;
use super::certificates::{Issued, anonymous, authority, elliptic, issue, rsa};
use super::{hear, say};

const ANY: Host<'static> = Host {
    name: "db.example",
    verified: false,
};

const NAMED: Host<'static> = Host {
    verified: true,
    ..ANY
};

fn meet(
    acceptor: &Acceptor,
    connector: &Connector,
    host: Host<'_>,
) -> (Result<Established, Failure>, Result<Established, Failure>) {
    let (mut here, mut there) = UnixStream::pair().unwrap();
    thread::scope(|scope| {
        let server = scope.spawn(move || accept(acceptor, &mut here, Vec::new()));
        let client = connect(connector, host, &mut there);
        drop(there);
        (server.join().unwrap(), client)
    })
}

fn server(key: openssl::pkey::PKey<openssl::pkey::Private>) -> (Issued, Issued) {
    let authority = authority();
    let subject = [("CN", "db.example")];
    let server = issue(&subject, Some(&authority), key, MessageDigest::sha384());
    (authority, server)
}

#[test]
fn both_roles_agree_in_every_suite_and_talk() {
    for key in [rsa(), elliptic()] {
        let (_, own) = server(key);
        let kind = if own.key_pem.len() > 1000 {
            "RSA"
        } else {
            "ECDSA"
        };
        for suite in [
            "TLS_AES_128_GCM_SHA256",
            "TLS_AES_256_GCM_SHA384",
            "TLS_CHACHA20_POLY1305_SHA256",
            "AES128-GCM-SHA256",
            "AES256-GCM-SHA384",
            "CHACHA20-POLY1305",
        ] {
            let old = format!("ECDHE-{kind}-{suite}");
            let (suites_12, suites_13, version) = if suite.starts_with("TLS") {
                ("", suite, Version::Tls13)
            } else {
                (&*old, "", Version::Tls12)
            };
            let with = |material| TlsFiles {
                suites_12,
                suites_13,
                ..material
            };
            let acceptor =
                Acceptor::new(&with(own.material()), &[], ClientCertPolicy::Nothing).unwrap();
            let connector = Connector::new(&with(anonymous())).unwrap();
            let (here, there) = meet(&acceptor, &connector, ANY);
            let (mut here, mut there) = (here.unwrap(), there.unwrap());
            assert!(here.peer.alpn && there.peer.alpn);
            assert_eq!((here.early.len(), there.early.len()), (0, 0));
            assert_eq!(here.channel.negotiated().version, version);
            assert_eq!(
                there.channel.negotiated().suite,
                if suites_12.is_empty() {
                    suite
                } else {
                    suites_12
                }
            );
            let mut wire = say(&mut here.channel, b"a question", 100);
            assert_eq!(
                hear(&mut there.channel, &mut wire).unwrap().0,
                b"a question"
            );
            let mut wire = say(&mut there.channel, b"an answer", 100);
            assert_eq!(hear(&mut here.channel, &mut wire).unwrap().0, b"an answer");
        }
    }
}

#[test]
fn a_plain_openssl_is_understood_from_the_first_byte_behind_its_handshake() {
    let (_, own) = server(elliptic());
    for (suites_12, suites_13) in [
        ("", "TLS_AES_256_GCM_SHA384"),
        ("ECDHE-ECDSA-AES128-GCM-SHA256", ""),
    ] {
        let material = TlsFiles {
            suites_12,
            suites_13,
            ..own.material()
        };
        let acceptor = Acceptor::new(&material, &[], ClientCertPolicy::Nothing).unwrap();
        let (mut here, there) = UnixStream::pair().unwrap();
        let client = thread::spawn(move || {
            let mut context = SslContext::builder(SslMethod::tls()).unwrap();
            context.set_verify(SslVerifyMode::NONE);
            let ssl = Ssl::new(&context.build()).unwrap();
            let mut stream = SslStream::new(ssl, there).unwrap();
            stream.connect().unwrap();
            // Right behind the Finished, in the same packet for all anybody knows.
            stream.write_all(b"hello").unwrap();
            let mut answer = [0; 5];
            stream.read_exact(&mut answer).unwrap();
            stream.shutdown().unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).unwrap();
            (answer, rest)
        });
        let mut established = accept(&acceptor, &mut here, Vec::new()).unwrap();
        assert!(!established.peer.alpn, "it has not asked for a protocol");
        let mut wire = established.early;
        let mut chunk = [0; 1024];
        let mut heard = Vec::new();
        let mut ended = false;
        while !ended {
            let (said, end) = hear(&mut established.channel, &mut wire).unwrap();
            heard.extend(said);
            ended = end;
            if heard == b"hello" && !ended {
                let answer = say(&mut established.channel, b"world", 2);
                here.write_all(&answer).unwrap();
                heard.clear();
            }
            if !ended {
                let n = here.read(&mut chunk).unwrap();
                wire.extend_from_slice(&chunk[..n]);
            }
        }
        here.write_all(&established.channel.take_replies()).unwrap();
        assert_eq!(client.join().unwrap(), (*b"world", Vec::new()));
    }
}

#[test]
fn a_servers_certificate_is_judged_by_who_signed_it_and_what_it_is_for() {
    let (trusted, own) = server(elliptic());
    let acceptor = Acceptor::new(&own.material(), &[], ClientCertPolicy::Nothing).unwrap();
    let trusting = |authority: &Issued| {
        let material = TlsFiles {
            authorities: Some(&authority.pem),
            ..anonymous()
        };
        Connector::new(&material).unwrap()
    };
    let mut reached = Vec::new();
    for name in ["db.example", "192.0.2.1", "other.example", "192.0.2.2"] {
        let host = Host {
            name,
            verified: true,
        };
        let (_, there) = meet(&acceptor, &trusting(&trusted), host);
        reached.push(there.is_ok());
    }
    assert_eq!(reached, [true, true, false, false]);
    let other = Host {
        name: "other.example",
        verified: false,
    };
    assert!(meet(&acceptor, &trusting(&trusted), other).1.is_ok());
    let (here, there) = meet(&acceptor, &trusting(&authority()), NAMED);
    let why = there.unwrap_err().to_string();
    assert!(why.contains("certificate verify failed"), "{why}");
    let told = here.unwrap_err().to_string();
    assert!(told.contains("alert"), "{told}");
}

#[test]
fn a_clients_certificate_is_asked_for_as_it_is_meant_to_be() {
    let (_, own) = server(elliptic());
    let clients = authority();
    let subject = [("C", "NL"), ("O", "Some, Where"), ("CN", "app")];
    let client = issue(
        &subject,
        Some(&clients),
        elliptic(),
        MessageDigest::sha256(),
    );
    let stranger = issue(
        &subject,
        Some(&authority()),
        elliptic(),
        MessageDigest::sha256(),
    );
    let accepted = |ask, with: &TlsFiles<'_>| {
        // In TLS 1.2, where the client learns of a refusal before its own handshake is over.
        let material = TlsFiles {
            authorities: Some(&clients.pem),
            suites_13: "",
            ..own.material()
        };
        let acceptor = Acceptor::new(&material, &[], ask).unwrap();
        meet(&acceptor, &Connector::new(with).unwrap(), ANY).0
    };
    for (ask, with, good) in [
        (ClientCertPolicy::Nothing, anonymous(), true),
        (ClientCertPolicy::Offered, anonymous(), true),
        (ClientCertPolicy::Demanded, anonymous(), false),
        (ClientCertPolicy::Offered, client.material(), true),
        (ClientCertPolicy::Demanded, client.material(), true),
        (ClientCertPolicy::Offered, stranger.material(), false),
        (ClientCertPolicy::Demanded, stranger.material(), false),
    ] {
        let outcome = accepted(ask, &with);
        assert_eq!(outcome.is_ok(), good, "{ask:?} {outcome:?}");
        if let (Ok(established), Some(_)) = (outcome, with.identity) {
            let shown = established.peer.certificate.unwrap();
            assert_eq!(shown.to_pem().unwrap(), client.pem);
        }
    }
}

#[test]
fn both_sides_bind_to_the_same_certificate() {
    for (signature, binding) in [
        (MessageDigest::sha1(), MessageDigest::sha256()),
        (MessageDigest::sha256(), MessageDigest::sha256()),
        (MessageDigest::sha512(), MessageDigest::sha512()),
    ] {
        let own = issue(&[("CN", "db.example")], None, rsa(), signature);
        let expected = hash(binding, &own.certificate.to_der().unwrap())
            .unwrap()
            .to_vec();
        // OpenSSL does not like to be shown a certificate with SHA-1, but it can be asked about one.
        let bound = crate::tls::channel_binding::channel_binding(&own.certificate);
        assert_eq!(bound.as_ref(), Some(&expected));
        if signature != MessageDigest::sha1() {
            let acceptor = Acceptor::new(&own.material(), &[], ClientCertPolicy::Nothing).unwrap();
            let connector = Connector::new(&anonymous()).unwrap();
            let (here, there) = meet(&acceptor, &connector, ANY);
            assert_eq!(here.unwrap().peer.channel_binding.as_ref(), Some(&expected));
            assert_eq!(
                there.unwrap().peer.channel_binding.as_ref(),
                Some(&expected)
            );
        }
    }
}

#[test]
fn what_is_no_handshake_is_refused_in_words() {
    let (_, own) = server(elliptic());
    let acceptor = Acceptor::new(&own.material(), &[], ClientCertPolicy::Nothing).unwrap();
    for (sent, expected) in [
        (&b"\0\0\0\x08\x04\xd2\x16\x2f and more"[..], ""),
        (b"\x16\x03\x01\0\x05\x01\0\0\x01\x03", ""),
        (b"", "closed"),
    ] {
        let (mut here, there) = UnixStream::pair().unwrap();
        there.shutdown(std::net::Shutdown::Write).unwrap();
        let failure = accept(&acceptor, &mut here, sent.to_vec()).unwrap_err();
        assert!(
            matches!(&failure, Failure::Refused(why) if why.contains(expected)),
            "{failure:?}"
        );
    }
}

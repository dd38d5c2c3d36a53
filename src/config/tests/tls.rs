//! The TLS keys: which settings they give, and what is told of their files.

use std::os::unix::fs::PermissionsExt;

use openssl::asn1::Asn1Time;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::symm::Cipher;
use openssl::x509::extension::SubjectAlternativeName;
use openssl::x509::{X509, X509NameBuilder};

use super::*;

/// A directory with `server.crt` and `server.key`, which belong together, and
/// `ca.crt`, the same certificate; removed when it is dropped.
struct Files(PathBuf);

impl Files {
    fn new(name: &str) -> Files {
        let directory =
            std::env::temp_dir().join(format!("pg_doorman-tls-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let files = Files(directory);
        let key = key();
        let certificate = certificate(&key, 1, &[]);
        files.put("server.crt", &certificate);
        files.put("ca.crt", &certificate);
        files.put("server.key", &key.private_key_to_pem_pkcs8().unwrap());
        files.allow("server.key", 0o600);
        files
    }

    fn put(&self, name: &str, text: &[u8]) {
        std::fs::write(self.0.join(name), text).unwrap();
    }

    fn allow(&self, name: &str, mode: u32) {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(self.0.join(name), mode).unwrap();
    }

    /// The lines with their files in this directory.
    fn lines(&self, lines: &str) -> String {
        lines.replace("@", &format!("{}/", self.0.display()))
    }

    fn general(&self, lines: &str) -> Result<Settings, String> {
        with_general(&self.lines(lines))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

/// Signed by itself, for servers of these names, and good for so many days.
fn certificate(key: &PKey<Private>, days: u32, names: &[&str]) -> Vec<u8> {
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("CN", "localhost").unwrap();
    let name = name.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_subject_name(&name).unwrap();
    builder.set_issuer_name(&name).unwrap();
    let past = Asn1Time::from_unix(1_000_000_000).unwrap();
    builder.set_not_before(&past).unwrap();
    let end = match days {
        0 => Asn1Time::from_unix(1_100_000_000).unwrap(),
        days => Asn1Time::days_from_now(days).unwrap(),
    };
    builder.set_not_after(&end).unwrap();
    builder.set_pubkey(key).unwrap();
    if !names.is_empty() {
        let mut all = SubjectAlternativeName::new();
        for name in names {
            all.dns(name);
        }
        let all = all.build(&builder.x509v3_context(None, None)).unwrap();
        builder.append_extension(all).unwrap();
    }
    builder.sign(key, MessageDigest::sha256()).unwrap();
    builder.build().to_pem().unwrap()
}

const PAIR: &str = "tls_certificate = '@server.crt'\ntls_private_key = '@server.key'\n";

#[test]
fn a_certificate_alone_lets_clients_choose() {
    let files = Files::new("choose");
    for (lines, plain_allowed) in [("", true), ("tls_mode = 'prefer'", true)] {
        let settings = files.general(&format!("{PAIR}{lines}")).unwrap();
        let tls = settings.general.client_tls.unwrap();
        assert_eq!(tls.plain_allowed, plain_allowed);
        assert_eq!(tls.certificates, ClientCertificates::NotAsked);
        assert_eq!(tls.protocols, Protocols::default());
        assert!(tls.identity.key.expose().starts_with(b"-----BEGIN"));
    }
    let off = files.general(&format!("{PAIR}tls_mode = 'disable'"));
    assert_eq!(off.unwrap().general.client_tls, None);
    assert_eq!(with_general("").unwrap().general.client_tls, None);
    let asked = files
        .general(&format!("{PAIR}tls_ca_cert = '@ca.crt'"))
        .unwrap();
    assert!(matches!(
        asked.general.client_tls.unwrap().certificates,
        ClientCertificates::Asked(_)
    ));
}

#[test]
fn tls_that_is_allowed_without_a_certificate_is_told() {
    let told = warnings(&with_general("tls_mode = 'allow'").unwrap());
    assert!(
        told.iter()
            .any(|told| told.ends_with("so nobody can use TLS")),
        "{told:?}"
    );
}

#[test]
fn versions_and_suites_are_chosen_by_openssls_names() {
    let files = Files::new("suites");
    let protocols = |lines: &str| {
        let settings = files.general(&format!("{PAIR}{lines}"));
        settings.map(|settings| settings.general.client_tls.unwrap().protocols.clone())
    };
    let new = protocols("tls_min_version = 'TLSv1.3'").unwrap();
    assert_eq!(new.oldest(), TlsVersion::Tls13);
    let list = "tls_cipher_suites = 'TLS_AES_128_GCM_SHA256:ECDHE-RSA-AES128-GCM-SHA256'";
    assert_eq!(
        protocols(list).unwrap().suites(),
        [Suite::Aes128GcmSha256, Suite::EcdheRsaAes128GcmSha256]
    );
    let error = protocols("tls_cipher_suites = ['ECDHE-RSA-AES128-SHA256']").unwrap_err();
    assert!(
        error.contains("AES128-SHA256\" is not one of the AEAD suites TLS_AES_256_GCM_SHA384, "),
        "{error}"
    );
    let error =
        protocols("tls_min_version = 'TLSv1.3'\ntls_cipher_suites = 'ECDHE-RSA-AES128-GCM-SHA256'");
    let error = error.unwrap_err();
    assert!(
        error.contains("holds no suite of TLSv1.3 or later"),
        "{error}"
    );
}

#[test]
fn what_is_wrong_with_a_file_is_told_at_its_key() {
    let files = Files::new("wrong");
    files.put("empty", b"\n");
    files.put("other.key", &key().private_key_to_pem_pkcs8().unwrap());
    files.allow("other.key", 0o600);
    let locked = key().private_key_to_pem_pkcs8_passphrase(Cipher::aes_256_cbc(), b"hunter2");
    files.put("locked.key", &locked.unwrap());
    let cases = [
        (
            concat!(
                "tls_certificate = '@a-directory-whose-name-is-as-long-as-others-are/a-name/none'\n",
                "tls_private_key = '@server.key'"
            ),
            "Could not open \"@a-directory-whose-name-is-as-long-as-others-are/a-name/none\": No such",
        ),
        (
            "tls_certificate = '@none'\ntls_private_key = '@server.key'",
            "test.toml:5: general.tls_certificate: Could not open",
        ),
        (
            "tls_certificate = '@empty'\ntls_private_key = '@server.key'",
            "test.toml:5: general.tls_certificate: \"@empty\" holds no certificate in PEM form",
        ),
        (
            "tls_certificate = '@server.crt'\ntls_private_key = '@server.crt'",
            "test.toml:6: general.tls_private_key: \"@server.crt\" holds no private key",
        ),
        (
            "tls_certificate = '@server.crt'\ntls_private_key = '@'",
            "test.toml:6: general.tls_private_key: \"@\" is not a regular file",
        ),
        (
            "tls_certificate = '@server.crt'\ntls_private_key = '@locked.key'",
            "test.toml:6: general.tls_private_key: the key in \"@locked.key\" is encrypted",
        ),
        (
            "tls_certificate = '@server.crt'\ntls_private_key = '@other.key'",
            "test.toml:6: general.tls_private_key: the key in \"@other.key\" is not that of the \
             certificate in \"@server.crt\"",
        ),
        (
            "tls_certificate = '@server.crt'\ntls_private_key = '@server.key'\n\
             tls_ca_cert = '@server.key'",
            "test.toml:7: general.tls_ca_cert: \"@server.key\" holds no certificate",
        ),
        (
            "tls_certificate = '@server.crt'\ntls_private_key = '@server.key'\n\
             tls_ca_cert = '@ca.crt'\ntls_crl = '@ca.crt'",
            "test.toml:8: general.tls_crl: \"@ca.crt\" holds no certificate revocation list",
        ),
        (
            "server_tls_mode = 'prefer'\nserver_tls_certificate = '@server.crt'\n\
             server_tls_private_key = '@other.key'",
            "test.toml:7: general.server_tls_private_key: the key in \"@other.key\" is not that",
        ),
    ];
    for (lines, expected) in cases {
        let error = files.general(lines).unwrap_err();
        assert!(error.contains(&files.lines(expected)), "{error}");
        assert!(
            !error.contains("BEGIN ENC") && !error.contains("MIG"),
            "{error}"
        );
    }
}

#[test]
fn further_certificates_are_told_of_as_the_first_one_is() {
    let files = Files::new("further");
    for (name, names) in [
        ("shop", &["shop.example", "db.example"][..]),
        ("db", &["DB.example"]),
    ] {
        let key = key();
        files.put(&format!("{name}.crt"), &certificate(&key, 1, names));
        files.put(
            &format!("{name}.key"),
            &key.private_key_to_pem_pkcs8().unwrap(),
        );
        files.allow(&format!("{name}.key"), 0o600);
    }
    let pair = |certificate: &str, key: &str| {
        format!(
            "[[general.tls_certificates]]\ncertificate = '@{certificate}'\nprivate_key = '@{key}'\n"
        )
    };
    let (shop, db) = (pair("shop.crt", "shop.key"), pair("db.crt", "db.key"));
    let settings = files.general(&format!("{PAIR}{db}{shop}")).unwrap();
    assert_eq!(warnings(&settings), [""; 0]);
    let others = &settings.general.client_tls.as_ref().unwrap().others;
    let paths = others.iter().map(|other| other.certificate.path.clone());
    assert!(paths.eq(["db.crt", "shop.crt"].map(|name| files.0.join(name))));
    let row = show(&settings)
        .into_iter()
        .find(|row| row.key == "tls_certificates");
    assert_eq!(row.unwrap().value, files.lines("@db.crt, @shop.crt"));
    // In the other order the names of the one are all taken.
    let told = warnings(&files.general(&format!("{PAIR}{shop}{db}")).unwrap()).join("\n");
    let expected = files.lines(
        "test.toml:11: general.tls_certificates.1.certificate: the certificate in \"@db.crt\" is \
         never shown",
    );
    assert!(told.contains(&expected), "{told}");
    for (lines, expected) in [
        (
            format!("{PAIR}{shop}{}", pair("db.crt", "shop.key")),
            "test.toml:12: general.tls_certificates.1.private_key: the key in \"@shop.key\" is not",
        ),
        (
            format!("{PAIR}{}", pair("server.crt", "server.key")),
            "test.toml:8: general.tls_certificates.0.certificate: the certificate in \
             \"@server.crt\" has no DNS name",
        ),
        (
            format!("{PAIR}[[general.tls_certificates]]\ncertificate = '@db.crt'\n"),
            "test.toml:7: general.tls_certificates.0.private_key: is required and not set",
        ),
        (
            format!("{PAIR}tls_certificates = '@db.crt'\n"),
            "test.toml:7: general.tls_certificates: expected a list of tables, found a string",
        ),
        (
            format!("{PAIR}tls_certificates = ['@db.crt']\n"),
            "test.toml:7: general.tls_certificates.0: expected a table, found a string",
        ),
        (
            db.clone(),
            "test.toml:5: general.tls_certificates: tls_certificates is set but tls_certificate,",
        ),
    ] {
        let error = files.general(&lines).unwrap_err();
        assert!(error.contains(&files.lines(expected)), "{error}");
    }
}

#[test]
fn a_key_that_others_can_read_and_a_certificate_that_is_past_are_told() {
    let files = Files::new("told");
    let told = |lines: &str| warnings(&files.general(lines).unwrap()).join("\n");
    assert!(!told(PAIR).contains("access"));
    files.allow("server.key", 0o640);
    assert!(
        told(PAIR).contains("general.tls_private_key: private key file"),
        "{}",
        told(PAIR)
    );
    let key = key();
    files.put("server.crt", &certificate(&key, 0, &[]));
    files.put("server.key", &key.private_key_to_pem_pkcs8().unwrap());
    let told = told(PAIR);
    assert!(
        told.contains("general.tls_certificate: the certificate in"),
        "{told}"
    );
    assert!(
        told.contains("expired on Nov  9 11:33:20 2004 GMT"),
        "{told}"
    );
}

#[test]
fn a_pool_may_use_another_tls_than_the_others() {
    let files = Files::new("pool");
    let text = files.lines(
        &SMALL
            .replace(
                "#GENERAL",
                "server_tls_mode = 'prefer'\nserver_tls_ca_cert = '@ca.crt'",
            )
            .replace("#POOL", "server_tls_min_version = 'TLSv1.3'"),
    ) + "[pools.logs]\n";
    let settings = read(&text).unwrap();
    let (shop, logs) = (
        &settings.pools["shop"].server_tls,
        &settings.pools["logs"].server_tls,
    );
    assert_eq!(
        (shop.mode, logs.mode),
        (ServerTlsMode::Prefer, ServerTlsMode::Prefer)
    );
    assert_eq!(shop.protocols.oldest(), TlsVersion::Tls13);
    assert_eq!(logs.protocols.oldest(), TlsVersion::Tls12);
    assert!(std::sync::Arc::ptr_eq(logs, &settings.general.server_tls));
    // The mode accepts any certificate, so there is nobody to verify it by.
    assert_eq!(shop.authorities, None);
    assert!(
        warnings(&settings)
            .iter()
            .any(|told| told.contains("accepts any certificate"))
    );
}

#[test]
fn a_file_that_changed_makes_other_settings_of_the_same_text() {
    let files = Files::new("changed");
    let before = files.general(PAIR).unwrap();
    assert_eq!(before, files.general(PAIR).unwrap());
    let key = key();
    files.put("server.crt", &certificate(&key, 1, &[]));
    files.put("server.key", &key.private_key_to_pem_pkcs8().unwrap());
    assert_ne!(before, files.general(PAIR).unwrap());
}

#[test]
fn settings_show_no_key() {
    let files = Files::new("debug");
    let settings = files.general(PAIR).unwrap();
    let tls = settings.general.client_tls.as_ref().unwrap();
    let shown = format!("{tls:?}");
    assert!(
        shown.contains("PrivateKey(") && !shown.contains("BEGIN"),
        "{shown}"
    );
    assert!(
        !show(&settings)
            .iter()
            .any(|row| row.value.contains("BEGIN"))
    );
}

#[test]
fn a_rule_that_asks_for_certificates_needs_authorities_and_its_map() {
    let rule = "pg_hba = 'hostssl all all all cert map=staff'\n";
    let error = with_general(rule).unwrap_err();
    assert!(
        error.contains(
            "test.toml:5: general.pg_hba: line 1 of the text: the rule asks for a client certificate"
        ),
        "{error}"
    );
    let files = Files::new("rules");
    let with_ca = format!("{rule}{PAIR}tls_ca_cert = '@ca.crt'\n");
    let told = warnings(&files.general(&with_ca).unwrap()).join("\n");
    assert!(
        told.contains("pg_ident has no line for the map \"staff\""),
        "{told}"
    );
    files.put("ident", b"# maps\nstaff ann app\n");
    let settings = files
        .general(&format!("{with_ca}pg_ident.path = '@ident'\n"))
        .unwrap();
    assert!(!warnings(&settings).join("\n").contains("pg_ident"));
    files.put("ident", b"# maps\nstaff ann\n");
    let error = files
        .general(&format!("{with_ca}pg_ident.path = '@ident'\n"))
        .unwrap_err();
    assert!(
        error.contains(&files.lines("@ident:2: general.pg_ident: the form of a line is")),
        "{error}"
    );
    let told = warnings(&with_general("pg_hba = 'hostssl all all all md5'").unwrap());
    assert!(
        told[0].contains("matches nobody because clients cannot use TLS"),
        "{told:?}"
    );
}

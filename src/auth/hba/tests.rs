//! Verdicts on clients under rules as operators write them.

use super::*;
use crate::config;

const SCRAM: Verdict = Verdict::Password {
    allow_md5: false,
    allow_scram: true,
};

fn rules(text: &str) -> Hba {
    let file = format!(
        "[general]\nadmin_username = \"a\"\nadmin_password = \"b\"\n\
         pg_hba = {{ content = \"\"\"\n{text}\n\"\"\" }}\n[pools]\n"
    );
    config::parse(&file, std::path::Path::new("test.toml"))
        .unwrap()
        .general
        .hba
}

fn line(line: usize) -> LinePlace {
    LinePlace { file: None, line }
}

fn rejected(at: usize) -> Verdict {
    Verdict::No(Reason::Reject(line(at)))
}

/// A verdict on a client that is a member of `staff` and of nothing else.
fn judge(hba: &Hba, client: &Client<'_>) -> Verdict {
    verdict(hba, client, &|role| Ok(role == b"staff"))
}

fn tcp(address: &str) -> Client<'static> {
    Client {
        transport: Transport::Tcp,
        tls: false,
        certificate: None,
        system_user: None,
        address: Some(address.parse().unwrap()),
        database: "shop",
        user: "app",
    }
}

fn unix() -> Client<'static> {
    Client {
        transport: Transport::Unix,
        tls: false,
        certificate: None,
        system_user: None,
        address: None,
        database: "shop",
        user: "app",
    }
}

#[test]
fn the_first_match_decides_and_no_later_rule_is_asked() {
    let hba = rules(
        "host all root all trust\n\
         host all all 10.1.0.0/16 reject\n\
         host shop app 10.0.0.0/8 scram-sha-256\n\
         host all all all md5\n\
         host all all all trust",
    );
    assert!(matches!(
        judge(&hba, &tcp("10.1.2.3")),
        Verdict::No(Reason::Reject(_))
    ));
    assert_eq!(judge(&hba, &tcp("10.2.2.3")), SCRAM);
    assert_eq!(judge(&hba, &tcp("11.1.2.3")), ANY_PASSWORD);
    assert_eq!(judge(&hba, &unix()), Verdict::No(Reason::NoRule));
    assert_eq!(
        judge(&rules(""), &tcp("10.1.2.3")),
        Verdict::No(Reason::NoRule)
    );
}

#[test]
fn local_is_unix_and_host_is_tcp_with_or_without_tls() {
    let plain = tcp("192.0.2.1");
    let tls = Client { tls: true, ..plain };
    let table = [
        ("local all all trust", true, false, false),
        ("host all all all trust", false, true, true),
        ("hostssl all all all trust", false, false, true),
        ("hostnossl all all all trust", false, true, false),
    ];
    for (text, on_unix, on_tcp, on_tls) in table {
        let hba = rules(text);
        let trusts = |client| judge(&hba, &client) == Verdict::Trust;
        assert_eq!(trusts(unix()), on_unix, "{text}");
        assert_eq!(trusts(plain), on_tcp, "{text}");
        assert_eq!(trusts(tls), on_tls, "{text}");
    }
}

#[test]
fn an_ipv4_client_of_an_ipv6_listener_is_an_ipv4_client() {
    let hba = rules("host all all 10.0.0.0/8 trust");
    assert_eq!(judge(&hba, &tcp("::ffff:10.1.2.3")), Verdict::Trust);
    assert_eq!(
        judge(&hba, &tcp("::ffff:11.1.2.3")),
        Verdict::No(Reason::NoRule)
    );
}

/// The verdict on user `admin` who asks for the console from 192.0.2.1.
fn console_session(text: &str) -> Verdict {
    let client = Client {
        database: "pgdoorman",
        user: "admin",
        ..tcp("192.0.2.1")
    };
    console_verdict(&rules(text), &client, &["pgdoorman", "pgbouncer"])
}

#[test]
fn rules_for_applications_neither_open_nor_shut_the_console() {
    for rules in [
        "",
        "host all all all trust",
        "host shop app all trust",
        "host all all all scram-sha-256\nhost all all all reject",
        "host all all 192.0.2.0/24 md5\nhost pgbouncer monitor 10.0.0.0/8 trust",
        "host pgdoorman root all trust",
    ] {
        assert_eq!(console_session(rules), ANY_PASSWORD, "{rules}");
    }
}

#[test]
fn a_rule_that_names_the_console_decides_for_whom_it_names() {
    let trusts = "host pgbouncer admin 192.0.2.0/24 trust";
    assert_eq!(console_session(trusts), Verdict::Trust);
    let of_others = format!("host all all all md5\n{trusts}");
    assert_eq!(console_session(&of_others), Verdict::Trust);
    assert_eq!(
        console_session("host pgdoorman all all scram-sha-256"),
        SCRAM
    );
    let elsewhere = "host pgdoorman,pgbouncer all 10.0.0.0/8 trust";
    assert_eq!(console_session(elsewhere), Verdict::No(Reason::NoRule));
    let elsewhere_too = format!("{elsewhere}\nhost all all all scram-sha-256");
    assert_eq!(console_session(&elsewhere_too), Verdict::No(Reason::NoRule));
}

#[test]
fn a_rule_for_all_counts_for_the_console_where_it_rejects() {
    let rejects = "host shop all all md5\nhost all all 192.0.2.0/24 reject";
    assert_eq!(console_session(rejects), rejected(2));
    let names_first = format!("host pgdoorman admin all scram-sha-256\n{rejects}");
    assert_eq!(console_session(&names_first), SCRAM);
    let by_certificate = |rule| {
        let client = Client {
            database: "pgbouncer",
            tls: true,
            ..tcp("192.0.2.1")
        };
        console_verdict(&with_map(rule, ""), &client, &["pgdoorman", "pgbouncer"])
    };
    assert_eq!(
        by_certificate("hostssl all all all md5 clientcert=verify-ca"),
        Verdict::No(Reason::NoCertificate(line(1)))
    );
    assert_eq!(by_certificate("hostssl all all all cert"), ANY_PASSWORD);
}

#[test]
fn a_list_of_networks_concerns_tcp_only() {
    let listed = Hba::Networks(vec![config::Cidr::parse("10.0.0.0/8").unwrap()]);
    assert_eq!(judge(&listed, &tcp("10.1.2.3")), ANY_PASSWORD);
    assert_eq!(
        judge(&listed, &tcp("11.1.2.3")),
        Verdict::No(Reason::NoRule)
    );
    assert_eq!(judge(&listed, &unix()), ANY_PASSWORD);
    assert_eq!(judge(&Hba::Anyone, &tcp("11.1.2.3")), ANY_PASSWORD);
}

#[test]
fn refusals_read_as_those_of_postgresql() {
    assert_eq!(
        refusal(&Verdict::No(Reason::NoRule), &tcp("::ffff:10.1.2.3"))
            .unwrap()
            .words,
        "no pg_hba.conf entry for host \"10.1.2.3\", user \"app\", database \"shop\", \
         no encryption"
    );
    assert_eq!(
        refusal(&rejected(3), &unix()).unwrap().words,
        "pg_hba.conf rejects connection for host \"[local]\", user \"app\", \
         database \"shop\", no encryption"
    );
    assert_eq!(refusal(&Verdict::Trust, &unix()), None);
}

/// As `rules`, with authorities for certificates and a map.
fn with_map(rules: &str, map: &str) -> Hba {
    let file = format!(
        "[general]\nadmin_username = \"a\"\nadmin_password = \"b\"\n\
         tls_mode = 'disable'\ntls_ca_cert = '/ca.crt'\n\
         pg_hba = '''\n{rules}'''\npg_ident.content = '''\n{map}'''\n[pools]\n"
    );
    config::parse(&file, std::path::Path::new("test.toml"))
        .unwrap()
        .general
        .hba
}

fn peer(common_name: Option<&str>) -> PeerCertificate {
    PeerCertificate {
        common_name: common_name.map(str::to_owned),
        distinguished_name: Some("CN=x,O=shop".into()),
    }
}

#[test]
fn a_rule_may_demand_a_certificate_on_top_of_a_password() {
    let hba = with_map("hostssl all all all scram-sha-256 clientcert=verify-ca", "");
    let tls = Client {
        tls: true,
        ..tcp("192.0.2.1")
    };
    let refused = judge(&hba, &tls);
    assert_eq!(refused, Verdict::No(Reason::NoCertificate(line(1))));
    assert_eq!(
        refusal(&refused, &tls).unwrap().words,
        "connection requires a valid client certificate"
    );
    let anybody = peer(None);
    let shown = Client {
        certificate: Some(&anybody),
        ..tls
    };
    assert_eq!(judge(&hba, &shown), SCRAM);
    let hba = with_map(
        "hostssl all all all scram-sha-256 clientcert=verify-full",
        "",
    );
    assert!(matches!(
        judge(&hba, &shown),
        Verdict::No(Reason::WrongCertificate(..))
    ));
    let named = peer(Some("app"));
    let shown = Client {
        certificate: Some(&named),
        ..tls
    };
    assert_eq!(judge(&hba, &shown), SCRAM);
}

#[test]
fn a_certificate_lets_its_owner_in_and_by_a_map_others() {
    let login = |hba: &Hba, name: Option<&str>| {
        let certificate = peer(name);
        let client = Client {
            tls: true,
            certificate: Some(&certificate),
            ..tcp("192.0.2.1")
        };
        let verdict = judge(hba, &client);
        refusal(&verdict, &client).map_or(Ok(()), |refused| {
            assert_eq!(
                refused.words,
                "certificate authentication failed for user \"app\""
            );
            Err(refused.log)
        })
    };
    let plain = with_map("hostssl all all all cert", "");
    assert_eq!(login(&plain, Some("app")), Ok(()));
    let why = login(&plain, Some("a\nb")).unwrap_err();
    assert!(
        why.contains("(app) and authenticated user name (a\\nb) do not match"),
        "{why}"
    );
    let why = login(&plain, None).unwrap_err();
    assert!(why.contains("contains no user name"), "{why}");

    let mapped = with_map("hostssl all all all cert map=m", "m /^(.*)@shop$ \\1");
    assert_eq!(login(&mapped, Some("app@shop")), Ok(()));
    let why = login(&mapped, Some("app")).unwrap_err();
    assert!(why.contains("no match in usermap \"m\""), "{why}");

    let by_all = "hostssl all all all cert clientname=DN map=m";
    let by_all = with_map(by_all, "m \"CN=x,O=shop\" app");
    assert_eq!(login(&by_all, None), Ok(()));
}

#[test]
fn members_of_a_role_are_asked_for_only_if_that_decides() {
    let hba = rules(
        "host other +nobody all trust\n\
         host all app,+nobody 10.0.0.0/8 reject\n\
         host all +staff 11.0.0.0/8 reject\n\
         host samerole all 12.0.0.0/8 trust\n\
         host all \"+staff\" all trust\n\
         host all all all md5",
    );
    let cannot = |client: &Client<'_>| verdict(&hba, client, &|_| Err("gone".into()));
    assert_eq!(cannot(&tcp("10.1.1.1")), rejected(2));
    assert_eq!(cannot(&tcp("13.1.1.1")), ANY_PASSWORD);
    let unknown = Verdict::No(Reason::Unknown(line(3), "gone".into()));
    assert_eq!(cannot(&tcp("11.1.1.1")), unknown);
    assert_eq!(refusal(&unknown, &tcp("11.1.1.1")).unwrap().code, "57P03");
    assert_eq!(judge(&hba, &tcp("11.1.1.1")), rejected(3));
    assert_eq!(judge(&hba, &tcp("12.1.1.1")), ANY_PASSWORD);
    let staff = Client {
        database: "staff",
        ..tcp("12.1.1.1")
    };
    assert_eq!(judge(&hba, &staff), Verdict::Trust);
}

#[test]
fn a_method_that_is_not_built_in_refuses() {
    let hba = rules("host all app all ldap ldapserver=x ldapprefix=y\nhost all all all trust");
    let verdict = judge(&hba, &tcp("10.1.1.1"));
    assert_eq!(verdict, Verdict::No(Reason::NotBuiltIn(line(1), "ldap")));
    let refused = refusal(&verdict, &tcp("10.1.1.1")).unwrap();
    assert!(refused.words.starts_with("pg_hba.conf rejects connection"));
    assert!(
        refused.log.contains("method ldap is not built in"),
        "{}",
        refused.log
    );
}

#[test]
fn patterns_own_networks_and_masks_match_as_in_postgresql() {
    let table = [
        ("host /^sh ap,/^app$ samehost trust", true),
        ("host /^op /^app$ all trust", false),
        ("host all all samenet trust", true),
        ("host all all localhost trust", true),
        ("host all all LOCALHOST trust", true),
        ("host all all .host trust", false),
        ("host all all nobody.invalid trust", false),
        ("host all all 126.0.9.1 255.0.0.255 trust", false),
        ("host all all 127.9.9.1 255.0.0.255 trust", true),
        ("hostgssenc all all all trust", false),
        ("hostnogssenc all all all trust", true),
        ("host replication all all trust", false),
        ("host \"shop\",replication all all trust", true),
    ];
    for (text, trusts) in table {
        let verdict = judge(&rules(text), &tcp("127.0.0.1"));
        assert_eq!(verdict == Verdict::Trust, trusts, "{text}");
    }
}

#[test]
fn a_peer_is_the_user_of_its_socket() {
    let own = nix::unistd::User::from_uid(nix::unistd::getuid())
        .unwrap()
        .unwrap();
    let client = Client {
        system_user: Some(own.uid.as_raw()),
        ..unix()
    };
    let plain = rules("local all all ident");
    assert!(matches!(
        judge(&plain, &client),
        Verdict::No(Reason::WrongPeer(..))
    ));
    let itself = Client {
        user: &own.name,
        ..client
    };
    assert_eq!(judge(&plain, &itself), Verdict::Trust);
    let map = format!("m {} app", own.name);
    let mapped = with_map("local all all peer map=m", &map);
    assert_eq!(judge(&mapped, &client), Verdict::Trust);
    assert!(matches!(
        judge(&mapped, &itself),
        Verdict::No(Reason::WrongPeer(..))
    ));
    assert!(matches!(
        judge(&plain, &unix()),
        Verdict::No(Reason::WrongPeer(..))
    ));
}

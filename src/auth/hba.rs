//! Which rule decides about a client (PostgreSQL manual, "The pg_hba.conf
//! File"): strictly the first that matches transport, database, user and
//! address. Rules after it are not looked at, whatever its method.
//!
//! The rules are read in [`config`](crate::config); here they are asked.
//! Invariant: where there are rules, no rule means no entry.

use std::fmt;
use std::net::IpAddr;

use super::certificate::PeerCertificate;
use crate::config::{
    CertificateDemand, CertificateName, DatabaseMatch, Hba, Method, Rule, Transport as Spoken,
};

/// The client a verdict is asked about.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// Which kind of socket it came through.
    pub transport: Transport,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// The certificate it has shown, whose signature was verified.
    pub certificate: Option<&'a PeerCertificate>,
    /// Where it came from; `None` on a Unix socket.
    pub address: Option<IpAddr>,
    /// The database it asks for.
    pub database: &'a str,
    /// The user it says it is.
    pub user: &'a str,
}

/// The kinds of sockets a client comes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A Unix-domain socket.
    Unix,
    /// TCP, with or without TLS.
    Tcp,
}

/// What the rules say about a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// No proof is asked for: by the rule, or because its certificate was proof.
    Trust,
    /// A password is asked for, by one of these.
    Password {
        /// An MD5 verifier may be used.
        allow_md5: bool,
        /// A SCRAM verifier may be used.
        allow_scram: bool,
    },
    /// The rule on this line refuses it.
    Reject {
        /// Counted from 1.
        line: usize,
    },
    /// The rule on this line demands a certificate, and it has shown none.
    NoCertificate {
        /// Counted from 1.
        line: usize,
    },
    /// The rule on this line demands a certificate that names the user, and that
    /// of the client does not.
    WrongCertificate {
        /// Counted from 1.
        line: usize,
        /// Why not, in PostgreSQL's words for its log.
        why: String,
    },
    /// No rule is about it, so it is refused.
    NoRule,
}

/// Why a client is kept out. SQLSTATE 28000, severity FATAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// For the client, in PostgreSQL's words.
    pub words: String,
    /// For the log, which may know more.
    pub log: String,
}

/// A password by whatever method its verifier allows.
const ANY_PASSWORD: Verdict = Verdict::Password {
    allow_md5: true,
    allow_scram: true,
};

/// What is said about `client`: by the method of the first rule that matches,
/// by the list of networks, or, where there is neither, that everybody may try.
pub fn verdict(hba: &Hba, client: &Client<'_>) -> Verdict {
    let rules = match hba {
        Hba::Anyone => return ANY_PASSWORD,
        Hba::Networks(networks) => {
            let welcome = client
                .address
                .is_none_or(|address| networks.iter().any(|network| network.contains(address)));
            return if welcome {
                ANY_PASSWORD
            } else {
                Verdict::NoRule
            };
        }
        Hba::Rules(rules) => rules,
    };
    match rules.iter().find(|rule| matches(rule, client)) {
        Some(rule) => by_rule(rule, client),
        None => Verdict::NoRule,
    }
}

/// What is said about a client that asks for the console, which has these names as a database.
///
/// Rules that were written for applications neither open nor shut it. The rules that name the console decide
/// about the users that they name: if none of them matches, the client is kept out. For a user that none of
/// them names the password of the console decides. A rule with `all` as its database counts only where it
/// keeps the client out: by `reject`, or by a certificate that it asks for besides a password.
pub fn console_verdict(hba: &Hba, client: &Client<'_>, names: &[&str]) -> Verdict {
    let Hba::Rules(rules) = hba else {
        return verdict(hba, client);
    };
    let names_console = |rule: &Rule| {
        let mut databases = rule.databases.iter();
        databases.any(|one| matches!(one, DatabaseMatch::Name(name) if names.contains(&&**name)))
    };
    let names_client = |rule: &Rule| names_console(rule) && rule.names_user(client.user);
    let mut passed_by_all = false;
    for rule in rules {
        if names_client(rule) && matches_place(rule, client) {
            return by_rule(rule, client);
        }
        if !names_console(rule) && !passed_by_all && matches(rule, client) {
            passed_by_all = true;
            let besides = !matches!(rule.method, Method::Cert | Method::Trust);
            match by_rule(rule, client) {
                verdict @ Verdict::Reject { .. } => return verdict,
                verdict @ (Verdict::NoCertificate { .. } | Verdict::WrongCertificate { .. })
                    if besides =>
                {
                    return verdict;
                }
                _ => {}
            }
        }
    }
    if rules.iter().any(names_client) {
        Verdict::NoRule
    } else {
        ANY_PASSWORD
    }
}

fn by_rule(rule: &Rule, client: &Client<'_>) -> Verdict {
    if rule.method == Method::Reject {
        return Verdict::Reject { line: rule.line };
    }
    if let Some(verdict) = certificate(rule, client) {
        return verdict;
    }
    match rule.method {
        Method::Trust | Method::Cert => Verdict::Trust,
        Method::Reject => Verdict::Reject { line: rule.line },
        Method::Md5 | Method::Password => ANY_PASSWORD,
        Method::ScramSha256 => Verdict::Password {
            allow_md5: false,
            allow_scram: true,
        },
    }
}

/// Why the certificate of `client` is not enough for `rule`, if it is not
/// (PostgreSQL's `auth.c`, `CheckCertAuth`).
fn certificate(rule: &Rule, client: &Client<'_>) -> Option<Verdict> {
    let line = rule.line;
    let (by, map) = match (&rule.certificate, client.certificate) {
        (CertificateDemand::No, _) | (CertificateDemand::Signed, Some(_)) => return None,
        (_, None) => return Some(Verdict::NoCertificate { line }),
        (CertificateDemand::Named { by, map }, Some(certificate)) => {
            let name = match by {
                CertificateName::CommonName => &certificate.common_name,
                CertificateName::DistinguishedName => &certificate.distinguished_name,
            };
            (name.as_deref(), map.as_ref())
        }
    };
    let user = client.user;
    let why = match (by, map) {
        (None, _) => "client certificate contains no user name".into(),
        (Some(name), None) if name == user => return None,
        (Some(name), None) => format!(
            "provided user name ({}) and authenticated user name ({}) do not match",
            user.escape_debug(),
            name.escape_debug()
        ),
        (Some(name), Some(map)) if map.allows(name, user) => return None,
        (Some(name), Some(map)) => format!(
            "no match in usermap \"{}\" for user \"{}\" authenticated as \"{}\"",
            map.name(),
            user.escape_debug(),
            name.escape_debug()
        ),
    };
    Some(Verdict::WrongCertificate { line, why })
}

/// Why a verdict keeps the client out, or `None` when it does not.
pub fn refusal(verdict: &Verdict, client: &Client<'_>) -> Option<Refused> {
    let (words, log) = match verdict {
        Verdict::Reject { .. } => (format!("pg_hba.conf rejects connection for {client}"), None),
        Verdict::NoRule => (format!("no pg_hba.conf entry for {client}"), None),
        Verdict::NoCertificate { line } => (
            "connection requires a valid client certificate".to_owned(),
            Some(format!("pg_hba rule on line {line}")),
        ),
        Verdict::WrongCertificate { line, why } => (
            format!(
                "certificate authentication failed for user \"{}\"",
                client.user
            ),
            Some(format!("{why} (pg_hba rule on line {line})")),
        ),
        Verdict::Trust | Verdict::Password { .. } => return None,
    };
    Some(Refused {
        log: match log {
            Some(more) => format!("{words}: {more}"),
            None => words.clone(),
        },
        words,
    })
}

impl fmt::Display for Client<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => write!(f, "host \"{}\"", address.to_canonical())?,
            None => f.write_str("host \"[local]\"")?,
        }
        let encryption = match self.tls {
            true => "SSL encryption",
            false => "no encryption",
        };
        let (user, database) = (self.user, self.database);
        write!(
            f,
            ", user \"{user}\", database \"{database}\", {encryption}"
        )
    }
}

fn matches(rule: &Rule, client: &Client<'_>) -> bool {
    matches_place(rule, client) && rule.names(client.database, client.user)
}

/// Whether the rule is about the socket that the client came through, and the address.
fn matches_place(rule: &Rule, client: &Client<'_>) -> bool {
    let transport = match (rule.transport, client.transport) {
        (Spoken::Local, transport) => transport == Transport::Unix,
        (_, Transport::Unix) => false,
        (Spoken::Host, Transport::Tcp) => true,
        (Spoken::HostSsl, Transport::Tcp) => client.tls,
        (Spoken::HostNoSsl, Transport::Tcp) => !client.tls,
    };
    let network = match (&rule.address, client.address) {
        (None, _) => true,
        (Some(network), Some(address)) => network.contains(address),
        (Some(_), None) => false,
    };
    transport && network
}

#[cfg(test)]
mod tests {
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

    fn tcp(address: &str) -> Client<'static> {
        Client {
            transport: Transport::Tcp,
            tls: false,
            certificate: None,
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
            verdict(&hba, &tcp("10.1.2.3")),
            Verdict::Reject { .. }
        ));
        assert_eq!(verdict(&hba, &tcp("10.2.2.3")), SCRAM);
        assert_eq!(verdict(&hba, &tcp("11.1.2.3")), ANY_PASSWORD);
        assert_eq!(verdict(&hba, &unix()), Verdict::NoRule);
        assert_eq!(verdict(&rules(""), &tcp("10.1.2.3")), Verdict::NoRule);
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
            let trusts = |client| verdict(&hba, &client) == Verdict::Trust;
            assert_eq!(trusts(unix()), on_unix, "{text}");
            assert_eq!(trusts(plain), on_tcp, "{text}");
            assert_eq!(trusts(tls), on_tls, "{text}");
        }
    }

    #[test]
    fn an_ipv4_client_of_an_ipv6_listener_is_an_ipv4_client() {
        let hba = rules("host all all 10.0.0.0/8 trust");
        assert_eq!(verdict(&hba, &tcp("::ffff:10.1.2.3")), Verdict::Trust);
        assert_eq!(verdict(&hba, &tcp("::ffff:11.1.2.3")), Verdict::NoRule);
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
        assert_eq!(console_session(elsewhere), Verdict::NoRule);
        let elsewhere_too = format!("{elsewhere}\nhost all all all scram-sha-256");
        assert_eq!(console_session(&elsewhere_too), Verdict::NoRule);
    }

    #[test]
    fn a_rule_for_all_counts_for_the_console_where_it_rejects() {
        let rejects = "host shop all all md5\nhost all all 192.0.2.0/24 reject";
        assert_eq!(console_session(rejects), Verdict::Reject { line: 2 });
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
            Verdict::NoCertificate { line: 1 }
        );
        assert_eq!(by_certificate("hostssl all all all cert"), ANY_PASSWORD);
    }

    #[test]
    fn a_list_of_networks_concerns_tcp_only() {
        let listed = Hba::Networks(vec![config::Cidr::parse("10.0.0.0/8").unwrap()]);
        assert_eq!(verdict(&listed, &tcp("10.1.2.3")), ANY_PASSWORD);
        assert_eq!(verdict(&listed, &tcp("11.1.2.3")), Verdict::NoRule);
        assert_eq!(verdict(&listed, &unix()), ANY_PASSWORD);
        assert_eq!(verdict(&Hba::Anyone, &tcp("11.1.2.3")), ANY_PASSWORD);
    }

    #[test]
    fn refusals_read_as_those_of_postgresql() {
        assert_eq!(
            refusal(&Verdict::NoRule, &tcp("::ffff:10.1.2.3"))
                .unwrap()
                .words,
            "no pg_hba.conf entry for host \"10.1.2.3\", user \"app\", database \"shop\", \
             no encryption"
        );
        assert_eq!(
            refusal(&Verdict::Reject { line: 3 }, &unix())
                .unwrap()
                .words,
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
        let refused = verdict(&hba, &tls);
        assert_eq!(refused, Verdict::NoCertificate { line: 1 });
        assert_eq!(
            refusal(&refused, &tls).unwrap().words,
            "connection requires a valid client certificate"
        );
        let anybody = peer(None);
        let shown = Client {
            certificate: Some(&anybody),
            ..tls
        };
        assert_eq!(verdict(&hba, &shown), SCRAM);
        let hba = with_map(
            "hostssl all all all scram-sha-256 clientcert=verify-full",
            "",
        );
        assert!(matches!(
            verdict(&hba, &shown),
            Verdict::WrongCertificate { .. }
        ));
        let named = peer(Some("app"));
        let shown = Client {
            certificate: Some(&named),
            ..tls
        };
        assert_eq!(verdict(&hba, &shown), SCRAM);
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
            let verdict = verdict(hba, &client);
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
}

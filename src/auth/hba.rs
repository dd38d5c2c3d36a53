//! Which rule decides about a client (PostgreSQL manual, "The pg_hba.conf
//! File"): strictly the first that matches transport, database, user and
//! address. Rules after it are not looked at, whatever its method.
//!
//! The rules are read in [`config`](crate::config); here they are asked.
//! Invariant: where there are rules, no rule means no entry.

use std::fmt;
use std::net::IpAddr;

use crate::config::{Hba, Method, Rule, Transport as Spoken};

/// The client a verdict is asked about.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// Which kind of socket it came through.
    pub transport: Transport,
    /// Whether it speaks TLS.
    pub tls: bool,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// No proof is asked for.
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
    /// No rule is about it, so it is refused.
    NoRule,
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
    let Some(rule) = rules.iter().find(|rule| matches(rule, client)) else {
        return Verdict::NoRule;
    };
    match rule.method {
        Method::Trust => Verdict::Trust,
        Method::Reject => Verdict::Reject { line: rule.line },
        Method::Md5 | Method::Password => ANY_PASSWORD,
        Method::ScramSha256 => Verdict::Password {
            allow_md5: false,
            allow_scram: true,
        },
    }
}

/// Why a verdict keeps the client out, in PostgreSQL's words (SQLSTATE 28000,
/// severity FATAL), or `None` when it does not.
pub fn refusal(verdict: &Verdict, client: &Client<'_>) -> Option<String> {
    let what = match verdict {
        Verdict::Reject { .. } => "pg_hba.conf rejects connection",
        Verdict::NoRule => "no pg_hba.conf entry",
        Verdict::Trust | Verdict::Password { .. } => return None,
    };
    Some(format!("{what} for {client}"))
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
    transport && network && rule.names(client.database, client.user)
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
            address: Some(address.parse().unwrap()),
            database: "shop",
            user: "app",
        }
    }

    fn unix() -> Client<'static> {
        Client {
            transport: Transport::Unix,
            tls: false,
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
            refusal(&Verdict::NoRule, &tcp("::ffff:10.1.2.3")).unwrap(),
            "no pg_hba.conf entry for host \"10.1.2.3\", user \"app\", database \"shop\", \
             no encryption"
        );
        assert_eq!(
            refusal(&Verdict::Reject { line: 3 }, &unix()).unwrap(),
            "pg_hba.conf rejects connection for host \"[local]\", user \"app\", \
             database \"shop\", no encryption"
        );
        assert_eq!(refusal(&Verdict::Trust, &unix()), None);
    }
}

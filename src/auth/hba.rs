//! Which rule decides about a client (PostgreSQL manual, "The pg_hba.conf
//! File"): strictly the first that matches transport, database, user and
//! address. Rules after it are not looked at, whatever its method.
//!
//! The file is read elsewhere; here are plain rules and the matching.
//! Invariant: no rule, no entry.

use std::fmt;
use std::net::IpAddr;

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

/// One rule, as meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The line it stands on, counted from 1.
    pub line: usize,
    /// Which connections it is about.
    pub connection: ConnectionKind,
    /// Databases, any of which matches.
    pub databases: Vec<NamePattern>,
    /// Users, any of whom matches.
    pub users: Vec<NamePattern>,
    /// The network address and the length of its prefix in bits, or `None`
    /// for every address.
    pub network: Option<(IpAddr, u8)>,
    /// What it says.
    pub method: Method,
}

/// The first field of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionKind {
    /// `local`: Unix-domain sockets.
    Local,
    /// `host`: TCP, with or without TLS.
    Host,
    /// `hostssl`: TCP with TLS.
    HostSsl,
    /// `hostnossl`: TCP without TLS.
    HostNoSsl,
}

/// A name of a database or user in a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamePattern {
    /// `all`.
    All,
    /// `sameuser`, for databases: the database is called as the user is.
    SameUser,
    /// This name, exactly.
    Exact(String),
}

/// The last field of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `trust`: the client is who it says it is.
    Trust,
    /// `reject`: it may not come in.
    Reject,
    /// `md5`: a password, by MD5 or, when the stored verifier is one of SCRAM,
    /// by SCRAM.
    Md5,
    /// `scram-sha-256`: a password, by SCRAM only.
    ScramSha256,
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

/// What the rules say about `client`: the method of the first that matches.
pub fn verdict(rules: &[Rule], client: &Client<'_>) -> Verdict {
    let Some(rule) = rules.iter().find(|rule| matches(rule, client)) else {
        return Verdict::NoRule;
    };
    match rule.method {
        Method::Trust => Verdict::Trust,
        Method::Reject => Verdict::Reject { line: rule.line },
        Method::Md5 => Verdict::Password {
            allow_md5: true,
            allow_scram: true,
        },
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
    connection_matches(rule.connection, client)
        && network_matches(rule.network, client)
        && any_name_matches(&rule.databases, client.database, client.user)
        && any_name_matches(&rule.users, client.user, client.user)
}

/// Whether a rule of this kind is about the client's socket.
pub fn connection_matches(kind: ConnectionKind, client: &Client<'_>) -> bool {
    match (kind, client.transport) {
        (ConnectionKind::Local, transport) => transport == Transport::Unix,
        (_, Transport::Unix) => false,
        (ConnectionKind::Host, Transport::Tcp) => true,
        (ConnectionKind::HostSsl, Transport::Tcp) => client.tls,
        (ConnectionKind::HostNoSsl, Transport::Tcp) => !client.tls,
    }
}

/// Whether the client's address is in the network; a rule without a network
/// has no say about addresses.
pub fn network_matches(network: Option<(IpAddr, u8)>, client: &Client<'_>) -> bool {
    match (network, client.address) {
        (None, _) => true,
        (Some((network, prefix)), Some(address)) => in_network(address, network, prefix),
        (Some(_), None) => false,
    }
}

/// Whether one of the patterns matches `name`; `user` is whom `sameuser` means.
pub fn any_name_matches(patterns: &[NamePattern], name: &str, user: &str) -> bool {
    patterns.iter().any(|pattern| match pattern {
        NamePattern::All => true,
        NamePattern::SameUser => name == user,
        NamePattern::Exact(exact) => exact == name,
    })
}

/// Whether `address` is in the network of that prefix length (in bits).
///
/// An IPv4 client of a listener for both families arrives as `::ffff:a.b.c.d`.
/// It is an IPv4 client all the same, so both sides are brought to that form
/// first. A prefix longer than the address matches nothing.
pub fn in_network(address: IpAddr, network: IpAddr, prefix: u8) -> bool {
    let (network, prefix) = match (network, network.to_canonical()) {
        (IpAddr::V6(_), v4 @ IpAddr::V4(_)) if prefix >= 96 => (v4, prefix - 96),
        (as_written, _) => (as_written, prefix),
    };
    match (address.to_canonical(), network) {
        (IpAddr::V4(address), IpAddr::V4(network)) if prefix <= 32 => {
            let differing = u32::from(address) ^ u32::from(network);
            differing.checked_shr(32 - u32::from(prefix)).unwrap_or(0) == 0
        }
        (IpAddr::V6(address), IpAddr::V6(network)) if prefix <= 128 => {
            let differing = u128::from(address) ^ u128::from(network);
            differing.checked_shr(128 - u32::from(prefix)).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MD5: Verdict = Verdict::Password {
        allow_md5: true,
        allow_scram: true,
    };
    const SCRAM: Verdict = Verdict::Password {
        allow_md5: false,
        allow_scram: true,
    };

    fn rule(
        line: usize,
        connection: ConnectionKind,
        database: &str,
        user: &str,
        network: &str,
        method: Method,
    ) -> Rule {
        let pattern = |name: &str| match name {
            "all" => NamePattern::All,
            "sameuser" => NamePattern::SameUser,
            name => NamePattern::Exact(name.into()),
        };
        Rule {
            line,
            connection,
            databases: database.split(',').map(pattern).collect(),
            users: user.split(',').map(pattern).collect(),
            network: network
                .split_once('/')
                .map(|(ip, prefix)| (ip.parse().unwrap(), prefix.parse().unwrap())),
            method,
        }
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
        let rules = [
            rule(1, ConnectionKind::Host, "all", "root", "", Method::Trust),
            rule(
                2,
                ConnectionKind::Host,
                "all",
                "all",
                "10.1.0.0/16",
                Method::Reject,
            ),
            rule(
                3,
                ConnectionKind::Host,
                "shop",
                "app",
                "10.0.0.0/8",
                Method::ScramSha256,
            ),
            rule(4, ConnectionKind::Host, "all", "all", "", Method::Md5),
            rule(5, ConnectionKind::Host, "all", "all", "", Method::Trust),
        ];
        assert_eq!(
            verdict(&rules, &tcp("10.1.2.3")),
            Verdict::Reject { line: 2 }
        );
        assert_eq!(verdict(&rules, &tcp("10.2.2.3")), SCRAM);
        assert_eq!(verdict(&rules, &tcp("11.1.2.3")), MD5);
        assert_eq!(verdict(&rules, &unix()), Verdict::NoRule);
        assert_eq!(verdict(&[], &tcp("10.1.2.3")), Verdict::NoRule);
    }

    #[test]
    fn local_is_unix_and_host_is_tcp_with_or_without_tls() {
        use ConnectionKind::*;
        let plain = tcp("192.0.2.1");
        let tls = Client { tls: true, ..plain };
        let table = [
            (Local, true, false, false),
            (Host, false, true, true),
            (HostSsl, false, false, true),
            (HostNoSsl, false, true, false),
        ];
        for (kind, on_unix, on_tcp, on_tls) in table {
            assert_eq!(connection_matches(kind, &unix()), on_unix, "{kind:?}");
            assert_eq!(connection_matches(kind, &plain), on_tcp, "{kind:?}");
            assert_eq!(connection_matches(kind, &tls), on_tls, "{kind:?}");
        }
    }

    #[test]
    fn lists_and_sameuser_match_names_exactly() {
        let lists = rule(
            1,
            ConnectionKind::Host,
            "a,shop",
            "b,app",
            "",
            Method::Trust,
        );
        assert_eq!(verdict(&[lists], &tcp("::1")), Verdict::Trust);
        let same = rule(
            1,
            ConnectionKind::Host,
            "sameuser",
            "all",
            "",
            Method::Trust,
        );
        let client = tcp("::1");
        assert_eq!(
            verdict(std::slice::from_ref(&same), &client),
            Verdict::NoRule
        );
        let own = Client {
            database: "app",
            ..client
        };
        assert_eq!(verdict(&[same], &own), Verdict::Trust);
        let upper = rule(1, ConnectionKind::Host, "SHOP", "all", "", Method::Trust);
        assert_eq!(verdict(&[upper], &client), Verdict::NoRule);
    }

    #[test]
    fn networks_match_by_their_prefix() {
        let inside = |address: &str, network: &str, prefix| {
            in_network(address.parse().unwrap(), network.parse().unwrap(), prefix)
        };
        assert!(inside("10.255.0.1", "10.0.0.0", 8));
        assert!(!inside("11.0.0.1", "10.0.0.0", 8));
        assert!(inside("203.0.113.9", "0.0.0.0", 0));
        assert!(inside("203.0.113.9", "203.0.113.9", 32));
        assert!(!inside("203.0.113.8", "203.0.113.9", 32));
        assert!(inside("2001:db8::1", "2001:db8::", 32));
        assert!(inside("2001:db8::1", "::", 0));
        assert!(!inside("2001:db9::1", "2001:db8::", 32));
        assert!(inside("::1", "::1", 128));
        assert!(
            !inside("127.0.0.1", "::", 0),
            "an IPv6 rule is not about IPv4"
        );
        assert!(
            !inside("::1", "0.0.0.0", 0),
            "an IPv4 rule is not about IPv6"
        );
        assert!(
            !inside("10.0.0.1", "10.0.0.0", 33),
            "an impossible prefix matches nothing"
        );
        assert!(!inside("::1", "::1", 129));
    }

    #[test]
    fn an_ipv4_client_of_an_ipv6_listener_is_an_ipv4_client() {
        let inside = |network: &str, prefix| {
            in_network(
                "::ffff:10.1.2.3".parse().unwrap(),
                network.parse().unwrap(),
                prefix,
            )
        };
        assert!(inside("10.0.0.0", 8));
        assert!(!inside("11.0.0.0", 8));
        assert!(inside("::ffff:10.0.0.0", 104));
        assert!(!inside("::", 0));
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

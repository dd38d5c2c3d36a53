//! Host-based access rules: who may try to log in from where, and how.
//!
//! Reads the lines of a `pg_hba.conf`; judging a login by them is `auth`'s
//! business. The invariant: a line is either understood in full or refused with
//! its number. A rule that is skipped or read too widely would open a door.

use super::cidr::Cidr;
use super::fields::{self, Field, Line, Word, single};
use super::ident::{IdentMap, IdentMaps};
use super::problem::quote;

/// How logins are restricted.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Hba {
    /// Not at all: everybody may try, with the password in the file.
    #[default]
    Anyone,
    /// The legacy `hba` list: TCP clients from these networks, Unix-socket
    /// clients always.
    Networks(Vec<Cidr>),
    /// `pg_hba`: these rules, first match first.
    Rules(Vec<Rule>),
}

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Which connections it is for.
    pub transport: Transport,
    /// Which databases; any of these.
    pub databases: Vec<DatabaseMatch>,
    /// Which users; any of these.
    pub users: Vec<UserMatch>,
    /// From where; `None` is everywhere, and the only form for `local`.
    pub address: Option<Cidr>,
    /// What is asked of the client.
    pub method: Method,
    /// Which certificate it must have shown.
    pub certificate: CertificateDemand,
    /// The line in its text, from 1.
    pub line: usize,
}

/// The first word of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Unix socket.
    Local,
    /// TCP with or without TLS.
    Host,
    /// TCP with TLS.
    HostSsl,
    /// TCP without TLS.
    HostNoSsl,
}

/// One entry of a rule's databases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseMatch {
    /// `all`.
    All,
    /// `sameuser`: the database named as the user.
    SameUser,
    /// `replication`: only replication connections, which this program has not.
    Replication,
    /// This name.
    Name(String),
}

/// One entry of a rule's users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserMatch {
    /// `all`.
    All,
    /// This name.
    Name(String),
}

/// The last word of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// No password.
    Trust,
    /// Password by MD5, or SCRAM where the verifier is one.
    Md5,
    /// Password by SCRAM-SHA-256.
    ScramSha256,
    /// Password in clear.
    Password,
    /// No password: the certificate is proof enough.
    Cert,
    /// Refuse.
    Reject,
}

/// Which certificate a rule demands. Every certificate that a client shows is
/// signed by an authority of `tls_ca_cert`, or the handshake has failed.
#[derive(Clone, Debug, PartialEq)]
pub enum CertificateDemand {
    /// None.
    No,
    /// Any: `clientcert=verify-ca`.
    Signed,
    /// One that names the user: `clientcert=verify-full`, or the method `cert`.
    Named {
        /// Where in it the name stands.
        by: CertificateName,
        /// Who may log in as whom; `None`: only under the name itself.
        map: Option<IdentMap>,
    },
}

/// Which part of a certificate is its owner's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateName {
    /// `clientname=CN`, the default.
    CommonName,
    /// `clientname=DN`: all of it, as RFC 2253 writes it.
    DistinguishedName,
}

impl Rule {
    /// Whether the rule speaks of this user in this database.
    pub fn names(&self, database: &str, user: &str) -> bool {
        let database_fits = self.databases.iter().any(|entry| match entry {
            DatabaseMatch::All => true,
            DatabaseMatch::SameUser => database == user,
            DatabaseMatch::Replication => false,
            DatabaseMatch::Name(name) => name == database,
        });
        database_fits && self.names_user(user)
    }

    /// Whether the rule speaks of this user.
    pub fn names_user(&self, user: &str) -> bool {
        self.users.iter().any(|entry| match entry {
            UserMatch::All => true,
            UserMatch::Name(name) => name == user,
        })
    }
}

/// Reads all rules of a text, or says of every wrong line what is wrong:
/// `(line, reason)`. The maps are those that the rules can name.
pub(super) fn parse(text: &str, maps: &IdentMaps) -> Result<Vec<Rule>, Vec<(usize, String)>> {
    fields::parse(text, |line| rule(line, maps))
}

fn rule(line: &Line, maps: &IdentMaps) -> Result<Rule, String> {
    let Some((kind, rest)) = line.fields.split_first() else {
        return Err("the line is empty".into());
    };
    let kind = single(kind)?;
    let transport = match kind.text.as_str() {
        "local" => Transport::Local,
        "host" => Transport::Host,
        "hostssl" => Transport::HostSsl,
        "hostnossl" => Transport::HostNoSsl,
        "hostgssenc" | "hostnogssenc" => {
            return Err(format!(
                "{} is not supported; write host, hostssl or hostnossl",
                kind.text
            ));
        }
        "include" | "include_if_exists" | "include_dir" => {
            return Err(format!(
                "{} is not supported; write the rules here",
                kind.text
            ));
        }
        _ => {
            return Err(format!(
                "{} is not a rule; a line begins with local, host, hostssl or hostnossl",
                quote(&kind.text)
            ));
        }
    };
    let form = if transport == Transport::Local {
        "local DATABASE USER METHOD"
    } else {
        "host DATABASE USER ADDRESS METHOD"
    };
    let [databases, users, rest @ ..] = rest else {
        return Err(format!("the line is too short; the form is: {form}"));
    };
    let databases = databases.iter().map(database).collect::<Result<_, _>>()?;
    let users = users.iter().map(user).collect::<Result<_, _>>()?;
    let (address, rest) = match (transport, rest) {
        (Transport::Local, rest) => (None, rest),
        (_, [_, _, ..]) => address(rest)?,
        _ => return Err(format!("the line is too short; the form is: {form}")),
    };
    let [method, options @ ..] = rest else {
        return Err(format!("the method is missing; the form is: {form}"));
    };
    let method = self::method(single(method)?)?;
    let certificate = certificate(transport, method, options, maps)?;
    Ok(Rule {
        transport,
        databases,
        users,
        address,
        method,
        certificate,
        line: line.number,
    })
}

/// What the options after the method say. One that was ignored would make the
/// rule weaker than it looks.
fn certificate(
    transport: Transport,
    method: Method,
    options: &[Field],
    maps: &IdentMaps,
) -> Result<CertificateDemand, String> {
    let (mut demand, mut name, mut map) = (None, None, None);
    for option in options {
        let text = single(option)?.text.as_str();
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| format!("{} is not of the form NAME=VALUE", quote(text)))?;
        let twice = match (key, value) {
            ("clientcert", "verify-ca" | "verify-full") => demand.replace(value).is_some(),
            ("clientname", "CN") => name.replace(CertificateName::CommonName).is_some(),
            ("clientname", "DN") => name.replace(CertificateName::DistinguishedName).is_some(),
            ("map", "") => return Err("map: the name is missing".into()),
            ("map", value) => map.replace(value).is_some(),
            ("clientcert", _) => {
                return Err(format!(
                    "invalid value for clientcert: {}; write verify-ca or verify-full",
                    quote(value)
                ));
            }
            ("clientname", _) => {
                return Err(format!(
                    "invalid value for clientname: {}; write CN or DN",
                    quote(value)
                ));
            }
            _ => {
                return Err(format!(
                    "{} is not an option that is supported; there are clientcert, clientname and map",
                    quote(key)
                ));
            }
        };
        if twice {
            return Err(format!("{key} is there twice"));
        }
    }
    let ssl = transport == Transport::HostSsl;
    if method == Method::Cert {
        if !ssl {
            return Err("cert authentication is only supported on hostssl connections".into());
        }
        if demand == Some("verify-ca") {
            return Err(
                "clientcert only accepts \"verify-full\" when using \"cert\" authentication".into(),
            );
        }
    } else if map.is_some() {
        return Err(
            "authentication option \"map\" is only valid for authentication method cert".into(),
        );
    }
    if !ssl && (demand.is_some() || name.is_some()) {
        return Err("clientcert and clientname can only be configured for \"hostssl\" rows".into());
    }
    if method == Method::Cert || demand == Some("verify-full") {
        return Ok(CertificateDemand::Named {
            by: name.unwrap_or(CertificateName::CommonName),
            map: map.map(|map| maps.named(map)),
        });
    }
    if name.is_some() {
        return Err("clientname needs clientcert=verify-full".into());
    }
    Ok(match demand {
        Some(_) => CertificateDemand::Signed,
        None => CertificateDemand::No,
    })
}

fn database(word: &Word) -> Result<DatabaseMatch, String> {
    if word.quoted {
        return Ok(DatabaseMatch::Name(word.text.clone()));
    }
    match word.text.as_str() {
        "all" => Ok(DatabaseMatch::All),
        "sameuser" => Ok(DatabaseMatch::SameUser),
        "replication" => Ok(DatabaseMatch::Replication),
        "samerole" | "samegroup" => Err(format!(
            "{} is not supported; write all, sameuser or names",
            word.text
        )),
        text if text.starts_with(['@', '/', '+']) => Err(special(text)),
        text => Ok(DatabaseMatch::Name(text.into())),
    }
}

fn user(word: &Word) -> Result<UserMatch, String> {
    match word.text.as_str() {
        text if word.quoted => Ok(UserMatch::Name(text.into())),
        "all" => Ok(UserMatch::All),
        text if text.starts_with(['@', '/', '+']) => Err(special(text)),
        text => Ok(UserMatch::Name(text.into())),
    }
}

fn special(text: &str) -> String {
    let what = match text.chars().next() {
        Some('@') => "a file of names",
        Some('/') => "a regular expression",
        _ => "membership in a role",
    };
    format!(
        "{}: {what} is not supported; write all or names (quoted, if it is a name)",
        quote(text)
    )
}

/// The address, and what follows it.
fn address(rest: &[Field]) -> Result<(Option<Cidr>, &[Field]), String> {
    let [first, after @ ..] = rest else {
        return Ok((None, rest));
    };
    let first = single(first)?;
    if first.is("all") {
        return Ok((None, after));
    }
    if first.is("samehost") || first.is("samenet") {
        return Err(format!(
            "address {} is not supported; {ADDRESSES}",
            first.text
        ));
    }
    // A second address is the mask of the first.
    if let [second, after @ ..] = after {
        if let [mask] = second.as_slice() {
            if mask.text.contains(['.', ':']) {
                let cidr = Cidr::with_mask(&first.text, &mask.text)
                    .map_err(|reason| format!("address and mask: {reason}; {ADDRESSES}"))?;
                return Ok((Some(cidr), after));
            }
        }
    }
    match Cidr::parse(&first.text) {
        Ok(cidr) => Ok((Some(cidr), after)),
        Err(reason) => Err(format!("{reason}; {ADDRESSES}")),
    }
}

const ADDRESSES: &str = "write all, an address such as 192.0.2.1, or a network such as \
     192.0.2.0/24 (host names are not supported)";

fn method(word: &Word) -> Result<Method, String> {
    match word.text.as_str() {
        "trust" => Ok(Method::Trust),
        "md5" => Ok(Method::Md5),
        "scram-sha-256" => Ok(Method::ScramSha256),
        "password" => Ok(Method::Password),
        "reject" => Ok(Method::Reject),
        "cert" => Ok(Method::Cert),
        "pam" | "ldap" | "radius" | "gss" | "sspi" | "ident" | "peer" | "bsd" | "oauth" => {
            Err(format!(
                "method {} is not supported in this version; {METHODS}",
                word.text
            ))
        }
        other => Err(format!("{} is not a method; {METHODS}", quote(other))),
    }
}

const METHODS: &str = "write trust, scram-sha-256, md5, password, cert or reject";

#[cfg(test)]
mod tests;

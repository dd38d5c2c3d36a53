//! A line of `pg_hba.conf` becomes a rule (PostgreSQL's `hba.c`, `parse_hba_line`).
//!
//! Invariant: all words of the line are read, or it is refused.

use super::address::{AddressMatch, address};
use super::options;
use super::{DatabaseMatch, Method, Rule, Transport, UserMatch};
use crate::config::access_files::Line;
use crate::config::fields::{Word, single};
use crate::config::ident::IdentMaps;
use crate::config::pattern::Pattern;

/// Methods that PostgreSQL 18 has on some system, and that are not built in here.
const NOT_BUILT_IN: [&str; 8] = [
    "ident", "gss", "sspi", "pam", "bsd", "ldap", "radius", "oauth",
];

/// Reads a line. The maps are those that it can name.
pub(in crate::config) fn rule(line: &Line, maps: &IdentMaps) -> Result<Rule, String> {
    let Some((kind, rest)) = line.fields.split_first() else {
        return Err("the line is empty".into());
    };
    let transport = transport(single(kind, "connection type")?)?;
    let form = if transport == Transport::Local {
        "local DATABASE USER METHOD"
    } else {
        "host DATABASE USER ADDRESS METHOD"
    };
    let end = |what: &str| format!("end-of-line before {what}; the form is: {form}");
    let (databases, rest) = rest
        .split_first()
        .ok_or_else(|| end("database specification"))?;
    let databases = databases.iter().map(database).collect::<Result<_, _>>()?;
    let (users, rest) = rest
        .split_first()
        .ok_or_else(|| end("role specification"))?;
    let users = users.iter().map(user).collect::<Result<_, _>>()?;
    let (address, rest) = match transport {
        Transport::Local => (AddressMatch::Any, rest),
        _ if rest.is_empty() => return Err(end("IP address specification")),
        _ => address(rest)?,
    };
    let (method, rest) = rest
        .split_first()
        .ok_or_else(|| end("authentication method"))?;
    let method = self::method(single(method, "authentication type")?, transport)?;
    let options = options::read(transport, method, rest, maps)?;
    Ok(Rule {
        transport,
        databases,
        users,
        address,
        method,
        certificate: options.certificate,
        map: options.map,
        at: line.at.clone(),
    })
}

fn transport(word: &Word) -> Result<Transport, String> {
    let mut words = Transport::WORDS.iter();
    words
        .find(|(name, _)| word.text == name.as_bytes())
        .map(|(_, transport)| *transport)
        .ok_or_else(|| {
            format!(
                "invalid connection type {}; a line begins with local, host, hostssl, hostnossl, \
                 hostgssenc or hostnogssenc, or it is include, include_if_exists or include_dir and one name",
                word.shown()
            )
        })
}

fn database(word: &Word) -> Result<DatabaseMatch, String> {
    for (keyword, meaning) in [
        ("all", DatabaseMatch::All),
        ("sameuser", DatabaseMatch::SameUser),
        ("samerole", DatabaseMatch::SameRole),
        ("samegroup", DatabaseMatch::SameRole),
        ("replication", DatabaseMatch::Replication),
    ] {
        if word.is(keyword) {
            return Ok(meaning);
        }
    }
    Ok(match word.text.strip_prefix(b"/") {
        Some(pattern) => DatabaseMatch::Pattern(Pattern::new(pattern)?),
        None => DatabaseMatch::Name(word.text.clone()),
    })
}

/// One entry of the users of a rule, or the last word of a map.
pub(in crate::config) fn user(word: &Word) -> Result<UserMatch, String> {
    if word.is("all") {
        return Ok(UserMatch::All);
    }
    match word.text.split_first() {
        Some((b'+', role)) if !word.quoted => Ok(UserMatch::MemberOf(role.into())),
        Some((b'/', pattern)) => Ok(UserMatch::Pattern(Pattern::new(pattern)?)),
        _ => Ok(UserMatch::Name(word.text.clone())),
    }
}

fn method(word: &Word, transport: Transport) -> Result<Method, String> {
    let named = |name: &str| word.text == name.as_bytes();
    let built_in = Method::WORDS.iter().find(|(name, _)| named(name));
    let method = match built_in {
        Some((_, method)) => *method,
        None => match NOT_BUILT_IN.iter().find(|name| named(name)) {
            Some(&"ident") if transport == Transport::Local => Method::Peer,
            Some(name) => Method::NotBuiltIn(name),
            None => {
                return Err(format!(
                    "invalid authentication method {}; write trust, scram-sha-256, md5, password, \
                     cert, peer or reject",
                    word.shown()
                ));
            }
        },
    };
    match method {
        Method::Peer if transport != Transport::Local => {
            Err("peer authentication is only supported on local sockets".into())
        }
        Method::Cert if transport != Transport::HostSsl => {
            Err("cert authentication is only supported on hostssl connections".into())
        }
        Method::NotBuiltIn("gss") if transport == Transport::Local => {
            Err("gssapi authentication is not supported on local sockets".into())
        }
        method => Ok(method),
    }
}

//! Which lines the async pg_doorman would have passed over, or read otherwise.
//!
//! It looked for a line of the method that a password needs (`md5` or `scram-sha-256`), and knew no lists and
//! keywords but `all`. Invariant: this changes no rule; it is for `-t` alone.

use super::{AddressMatch, CertificateDemand, DatabaseMatch, Method, Rule, Transport, UserMatch};

/// Why a line of `rules` would have been passed over.
pub(in crate::config) fn why_skipped(rules: &[Rule], place: usize) -> Option<String> {
    let rule = rules.get(place)?;
    if let Some(why) = not_understood(rule) {
        return Some(format!("the async pg_doorman passes over this line: {why}"));
    }
    if let AddressMatch::Host(_) | AddressMatch::SameHost | AddressMatch::SameNet = rule.address {
        let text = "the async pg_doorman takes this line's address for any address";
        return Some(text.into());
    }
    let other = match rule.method {
        Method::Md5 => "scram-sha-256",
        Method::ScramSha256 => "md5",
        _ => return None,
    };
    let later = rules[place + 1..].iter().find(|later| {
        not_understood(later).is_none() && later.method != rule.method && overlap(rule, later)
    })?;
    Some(format!(
        "the async pg_doorman passes over this line when it looks for {other}, so that {} ({}) \
         counts too; here the first line that matches decides",
        later.at,
        later.method.word()
    ))
}

fn not_understood(rule: &Rule) -> Option<&'static str> {
    let known = [
        Method::Trust,
        Method::Md5,
        Method::ScramSha256,
        Method::Reject,
    ];
    let database = |one: &DatabaseMatch| matches!(one, DatabaseMatch::All | DatabaseMatch::Name(_));
    let user = |one: &UserMatch| matches!(one, UserMatch::All | UserMatch::Name(_));
    if matches!(
        rule.transport,
        Transport::HostGssEnc | Transport::HostNoGssEnc
    ) {
        Some("it does not know the connection type")
    } else if !known.contains(&rule.method) {
        Some("it does not know the method")
    } else if rule.certificate != CertificateDemand::No {
        Some("it knows no options")
    } else if rule.databases.len() > 1 || rule.users.len() > 1 {
        Some("it knows no lists")
    } else if !rule.databases.iter().all(database) || !rule.users.iter().all(user) {
        Some("of the special names it knows only all")
    } else {
        None
    }
}

/// Whether one client may match both, as far as that is seen without addresses.
fn overlap(one: &Rule, other: &Rule) -> bool {
    let local = |rule: &Rule| rule.transport == Transport::Local;
    let databases = one.databases.contains(&DatabaseMatch::All)
        || other.databases.contains(&DatabaseMatch::All)
        || one.databases == other.databases;
    let users = one.users.contains(&UserMatch::All)
        || other.users.contains(&UserMatch::All)
        || one.users == other.users;
    local(one) == local(other) && databases && users
}

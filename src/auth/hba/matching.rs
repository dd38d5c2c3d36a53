//! Whether a rule is about a client (PostgreSQL's `hba.c`, `check_hba`).
//!
//! What has to be asked of others (the client's host name, this machine's addresses, membership in roles) is asked
//! only for a rule that needs it. Invariant: a rule whose membership is not known neither matches nor is passed over.

use std::cell::OnceCell;
use std::net::IpAddr;

use super::{Client, IsMember, Transport};
use crate::config::{AddressMatch, DatabaseMatch, Rule, Transport as Kind, UserMatch, is_in};
use crate::net::host_names;

/// A client about which rules are asked.
pub(super) struct Asked<'a> {
    pub client: &'a Client<'a>,
    is_member: IsMember<'a>,
    /// The name of the client's host, once it was looked up. `None`: it has none that leads back to its address.
    host: OnceCell<Option<String>>,
}

impl<'a> Asked<'a> {
    pub fn new(client: &'a Client<'a>, is_member: IsMember<'a>) -> Asked<'a> {
        Asked {
            client,
            is_member,
            host: OnceCell::new(),
        }
    }

    /// Whether the rule is about the client.
    pub fn matches(&self, rule: &Rule) -> Result<bool, String> {
        Ok(self.matches_place(rule)? && self.names_database(rule)? && self.names_user(rule)?)
    }

    /// Whether the rule is about the socket that the client came through, and the address.
    pub fn matches_place(&self, rule: &Rule) -> Result<bool, String> {
        let transport = match (rule.transport, self.client.transport) {
            (Kind::Local, transport) => transport == Transport::Unix,
            (_, Transport::Unix) | (Kind::HostGssEnc, _) => false,
            (Kind::Host | Kind::HostNoGssEnc, Transport::Tcp) => true,
            (Kind::HostSsl, Transport::Tcp) => self.client.tls,
            (Kind::HostNoSsl, Transport::Tcp) => !self.client.tls,
        };
        let Some(address) = self.client.address.filter(|_| transport) else {
            return Ok(transport && rule.address == AddressMatch::Any);
        };
        match &rule.address {
            AddressMatch::Any => Ok(true),
            AddressMatch::Network(network) => Ok(network.contains(address)),
            AddressMatch::SameHost => is_own(address, false),
            AddressMatch::SameNet => is_own(address, true),
            AddressMatch::Host(name) => Ok(self.comes_from(name, address)),
        }
    }

    fn names_database(&self, rule: &Rule) -> Result<bool, String> {
        let (database, user) = (self.client.database, self.client.user);
        let plain = rule.databases.iter().any(|entry| match entry {
            DatabaseMatch::All => true,
            DatabaseMatch::SameUser => database == user,
            DatabaseMatch::SameRole | DatabaseMatch::Replication => false,
            DatabaseMatch::Name(name) => name == database.as_bytes(),
            DatabaseMatch::Pattern(pattern) => pattern.is_match(database.as_bytes()),
        });
        if plain || !rule.databases.contains(&DatabaseMatch::SameRole) {
            return Ok(plain);
        }
        // Without a look at the users the answer may not matter.
        Ok(self.may_name_user(rule) && (self.is_member)(database.as_bytes())?)
    }

    /// Whether the rule is about the client's user.
    pub fn names_user(&self, rule: &Rule) -> Result<bool, String> {
        if rule.users.iter().any(|entry| self.is_plainly(entry)) {
            return Ok(true);
        }
        for entry in &rule.users {
            if self.is_user(entry)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn may_name_user(&self, rule: &Rule) -> bool {
        (rule.users.iter())
            .any(|entry| self.is_plainly(entry) || matches!(entry, UserMatch::MemberOf(_)))
    }

    /// Whether the entry is about the user without a question to PostgreSQL.
    fn is_plainly(&self, entry: &UserMatch) -> bool {
        let user = self.client.user.as_bytes();
        match entry {
            UserMatch::All => true,
            UserMatch::MemberOf(_) => false,
            UserMatch::Name(name) => name == user,
            UserMatch::Pattern(pattern) => pattern.is_match(user),
        }
    }

    /// Whether the entry is about the user.
    pub fn is_user(&self, entry: &UserMatch) -> Result<bool, String> {
        match entry {
            UserMatch::MemberOf(role) => (self.is_member)(role),
            entry => Ok(self.is_plainly(entry)),
        }
    }

    /// Whether the client's host has this name, or is of this domain, and the name leads back to its address.
    fn comes_from(&self, name: &str, address: IpAddr) -> bool {
        let host = self
            .host
            .get_or_init(|| host_names::verified_name_of(address));
        let Some(host) = host else {
            return false;
        };
        let end = match name.starts_with('.') {
            true => host.len().checked_sub(name.len()),
            false => Some(0),
        };
        let end = end.and_then(|start| host.get(start..));
        end.is_some_and(|end| end.eq_ignore_ascii_case(name))
    }
}

/// Whether it is an address of this machine, or of its networks.
fn is_own(address: IpAddr, of_networks: bool) -> Result<bool, String> {
    let own = host_names::own_networks()
        .map_err(|error| format!("the addresses of this machine are not known: {error}"))?;
    let address = address.to_canonical();
    Ok(own.iter().any(|(own, mask)| match of_networks {
        true => is_in(address, *own, *mask),
        false => address == *own,
    }))
}

//! Host-based access rules: who may try to log in from where, and how.
//!
//! | file | what it is |
//! |---|---|
//! | `mod.rs` | a rule, as it is understood |
//! | `line` | a line of the file becomes a rule |
//! | `options` | what stands after the method |
//! | `address` | which addresses a rule is for |
//! | `skipped` | which lines the async pg_doorman would have passed over |
//!
//! Judging a login by the rules is `auth`'s business. The invariant: a line is either
//! understood in full or refused with its number. A rule that is skipped or read too
//! widely would open a door.

mod address;
mod line;
mod options;
mod skipped;

#[cfg(test)]
mod tests;

pub use address::{AddressMatch, Network, is_in};
pub(super) use line::{rule, user};
pub(super) use skipped::why_skipped;

use super::access_files::LinePlace;
use super::cidr::Cidr;
use super::ident::IdentMap;
use super::pattern::Pattern;

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
    /// From where; `Any` for `local`.
    pub address: AddressMatch,
    /// What is asked of the client.
    pub method: Method,
    /// Which certificate it must have shown.
    pub certificate: CertificateDemand,
    /// Who may log in as whom by `cert` and `peer`; `None`: everybody under the own name only.
    pub map: Option<IdentMap>,
    /// Where the line stands.
    pub at: LinePlace,
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
    /// TCP with encryption by GSSAPI, which this program has not: no connection.
    HostGssEnc,
    /// TCP without encryption by GSSAPI: every connection.
    HostNoGssEnc,
}

impl Transport {
    /// All of them, with their words.
    pub const WORDS: [(&'static str, Transport); 6] = [
        ("local", Transport::Local),
        ("host", Transport::Host),
        ("hostssl", Transport::HostSsl),
        ("hostnossl", Transport::HostNoSsl),
        ("hostgssenc", Transport::HostGssEnc),
        ("hostnogssenc", Transport::HostNoGssEnc),
    ];

    /// The word for it.
    pub fn word(self) -> &'static str {
        let mut words = Transport::WORDS.iter();
        words
            .find(|(_, transport)| *transport == self)
            .map_or("", |(word, _)| *word)
    }
}

/// One entry of a rule's databases.
#[derive(Clone, Debug, PartialEq)]
pub enum DatabaseMatch {
    /// `all`.
    All,
    /// `sameuser`: the database named as the user.
    SameUser,
    /// `samerole`: the database named as a role of which the user is a member. `samegroup` is its old name.
    SameRole,
    /// `replication`: only replication connections, which this program has not.
    Replication,
    /// This name.
    Name(Vec<u8>),
    /// Names of this form.
    Pattern(Pattern),
}

/// One entry of a rule's users.
#[derive(Clone, Debug, PartialEq)]
pub enum UserMatch {
    /// `all`.
    All,
    /// `+role`: members of this role.
    MemberOf(Vec<u8>),
    /// This name.
    Name(Vec<u8>),
    /// Names of this form.
    Pattern(Pattern),
}

/// What a rule asks of the client.
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
    /// No password: the operating system says who is at the other end of the Unix socket.
    Peer,
    /// Refuse.
    Reject,
    /// A method of PostgreSQL that is not built in here. Refuse.
    NotBuiltIn(&'static str),
}

impl Method {
    /// All that are built in, with their words.
    const WORDS: [(&'static str, Method); 7] = [
        ("trust", Method::Trust),
        ("md5", Method::Md5),
        ("scram-sha-256", Method::ScramSha256),
        ("password", Method::Password),
        ("cert", Method::Cert),
        ("peer", Method::Peer),
        ("reject", Method::Reject),
    ];

    /// The word for it.
    pub fn word(self) -> &'static str {
        if let Method::NotBuiltIn(word) = self {
            return word;
        }
        let mut words = Method::WORDS.iter();
        words
            .find(|(_, method)| *method == self)
            .map_or("", |(word, _)| *word)
    }
}

/// Which certificate a rule demands. Every certificate that a client shows is
/// signed by an authority of `tls_ca_cert`, or the handshake has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateDemand {
    /// None.
    No,
    /// Any: `clientcert=verify-ca`.
    Signed,
    /// One that names the user: `clientcert=verify-full`, or the method `cert`.
    Named(CertificateName),
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
    /// Whether the rule may be about this user in this database. Of roles it is not known who their members are.
    pub fn may_name(&self, database: &str, user: &str) -> bool {
        let is_database = |entry: &DatabaseMatch| match entry {
            DatabaseMatch::All | DatabaseMatch::SameRole => true,
            DatabaseMatch::SameUser => database == user,
            DatabaseMatch::Replication => false,
            DatabaseMatch::Name(name) => name == database.as_bytes(),
            DatabaseMatch::Pattern(pattern) => pattern.is_match(database.as_bytes()),
        };
        let is_user = |entry: &UserMatch| match entry {
            UserMatch::All | UserMatch::MemberOf(_) => true,
            UserMatch::Name(name) => name == user.as_bytes(),
            UserMatch::Pattern(pattern) => pattern.is_match(user.as_bytes()),
        };
        self.databases.iter().any(is_database) && self.users.iter().any(is_user)
    }

    /// Whether `+role` or `samerole` is in it.
    pub fn asks_for_membership(&self) -> bool {
        self.databases.contains(&DatabaseMatch::SameRole)
            || (self.users.iter()).any(|one| matches!(one, UserMatch::MemberOf(_)))
    }
}

impl DatabaseMatch {
    /// As it is written, without the quotes.
    pub fn shown(&self) -> String {
        match self {
            DatabaseMatch::All => "all".into(),
            DatabaseMatch::SameUser => "sameuser".into(),
            DatabaseMatch::SameRole => "samerole".into(),
            DatabaseMatch::Replication => "replication".into(),
            DatabaseMatch::Name(name) => String::from_utf8_lossy(name).into_owned(),
            DatabaseMatch::Pattern(pattern) => {
                format!("/{}", String::from_utf8_lossy(pattern.text()))
            }
        }
    }
}

impl UserMatch {
    /// As it is written, without the quotes.
    pub fn shown(&self) -> String {
        match self {
            UserMatch::All => "all".into(),
            UserMatch::MemberOf(role) => format!("+{}", String::from_utf8_lossy(role)),
            UserMatch::Name(name) => String::from_utf8_lossy(name).into_owned(),
            UserMatch::Pattern(pattern) => format!("/{}", String::from_utf8_lossy(pattern.text())),
        }
    }
}

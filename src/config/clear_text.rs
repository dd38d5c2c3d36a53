//! Which users send their password or token in clear text although nothing protects it on its way.
//!
//! Changes nothing: it warns. Invariant: nobody is warned of whom TLS, the Unix socket or the loopback interface
//! protects.

use std::net::IpAddr;

use super::hba::{Hba, Method, Rule, Transport};
use super::keys::general::General;
use super::keys::pool::Pool;
use super::keys::user::User;
use super::password::Password;

impl User {
    /// What the client sends in clear text, if it does.
    fn sends(&self) -> Option<&'static str> {
        match self.password {
            Password::Jwt(_) => Some("a token"),
            _ => None,
        }
    }
}

/// What to tell of the users of a pool.
pub(super) fn users(general: &General, pool: &Pool) -> Option<String> {
    if !is_exposed(general) {
        return None;
    }
    let exposed = |user: &&User| match &general.hba {
        Hba::Anyone | Hba::Networks(_) => true,
        Hba::Rules(rules) => rules.iter().any(|rule| {
            let asks = matches!(
                rule.method,
                Method::Md5 | Method::ScramSha256 | Method::Password
            );
            asks && is_open(rule) && rule.may_name(&pool.name, &user.username)
        }),
    };
    let user = pool
        .users
        .iter()
        .find(|user| user.sends().is_some() && exposed(user))?;
    Some(format!(
        "user '{}' sends {} in clear text, and may do so without TLS; set tls_mode = \"require\", or write hostssl \
         in pg_hba",
        user.username.escape_debug(),
        user.sends().unwrap_or_default()
    ))
}

/// Whether clients can come over a network without TLS.
fn is_exposed(general: &General) -> bool {
    let local = |host: &String| {
        host == "localhost"
            || host
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    };
    let plain = general
        .client_tls
        .as_ref()
        .is_none_or(|tls| tls.plain_allowed);
    plain && !general.host.iter().all(local)
}

/// Whether the rule lets clients in that come over a network without TLS.
fn is_open(rule: &Rule) -> bool {
    let plain = matches!(
        rule.transport,
        Transport::Host | Transport::HostNoSsl | Transport::HostNoGssEnc
    );
    plain && !rule.address.is_own_host()
}

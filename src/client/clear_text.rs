//! Passwords and tokens that a client sends in clear text: asked for, taken, and tokens checked.
//!
//! Invariant: what the client has sent is wiped when it has been used, and never logged. An empty password is refused
//! before anybody is asked about it, because some directories take it for a login without a name.

use std::time::SystemTime;

use zeroize::{Zeroize, Zeroizing};

use super::authenticate::refused;
use super::login::Login;
use super::login_error::{LoginError, say};
use crate::auth::jwt::{self, Expected};
use crate::config::TokenKey;
use crate::net::exchange::Exchange;
use crate::wire::{backend, sqlstate};

impl Login<'_> {
    /// Asks the client for its password in clear text.
    pub(super) fn clear_text(
        &self,
        wire: &mut Exchange<'_>,
    ) -> Result<Zeroizing<Vec<u8>>, LoginError> {
        let mut question = Vec::new();
        backend::authentication_cleartext(&mut question);
        wire.send(&question)?;
        let mut password = Zeroizing::new(self.password_message(wire)?);
        if wire.inbox.is_empty() {
            // What was taken out of it is still in its memory.
            wire.inbox.zeroize();
        }
        // One NUL, at the end.
        if password.iter().position(|byte| *byte == 0) != password.len().checked_sub(1) {
            return Err(say(
                sqlstate::PROTOCOL_VIOLATION,
                "invalid password packet size",
            ));
        }
        password.pop();
        if password.is_empty() {
            return Err(say(
                sqlstate::INVALID_PASSWORD,
                "empty password returned by client",
            ));
        }
        Ok(password)
    }

    /// Lets the client prove by a token that it is `user`.
    pub(super) fn token(
        &self,
        wire: &mut Exchange<'_>,
        user: &str,
        key: &TokenKey,
    ) -> Result<(), LoginError> {
        let token = self.clear_text(wire)?;
        let general = &self.settings.general;
        let expected = Expected {
            claim: &general.jwt_username_claim,
            user,
            audience: general.jwt_audience.as_deref(),
        };
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        jwt::verify(&token, key, expected, now).map_err(|why| refused(user, &why.to_string()))?;
        self.accept(wire)
    }
}

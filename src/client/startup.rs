//! The beginning of a connection in its thread: the TLS handshake, if there is one, and the packet that says
//! what the client wants.
//!
//! Invariant: nothing that came without TLS is taken for something that came over it.

use std::sync::Arc;

use super::login::Login;
use super::login_error::{LoginError, say};
use crate::auth::certificate::PeerCertificate;
use crate::net::exchange::{Exchange, ExchangeError, NotEncrypted};
use crate::tls::channel::HANDSHAKE;
use crate::tls::identity::Acceptor;
use crate::wire::error::{ErrorFields, More};
use crate::wire::sqlstate;
use crate::wire::startup::{self, FirstPacket};

impl Login<'_> {
    /// The first packet that is no request for encryption. Those in the clear have been answered by the
    /// acceptor ([`Opening`](crate::client::new_connection::Opening)).
    pub(super) fn first_packet(
        &mut self,
        exchange: &mut Exchange<'_>,
    ) -> Result<FirstPacket, LoginError> {
        if self.tls_agreed || exchange.inbox.first() == Some(&HANDSHAKE) {
            self.tls(exchange)?;
        }
        self.permit.waits();
        let length = loop {
            match startup::length(&exchange.inbox) {
                Ok(Some(length)) if exchange.inbox.len() >= length => break length,
                Ok(_) => exchange.read_more()?,
                // Whoever this is, it does not speak our protocol.
                Err(error) => return Err(LoginError::Silent(error.to_string())),
            }
        };
        self.permit.heard();
        let packet = exchange.take(length);
        match startup::parse(&packet) {
            Ok(FirstPacket::Startup(_)) if self.tls.is_none() && !self.may_be_plain(exchange) => {
                Err(say(
                    sqlstate::INVALID_AUTHORIZATION,
                    "Connection without SSL is not allowed by tls_mode.",
                ))
            }
            Ok(packet) => Ok(packet),
            Err(error @ startup::StartupError::Cancel) => {
                Err(LoginError::Silent(error.to_string()))
            }
            Err(error @ startup::StartupError::Version(_)) => {
                Err(say(sqlstate::FEATURE_NOT_SUPPORTED, error.to_string()))
            }
            Err(error @ startup::StartupError::NoUser) => {
                Err(say(sqlstate::INVALID_AUTHORIZATION, error.to_string()))
            }
            Err(error @ startup::StartupError::Options(_)) => {
                Err(LoginError::Forwarded(ErrorFields {
                    code: sqlstate::SYNTAX_ERROR.to_owned(),
                    message: error.to_string(),
                    more: Some(Box::new(More {
                        hint: "Try \"postgres --help\" for more information.".to_owned(),
                        ..More::default()
                    })),
                    ..ErrorFields::default()
                }))
            }
            Err(error) => Err(say(sqlstate::PROTOCOL_VIOLATION, error.to_string())),
        }
    }

    /// What TLS with this client would stand on. A Unix socket needs none.
    fn acceptor(&self, exchange: &Exchange<'_>) -> Option<Arc<Acceptor>> {
        if exchange.stream.is_unix() {
            return None;
        }
        self.client_threads.encryption.acceptor()
    }

    fn may_be_plain(&self, exchange: &Exchange<'_>) -> bool {
        let tls = self.settings.general.client_tls.as_ref();
        exchange.stream.is_unix() || tls.is_none_or(|tls| tls.plain_allowed)
    }

    /// Goes over to TLS: the client has got its `S`, or has begun without asking
    /// (`sslnegotiation=direct`).
    fn tls(&mut self, exchange: &mut Exchange<'_>) -> Result<(), LoginError> {
        let acceptor = self.acceptor(exchange).ok_or_else(|| {
            LoginError::Silent("it began with TLS, which is not offered here".to_owned())
        })?;
        if !self.accept_tls(exchange, &acceptor)? && !self.tls_agreed {
            // A client of another protocol could be made to talk to us (ALPACA).
            return Err(say(
                sqlstate::PROTOCOL_VIOLATION,
                "received direct SSL connection request without ALPN protocol negotiation extension",
            ));
        }
        Ok(())
    }

    /// Does the handshake; whether ALPN agreed on PostgreSQL's protocol.
    fn accept_tls(
        &mut self,
        exchange: &mut Exchange<'_>,
        acceptor: &Acceptor,
    ) -> Result<bool, LoginError> {
        // It is one step, whatever the client sends: half a handshake is silence.
        self.permit.waits();
        let peer = exchange.accept_tls(acceptor).map_err(|error| match error {
            NotEncrypted::Refused(why) => LoginError::Handshake(why),
            NotEncrypted::Broken(ExchangeError::Deadline) => {
                LoginError::Handshake("it took longer than client_login_timeout".to_owned())
            }
            NotEncrypted::Broken(broken) => LoginError::Silent(broken.to_string()),
        })?;
        self.permit.heard();
        self.certificate = peer.certificate.as_deref().map(PeerCertificate::of);
        self.channel_binding = peer.channel_binding;
        self.tls = exchange.stream.negotiated();
        Ok(peer.alpn)
    }
}

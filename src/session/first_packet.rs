//! The beginning of a connection in its thread: the TLS handshake, if there is one, and the packet that says
//! what the client wants.
//!
//! Invariant: nothing that came without TLS is taken for something that came over it.

use std::sync::Arc;

use super::login::Login;
use super::refusal::{Refusal, say};
use crate::auth::certificate::PeerCertificate;
use crate::net::dialogue::{Broken, Dialogue, NotEncrypted};
use crate::tls::channel::HANDSHAKE;
use crate::tls::identity::Acceptor;
use crate::wire::error::{ErrorFields, More};
use crate::wire::sqlstate;
use crate::wire::startup::{self, FirstPacket};

impl Login<'_> {
    /// The first packet that is no request for encryption. Those in the clear have been answered by the
    /// acceptor ([`Opening`](super::new_connection::Opening)).
    pub(super) fn first_packet(
        &mut self,
        dialogue: &mut Dialogue<'_>,
    ) -> Result<FirstPacket, Refusal> {
        if self.tls_agreed || dialogue.inbox.first() == Some(&HANDSHAKE) {
            self.tls(dialogue)?;
        }
        self.permit.waits();
        let length = loop {
            match startup::length(&dialogue.inbox) {
                Ok(Some(length)) if dialogue.inbox.len() >= length => break length,
                Ok(_) => dialogue.read_more()?,
                // Whoever this is, it does not speak our protocol.
                Err(error) => return Err(Refusal::Silent(error.to_string())),
            }
        };
        self.permit.heard();
        let packet = dialogue.take(length);
        match startup::parse(&packet) {
            Ok(FirstPacket::Startup(_)) if self.tls.is_none() && !self.may_be_plain(dialogue) => {
                Err(say(
                    sqlstate::INVALID_AUTHORIZATION,
                    "Connection without SSL is not allowed by tls_mode.",
                ))
            }
            Ok(packet) => Ok(packet),
            Err(error @ startup::StartupError::Cancel) => Err(Refusal::Silent(error.to_string())),
            Err(error @ startup::StartupError::Version(_)) => {
                Err(say(sqlstate::FEATURE_NOT_SUPPORTED, error.to_string()))
            }
            Err(error @ startup::StartupError::NoUser) => {
                Err(say(sqlstate::INVALID_AUTHORIZATION, error.to_string()))
            }
            Err(error @ startup::StartupError::Options(_)) => {
                Err(Refusal::Forwarded(ErrorFields {
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
    fn acceptor(&self, dialogue: &Dialogue<'_>) -> Option<Arc<Acceptor>> {
        if dialogue.stream.is_unix() {
            return None;
        }
        self.house.encryption.acceptor()
    }

    fn may_be_plain(&self, dialogue: &Dialogue<'_>) -> bool {
        let tls = self.settings.general.client_tls.as_ref();
        dialogue.stream.is_unix() || tls.is_none_or(|tls| tls.plain_allowed)
    }

    /// Goes over to TLS: the client has been told that it may, or has begun without asking
    /// (`sslnegotiation=direct`).
    fn tls(&mut self, dialogue: &mut Dialogue<'_>) -> Result<(), Refusal> {
        let acceptor = self.acceptor(dialogue).ok_or_else(|| {
            Refusal::Silent("it began with TLS, which is not offered here".to_owned())
        })?;
        if !self.accept_tls(dialogue, &acceptor)? && !self.tls_agreed {
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
        dialogue: &mut Dialogue<'_>,
        acceptor: &Acceptor,
    ) -> Result<bool, Refusal> {
        // It is one step, whatever the client sends: half a handshake is silence.
        self.permit.waits();
        let peer = dialogue.accept_tls(acceptor).map_err(|error| match error {
            NotEncrypted::Refused(why) => Refusal::Handshake(why),
            NotEncrypted::Broken(Broken::Deadline) => {
                Refusal::Handshake("it took longer than client_login_timeout".to_owned())
            }
            NotEncrypted::Broken(broken) => Refusal::Silent(broken.to_string()),
        })?;
        self.permit.heard();
        self.certificate = peer.certificate.as_deref().map(PeerCertificate::of);
        self.end_point = peer.end_point;
        self.tls = dialogue.stream.negotiated();
        Ok(peer.alpn)
    }
}

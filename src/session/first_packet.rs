//! The beginning of a connection: requests for encryption and their answers, TLS from the first byte, and
//! the packet that says what the client wants.
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
    /// The first packet that is no request for encryption. Those before it have been answered.
    pub(super) fn first_packet(
        &mut self,
        dialogue: &mut Dialogue<'_>,
    ) -> Result<FirstPacket, Refusal> {
        while dialogue.inbox.is_empty() {
            dialogue.read_more()?;
        }
        let (mut ssl, mut gss) = (false, false);
        // No first packet begins like this: its length would be beyond all bounds.
        if dialogue.inbox.first() == Some(&HANDSHAKE) {
            self.direct_tls(dialogue)?;
            (ssl, gss) = (true, true);
        }
        loop {
            let length = loop {
                match startup::length(&dialogue.inbox) {
                    Ok(Some(length)) if dialogue.inbox.len() >= length => break length,
                    Ok(_) => dialogue.read_more()?,
                    // Whoever this is, it does not speak our protocol.
                    Err(error) => return Err(Refusal::Silent(error.to_string())),
                }
            };
            let packet = dialogue.take(length);
            match startup::parse(&packet) {
                Ok(FirstPacket::Ssl) if !ssl => {
                    ssl = true;
                    if let Some(acceptor) = self.acceptor(dialogue) {
                        self.requested_tls(dialogue, &acceptor)?;
                        gss = true;
                        continue;
                    }
                }
                Ok(FirstPacket::GssEnc) if !gss => gss = true,
                Ok(FirstPacket::Startup(_))
                    if self.tls.is_none() && !self.may_be_plain(dialogue) =>
                {
                    return Err(say(
                        sqlstate::INVALID_AUTHORIZATION,
                        "Connection without SSL is not allowed by tls_mode.",
                    ));
                }
                Ok(other) => return Ok(other),
                Err(error @ startup::StartupError::Cancel) => {
                    return Err(Refusal::Silent(error.to_string()));
                }
                Err(error @ startup::StartupError::Version(_)) => {
                    return Err(say(sqlstate::FEATURE_NOT_SUPPORTED, error.to_string()));
                }
                Err(error @ startup::StartupError::NoUser) => {
                    return Err(say(sqlstate::INVALID_AUTHORIZATION, error.to_string()));
                }
                Err(error @ startup::StartupError::Options(_)) => {
                    return Err(Refusal::Forwarded(ErrorFields {
                        code: sqlstate::SYNTAX_ERROR.to_owned(),
                        message: error.to_string(),
                        more: Some(Box::new(More {
                            hint: "Try \"postgres --help\" for more information.".to_owned(),
                            ..More::default()
                        })),
                        ..ErrorFields::default()
                    }));
                }
                Err(error) => return Err(say(sqlstate::PROTOCOL_VIOLATION, error.to_string())),
            }
            dialogue.send(b"N")?;
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

    /// The client has sent an SSLRequest.
    fn requested_tls(
        &mut self,
        dialogue: &mut Dialogue<'_>,
        acceptor: &Acceptor,
    ) -> Result<(), Refusal> {
        if !dialogue.inbox.is_empty() {
            // CVE-2021-23214: whoever put it there wants it taken for something that came over TLS.
            return Err(say(
                sqlstate::PROTOCOL_VIOLATION,
                "received unencrypted data after SSL request",
            ));
        }
        dialogue.send(b"S")?;
        self.accept_tls(dialogue, acceptor).map(drop)
    }

    /// The client has begun a handshake without asking (`sslnegotiation=direct`).
    fn direct_tls(&mut self, dialogue: &mut Dialogue<'_>) -> Result<(), Refusal> {
        let acceptor = self.acceptor(dialogue).ok_or_else(|| {
            Refusal::Silent("it began with TLS, which is not offered here".to_owned())
        })?;
        if !self.accept_tls(dialogue, &acceptor)? {
            // A client of another protocol could be made to talk to us (ALPACA).
            return Err(say(
                sqlstate::PROTOCOL_VIOLATION,
                "received direct SSL connection request without ALPN protocol negotiation extension",
            ));
        }
        Ok(())
    }

    /// Goes over to TLS when it is this client's turn; whether ALPN agreed on PostgreSQL's protocol.
    fn accept_tls(
        &mut self,
        dialogue: &mut Dialogue<'_>,
        acceptor: &Acceptor,
    ) -> Result<bool, Refusal> {
        if let Some(rate) = self.settings.general.tls_rate_limit_per_second {
            dialogue.pause_until(self.house.encryption.take_turn(rate))?;
        }
        let peer = dialogue.accept_tls(acceptor).map_err(|error| match error {
            NotEncrypted::Refused(why) => Refusal::Handshake(why),
            NotEncrypted::Broken(Broken::Deadline) => {
                Refusal::Handshake("it took longer than client_login_timeout".to_owned())
            }
            NotEncrypted::Broken(broken) => Refusal::Silent(broken.to_string()),
        })?;
        self.certificate = peer.certificate.as_deref().map(PeerCertificate::of);
        self.end_point = peer.end_point;
        self.tls = dialogue.stream.negotiated();
        Ok(peer.alpn)
    }
}

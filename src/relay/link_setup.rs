//! What happens on a server connection after checkout and before check-in.
//!
//! After checkout, the settings that the client knows are made on it, in one round trip, or in none if nothing differs.
//! Before check-in, what the client left behind is undone. The client already has its reply then.

use std::sync::Arc;

use super::begin::Deferred;
use super::expected::{Expected, Reply};
use super::output::Output;
use super::session::{Frame, Phase, Rules, ServerLink, Session};
use crate::pool::pool_config::Mode;
use crate::server::backend::Backend;
use crate::server::dirty::{self, DirtyState, RESET_IDENTITY};
use crate::server::parameters::literal;
use crate::server::parameters::{Parameters, set_statement};
use crate::wire::backend;
use crate::wire::frontend;
use crate::wire::write;

/// Settings that drivers change at any time, often without the application's knowledge, and that PostgreSQL
/// reports in no version or not in all: `search_path`; what JDBC's `setTransactionIsolation` and its like
/// come to (SET SESSION CHARACTERISTICS); `jit`, which asyncpg switches off for its look at the catalogue.
const FOLLOWED: [&str; 5] = [
    "search_path",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "default_transaction_deferrable",
    "jit",
];

/// The setting that decides where a table is made, and so whether it is a temporary one.
const SEARCH_PATH: &str = "search_path";

/// The name of a statement of the pooler's own while it runs, and of its portal.
pub(super) const POOLERS: &str = "DOORMAN_own";

/// The setting that decides how the others' bytes are read.
const CLIENT_ENCODING: &str = "client_encoding";

impl Session {
    /// Takes a server connection. If it has to be tried first (`check`) or its settings differ from the
    /// client's, statements for that are written and the session tunes; else it serves at once.
    pub fn take_connection(
        &mut self,
        backend: Box<Backend>,
        rules: Rules,
        check: bool,
        out: &mut Output,
    ) {
        self.follow(rules);
        let now = self.now;
        self.link = Some(ServerLink::new(backend, now));
        if check {
            self.send_own(b";", out);
        }
        self.forget_others_statements(out);
        self.write_settings(out);
        self.begin_deferred(out);
        if self.awaits_server() {
            self.setting_up();
            self.enter(Phase::Preparing);
        } else {
            self.serve(out);
        }
    }

    /// Where statements do not follow their clients, names pass as they are: none of the pooler's own must stand
    /// there.
    fn forget_others_statements(&mut self, out: &mut Output) {
        let follows = self.rules.follow_statements;
        let Some(link) = self.link.as_mut().filter(|_| !follows) else {
            return;
        };
        if link.backend.prepared.stands_any() {
            link.backend.prepared.clear();
            self.send_own(b"DEALLOCATE ALL", out);
        }
    }

    fn awaits_server(&self) -> bool {
        let link = self.link.as_ref();
        link.is_some_and(|link| !link.expected.is_empty())
    }

    /// From here on requests pass.
    fn serve(&mut self, out: &mut Output) {
        self.take_up_defaults();
        self.tell_settings(out);
        self.take_up_as_sent();
        if let Some(link) = &mut self.link {
            link.served = true;
        }
        self.deferred = Deferred::Nothing;
        self.enter(Phase::Serving);
    }

    /// Sends the server a statement of the pooler's own.
    pub(super) fn send_own(&mut self, sql: &[u8], out: &mut Output) {
        out.server.write(|own| {
            write::message(own, frontend::QUERY, |body| write::c_string(body, sql));
        });
        if let Some(link) = &mut self.link {
            link.expected
                .push_back(Expected::swallow(Reply::UntilReady {
                    transaction_local: true,
                }));
        }
    }

    /// Sends the server statements of the pooler's own while it serves the client, whose unnamed statement and portal
    /// a Query would drop.
    pub(super) fn ask_in_batch(&mut self, statements: &[Vec<u8>], out: &mut Output) {
        let Some(link) = &mut self.link else { return };
        let close = |own: &mut Vec<u8>, what: u8| {
            write::message(own, frontend::CLOSE, |body| {
                body.push(what);
                write::c_string(body, POOLERS.as_bytes());
            });
        };
        let mut replies = Vec::new();
        out.server.write(|own| {
            // One that failed may have left it.
            close(own, b'S');
            replies.push(Reply::Close);
            for sql in statements {
                write::message(own, frontend::PARSE, |body| {
                    write::c_string(body, POOLERS.as_bytes());
                    write::c_string(body, sql);
                    body.extend_from_slice(&[0; 2]);
                });
                write::message(own, frontend::BIND, |body| {
                    write::c_string(body, POOLERS.as_bytes());
                    write::c_string(body, POOLERS.as_bytes());
                    body.extend_from_slice(&[0; 6]);
                });
                write::message(own, frontend::EXECUTE, |body| {
                    write::c_string(body, POOLERS.as_bytes());
                    body.extend_from_slice(&[0; 4]);
                });
                close(own, b'P');
                close(own, b'S');
                let of_one = [Reply::Parse, Reply::Bind, Reply::Execute];
                replies.extend(of_one.into_iter().chain([Reply::Close; 2]));
            }
            frontend::bare(own, frontend::SYNC);
            replies.push(Reply::Ready);
        });
        (link.expected).extend(replies.into_iter().map(Expected::swallow));
    }

    /// Writes the statements that give the server connection this client's settings.
    fn write_settings(&mut self, out: &mut Output) {
        let Some(link) = &self.link else { return };
        let reported = Arc::clone(&link.backend.reported);
        let reported_to_client = Arc::clone(&self.reported_to_client);
        let mut statements = Vec::new();
        if !Arc::ptr_eq(&reported_to_client, &reported) {
            let differing: Vec<_> = reported_to_client
                .differing_from(&reported)
                .filter(|(name, _)| Parameters::is_settable(name))
                .filter_map(|(name, value)| self.to_set_up(name, value, &link.backend))
                .collect();
            self.note_setting_up(&differing);
            let is_encoding = |name: &str| name.eq_ignore_ascii_case(CLIENT_ENCODING);
            let encoding = differing.iter().filter(|(name, _)| is_encoding(name));
            statements.extend(set_statement(encoding.copied()));
            let others = differing.iter().filter(|(name, _)| !is_encoding(name));
            statements.extend(set_statement(others.copied()));
        }
        if self.departs {
            // Where it is the server's default it is set all the same: only so a RESET can be noticed.
            let default = |(name, startup_settings): (_, &[u8])| {
                let own = reported_to_client
                    .get(name)
                    .filter(|own| *own != startup_settings)?;
                (reported.get(name) == Some(own)).then_some((name, Some(own)))
            };
            let plain = |(name, _): &(&str, _)| Parameters::is_settable(name);
            let defaults = self
                .startup_settings
                .iter()
                .filter(plain)
                .filter_map(default);
            statements.extend(set_statement(defaults));
        }
        let Some(link) = &mut self.link else { return };
        let applied = &link.backend.applied;
        let wanted = &self.untracked;
        if !Arc::ptr_eq(applied, wanted) {
            if applied.identity().next().is_some() {
                // Nobody sets anything as somebody else.
                statements.insert(0, RESET_IDENTITY.as_bytes().to_vec());
            }
            let set = wanted
                .differing_from(applied)
                .map(|(name, value)| (name, Some(value)));
            let reset = applied.missing_in(wanted).map(|name| (name, None));
            let plain = |(name, _): &(&str, _)| !Parameters::is_identity(name);
            statements.extend(set_statement(set.chain(reset).filter(plain)));
            let identity = wanted.identity().map(|(name, value)| (name, Some(value)));
            statements.extend(set_statement(identity));
            link.backend.applied = Arc::clone(wanted);
        }
        if wanted.identity().next().is_some() {
            // It stays on no connection that somebody else may get.
            link.backend.dirty.add(DirtyState::SETTINGS);
        }
        let path = wanted
            .get(SEARCH_PATH)
            .or(reported_to_client.get(SEARCH_PATH));
        if path.is_some_and(|path| dirty::of_text(path).has(DirtyState::TEMPORARY)) {
            link.backend.dirty.add(DirtyState::TEMPORARY);
        }
        for statement in statements {
            self.send_own(&statement, out);
        }
    }

    /// Reports to the client what is in effect on the server connection and differs from what was reported.
    fn tell_settings(&mut self, out: &mut Output) {
        let Some(link) = &mut self.link else { return };
        if Arc::ptr_eq(&self.reported_to_client, &link.backend.reported) {
            return;
        }
        if *self.reported_to_client == *link.backend.reported {
            // One copy for both, so that the next comparison is one of addresses.
            link.backend.reported = Arc::clone(&self.reported_to_client);
            return;
        }
        if !self.abandoned {
            for (name, value) in link
                .backend
                .reported
                .differing_from(&self.reported_to_client)
            {
                out.client
                    .write(|own| backend::parameter_status(own, name.as_bytes(), value));
            }
        }
        self.reported_to_client = Arc::clone(&link.backend.reported);
    }

    /// Goes on when nothing is expected any more: from tuning to serving, from serving to cleaning or
    /// returning once the transaction is over, from cleaning to returning.
    pub fn end_turn(&mut self, out: &mut Output) {
        let phase = self.phase();
        let leaves = self.abandoned || self.rules.mode == Mode::Transaction;
        let Some(link) = &mut self.link else { return };
        let idle = !link.backend.in_transaction();
        if self.abandoned && phase == Phase::Serving && link.expected.is_empty() && !link.ended {
            self.end_for_client(out);
        }
        if !self.is_between_requests() {
            return;
        }
        let Some(link) = &mut self.link else { return };
        match phase {
            Phase::Preparing if link.setup_error.is_none() => {
                self.serve(out);
                if self.abandoned {
                    self.end_turn(out);
                }
            }
            Phase::Serving if link.setup_error.is_none() => {
                if !(idle || self.abandoned) {
                    return;
                }
                if !Arc::ptr_eq(&self.reported_to_client, &link.backend.reported) {
                    self.reported_to_client = Arc::clone(&link.backend.reported);
                    self.departs = departs(&self.startup_settings, &self.reported_to_client);
                }
                if leaves {
                    self.query_untracked();
                    self.clean(out);
                }
            }
            Phase::Cleaning if link.setup_error.is_none() => {
                self.note_untracked();
                self.clean(out);
            }
            _ => {}
        }
    }

    /// Undoes what is left on the server connection, step by step; returns it when nothing is.
    fn clean(&mut self, out: &mut Output) {
        let undo_traces = self.rules.clean;
        let Some(link) = &mut self.link else { return };
        let backend = &mut link.backend;
        if backend.in_transaction() {
            self.send_own(b"ROLLBACK", out);
            self.enter(Phase::Cleaning);
            return;
        }
        let undo = backend.dirty.reset_sql();
        let show_settings_sql = show_settings_sql(&link.asked);
        if undo.is_empty() || !undo_traces {
            if std::mem::take(&mut link.restored) {
                backend.is_at_defaults();
            }
            backend.dirty = DirtyState::NONE;
            self.enter(Phase::Returning);
            return;
        }
        let dirty = std::mem::take(&mut backend.dirty);
        if dirty.forgets_statements() {
            backend.prepared.clear();
        }
        if dirty.resets_settings() {
            backend.applied = Arc::default();
            link.restored = true;
        }
        if let Some(show_settings_sql) = &show_settings_sql {
            self.send_own(show_settings_sql, out);
        }
        for statement in undo {
            self.send_own(statement.as_bytes(), out);
        }
        if let Some(show_settings_sql) = &show_settings_sql {
            self.send_own(show_settings_sql, out);
        }
        self.enter(Phase::Cleaning);
    }

    /// Before the settings are reset: which of the client's does PostgreSQL not report, and so cannot be
    /// known without asking? Those it set at startup, and those that are followed however they are set.
    fn query_untracked(&mut self) {
        let Some(link) = &mut self.link else { return };
        if self.abandoned || !self.rules.clean || !link.backend.dirty.resets_settings() {
            return;
        }
        let is_followed = |name: &str| FOLLOWED.iter().any(|one| one.eq_ignore_ascii_case(name));
        let reported = &link.backend.reported;
        link.asked = self
            .untracked
            .iter()
            .map(|(name, _)| name)
            .filter(|name| !is_followed(name))
            .chain(
                FOLLOWED
                    .into_iter()
                    .filter(|name| reported.get(name).is_none()),
            )
            .map(str::to_owned)
            .collect();
    }

    /// Takes up the answers: what differed before the reset from what it was after is the client's own.
    fn note_untracked(&mut self) {
        let Some(link) = &mut self.link else { return };
        let names = std::mem::take(&mut link.asked);
        let answers = std::mem::take(&mut link.answers);
        // Between the two, what undoes may have rows of its own.
        let [before, .., after] = answers.as_slice() else {
            return;
        };
        let mut own = Parameters::default();
        for (name, (before, after)) in names.iter().zip(before.iter().zip(after)) {
            let differs = before != after || self.startup_settings.get(name).is_some();
            if let Some(value) = before.as_ref().filter(|_| differs) {
                own.set(name, value);
            }
        }
        if own != *self.untracked {
            self.untracked = Arc::new(own);
        }
    }

    /// The client is gone. What is left is to bring the server connection into a state in which it can
    /// be cleaned; false if that cannot be done and it must be closed.
    pub fn client_gone(&mut self, out: &mut Output) -> bool {
        self.abandoned = true;
        self.client.owed = Vec::new();
        self.client.unread = Vec::new();
        let half_sent = self.client.frame.left > 0 && !self.client.frame.dropped;
        // The rest of a message that was not passed on is awaited no more.
        self.client.frame = Frame::default();
        let Some(link) = &mut self.link else {
            return true;
        };
        if half_sent || link.ended || link.setup_error.is_some() {
            return false;
        }
        link.side.frame.dropped = true;
        self.end_for_client(out);
        self.end_turn(out);
        true
    }

    /// Sends the server a statement that does nothing, so that whatever was on its way to the backend has
    /// arrived when its reply has.
    pub fn clean_once_more(&mut self, out: &mut Output) {
        self.send_own(b";", out);
        self.enter(Phase::Cleaning);
    }
}

/// Whether a report has other values for settings of the startup packet.
fn departs(startup_settings: &Parameters, reported_to_client: &Parameters) -> bool {
    let is_other =
        |(name, value): (&str, &[u8])| reported_to_client.get(name).is_some_and(|own| own != value);
    startup_settings.iter().any(is_other)
}

/// The statement that asks for the values of settings.
fn show_settings_sql(names: &[String]) -> Option<Vec<u8>> {
    let mut sql = Vec::new();
    for name in names {
        sql.extend_from_slice(if sql.is_empty() { b"SELECT " } else { b", " });
        sql.extend_from_slice(b"pg_catalog.current_setting(");
        literal(&mut sql, name.as_bytes());
        sql.extend_from_slice(b",true)");
    }
    (!sql.is_empty()).then_some(sql)
}

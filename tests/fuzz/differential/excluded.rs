//! What differs between the pooler and PostgreSQL by design, and how the comparison allows for it. The one list.

use crate::arena::Client;
use crate::conversation::Conversation;
use crate::frontend::Front;
use crate::pooler::Pool;

/// What is not compared, and why.
pub const EXCLUDED: &[(&str, &str)] = &[
    (
        "settings of VOLATILE set after login, in transaction mode",
        "the manual: they end with the transaction; the direct side resets them there",
    ),
    (
        "SET ROLE, SET SESSION AUTHORIZATION, in transaction mode",
        "the manual: they end with the transaction; the direct side resets them there",
    ),
    (
        "SQL's PREPARE, WITH HOLD, LISTEN, temporary tables, advisory locks, in transaction mode",
        "the manual: they end with the transaction; the direct side drops them there",
    ),
    (
        "SQL's EXECUTE and PREPARE of a name that the protocol uses, in transaction mode",
        "the manual: SQL's statements and the protocol's do not know each other there; not generated",
    ),
    (
        "what PostgreSQL says to a Terminate, and to the data in front of it, in a COPY FROM STDIN that nobody ends",
        "the manual: a client that leaves so is told nothing; nothing is stored",
    ),
    (
        "Bind and Describe of a statement in a failed transaction, in transaction mode",
        "the manual: PostgreSQL prepares nothing there, so the server connection may lack it; not sent",
    ),
    (
        "what ends with the transaction, for a message of the same write behind it, in transaction mode",
        "the manual: some end when another client gets the server connection; such a write is sent in two",
    ),
    (
        "Execute of the unnamed portal in a failed transaction",
        "not a difference: PostgreSQL itself crashes if that portal is of a Query that failed: not sent",
    ),
    (
        "a request behind a COPY FROM STDIN that has failed, if the client has neither ended it nor read that",
        "the manual: such a request breaks the copy; not sent",
    ),
    (
        "rows behind the last Sync, for a client that leaves without one",
        "the manual: PostgreSQL keeps replies back up to a Sync or Flush, as many as its buffer holds",
    ),
    (
        "the hint of 26000",
        "the manual: SQL's EXECUTE of a statement of the protocol ends with a hint",
    ),
    (
        "a client's disconnection while it waits for a server connection",
        "the manual: its requests wait for a server connection; PostgreSQL has no such wait. It leaves with Terminate",
    ),
    (
        "plpgsql.* in pg_settings",
        "the manual: loaded libraries stay loaded",
    ),
    (
        "application_name where a client sends none",
        "not a difference: the pooler's setting for it is made PostgreSQL's default",
    ),
    (
        "what PostgreSQL makes of startup settings, for a client that logs in while all server connections are taken",
        "the manual: it is told them as sent, an error comes with its first transaction; not generated",
    ),
    (
        "a CancelRequest for a client that waits for a server connection",
        "the manual: its request ends with an ERROR then; PostgreSQL has no such wait. Not sent",
    ),
];

/// Settings that do not outlive a transaction unless the startup packet has them.
pub const VOLATILE: [&str; 6] = [
    "work_mem",
    "statement_timeout",
    "extra_float_digits",
    "bytea_output",
    "enable_seqscan",
    "lock_timeout",
];

/// Words that say that a text may leave something behind that ends with the transaction.
const TRACES: [&str; 13] = [
    "set ",
    "set_config",
    "reset",
    "role",
    "authorization",
    "prepare",
    "hold",
    "listen",
    "temp",
    "secret",
    "advisory",
    "discard",
    "setter",
];

/// Whether this text speaks by SQL of a name that statements of the protocol have.
pub fn mixes_names(sql: &str) -> bool {
    let ours = ["s0", "s1", "s2"].iter().any(|name| sql.contains(name));
    let sql = sql.replace("deallocate prepare", "deallocate");
    ours && ["execute s", "prepare s"]
        .iter()
        .any(|word| sql.contains(word))
}

/// Whether this message is not sent to either side in this state, behind this message of the same write.
pub fn is_left_out(pool: &Pool, client: &Client, before: Option<&Front>, message: &Front) -> bool {
    let conversation = &client.conversation;
    let asks = !b"dcfSH".contains(&(message.kind() as u8));
    if asks && conversation.is_behind_unended_copy() && !client.satisfied() {
        return true;
    }
    if is_crash(conversation, before, message) {
        return true;
    }
    let just_parsed = |name| matches!(before, Some(Front::Parse(parsed, _)) if parsed == name);
    !pool.session
        && conversation.failed()
        && match message {
            Front::Describe(b'S', name) | Front::Bind(_, name, _) => !just_parsed(name),
            _ => false,
        }
}

/// Whether PostgreSQL refuses some of these startup settings, or spells them in another way.
pub fn settings_are_untried(settings: &[(String, String)]) -> bool {
    let is_other = |text: &str| {
        let lower = text.to_lowercase();
        lower.contains("datestyle") || lower.contains("work_mem=lots")
    };
    settings
        .iter()
        .any(|(name, value)| is_other(name) || (name == "options" && is_other(value)))
}

/// Whether PostgreSQL itself may crash: a Query that fails in a block leaves its portal behind, and an Execute reads
/// the text of that portal, which is freed (seen in PostgreSQL 15).
fn is_crash(conversation: &Conversation, before: Option<&Front>, message: &Front) -> bool {
    let just_bound = matches!(before, Some(Front::Bind(portal, ..)) if portal.is_empty());
    conversation.failed()
        && !just_bound
        && matches!(message, Front::Execute(portal, _) if portal.is_empty())
}

/// Whether this text may make, change or drop objects.
pub fn defines(sql: &str) -> bool {
    ["create", "alter", "drop", "comment"]
        .iter()
        .any(|word| sql.contains(word))
}

/// Whether something may be left behind by this text.
pub fn leaves_traces(sql: &str) -> bool {
    let lower = sql.to_lowercase();
    TRACES.iter().any(|word| lower.contains(word))
}

/// What the direct side does at the end of a transaction, so that it is as the manual says. Each by itself.
pub fn end_of_transaction(pool: &Pool, startup: &[(String, String)]) -> Vec<String> {
    if pool.session {
        return Vec::new();
    }
    let kept = |name: &str| {
        startup
            .iter()
            .any(|(key, value)| key == name || value.contains(name))
    };
    let mut all: Vec<String> = [
        "reset session authorization",
        "reset role",
        "close all",
        "unlisten *",
        "discard temp",
        "select pg_catalog.pg_advisory_unlock_all()",
    ]
    .map(String::from)
    .to_vec();
    if kept("role=") {
        // The manual: where the startup packet asks for a role, what the client sets later is kept.
        all.retain(|sql| !sql.contains("reset role") && !sql.contains("authorization"));
    }
    all.extend(
        VOLATILE
            .iter()
            .filter(|name| !kept(name))
            .map(|name| format!("reset {name}")),
    );
    all
}

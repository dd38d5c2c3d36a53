//! The SQLSTATEs this program uses in words of its own, by the names of the PostgreSQL manual, appendix A.

/// A five-character SQLSTATE.
pub type SqlState = &'static str;

/// connection_failure: the server connection was lost.
pub const CONNECTION_FAILURE: SqlState = "08006";
/// protocol_violation.
pub const PROTOCOL_VIOLATION: SqlState = "08P01";
/// feature_not_supported.
pub const FEATURE_NOT_SUPPORTED: SqlState = "0A000";
/// in_failed_sql_transaction.
pub const IN_FAILED_TRANSACTION: SqlState = "25P02";
/// idle_in_transaction_session_timeout.
pub const IDLE_IN_TRANSACTION_TIMEOUT: SqlState = "25P03";
/// transaction_timeout.
pub const TRANSACTION_TIMEOUT: SqlState = "25P04";
/// invalid_sql_statement_name: no such prepared statement.
pub const INVALID_STATEMENT_NAME: SqlState = "26000";
/// invalid_authorization_specification: refused by a host-based rule.
pub const INVALID_AUTHORIZATION: SqlState = "28000";
/// invalid_password.
pub const INVALID_PASSWORD: SqlState = "28P01";
/// invalid_catalog_name: no such database, hence no such pool.
pub const INVALID_CATALOG_NAME: SqlState = "3D000";
/// insufficient_privilege, on the console.
pub const INSUFFICIENT_PRIVILEGE: SqlState = "42501";
/// A prepared statement with this name exists.
pub const DUPLICATE_STATEMENT: SqlState = "42P05";
/// syntax_error: on the console, and in the options of a startup packet.
pub const SYNTAX_ERROR: SqlState = "42601";
/// insufficient_resources: the pooler itself is short of something.
pub const INSUFFICIENT_RESOURCES: SqlState = "53000";
/// out_of_memory.
pub const OUT_OF_MEMORY: SqlState = "53200";
/// too_many_connections.
pub const TOO_MANY_CONNECTIONS: SqlState = "53300";
/// configuration_limit_exceeded.
pub const LIMIT_EXCEEDED: SqlState = "53400";
/// object_not_in_prerequisite_state: not now.
pub const OBJECT_NOT_IN_PREREQUISITE_STATE: SqlState = "55000";
/// query_canceled.
pub const QUERY_CANCELED: SqlState = "57014";
/// cannot_connect_now: PostgreSQL is starting up or shutting down.
pub const CANNOT_CONNECT_NOW: SqlState = "57P03";
/// admin_shutdown.
pub const ADMIN_SHUTDOWN: SqlState = "57P01";
/// idle_session_timeout.
pub const IDLE_SESSION_TIMEOUT: SqlState = "57P05";
/// system_error, used for console commands that do not exist.
pub const SYSTEM_ERROR: SqlState = "58000";
/// The pooler is being shut down (the code the clients of pg_doorman know).
pub const POOLER_SHUTDOWN: SqlState = "58006";
/// internal_error.
pub const INTERNAL_ERROR: SqlState = "XX000";

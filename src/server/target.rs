//! Where server connections of a pool lead, and as whom.

use std::path::PathBuf;
use std::time::Duration;

use super::server_tls::Encryption;
use crate::auth::credentials::ServerCredentials;
use crate::net::stream::SocketOptions;

/// Where PostgreSQL is, whom the pooler is there, and how connections to it are set up.
#[derive(Debug, Clone)]
pub struct Target {
    /// The host's name or address; a leading `/` makes it the directory of a Unix socket.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The database's name on the server.
    pub database: String,
    /// Who logs in, and with what.
    pub credentials: ServerCredentials,
    /// Startup parameters, `application_name` among them.
    pub parameters: Vec<(String, String)>,
    /// How its connections are encrypted.
    pub encryption: Encryption,
    /// How its sockets are set up.
    pub sockets: SocketOptions,
    /// How long connecting and logging in may take together.
    pub timeout: Duration,
}

impl Target {
    /// The socket file, if the host is the directory of a Unix socket.
    pub fn socket_file(&self) -> Option<PathBuf> {
        let directory = std::path::Path::new(&self.host);
        directory
            .is_absolute()
            .then(|| crate::net::address::Address::socket_file(directory, self.port))
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

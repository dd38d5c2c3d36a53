//! Where a peer is, in a form that is shown, compared and handed to another process.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The address of a peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Address {
    /// An IP address and port.
    Tcp(SocketAddr),
    /// The socket file a Unix connection goes through. Clients of a Unix socket have no address of their
    /// own.
    Unix(PathBuf),
}

impl Address {
    /// The socket file PostgreSQL's conventions give to `port` in `directory`.
    pub fn socket_file(directory: &Path, port: u16) -> PathBuf {
        directory.join(format!(".s.PGSQL.{port}"))
    }

    /// The IP address, if it is one. An IPv4 address that came through an IPv6 socket is shown as IPv4,
    /// so that rules and logs see one form.
    pub fn ip(&self) -> Option<std::net::IpAddr> {
        match self {
            Address::Tcp(address) => Some(address.ip().to_canonical()),
            Address::Unix(_) => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => {
                SocketAddr::new(address.ip().to_canonical(), address.port()).fmt(f)
            }
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

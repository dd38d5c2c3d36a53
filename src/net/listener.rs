//! A listening socket: made, inherited, accepted from.
//!
//! Does not know who serves what it accepts.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use socket2::{Domain, Protocol, Socket, Type};

use super::address::Address;
use super::port_holders;

/// A listening socket and where it listens.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    address: Address,
}

impl Listener {
    /// Listens on every address each of `hosts` stands for. `*` stands for all IPv4 and IPv6 addresses,
    /// the empty string for none.
    ///
    /// # Errors
    /// Which host could not be resolved or bound, and why.
    pub fn bind_tcp(
        hosts: &[String],
        port: u16,
        backlog: i32,
        sharing: Sharing,
    ) -> io::Result<Vec<Listener>> {
        resolve(hosts, port)?
            .into_iter()
            .map(|address| {
                bind_sharing(address, backlog, sharing)
                    .map_err(|error| named(&format!("could not listen on {address}"), &error))
            })
            .collect()
    }

    /// Whether each of `hosts` can be resolved and bound. Each address is bound for a moment, without listening on
    /// it. Returns those that another socket has.
    ///
    /// # Errors
    /// Which host could not be resolved or bound, and why.
    pub fn check_tcp(hosts: &[String], port: u16) -> io::Result<Vec<SocketAddr>> {
        let mut in_use = Vec::new();
        for address in resolve(hosts, port)? {
            match bound(address, false) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => in_use.push(address),
                Err(error) => {
                    return Err(named(&format!("could not listen on {address}"), &error));
                }
            }
        }
        Ok(in_use)
    }

    /// Takes over a socket that listens already.
    ///
    /// # Errors
    /// If the descriptor is no listening stream socket.
    pub fn inherit(fd: OwnedFd) -> io::Result<Listener> {
        let socket = Socket::from(fd);
        if !socket.is_listener()? {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the inherited descriptor is not a listening socket",
            ));
        }
        socket.set_cloexec(true)?;
        // The thread that accepts waits for nobody.
        socket.set_nonblocking(true)?;
        let local = socket.local_addr()?;
        let address = match (local.as_socket(), local.as_pathname()) {
            (Some(address), _) => Address::Tcp(address),
            (None, Some(path)) => Address::Unix(path.to_owned()),
            (None, None) => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "the inherited socket is neither TCP nor Unix",
                ));
            }
        };
        Ok(Listener { socket, address })
    }

    pub(super) fn on_unix(socket: Socket, path: PathBuf) -> Listener {
        Listener {
            socket,
            address: Address::Unix(path),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The next connection, without waiting for one: its socket and where it comes from.
    ///
    /// # Errors
    /// Those of `accept`.
    pub fn accept(&self) -> io::Result<(Socket, Address)> {
        let (socket, peer) = self.socket.accept()?;
        let address = match (&self.address, peer.as_socket()) {
            (Address::Tcp(_), Some(peer)) => Address::Tcp(peer),
            (own, _) => own.clone(),
        };
        Ok((socket, address))
    }
}

/// Every address that `hosts` stand for, each once, and none that a socket for all of its family covers.
fn resolve(hosts: &[String], port: u16) -> io::Result<Vec<SocketAddr>> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for host in hosts.iter().map(|host| host.trim()) {
        let found: Vec<SocketAddr> = if host == "*" {
            vec![
                SocketAddr::from(([0_u8; 4], port)),
                SocketAddr::from(([0_u16; 8], port)),
            ]
        } else if host.is_empty() {
            Vec::new()
        } else {
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            (bare, port)
                .to_socket_addrs()
                .map_err(|error| named(&format!("could not resolve \"{host}\""), &error))?
                .collect()
        };
        for address in found {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    // A socket for all addresses of a family is one for each of them.
    let all: Vec<SocketAddr> = addresses
        .iter()
        .filter(|address| address.ip().is_unspecified())
        .copied()
        .collect();
    addresses.retain(|address| {
        let same = |whole: &SocketAddr| whole.is_ipv4() == address.is_ipv4();
        address.ip().is_unspecified() || !all.iter().any(same)
    });
    Ok(addresses)
}

fn named(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// With whom a port may be shared.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sharing {
    /// With everybody who wants to share it.
    pub all: bool,
    /// With this process: it has started the one that listens now and means it to take its place.
    pub with: u32,
}

fn bind_sharing(address: SocketAddr, backlog: i32, sharing: Sharing) -> io::Result<Listener> {
    match bind(address, backlog, sharing.all) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if !sharing.all && port_holders::holds(sharing.with, address.port()) {
                log::info!(
                    "process {}, which has started this one, listens on {address}; the port is shared with it",
                    sharing.with
                );
                return bind(address, backlog, true);
            }
            Err(named("another process has the port", &error))
        }
        other => other,
    }
}

fn bind(address: SocketAddr, backlog: i32, shared: bool) -> io::Result<Listener> {
    let socket = bound(address, shared)?;
    socket.listen(backlog)?;
    // Two threads may both have seen the same connection attempt; the one that comes late must not
    // block in accept.
    socket.set_nonblocking(true)?;
    Ok(Listener {
        socket,
        address: Address::Tcp(address),
    })
}

/// A socket at this address that does not listen yet.
fn bound(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        // `*` and `localhost` stand for both families, each with a socket of its own.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

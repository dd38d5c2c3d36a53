//! Names of hosts and addresses of this machine, as the system knows them.
//!
//! Each call may wait for a name server. Invariant: a name counts only if it leads back to the address.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use socket2::SockAddr;

/// The longest name of a host, in bytes, with its NUL (`NI_MAXHOST`).
const MAX_NAME: usize = 1025;

/// The name of the host with this address, if that name has this address too.
pub fn verified_name_of(address: IpAddr) -> Option<String> {
    let address = address.to_canonical();
    let name = name_of(address)?;
    let addresses = (name.as_str(), 0).to_socket_addrs().ok()?;
    let mut addresses = addresses.map(|found| found.ip().to_canonical());
    addresses.any(|found| found == address).then_some(name)
}

fn name_of(address: IpAddr) -> Option<String> {
    let address = SockAddr::from(SocketAddr::new(address, 0));
    let mut name = [0_u8; MAX_NAME];
    // SAFETY: the address and the buffer are valid for their lengths during the call.
    #[allow(unsafe_code)]
    let outcome = unsafe {
        libc::getnameinfo(
            address.as_ptr().cast(),
            address.len(),
            name.as_mut_ptr().cast(),
            MAX_NAME as libc::socklen_t,
            std::ptr::null_mut(),
            0,
            libc::NI_NAMEREQD,
        )
    };
    let end = name.iter().position(|&byte| byte == 0)?;
    let name = std::str::from_utf8(&name[..end]).ok()?;
    (outcome == 0 && !name.is_empty()).then(|| name.to_owned())
}

/// The addresses of this machine, each with the mask of its network.
///
/// # Errors
/// The system's.
pub fn own_networks() -> io::Result<Vec<(IpAddr, IpAddr)>> {
    let ip = |address: nix::sys::socket::SockaddrStorage| {
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    let all = nix::ifaddrs::getifaddrs()?;
    let both =
        |one: nix::ifaddrs::InterfaceAddress| Some((ip(one.address?)?, one.netmask.and_then(ip)?));
    Ok(all.filter_map(both).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_the_loopback_address() {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        let own = own_networks().unwrap();
        assert!(
            own.contains(&(loopback, IpAddr::from([255, 0, 0, 0]))),
            "{own:?}"
        );
    }
}

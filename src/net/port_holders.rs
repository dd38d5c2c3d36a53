//! Whether a process listens on a TCP port, by `/proc` (proc(5), `/proc/net/tcp`).
//!
//! A process whose descriptors cannot be read counts as one that does not.

use std::collections::HashSet;
use std::fs;

/// The state of a socket that listens.
const LISTEN: &str = "0A";

/// Whether this process listens on the port, on any address.
pub(super) fn holds(process: u32, port: u16) -> bool {
    let listening: HashSet<u64> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|table| sockets(&table, port))
        .collect();
    let Ok(descriptors) = fs::read_dir(format!("/proc/{process}/fd")) else {
        return false;
    };
    descriptors
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|link| inode(link.to_str()?))
        .any(|socket| listening.contains(&socket))
}

/// The inodes of the sockets in the table that listen on the port.
fn sockets(table: &str, port: u16) -> Vec<u64> {
    let of_line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, found) = fields.get(1)?.rsplit_once(':')?;
        let same = u16::from_str_radix(found, 16).ok()? == port;
        (same && *fields.get(3)? == LISTEN).then(|| fields.get(9)?.parse().ok())?
    };
    table.lines().skip(1).filter_map(of_line).collect()
}

/// The inode in a link such as `socket:[4711]`.
fn inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_process_holds_the_ports_it_listens_on() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(holds(std::process::id(), port));
        assert!(!holds(1, port));
        drop(listener);
        assert!(!holds(std::process::id(), port));
    }

    #[test]
    fn only_sockets_that_listen_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:1A0A 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1\n\
             1: 0100007F:1A0A 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 4712 1\n\
             2: broken\n";
        assert_eq!(sockets(table, 0x1a0a), [4711]);
        assert!(sockets(table, 0xc350).is_empty());
        assert_eq!(inode("socket:[4711]"), Some(4711));
        assert_eq!(inode("pipe:[4711]"), None);
    }
}

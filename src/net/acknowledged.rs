//! Whether the other side's host still acknowledges what is sent to it, as `TCP_USER_TIMEOUT` would have it.
//!
//! That option also ends a connection whose peer reads nothing for so long. A backend that runs a statement reads
//! nothing until it is done, and it is not gone: its host acknowledges that there is no room. So the kernel is not
//! given the option, and whoever waits for a peer asks here from time to time. Invariant: a peer that only does not
//! read is never taken for gone.

use std::os::fd::AsRawFd;
use std::time::Duration;

use super::stream::Stream;

/// The beginning of the kernel's `struct tcp_info` (linux/tcp.h), in words of four bytes.
const WORDS: usize = 15;

/// The third byte: how often the oldest bytes that were not acknowledged have been sent again.
const RETRANSMITS: usize = 2;

/// The word with the number of segments that were sent and not acknowledged. Probes of a peer without room are
/// not among them.
const UNACKNOWLEDGED: usize = 6;

/// The word with the time since an acknowledgement came, in milliseconds.
const SINCE_ACKNOWLEDGEMENT: usize = 14;

impl Stream {
    /// Whether bytes were sent, and sent again, and the peer's host has acknowledged nothing for so long. Of a Unix
    /// socket that is never said.
    pub fn is_unacknowledged_for(&self, limit: Duration) -> bool {
        !self.is_unix() && self.tcp_info().is_some_and(|info| says_gone(&info, limit))
    }

    fn tcp_info(&self) -> Option<[u32; WORDS]> {
        let mut info = [0_u32; WORDS];
        let size = size_of_val(&info);
        let mut length = libc::socklen_t::try_from(size).ok()?;
        // SAFETY: the call writes at most `length` bytes, which are those of the array; the descriptor is ours.
        #[allow(unsafe_code)]
        let done = unsafe {
            libc::getsockopt(
                self.fd().as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                info.as_mut_ptr().cast(),
                &mut length,
            )
        };
        (done == 0 && usize::try_from(length).ok()? == size).then_some(info)
    }
}

fn says_gone(info: &[u32; WORDS], limit: Duration) -> bool {
    let retransmits = info[0].to_ne_bytes()[RETRANSMITS];
    let silence = Duration::from_millis(u64::from(info[SINCE_ACKNOWLEDGEMENT]));
    info[UNACKNOWLEDGED] > 0 && retransmits > 0 && silence >= limit
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(1);

    fn info(retransmits: u8, unacknowledged: u32, milliseconds: u32) -> [u32; WORDS] {
        let mut info = [0; WORDS];
        info[0] = u32::from_ne_bytes([1, 0, retransmits, 0]);
        info[UNACKNOWLEDGED] = unacknowledged;
        info[SINCE_ACKNOWLEDGEMENT] = milliseconds;
        info
    }

    #[test]
    fn a_host_is_gone_that_acknowledges_nothing_of_what_is_sent_again() {
        assert!(says_gone(&info(3, 2, 1000), LIMIT));
        assert!(!says_gone(&info(3, 2, 999), LIMIT));
        // Nothing was sent for long, and now something was.
        assert!(!says_gone(&info(0, 2, 60_000), LIMIT));
        // It has no room, and is probed.
        assert!(!says_gone(&info(0, 0, 60_000), LIMIT));
    }

    #[test]
    fn the_kernel_tells_of_a_peer_that_reads_nothing() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_server, _) = listener.accept().unwrap();
        let mut stream = Stream::new(client.into(), false, &Default::default());
        while stream.send(&[0; 65536]).unwrap() > 0 {}
        assert!(stream.unsent() > 0);
        assert!(stream.tcp_info().is_some());
        assert!(!stream.is_unacknowledged_for(Duration::ZERO));
    }
}

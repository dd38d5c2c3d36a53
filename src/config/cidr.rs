//! A network: an address and how many of its leading bits count.
//!
//! Knows nothing of names or rules. The invariant: the prefix is never longer
//! than the address, and IPv4 and IPv6 networks never contain each other's
//! addresses (an IPv4 address mapped into IPv6 counts as the IPv4 address).

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

/// An IPv4 or IPv6 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr(IpNet);

impl Cidr {
    /// Reads `10.0.0.0/8`, `::1/128`, or a bare address, which is a network of
    /// one.
    ///
    /// # Errors
    /// The reason as a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bare = || text.parse::<IpAddr>().map(IpNet::from);
        let network = text.parse().or_else(|_| bare());
        network.map(Cidr).map_err(|_| {
            format!(
                "{} is not an address or network",
                super::problem::quote(text)
            )
        })
    }

    /// Whether an address is in this network.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(network: &str, address: &str) -> bool {
        Cidr::parse(network)
            .unwrap()
            .contains(address.parse().unwrap())
    }

    #[test]
    fn a_network_contains_what_shares_its_prefix() {
        assert!(holds("10.0.0.0/8", "10.255.0.1"));
        assert!(!holds("10.0.0.0/8", "11.0.0.1"));
        assert!(
            holds("10.1.2.3/8", "10.9.9.9"),
            "bits after the prefix do not count"
        );
        assert!(holds("0.0.0.0/0", "192.0.2.1"));
        assert!(holds("192.0.2.1", "192.0.2.1") && !holds("192.0.2.1", "192.0.2.2"));
        assert!(holds("2001:db8::/32", "2001:db8:1::1") && !holds("2001:db8::/32", "2001:db9::1"));
        assert!(holds("::/0", "::1"));
    }

    #[test]
    fn families_do_not_mix_but_mapped_addresses_are_ipv4() {
        assert!(!holds("0.0.0.0/0", "::1"));
        assert!(!holds("::/0", "192.0.2.1"));
        assert!(holds("192.0.2.0/24", "::ffff:192.0.2.7"));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "/8",
            "10.0.0.0/33",
            "::1/129",
            "10.0.0.0/",
            "10.0.0/8",
            "localhost",
            "10.0.0.0/+8",
        ] {
            assert!(Cidr::parse(text).is_err(), "{text}");
        }
    }
}

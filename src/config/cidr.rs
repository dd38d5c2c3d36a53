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

    /// Joins an address and a mask such as `255.255.255.0`.
    ///
    /// # Errors
    /// The reason as a sentence.
    pub fn with_mask(address: &str, mask: &str) -> Result<Self, String> {
        let wrong = |text| format!("{} is not an address", super::problem::quote(text));
        let address: IpAddr = address.parse().map_err(|_| wrong(address))?;
        let parsed: IpAddr = mask.parse().map_err(|_| wrong(mask))?;
        if address.is_ipv4() != parsed.is_ipv4() {
            return Err("address and mask are of different families".into());
        }
        IpNet::with_netmask(address, parsed).map(Cidr).map_err(|_| {
            format!(
                "{} is not a mask of leading ones",
                super::problem::quote(mask)
            )
        })
    }

    /// Whether all of its addresses are of this machine's loopback interface.
    pub fn is_loopback(&self) -> bool {
        self.0.network().is_loopback() && self.0.broadcast().is_loopback()
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
    fn a_mask_counts_its_leading_ones() {
        let show = |a, m| Cidr::with_mask(a, m).map(|c| c.to_string());
        assert_eq!(show("10.0.0.0", "255.255.0.0"), Ok("10.0.0.0/16".into()));
        assert_eq!(show("10.0.0.0", "0.0.0.0"), Ok("10.0.0.0/0".into()));
        assert_eq!(
            show("::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            Ok("::1/128".into())
        );
        assert!(show("10.0.0.0", "255.0.255.0").is_err());
        assert!(show("10.0.0.0", "ffff::").is_err());
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

//! Which addresses a rule is for: the words between its users and its method.
//!
//! Resolves no name. Invariant: a text that may be meant as an address and is none is refused, not taken for the name
//! of a host.

use std::fmt;
use std::net::IpAddr;

use crate::config::fields::{Field, Word, single};

/// Which addresses a rule is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressMatch {
    /// `all`, or a `local` rule.
    Any,
    /// `samehost`: the addresses of this machine.
    SameHost,
    /// `samenet`: the networks of this machine.
    SameNet,
    /// An address, with a prefix length or a mask.
    Network(Network),
    /// A host's name, or with a dot before it a domain's.
    Host(String),
}

/// An address and those of its bits that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    mask: IpAddr,
}

impl AddressMatch {
    /// Whether only clients on this machine match.
    pub fn is_own_host(&self) -> bool {
        match self {
            AddressMatch::SameHost => true,
            AddressMatch::Network(Network { address, mask }) => {
                let first = match mask {
                    IpAddr::V4(mask) => mask.octets()[0] == 0xff,
                    IpAddr::V6(mask) => mask.to_bits() == u128::MAX,
                };
                first && address.is_loopback()
            }
            _ => false,
        }
    }
}

impl Network {
    /// The address and the mask, which are of one family.
    fn new(address: IpAddr, mask: IpAddr) -> Option<Network> {
        (address.is_ipv4() == mask.is_ipv4()).then_some(Network { address, mask })
    }

    /// Whether an address is in it. The bits of the mask may stand anywhere.
    pub fn contains(&self, address: IpAddr) -> bool {
        is_in(address.to_canonical(), self.address, self.mask)
    }

    /// The address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The mask.
    pub fn mask(&self) -> IpAddr {
        self.mask
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.address, self.mask)
    }
}

/// Whether `address` has those bits of `network` that `mask` says count.
pub fn is_in(address: IpAddr, network: IpAddr, mask: IpAddr) -> bool {
    match (address, network, mask) {
        (IpAddr::V4(address), IpAddr::V4(network), IpAddr::V4(mask)) => {
            (address.to_bits() ^ network.to_bits()) & mask.to_bits() == 0
        }
        (IpAddr::V6(address), IpAddr::V6(network), IpAddr::V6(mask)) => {
            (address.to_bits() ^ network.to_bits()) & mask.to_bits() == 0
        }
        _ => false,
    }
}

/// The address, and what follows it.
pub(super) fn address(rest: &[Field]) -> Result<(AddressMatch, &[Field]), String> {
    let [first, after @ ..] = rest else {
        return Err("end-of-line before IP address specification".into());
    };
    let first = single(first, "host address")?;
    for (keyword, meaning) in [
        ("all", AddressMatch::Any),
        ("samehost", AddressMatch::SameHost),
        ("samenet", AddressMatch::SameNet),
    ] {
        if first.is(keyword) {
            return Ok((meaning, after));
        }
    }
    let text = std::str::from_utf8(&first.text)
        .map_err(|_| format!("{} is neither an address nor a host name", first.shown()))?;
    if let Some((address, bits)) = text.split_once('/') {
        return Ok((
            AddressMatch::Network(with_prefix(first, address, bits)?),
            after,
        ));
    }
    let Ok(address) = text.parse::<IpAddr>() else {
        return Ok((AddressMatch::Host(host(first, text)?), after));
    };
    // PostgreSQL demands a mask. Here an address alone is that address.
    let alone = Network {
        address,
        mask: all_bits(address),
    };
    let Some(second) = after.first() else {
        return Ok((AddressMatch::Network(alone), after));
    };
    let [word] = second.as_slice() else {
        return Err("multiple values specified for netmask".into());
    };
    if !word.text.contains(&b'.') && !word.text.contains(&b':') {
        return Ok((AddressMatch::Network(alone), after));
    }
    let mask = std::str::from_utf8(&word.text).ok();
    let mask = mask
        .and_then(|mask| mask.parse().ok())
        .ok_or_else(|| format!("invalid IP mask {}", word.shown()))?;
    let network = Network::new(address, mask).ok_or("IP address and mask do not match")?;
    Ok((AddressMatch::Network(network), &after[1..]))
}

fn all_bits(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::from([0xff; 4]),
        IpAddr::V6(_) => IpAddr::from([0xff; 16]),
    }
}

fn with_prefix(word: &Word, address: &str, bits: &str) -> Result<Network, String> {
    let address: IpAddr = address.parse().map_err(|_| {
        format!(
            "{} is not an address or network; a host name has no mask",
            word.shown()
        )
    })?;
    let invalid = || format!("invalid CIDR mask in address {}", word.shown());
    let width = if address.is_ipv4() { 32 } else { 128 };
    let is_number = !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit());
    let bits: u32 = match bits.parse() {
        Ok(bits) if is_number && bits <= width => bits,
        _ => return Err(invalid()),
    };
    let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
    let mask = match address {
        IpAddr::V4(_) => IpAddr::from(u32::try_from(mask >> 96).unwrap_or(0).to_be_bytes()),
        IpAddr::V6(_) => IpAddr::from(mask.to_be_bytes()),
    };
    Network::new(address, mask).ok_or_else(invalid)
}

/// A text that is no address is the name of a host, unless PostgreSQL would take it for an address, such as `10.1` or
/// `fe80::1%eth0`.
fn host(word: &Word, text: &str) -> Result<String, String> {
    let is_number = |part: &str| {
        let hex = part.strip_prefix("0x").or_else(|| part.strip_prefix("0X"));
        match hex {
            Some(hex) => hex.bytes().all(|byte| byte.is_ascii_hexdigit()),
            None => part.bytes().all(|byte| byte.is_ascii_digit()),
        }
    };
    let like_an_address = text.split('.').all(is_number) || text.contains(':');
    if text.is_empty() || text.len() > 255 || like_an_address || text.contains('\0') {
        return Err(format!(
            "{} is not an address; write all four numbers, an address with its prefix length such \
             as 192.0.2.0/24, or the name of a host",
            word.shown()
        ));
    }
    Ok(text.into())
}

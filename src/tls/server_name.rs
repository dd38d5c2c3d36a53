//! The name by which a client asks for a server (`server_name`, RFC 6066 section 3), and what is there under
//! the names of certificates.
//!
//! Invariant: a name finds what a client that verifies it would accept for it, by its own name or by a `*` in
//! place of its first label (RFC 6125 section 6.4.3), and costs two look-ups however many there are.

use std::collections::BTreeMap;

use openssl::x509::X509Ref;

/// The DNS names of a certificate's subjectAltName (RFC 5280 section 4.2.1.6), in lower case.
pub fn names(certificate: &X509Ref) -> Vec<String> {
    let all = certificate.subject_alt_names();
    let all = all.iter().flatten();
    all.filter_map(|name| name.dnsname().map(str::to_ascii_lowercase))
        .collect()
}

/// Things by the names they are for.
pub(super) struct ByName<T>(BTreeMap<String, T>);

impl<T> Default for ByName<T> {
    fn default() -> Self {
        ByName(BTreeMap::new())
    }
}

impl<T: Clone> ByName<T> {
    /// Puts a thing under these names, where there is none yet.
    pub(super) fn add(&mut self, names: Vec<String>, thing: &T) {
        for name in names {
            self.0.entry(name).or_insert_with(|| thing.clone());
        }
    }

    /// What is there for this name: rather what has the name itself than what has a wildcard for it.
    pub(super) fn find(&self, name: &str) -> Option<&T> {
        let name = name.to_ascii_lowercase();
        self.0.get(&name).or_else(|| {
            let (_, domain) = name.split_once('.')?;
            self.0.get(&format!("*.{domain}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_finds_what_a_client_would_accept_for_it() {
        let mut things = ByName::default();
        let names = |all: &[&str]| all.iter().map(|name| (*name).to_owned()).collect();
        things.add(names(&["*.shop.example", "shop.example"]), &1);
        things.add(names(&["db.shop.example", "shop.example"]), &2);
        for (asked, found) in [
            ("shop.example", Some(1)),
            ("Shop.EXAMPLE", Some(1)),
            ("any.shop.example", Some(1)),
            ("db.shop.example", Some(2)),
            ("a.db.shop.example", None),
            ("example", None),
            (".shop.example", Some(1)),
            ("", None),
            (".", None),
            ("*", None),
        ] {
            assert_eq!(things.find(asked).copied(), found, "{asked:?}");
        }
    }
}

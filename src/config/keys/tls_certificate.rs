//! `[[general.tls_certificates]]`: a further certificate for clients.

use super::prelude::*;

keys! {
    /// A `[`[general.tls_certificates]`]` table.
    pub struct TlsCertificate under () {
        group "" {
            /// The certificate, followed by its chain (PEM). It is shown to clients that ask
            /// for one of the DNS names in its subjectAltName. A name in it may be a wildcard.
            certificate: Option<PathBuf> = required("\"/etc/pg_doorman/shop.crt\""),
                Kind::Path, NewClients, Works;
            /// The private key of the certificate, without a passphrase (PEM).
            private_key: Option<PathBuf> = required("\"/etc/pg_doorman/shop.key\""),
                Kind::Path, NewClients, Works;
        }
    }
    besides {}
    also {}
}

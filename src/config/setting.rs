//! From a checked value to the Rust type of a field, and from there to a text.
//!
//! The invariant: for every field, `take` accepts all that its kind lets pass (a
//! test of `keys` reads every default), and `show` never prints a secret.

use std::path::PathBuf;
use std::time::Duration;

use super::duration::Unit;
use super::kind::{Kind, Value, Zero};
use super::password::Password;
use super::secret::Secret;

/// A type that a field can have.
pub(super) trait Setting: Sized + Default {
    /// The value as this type; `None` if kind and type do not fit together.
    fn take(value: Value) -> Option<Self>;

    /// The text for `SHOW CONFIG`.
    fn show(&self, kind: &Kind) -> String;
}

impl<T: Setting> Setting for Option<T> {
    fn take(value: Value) -> Option<Self> {
        match value {
            Value::Off => Some(None),
            value => T::take(value).map(Some),
        }
    }

    fn show(&self, kind: &Kind) -> String {
        match (self, kind) {
            (Some(value), _) => value.show(kind),
            // Written as 0, so shown as 0; anything else was not written.
            (
                None,
                Kind::Integer {
                    zero: Zero::Off, ..
                }
                | Kind::Duration {
                    zero: Zero::Off, ..
                }
                | Kind::Size { zero: Zero::Off },
            ) => "0".into(),
            (None, _) => String::new(),
        }
    }
}

macro_rules! numbers {
    ($($type:ty),*) => { $(
        impl Setting for $type {
            fn take(value: Value) -> Option<Self> {
                if let Value::Number(number) = value { number.try_into().ok() } else { None }
            }

            fn show(&self, kind: &Kind) -> String {
                match kind {
                    Kind::Permissions => format!("{self:04o}"),
                    _ => self.to_string(),
                }
            }
        }
    )* };
}

numbers!(u16, u32, u64, usize);

/// Declares how each type is taken from the value of one kind, and how it is shown.
macro_rules! settings {
    ($($type:ty: $variant:ident($value:ident) => $taken:expr, |$own:ident, $kind:ident| $shown:expr;)*) => { $(
        impl Setting for $type {
            fn take(value: Value) -> Option<Self> {
                if let Value::$variant($value) = value { Some($taken) } else { None }
            }

            fn show(&self, $kind: &Kind) -> String {
                let $own = self;
                $shown
            }
        }
    )* };
}

settings! {
    bool: Bool(value) => value, |own, _kind| own.to_string();
    Duration: Duration(value) => value, |own, kind| show_duration(*own, kind);
    String: Text(text) => text.to_string(), |own, _kind| own.clone();
    PathBuf: Text(text) => text.as_str().into(), |own, _kind| own.display().to_string();
    Vec<String>: List(words) => words, |own, _kind| own.join(",");
    Secret: Text(text) => Secret::new(text.as_str()), |_own, _kind| HIDDEN.into();
    Password: Password(password) => password, |_own, _kind| HIDDEN.into();
}

const HIDDEN: &str = "***";

/// A bare number in the unit of the key: dashboards read these.
fn show_duration(duration: Duration, kind: &Kind) -> String {
    match kind {
        Kind::Duration {
            unit: Unit::Seconds,
            ..
        } => duration.as_secs().to_string(),
        Kind::Duration {
            unit: Unit::Named, ..
        } => format!("{}ms", duration.as_millis()),
        _ => duration.as_millis().to_string(),
    }
}

/// Declares an enum whose variants are words of the file.
macro_rules! words {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $( $(#[$variant_meta:meta])* $variant:ident = $word:literal, )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum $name {
            $( $(#[$variant_meta])* $variant, )*
        }

        impl $name {
            /// The words of the file, in the order of the variants.
            pub const WORDS: &'static [&'static str] = &[$($word),*];

            /// The word of the file.
            pub fn as_str(self) -> &'static str {
                match self {
                    $( Self::$variant => $word, )*
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Setting for $name {
            fn take(value: Value) -> Option<Self> {
                let Value::Text(text) = value else { return None };
                match text.as_str() {
                    $( $word => Some(Self::$variant), )*
                    _ => None,
                }
            }

            fn show(&self, _: &Kind) -> String {
                self.as_str().into()
            }
        }
    };
}

words! {
    /// How long a client keeps its server connection.
    pub enum PoolMode {
        /// Until its transaction ends.
        #[default]
        Transaction = "transaction",
        /// Until it leaves.
        Session = "session",
    }
}

words! {
    /// Whether clients use TLS.
    pub enum ClientTlsMode {
        /// Never.
        Disable = "disable",
        /// If they ask for it.
        #[default]
        Allow = "allow",
        /// If they ask for it; who decides is the client.
        Prefer = "prefer",
        /// Always.
        Require = "require",
        /// Always, with a certificate of their own that is verified.
        VerifyCa = "verify-ca",
        /// The same: whose name a certificate must hold is for HBA rules to say.
        VerifyFull = "verify-full",
    }
}

words! {
    /// Whether server connections use TLS.
    pub enum ServerTlsMode {
        /// Never.
        Disable = "disable",
        /// If PostgreSQL refuses a plain connection.
        #[default]
        Allow = "allow",
        /// If PostgreSQL offers it.
        Prefer = "prefer",
        /// Always.
        Require = "require",
        /// Always, and the certificate must be signed by a known authority.
        VerifyCa = "verify-ca",
        /// Always, and the certificate must also name the host.
        VerifyFull = "verify-full",
    }
}

words! {
    /// The versions of TLS there are, in their order.
    #[derive(PartialOrd, Ord, Hash)]
    pub enum TlsVersion {
        /// RFC 5246.
        #[default]
        Tls12 = "TLSv1.2",
        /// RFC 8446.
        Tls13 = "TLSv1.3",
    }
}

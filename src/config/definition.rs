//! One definition per setting, from which everything else about it comes.
//!
//! The macro [`keys!`] turns a list of definitions into a struct with one field
//! per key, the code that reads it, the rows of `SHOW CONFIG`, and the constant
//! `KEYS` from which `reference` writes the commented file. The invariant: name,
//! type, default, range, reload class, effect and doc text of a key are written
//! in one place, under `keys/`.

use super::kind::Kind;

/// Everything about one key except its value.
#[derive(Clone, Copy, Debug)]
pub struct Definition {
    /// The heading it stands under in the reference.
    pub group: &'static str,
    /// The key.
    pub name: &'static str,
    /// How its value may be written.
    pub kind: Kind,
    /// What holds when it is not written.
    pub preset: Preset,
    /// When a changed value takes effect.
    pub reload: Reload,
    /// Whether it does anything.
    pub effect: Effect,
    /// What it is for, in a sentence or two.
    pub doc: &'static str,
}

/// What holds when a key is not written. Texts are TOML values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// This value.
    Is(&'static str),
    /// Nothing, which means this.
    Unset {
        /// What its absence means.
        means: &'static str,
        /// A value for the reference.
        example: &'static str,
    },
    /// It must be written.
    Required {
        /// A value for the reference.
        example: &'static str,
    },
    /// The value of the same key in a table further out.
    Inherited {
        /// Which one, e.g. `general.idle_timeout`.
        from: &'static str,
        /// A value for the reference.
        example: &'static str,
    },
}

/// When a changed value takes effect after `RELOAD`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// At once.
    Live,
    /// For clients that connect afterwards.
    NewClients,
    /// For server connections opened afterwards.
    NewServers,
    /// For both.
    NewConnections,
    /// When the program is started again.
    Restart,
}

/// Whether a key does anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Yes.
    Works,
    /// This is not in this version yet.
    NotYet(&'static str),
}

/// The definition of a key in a table which takes it from a table further out (`keys`).
pub(super) const fn inherited(
    keys: &'static [Definition],
    name: &'static str,
    from: &'static str,
) -> Definition {
    let mut place = 0;
    while !is_same(keys[place].name, name) {
        place += 1;
    }
    let outer = keys[place];
    let (Preset::Is(example)
    | Preset::Unset { example, .. }
    | Preset::Required { example }
    | Preset::Inherited { example, .. }) = outer.preset;
    Definition {
        group: "What holds in the table further out, unless it is set here",
        preset: Preset::Inherited { from, example },
        ..outer
    }
}

/// Whether two names are the same, asked by the compiler.
const fn is_same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}

/// Declares a table of the file. See the module's own words.
///
/// `pub struct T under P` names the struct and the type of the table further out.
/// `inherits` lists keys that are defined there, and whose value there holds unless
/// they are written here too. `besides` lists keys without a field. `also` lists fields that are not keys, left at
/// their default for `settings` to fill.
macro_rules! keys {
    (
        $(#[$meta:meta])*
        pub struct $table:ident under $parent:ty {
            $(
                group $group:literal {
                    $(
                        $(#[doc = $doc:literal])+
                        $name:ident : $type:ty = $how:ident ( $($arg:expr),* ),
                            $kind:expr, $reload:ident, $effect:expr;
                    )*
                }
            )*
            $(
                inherits $from:literal {
                    $( $inherited:ident : $inherited_type:ty; )*
                }
            )?
        }
        besides {
            $(
                group $other_group:literal {
                    $(
                        $(#[doc = $other_doc:literal])+
                        $other:ident = $other_how:ident ( $($other_arg:expr),* ),
                            $other_kind:expr, $other_reload:ident, $other_effect:expr;
                    )*
                }
            )*
        }
        also {
            $( $(#[$also_meta:meta])* $also:ident : $also_type:ty; )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $table {
            $($(
                $(#[doc = $doc])+
                pub $name: $type,
            )*)*
            $($(
                /// What is written in this table, or in the one further out.
                pub $inherited: $inherited_type,
            )*)?
            $(
                $(#[$also_meta])*
                pub $also: $also_type,
            )*
        }

        impl $table {
            /// Every key that may stand in this table.
            pub const KEYS: &'static [Definition] = &[
                $($(
                    Definition {
                        group: $group,
                        name: stringify!($name),
                        kind: $kind,
                        preset: keys!(@preset $how $($arg),*),
                        reload: Reload::$reload,
                        effect: $effect,
                        doc: concat!($($doc),+),
                    },
                )*)*
                $($(
                    inherited(
                        <$parent>::KEYS,
                        stringify!($inherited),
                        concat!($from, ".", stringify!($inherited)),
                    ),
                )*)?
                $($(
                    Definition {
                        group: $other_group,
                        name: stringify!($other),
                        kind: $other_kind,
                        preset: keys!(@preset $other_how $($other_arg),*),
                        reload: Reload::$other_reload,
                        effect: $other_effect,
                        doc: concat!($($other_doc),+),
                    },
                )*)*
            ];

            /// Reads the table; what is wrong goes to the reader's report.
            #[allow(unused_variables, reason = "a table that inherits nothing needs no parent")]
            pub(in crate::config) fn read(reader: &mut Reader<'_>, parent: &$parent) -> Self {
                $($( reader.check(stringify!($other)); )*)*
                $table {
                    $($(
                        $name: match reader.value(stringify!($name)) {
                            Some(value) => value,
                            None => keys!(@absent $how reader parent $name),
                        },
                    )*)*
                    $($(
                        $inherited: match reader.value(stringify!($inherited)) {
                            Some(value) => value,
                            None => parent.$inherited.clone(),
                        },
                    )*)?
                    $( $also: Default::default(), )*
                }
            }

            /// Each field's key, text and default text.
            #[allow(dead_code, reason = "not every table is shown")]
            pub(in crate::config) fn rows(&self) -> Vec<(&'static str, String, String)> {
                vec![
                    $($(
                        (
                            stringify!($name),
                            Setting::show(&self.$name, &$kind),
                            default_text::<$type>(&keys!(@preset $how $($arg),*), &$kind),
                        ),
                    )*)*
                    $($(
                        (
                            stringify!($inherited),
                            Setting::show(
                                &self.$inherited,
                                &inherited(<$parent>::KEYS, stringify!($inherited), "").kind,
                            ),
                            "-".to_owned(),
                        ),
                    )*)?
                ]
            }
        }
    };

    (@preset is $text:expr) => { Preset::Is($text) };
    (@preset unset $means:expr, $example:expr) => {
        Preset::Unset { means: $means, example: $example }
    };
    (@preset required $example:expr) => { Preset::Required { example: $example } };

    (@absent required $reader:ident $parent:ident $name:ident) => { Default::default() };
    (@absent $how:ident $reader:ident $parent:ident $name:ident) => {
        $reader.preset(stringify!($name))
    };
}

pub(super) use keys;

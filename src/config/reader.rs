//! Reads one table of the document by its definitions.
//!
//! Finds the value of a key, checks it by its kind,
//! says what has no effect, and names unknown keys. The invariant: every key
//! written in a table is either read by its definition or told to be unknown.

use super::compatibility;
use super::definition::{Definition, Effect, Preset};
use super::foreign;
use super::keys;
use super::kind::{Kind, Value};
use super::nearest::nearest;
use super::problem::{Place, Report, word};
use super::raw::{self, Node, Table, Tree};
use super::setting::Setting;

/// A table being read.
pub(super) struct Reader<'a> {
    table: &'a Table,
    definitions: &'static [Definition],
    /// The path of the table, e.g. `pools.shop`.
    path: String,
    place: Place,
    pub report: &'a mut Report,
}

impl<'a> Reader<'a> {
    /// Starts on a table. Unknown and missing keys are told here.
    pub fn new(
        table: &'a Table,
        definitions: &'static [Definition],
        path: impl Into<String>,
        place: &Place,
        report: &'a mut Report,
    ) -> Self {
        let mut reader = Reader {
            table,
            definitions,
            path: path.into(),
            place: place.clone(),
            report,
        };
        reader.tell_unknown();
        reader.tell_missing();
        reader
    }

    /// The checked value of a key; `None` if it is not written, or wrong.
    pub fn value<T: Setting>(&mut self, name: &'static str) -> Option<T> {
        let definition = self.definition(name)?;
        let value = self.checked(definition)?;
        let taken = T::take(value);
        if taken.is_none() {
            self.fail(name, "this value does not fit");
        }
        taken
    }

    /// Checks a key that has no field.
    pub fn check(&mut self, name: &'static str) {
        if let Some(definition) = self.definition(name) {
            if let Kind::Own(_) = definition.kind {
                if self.node(name).is_some() {
                    self.tell_effect(definition);
                }
            } else {
                self.checked(definition);
            }
        }
    }

    /// The default of a key.
    pub fn preset<T: Setting>(&mut self, name: &'static str) -> T {
        match self.definition(name) {
            Some(definition) => preset(&definition.preset, &definition.kind).unwrap_or_default(),
            None => T::default(),
        }
    }

    /// The node of a key, if it is written.
    pub fn node(&self, name: &str) -> Option<&'a Node> {
        self.table.get(name)
    }

    /// Whether a key is written.
    pub fn has(&self, name: &str) -> bool {
        self.node(name).is_some()
    }

    /// The full name of a key.
    pub fn key(&self, name: &str) -> String {
        format!("{}.{}", self.path, word(name))
    }

    /// Where a key is written; if it is not, where the table is.
    pub fn place_of(&self, name: &str) -> Place {
        let node = self.node(name);
        node.map_or(&self.place, |node| &node.place).clone()
    }

    /// Tells that something is wrong with a key.
    pub fn fail(&mut self, name: &str, reason: impl Into<String>) {
        let place = self
            .node(name)
            .map_or(&self.place, |node| &node.place)
            .clone();
        let key = self.key(name);
        self.report.fail(&place, key, reason);
    }

    /// Tells something about a key.
    pub fn warn(&mut self, name: &str, text: impl Into<String>) {
        let place = self
            .node(name)
            .map_or(&self.place, |node| &node.place)
            .clone();
        let key = self.key(name);
        self.report.warn(&place, key, text);
    }

    fn definition(&self, name: &str) -> Option<&'static Definition> {
        self.definitions
            .iter()
            .find(|definition| definition.name == name)
    }

    fn checked(&mut self, definition: &'static Definition) -> Option<Value> {
        let node = self.node(definition.name)?;
        match definition.kind.read(node) {
            Ok(value) => {
                self.tell_bare_number(definition, node);
                if !is_off(&value) || !matches!(definition.effect, Effect::NotYet(_)) {
                    self.tell_effect(definition);
                }
                Some(value)
            }
            Err(reason) => {
                let reason = match definition.kind {
                    Kind::OneOf(_) => format!("Invalid {}: {reason}", definition.name),
                    _ => reason,
                };
                self.fail(definition.name, reason);
                None
            }
        }
    }

    /// Tells of a number that may be meant as seconds, as PgBouncer counts.
    fn tell_bare_number(&mut self, definition: &Definition, node: &Node) {
        let Tree::Integer(number @ 1..) = node.tree else {
            return;
        };
        let name = definition.name;
        let is_doubtful = |(counted, enough): &(&str, i128)| *counted == name && number < *enough;
        if foreign::COUNTED_IN_SECONDS.iter().any(is_doubtful) {
            self.warn(
                name,
                format!(
                    "{number} means {number} ms; write \"{number}s\" for seconds, or \"{number}ms\""
                ),
            );
        }
    }

    fn tell_effect(&mut self, definition: &Definition) {
        if let Effect::NotYet(what) = definition.effect {
            let text = format!("has no effect: {what} is not in this version");
            self.warn(definition.name, text);
        }
    }

    fn tell_unknown(&mut self) {
        for (name, node) in self.table {
            if self.definition(name).is_none() {
                let text = match compatibility::no_effect(name) {
                    Some(reason) => format!("has no effect: {reason}"),
                    None => unknown(name, self.definitions),
                };
                self.report
                    .warn(&node.place, format!("{}.{}", self.path, word(name)), text);
            }
        }
    }

    fn tell_missing(&mut self) {
        for definition in self.definitions {
            if matches!(definition.preset, Preset::Required { .. }) && !self.has(definition.name) {
                self.fail(definition.name, "is required and not set");
            }
        }
    }
}

/// What to say about a key that is not in `definitions`.
pub(super) fn unknown(name: &str, definitions: &[Definition]) -> String {
    let near = nearest(name, definitions.iter().map(|definition| definition.name));
    let elsewhere: Vec<&str> = keys::TABLES
        .iter()
        .filter(|(_, keys)| keys.iter().any(|key| key.name == name))
        .map(|(table, _)| *table)
        .collect();
    let hint = foreign::hint(name);
    // `host` in a pool is the server's, though [general] has a key of that name.
    let server = format!("server_{name}");
    let is_servers = definitions.iter().any(|known| known.name == server);
    match near {
        _ if is_servers => format!("unknown key, ignored; did you mean `{server}`?"),
        _ if hint.is_some() => {
            let hint = hint.unwrap_or_default();
            format!("unknown key, ignored; {hint}")
        }
        _ if !elsewhere.is_empty() => {
            format!(
                "unknown key here, ignored; `{name}` belongs in {}",
                elsewhere.join(" or ")
            )
        }
        Some(near) => format!("unknown key, ignored; did you mean `{near}`?"),
        None => "unknown key, ignored".into(),
    }
}

/// A key whose feature is missing may still say that it is not wanted.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Off | Value::Bool(false) | Value::Number(0) => true,
        Value::Text(text) => text.as_str() == "disable",
        _ => false,
    }
}

fn preset<T: Setting>(preset: &Preset, kind: &Kind) -> Option<T> {
    let Preset::Is(text) = preset else {
        return None;
    };
    let node = raw::parse_value(text)?;
    T::take(kind.read(&node).ok()?)
}

/// The default as `SHOW CONFIG` prints it.
pub(super) fn default_text<T: Setting>(definition: &Preset, kind: &Kind) -> String {
    preset::<T>(definition, kind).map_or_else(|| "-".into(), |value| value.show(kind))
}

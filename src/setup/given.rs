//! [`Given`]: settings by their names, read as a configuration file is.
//!
//! [`Config`] says which settings there are and what their values are, so that there is no second list of
//! them. What is wrong is told without the value, and without a name that is unknown: in a URL both may be
//! pieces of a password.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::fmt;

use serde::de::value::{MapAccessDeserializer, SeqDeserializer, StrDeserializer};
use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, Visitor,
};

use super::{PoolOptions, SetupError};
use crate::Config;

/// Settings that were given, each by its path.
#[derive(Clone, Default)]
pub(super) struct Given(BTreeMap<String, Value>);

#[derive(Clone)]
pub(super) enum Value {
    Text(String),
    Number(i64),
    Flag(bool),
    List(Vec<Value>),
    Table(Given),
}

impl Given {
    /// Sets the value at this path, `timeouts.checkout`. Returns whether there was none.
    pub(super) fn set(&mut self, path: &str, value: Value) -> bool {
        let Some((table, rest)) = path.split_once('.') else {
            return self.0.insert(path.to_owned(), value).is_none();
        };
        let inside =
            self.0.entry(table.to_owned()).or_insert_with(|| Value::Table(Self::default()));
        match inside {
            Value::Table(inside) => inside.set(rest, value),
            _ => false,
        }
    }

    pub(super) fn has(&self, path: &str) -> bool {
        let (name, rest) = path.split_once('.').unwrap_or((path, ""));
        match self.0.get(name) {
            Some(Value::Table(inside)) if !rest.is_empty() => inside.has(rest),
            found => found.is_some(),
        }
    }

    /// Puts these values in place of ours.
    pub(super) fn put(&mut self, others: &Self) {
        for (name, value) in &others.0 {
            match (self.0.get_mut(name), value) {
                (Some(Value::Table(ours)), Value::Table(others)) => ours.put(others),
                _ => _ = self.0.insert(name.clone(), value.clone()),
            }
        }
    }

    pub(super) fn names(&self) -> impl fmt::Debug {
        self.0.keys().collect::<Vec<_>>()
    }

    /// The configuration of these settings, with the defaults for all others.
    pub(super) fn config(&self) -> Result<Config, Refusal> {
        Config::deserialize(Reader::Table(self))
    }
}

/// Why a setting cannot be read.
#[derive(Debug)]
pub(super) struct Refusal {
    /// The names of the tables around it, and its own, the innermost first.
    path: Vec<String>,
    rule: Rule,
}

#[derive(Debug)]
enum Rule {
    /// There is no such setting; there are these.
    Names(&'static [&'static str]),
    /// The values that there are.
    Values(String),
}

impl Refusal {
    fn because(rule: Rule) -> Self {
        Self { path: Vec::new(), rule }
    }

    fn within(mut self, name: &str) -> Self {
        self.path.push(name.to_owned());
        self
    }

    /// The same for the user, who writes names behind this prefix.
    pub(super) fn told(mut self, prefix: &str) -> SetupError {
        self.path.reverse();
        let path = self.path.join(".");
        match self.rule {
            Rule::Values(rule) => SetupError::Setting { name: format!("{prefix}{path}"), rule },
            Rule::Names(names) => {
                let table = if path.is_empty() { path } else { format!("{path}.") };
                let names: Vec<_> =
                    names.iter().map(|name| format!("{prefix}{table}{name}")).collect();
                SetupError::Setting {
                    name: format!("{prefix}{table}…"),
                    rule: format!(
                        "nobody knows it; there are {}; and in a table {prefix}timeouts.checkout and \
                         the like",
                        names.join(", ")
                    ),
                }
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a setting cannot be read")
    }
}

impl std::error::Error for Refusal {}

impl de::Error for Refusal {
    /// Any text, in which the value may stand. Our own readers say apart what they expect.
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self::because(Rule::Values("it has no such value".to_owned()))
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let expected = expected.to_string();
        Self::because(Rule::Values(match expected.starts_with("struct ") {
            true => "it is a table; its settings are written with a dot, as timeouts.checkout"
                .to_owned(),
            false => format!("it has to be {}", in_words(&expected)),
        }))
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(unexpected, expected)
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self::because(Rule::Values(format!("it has to be one of {}", expected.join(", "))))
    }

    fn unknown_field(_: &str, expected: &'static [&'static str]) -> Self {
        Self::because(Rule::Names(expected))
    }
}

/// What a type is for people.
fn in_words(expected: &str) -> &str {
    match expected {
        "usize" | "u64" | "u32" | "u16" | "u8" => "a whole number, within its range",
        "a boolean" => "true or false",
        other => other,
    }
}

/// A value, read as a self-describing format is; a text where a number or a flag is wanted is read as one.
pub(super) enum Reader<'a> {
    Value(&'a Value),
    Table(&'a Given),
}

impl<'a> Reader<'a> {
    fn text(&self) -> Option<&'a str> {
        match self {
            Self::Value(Value::Text(text)) => Some(text),
            _ => None,
        }
    }
}

macro_rules! numbers {
    ($($method:ident)+) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
            match self.text().map(str::parse) {
                Some(Ok(number)) => visitor.visit_u64(number),
                _ => self.deserialize_any(visitor),
            }
        }
    )+ };
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Refusal;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match self {
            Self::Value(Value::Text(text)) => visitor.visit_str(text),
            Self::Value(Value::Number(number)) => visitor.visit_i64(*number),
            Self::Value(Value::Flag(flag)) => visitor.visit_bool(*flag),
            Self::Value(Value::List(list)) => visitor.visit_seq(SeqDeserializer::new(list.iter())),
            Self::Value(Value::Table(table)) | Self::Table(table) => {
                visitor.visit_map(TableReader { rest: table.0.iter(), value: None })
            }
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match self.text().map(str::parse) {
            Some(Ok(flag)) => visitor.visit_bool(flag),
            _ => self.deserialize_any(visitor),
        }
    }

    numbers! {
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_some(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        match self {
            Self::Value(Value::Text(text)) => visitor.visit_enum(StrDeserializer::new(text)),
            Self::Value(Value::Table(table)) => {
                let map = TableReader { rest: table.0.iter(), value: None };
                visitor.visit_enum(MapAccessDeserializer::new(map))
            }
            _ => Err(de::Error::unknown_variant("", variants)),
        }
    }

    serde::forward_to_deserialize_any! {
        i128 u128 f32 f64 char str string bytes byte_buf unit unit_struct newtype_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

impl<'de, 'a> IntoDeserializer<'de, Refusal> for &'a Value {
    type Deserializer = Reader<'a>;

    fn into_deserializer(self) -> Reader<'a> {
        Reader::Value(self)
    }
}

struct TableReader<'a> {
    rest: btree_map::Iter<'a, String, Value>,
    value: Option<(&'a str, &'a Value)>,
}

impl<'de> MapAccess<'de> for TableReader<'_> {
    type Error = Refusal;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Refusal> {
        let Some((name, value)) = self.rest.next() else { return Ok(None) };
        self.value = Some((name, value));
        seed.deserialize(StrDeserializer::new(name)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Refusal> {
        let (name, value) = self.value.take().ok_or_else(|| de::Error::custom("no value"))?;
        seed.deserialize(Reader::Value(value)).map_err(|refusal| refusal.within(name))
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a number, true or false, a list or a table")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Number(number))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Value, E> {
        // Beyond every bound, and refused as a text that is no number.
        Ok(i64::try_from(number).map_or_else(|_| Value::Text(number.to_string()), Value::Number))
    }

    fn visit_bool<E: de::Error>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Flag(flag))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element()? {
            values.push(value);
        }
        Ok(Value::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut table = Given::default();
        while let Some((name, value)) = map.next_entry::<String, Value>()? {
            table.0.insert(name, value);
        }
        Ok(Value::Table(table))
    }
}

/// The table `pool`: what it says is checked as it is read.
impl<'de> Deserialize<'de> for PoolOptions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Value::Table(table) = Value::deserialize(deserializer)? else {
            return Err(de::Error::custom("pool is a table of the pool's settings"));
        };
        table.config().map_err(|refusal| de::Error::custom(refusal.told("pool.")))?;
        Ok(Self { table, ..Self::default() })
    }
}

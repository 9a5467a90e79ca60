//! The spelling of a configuration in files and environment variables: durations with a unit, and a
//! word where Rust has `None`.
//!
//! Every reader also takes numbers written as text, because environment variables have no others.
//! No limit has a word for it, and no `null`, so that it has to be asked for.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};

use super::{Keepalive, ReadTimeout, UserTimeout};

const DURATION: &str = "a duration with a unit, such as \"30s\" or \"1m 30s\"";

/// A reader of one value from text or, where allowed, from a number.
struct TextVisitor<T> {
    expecting: String,
    text: fn(&str) -> Result<T, String>,
    number: Option<fn(u64) -> Option<T>>,
}

impl<'de, T> Visitor<'de> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.expecting)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.text)(text).map_err(|reason| {
            // The text stands in what was found, which may be left out, and not in what is expected.
            let found = format!("{text:?} ({reason})");
            E::invalid_value(de::Unexpected::Other(&found), &self)
        })
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        self.number
            .and_then(|read| read(number))
            .ok_or_else(|| E::invalid_type(de::Unexpected::Unsigned(number), &self))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            // TOML gives every number as i64; only a negative one is wrong.
            Err(_) => Err(E::invalid_type(de::Unexpected::Signed(number), &self)),
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

fn format(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// A duration.
pub(super) mod plain {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        value: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format(*value))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        let expecting = DURATION.to_owned();
        // `any` needs a format that describes itself, as those of configuration files do.
        deserializer.deserialize_any(TextVisitor { expecting, text: duration, number: None })
    }
}

/// Defines a module for `serde(with = ..)`: an optional duration with a word for `None`.
macro_rules! duration_or {
    ($name:ident, $word:literal) => {
        #[doc = concat!("A duration, or `\"", $word, "\"` for `None`.")]
        pub(super) mod $name {
            use super::*;

            pub(crate) fn serialize<S: Serializer>(
                value: &Option<Duration>,
                serializer: S,
            ) -> Result<S::Ok, S::Error> {
                match value {
                    Some(value) => serializer.serialize_str(&format(*value)),
                    None => serializer.serialize_str($word),
                }
            }

            pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
                deserializer: D,
            ) -> Result<Option<Duration>, D::Error> {
                deserializer.deserialize_any(TextVisitor {
                    expecting: format!("{DURATION}, or {:?}", $word),
                    text: |text| {
                        if text == $word { Ok(None) } else { duration(text).map(Some) }
                    },
                    number: None,
                })
            }
        }
    };
}

/// Defines a module for `serde(with = ..)`: an optional count with a word for `None`.
macro_rules! count_or {
    ($name:ident, $ty:ty, $word:literal) => {
        #[doc = concat!("A number, or `\"", $word, "\"` for `None`.")]
        pub(super) mod $name {
            use super::*;

            pub(crate) fn serialize<S: Serializer>(
                value: &Option<$ty>,
                serializer: S,
            ) -> Result<S::Ok, S::Error> {
                match value {
                    Some(value) => value.serialize(serializer),
                    None => serializer.serialize_str($word),
                }
            }

            pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
                deserializer: D,
            ) -> Result<Option<$ty>, D::Error> {
                deserializer.deserialize_any(TextVisitor {
                    expecting: format!("a number, or {:?}", $word),
                    text: |text| match text {
                        $word => Ok(None),
                        _ => text.parse::<$ty>().map(Some).map_err(|error| error.to_string()),
                    },
                    // serde formats give every unsigned number as u64; the field may be narrower.
                    number: Some(|number| <$ty>::try_from(number).ok().map(Some)),
                })
            }
        }
    };
}

duration_or!(duration_or_never, "never");
duration_or!(duration_or_system, "system");
count_or!(count_or_unlimited, usize, "unlimited");
count_or!(count_or_system, u32, "system");

/// A number of bytes, or text with a unit, or `"unlimited"` for `None`.
pub(super) mod bytes_or_unlimited {
    use super::*;

    const UNITS: [(&str, usize); 4] =
        [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

    pub(crate) fn serialize<S: Serializer>(
        value: &Option<usize>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        // TOML has no null, so `None` needs a word.
        let Some(value) = value else { return serializer.serialize_str("unlimited") };
        // The largest unit that divides the value, so that reading it again gives the same number.
        let unit = UNITS.iter().find(|(_, unit)| *value > 0 && value % unit == 0);
        match unit {
            Some((name, unit)) if *unit > 1 => {
                serializer.serialize_str(&format!("{} {name}", value / unit))
            }
            _ => value.serialize(serializer),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<usize>, D::Error> {
        deserializer.deserialize_any(TextVisitor {
            expecting: "a number of bytes, such as 65536 or \"64 KiB\", or \"unlimited\""
                .to_owned(),
            text: |text| if text == "unlimited" { Ok(None) } else { bytes(text).map(Some) },
            number: Some(|number| usize::try_from(number).ok().map(Some)),
        })
    }

    fn bytes(text: &str) -> Result<usize, String> {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = (&text[..end], text[end..].trim());
        let unit = match UNITS.iter().find(|(name, _)| *name == unit) {
            Some((_, unit)) => *unit,
            None if unit.is_empty() => 1,
            None => return Err("the units are B, KiB, MiB and GiB".to_owned()),
        };
        let number: usize =
            number.parse().map_err(|error: std::num::ParseIntError| error.to_string())?;
        number.checked_mul(unit).ok_or_else(|| "it is too large".to_owned())
    }
}

impl Serialize for UserTimeout {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Derived => serializer.serialize_str("derived"),
            Self::Off => serializer.serialize_str("off"),
            Self::After(limit) => serializer.serialize_str(&format(*limit)),
        }
    }
}

impl<'de> Deserialize<'de> for UserTimeout {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor {
            expecting: format!("{DURATION}, or \"derived\", or \"off\""),
            text: |text| match text {
                "derived" => Ok(Self::Derived),
                "off" => Ok(Self::Off),
                _ => duration(text).map(Self::After),
            },
            number: None,
        })
    }
}

impl Serialize for ReadTimeout {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Default => serializer.serialize_str("default"),
            Self::Never => serializer.serialize_str("never"),
            Self::After(limit) => serializer.serialize_str(&format(*limit)),
        }
    }
}

impl<'de> Deserialize<'de> for ReadTimeout {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor {
            expecting: format!("{DURATION}, or \"never\", or \"default\""),
            text: |text| match text {
                "default" => Ok(Self::Default),
                "never" => Ok(Self::Never),
                _ => duration(text).map(Self::After),
            },
            number: None,
        })
    }
}

/// `"off"`, `"system"`, or a table.
pub(super) mod keepalive_or_off {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        value: &Option<Keepalive>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            None => serializer.serialize_str("off"),
            // A table of three `"system"` would say the same in more lines.
            Some(value) if *value == Keepalive::system() => serializer.serialize_str("system"),
            Some(value) => value.serialize(serializer),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Keepalive>, D::Error> {
        deserializer.deserialize_any(TableOrWord)
    }

    struct TableOrWord;

    impl<'de> Visitor<'de> for TableOrWord {
        type Value = Option<Keepalive>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a table with idle, interval and retries, or \"off\", or \"system\"")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            match text {
                "off" => Ok(None),
                "system" => Ok(Some(Keepalive::system())),
                _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
            }
        }

        fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            // The derived form, so that missing fields take their defaults and unknown ones are
            // refused.
            Keepalive::deserialize(de::value::MapAccessDeserializer::new(map)).map(Some)
        }
    }
}

/// A list; a single entry may stand without the list around it.
pub(super) mod one_or_many {
    use super::*;

    pub(crate) fn serialize<T: Serialize, S: Serializer>(
        value: &[T],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<T>, D::Error> {
        deserializer.deserialize_any(OneOrMany(PhantomData))
    }

    struct OneOrMany<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrMany<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("text, or a list of texts")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<T>, E> {
            T::deserialize(de::value::StrDeserializer::new(text)).map(|one| vec![one])
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, list: A) -> Result<Vec<T>, A::Error> {
            Vec::deserialize(de::value::SeqAccessDeserializer::new(list))
        }
    }
}

//! Properties of what is read from files and environment variables.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Config, ListenerConfig, human};
use crate::fuzzed::{Property, says_something};

pub(crate) fn all() -> Vec<Property> {
    vec![
        Property {
            name: "duration",
            holds: a_duration_is_spelled_as_it_is_read,
            seeds: &[
                b"30s",
                b"1m 30s",
                b"never",
                b"1h 2min 3sec 4ms 5us 6ns",
                b"18446744073709551615s",
                b"584554531years",
                b"0s",
                b"-1s",
                b"1.5s",
                b"30",
            ],
        },
        Property {
            name: "config",
            holds: a_configuration_is_written_as_it_is_read,
            seeds: &[
                b"upstream = \"db:5432\"\nmax_size = 8\n[timeouts]\nread = \"5s\"\ncheckout = \"never\"",
                b"upstream = [\"10.0.0.1:1\", \"unix:/a\"]\nname = \"a\"\nmin_idle = \"2\"\n\
                  max_waiting = \"unlimited\"\nidle_timeout = \"never\"\nmax_lifetime = \"1h\"",
                b"upstream = \"a:1\"\n[socket]\nkeepalive = \"off\"\nuser_timeout = \"off\"\nmark = 7",
                b"upstream = \"a:1\"\n[socket.keepalive]\nidle = \"30s\"\ninterval = \"5s\"\n\
                  retries = 3\n[backoff]\nleast = \"100ms\"\nmost = \"5s\"",
                b"name = \"l\"\nbacklog = 128\nreuse_port = true\ndual_stack = false\n\
                  idle_timeout = \"10m\"",
            ],
        },
    ]
}

/// One duration, in every form that has them.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Durations {
    #[serde(with = "human::plain")]
    plain: Duration,
}

/// One that may be missing.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Limit {
    #[serde(with = "human::duration_or_never")]
    limit: Option<Duration>,
}

fn a_duration_is_spelled_as_it_is_read(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let quoted = toml::Value::from(text);
    read_again::<Durations>(&format!("plain = {quoted}"));
    read_again::<Limit>(&format!("limit = {quoted}"));
}

/// What is read from a file and written is read as the same; its rules are followed without a panic.
fn a_configuration_is_written_as_it_is_read(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Some(config) = read_again::<Config>(text)
        && let Err(error) = config.check()
    {
        says_something(&error);
    }
    if let Some(config) = read_again::<ListenerConfig>(text)
        && let Err(error) = config.check()
    {
        says_something(&error);
    }
}

fn read_again<T>(text: &str) -> Option<T>
where
    T: for<'de> Deserialize<'de> + Serialize + PartialEq + std::fmt::Debug,
{
    match toml::from_str::<T>(text) {
        Ok(value) => {
            // TOML has no number beyond an i64.
            if let Ok(written) = toml::to_string(&value) {
                assert_eq!(toml::from_str::<T>(&written).as_ref(), Ok(&value), "{written}");
            }
            Some(value)
        }
        Err(error) => {
            says_something(&error);
            None
        }
    }
}

//! Properties of addresses.

use super::Endpoint;
use crate::config::Config;
use crate::fuzzed::{Property, says_something};

pub(crate) fn all() -> Vec<Property> {
    vec![Property {
        name: "endpoint",
        holds: an_endpoint_is_what_it_says,
        seeds: &[
            b"db.internal:5432",
            b"192.0.2.1:80",
            b"[2001:db8::1%3]:443",
            b"[::ffff:10.0.0.1]:1",
            b"unix:/run/db.sock",
            b"postgres://user:secret@host:5432/db",
            b"user:secret@host:1",
            b"localhost:0",
            b"a,b:1",
        ],
    }]
}

/// What is understood is shown so that it is understood as the same again, and the rules of a
/// configuration agree.
fn an_endpoint_is_what_it_says(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let parsed = text.parse::<Endpoint>();
    if let Ok(endpoint) = &parsed {
        assert_eq!(endpoint.to_string().parse().as_ref(), Ok(endpoint), "{text:?}");
    }
    if let Ok(endpoint) = Endpoint::to_listen_on(text) {
        let again = Endpoint::to_listen_on(&endpoint.to_string());
        assert_eq!(again.as_ref(), Ok(&endpoint), "{text:?}");
    }
    match Config::new(text).check() {
        Ok(()) => assert!(parsed.is_ok(), "{text:?} is taken for an upstream"),
        Err(error) => says_something(&error),
    }
}

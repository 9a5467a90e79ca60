//! Properties of URLs and of what responses say about their connection.

use std::time::Duration;

use http::header::{CONNECTION, HeaderName};
use http::{HeaderMap, HeaderValue, Version};

use super::Http1;
use super::http1::persistence::Persistence;
use super::prepare::has_token;
use livepool::fuzzed::{Property, says_something};

/// All of this crate.
pub fn all() -> Vec<Property> {
    vec![
        Property {
            name: "http1-url",
            holds: a_url_names_a_server_or_says_what_is_wrong,
            seeds: &[
                b"http://example.org",
                b"http://[::1]:8080/",
                b"https://127.0.0.1:443",
                b"http://user:secret@example.org/?token=1",
                b"example.org:80",
            ],
        },
        Property {
            name: "http1-hints",
            holds: a_hint_shortens_the_life_of_a_connection_and_nothing_else,
            seeds: &[
                b"1timeout=5, max=100\nkeep-alive",
                b"0timeout=\"1\"\nKeep-Alive, Upgrade",
                b"1max=0\nclose",
                b"1timeout=4294967295,timeout=0\n",
                b"0\n close ,x",
            ],
        },
        #[cfg(feature = "http2")]
        crate::http2::fuzzed::FRAMES,
    ]
}

fn a_url_names_a_server_or_says_what_is_wrong(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match Http1::from_url(text) {
        // Of settings in the URL only the rules between them are left.
        Ok(http1) => assert!(text.contains("pool_") || http1.config().check().is_ok(), "{text:?}"),
        Err(error) => says_something(&error),
    }
}

fn a_hint_shortens_the_life_of_a_connection_and_nothing_else(input: &[u8]) {
    let Some((version, headers)) = input.split_first() else { return };
    let version = if version & 1 == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    let (alive, connection) = match headers.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&headers[..at], &headers[at + 1..]),
        None => (headers, &headers[..0]),
    };
    let mut map = HeaderMap::new();
    let mut put = |name, value| {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            map.append(name, value);
        }
    };
    put(HeaderName::from_static("keep-alive"), alive);
    put(CONNECTION, connection);
    let Persistence { is_last, idle_limit, .. } = Persistence::of(version, &map);
    assert!(idle_limit.is_none_or(|limit| limit <= Duration::from_secs(u32::MAX.into())));
    if has_token(&map, "close") || version == Version::HTTP_10 && !has_token(&map, "keep-alive") {
        assert!(is_last, "it stays open although it was said to close");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_parses_bytes_holds_its_properties_for_some_thousand_inputs() {
        livepool::fuzzed::check(&super::all());
    }
}

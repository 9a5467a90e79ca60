//! [`Persistence`]: the future of a connection, as a response announces it. Pure.

use std::time::Duration;

use http::header::{CONTENT_LENGTH, HeaderName, TRANSFER_ENCODING};
use http::{HeaderMap, Version};

use crate::prepare::has_token;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// The future of a connection after this exchange, as the server announced it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Persistence {
    /// Whether this exchange is the last.
    pub(crate) is_last: bool,
    /// Whether the length was given in two ways, so that a response may have been smuggled. Such an
    /// exchange is the last.
    pub(crate) has_two_lengths: bool,
    /// Whether the response comes in chunks.
    pub(crate) is_chunked: bool,
    /// The time for which the connection may be idle.
    pub(crate) idle_limit: Option<Duration>,
}

impl Persistence {
    /// RFC 9112 section 9.3 on whether the connection persists, section 6.1 on two lengths; the
    /// `Keep-Alive` header as RFC 2068 section 19.7.1.1 has it and servers still send it.
    pub(crate) fn of(version: Version, headers: &HeaderMap) -> Self {
        let stays = !has_token(headers, "close")
            && (version >= Version::HTTP_11 || has_token(headers, "keep-alive"));
        let is_chunked = headers.contains_key(TRANSFER_ENCODING);
        let has_two_lengths = is_chunked && headers.contains_key(CONTENT_LENGTH);
        let is_last = !stays || has_two_lengths;
        let mut persistence = Self { is_last, has_two_lengths, is_chunked, idle_limit: None };
        for (name, value) in parameters(headers) {
            let Ok(value) = value.parse::<u32>() else { continue };
            if name.eq_ignore_ascii_case("timeout") {
                persistence.idle_limit = Some(subtract_margin(Duration::from_secs(value.into())));
            } else if name.eq_ignore_ascii_case("max") && value == 0 {
                persistence.is_last = true;
            }
        }
        persistence
    }
}

/// The timeout less a margin of one second, or of half the timeout if that is less.
fn subtract_margin(timeout: Duration) -> Duration {
    // The server's clock began earlier than ours, and a request takes time to get there.
    timeout - (timeout / 2).min(Duration::from_secs(1))
}

fn parameters(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let values = headers.get_all(KEEP_ALIVE).into_iter().filter_map(|value| value.to_str().ok());
    let pairs = values.flat_map(|value| value.split(',')).filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.trim(), value.trim().trim_matches('"')))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::CONNECTION;

    use super::*;

    fn persistence_of(version: Version, headers: &[(HeaderName, &'static str)]) -> Persistence {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, HeaderValue::from_static(value));
        }
        Persistence::of(version, &map)
    }

    #[test]
    fn a_connection_persists_as_its_version_and_headers_say() {
        let table = [
            (Version::HTTP_11, "", false),
            (Version::HTTP_11, "close", true),
            (Version::HTTP_11, "Keep-Alive, CLOSE", true),
            (Version::HTTP_11, "closed", false),
            (Version::HTTP_10, "", true),
            (Version::HTTP_10, "Keep-Alive", false),
            (Version::HTTP_10, "keep-alive, close", true),
        ];
        for (version, header, is_last) in table {
            let persistence = persistence_of(version, &[(CONNECTION, header)]);
            assert_eq!(persistence.is_last, is_last, "{version:?} {header}");
        }
    }

    #[test]
    fn a_length_said_in_two_ways_makes_an_exchange_the_last() {
        let chunked = (TRANSFER_ENCODING, "chunked");
        let length = (CONTENT_LENGTH, "3");
        let table = [
            (vec![chunked.clone()], false),
            (vec![length.clone()], false),
            (vec![length, chunked], true),
        ];
        for (headers, has_two_lengths) in table {
            let persistence = persistence_of(Version::HTTP_11, &headers);
            assert_eq!(
                (persistence.has_two_lengths, persistence.is_last),
                (has_two_lengths, has_two_lengths),
                "{headers:?}"
            );
        }
    }

    #[test]
    fn a_keep_alive_header_limits_the_time_and_the_number() {
        let of = |value| persistence_of(Version::HTTP_11, &[(KEEP_ALIVE, value)]);
        let limit = |ms| Some(Duration::from_millis(ms));
        assert_eq!(of("timeout=5, max=100").idle_limit, limit(4000));
        assert_eq!(of("Timeout = \"60\"").idle_limit, limit(59_000));
        assert_eq!(of("timeout=1").idle_limit, limit(500));
        assert_eq!(of("timeout=0").idle_limit, limit(0));
        assert!(of("max=0, timeout=5").is_last);
        for nonsense in ["", "timeout", "timeout=soon", "max=-1", "timeout=99999999999"] {
            assert_eq!(of(nonsense), Persistence::default(), "{nonsense}");
        }
    }
}

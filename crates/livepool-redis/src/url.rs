//! Parsing of URLs, and advice on what is wrong with one.

use std::sync::Arc;

use ::redis::IntoConnectionInfo;

use super::settings::{Redis, insecure};
use super::transport::Transport;
use livepool::setup::{PoolOptions, SetupError};

const SHAPE: &str = "must look like redis://[user:password@]host:port/db, rediss://... for TLS, or \
                     redis+unix:///path";

pub(super) fn parse(url: &str, mut options: PoolOptions) -> Result<Redis, SetupError> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(SetupError::url(format!("the URL has no scheme: it {SHAPE}")));
    };
    // The crate knows the scheme of TLS only where it does the TLS itself.
    let scheme = scheme.to_ascii_lowercase();
    let (scheme, encrypted) = match &*scheme {
        "rediss" => ("redis", true),
        "valkeys" => ("valkey", true),
        other => (other, false),
    };
    // The last "#", since a password may hold one as well.
    let (rest, fragment) = match rest.rsplit_once('#') {
        Some((rest, fragment)) => (rest, Some(fragment)),
        None => (rest, None),
    };
    if let Some(fragment) = fragment {
        return Err(match fragment {
            "insecure" => insecure(),
            _ => SetupError::url("a \"#\" in a user or password must be written %23"),
        });
    }
    let rest = options.take_from(rest)?;
    check_options(&rest, scheme.contains("unix"))?;
    let info = format!("{scheme}://{rest}").into_connection_info().map_err(|error| {
        let detail = error.to_string();
        // The crate adds its error kind behind the dash.
        let detail = detail.split(" - ").next().unwrap_or_default();
        SetupError::url(format!("{}: the URL {SHAPE}", lower(detail)))
    })?;
    let mut redis = Redis::from_info(info)?;
    redis.config = options.config_for(std::mem::take(&mut redis.config.upstream))?;
    if encrypted {
        Arc::make_mut(&mut redis.settings).transport = Transport::system_tls()?;
    }
    Ok(redis)
}

/// Refuses options that the crate would pass over in silence.
fn check_options(rest: &str, is_unix: bool) -> Result<(), SetupError> {
    let options = rest.split_once('?').map_or("", |(_, options)| options);
    for option in options.split('&').filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let instead = match name {
            "protocol" => continue,
            "db" | "user" | "pass" if is_unix => continue,
            // Both are tried.
            "family" if value == "0" => continue,
            "db" => "the database stands in the path: redis://host:port/2",
            "user" | "username" | "pass" | "password" => {
                "user and password stand in front of the host: redis://user:password@host"
            }
            "ssl_cert_reqs" | "ssl" | "tls" | "ssl_ca_certs" => {
                "write rediss:// for TLS; certificates are always checked, and the authority to trust, if \
                 it is not one of this system's, is given to with_tls()"
            }
            "timeout" | "socket_timeout" | "socket_connect_timeout" => {
                "write pool_timeouts.operation=.. or pool_timeouts.connect=.., with a unit"
            }
            "max_connections" => "write pool_max_size",
            _ => {
                "there are protocol, and pool_.. for settings of the pool; and db, user and pass with unix"
            }
        };
        return Err(SetupError::url(format!("it has an option that is not done: {instead}")));
    }
    Ok(())
}

/// The text with a small first letter, unless it begins with an abbreviation: it follows a colon.
fn lower(text: &str) -> String {
    let mut chars = text.chars();
    match (chars.next(), chars.clone().next()) {
        (Some(first), Some(second)) if !second.is_uppercase() => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Redis, SetupError> {
        super::parse(url, PoolOptions::default())
    }

    fn upstream(url: &str) -> String {
        parse(url).unwrap().config.upstream.remove(0)
    }

    fn refusal(url: &str) -> String {
        parse(url).and_then(Redis::builder).unwrap_err().to_string()
    }

    #[test]
    fn every_kind_of_url_names_its_upstream() {
        assert_eq!(upstream("redis://cache.internal"), "cache.internal:6379");
        assert_eq!(upstream("redis://10.0.0.1:7000/3"), "10.0.0.1:7000");
        assert_eq!(upstream("redis://[::1]:7000"), "[::1]:7000");
        assert_eq!(upstream("valkey://:secret@h"), "h:6379");
        assert_eq!(upstream("redis+unix:///run/redis.sock?db=2"), "unix:/run/redis.sock");
        let redis = parse("redis://me:it%23s@h/3?protocol=resp3").unwrap();
        let info = &redis.settings.info;
        assert_eq!((info.username(), info.password(), info.db()), (Some("me"), Some("it#s"), 3));
        assert!(info.protocol().supports_resp3());
    }

    #[test]
    fn a_refusal_says_what_to_change_and_repeats_no_secret() {
        for (url, why) in [
            ("localhost:6379", "the URL has no scheme"),
            ("http://localhost", "must look like redis://"),
            ("redis://:hunter2@h/zero", "database number"),
            ("redis://h/-1", "a number from 0"),
            ("redis://me@h", "write user:password"),
            ("redis://:hunter2#@h", "%23"),
            ("rediss://h#insecure", "with_tls()"),
            ("redis://h?protocol=resp4", "protocol version"),
        ] {
            let text = refusal(url);
            assert!(text.contains(why), "{url}: {text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[cfg(not(feature = "tls"))]
    #[test]
    fn without_tls_its_url_says_which_feature_is_missing() {
        let addr = ::redis::ConnectionAddr::TcpTls {
            host: "h".to_owned(),
            port: 6379,
            insecure: false,
            tls_params: None,
        };
        let info = "redis://h".into_connection_info().unwrap().set_addr(addr);
        for refusal in [refusal("rediss://h"), Redis::from_info(info).unwrap_err().to_string()] {
            assert!(refusal.contains("enable the feature \"tls\""), "{refusal}");
        }
    }

    #[cfg(feature = "tls")]
    #[test]
    fn with_tls_its_url_is_encrypted() {
        for url in ["rediss://h:7/1", "valkeys://h", "REDISS://h", "Valkeys://h"] {
            let redis = parse(url).unwrap();
            assert!(matches!(redis.settings.transport, Transport::Tls(_)), "{url}");
        }
    }

    #[test]
    fn the_password_is_not_in_the_debug_text() {
        let text = format!("{:?}", parse("redis://me:hunter2@h").unwrap());
        assert!(text.contains("me") && !text.contains("hunter2"), "{text}");
    }
}

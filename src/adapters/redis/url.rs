//! Where a URL leads.

use std::fmt;

use ::redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisError};

/// A URL that names no Redis.
#[derive(Debug)]
pub struct UrlError(RedisError);

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}; a Redis URL is redis://[user:password@]host[:port][/database], rediss:// with \
             TLS, or redis+unix:///path",
            self.0
        )
    }
}

impl std::error::Error for UrlError {}

/// What the URL says, and whether it asks for TLS, which is ours and not the client library's.
pub(super) fn parse(url: &str) -> Result<(ConnectionInfo, bool), UrlError> {
    let (plain, wants_tls) = match url.strip_prefix("rediss://") {
        Some(rest) => (format!("redis://{rest}"), true),
        None => (url.to_owned(), false),
    };
    Ok((plain.into_connection_info().map_err(UrlError)?, wants_tls))
}

/// The server, as a pool's configuration names it.
pub(super) fn upstream(addr: &ConnectionAddr) -> String {
    match addr {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
            // An IPv6 address has its brackets in a URL, and may have lost them here.
            let bare = host.trim_matches(['[', ']']);
            if bare.contains(':') { format!("[{bare}]:{port}") } else { format!("{host}:{port}") }
        }
        ConnectionAddr::Unix(path) => format!("unix:{}", path.display()),
        // The redis crate may learn others.
        _ => String::new(),
    }
}

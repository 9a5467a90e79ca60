//! [`Endpoint`]: an entry of `upstream`, parsed.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// Bytes in `sun_path` without the closing zero on Linux. Elsewhere (BSDs, macOS) there are 103,
/// and the kernel refuses a longer path itself at connect.
const UNIX_PATH_BYTES: usize = 107;
/// Bytes of the longest DNS name with its final dot (RFC 1035 section 2.3.4).
const HOST_BYTES: usize = 254;

/// An entry of `upstream`: where a connection may go, before names are looked up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Endpoint {
    /// A name to look up for every dial.
    Host { host: String, port: u16 },
    /// An IP address and port.
    Addr(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl Endpoint {
    /// Parses an address to listen on, where port 0 asks the system for a free one.
    ///
    /// # Errors
    ///
    /// The reason, as for [`from_str`](Self::from_str).
    pub(crate) fn to_listen_on(text: &str) -> Result<Self, String> {
        let Some(host) = text.strip_suffix(":0").filter(|_| !text.starts_with("unix:")) else {
            return text.parse();
        };
        // Any other port stands in for it, so that the rest is judged by the same rules.
        Ok(match format!("{host}:1").parse()? {
            Self::Host { host, .. } => Self::Host { host, port: 0 },
            Self::Addr(addr) => Self::Addr(SocketAddr::new(addr.ip(), 0)),
            unix @ Self::Unix(_) => unix,
        })
    }
}

impl Endpoint {
    /// The name, if the endpoint is one.
    pub(crate) fn host(&self) -> Option<&str> {
        match self {
            Self::Host { host, .. } => Some(host),
            Self::Addr(_) | Self::Unix(_) => None,
        }
    }
}

/// The endpoints as a text, for errors and logs.
pub(crate) fn upstream_text(endpoints: &[Endpoint]) -> String {
    let texts: Vec<_> = endpoints.iter().map(Endpoint::to_string).collect();
    texts.join(", ")
}

impl FromStr for Endpoint {
    /// The reason, as a clause that says what to change. The clause repeats nothing that may be a
    /// secret; [`text::redacted`](crate::text::redacted) decides what is shown of the value itself.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix(path);
        }
        if text.contains("://") {
            let scheme = crate::text::scheme(text);
            let scheme = scheme.map_or("the scheme".to_owned(), |known| format!("\"{known}://\""));
            return Err(format!("must be host:port without a scheme; leave {scheme} out"));
        }
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return port(addr.port()).map(|_| Self::Addr(addr));
        }
        let Some((host, number)) = text.rsplit_once(':') else {
            return Err("must end with a port, such as \"db:5432\"".to_owned());
        };
        if host.starts_with('[') {
            return Err(
                "must be a valid IPv6 address in brackets and a port, such as \"[::1]:5432\""
                    .to_owned(),
            );
        }
        // Before the colons: a list of addresses has several of them, too.
        if host.contains(',') {
            return Err("must be one address; give several as a list".to_owned());
        }
        if host.contains(':') {
            return Err(
                "must have its IPv6 address in brackets and a port, such as \"[::1]:5432\""
                    .to_owned(),
            );
        }
        let port = match number.parse() {
            Ok(number) => port(number)?,
            Err(_) => {
                // What stands there instead is not repeated: it may be a password.
                return Err("must end with a port from 1 to 65535, a number".to_owned());
            }
        };
        host_name(host)?;
        Ok(Self::Host { host: host.to_owned(), port })
    }
}

fn port(port: u16) -> Result<u16, String> {
    match port {
        0 => Err("must have a port from 1 to 65535; nobody can connect to port 0".to_owned()),
        port => Ok(port),
    }
}

fn host_name(host: &str) -> Result<(), String> {
    if host.is_empty() {
        return Err("must have a host before the port, such as \"db:5432\"".to_owned());
    }
    if host.len() > HOST_BYTES {
        return Err(format!("must have a host name of at most {HOST_BYTES} bytes"));
    }
    if let Some(bad) =
        host.chars().find(|c| c.is_whitespace() || c.is_control() || "/@?#[]%".contains(*c))
    {
        return Err(format!("must be host:port; a host name cannot contain {bad:?}"));
    }
    // What looks like an IPv4 address and was not parsed as one above is a slip, not a name.
    if host.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return Err(format!("must have a valid IPv4 address or a host name; {host:?} is neither"));
    }
    Ok(())
}

fn unix(path: &str) -> Result<Endpoint, String> {
    if !cfg!(unix) {
        return Err("must not be a Unix socket: this system has none".to_owned());
    }
    if path.is_empty() {
        return Err("must have a path after \"unix:\", such as \"unix:/run/db.sock\"".to_owned());
    }
    // A URL's user and password in the place of a path: the error of a missing file would show them.
    if path.split_once('@').is_some_and(|(before, _)| before.contains(':')) {
        return Err("must have a path after \"unix:\", without a user and a password".to_owned());
    }
    if path.len() > UNIX_PATH_BYTES || path.contains('\0') {
        return Err(format!(
            "must have a path of at most {UNIX_PATH_BYTES} bytes without a zero byte (unix(7))"
        ));
    }
    Ok(Endpoint::Unix(path.into()))
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host { host, port } => write!(f, "{host}:{port}"),
            Self::Addr(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_displayed_as_it_was_written() {
        for text in ["db:5432", "db.internal.:1", "192.0.2.1:80", "[::1]:80", "unix:/run/db.sock"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        assert!(matches!("[fe80::1%3]:80".parse(), Ok(Endpoint::Addr(_))));
    }

    #[test]
    fn every_refusal_says_what_to_change() {
        let table = [
            ("", "end with a port"),
            ("db", "end with a port"),
            (":80", "a host before the port"),
            ("db:", "port from 1 to 65535"),
            ("db:http", "port from 1 to 65535"),
            ("db:70000", "port from 1 to 65535"),
            ("db:0", "port from 1 to 65535"),
            ("127.0.0.1:0", "port from 1 to 65535"),
            ("::1:80", "in brackets"),
            ("[::1]", "in brackets and a port"),
            ("[fe80::1%eth0]:80", "valid IPv6"),
            ("300.1.2.3:80", "neither"),
            ("http://db:80", "leave \"http://\" out"),
            ("user@db:80", "cannot contain '@'"),
            ("a b:80", "cannot contain ' '"),
            ("a:1,b:2", "as a list"),
            ("a,b:2", "as a list"),
            ("unix:", "a path after"),
            ("unix:/a\0b", "without a zero byte"),
            ("unix://me:pw@/run/db", "without a user"),
        ];
        for (text, reason) in table {
            let error = text.parse::<Endpoint>().expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}

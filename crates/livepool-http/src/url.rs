//! Pools, and their parts, from URLs.

use http::Uri;

use super::{Error, Http1};
use livepool::Pool;
use livepool::config::Config;

/// A pool for this server, with the defaults: `http://127.0.0.1:8080`, or, with the feature `tls`,
/// `https://example.org`, whose certificate must come from an authority that Mozilla trusts.
///
/// # Errors
///
/// [`Failure::Setup`](super::Failure::Setup), if no server is named by it.
pub fn pool(url: &str) -> Result<Pool<Http1>, Error> {
    let (config, http1) = at(url)?;
    Pool::builder(config).protocol(http1).build().map_err(Error::setup)
}

/// The parts of which [`pool`] makes a pool, so that they can be changed first:
///
/// ```
/// # fn f() -> Result<(), Box<dyn std::error::Error>> {
/// use livepool::Pool;
///
/// let (config, http1) = livepool_http::at("http://127.0.0.1:8080")?;
/// let pool = Pool::builder(config.with_max_size(64)).protocol(http1).build()?;
/// # Ok(()) }
/// # f().unwrap();
/// ```
///
/// # Errors
///
/// As [`pool`].
pub fn at(url: &str) -> Result<(Config, Http1), Error> {
    let (config, is_secure) = server_of(url)?;
    Ok((config, if is_secure { secure()? } else { Http1::new() }))
}

/// The configuration for the server of this URL, and whether it is `https`.
pub(crate) fn server_of(url: &str) -> Result<(Config, bool), Error> {
    // What was given is not repeated: it may hold a password, and its user has it before his eyes.
    let refused = |why: &str| Error::setup(format!("the URL {why}"));
    let uri: Uri = url.parse().map_err(Error::setup)?;
    let (is_secure, default) = match uri.scheme_str() {
        Some("http") => (false, 80),
        Some("https") => (true, 443),
        Some(_) => return Err(refused("must begin with http:// or https://")),
        None => return Err(refused("must be a URL, such as \"http://127.0.0.1:8080\"")),
    };
    let authority = uri.authority().ok_or_else(|| refused("must name a host"))?;
    if authority.as_str().contains('@') {
        return Err(refused("must not hold a password; put it into a header"));
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(refused("must end after the host; paths belong to the requests"));
    }
    let port = match (authority.port(), authority.port_u16()) {
        (_, Some(port)) => port,
        (None, None) if authority.as_str().len() == authority.host().len() => default,
        _ => return Err(refused("must end with a port that is a number, or with the host")),
    };
    let config = Config::new(format!("{}:{port}", authority.host()));
    config.check().map_err(Error::setup)?;
    Ok((config, is_secure))
}

#[cfg(feature = "tls")]
fn secure() -> Result<Http1, Error> {
    let tls = livepool_tls::Tls::builder().with_webpki_roots().with_alpn(["http/1.1"]);
    Ok(Http1::new().with_tls(tls.build().map_err(Error::setup)?))
}

#[cfg(not(feature = "tls"))]
fn secure() -> Result<Http1, Error> {
    Err(no_tls())
}

#[cfg(not(feature = "tls"))]
pub(crate) fn no_tls() -> Error {
    Error::setup("https needs the feature `tls`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_host_and_a_port() {
        let table = [
            ("http://example.org", "example.org:80"),
            ("http://127.0.0.1:8080/", "127.0.0.1:8080"),
            ("http://[::1]:81", "[::1]:81"),
            #[cfg(feature = "tls")]
            ("https://example.org", "example.org:443"),
        ];
        for (url, upstream) in table {
            assert_eq!(at(url).unwrap().0.upstream, [upstream], "{url}");
        }
    }

    #[test]
    fn what_is_no_url_of_a_server_is_refused_and_told_why() {
        let table = [
            ("example.org:80", "must be a URL"),
            ("/a", "must be a URL"),
            ("ftp://example.org", "http://"),
            ("http://user:pw@example.org", "password"),
            ("http://example.org/api", "paths belong"),
            ("http://example.org/?a", "paths belong"),
            ("http://example.org:0", "port"),
            ("http://", ""),
        ];
        for (url, why) in table {
            let error = at(url).expect_err(url);
            assert!(error.to_string().contains(why), "{url}: {error}");
        }
    }
}

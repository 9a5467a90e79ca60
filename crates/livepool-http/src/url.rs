//! Pools from URLs.

use http::Uri;

use super::Http1;
use livepool::Pool;
use livepool::config::Config;
use livepool::setup::{FromUrl, PoolOptions, SetupError};

/// A pool for this server, with the defaults: `http://127.0.0.1:8080`, or, with the feature `tls`,
/// `https://example.org`, whose certificate must come from an authority that Mozilla trusts.
/// [`Http1::from_url`] gives a choice.
///
/// # Errors
///
/// [`SetupError`], if no server is named by it.
pub fn pool(url: &str) -> Result<Pool<Http1>, SetupError> {
    Http1::from_url(url)?.pool()
}

impl Http1 {
    /// HTTP/1.1 to the server of this URL: `http://127.0.0.1:8080`, or, with the feature `tls`,
    /// `https://example.org`, whose certificate must come from an authority that Mozilla trusts unless
    /// [`with_tls`](Self::with_tls) says otherwise. Settings of the pool may stand behind it:
    /// `http://127.0.0.1:8080?pool_max_size=64`, see [`PoolOptions`].
    ///
    /// ```
    /// # fn f() -> Result<(), Box<dyn std::error::Error>> {
    /// use livepool_http::Http1;
    ///
    /// let pool = Http1::from_url("http://127.0.0.1:8080")?
    ///     .with_max_headers(500)?
    ///     .with_config(|config| config.with_max_size(64))
    ///     .pool()?;
    /// # Ok(()) }
    /// # f().unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// [`SetupError`], if no server is named by it.
    pub fn from_url(url: &str) -> Result<Self, SetupError> {
        Self::from_url_with(url, PoolOptions::default())
    }
}

impl FromUrl for Http1 {
    fn from_url_with(url: &str, options: PoolOptions) -> Result<Self, SetupError> {
        let (config, is_secure) = server_of(url, options)?;
        let mut http1 = if is_secure { secure()? } else { Self::new() };
        *http1.config_mut() = config;
        Ok(http1)
    }

    fn config_mut(&mut self) -> &mut Config {
        self.pool_config()
    }
}

livepool::url_methods!(Http1);

/// The configuration for the server of this URL, and whether it is `https`.
pub(crate) fn server_of(url: &str, mut options: PoolOptions) -> Result<(Config, bool), SetupError> {
    // What was given is not repeated: it may hold a password, and its user has it before his eyes.
    let refused = |why: &str| SetupError::url(format!("it {why}"));
    let url = options.take_from(url)?;
    let uri: Uri = url
        .parse()
        .map_err(|error: http::uri::InvalidUri| refused(&format!("is no URI: {error}")))?;
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
    // A zone begins with "%25" (RFC 6874 section 2). Where nothing follows, that is the zone 25 behind a
    // "%", which is taken as well.
    let host = match authority.host() {
        host if host.ends_with("%25]") => host.to_owned(),
        host => host.replacen("%25", "%", 1),
    };
    let server = format!("{host}:{port}");
    Config::new(&server).check()?;
    Ok((options.config_for([server])?, is_secure))
}

#[cfg(feature = "tls")]
fn secure() -> Result<Http1, SetupError> {
    let tls = livepool_tls::Tls::builder().with_webpki_roots().with_alpn(["http/1.1"]);
    let tls = tls.build().map_err(|error| SetupError::protocol(error.to_string()))?;
    Ok(Http1::new().with_tls(tls))
}

#[cfg(not(feature = "tls"))]
fn secure() -> Result<Http1, SetupError> {
    Err(no_tls())
}

#[cfg(not(feature = "tls"))]
pub(crate) fn no_tls() -> SetupError {
    SetupError::url("https needs the feature `tls` of livepool-http")
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
            ("http://[fe80::1%3]:81", "[fe80::1%3]:81"),
            ("http://[fe80::1%253]", "[fe80::1%3]:80"),
            ("http://[fe80::1%25]", "[fe80::1%25]:80"),
            #[cfg(feature = "tls")]
            ("https://example.org", "example.org:443"),
        ];
        for (url, upstream) in table {
            assert_eq!(Http1::from_url(url).unwrap().config().upstream, [upstream], "{url}");
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
            let error = Http1::from_url(url).expect_err(url);
            assert!(error.to_string().contains(why), "{url}: {error}");
        }
    }
}

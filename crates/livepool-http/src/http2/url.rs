//! Pools from URLs.

use super::Http2;
use crate::url::server_of;
use livepool::setup::{FromUrl, PoolOptions, SetupError};
use livepool::{Config, Pool};

/// A pool for this server, with the defaults: `http://127.0.0.1:8080`, to which HTTP/2 is spoken at once; or, with
/// the feature `tls`, `https://example.org`, whose certificate must come from an authority that Mozilla trusts.
/// [`Http2::from_url`] gives a choice.
///
/// # Errors
///
/// [`SetupError`], if no server is named by it.
pub fn pool(url: &str) -> Result<Pool<Http2>, SetupError> {
    Http2::from_url(url)?.pool()
}

impl Http2 {
    /// HTTP/2 to the server of this URL, as [`Http1::from_url`](crate::Http1::from_url) reads it.
    ///
    /// ```
    /// # fn f() -> Result<(), Box<dyn std::error::Error>> {
    /// use livepool_http::http2::Http2;
    ///
    /// let pool = Http2::from_url("http://127.0.0.1:50051")?
    ///     .with_config(|config| config.with_max_size(4))
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

impl FromUrl for Http2 {
    fn from_url_with(url: &str, options: PoolOptions) -> Result<Self, SetupError> {
        let (config, is_secure) = server_of(url, options)?;
        let mut http2 = if is_secure { secure()? } else { Self::new() };
        *http2.config_mut() = config;
        Ok(http2)
    }

    fn config_mut(&mut self) -> &mut Config {
        self.pool_config()
    }
}

livepool::url_methods!(Http2);

#[cfg(feature = "tls")]
fn secure() -> Result<Http2, SetupError> {
    let tls = livepool_tls::Tls::builder().with_webpki_roots().build();
    let tls = tls.map_err(|error| SetupError::protocol(error.to_string()))?;
    Ok(Http2::new().with_tls(&tls))
}

#[cfg(not(feature = "tls"))]
fn secure() -> Result<Http2, SetupError> {
    Err(crate::url::no_tls())
}

//! Pools, and their parts, from URLs.

use super::Http2;
use crate::Error;
use crate::url::server_of;
use livepool::{Config, Pool};

/// A pool for this server, with the defaults: `http://127.0.0.1:8080`, to which HTTP/2 is spoken at once; or, with
/// the feature `tls`, `https://example.org`, whose certificate must come from an authority that Mozilla trusts.
///
/// # Errors
///
/// [`Failure::Setup`](crate::Failure::Setup), if no server is named by it.
pub fn pool(url: &str) -> Result<Pool<Http2>, Error> {
    let (config, http2) = at(url)?;
    Pool::builder(config).protocol(http2).build().map_err(Error::setup)
}

/// The parts of which [`pool`] makes a pool, so that they can be changed first:
///
/// ```
/// # fn f() -> Result<(), Box<dyn std::error::Error>> {
/// use livepool::Pool;
/// use livepool_http::http2;
///
/// let (config, http2) = http2::at("http://127.0.0.1:50051")?;
/// let pool = Pool::builder(config.with_max_size(4)).protocol(http2).build()?;
/// # Ok(()) }
/// # f().unwrap();
/// ```
///
/// # Errors
///
/// As [`pool`].
pub fn at(url: &str) -> Result<(Config, Http2), Error> {
    let (config, is_secure) = server_of(url)?;
    Ok((config, if is_secure { secure()? } else { Http2::new() }))
}

#[cfg(feature = "tls")]
fn secure() -> Result<Http2, Error> {
    let tls = livepool_tls::Tls::builder().with_webpki_roots().build().map_err(Error::setup)?;
    Ok(Http2::new().with_tls(&tls))
}

#[cfg(not(feature = "tls"))]
fn secure() -> Result<Http2, Error> {
    Err(crate::url::no_tls())
}

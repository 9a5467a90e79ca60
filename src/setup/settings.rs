//! [`Settings`]: what a configuration file says of one pool.

use std::fmt;
use std::marker::PhantomData;

use super::{FromUrl, PoolOptions, SetupError};
use crate::Pool;

/// A pool as a configuration file or the environment describes it: its URL, and settings of the pool. Each
/// adapter has an alias of this, `livepool_postgres::Settings`.
///
/// ```toml
/// [orders]
/// url = "postgres://app:secret@db.internal/orders"
/// pool = { max_size = 16, idle_timeout = "5m", timeouts = { checkout = "3s" } }
/// ```
///
/// From the environment, with the crate `config` and `__` between the names: `ORDERS__URL`,
/// `ORDERS__POOL__MAX_SIZE`. The settings of `pool` are those of [`Config`](crate::Config), and those that
/// are unknown are refused when they are read. What the URL says counts more: see [`setup`](crate::setup).
///
/// The URL is a secret: neither `Debug` nor an error shows it, and there is no `Serialize`. A parser may show
/// the line at which it stopped, so let no table with a `url` stand in one line with other things.
///
/// ```
/// use livepool::setup::{FromUrl, Settings, SetupError};
/// use livepool::Pool;
///
/// fn pool_of<P: FromUrl>(settings: &Settings<P>) -> Result<Pool<P>, SetupError> {
///     println!("{settings:?}");
///     settings.pool()
/// }
/// ```
#[cfg_attr(feature = "serde", derive(serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields, bound = ""))]
pub struct Settings<P> {
    url: String,
    #[cfg_attr(feature = "serde", serde(default))]
    pool: PoolOptions,
    #[cfg_attr(feature = "serde", serde(skip))]
    protocol: PhantomData<fn() -> P>,
}

impl<P: FromUrl> Settings<P> {
    /// Settings of this URL alone.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), pool: PoolOptions::default(), protocol: PhantomData }
    }

    /// The protocol of these settings, which can be changed further.
    ///
    /// # Errors
    ///
    /// [`SetupError`], with what to change.
    pub fn protocol(&self) -> Result<P, SetupError> {
        P::from_url_with(&self.url, self.pool.clone())
    }

    /// A pool of these settings.
    ///
    /// # Errors
    ///
    /// [`SetupError`], with what to change.
    pub fn pool(&self) -> Result<Pool<P>, SetupError> {
        Ok(self.protocol()?.into_builder()?.build()?)
    }
}

impl<P> Clone for Settings<P> {
    fn clone(&self) -> Self {
        Self { url: self.url.clone(), pool: self.pool.clone(), protocol: PhantomData }
    }
}

impl<P> fmt::Debug for Settings<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("pool", &self.pool).finish_non_exhaustive()
    }
}

//! From a URL to a pool: the shape that all adapters have, and the settings that stand beside a URL.
//!
//! ```text
//! Postgres::from_url(url)?.with_config(|config| config.with_max_size(16)).pool()?
//! Redis::from_url(url)?.with_role(Role::Master).pool()?
//! Http1::from_url(url)?.builder()?.observer(observer).build()?
//! ```
//!
//! A setting of the pool may stand in several places. The one further down counts:
//!
//! 1. its default
//! 2. the table `pool` of [`Settings`]
//! 3. what the URL says in its protocol's own words: `connect_timeout`, `keepalives` of PostgreSQL
//! 4. the URL's options `pool_…`: see [`PoolOptions`]
//! 5. `with_config`, in code
//!
//! The addresses to connect to are those that the URL names; `upstream` in the table or in code replaces
//! them.

mod error;
#[cfg(feature = "serde")]
mod given;
mod options;
mod settings;

use crate::protocol::Protocol;
use crate::{Builder, Config, Pool};

pub use error::SetupError;
pub use options::{PoolOptions, percent_decoded};
pub use settings::Settings;

/// A protocol that a URL sets up, and its pool with it: what every adapter of livepool is.
///
/// A protocol of your own implements this, and has [`url_methods!`](crate::url_methods) give it the methods
/// of the others, which need no trait in scope.
///
/// ```
/// use livepool::protocol::{Protocol, Wire};
/// use livepool::setup::{FromUrl, PoolOptions, SetupError};
/// use livepool::Config;
///
/// /// Bytes, from `lines://host:port`.
/// pub struct Lines {
///     config: Config,
/// }
///
/// impl FromUrl for Lines {
///     fn from_url_with(url: &str, mut options: PoolOptions) -> Result<Self, SetupError> {
///         // Without the options `pool_…`.
///         let url = options.take_from(url)?;
///         let server = url.strip_prefix("lines://");
///         let server = server.ok_or_else(|| SetupError::url("write lines://host:port"))?;
///         Ok(Self { config: options.config_for([server])? })
///     }
///
///     fn config_mut(&mut self) -> &mut Config {
///         &mut self.config
///     }
/// }
///
/// livepool::url_methods!(Lines);
///
/// impl Protocol for Lines {
///     type Client = Wire;
///     type Error = std::io::Error;
///
///     async fn connect(&self, wire: Wire) -> std::io::Result<Wire> {
///         Ok(wire)
///     }
///
///     async fn ping(&self, _: &mut Wire) -> std::io::Result<()> {
///         Ok(())
///     }
/// }
///
/// # fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let lines = Lines::from_url_with("lines://127.0.0.1:7", PoolOptions::default())?;
/// let pool = lines.with_config(|config| config.with_max_size(4)).pool()?;
/// # Ok(()) }
/// # f().unwrap();
/// ```
pub trait FromUrl: Protocol + Sized {
    /// A protocol for the servers of this URL, whose options `pool_…` are [taken
    /// out](PoolOptions::take_from) first and added to those that are given.
    ///
    /// # Errors
    ///
    /// [`SetupError`], with what to change; it repeats nothing that may be a secret.
    fn from_url_with(url: &str, options: PoolOptions) -> Result<Self, SetupError>;

    /// The configuration of the pool that is to be made, which can be changed.
    fn config_mut(&mut self) -> &mut Config;

    /// Refuses what could never connect.
    ///
    /// # Errors
    ///
    /// [`SetupError`], with what to change.
    fn check(&self) -> Result<(), SetupError> {
        Ok(())
    }

    /// A builder of the pool, for observers, hooks and a resolver.
    ///
    /// # Errors
    ///
    /// [`SetupError`], if something is missing or cannot be done.
    fn into_builder(mut self) -> Result<Builder<Self>, SetupError> {
        FromUrl::check(&self)?;
        let config = std::mem::take(self.config_mut());
        *self.config_mut() = config.clone();
        Ok(Pool::builder(config).protocol(self))
    }
}

/// The methods that every adapter has behind `from_url`, for a type that is [`FromUrl`].
#[macro_export]
macro_rules! url_methods {
    ($protocol:ty) => {
        impl $protocol {
            /// A protocol from what a configuration file or the environment says of it, `url` and `pool`:
            /// [`Settings`](livepool::setup::Settings).
            ///
            /// # Errors
            ///
            /// [`SetupError`](livepool::SetupError), with what to change.
            pub fn from_settings(
                settings: &$crate::setup::Settings<Self>,
            ) -> ::std::result::Result<Self, $crate::SetupError> {
                settings.protocol()
            }

            /// The same with the configuration of its pool changed: `with_config(|config|
            /// config.with_max_size(16))`. What is changed here counts, whatever the URL says.
            #[must_use]
            pub fn with_config(
                mut self,
                change: impl ::std::ops::FnOnce($crate::Config) -> $crate::Config,
            ) -> Self {
                let config = $crate::setup::FromUrl::config_mut(&mut self);
                *config = change(::std::mem::take(config));
                self
            }

            /// A builder of its pool, for what is no plain data:
            /// [observers, hooks and a resolver](livepool::Builder).
            ///
            /// # Errors
            ///
            /// [`SetupError`](livepool::SetupError), if something is missing or cannot be done.
            pub fn builder(
                self,
            ) -> ::std::result::Result<$crate::Builder<Self>, $crate::SetupError> {
                $crate::setup::FromUrl::into_builder(self)
            }

            /// Its pool. The first connection is made at the first checkout.
            ///
            /// # Errors
            ///
            /// [`SetupError`](livepool::SetupError), if something is missing or cannot be done, or the
            /// configuration breaks a rule.
            pub fn pool(self) -> ::std::result::Result<$crate::Pool<Self>, $crate::SetupError> {
                ::std::result::Result::Ok(self.builder()?.build()?)
            }
        }
    };
}

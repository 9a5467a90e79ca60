//! The configuration of pools and listeners: plain data with defaults, checked once.
//!
//! Every field is public and documented with its unit, its default and the reason for it; every
//! struct has `Default` and a by-value `with_*` for each field. A value that breaks a rule neither
//! panics nor is truncated: [`Config::check`] reports *all* problems at once, and the pool does the
//! same before it starts. "No limit" is always `None` and has to be asked for; zero never means it,
//! and neither does a very large number: no duration is longer than 365 days.
//!
//! ```
//! use std::time::Duration;
//! use livepool::config::{Config, Timeouts};
//!
//! let config = Config::new("db.internal:5432")
//!     .with_max_size(20)
//!     .with_timeouts(Timeouts::default().with_checkout(Duration::from_secs(3)));
//! assert!(config.check().is_ok());
//! ```
//!
//! With the feature `serde` all of it can be read and written: durations are text with a unit
//! (`"30s"`, `"1m 30s"`), "no limit" is `"never"`, unknown fields are refused.

/// By-value setters. `into` takes whatever converts (text, `Duration` or `None` for a limit); the
/// others take the field's own type, so that number literals need no suffix.
macro_rules! setters {
    ($($with:ident $field:ident: $kind:ident $ty:ty;)+) => { $( setters!(@$kind $with $field $ty); )+ };
    (@plain $with:ident $field:ident $ty:ty) => {
        #[doc = concat!(
            "The same with [`", stringify!($field), "`](Self::", stringify!($field), ") changed."
        )]
        #[must_use]
        pub fn $with(mut self, $field: $ty) -> Self {
            self.$field = $field;
            self
        }
    };
    (@into $with:ident $field:ident $ty:ty) => {
        #[doc = concat!(
            "The same with [`", stringify!($field), "`](Self::", stringify!($field), ") changed."
        )]
        #[must_use]
        pub fn $with(mut self, $field: impl Into<$ty>) -> Self {
            self.$field = $field.into();
            self
        }
    };
    (@some $with:ident $field:ident $ty:ty) => {
        #[doc = concat!(
            "The same with [`", stringify!($field), "`](Self::", stringify!($field), ") set."
        )]
        #[must_use]
        pub fn $with(mut self, $field: impl Into<$ty>) -> Self {
            self.$field = Some($field.into());
            self
        }
    };
}

// `setters!` stands before the modules because they use it: a macro is known from its place on.
mod backoff;
mod changes;
mod error;
mod first;
#[cfg(all(feature = "serde", any(test, feature = "__properties")))]
pub(crate) mod fuzzed;
#[cfg(feature = "serde")]
mod human;
mod keepalive;
mod limits;
mod listener;
mod live;
mod metrics;
mod pool;
mod reuse;
mod rules;
mod settings;
mod socket;
mod subscription;
#[cfg(test)]
mod tests;
mod timeouts;

pub use backoff::Backoff;
pub(crate) use changes::{Change, MadeOf};
pub use error::{ConfigError, Problem};
pub use first::FirstConnect;
pub use keepalive::{Keepalive, UserTimeout};
pub use limits::Limits;
pub use listener::ListenerConfig;
pub(crate) use live::{LiveSettings, SettingsNow, StreamSettings};
pub use metrics::{MetricNames, MetricsConfig};
pub use pool::Config;
pub use reuse::{Order, Validation};
pub(crate) use rules::{check_hooks, check_max_size, check_ping};
pub(crate) use settings::{ListenerSettings, Settings, SocketSettings};
pub use socket::{SocketConfig, SocketOption};
pub use subscription::SubscriptionConfig;
pub use timeouts::{ReadTimeout, Timeouts};

//! Metrics and logs: what an operator sees of a pool.
//!
//! Metrics go through the [`metrics`](https://docs.rs/metrics) facade to whatever recorder the
//! program installs, before or after it builds its pools. [`METRICS`] lists them all;
//! `docs/metrics.md` says what each one tells. Logs go through `tracing`, with the target
//! `livepool`.

mod emitter;
mod facts;
mod handles;
mod lazy;
pub(crate) mod log;
mod metric;

mod names;
mod otel;
mod owner_name;
mod peer_series;
mod recent;
mod register;
mod seldom;
mod span;
// Its libraries are the library's own only.
#[cfg(all(test, not(shuttle)))]
mod tests;

pub(crate) use self::emitter::Emitter;
pub(crate) use self::facts::Facts;
pub(crate) use self::handles::Gauges;
pub(crate) use self::log::{log_trouble, warn_misuse};
pub use self::metric::{Kind, Label, Metric, Unit};
pub use self::names::METRICS;
pub use self::otel::OTEL_METRICS;
pub(crate) use self::peer_series::PeerLevels;
pub(crate) use self::span::Span;

#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod causes;
pub mod config;
mod deadline;
pub mod error;
pub mod event;
mod foreign;
#[cfg(any(test, feature = "__properties"))]
#[doc(hidden)]
pub mod fuzzed;
// Pages to read, and no code.
#[cfg(doc)]
pub mod guide;
mod listener;
mod liveness;
#[cfg(shuttle)]
#[doc(hidden)]
pub mod models;
pub mod net;
mod pool;
pub mod protocol;
pub mod report;
pub mod setup;
mod status;
mod stream;
// For the models of our adapters.
#[cfg(shuttle)]
#[doc(hidden)]
pub mod sync;
#[cfg(not(shuttle))]
mod sync;
mod sys;
pub mod telemetry;
mod text;
mod tick;

/// The examples in `docs/sockets.md` compile and run.
#[cfg(doctest)]
#[doc = include_str!("../docs/sockets.md")]
struct SocketsPage;

pub use config::{
    Backoff, Config, FirstConnect, Keepalive, Limits, ListenerConfig, MetricNames, MetricsConfig,
    Order, ReadTimeout, SocketConfig, SocketOption, SubscriptionConfig, Timeouts, UserTimeout,
    Validation,
};
pub use deadline::Deadline;
pub use error::{CheckoutError, ConfigError, ConnectError, is_timeout};
pub use event::{CloseReason, ConnId, Event, Observer, PeerState};
/// The boxed future that [`Ping`] and [`Resolve`] return, as `async-trait` would make it.
pub use futures_util::future::BoxFuture;
pub use listener::Listener;
pub use net::{PeerAddr, Resolve, SocketReport};
#[cfg(feature = "codec")]
pub use pool::Framed;
pub use pool::{
    Buffered, Builder, Channels, Connection, Delivery, Guard, HookError, HookInfo, HookResult,
    ListenError, Manager, Ping, Pool, Release, Subscription, WeakPool,
};
pub use report::Report;
pub use setup::{Settings, SetupError};
pub use status::{PeerStatus, Status};
pub use stream::{Connector, Interrupted, OpTimeout, PeerSilent, Stream, TooLarge};

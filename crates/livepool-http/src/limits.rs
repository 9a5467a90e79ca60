//! [`Limits`]: how long one request may take.

use std::time::Duration;

use tokio::time::Instant;

/// How long one request may take, where the pool's timeouts are not right for it.
///
/// ```no_run
/// # async fn f(pool: livepool::Pool<livepool_http::Http1>) -> Result<(), livepool_http::Error> {
/// use std::time::Duration;
///
/// use livepool_http::{PoolExt, Limits, Request};
///
/// // A long poll: its answer may take as long as it likes, within two minutes.
/// let limits = Limits::new().with_read_timeout(None).with_deadline(Duration::from_secs(120));
/// let request = Request::get("/events").body(()).unwrap();
/// let response = pool.send_within(request, limits).await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The time for all of it: the checkout, the request, and the response to the end of its body. A
    /// request that is [still being
    /// sent](super#when-the-answer-comes-before-the-request-is-over) then is cut by it as well; over
    /// HTTP/2 only as long as the response is not over.
    /// Default `None`: each step has its own timeout, and the request and response together, from the
    /// checkout on, `timeouts.operation`, if that is set.
    pub deadline: Option<Duration>,
    /// The read timeout while this answer is owed, instead of `timeouts.read`. The answer may take
    /// for ever with `Some(None)`. Default `None`: that of the pool.
    pub read_timeout: Option<Option<Duration>>,
}

impl Limits {
    /// The limits of the pool.
    pub fn new() -> Self {
        Self::default()
    }

    /// When the deadline passes. One beyond the clock's range is none.
    pub(crate) fn deadline_from_now(&self) -> Option<Instant> {
        self.deadline.and_then(|limit| Instant::now().checked_add(limit))
    }

    /// The same with this deadline, counted from the moment in which the request is given to the
    /// pool.
    #[must_use]
    pub fn with_deadline(mut self, limit: Duration) -> Self {
        self.deadline = Some(limit);
        self
    }

    /// The same with this read timeout; `None` lets the answer take for ever.
    #[must_use]
    pub fn with_read_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.read_timeout = Some(limit.into());
        self
    }
}

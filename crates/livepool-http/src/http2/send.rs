//! Making a request: on a share of a connection, and on another one where the server has not taken it.

use std::fmt;
use std::future::Future;
use std::panic::Location;

use http::{HeaderMap, Request, Response};
use tokio::time::Instant;

use super::Http2;
use super::exchange::{Clock, FailedExchange, Fate, exchange};
use crate::error::RequestTarget;
use crate::prepare::check;
use crate::send::PoolExt;
use crate::{Body, Error, Limits, RequestBody};
use livepool::net::PeerAddr;
use livepool::protocol::{Retry, Share, log_trouble};
use livepool::{ConnId, Pool};

/// So often a request is made that is refused each time.
const MOST_TRIES: usize = 3;

/// A part of a connection, for one request. Get one with [`Pool::share`](livepool::Pool::share);
/// [`PoolExt::send`](crate::PoolExt::send) takes one by itself.
///
/// ```no_run
/// # async fn f(pool: livepool::Pool<livepool_http::http2::Http2>) -> Result<(), Box<dyn std::error::Error>> {
/// use livepool_http::Request;
///
/// let share = pool.share().await?;
/// println!("on connection {} to {}", share.id(), share.peer_addr());
/// let response = share.send(Request::get("/status").body(()).unwrap()).await?;
/// # Ok(()) }
/// ```
#[must_use = "dropped, it is given back"]
pub struct Http2Share(pub(super) Share<Http2>);

impl Http2Share {
    /// The connection's number, as in events and logs.
    pub fn id(&self) -> ConnId {
        self.0.id()
    }

    /// The address at the other end.
    pub fn peer_addr(&self) -> &PeerAddr {
        self.0.peer_addr()
    }

    /// Makes a request on this very connection, once.
    ///
    /// # Errors
    ///
    /// As [`PoolExt::send`](crate::PoolExt::send).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the request's stream, and nothing else. The server may act on it all the
    /// same.
    pub async fn send<B: Into<RequestBody>>(
        self,
        request: Request<B>,
    ) -> Result<Response<Body>, Error> {
        let request = request.map(Into::into);
        check(&request, self.0.client().http2.is_secure(), MOST)
            .map_err(|error| error.at(&RequestTarget::of(&request)))?;
        let mut clock = clock_of(&self.0, Limits::new(), None);
        exchange(self.0, request, &mut clock).await.map_err(|failed| failed.error)
    }
}

impl fmt::Debug for Http2Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Http2Share").field(&self.0).finish()
    }
}

/// The last version that a request may name.
const MOST: http::Version = http::Version::HTTP_2;

impl PoolExt for Pool<Http2> {
    #[track_caller]
    fn send_within<B: Into<RequestBody>>(
        &self,
        request: Request<B>,
        limits: Limits,
    ) -> impl Future<Output = Result<Response<Body>, Error>> + Send {
        let deadline = limits.deadline_from_now();
        let (request, taken_at) = (request.map(Into::into), Location::caller());
        async move { send(self, request, limits, deadline, taken_at, |_| {}).await }
    }
}

/// Makes a request, as often as that does no harm. `on_share` may change its head whenever there is a
/// connection for it.
pub(crate) async fn send(
    pool: &Pool<Http2>,
    mut request: Request<RequestBody>,
    limits: Limits,
    deadline: Option<Instant>,
    taken_at: &'static Location<'static>,
    on_share: impl Fn(&mut HeaderMap),
) -> Result<Response<Body>, Error> {
    let is_secure = pool.protocol().is_some_and(Http2::is_secure);
    // Before a share is taken: a refused request must not cost one.
    check(&request, is_secure, MOST).map_err(|error| error.at(&RequestTarget::of(&request)))?;
    let retry = Retry::new(pool, deadline, taken_at);
    let mut clock = None;
    let (mut is_first, mut tries) = (true, 1);
    // Why the one that was sent has no answer.
    let mut lost = None;
    loop {
        let share = match retry.share().await {
            Ok(share) => share.0,
            Err(error) => {
                return Err(Error::from(error).at(&RequestTarget::of(&request)).after(lost));
            }
        };
        if std::mem::take(&mut is_first) {
            // All connections together have it.
            clock = clock_of(&share, limits, deadline);
        }
        on_share(request.headers_mut());
        let failed = match exchange(share, request, &mut clock).await {
            Ok(response) => return Ok(response),
            Err(failed) => *failed,
        };
        let FailedExchange { conn, error, fate, request: again } = failed;
        let made_again = |error| log_trouble(Some(conn), error, "made again");
        request = match (fate, again) {
            // As often as it takes: each time it is another connection, within `timeouts.checkout`.
            (Fate::NotTaken, Some(again)) => {
                // None of these steps waits: the driver of what has ended is to have its turn.
                tokio::task::yield_now().await;
                made_again(&error);
                again
            }
            (Fate::Refused, Some(again)) if tries < MOST_TRIES => {
                tries += 1;
                made_again(&error);
                again
            }
            // RFC 9110 section 9.2.2: the server may have acted on the first one.
            (Fate::Lost, Some(again)) if lost.is_none() && again.method().is_idempotent() => {
                made_again(lost.insert(error));
                again
            }
            _ => return Err(error.after(lost)),
        };
    }
}

/// The time that a request has, if that ends.
fn clock_of(share: &Share<Http2>, limits: Limits, deadline: Option<Instant>) -> Option<Clock> {
    let mut clock = share.clock();
    if let Some(limit) = limits.read_timeout {
        clock = clock.with_read_timeout(limit);
    }
    if let Some(deadline) = deadline {
        clock = clock.with_deadline(deadline);
    }
    (!clock.is_endless()).then(|| Box::pin(clock))
}

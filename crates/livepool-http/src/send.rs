//! Making a request: on a connection of the pool, and on another one where that was too late.

use std::future::Future;
use std::panic::Location;

use http::{Request, Response};
use tokio::time::Instant;

use super::error::RequestTarget;
use super::exchange::{FailedExchange, FollowUp, exchange};
use super::prepare::check;
use super::{Body, Error, Http1, Limits, RequestBody};
use livepool::protocol::{GuardExt, Retry, log_trouble};
use livepool::{Guard, Pool};

/// Requests on the connections of a pool: implemented for [`Pool<Http1>`](Pool).
///
/// ```no_run
/// use livepool_http::{HttpPool, Request};
///
/// # async fn f() -> Result<(), livepool_http::Error> {
/// let pool = livepool_http::pool("http://127.0.0.1:8080")?;
/// let response = pool.send(Request::get("/status").body(()).unwrap()).await?;
/// # Ok(()) }
/// ```
pub trait HttpPool: sealed::SealedHttp {
    /// Makes a request on one of the pool's connections, and waits for the head of its response. The
    /// body of the response holds the connection for as long as anything comes over it.
    ///
    /// The path is enough as its URI; `Host` is filled in. The authority of a whole URI becomes the
    /// `Host`, and nothing else: the request goes to the pool's upstream.
    ///
    /// It may be made a second time, on another connection: see
    /// [when](crate#when-a-request-is-made-again).
    ///
    /// # Errors
    ///
    /// [`Error`], which says how far the request came. A response is none, whatever its status.
    ///
    /// # Panics
    ///
    /// As [`Pool::get`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection, if the request was begun. The server may act on it
    /// all the same. Dropping the response does not cut an upload that the server has accepted: see
    /// [what goes on](crate#when-the-answer-comes-before-the-request-is-over).
    #[track_caller]
    fn send<B: Into<RequestBody>>(
        &self,
        request: Request<B>,
    ) -> impl Future<Output = Result<Response<Body>, Error>> + Send;

    /// As [`send`](Self::send), with a deadline or a read timeout of its own.
    ///
    /// # Errors
    ///
    /// # Panics
    ///
    /// # Cancel safety
    ///
    /// As for [`send`](Self::send).
    #[track_caller]
    fn send_within<B: Into<RequestBody>>(
        &self,
        request: Request<B>,
        limits: Limits,
    ) -> impl Future<Output = Result<Response<Body>, Error>> + Send;
}

impl HttpPool for Pool<Http1> {
    #[track_caller]
    fn send<B: Into<RequestBody>>(
        &self,
        request: Request<B>,
    ) -> impl Future<Output = Result<Response<Body>, Error>> + Send {
        self.send_within(request, Limits::new())
    }

    #[track_caller]
    fn send_within<B: Into<RequestBody>>(
        &self,
        request: Request<B>,
        limits: Limits,
    ) -> impl Future<Output = Result<Response<Body>, Error>> + Send {
        let deadline = limits.deadline.and_then(|limit| Instant::now().checked_add(limit));
        let (request, taken_at) = (request.map(Into::into), Location::caller());
        async move { send(self, request, limits, deadline, taken_at).await }
    }
}

async fn send(
    pool: &Pool<Http1>,
    mut request: Request<RequestBody>,
    limits: Limits,
    mut deadline: Option<Instant>,
    taken_at: &'static Location<'static>,
) -> Result<Response<Body>, Error> {
    let is_secure = pool.protocol().is_some_and(Http1::is_secure);
    // Where it has no connection to name.
    let target = |request: &Request<RequestBody>| {
        let (method, uri) = (request.method().clone(), request.uri().clone());
        RequestTarget { method, uri, peer: None }
    };
    check(&request, is_secure).map_err(|error| error.at(&target(&request)))?;
    let retry = Retry::new(pool, deadline, taken_at);
    let (mut was_sent, mut was_new) = (false, false);
    loop {
        let mut guard = match retry.get().await {
            Ok(guard) => guard,
            Err(error) => return Err(Error::from(error).at(&target(&request))),
        };
        if let Some(limit) = limits.read_timeout {
            guard.set_read_timeout(limit);
        }
        match deadline {
            Some(_) => guard.set_deadline(deadline),
            // All connections together have `timeouts.operation`.
            None => deadline = guard.due(),
        }
        let is_old = retry.predates(&guard);
        let once_more = if is_old && !was_sent { copy(&request) } else { None };
        let failed = match exchange(guard, request, once_more.is_some()).await {
            Ok(response) => return Ok(response),
            Err(failed) => *failed,
        };
        let FailedExchange { guard, error, then } = failed;
        request = match (then, once_more) {
            // As often as it takes: each time one connection less is old. And once where the server
            // has let go of a new one: it ends, and another one may be there.
            (FollowUp::Unsent(unsent), _) if is_old || !was_new => {
                was_new |= !is_old;
                *unsent
            }
            (FollowUp::RequestTimeout, Some(copy)) => {
                was_sent = true;
                copy
            }
            (FollowUp::Unknown, Some(copy)) if retry.retry_after(&guard) => {
                was_sent = true;
                copy
            }
            _ => return Err(error),
        };
        log_trouble(Some(guard.id()), &error, "made again on another connection");
    }
}

/// The same request, if repeating it does no harm.
fn copy(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    if !request.method().is_idempotent() {
        return None;
    }
    let body = request.body().try_clone()?;
    let mut copy = Request::new(body);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    Some(copy)
}

/// A request on a connection that was taken already: implemented for [`Guard<Http1>`](Guard).
///
/// ```no_run
/// use livepool_http::{HttpGuard, Request};
///
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = livepool_http::pool("http://127.0.0.1:8080")?;
/// let guard = pool.get().await?;
/// let response = guard.send(Request::get("/status").body(()).unwrap()).await?;
/// # Ok(()) }
/// ```
pub trait HttpGuard: sealed::SealedHttp {
    /// Makes a request on this very connection, once; [`HttpPool::send`] takes one by itself. The body of
    /// the response takes the guard over.
    ///
    /// # Errors
    ///
    /// As [`HttpPool::send`]. The connection is closed then, unless the request was refused.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection, if the request was begun.
    fn send<B: Into<RequestBody>>(
        self,
        request: Request<B>,
    ) -> impl Future<Output = Result<Response<Body>, Error>> + Send;
}

impl HttpGuard for Guard<Http1> {
    fn send<B: Into<RequestBody>>(
        self,
        request: Request<B>,
    ) -> impl Future<Output = Result<Response<Body>, Error>> + Send {
        let request = request.map(Into::into);
        async move { exchange(self, request, false).await.map_err(|failed| failed.error) }
    }
}

/// For nobody else, and so methods may be added.
mod sealed {
    use livepool::{Guard, Pool};

    use crate::Http1;

    pub trait SealedHttp {}

    impl SealedHttp for Pool<Http1> {}
    impl SealedHttp for Guard<Http1> {}
}

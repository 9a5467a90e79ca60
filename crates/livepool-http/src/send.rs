//! [`PoolExt`] and [`GuardExt`]: requests on the connections of a pool, and on one of them.

use std::future::Future;

use http::{Request, Response};

use crate::{Body, Error, Limits, RequestBody};

/// Requests on the connections of a pool: implemented for [`Pool<Http1>`](livepool::Pool), and
/// for that of [HTTP/2](crate::http2).
///
/// ```no_run
/// use livepool_http::{PoolExt, Request};
///
/// # async fn f() -> Result<(), livepool_http::Error> {
/// let pool = livepool_http::pool("http://127.0.0.1:8080")?;
/// let response = pool.send(Request::get("/status").body(()).unwrap()).await?;
/// # Ok(()) }
/// ```
pub trait PoolExt: sealed::Sealed {
    /// Makes a request on one of the pool's connections, and waits for the head of its response. The
    /// body of the response holds the connection for as long as anything comes over it.
    ///
    /// The path is enough as its URI; `Host` is filled in, unless the request has one. The authority of a
    /// whole URI becomes the `Host`, and nothing else: the request goes to the pool's upstream. Over HTTP/2
    /// `Host` is sent as `:authority`.
    ///
    /// The request may be made a second time, on another connection: see
    /// [when](crate#when-a-request-is-made-again).
    ///
    /// # Errors
    ///
    /// [`Error`], which says how far the request came. A response is none, whatever its status.
    ///
    /// # Panics
    ///
    /// As [`Pool::get`](livepool::Pool::get).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection, if the request was begun; over HTTP/2 it ends the
    /// request's stream alone. The server may act on it all the same. Dropping the response does not cut an
    /// upload that the server has accepted: see [what goes
    /// on](crate#when-the-answer-comes-before-the-request-is-over). Over HTTP/2 it does, unless the response
    /// was read to its end.
    #[track_caller]
    fn send<B: Into<RequestBody>>(
        &self,
        request: Request<B>,
    ) -> impl Future<Output = Result<Response<Body>, Error>> + Send {
        self.send_within(request, Limits::new())
    }

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

/// A request on a connection that was taken already: implemented for [`Guard<Http1>`](livepool::Guard).
///
/// ```no_run
/// use livepool_http::{GuardExt, Request};
///
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = livepool_http::pool("http://127.0.0.1:8080")?;
/// let guard = pool.get().await?;
/// let response = guard.send(Request::get("/status").body(()).unwrap()).await?;
/// # Ok(()) }
/// ```
pub trait GuardExt: sealed::Sealed {
    /// Makes a request on this very connection, once; [`PoolExt::send`] takes one by itself. The body of
    /// the response takes the guard over.
    ///
    /// # Errors
    ///
    /// As [`PoolExt::send`]. The connection is closed then, unless the request was refused.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection, if the request was begun.
    fn send<B: Into<RequestBody>>(
        self,
        request: Request<B>,
    ) -> impl Future<Output = Result<Response<Body>, Error>> + Send;
}

/// The same request, if repeating it does no harm.
pub(crate) fn copy(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    // RFC 9110 section 9.2.2: the server may have acted on the first one.
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

/// For nobody else, and so methods may be added.
mod sealed {
    use livepool::{Guard, Pool};

    use crate::Http1;

    pub trait Sealed {}

    impl Sealed for Pool<Http1> {}
    #[cfg(feature = "http2")]
    impl Sealed for Pool<crate::http2::Http2> {}
    impl Sealed for Guard<Http1> {}
}

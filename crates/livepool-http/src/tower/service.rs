//! [`PoolService`]: a pool as a service of requests.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use tower_service::Service;

use crate::request_body::BoxError;
use crate::{Body, Error, PoolExt, RequestBody};
use livepool::Pool;
use livepool::protocol::Protocol;

/// A pool as a [`tower_service::Service`] of requests: for layers of `tower`, and for all that takes one. Its
/// clones are handles on the same pool.
///
/// It is always ready: a request waits in the pool's queue, within `timeouts.checkout`, and fails when that
/// is full. A layer that looks at `poll_ready` to balance load over several services sees no load;
/// give the pool several upstreams instead.
///
/// ```
/// # fn f() -> Result<(), livepool_http::Error> {
/// use livepool_http::tower::PoolService;
///
/// let service = PoolService::new(livepool_http::pool("http://127.0.0.1:8080")?);
/// # Ok(()) }
/// # f().unwrap();
/// ```
pub struct PoolService<P: Protocol> {
    pool: Pool<P>,
}

/// What a service returns.
pub(super) type Answering<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl<P: Protocol> PoolService<P> {
    /// A service of the requests that this pool makes.
    pub fn new(pool: Pool<P>) -> Self {
        Self { pool }
    }

    /// The pool.
    pub fn pool(&self) -> &Pool<P> {
        &self.pool
    }
}

impl<P: Protocol> Clone for PoolService<P> {
    fn clone(&self) -> Self {
        Self { pool: self.pool.clone() }
    }
}

impl<P: Protocol> fmt::Debug for PoolService<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolService").field("pool", &self.pool).finish()
    }
}

/// The body of a request. One that is empty needs no stream.
pub(super) fn body_of<B>(body: B) -> RequestBody
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    if body.is_end_stream() { ().into() } else { RequestBody::stream(body) }
}

impl<P, B> Service<Request<B>> for PoolService<P>
where
    P: Protocol,
    Pool<P>: PoolExt + Send + Sync,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = Answering<Result<Response<Body>, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let pool = self.pool.clone();
        Box::pin(async move { pool.send(request.map(body_of)).await })
    }
}

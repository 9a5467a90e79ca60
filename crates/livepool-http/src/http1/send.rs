//! Making a request: on a connection of the pool, and on another one where that was too late.

use std::future::Future;
use std::panic::Location;

use http::{Request, Response, Version};
use tokio::time::Instant;

use super::Http1;
use super::exchange::{FailedExchange, FollowUp, exchange};
use crate::error::RequestTarget;
use crate::prepare::check;
use crate::send::{GuardExt, PoolExt, copy};
use crate::{Body, Error, Limits, RequestBody};
use livepool::protocol::{GuardExt as _, Retry, log_trouble};
use livepool::{Guard, Pool};

impl PoolExt for Pool<Http1> {
    #[track_caller]
    fn send_within<B: Into<RequestBody>>(
        &self,
        request: Request<B>,
        limits: Limits,
    ) -> impl Future<Output = Result<Response<Body>, Error>> + Send {
        let deadline = limits.deadline_from_now();
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
    // Before a connection is taken: a refused request must not cost one.
    check(&request, is_secure, Version::HTTP_11)
        .map_err(|error| error.at(&RequestTarget::of(&request)))?;
    let retry = Retry::new(pool, deadline, taken_at);
    let mut was_new = false;
    // Why the one that was sent has no answer.
    let mut sent = None;
    loop {
        let mut guard = match retry.get().await {
            Ok(guard) => guard,
            Err(error) => {
                return Err(Error::from(error).at(&RequestTarget::of(&request)).after(sent));
            }
        };
        if let Some(limit) = limits.read_timeout {
            // On the guard, so that it ends with this request and the next user has the pool's.
            guard.set_read_timeout(limit);
        }
        match deadline {
            Some(_) => guard.set_deadline(deadline),
            // All connections together have `timeouts.operation`.
            None => deadline = guard.due(),
        }
        let is_old = retry.predates(&guard);
        // Copied beforehand, since hyper consumes the request; and only where a retry is possible.
        let once_more = if is_old && sent.is_none() { copy(&request) } else { None };
        let failed = match exchange(guard, request, once_more.is_some()).await {
            Ok(response) => return Ok(response),
            Err(failed) => *failed,
        };
        let FailedExchange { guard, error, then } = failed;
        let made_again =
            |error| log_trouble(Some(guard.id()), error, "made again on another connection");
        request = match (then, once_more) {
            // As often as it takes: each time one connection less is old. And once where the server
            // has let go of a new one: it ends, and another one may be there.
            (FollowUp::Unsent(unsent), _) if is_old || !was_new => {
                was_new |= !is_old;
                made_again(&error);
                *unsent
            }
            (FollowUp::RequestTimeout, Some(copy)) => {
                made_again(sent.insert(error));
                copy
            }
            (FollowUp::Unknown, Some(copy)) if retry.retry_after(&guard) => {
                made_again(sent.insert(error));
                copy
            }
            _ => return Err(error.after(sent)),
        };
    }
}

impl GuardExt for Guard<Http1> {
    fn send<B: Into<RequestBody>>(
        self,
        request: Request<B>,
    ) -> impl Future<Output = Result<Response<Body>, Error>> + Send {
        let request = request.map(Into::into);
        async move { exchange(self, request, false).await.map_err(|failed| failed.error) }
    }
}

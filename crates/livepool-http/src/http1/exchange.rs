//! A single request on a single connection, and the fate of the connection when there is no
//! response.

use http::header::HOST;
use http::{Request, Response, StatusCode, Version};

use super::{Http1, Http1Body};
use crate::error::RequestTarget;
use crate::prepare::{check, prepare};
use crate::{Body, Error, Failure, RequestBody};
use livepool::Guard;
use livepool::event::CloseReason;
use livepool::protocol::GuardExt;

/// A request without a response.
pub(super) struct FailedExchange {
    pub(super) guard: Guard<Http1>,
    pub(super) error: Error,
    pub(super) then: FollowUp,
}

/// The retry that a failed request allows.
pub(super) enum FollowUp {
    /// The request was not sent at all, and is given back.
    Unsent(Box<Request<RequestBody>>),
    /// The server had given up waiting for a request (408) before this one reached it.
    RequestTimeout,
    /// A retry depends on the connection, and on the request.
    Unknown,
}

/// Makes this request. `is_old`: the connection was idle before, and the request could be made again.
pub(super) async fn exchange(
    mut guard: Guard<Http1>,
    mut request: Request<RequestBody>,
    is_old: bool,
) -> Result<Response<Body>, Box<FailedExchange>> {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let target = RequestTarget { method, uri, peer: Some(guard.peer_addr().clone()) };
    // Else it is that of this connection, and of no other one.
    let has_host = request.headers().contains_key(HOST) || request.uri().authority().is_some();
    let fit = check(&request, guard.is_secure, Version::HTTP_11);
    if let Err(error) = fit.and_then(|()| prepare(&mut request, &guard.host)) {
        return Err(FailedExchange::new(guard, error.at(&target), FollowUp::Unknown));
    }
    let response = match guard.ask(request).await {
        Ok(response) => response,
        Err(mut error) => {
            let (mut unsent, error) = (error.take_message(), error.into_error());
            if let (Some(unsent), false) = (&mut unsent, has_host) {
                unsent.headers_mut().remove(HOST);
            }
            return Err(FailedExchange::of(guard, error, unsent, &target));
        }
    };
    // `check` refuses every request that asks for one.
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let error = "the server switched to another protocol, which nobody asked for";
        return Err(FailedExchange::closing(
            guard,
            Error::malformed(error).at(&target),
            FollowUp::Unknown,
        ));
    }
    // RFC 9110 section 15.5.9: it closes a connection on which it waited in vain.
    if is_old && response.status() == StatusCode::REQUEST_TIMEOUT && guard.close_reason().is_some()
    {
        // Before `closing`, whose reason would be an I/O error.
        guard.taint_as(CloseReason::PeerClosed);
        let error = Error::new(Failure::Unanswered).at(&target);
        return Err(FailedExchange::closing(guard, error, FollowUp::RequestTimeout));
    }
    Ok(response.map(|incoming| Http1Body::new(incoming, guard, target).into()))
}

impl FailedExchange {
    fn new(guard: Guard<Http1>, error: Error, then: FollowUp) -> Box<Self> {
        Box::new(Self { guard, error, then })
    }

    /// A failure that closes the connection.
    fn closing(mut guard: Guard<Http1>, error: Error, then: FollowUp) -> Box<Self> {
        guard.taint_as(error.close_reason());
        let error = error.closed_for(guard.tainted());
        Self::new(guard, error, then)
    }

    fn of(
        guard: Guard<Http1>,
        source: hyper::Error,
        unsent: Option<Request<RequestBody>>,
        target: &RequestTarget,
    ) -> Box<Self> {
        let malformed = Error::of_head(&source);
        let failure = match &unsent {
            // hyper gives a request back only if it has written nothing of it.
            Some(_) => Failure::Unsent,
            None if source.is_user() => Failure::RequestBody,
            // A byte of an answer: the server has begun to act.
            None if guard.was_heard() => Failure::Answer,
            None => Failure::Unanswered,
        };
        let error = malformed.unwrap_or_else(|| Error::new(failure).because_of(source)).at(target);
        let then = unsent.map_or(FollowUp::Unknown, |request| FollowUp::Unsent(Box::new(request)));
        Self::closing(guard, error, then)
    }
}

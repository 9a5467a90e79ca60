//! One request on one connection, and what it means for the connection when there is no response.

use http::{Request, Response, StatusCode};

use super::error::Target;
use super::prepare::prepare;
use super::{Body, Error, Failure, Http1, RequestBody};
use crate::event::CloseReason;
use crate::pool::Guard;

/// A request without a response.
pub(super) struct Failed {
    pub(super) guard: Guard<Http1>,
    pub(super) error: Error,
    pub(super) then: Then,
}

/// What may follow.
pub(super) enum Then {
    /// Nothing of this was sent.
    Unsent(Box<Request<RequestBody>>),
    /// The server said that it had given up waiting for a request. It did not mean this one.
    TooLate,
    /// It depends on the connection, and on the request.
    Unknown,
}

/// Makes this request. `is_old`: the connection was idle before, and the request could be made again.
pub(super) async fn exchange(
    mut guard: Guard<Http1>,
    mut request: Request<RequestBody>,
    is_old: bool,
) -> Result<Response<Body>, Box<Failed>> {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let target = Target { method, uri, peer: Some(guard.peer_addr().clone()) };
    if let Err(error) = prepare(&mut request, &guard.host, guard.is_secure) {
        return Err(Failed::new(guard, error.at(&target), Then::Unknown));
    }
    let response = match guard.ask(request).await {
        Ok(response) => response,
        Err(mut error) => {
            let (unsent, error) = (error.take_message(), error.into_error());
            return Err(Failed::of(guard, error, unsent, &target));
        }
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        guard.taint();
        let error =
            Error::refused("the server switched to another protocol, which nobody asked for");
        return Err(Failed::new(guard, error.at(&target), Then::Unknown));
    }
    // RFC 9110 section 15.5.9: it closes a connection on which it waited in vain.
    if is_old && response.status() == StatusCode::REQUEST_TIMEOUT && guard.farewell().is_some() {
        guard.taint_as(CloseReason::PeerClosed);
        let error = Error::new(Failure::Unanswered).at(&target).closed_for(guard.tainted());
        return Err(Failed::new(guard, error, Then::TooLate));
    }
    Ok(response.map(|incoming| Body::new(incoming, guard, target)))
}

impl Failed {
    fn new(guard: Guard<Http1>, error: Error, then: Then) -> Box<Self> {
        Box::new(Self { guard, error, then })
    }

    fn of(
        mut guard: Guard<Http1>,
        source: hyper::Error,
        unsent: Option<Request<RequestBody>>,
        target: &Target,
    ) -> Box<Self> {
        let failure = match &unsent {
            Some(_) => Failure::Unsent,
            None if source.is_user() => Failure::RequestBody,
            None if guard.was_heard() => Failure::Answer,
            None => Failure::Unanswered,
        };
        guard.taint_as(match failure {
            // An idle connection that still stands can only have been spoken on.
            Failure::Unsent => CloseReason::Dirty,
            Failure::RequestBody => CloseReason::Unfinished,
            _ => CloseReason::IoError,
        });
        let error = Error::new(failure).at(target).closed_for(guard.tainted());
        let error = error.because_of(source);
        let then = unsent.map_or(Then::Unknown, |request| Then::Unsent(Box::new(request)));
        Self::new(guard, error, then)
    }
}

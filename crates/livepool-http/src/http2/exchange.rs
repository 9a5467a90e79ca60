//! One request on one stream, and what may be done when there is no response.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use h2::Reason;
use http::request::Parts;
use http::{Request, Response};

use super::upload::{Stopped, Upload};
use super::{Http2, Http2Body};
use crate::error::RequestTarget;
use crate::prepare::prepare_http2;
use crate::request_body::BoxError;
use crate::{Body, Error, Failure, RequestBody};
use livepool::OpTimeout;
use livepool::event::ConnId;
use livepool::protocol::{Escaped, RequestClock, Share};

/// The time that a request has, if that ends.
pub(super) type Clock = Pin<Box<RequestClock>>;

/// A request without a response.
pub(super) struct FailedExchange {
    pub(super) conn: ConnId,
    pub(super) error: Error,
    pub(super) fate: Fate,
    /// The same request, as far as it is still there.
    pub(super) request: Option<Request<RequestBody>>,
}

/// What became of a request that has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The server has done nothing of it: its connection had ended, or was about to.
    NotTaken,
    /// The server has done nothing of it, and its connection stays.
    Refused,
    /// Its connection has ended, and nobody knows.
    Lost,
    /// It was ended: by the server, by its time, by its source.
    Ended,
}

/// How far a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Head,
    Body,
}

/// Makes this request. The clock is its response's afterwards.
pub(super) async fn exchange(
    share: Share<Http2>,
    request: Request<RequestBody>,
    clock: &mut Option<Clock>,
) -> Result<Response<Body>, Box<FailedExchange>> {
    let client = share.client();
    let (parts, body) = request.into_parts();
    let (method, uri) = (parts.method.clone(), parts.uri.clone());
    let target = RequestTarget { method, uri, peer: Some(share.peer_addr().clone()) };
    let fail = |(error, fate): (Error, Fate), request| {
        let error = error.at(&target);
        Err(Box::new(FailedExchange { conn: share.id(), error, fate, request }))
    };
    let again = |parts: Parts, body: Option<RequestBody>| Some(Request::from_parts(parts, body?));

    let is_secure = client.http2.is_secure();
    let head = match prepare_http2(&parts, &body, &client.authority, is_secure) {
        Ok(head) => head,
        Err(error) => return fail((error, Fate::Ended), None),
    };
    if client.said.max_streams() == 0 {
        let error = Error::new(Failure::Unprocessed).because_of("it takes no requests now");
        return fail((error, Fate::Refused), again(parts, Some(body)));
    }
    // Before the first byte: whoever waits is owed a sign of life.
    let owed = client.ledger.owe();
    let is_over = http_body::Body::is_end_stream(&body);
    // One that is new may ask at once.
    let opened = client.sender.clone().send_request(head, is_over);
    let (mut response, stream) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            // Whether or not its driver has come to say so: nobody else joins.
            client.said.spend();
            let (error, fate) = failed(&share, None, error, Stage::Head);
            return fail((error, fate), again(parts, Some(body)));
        }
    };
    let number = stream.stream_id().as_u32();
    let mut upload = Upload::new(stream, body, is_over);
    if let Some(clock) = clock {
        // Another one may have been asked before.
        clock.as_mut().restart();
    }
    let answer = poll_fn(|cx| {
        let moves = upload.moves();
        // First, so that its data goes out with its head.
        if let Poll::Ready(Err(Stopped::Source(error))) = upload.poll(cx) {
            return Poll::Ready(Err(NoAnswer::Source(error)));
        }
        match Pin::new(&mut response).poll(cx) {
            Poll::Ready(answer) => Poll::Ready(answer.map_err(NoAnswer::Stream)),
            Poll::Pending => match clock {
                Some(clock) => {
                    // The server cannot answer what it does not have.
                    if upload.moves() != moves || upload.is_paused() {
                        clock.as_mut().restart();
                    }
                    poll_over(clock, &share, cx).map(|late| Err(NoAnswer::Late(late)))
                }
                None => Poll::Pending,
            },
        }
    });
    let no_answer = match answer.await {
        Ok(answer) => {
            let (head, stream) = answer.into_parts();
            let answer = (stream, &head.headers);
            if let Some(clock) = clock {
                clock.as_mut().restart();
            }
            let body = Http2Body::new(answer, share, owed, upload, clock.take(), target);
            return Ok(Response::from_parts(head, body.into()));
        }
        Err(no_answer) => no_answer,
    };
    match no_answer {
        NoAnswer::Source(error) => {
            fail((Error::new(Failure::RequestBody).because_of(error), Fate::Ended), None)
        }
        NoAnswer::Late(late) => {
            fail((Error::new(Failure::Unanswered).because_of(late), Fate::Ended), None)
        }
        NoAnswer::Stream(error) => {
            let failed = failed(&share, Some(number), error, Stage::Head);
            fail(failed, again(parts, upload.take_back()))
        }
    }
}

/// Resolves when the time of a request is up. A deadline of the caller's own says nothing of the connection.
pub(super) fn poll_over(
    clock: &mut Clock,
    share: &Share<Http2>,
    cx: &mut Context<'_>,
) -> Poll<io::Error> {
    let late = ready!(clock.as_mut().poll_over(share, cx));
    if OpTimeout::of(&late).is_none_or(|timeout| timeout.setting != "deadline") {
        share.client().said.note_late();
    }
    Poll::Ready(late)
}

/// Why there is no answer.
enum NoAnswer {
    /// The body of the request failed.
    Source(BoxError),
    Late(io::Error),
    Stream(h2::Error),
}

/// The error of a stream that has ended with this, and what became of its request. `None` is the number of
/// one that was not opened.
pub(super) fn failed(
    share: &Share<Http2>,
    stream: Option<u32>,
    source: h2::Error,
    stage: Stage,
) -> (Error, Fate) {
    let said = &share.client().said;
    let is_reset = source.is_remote() && source.is_reset();
    let is_refused = is_reset && source.reason() == Some(Reason::REFUSED_STREAM);
    let (failure, fate) = match (stage, stream) {
        (Stage::Head, None) => (Failure::Unsent, Fate::NotTaken),
        (Stage::Head, Some(stream)) if said.was_not_sent(stream) => {
            (Failure::Unsent, Fate::NotTaken)
        }
        (Stage::Head, Some(stream)) if said.was_not_taken(stream) => {
            (Failure::Unprocessed, Fate::NotTaken)
        }
        (Stage::Head, _) if is_refused => (Failure::Unprocessed, Fate::Refused),
        _ if is_reset => (Failure::Reset, Fate::Ended),
        _ if source.is_library() => {
            let why = Error::malformed(Escaped(&source).to_string());
            return (why.closed_for(share.ended()), Fate::Ended);
        }
        (Stage::Head, _) => (Failure::Unanswered, Fate::Lost),
        (Stage::Body, _) => (Failure::Body, Fate::Lost),
    };
    let error = Error::new(failure).because_of(source).closed_for(share.ended());
    (error, fate)
}

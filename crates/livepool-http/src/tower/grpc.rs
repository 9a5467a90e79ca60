//! [`Grpc`]: a pool under a gRPC client, tonic's say.

use std::convert::Infallible;
use std::fmt;
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;
use tower_service::Service;

use super::service::{Answering, body_of};
use crate::http2::{Http2, send};
use crate::request_body::BoxError;
use crate::{Body, Error, Failure, Limits};
use livepool::Pool;

const GRPC_TIMEOUT: &str = "grpc-timeout";
const GRPC_STATUS: &str = "grpc-status";
const GRPC_MESSAGE: &str = "grpc-message";

/// A pool under a gRPC client: a [`tower_service::Service`] that tonic's generated clients take in place
/// of a `Channel`.
///
/// ```
/// # fn f() -> Result<(), livepool_http::Error> {
/// use livepool_http::http2;
/// use livepool_http::tower::Grpc;
///
/// let grpc = Grpc::new(http2::pool("http://127.0.0.1:50051")?);
/// // let mut client = GreeterClient::new(grpc);
/// # Ok(()) }
/// # f().unwrap();
/// ```
///
/// The pool says what is done about servers that come and go; see [`http2`](crate::http2). This is what is
/// gRPC's own:
///
/// - A call that fails for want of an answer ends with a status, as a client of gRPC understands it: `UNAVAILABLE`
///   where no connection was to be had, where the server has done nothing of the call, and where the
///   connection has ended; `DEADLINE_EXCEEDED` where time was up; else what the server's code means
///   ("Status codes" of the gRPC protocol). The message says what happened, and whether the
///   server may have acted on it.
/// - `grpc-timeout`, which tonic's `Request::set_timeout` sets, bounds the whole call, the wait for
///   a connection included: the server is told what is left of it.
/// - A call that the server has done nothing of is made again on another connection, as long as what was
///   sent of it is at hand ("transparent retries").
pub struct Grpc {
    pool: Pool<Http2>,
}

impl Grpc {
    /// A service of the calls that this pool makes.
    pub fn new(pool: Pool<Http2>) -> Self {
        Self { pool }
    }

    /// The pool.
    pub fn pool(&self) -> &Pool<Http2> {
        &self.pool
    }
}

impl Clone for Grpc {
    fn clone(&self) -> Self {
        Self { pool: self.pool.clone() }
    }
}

impl fmt::Debug for Grpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grpc").field("pool", &self.pool).finish()
    }
}

impl<B> Service<Request<B>> for Grpc
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<GrpcBody>;
    type Error = Infallible;
    type Future = Answering<Result<Response<GrpcBody>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let pool = self.pool.clone();
        let timeout = request.headers().get(GRPC_TIMEOUT).and_then(timeout_of);
        let began = Instant::now();
        let deadline = timeout.and_then(|timeout| began.checked_add(timeout));
        let taken_at = Location::caller();
        Box::pin(async move {
            let request = request.map(body_of);
            let answer = send(&pool, request, Limits::new(), deadline, taken_at, |headers| {
                let Some(deadline) = deadline else { return };
                // What the wait took the server has not got: it counts from now.
                if began.elapsed() >= Duration::from_millis(1) {
                    let rest = deadline.saturating_duration_since(Instant::now());
                    headers.insert(GRPC_TIMEOUT, header_of(rest));
                }
            });
            Ok(answer.await.map_or_else(
                |error| {
                    // Also where that was the wait for a connection.
                    let is_over = deadline.is_some_and(|deadline| Instant::now() >= deadline);
                    refusal(&error, is_over)
                },
                |answer| answer.map(|body| GrpcBody { body: Some(body), deadline }),
            ))
        })
    }
}

/// The response to a call that got none: its head has the status ("Trailers-Only").
fn refusal(error: &Error, is_over: bool) -> Response<GrpcBody> {
    let mut response = Response::new(GrpcBody { body: None, deadline: None });
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
    response.headers_mut().extend(status_of(error, is_over));
    response
}

/// The body of a response. One that breaks off ends with a status.
///
/// ```
/// use livepool_http::http::{Request, Response};
/// use livepool_http::tower::{Grpc, GrpcBody};
/// use tower_service::Service;
///
/// /// What a client of tonic does with it.
/// async fn call(grpc: &mut Grpc, request: Request<String>) -> Response<GrpcBody> {
///     match grpc.call(request).await {
///         Ok(response) => response,
///     }
/// }
/// ```
pub struct GrpcBody {
    /// `None`: there is nothing to come.
    body: Option<Body>,
    deadline: Option<Instant>,
}

impl fmt::Debug for GrpcBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcBody").field("body", &self.body).finish()
    }
}

impl HttpBody for GrpcBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        Poll::Ready(match frame {
            Some(Ok(frame)) => Some(Ok(frame)),
            Some(Err(error)) => {
                self.body = None;
                // A server that keeps it ends the call at the same moment, with a code of its own.
                let is_over = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
                Some(Ok(Frame::trailers(status_of(&error, is_over))))
            }
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

// "Status codes and their use in gRPC".
const CANCELLED: u16 = 1;
const UNKNOWN: u16 = 2;
const DEADLINE_EXCEEDED: u16 = 4;
const PERMISSION_DENIED: u16 = 7;
const RESOURCE_EXHAUSTED: u16 = 8;
const INTERNAL: u16 = 13;
const UNAVAILABLE: u16 = 14;

/// The status that a call ends with which failed with this. `is_over`: its deadline has passed.
fn status_of(error: &Error, is_over: bool) -> HeaderMap {
    let code = match is_over {
        true => DEADLINE_EXCEEDED,
        false => code_of(error.failure(), error.is_timeout(), error.http2_code()),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert(GRPC_STATUS, code.into());
    if let Ok(message) = HeaderValue::try_from(percent_encoded(&error.to_string())) {
        trailers.insert(GRPC_MESSAGE, message);
    }
    trailers
}

fn code_of(failure: Failure, is_timeout: bool, http2: Option<u32>) -> u16 {
    match failure {
        // A pool that is full, or has no server, is tried again.
        Failure::Checkout | Failure::Setup | Failure::Unsent | Failure::Unprocessed => UNAVAILABLE,
        _ if is_timeout => DEADLINE_EXCEEDED,
        Failure::Reset => http2.map_or(UNKNOWN, code_of_reset),
        Failure::Unanswered | Failure::Answer | Failure::Body => UNAVAILABLE,
        Failure::RequestBody => CANCELLED,
        Failure::TooLong => RESOURCE_EXHAUSTED,
        Failure::Refused | Failure::Malformed => INTERNAL,
    }
}

/// "HTTP2 Transport Mapping" of "gRPC over HTTP2".
fn code_of_reset(http2: u32) -> u16 {
    match h2::Reason::from(http2) {
        h2::Reason::REFUSED_STREAM => UNAVAILABLE,
        h2::Reason::CANCEL => CANCELLED,
        h2::Reason::ENHANCE_YOUR_CALM => RESOURCE_EXHAUSTED,
        h2::Reason::INADEQUATE_SECURITY => PERMISSION_DENIED,
        _ => INTERNAL,
    }
}

/// "Percent-Encoded" of "gRPC over HTTP2".
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'$' | b'&'..=b'~' => encoded.push(byte.into()),
            _ => encoded += &format!("%{byte:02X}"),
        }
    }
    encoded
}

/// "Timeout" of "gRPC over HTTP2": at most eight digits, and a unit.
fn timeout_of(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let unit = text.chars().next_back()?;
    let digits = text.strip_suffix(unit)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit())
    {
        return None;
    }
    let count = digits.parse().ok()?;
    Some(match unit {
        'H' => Duration::from_secs(count * 3600),
        'M' => Duration::from_secs(count * 60),
        'S' => Duration::from_secs(count),
        'm' => Duration::from_millis(count),
        'u' => Duration::from_micros(count),
        'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

/// The same as a header, in the finest of two units that has the digits for it. At least one, as a server
/// may take none for "no timeout".
fn header_of(timeout: Duration) -> HeaderValue {
    const MOST: u128 = 99_999_999;
    let text = match timeout.as_micros() {
        micros @ 0..=MOST => format!("{}u", micros.max(1)),
        _ => format!("{}m", timeout.as_millis().min(MOST)),
    };
    HeaderValue::try_from(text).unwrap_or_else(|_| unreachable!("digits and a letter"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_timeout_has_eight_digits_at_most() {
        let header = |timeout| header_of(timeout);
        assert_eq!(header(Duration::ZERO), "1u");
        assert_eq!(header(Duration::from_millis(1500)), "1500000u");
        assert_eq!(header(Duration::from_secs(100)), "100000m");
        assert_eq!(header(Duration::MAX), "99999999m");
        let some = Duration::from_micros(123_456);
        assert_eq!(timeout_of(&header(some)), Some(some));
    }

    #[test]
    fn a_timeout_has_digits_and_a_unit() {
        for (text, expected) in [
            ("1S", Some(Duration::from_secs(1))),
            ("250m", Some(Duration::from_millis(250))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("7u", Some(Duration::from_micros(7))),
            ("", None),
            ("S", None),
            ("1", None),
            ("-1S", None),
            ("123456789S", None),
            ("1s", None),
        ] {
            assert_eq!(timeout_of(&HeaderValue::from_static(text)), expected, "{text}");
        }
    }

    #[test]
    fn a_message_is_percent_encoded() {
        assert_eq!(percent_encoded("a 100% lost\nä"), "a 100%25 lost%0A%C3%A4");
    }

    #[test]
    fn a_failure_becomes_the_code_that_says_whether_to_try_again() {
        for (failure, is_timeout, http2, code) in [
            (Failure::Checkout, true, None, UNAVAILABLE),
            (Failure::Unsent, false, None, UNAVAILABLE),
            (Failure::Unprocessed, false, Some(7), UNAVAILABLE),
            (Failure::Unanswered, false, None, UNAVAILABLE),
            (Failure::Unanswered, true, None, DEADLINE_EXCEEDED),
            (Failure::Body, true, None, DEADLINE_EXCEEDED),
            (Failure::Body, false, None, UNAVAILABLE),
            (Failure::Reset, false, Some(8), CANCELLED),
            (Failure::Reset, false, Some(7), UNAVAILABLE),
            (Failure::Reset, false, Some(11), RESOURCE_EXHAUSTED),
            (Failure::Reset, false, Some(12), PERMISSION_DENIED),
            (Failure::Reset, false, Some(2), INTERNAL),
            (Failure::Malformed, false, None, INTERNAL),
        ] {
            assert_eq!(code_of(failure, is_timeout, http2), code, "{failure:?} {http2:?}");
        }
    }
}

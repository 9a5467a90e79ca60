//! [`RequestBody`]: what a request carries.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::upload::Source;

use std::sync::{Mutex, PoisonError};

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a request carries: nothing (`()`), bytes or text, or a stream.
///
/// Nothing, bytes and text can be sent again, which costs no copy; see
/// [when a request is made again](super#when-a-request-is-made-again). A stream cannot.
///
/// ```
/// use http_body_util::Full;
/// use livepool_http::{Request, RequestBody};
///
/// let text = Request::post("/notes").body("remember").unwrap();
/// // Anything that is a `Body` of bytes: here one that is known already.
/// let body = RequestBody::stream(Full::new(bytes::Bytes::from("remember")));
/// let streamed = Request::post("/notes").body(body).unwrap();
/// ```
#[derive(Default)]
pub struct RequestBody {
    inner: Inner,
    /// While it is being sent.
    source: Option<Source>,
    /// Of a stream: what it gave, and was too long for one piece.
    left: Bytes,
}

/// hyper copies a piece into its buffer, and keeps the buffer: that would be as long as the longest
/// piece for as long as the connection lives.
const LONGEST_PIECE: usize = 128 * 1024;

/// The next piece of these bytes.
fn piece(bytes: &mut Bytes) -> Frame<Bytes> {
    Frame::data(bytes.split_to(bytes.len().min(LONGEST_PIECE)))
}

/// `poll_frame` has it alone, so nobody ever waits for this lock: it makes the type `Sync`.
type Streamed = Mutex<Pin<Box<dyn Body<Data = Bytes, Error = BoxError> + Send>>>;

#[derive(Default)]
enum Inner {
    #[default]
    Empty,
    Bytes(Bytes),
    Stream(Streamed),
}

impl RequestBody {
    /// A body that is sent as it is made. The request is made once only.
    pub fn stream<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Inner::Stream(Mutex::new(Box::pin(Boxed(Box::pin(body))))).into()
    }

    /// The same body once more, if it can be had.
    pub(super) fn again(&self) -> Option<Self> {
        match &self.inner {
            Inner::Empty => Some(Inner::Empty.into()),
            Inner::Bytes(bytes) => Some(Inner::Bytes(bytes.clone()).into()),
            Inner::Stream(_) => None,
        }
    }

    /// It is on its way.
    pub(super) fn is_sent_as(&mut self, source: Source) {
        self.source = Some(source);
    }
}

/// A body whose errors are boxed.
struct Boxed<B>(Pin<Box<B>>);

impl<B> Body for Boxed<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0.as_mut().poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Self { inner, source, left } = &mut *self;
        match inner {
            Inner::Empty => Poll::Ready(None),
            Inner::Bytes(bytes) if bytes.is_empty() => Poll::Ready(None),
            Inner::Bytes(bytes) => Poll::Ready(Some(Ok(piece(bytes)))),
            Inner::Stream(_) if !left.is_empty() => Poll::Ready(Some(Ok(piece(left)))),
            Inner::Stream(body) => {
                let body = body.get_mut().unwrap_or_else(PoisonError::into_inner);
                let frame = body.as_mut().poll_frame(cx);
                if let Some(source) = source {
                    source.pauses(frame.is_pending());
                }
                frame.map_ok(|frame| match frame.into_data() {
                    Ok(data) => {
                        *left = data;
                        piece(left)
                    }
                    Err(frame) => frame,
                })
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Empty => true,
            Inner::Bytes(bytes) => bytes.is_empty(),
            Inner::Stream(_) if !self.left.is_empty() => false,
            Inner::Stream(body) => body.lock().is_ok_and(|body| body.is_end_stream()),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Empty => SizeHint::with_exact(0),
            Inner::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Inner::Stream(body) => body.lock().map(|body| body.size_hint()).unwrap_or_default(),
        }
    }
}

impl From<Inner> for RequestBody {
    fn from(inner: Inner) -> Self {
        Self { inner, source: None, left: Bytes::new() }
    }
}

impl From<()> for RequestBody {
    fn from((): ()) -> Self {
        Inner::Empty.into()
    }
}

macro_rules! from_bytes {
    ($($type:ty),+) => {$(
        impl From<$type> for RequestBody {
            fn from(bytes: $type) -> Self {
                Inner::Bytes(Bytes::from(bytes)).into()
            }
        }
    )+};
}
from_bytes!(Bytes, Vec<u8>, String, &'static str, &'static [u8]);

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.inner {
            Inner::Empty => f.write_str("RequestBody(empty)"),
            Inner::Bytes(bytes) => write!(f, "RequestBody({} bytes)", bytes.len()),
            Inner::Stream(_) => f.write_str("RequestBody(stream)"),
        }
    }
}

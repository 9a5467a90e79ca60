//! [`RequestBody`]: the body of a request.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::http1::upload::UploadSource;

use std::sync::{Mutex, PoisonError};

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request: empty (`()`), bytes or text, or a stream.
///
/// Empty bodies, bytes and text can be sent again, without a copy; see [when a request is made
/// again](super#when-a-request-is-made-again). A stream cannot; over HTTP/2 its first 64 KiB can.
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
    kind: BodyKind,
    /// The upload that this body belongs to, while it is being sent.
    source: Option<UploadSource>,
    /// What a stream has given already: the rest of its last data, which was too long for one piece, or all of
    /// it, for a request that is made again.
    given: VecDeque<Bytes>,
    /// The stream has come to its end: it is not asked again.
    has_ended: bool,
}

/// hyper copies a piece into its buffer, and keeps the buffer: that would be as long as the longest
/// piece for as long as the connection lives.
const MAX_PIECE: usize = 128 * 1024;

/// The next piece of these bytes.
fn piece(bytes: &mut Bytes) -> Frame<Bytes> {
    Frame::data(bytes.split_to(bytes.len().min(MAX_PIECE)))
}

/// `poll_frame` has it alone, so nobody ever waits for this lock: it makes the type `Sync`.
type Streamed = Mutex<Pin<Box<dyn Body<Data = Bytes, Error = BoxError> + Send>>>;

#[derive(Default)]
enum BodyKind {
    #[default]
    Empty,
    Bytes(Bytes),
    Stream(Streamed),
}

impl RequestBody {
    /// A body that is sent as it is made. Over HTTP/1.1 the request is made once only.
    pub fn stream<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        BodyKind::Stream(Mutex::new(Box::pin(BoxedErrors { body }))).into()
    }

    /// The same body once more; `None` for a stream.
    pub(super) fn try_clone(&self) -> Option<Self> {
        match &self.kind {
            BodyKind::Empty => Some(BodyKind::Empty.into()),
            BodyKind::Bytes(bytes) => Some(BodyKind::Bytes(bytes.clone()).into()),
            BodyKind::Stream(_) => None,
        }
    }

    /// The same, with these pieces of a stream once more before what is still to come of it.
    #[cfg(feature = "http2")]
    pub(super) fn after(mut self, pieces: Vec<Bytes>) -> Self {
        // Some of them may have been given, and not sent, before.
        for piece in pieces.into_iter().rev() {
            self.given.push_front(piece);
        }
        self
    }

    /// Attaches the body to the upload that it is sent in.
    pub(super) fn attach(&mut self, source: UploadSource) {
        self.source = Some(source);
    }
}

pin_project! {
    /// A body whose errors are boxed.
    struct BoxedErrors<B> {
        #[pin]
        body: B,
    }
}

impl<B> Body for BoxedErrors<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.project().body.poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Self { kind, source, given, has_ended } = &mut *self;
        if let Some(first) = given.front_mut() {
            let piece = piece(first);
            if first.is_empty() {
                given.pop_front();
            }
            return Poll::Ready(Some(Ok(piece)));
        }
        match kind {
            BodyKind::Empty => Poll::Ready(None),
            BodyKind::Bytes(bytes) if bytes.is_empty() => Poll::Ready(None),
            BodyKind::Bytes(bytes) => Poll::Ready(Some(Ok(piece(bytes)))),
            BodyKind::Stream(_) if *has_ended => Poll::Ready(None),
            BodyKind::Stream(body) => {
                let body = body.get_mut().unwrap_or_else(PoisonError::into_inner);
                let frame = body.as_mut().poll_frame(cx);
                // Only a stream can pause: bytes are there at once.
                if let Some(source) = source {
                    // The server cannot answer what the source has not given: its read timeout
                    // pauses.
                    source.set_paused(frame.is_pending());
                }
                *has_ended = matches!(frame, Poll::Ready(None));
                frame.map_ok(|frame| match frame.into_data() {
                    Ok(mut data) => {
                        let piece = piece(&mut data);
                        if !data.is_empty() {
                            given.push_back(data);
                        }
                        piece
                    }
                    Err(frame) => frame,
                })
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            BodyKind::Empty => true,
            BodyKind::Bytes(bytes) => bytes.is_empty(),
            BodyKind::Stream(_) if !self.given.is_empty() => false,
            BodyKind::Stream(_) if self.has_ended => true,
            BodyKind::Stream(body) => body.lock().is_ok_and(|body| body.is_end_stream()),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            BodyKind::Empty => SizeHint::with_exact(0),
            BodyKind::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            BodyKind::Stream(body) => {
                let rest = match self.has_ended {
                    true => SizeHint::with_exact(0),
                    false => body.lock().map(|body| body.size_hint()).unwrap_or_default(),
                };
                let given: u64 = self.given.iter().map(|piece| piece.len() as u64).sum();
                let mut all = SizeHint::new();
                all.set_lower(rest.lower() + given);
                if let Some(upper) = rest.upper() {
                    all.set_upper(upper + given);
                }
                all
            }
        }
    }
}

impl From<BodyKind> for RequestBody {
    fn from(kind: BodyKind) -> Self {
        Self { kind, source: None, given: VecDeque::new(), has_ended: false }
    }
}

impl From<()> for RequestBody {
    fn from((): ()) -> Self {
        BodyKind::Empty.into()
    }
}

macro_rules! from_bytes {
    ($($type:ty),+) => {$(
        impl From<$type> for RequestBody {
            fn from(bytes: $type) -> Self {
                BodyKind::Bytes(Bytes::from(bytes)).into()
            }
        }
    )+};
}
from_bytes!(Bytes, Vec<u8>, String, &'static str, &'static [u8]);

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            BodyKind::Empty => f.write_str("RequestBody(empty)"),
            BodyKind::Bytes(bytes) => write!(f, "RequestBody({} bytes)", bytes.len()),
            BodyKind::Stream(_) => f.write_str("RequestBody(stream)"),
        }
    }
}

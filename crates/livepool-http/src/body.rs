//! [`Body`]: the body of a response, and the connection it comes over.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};

use crate::error::RequestTarget;
use crate::http1::Http1Body;
#[cfg(feature = "http2")]
use crate::http2::Http2Body;
use crate::{Error, Failure};
use livepool::event::ConnId;

/// The body of a response. A body holds its connection until both sides are done with the exchange,
/// and gives it back then; see [when a connection is used
/// again](crate#when-a-connection-is-used-again).
///
/// Over HTTP/1.1 the connection moves only while this is polled: a request body that is still being sent,
/// too. When this was read to its end, or is dropped, the rest of a request [goes on by
/// itself](crate#when-the-answer-comes-before-the-request-is-over).
///
/// Over HTTP/2 the connection moves by itself. The rest of a request goes on as well, unless this is dropped
/// before its end: that ends the stream, in both directions.
///
/// ```no_run
/// # async fn f(pool: livepool::Pool<livepool_http::Http1>) -> Result<(), livepool_http::Error> {
/// use livepool_http::PoolExt;
///
/// let request = livepool_http::Request::get("/log").body(()).unwrap();
/// let mut body = pool.send(request).await?.into_body();
/// while let Some(frame) = body.frame().await {
///     if let Ok(data) = frame?.into_data() {
///         println!("{} bytes more", data.len());
///     }
/// }
/// # Ok(()) }
/// ```
///
/// # Cancel safety
///
/// A frame whose future was dropped is not lost.
pub struct Body {
    kind: Kind,
    conn: ConnId,
}

enum Kind {
    Http1(Http1Body),
    #[cfg(feature = "http2")]
    Http2(Http2Body),
}

/// The same of either kind.
macro_rules! either {
    ($kind:expr, $body:pat => $result:expr) => {
        match $kind {
            Kind::Http1($body) => $result,
            #[cfg(feature = "http2")]
            Kind::Http2($body) => $result,
        }
    };
}

impl Body {
    /// The number of the body's connection, as in events and logs.
    pub fn conn_id(&self) -> ConnId {
        self.conn
    }

    /// Whether the body still holds its connection, or its part of one.
    pub fn holds_connection(&self) -> bool {
        either!(&self.kind, body => body.holds_connection())
    }

    /// Reads the whole body, if that is at most `most` bytes.
    ///
    /// # Errors
    ///
    /// [`Failure::Body`], if it breaks off; [`Failure::TooLong`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the body.
    pub async fn bytes(mut self, most: usize) -> Result<Bytes, Error> {
        let mut first = Bytes::new();
        let mut all = BytesMut::new();
        while let Some(frame) = self.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            if first.len() + all.len() + data.len() > most {
                return Err(Error::new(Failure::TooLong).at(self.target()));
            }
            if first.is_empty() && all.is_empty() {
                // A body of one piece is returned without a copy.
                first = data;
                continue;
            }
            all.extend_from_slice(&std::mem::take(&mut first));
            all.extend_from_slice(&data);
        }
        Ok(if all.is_empty() { first } else { all.freeze() })
    }

    /// The next piece: data, or the trailers; `None` at the end.
    ///
    /// # Errors
    ///
    /// [`Failure::Body`], if it breaks off.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no data.
    pub async fn frame(&mut self) -> Option<Result<Frame<Bytes>, Error>> {
        poll_fn(|cx| http_body::Body::poll_frame(Pin::new(&mut *self), cx)).await
    }

    fn target(&self) -> &RequestTarget {
        either!(&self.kind, body => body.target())
    }
}

impl From<Http1Body> for Body {
    fn from(body: Http1Body) -> Self {
        Self { conn: body.conn_id(), kind: Kind::Http1(body) }
    }
}

#[cfg(feature = "http2")]
impl From<Http2Body> for Body {
    fn from(body: Http2Body) -> Self {
        Self { conn: body.conn_id(), kind: Kind::Http2(body) }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        either!(&mut self.get_mut().kind, body => Pin::new(body).poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        either!(&self.kind, body => body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        either!(&self.kind, body => body.size_hint())
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("conn", &self.conn)
            .field("holds_connection", &self.holds_connection())
            .finish_non_exhaustive()
    }
}

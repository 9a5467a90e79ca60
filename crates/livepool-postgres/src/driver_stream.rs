//! [`DriverStream`]: the driver's stream, on which a connection that the pool ends gets an error to
//! read first.
//!
//! The client library says "connection closed" to whoever waits for an answer, whatever has ended
//! the connection, unless the server has said why. So where this side ends it, the library reads an
//! error in the server's form first, and the end behind it. The error is put in above the scanner,
//! which reads the server's own messages only.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::error::DbError;
use tokio_postgres::tls::{ChannelBinding, TlsStream};

use super::line::Line;
use crate::sync::Arc;
use livepool::{Interrupted, OpTimeout, PeerSilent, TooLarge};

/// The value of the field `R`, where a server has the name of its function.
const ROUTINE: &str = "livepool";

/// The number of waiting requests that get an error of their own. Requests behind them fail with
/// the end of the stream.
const MAX_NOTICES: usize = 64;

/// `query_canceled`, as for the server's own `statement_timeout`.
pub(super) const QUERY_CANCELED_CODE: &str = "57014";
/// `connection_failure`.
const CONNECTION_FAILURE_CODE: &str = "08006";
/// `admin_shutdown`.
const ADMIN_SHUTDOWN_CODE: &str = "57P01";
/// `program_limit_exceeded`.
const PROGRAM_LIMIT_EXCEEDED_CODE: &str = "54000";

/// Whether an error was put in by the pool, and not said by a server.
pub(super) fn is_from_pool(error: &DbError) -> bool {
    error.routine() == Some(ROUTINE)
}

/// The driver's stream.
#[derive(Debug)]
pub(super) struct DriverStream<S> {
    io: S,
    line: Arc<Line>,
    /// The channel binding data; `None` if there is none.
    end_point: Option<Vec<u8>>,
    /// The errors still to be read, after this side has ended the connection.
    ended: Option<Box<EndNotice>>,
}

/// The reason for which this side has ended a connection.
#[derive(Debug, Clone, Copy)]
enum EndReason {
    Timeout(OpTimeout),
    Silent(PeerSilent),
    Interrupted(Interrupted),
    TooLarge(TooLarge),
}

#[derive(Debug)]
struct EndNotice {
    why: EndReason,
    /// The bytes that the client library has still to read.
    response: Vec<u8>,
}

impl<S> DriverStream<S> {
    pub(super) fn new(io: S, line: &Arc<Line>, end_point: Option<Vec<u8>>) -> Self {
        Self { io, line: Arc::clone(line), end_point, ended: None }
    }

    /// Notes that the stream ends with this error. Returns whether there are errors to be read
    /// first: to a number of `waiting` requests, and only between two messages.
    fn begin_end(&mut self, error: &io::Error, waiting: impl FnOnce(&Line) -> usize) -> bool {
        let Some(why) = EndReason::of(error) else { return false };
        self.line.ends_here();
        let is_between = match why {
            // The piece that was too large is not handed out, so the client stands where it was before.
            EndReason::TooLarge(_) => self.line.was_between(),
            _ => self.line.is_between(),
        };
        let waiting = waiting(&self.line).min(MAX_NOTICES);
        if is_between && waiting > 0 {
            self.ended =
                Some(Box::new(EndNotice { why, response: why.response().repeat(waiting) }));
        }
        self.ended.is_some()
    }

    /// Polls an operation of the writing side.
    fn poll_write_side<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(&mut S, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let Some(ended) = &self.ended {
            // The driver was woken to read the errors first, and writes instead.
            return Poll::Ready(Err(ended.why.into()));
        }
        match write(&mut self.io, cx) {
            // At least one: the request that is being written may not be counted as owed yet.
            // Pending, as the client library reads before it writes when it is polled again.
            Poll::Ready(Err(error)) if self.begin_end(&error, |line| line.owed().max(1)) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            written => written,
        }
    }
}

impl EndNotice {
    fn read_into(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        if self.response.is_empty() {
            return Err(self.why.into());
        }
        let count = self.response.len().min(buf.remaining());
        buf.put_slice(&self.response[..count]);
        self.response.drain(..count);
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for DriverStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ended.is_none() {
            match Pin::new(&mut this.io).poll_read(cx, buf) {
                Poll::Ready(Err(error)) if this.begin_end(&error, Line::owed) => {}
                polled => return polled,
            }
        }
        Poll::Ready(this.ended.as_mut().map_or(Ok(()), |ended| ended.read_into(buf)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for DriverStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_side(cx, |io, cx| Pin::new(io).poll_write(cx, buf))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_write_side(cx, |io, cx| Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// The TLS lies below, where the pool can reach it: see
/// [`NegotiatedConnect`](super::encryption::NegotiatedConnect).
impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for DriverStream<S> {
    fn channel_binding(&self) -> ChannelBinding {
        match &self.end_point {
            Some(end_point) => ChannelBinding::tls_server_end_point(end_point.clone()),
            None => ChannelBinding::none(),
        }
    }
}

impl EndReason {
    fn of(error: &io::Error) -> Option<Self> {
        let timeout = OpTimeout::of(error).copied().map(Self::Timeout);
        let silent = || PeerSilent::of(error).copied().map(Self::Silent);
        let interrupted = || Interrupted::of(error).copied().map(Self::Interrupted);
        let too_large = || TooLarge::of(error).copied().map(Self::TooLarge);
        timeout.or_else(silent).or_else(interrupted).or_else(too_large)
    }

    /// An ErrorResponse, and the ReadyForQuery that makes it the whole of an answer (PostgreSQL's
    /// documentation, "Message Formats", "Error and Notice Message Fields").
    fn response(self) -> Vec<u8> {
        let code = match self {
            Self::Timeout(_) => QUERY_CANCELED_CODE,
            Self::Silent(_) => CONNECTION_FAILURE_CODE,
            Self::Interrupted(_) => ADMIN_SHUTDOWN_CODE,
            Self::TooLarge(_) => PROGRAM_LIMIT_EXCEEDED_CODE,
        };
        let text = format!("livepool has ended the connection: {}", io::Error::from(self));
        let fields = [('S', "FATAL"), ('V', "FATAL"), ('C', code), ('M', &text), ('R', ROUTINE)];
        let mut body = Vec::new();
        for (field, value) in fields {
            body.push(field as u8);
            body.extend_from_slice(value.as_bytes());
            body.push(0);
        }
        body.push(0);
        let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
        [b"E", &length.to_be_bytes()[..], &body, b"Z\0\0\0\x05I"].concat()
    }
}

impl From<EndReason> for io::Error {
    fn from(why: EndReason) -> Self {
        match why {
            EndReason::Timeout(why) => why.into(),
            EndReason::Silent(why) => why.into(),
            EndReason::Interrupted(why) => why.into(),
            EndReason::TooLarge(why) => why.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use livepool::event::{CloseReason, Operation};
    use livepool::protocol::DriverState;

    /// Whose every operation has this end.
    #[derive(Debug, Clone, Copy)]
    struct EndedStream(EndReason);

    impl AsyncRead for EndedStream {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Ready(Err(self.0.into()))
        }
    }

    impl AsyncWrite for EndedStream {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(self.0.into()))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn silent() -> EndReason {
        let silent_for = Duration::from_nanos(3_499_999_999);
        EndReason::Silent(PeerSilent::new(silent_for, CloseReason::ProbeTimeout))
    }

    /// A line on which so many answers are owed.
    fn line(owed: usize, is_between: bool) -> Arc<Line> {
        let line = Line::new(DriverState::default());
        line.scanned(owed, false, false);
        line.set_between(true, is_between);
        line
    }

    #[test]
    fn the_last_words_are_as_many_as_wait_and_the_end_comes_behind_them() {
        let mut stream = DriverStream::new(EndedStream(silent()), &line(2, true), None);
        let mut read = Vec::new();
        let error = stream.read_to_end(&mut read).now_or_never().unwrap().unwrap_err();
        assert!(PeerSilent::of(&error).is_some(), "{error}");
        assert_eq!(read, silent().response().repeat(2));
        let text = String::from_utf8_lossy(&read);
        assert!(text.contains("C08006\0Mlivepool has ended the connection: peer silent for 3.5s"));
    }

    #[test]
    fn nothing_is_said_in_the_middle_of_a_message_or_to_nobody() {
        for line in [line(1, false), line(0, true)] {
            let mut stream = DriverStream::new(EndedStream(silent()), &line, None);
            let error = stream.read(&mut [0; 64]).now_or_never().unwrap().unwrap_err();
            assert!(PeerSilent::of(&error).is_some() && line.is_ended_here(), "{error}");
        }
        // What is too large comes with a piece that is not handed out.
        let too_large = TooLarge::new(9, 8);
        let mut stream =
            DriverStream::new(EndedStream(EndReason::TooLarge(too_large)), &line(1, false), None);
        assert!(stream.read(&mut [0; 64]).now_or_never().unwrap().unwrap() > 0);
    }

    #[test]
    fn whoever_cannot_write_is_told_to_read_and_then_that_it_is_over() {
        let timeout = OpTimeout::new(Operation::Write, Duration::from_secs(1), "timeouts.write");
        let mut stream =
            DriverStream::new(EndedStream(EndReason::Timeout(timeout)), &line(0, true), None);
        assert!(stream.write(b"x").now_or_never().is_none());
        let mut response = [0; 512];
        let count = stream.read(&mut response).now_or_never().unwrap().unwrap();
        assert_eq!(response[..count], EndReason::Timeout(timeout).response());
        for error in [
            stream.read(&mut response).now_or_never().unwrap().unwrap_err(),
            stream.write(b"x").now_or_never().unwrap().unwrap_err(),
        ] {
            assert_eq!(OpTimeout::of(&error), Some(&timeout));
        }
    }
}

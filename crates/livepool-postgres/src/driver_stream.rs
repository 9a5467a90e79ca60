//! [`Watched`]: the driver's stream, and the last words on it.
//!
//! The client library says "connection closed" to whoever waits for an answer, whatever has ended the
//! connection, unless the server has said why. So where this side ends it, the library reads an error in
//! the server's form first, and the end behind it. That is written above the scanner, which reads the
//! server's own words only.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::error::DbError;
use tokio_postgres::tls::{ChannelBinding, TlsStream};

use super::line::Line;
use crate::sync::Arc;
use livepool::{Interrupted, OpTimeout, PeerSilent, TooLarge};

/// Where a server has the name of its function: these are ours.
const ROUTINE: &str = "livepool";

/// For so many requests that wait for an answer. Those behind them hear of the end alone.
const MOST_TOLD: usize = 64;

/// `query_canceled`, as for the server's own `statement_timeout`.
pub(super) const TIME_IS_UP: &str = "57014";
/// `connection_failure`.
const PEER_IS_DEAD: &str = "08006";
/// `admin_shutdown`.
const ENDED_BY_THE_POOL: &str = "57P01";
/// `program_limit_exceeded`.
const TOO_LARGE: &str = "54000";

/// Whether these words are ours, and not a server's.
pub(super) fn is_ours(error: &DbError) -> bool {
    error.routine() == Some(ROUTINE)
}

/// The driver's stream: it tells the line when there is nothing more to read.
#[derive(Debug)]
pub(super) struct Watched<S> {
    io: S,
    line: Arc<Line>,
    /// What the authentication is bound to, if that can be said.
    end_point: Option<Vec<u8>>,
    /// Boxed: most connections do not end like this.
    ended: Option<Box<Ended>>,
}

/// Why this side has ended a connection.
#[derive(Debug, Clone, Copy)]
enum Why {
    Timeout(OpTimeout),
    Silent(PeerSilent),
    Interrupted(Interrupted),
    TooLarge(TooLarge),
}

#[derive(Debug)]
struct Ended {
    why: Why,
    /// What is still to be read.
    words: Vec<u8>,
}

impl<S> Watched<S> {
    pub(super) fn new(io: S, line: &Arc<Line>, end_point: Option<Vec<u8>>) -> Self {
        Self { io, line: Arc::clone(line), end_point, ended: None }
    }

    /// It ends with this error. Whether there is something to say, to so many who wait for an answer:
    /// not in the middle of a message.
    fn ends(&mut self, error: &io::Error, waiting: impl FnOnce(&Line) -> usize) -> bool {
        let Some(why) = Why::of(error) else { return false };
        self.line.ends_here();
        let is_between = match why {
            // The piece that it came with is not handed out.
            Why::TooLarge(_) => self.line.was_between(),
            _ => self.line.is_between(),
        };
        let waiting = waiting(&self.line).min(MOST_TOLD);
        if is_between && waiting > 0 {
            self.ended = Some(Box::new(Ended { why, words: why.words().repeat(waiting) }));
        }
        self.ended.is_some()
    }

    /// An operation of the writing side.
    fn writes<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(&mut S, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let Some(ended) = &self.ended {
            // It was told to read first, and did not.
            return Poll::Ready(Err(ended.why.into()));
        }
        match write(&mut self.io, cx) {
            // Whoever has something written waits for its answer.
            Poll::Ready(Err(error)) if self.ends(&error, |line| line.owed().max(1)) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            written => written,
        }
    }
}

impl Ended {
    fn say(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        if self.words.is_empty() {
            return Err(self.why.into());
        }
        let count = self.words.len().min(buf.remaining());
        buf.put_slice(&self.words[..count]);
        self.words.drain(..count);
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ended.is_none() {
            match Pin::new(&mut this.io).poll_read(cx, buf) {
                Poll::Ready(Err(error)) if this.ends(&error, Line::owed) => {}
                polled => {
                    if polled.is_pending() {
                        this.line.read_all();
                    }
                    return polled;
                }
            }
        }
        Poll::Ready(this.ended.as_mut().map_or(Ok(()), |ended| ended.say(buf)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writes(cx, |io, cx| Pin::new(io).poll_write(cx, buf))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writes(cx, |io, cx| Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// It is below, where the pool can reach it: see [`NegotiatedConnect`](super::encryption::NegotiatedConnect).
impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Watched<S> {
    fn channel_binding(&self) -> ChannelBinding {
        match &self.end_point {
            Some(end_point) => ChannelBinding::tls_server_end_point(end_point.clone()),
            None => ChannelBinding::none(),
        }
    }
}

impl Why {
    fn of(error: &io::Error) -> Option<Self> {
        let timeout = OpTimeout::of(error).copied().map(Self::Timeout);
        let silent = || PeerSilent::of(error).copied().map(Self::Silent);
        let interrupted = || Interrupted::of(error).copied().map(Self::Interrupted);
        let too_large = || TooLarge::of(error).copied().map(Self::TooLarge);
        timeout.or_else(silent).or_else(interrupted).or_else(too_large)
    }

    /// An ErrorResponse, and the ReadyForQuery that makes it the whole of an answer (PostgreSQL's
    /// documentation, "Message Formats", "Error and Notice Message Fields").
    fn words(self) -> Vec<u8> {
        let code = match self {
            Self::Timeout(_) => TIME_IS_UP,
            Self::Silent(_) => PEER_IS_DEAD,
            Self::Interrupted(_) => ENDED_BY_THE_POOL,
            Self::TooLarge(_) => TOO_LARGE,
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

impl From<Why> for io::Error {
    fn from(why: Why) -> Self {
        match why {
            Why::Timeout(why) => why.into(),
            Why::Silent(why) => why.into(),
            Why::Interrupted(why) => why.into(),
            Why::TooLarge(why) => why.into(),
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

    /// Whose every operation has this end.
    #[derive(Debug, Clone, Copy)]
    struct Over(Why);

    impl AsyncRead for Over {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Ready(Err(self.0.into()))
        }
    }

    impl AsyncWrite for Over {
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

    fn silent() -> Why {
        let silent_for = Duration::from_nanos(3_499_999_999);
        Why::Silent(PeerSilent::new(silent_for, CloseReason::ProbeTimeout))
    }

    /// A line on which so many answers are owed.
    fn line(owed: usize, is_between: bool) -> Arc<Line> {
        let line = Line::new();
        line.scanned(owed, false, false);
        line.set_between(true, is_between);
        line
    }

    #[test]
    fn the_last_words_are_as_many_as_wait_and_the_end_comes_behind_them() {
        let mut stream = Watched::new(Over(silent()), &line(2, true), None);
        let mut read = Vec::new();
        let error = stream.read_to_end(&mut read).now_or_never().unwrap().unwrap_err();
        assert!(PeerSilent::of(&error).is_some(), "{error}");
        assert_eq!(read, silent().words().repeat(2));
        let text = String::from_utf8_lossy(&read);
        assert!(text.contains("C08006\0Mlivepool has ended the connection: peer silent for 3.5s"));
    }

    #[test]
    fn nothing_is_said_in_the_middle_of_a_message_or_to_nobody() {
        for line in [line(1, false), line(0, true)] {
            let mut stream = Watched::new(Over(silent()), &line, None);
            let error = stream.read(&mut [0; 64]).now_or_never().unwrap().unwrap_err();
            assert!(PeerSilent::of(&error).is_some() && line.is_ended_here(), "{error}");
        }
        // What is too large comes with a piece that is not handed out.
        let too_large = TooLarge::new(9, 8);
        let mut stream = Watched::new(Over(Why::TooLarge(too_large)), &line(1, false), None);
        assert!(stream.read(&mut [0; 64]).now_or_never().unwrap().unwrap() > 0);
    }

    #[test]
    fn whoever_cannot_write_is_told_to_read_and_then_that_it_is_over() {
        let timeout = OpTimeout::new(Operation::Write, Duration::from_secs(1), "timeouts.write");
        let mut stream = Watched::new(Over(Why::Timeout(timeout)), &line(0, true), None);
        assert!(stream.write(b"x").now_or_never().is_none());
        let mut words = [0; 512];
        let count = stream.read(&mut words).now_or_never().unwrap().unwrap();
        assert_eq!(words[..count], Why::Timeout(timeout).words());
        for error in [
            stream.read(&mut words).now_or_never().unwrap().unwrap_err(),
            stream.write(b"x").now_or_never().unwrap().unwrap_err(),
        ] {
            assert_eq!(OpTimeout::of(&error), Some(&timeout));
        }
    }
}

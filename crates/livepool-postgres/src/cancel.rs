//! Cancelling at the server.
//!
//! Who goes away from a query leaves it running: the server does not look at its client until it has
//! something to send. PostgreSQL takes a request to cancel over a connection of its own
//! ("Canceling Requests in Progress" in its chapter on the message flow).

use std::fmt;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::{Instant, timeout_at};
use tokio_postgres::tls::{ChannelBinding, TlsStream};

use super::encryption::{Encryption, NegotiatedConnect};
use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use livepool::event::CancelOutcome;
use livepool::protocol::{Linger, SideChannel, SidePermit, log_trouble};

/// A request to cancel stops one statement; the next one may have been sent before.
pub(super) const RETRY_INTERVAL: Duration = Duration::from_millis(250);
/// How long the place of a connection is kept whose statement does not end though the server was asked.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// The right to cancel what one connection is doing. One request at a time, and few at a time of all
/// connections of a pool.
#[derive(Clone)]
pub(super) struct Canceller(Arc<CancelState>);

struct CancelState {
    token: tokio_postgres::CancelToken,
    side: Option<SideChannel>,
    /// As the connection itself has it.
    encryption: Option<Encryption>,
    /// The number of the last request that the server took, in the hands of whoever makes the next.
    turn: Arc<Mutex<u64>>,
    /// How many were sent.
    sent: AtomicU64,
    /// How often the connection has come back.
    returns: AtomicU64,
    /// Its user has asked for one.
    was_requested: AtomicBool,
    /// One was sent, and nobody saw whether it was taken: it may still come, and hit whatever runs.
    is_unconfirmed: AtomicBool,
}

impl Canceller {
    pub(super) fn new(
        token: tokio_postgres::CancelToken,
        side: Option<SideChannel>,
        encryption: Option<Encryption>,
    ) -> Self {
        Self(Arc::new(CancelState {
            token,
            side,
            encryption,
            turn: Arc::default(),
            sent: AtomicU64::new(0),
            returns: AtomicU64::new(0),
            was_requested: AtomicBool::new(false),
            is_unconfirmed: AtomicBool::new(false),
        }))
    }

    /// Asks the server to cancel, and waits until it has passed that on: it closes the connection
    /// then. What ran has not necessarily stopped yet. False: `unless` was ready before its turn came.
    ///
    /// Whoever goes away leaves a request that was sent to a task: it ends within the time that making a
    /// connection has.
    pub(super) async fn cancel(&self, unless: impl Future<Output = ()>) -> io::Result<bool> {
        let inner = &self.0;
        let Some(side) = &inner.side else { return Err(io::ErrorKind::Unsupported.into()) };
        let (began, deadline) = (Instant::now(), side.deadline());
        let sent_before = inner.sent.load(SeqCst);
        let turn = async { (Arc::clone(&inner.turn).lock_owned().await, side.permit().await) };
        let (unless, turn) = (pin!(unless), pin!(turn));
        let (last, permit) = match timeout_at(deadline, select(unless, turn)).await {
            Ok(Either::Left(_)) => return Ok(false),
            Ok(Either::Right((turn, _))) => turn,
            Err(_) => {
                side.report_cancel(CancelOutcome::Timeout, began);
                return Err(io::ErrorKind::TimedOut.into());
            }
        };
        if *last > sent_before {
            // One that was sent after this was wanted has done it.
            return Ok(true);
        }
        let request = Arc::clone(inner).request(last, permit, began, deadline);
        tokio::spawn(request).await.map_err(io::Error::other)??;
        Ok(true)
    }

    /// Waits until no request is under way. Returns whether its user made one since the last time; an
    /// error, if one may still hit whoever has the connection next.
    pub(super) async fn settle(&self) -> io::Result<bool> {
        drop(self.0.turn.lock().await);
        match self.0.is_unconfirmed.load(SeqCst) {
            true => Err(io::ErrorKind::TimedOut.into()),
            false => Ok(self.0.was_requested.swap(false, SeqCst)),
        }
    }

    /// Its user has given it back. Returns whether he has cancelled something, perhaps this very moment.
    pub(super) fn note_return(&self) -> bool {
        self.0.returns.fetch_add(1, SeqCst);
        self.0.was_requested.load(SeqCst)
    }

    /// For its user.
    pub(super) fn token(&self) -> CancelToken {
        CancelToken { canceller: self.clone(), returns: self.0.returns.load(SeqCst) }
    }

    /// Has the server end what it still does for a connection that has ended. Until it has, and for so
    /// long, the place of the connection is not free.
    pub(super) async fn end(&self, linger: Linger) {
        let mut left = None;
        let mut deadline = None;
        loop {
            if let Err(error) = self.cancel(pending()).await {
                log_trouble(None, &error, "a query may still run at the server");
                return;
            }
            if left.is_none() {
                left = linger.closed().await;
                deadline = Some(Instant::now() + END_TIMEOUT);
            }
            let Some(left) = &mut left else { return };
            let is_late = || deadline.is_some_and(|at| at <= Instant::now());
            if left.end_within(RETRY_INTERVAL).await || is_late() {
                return;
            }
        }
    }
}

impl CancelState {
    async fn request(
        self: Arc<Self>,
        mut last: OwnedMutexGuard<u64>,
        permit: SidePermit,
        began: Instant,
        deadline: Instant,
    ) -> io::Result<()> {
        let Some(side) = &self.side else { return Ok(()) };
        let made = timeout_at(deadline, self.connect_and_send(side, &permit, deadline)).await;
        let (outcome, result) = match made {
            Ok(Ok(number)) => {
                *last = number;
                (CancelOutcome::Ok, Ok(()))
            }
            Ok(Err(error)) => (CancelOutcome::Failed, Err(error)),
            Err(_) => (CancelOutcome::Timeout, Err(io::ErrorKind::TimedOut.into())),
        };
        // The next one may begin before anybody is told.
        drop((last, permit));
        side.report_cancel(outcome, began);
        result
    }

    /// Returns the number it has.
    async fn connect_and_send(
        &self,
        side: &SideChannel,
        permit: &SidePermit,
        deadline: Instant,
    ) -> io::Result<u64> {
        let stream = side.connect(permit, deadline).await?;
        match &self.encryption {
            None => self.send_request(stream).await,
            Some(encryption) => {
                self.send_request(encryption.encrypt(side.peer_addr(), stream).await?).await
            }
        }
    }

    async fn send_request<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        mut stream: S,
    ) -> io::Result<u64> {
        let number = self.sent.fetch_add(1, SeqCst) + 1;
        self.is_unconfirmed.store(true, SeqCst);
        // The library ends its side then, and so do we not: a bouncer (PgBouncer 1.18) that has not passed
        // the request on takes that for the end of it. libpq waits as well.
        let asked = self.token.cancel_query_raw(KeepOpen(&mut stream), NegotiatedConnect).await;
        asked.map_err(io::Error::other)?;
        // It answers nothing, and closes in whichever way.
        let _ = stream.read(&mut [0; 1]).await;
        self.is_unconfirmed.store(false, SeqCst);
        Ok(number)
    }

    /// The library makes its errors itself: this is its one about a stream that fails so.
    async fn error(&self, error: io::Error) -> Result<(), tokio_postgres::Error> {
        self.token.cancel_query_raw(FailingStream(Some(error)), NegotiatedConnect).await
    }
}

/// The right to cancel what a connection does for its present user, from anywhere: see
/// [`Client::cancel_token`](super::Client::cancel_token).
///
/// ```no_run
/// # async fn f(client: &livepool_postgres::Client) -> Result<(), Box<dyn std::error::Error>> {
/// let token = client.cancel_token();
/// tokio::spawn(async move {
///     tokio::time::sleep(std::time::Duration::from_secs(3)).await;
///     token.cancel().await
/// });
/// let error = client.batch_execute("SELECT pg_sleep(60)").await.unwrap_err();
/// assert_eq!(error.code(), Some(&tokio_postgres::error::SqlState::QUERY_CANCELED));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct CancelToken {
    canceller: Canceller,
    /// How often the connection had come back when this was made.
    returns: u64,
}

impl CancelToken {
    /// Asks the server to cancel what it does for this connection now, and waits until it has taken that.
    /// Whether there was anything to cancel it does not say; what was cancelled fails with `57014`.
    ///
    /// The request goes over a connection of its own, made as those of the pool are and to the same
    /// address, `max_connecting` at a time of all connections of the pool. Requests for one
    /// connection that come together are one. When the connection has gone back to its pool, this does
    /// nothing: what runs there is somebody else's.
    ///
    /// # Errors
    ///
    /// If that connection cannot be made, or the server has not taken the request within
    /// `timeouts.connect`.
    ///
    /// # Cancel safety
    ///
    /// Dropped before its turn, nothing is sent; afterwards it is sent all the same.
    pub async fn cancel(&self) -> Result<(), tokio_postgres::Error> {
        let inner = &self.canceller.0;
        let is_stale = || inner.returns.load(SeqCst) != self.returns;
        if is_stale() {
            return Ok(());
        }
        // Before the look, as whoever gives it back looks afterwards.
        inner.was_requested.store(true, SeqCst);
        let is_stale = poll_fn(|_| if is_stale() { Poll::Ready(()) } else { Poll::Pending });
        match self.canceller.cancel(is_stale).await {
            Ok(_) => Ok(()),
            Err(error) => inner.error(error).await,
        }
    }

    /// As [`cancel`](Self::cancel). For code that was written for [`tokio_postgres::CancelToken`]: the
    /// request is encrypted as the connection is, whatever `tls` is.
    ///
    /// # Errors
    ///
    /// Those of [`cancel`](Self::cancel).
    ///
    /// # Cancel safety
    ///
    /// That of [`cancel`](Self::cancel).
    pub async fn cancel_query<T>(&self, tls: T) -> Result<(), tokio_postgres::Error> {
        drop(tls);
        self.cancel().await
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelToken").finish_non_exhaustive()
    }
}

/// A stream that is not shut down when it is told to be.
struct KeepOpen<'a, S>(&'a mut S);

impl<S: AsyncRead + Unpin> AsyncRead for KeepOpen<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for KeepOpen<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

/// Nobody logs in over it.
impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for KeepOpen<'_, S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

/// A stream that fails.
struct FailingStream(Option<io::Error>);

impl FailingStream {
    fn fail<T>(&mut self) -> Poll<io::Result<T>> {
        Poll::Ready(Err(self.0.take().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())))
    }
}

impl AsyncRead for FailingStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.fail()
    }
}

impl AsyncWrite for FailingStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.fail()
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.fail()
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.fail()
    }
}

impl TlsStream for FailingStream {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

//! Cancelling at the server.
//!
//! A query whose caller has gone goes on: the server does not look at its client until it has
//! something to send. PostgreSQL takes a request to cancel over a connection of its own ("Canceling
//! Requests in Progress" in its chapter on the message flow).
//!
//! No request reaches the next user's query. A return makes the last user's tokens stale
//! ([`Canceller::note_return`]). The reset of a connection that was cancelled
//! ([`reset`](super::reset::reset)) waits for the requests under way ([`Canceller::settle`]), gives the
//! connection up if one of them may still arrive, and makes a round trip that takes in one that was late.

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
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use livepool::event::CancelOutcome;
use livepool::protocol::{Linger, SideChannel, SidePermit, log_trouble};

/// A request to cancel stops one statement; the next one may have been sent before.
pub(super) const RETRY_INTERVAL: Duration = Duration::from_millis(250);
/// How long the place of a connection is kept whose statement does not end though the server was asked.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// The right to cancel the query of one connection. A connection has one request at a time, and a
/// pool `max_connecting` of them.
#[derive(Clone)]
pub(super) struct Canceller(Arc<CancelState>);

struct CancelState {
    token: tokio_postgres::CancelToken,
    side: Option<SideChannel>,
    /// The encryption of the connection itself.
    encryption: Option<Encryption>,
    /// The number of the last request that the server took, in the hands of whoever makes the next.
    turn: Arc<Mutex<u64>>,
    /// The number of requests that were sent.
    sent: AtomicU64,
    /// The number of times that the connection has come back to its pool.
    returns: AtomicU64,
    /// Whether the user of the connection has asked for a request since the last return.
    was_requested: AtomicBool,
    /// The number of requests that were sent and that nobody saw being taken: each may still hit the
    /// next query, whatever became of later ones.
    unconfirmed: AtomicUsize,
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
            unconfirmed: AtomicUsize::new(0),
        }))
    }

    /// Asks the server to cancel, and waits until the server has closed the request's connection,
    /// which it does after it has passed the request on. The query has not necessarily stopped yet.
    /// Returns false if `unless` was ready before the request's turn came.
    ///
    /// Dropped, the future leaves a request that was begun to a task, which ends within
    /// `timeouts.connect`.
    pub(super) async fn cancel(&self, unless: impl Future<Output = ()>) -> io::Result<bool> {
        let inner = &self.0;
        let Some(side) = &inner.side else { return Err(io::ErrorKind::Unsupported.into()) };
        let (began, deadline) = (Instant::now(), side.deadline());
        let sent_before = inner.sent.load(SeqCst);
        let turn = async { (Arc::clone(&inner.turn).lock_owned().await, side.permit().await) };
        let (mut unless, turn) = (pin!(unless), pin!(turn));
        let (last, permit) = match timeout_at(deadline, select(unless.as_mut(), turn)).await {
            Ok(Either::Left(_)) => return Ok(false),
            Ok(Either::Right((turn, _))) => turn,
            Err(_) => {
                side.report_cancel(CancelOutcome::Timeout, began);
                return Err(io::ErrorKind::TimedOut.into());
            }
        };
        // Looked at again with the turn in hand, which `settle` waits for: the connection may have come
        // back, and been settled, between the last look and the turn.
        if poll_fn(|cx| Poll::Ready(unless.as_mut().poll(cx).is_ready())).await {
            return Ok(false);
        }
        if *last > sent_before {
            // A request that was sent after this one was wanted has stopped the same query.
            return Ok(true);
        }
        let request = Arc::clone(inner).request(last, permit, began, deadline);
        tokio::spawn(request).await.map_err(io::Error::other)??;
        Ok(true)
    }

    /// The client library's error about a stream that fails with this one. No other code can make
    /// it.
    pub(super) async fn error(&self, error: io::Error) -> Result<(), tokio_postgres::Error> {
        self.0.error(error).await
    }

    /// Waits until no request is under way. Returns whether the connection's user made one since
    /// the last time; an error, if a request may still hit the next user's query.
    pub(super) async fn settle(&self) -> io::Result<bool> {
        // Whoever makes a request has the lock until the server has closed that connection.
        drop(self.0.turn.lock().await);
        match self.0.unconfirmed.load(SeqCst) > 0 {
            true => Err(io::ErrorKind::TimedOut.into()),
            false => Ok(self.0.was_requested.swap(false, SeqCst)),
        }
    }

    /// Counts a return to the pool, which makes all tokens stale. Returns whether the user has
    /// asked to cancel, perhaps this very moment.
    pub(super) fn note_return(&self) -> bool {
        self.0.returns.fetch_add(1, SeqCst);
        self.0.was_requested.load(SeqCst)
    }

    /// A token for the present user.
    pub(super) fn token(&self) -> CancelToken {
        CancelToken { canceller: self.clone(), returns: self.0.returns.load(SeqCst) }
    }

    /// Has the server end the query of a connection that has ended. Until then, and for 5 s at
    /// most, the place of the connection is not free.
    pub(super) async fn end(&self, linger: Linger) {
        let mut left = None;
        let mut deadline = None;
        loop {
            if let Err(error) = self.cancel(pending()).await {
                log_trouble(None, &error, "a query may still run at the server");
                return;
            }
            // The 5 s count from the first request that the server took.
            if left.is_none() {
                left = linger.closed().await;
                deadline = Some(Instant::now() + END_TIMEOUT);
            }
            let Some(left) = &mut left else { return };
            // Asked again, as a request stops one statement and the next may have been sent behind it.
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

    /// Sends a request over a connection of its own, and returns the request's number.
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
        // Until the server has closed: dropped in between, nobody knows when the request arrives.
        self.unconfirmed.fetch_add(1, SeqCst);
        // The library would end its side then. A bouncer (PgBouncer 1.18) that has not passed the request on
        // takes that for the end of the request. libpq waits as well.
        let asked = self.token.cancel_query_raw(KeepOpen(&mut stream), NegotiatedConnect).await;
        asked.map_err(io::Error::other)?;
        // The server answers nothing, and closes when it has passed the request on ("Canceling Requests in
        // Progress"). It may close in whichever way.
        let _ = stream.read(&mut [0; 1]).await;
        self.unconfirmed.fetch_sub(1, SeqCst);
        Ok(number)
    }

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
        // Before the look at `returns`, as a return counts first and looks at this afterwards: one of both
        // sees the other.
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
    /// The errors of [`cancel`](Self::cancel).
    ///
    /// # Cancel safety
    ///
    /// As [`cancel`](Self::cancel).
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

/// A request to cancel logs nobody in, so there is no channel binding.
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

#[cfg(test)]
mod tests {
    use livepool::Pool;
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::Postgres;

    /// A server that lets everybody in, and does with each request to cancel, of which the number is
    /// given, what it is told.
    async fn server<F>(on_cancel: impl Fn(usize, TcpStream) -> F + Send + 'static) -> String
    where
        F: Future<Output = ()> + Send,
    {
        const CANCEL_REQUEST: [u8; 4] = 80_877_102_u32.to_be_bytes();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut sessions, mut cancels) = (Vec::new(), 0);
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = [0; 8];
                stream.read_exact(&mut head).await.unwrap();
                if head[4..] == CANCEL_REQUEST {
                    on_cancel(cancels, stream).await;
                    cancels += 1;
                } else {
                    // AuthenticationOk, BackendKeyData, ReadyForQuery.
                    let hello = b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c\0\0\0\x01\0\0\0\x02Z\0\0\0\x05I";
                    stream.write_all(hello).await.unwrap();
                    sessions.push(stream);
                }
            }
        });
        format!("postgres://me@127.0.0.1:{port}/db?sslmode=disable")
    }

    fn pool(url: &str, connect: Duration) -> Pool<Postgres> {
        let postgres = Postgres::from_url(url).unwrap();
        let mut config = postgres.config();
        config.timeouts.connect = Some(connect);
        Pool::builder(config).protocol(postgres).build().unwrap()
    }

    #[tokio::test]
    async fn a_request_that_is_stale_when_its_turn_has_come_is_not_sent() {
        let sent = Arc::new(AtomicUsize::new(0));
        let counts = Arc::clone(&sent);
        let url = server(move |_, _| {
            counts.fetch_add(1, SeqCst);
            std::future::ready(())
        })
        .await;
        let pool = pool(&url, Duration::from_secs(5));
        let client = pool.get().await.unwrap();
        // The connection comes back between the look and the turn.
        let mut looks = 0;
        let unless = poll_fn(|_| {
            looks += 1;
            if looks == 1 { Poll::Pending } else { Poll::Ready(()) }
        });
        assert!(!client.session.canceller.cancel(unless).await.unwrap());
        assert_eq!(sent.load(SeqCst), 0);
    }

    #[tokio::test]
    async fn a_request_that_nobody_saw_arrive_is_not_forgotten_for_a_later_one() {
        // The first one stays on its way, the second is taken at once.
        let url = server(|number, stream| async move {
            if number == 0 {
                std::mem::forget(stream.into_std());
            }
        })
        .await;
        let pool = pool(&url, Duration::from_secs(2));
        let client = pool.get().await.unwrap();
        let canceller = &client.session.canceller;
        assert_eq!(canceller.cancel(pending()).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(canceller.cancel(pending()).await.unwrap());
        assert_eq!(canceller.settle().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}

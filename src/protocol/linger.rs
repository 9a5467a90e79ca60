//! [`Linger`]: what is left of a connection that was closed while its peer worked for it.
//!
//! A peer does not look at its client until it has something to send: a connection that is closed in the
//! middle of a request goes on there, and if its place in the pool were free at once, the peer would work
//! for more than the pool may have. So a protocol that can ask the peer to stop keeps the place, and the
//! socket by which it sees that the peer has closed, until that is so.

use std::any::Any;
use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::ready;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use crate::deadline::Deadline;
use crate::event::CloseReason;
use crate::net::Io;
use crate::stream::Stream;
use crate::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The right of a connection to exist.
pub(crate) type Place = Box<dyn Any + Send>;

/// Keeps the slot and the socket of a connection that is closed while its peer still works for it, for
/// as long as this is held. Get one with [`Wire::linger`](super::Wire::linger).
///
/// For protocols that can ask a peer to stop (over a [`SideChannel`](super::SideChannel), say): a peer
/// does not look at its client before it has something to send, and a slot that is free at once has the
/// peer work for more than the pool may have.
///
/// ```no_run
/// use std::time::Duration;
/// use livepool::protocol::{Linger, SideChannel};
///
/// # async fn cancel(_: &SideChannel) {}
/// /// The end of a client's task.
/// async fn end(side: SideChannel, linger: Linger) {
///     let Some(mut socket) = linger.closed().await else { return };
///     // As long as the peer has not closed, and no more than three times.
///     for _ in 0..3 {
///         cancel(&side).await;
///         if socket.end_within(Duration::from_millis(250)).await {
///             return;
///         }
///     }
/// }
/// ```
pub struct Linger(pub(super) Arc<Lingering>);

/// The remains of one connection, where its protocol asks for them.
#[derive(Default)]
pub(crate) struct Lingering {
    /// Things are only moved in and out under this lock; nothing is dropped or called.
    left: Mutex<Left>,
    news: Notify,
}

#[derive(Default)]
struct Left {
    state: LingerState,
    stream: Option<Box<Stream>>,
    place: Option<Place>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum LingerState {
    /// The connection is open.
    #[default]
    Open,
    /// It was closed, and its peer worked for it.
    Kept,
    /// There is nothing to keep, or nobody who keeps it.
    Over,
}

/// Whether a connection that ends so keeps its place until its peer has stopped: not if the peer itself
/// ended it, or if something speaks against the peer. Then another one is needed now.
pub(super) fn keeps_its_place(reason: CloseReason) -> bool {
    matches!(
        reason,
        CloseReason::OpTimeout
            | CloseReason::TooLarge
            | CloseReason::ResetFailed
            | CloseReason::HookFailed
            | CloseReason::Cancelled
            | CloseReason::Unfinished
            | CloseReason::NotReusable
            | CloseReason::Panicked
            | CloseReason::Discarded
            // A bouncer forgets who has closed, and with it what could be stopped.
            | CloseReason::PoolClosed
    )
}

impl Lingering {
    /// The connection is closed. Returns whether what it leaves behind is kept.
    pub(super) fn begin(&self) -> bool {
        let mut left = self.lock();
        let begins = left.state == LingerState::Open;
        if begins {
            left.state = LingerState::Kept;
        }
        begins
    }

    /// The connection ended in another way.
    pub(super) fn pass_if_open(&self) {
        if self.lock().state == LingerState::Open {
            self.pass();
        }
    }

    /// Leaves nothing behind.
    pub(crate) fn pass(&self) {
        let left = {
            let mut left = self.lock();
            std::mem::replace(&mut *left, Left { state: LingerState::Over, ..Left::default() })
        };
        drop(left);
        self.news.notify_waiters();
    }

    /// The stream of the connection, if it is kept.
    pub(super) fn take_stream(&self, stream: Box<Stream>) {
        let unwanted = {
            let mut left = self.lock();
            match left.state {
                LingerState::Kept => left.stream.replace(stream),
                LingerState::Open | LingerState::Over => Some(stream),
            }
        };
        drop(unwanted);
        self.news.notify_waiters();
    }

    /// The place of the connection, if it is kept.
    pub(crate) fn take_place(&self, place: Place) {
        let unwanted = {
            let mut left = self.lock();
            match left.state {
                LingerState::Kept => left.place.replace(place),
                LingerState::Open | LingerState::Over => Some(place),
            }
        };
        drop(unwanted);
        self.news.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Left> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Linger {
    /// Waits until the connection is closed. Returns its socket, whose slot is kept with it; `None` if
    /// nothing was owed on it, or if its peer is gone or needs another connection at once.
    ///
    /// # Cancel safety
    ///
    /// No remains are lost.
    pub async fn closed(&self) -> Option<LingeringSocket> {
        loop {
            let mut news = pin!(self.0.news.notified());
            news.as_mut().enable();
            {
                let mut left = self.0.lock();
                match (left.state, left.stream.take(), left.place.take()) {
                    (LingerState::Over, ..) => return None,
                    (_, Some(stream), Some(place)) => {
                        return Some(LingeringSocket {
                            stream,
                            has_ended_ours: false,
                            _place: place,
                        });
                    }
                    (_, stream, place) => (left.stream, left.place) = (stream, place),
                }
            }
            news.await;
        }
    }
}

impl Drop for Linger {
    fn drop(&mut self) {
        self.0.pass();
    }
}

/// The socket of a connection that was closed while its peer worked for it, and its slot in the pool.
/// Dropping it closes the one and frees the other. Get one with [`Linger::closed`], where there is an
/// example.
///
/// ```
/// use std::time::Duration;
/// use livepool::protocol::LingeringSocket;
///
/// async fn wait(mut socket: LingeringSocket) {
///     // After the peer was asked to stop: it closes when it has.
///     let has_closed = socket.end_within(Duration::from_secs(5)).await;
///     println!("closed by its peer: {has_closed}");
/// }
/// ```
// In this order, the socket is closed first.
pub struct LingeringSocket {
    stream: Box<Stream>,
    has_ended_ours: bool,
    _place: Place,
}

impl LingeringSocket {
    /// Says that nothing more comes from here, and takes in whatever still comes from there. Returns
    /// whether the peer has closed within this time.
    ///
    /// # Cancel safety
    ///
    /// The call may be made again.
    pub async fn end_within(&mut self, limit: Duration) -> bool {
        Deadline::after(Some(limit)).run(self.end()).await.is_ok()
    }

    async fn end(&mut self) {
        poll_fn(|cx| {
            let io: &mut Io = self.stream.io_mut();
            if !self.has_ended_ours {
                // A socket that is not connected any more says so when it is read.
                let _ = ready!(Pin::new(&mut *io).poll_shutdown(cx));
                self.has_ended_ours = true;
            }
            loop {
                let mut space = [0; 4096];
                let mut space = ReadBuf::new(&mut space);
                match ready!(Pin::new(&mut *io).poll_read(cx, &mut space)) {
                    Ok(()) if !space.filled().is_empty() => {}
                    Ok(()) | Err(_) => return std::task::Poll::Ready(()),
                }
            }
        })
        .await;
    }
}

impl fmt::Debug for Linger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Linger").field(&self.0).finish()
    }
}

impl fmt::Debug for LingeringSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LingeringSocket").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl fmt::Debug for Lingering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lingering").field("state", &self.lock().state).finish_non_exhaustive()
    }
}

//! Parking: an idle stream leaves a small waker, its sentinel, in tokio's own reader slot. The waker is
//! made in `pool/conn/entry.rs`; whom it wakes looks in `pool/health/checks.rs`.
//!
//! tokio has every socket registered with the reactor anyway. Leaving a waker of ours there costs
//! no system call, no second epoll and no task per connection, and it fires once on FIN, RST,
//! half-close, keepalive death and bytes nobody asked for. What fires it only means *look*: the
//! verdict is the peek.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::Liveness;
use crate::event::CloseReason;
use crate::net::Io;

/// How parking a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parked {
    /// The waker is in place.
    Waiting,
    /// Something kept raising readiness; the waker may not be in place and the stream has to be
    /// looked at again.
    Restless,
    /// The stream is not fit to wait, for this reason.
    Unfit(CloseReason),
}

/// Leaves `waker` in the stream's reader slot, to be woken when anything happens to the socket.
///
/// Readiness left over from the last read is cleared first, by a peek through tokio: a raw peek
/// would leave it set. At most twice, so that a peer that keeps sending cannot hold us here.
pub(crate) fn park(io: &Io, waker: &Waker) -> Parked {
    let mut cx = Context::from_waker(waker);
    for _ in 0..2 {
        match read_ready(io, &mut cx) {
            Poll::Pending => return Parked::Waiting,
            Poll::Ready(Err(_)) => return Parked::Unfit(CloseReason::RuntimeGone),
            Poll::Ready(Ok(())) => {
                if let Liveness::Dead(reason) = Liveness::of_peek(io.try_io_peek()) {
                    return Parked::Unfit(reason);
                }
            }
        }
    }
    Parked::Restless
}

/// Whether the runtime that drives this stream has ended. Such a socket looks healthy to a peek
/// and fails every read and write. Also leaves `waker` in the slot, instead of what was parked there.
pub(crate) fn runtime_gone(io: &Io, waker: &Waker) -> bool {
    let mut cx = Context::from_waker(waker);
    matches!(read_ready(io, &mut cx), Poll::Ready(Err(_)))
}

/// `poll_read_ready`, but unconstrained: with the task's coop budget spent, tokio returns Pending
/// without registering the waker, and every later event would be lost.
fn read_ready(io: &Io, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
    let ready = std::future::poll_fn(|cx| io.poll_read_ready(cx));
    Pin::new(&mut tokio::task::unconstrained(ready)).poll(cx)
}

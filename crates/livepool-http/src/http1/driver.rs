//! [`HyperDriver`]: hyper's side of a connection, which moves only while a caller polls it.
//!
//! No task reads a connection that nobody uses: that is the pool's own sentinel's business. And a
//! request whose caller has gone stands still, until its connection is closed.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;
use hyper::client::conn::http1::Connection;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::upload::Upload;
use crate::request_body::RequestBody;
use livepool::protocol::Wire;
use std::sync::Arc;

type HyperConnection = Connection<TokioIo<HyperIo>, RequestBody>;

/// hyper's side of one connection.
pub(super) struct HyperDriver {
    state: PollState,
    error: Option<hyper::Error>,
    relay: Arc<RelayWaker>,
    /// The waker that hyper is polled with: that of `relay`.
    waker: Waker,
}

/// Wakes the task that works with the connection now. hyper keeps the waker it was polled with last
/// in several places, and wakes it when the next request comes, and when the body of an answer is
/// dropped: by then that task is a stranger, or is running.
#[derive(Default)]
struct RelayWaker(AtomicWaker);

impl Wake for RelayWaker {
    fn wake(self: Arc<Self>) {
        self.0.wake();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.wake();
    }
}

enum PollState {
    Running(Box<HyperConnection>),
    /// hyper has ended the connection. The wire is kept: dropped, it would name itself as the
    /// reason.
    Over {
        _io: TokioIo<HyperIo>,
    },
    Taken,
}

impl HyperDriver {
    pub(super) fn new(connection: HyperConnection) -> Self {
        let relay = Arc::<RelayWaker>::default();
        let waker = Waker::from(Arc::clone(&relay));
        Self { state: PollState::Running(Box::new(connection)), error: None, relay, waker }
    }

    /// Lets hyper read and write. A caller that waits for something from hyper has to look again
    /// afterwards.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        let PollState::Running(connection) = &mut self.state else { return };
        // Before the poll: a wake during it must reach this task.
        self.relay.0.register(cx.waker());
        let mut cx = Context::from_waker(&self.waker);
        let Poll::Ready(result) = Pin::new(&mut **connection).poll(&mut cx) else { return };
        // hyper reports an error here only if no request is waiting for it.
        self.error = result.err();
        if let PollState::Running(connection) = std::mem::replace(&mut self.state, PollState::Taken)
        {
            // A request that hyper did not begin is given back by this.
            self.state = PollState::Over { _io: connection.into_parts().io };
        }
    }

    /// Forgets the task that was polling.
    pub(super) fn clear_waker(&self) {
        // An idle connection must not keep the task of its last user alive.
        drop(self.relay.0.take());
    }

    /// Whether hyper is done with the connection: nothing can be asked here again.
    pub(super) fn is_over(&self) -> bool {
        !matches!(self.state, PollState::Running(_))
    }

    /// The error that hyper ended with and reported to nobody else.
    pub(super) fn error(&self) -> Option<&hyper::Error> {
        self.error.as_ref()
    }
}

/// The stream that hyper reads and writes. The stream records how far a request has been sent, and
/// ignores a shutdown.
pub(super) struct HyperIo {
    pub(super) wire: Wire,
    pub(super) upload: Arc<Upload>,
}

impl AsyncRead for HyperIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_read(cx, buf)
    }
}

impl AsyncWrite for HyperIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.wire).poll_write(cx, buf);
        if let Poll::Ready(Ok(1..)) = result {
            self.upload.note_write();
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.wire).poll_flush(cx);
        if let Poll::Ready(Ok(())) = result {
            self.upload.note_flush();
        }
        result
    }

    // hyper shuts a wire down that is not to be used again. The pool closes it, for its own reason.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

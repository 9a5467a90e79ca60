//! [`Io`]: a connected socket, TCP or Unix.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

use super::PeerAddr;
use crate::sys::peek::{self, Peeked};

/// A connected socket.
#[derive(Debug)]
pub(crate) enum Io {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

/// The same call on a socket of either kind.
macro_rules! either {
    ($io:expr, $socket:ident => $call:expr) => {
        match $io {
            Io::Tcp($socket) => $call,
            #[cfg(unix)]
            Io::Unix($socket) => $call,
        }
    };
}

impl Io {
    /// Polls tokio's readiness: the reactor has seen bytes, an end or an error since readiness was
    /// last cleared. An error of the poll itself means that the runtime of this socket has ended.
    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, socket => socket.poll_read_ready(cx))
    }

    /// Peeks straight at the kernel, whose answer is the verdict. Tokio's readiness stays as it is.
    #[inline(always)]
    pub(crate) fn peek(&self) -> Peeked {
        peek::peek(&self.sock_ref())
    }

    /// Peeks as [`peek`](Self::peek) does, and copies the bytes that wait.
    pub(crate) fn peek_bytes(&self, bytes: &mut [u8; 256]) -> (Peeked, usize) {
        peek::peek_bytes(&self.sock_ref(), bytes)
    }

    /// Peeks and clears tokio's readiness when nothing is there, so that the next
    /// [`poll_read_ready`](Self::poll_read_ready) waits. To be called only after that said "ready":
    /// without readiness the kernel is not asked, and the answer is `Empty`.
    pub(crate) fn try_io_peek(&self) -> Peeked {
        let once = || peek::recv(&self.sock_ref());
        Peeked::of(either!(self, socket => socket.try_io(Interest::READABLE, once)))
    }

    /// The socket, to set or read its options.
    pub(crate) fn sock_ref(&self) -> SockRef<'_> {
        either!(self, socket => SockRef::from(socket))
    }

    /// Another handle to the same socket, with a place in the reactor of its own.
    pub(crate) fn twin(&self) -> io::Result<Self> {
        let socket = self.sock_ref().try_clone()?;
        Ok(match self {
            Self::Tcp(_) => Self::Tcp(TcpStream::from_std(socket.into())?),
            #[cfg(unix)]
            Self::Unix(_) => Self::Unix(UnixStream::from_std(socket.into())?),
        })
    }

    /// The address of our own end.
    pub(crate) fn local_addr(&self) -> io::Result<PeerAddr> {
        match self {
            Self::Tcp(socket) => socket.local_addr().map(PeerAddr::Tcp),
            #[cfg(unix)]
            Self::Unix(socket) => socket.local_addr().map(|addr| unix_addr(&addr)),
        }
    }

    /// The address of the other end.
    pub(crate) fn peer_addr(&self) -> io::Result<PeerAddr> {
        match self {
            Self::Tcp(socket) => socket.peer_addr().map(PeerAddr::Tcp),
            #[cfg(unix)]
            Self::Unix(socket) => socket.peer_addr().map(|addr| unix_addr(&addr)),
        }
    }
}

/// The path, or an empty one for an unnamed (or abstract) address.
#[cfg(unix)]
fn unix_addr(addr: &tokio::net::unix::SocketAddr) -> PeerAddr {
    PeerAddr::Unix(addr.as_pathname().unwrap_or("".as_ref()).to_owned())
}

#[cfg(unix)]
impl std::os::fd::AsFd for Io {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        either!(self, socket => socket.as_fd())
    }
}

impl AsyncRead for Io {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self.get_mut(), socket => Pin::new(socket).poll_read(cx, buf))
    }
}

impl AsyncWrite for Io {
    #[inline]
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), socket => Pin::new(socket).poll_write(cx, buf))
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), socket => Pin::new(socket).poll_flush(cx))
    }

    #[inline]
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), socket => Pin::new(socket).poll_shutdown(cx))
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), socket => Pin::new(socket).poll_write_vectored(cx, bufs))
    }

    #[inline]
    fn is_write_vectored(&self) -> bool {
        either!(self, socket => socket.is_write_vectored())
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn pair() -> (Io, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Io::Unix(ours), theirs)
    }

    #[tokio::test]
    async fn a_peek_tells_silence_from_bytes_from_an_end() {
        let (mut io, mut peer) = pair();
        assert!(matches!(io.peek(), Peeked::Empty));
        peer.write_all(b"abc").await.unwrap();
        assert!(matches!(io.peek(), Peeked::Bytes));
        assert!(matches!(io.peek(), Peeked::Bytes), "they stay where they are");
        drop(peer);
        assert!(matches!(io.peek(), Peeked::Bytes), "the bytes come before the end");
        io.read_exact(&mut [0; 3]).await.unwrap();
        assert!(matches!(io.peek(), Peeked::Closed));
    }

    #[tokio::test]
    async fn a_peek_through_tokio_clears_readiness_when_nothing_is_there() {
        let (io, mut peer) = pair();
        peer.write_all(b"a").await.unwrap();
        poll_fn(|cx| io.poll_read_ready(cx)).await.unwrap();
        assert!(matches!(io.try_io_peek(), Peeked::Bytes));
        let mut byte = [std::mem::MaybeUninit::uninit(); 1];
        assert_eq!(io.sock_ref().recv(&mut byte).unwrap(), 1, "behind tokio's back");
        assert!(matches!(io.try_io_peek(), Peeked::Empty));
        let ready = poll_fn(|cx| Poll::Ready(io.poll_read_ready(cx).is_ready())).await;
        assert!(!ready);
        peer.write_all(b"b").await.unwrap();
        poll_fn(|cx| io.poll_read_ready(cx)).await.unwrap();
    }
}

//! [`WireStream`]: the bytes of a pooled connection, in the hands of a caller.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Wire;
use crate::event::ConnId;
use crate::net::PeerAddr;

/// The bytes of a pooled connection, for callers to read and write.
///
/// A `WireStream` is a [`Wire`] without anything that is for a protocol to decide: a caller who has
/// it for a while cannot change how the connection is judged for those who have it later. Made of a
/// wire with `into()` by protocols whose clients are bytes, as that of `livepool-tls` is.
///
/// ```
/// use livepool::protocol::{Wire, WireStream};
///
/// /// What a protocol whose clients are bytes hands out.
/// fn client(wire: Wire) -> WireStream {
///     wire.into()
/// }
/// ```
pub struct WireStream {
    wire: Wire,
    alpn: Option<Box<[u8]>>,
}

impl WireStream {
    /// The connection's number, as in events and logs.
    pub fn id(&self) -> ConnId {
        self.wire.id()
    }

    /// The address at the other end.
    pub fn peer_addr(&self) -> &PeerAddr {
        self.wire.peer_addr()
    }

    /// The name in the pool's `upstream` under which that address was found; `None` where it was an
    /// address from the start.
    pub fn host(&self) -> Option<&str> {
        self.wire.host()
    }

    /// The protocol that was agreed on with the server (ALPN), if one was.
    pub fn alpn_protocol(&self) -> Option<&[u8]> {
        self.alpn.as_deref()
    }

    /// The same, after this protocol was agreed on with the server (ALPN). Default: none was.
    #[must_use]
    pub fn with_alpn_protocol(self, alpn: Option<Box<[u8]>>) -> Self {
        Self { alpn, ..self }
    }

    pub(super) fn wire(&self) -> &Wire {
        &self.wire
    }
}

impl From<Wire> for WireStream {
    fn from(wire: Wire) -> Self {
        Self { wire, alpn: None }
    }
}

impl AsyncRead for WireStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_read(cx, buf)
    }
}

impl AsyncWrite for WireStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(cx)
    }
}

impl fmt::Debug for WireStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WireStream")
            .field("id", &self.id())
            .field("peer", self.peer_addr())
            .finish_non_exhaustive()
    }
}

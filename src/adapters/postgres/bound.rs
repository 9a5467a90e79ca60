//! [`Bound`]: a stream that is encrypted already, as the client library is told.
//!
//! It asks its TLS what the authentication is to be bound to. Ours is below it, where the pool can reach
//! it; so the library is told that this is TLS which is agreed on without a question.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::Config;
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

/// Agrees to what is done already.
pub(super) struct Already {
    is_encrypted: bool,
    end_point: Option<Vec<u8>>,
}

impl Already {
    pub(super) fn agreed(is_encrypted: bool, end_point: Option<Vec<u8>>) -> Self {
        Self { is_encrypted, end_point }
    }

    /// Has the library ask nobody.
    pub(super) fn tell(&self, config: &mut Config) {
        if self.is_encrypted {
            config.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
        } else {
            config.ssl_mode(SslMode::Disable);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsConnect<S> for Already {
    type Stream = Bound<S>;
    type Error = Infallible;
    type Future = Ready<Result<Bound<S>, Infallible>>;

    fn connect(self, io: S) -> Self::Future {
        ready(Ok(Bound { io, end_point: self.end_point }))
    }
}

/// See above.
#[derive(Debug)]
pub(super) struct Bound<S> {
    io: S,
    end_point: Option<Vec<u8>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Bound<S> {
    fn channel_binding(&self) -> ChannelBinding {
        match &self.end_point {
            Some(end_point) => ChannelBinding::tls_server_end_point(end_point.clone()),
            None => ChannelBinding::none(),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bound<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

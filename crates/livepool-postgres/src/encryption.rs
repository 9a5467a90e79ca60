//! Whether a connection is encrypted, which client and server agree on before anything else.
//!
//! Without the feature `tls` nothing is encrypted, and what requires it is refused.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;

use tokio_postgres::Config;
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::tls::{TlsConnect, TlsStream};

use super::error::Error;
use livepool::net::PeerAddr;
use livepool::protocol::Wire;
#[cfg(feature = "tls")]
use {
    super::channel_binding,
    livepool::protocol::Escaped,
    livepool_tls::Tls,
    std::time::Duration,
    tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    tokio::time::timeout,
};

/// The SSLRequest message: its length and, where others have a version, the number 1234.5679.
#[cfg(feature = "tls")]
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// The time for the text of an error that is the answer to an SSLRequest. A server sends the text with the
/// byte that announces it, or right after.
// Short, as nobody knows yet who is at the other end.
#[cfg(feature = "tls")]
const ERROR_TEXT_TIMEOUT: Duration = Duration::from_millis(100);

/// The encryption that the URL and the pool's owner demand.
#[derive(Debug, Clone)]
pub(super) struct TlsPolicy {
    pub(super) mode: SslMode,
    #[cfg(feature = "tls")]
    pub(super) negotiation: SslNegotiation,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<Tls>,
    /// The name that the certificate must be for, where the server was dialed by its address.
    #[cfg(feature = "tls")]
    pub(super) name: Option<String>,
}

/// A wire on which client and server have agreed.
pub(super) struct Negotiated {
    pub(super) wire: Wire,
    /// The encryption of the wire; `None` in clear.
    pub(super) encryption: Option<Encryption>,
    /// The channel binding data of the server's certificate, if its signature has one hash.
    pub(super) end_point: Option<Vec<u8>>,
}

/// The encryption of one connection. A request to cancel is encrypted with it as well.
#[derive(Debug, Clone)]
pub(super) struct Encryption {
    #[cfg(feature = "tls")]
    tls: Tls,
    #[cfg(feature = "tls")]
    host: Option<String>,
    #[cfg(feature = "tls")]
    is_direct: bool,
    #[cfg(not(feature = "tls"))]
    never: Infallible,
}

impl TlsPolicy {
    /// Encrypts the wire, if the policy demands it and the server agrees.
    #[cfg(feature = "tls")]
    pub(super) async fn negotiate(&self, mut wire: Wire) -> Result<Negotiated, Error> {
        let is_local = matches!(wire.peer_addr(), PeerAddr::Unix(_));
        let tls = match (self.mode, &self.tls) {
            (SslMode::Disable, _) => return Ok(Negotiated::in_clear(wire)),
            // A server has no TLS on a Unix socket, and nobody is in between.
            (SslMode::Prefer, _) if is_local => return Ok(Negotiated::in_clear(wire)),
            (SslMode::Prefer, None) => {
                wire.report_unencrypted(false);
                return Ok(Negotiated::in_clear(wire));
            }
            // A mode that the library adds is taken for the strictest one that is known.
            (_, None) => return Err(Error::NoTls),
            (_, Some(tls)) => tls,
        };
        let is_direct = self.negotiation == SslNegotiation::Direct;
        if !is_direct && !request_tls(&mut wire).await.map_err(Error::Tls)? {
            if self.mode != SslMode::Prefer {
                return Err(Error::NoTls);
            }
            wire.report_unencrypted(true);
            return Ok(Negotiated::in_clear(wire));
        }
        // A client that does not ask has to name its protocol in ALPN (PostgreSQL 17, "direct SSL").
        let tls = if is_direct { tls.for_protocol(b"postgresql") } else { tls.clone() };
        let host = wire.host().map(ToOwned::to_owned).or_else(|| self.name.clone());
        let (wire, certificate) =
            tls.connect_to(host.as_deref(), wire).await.map_err(Error::Tls)?;
        let end_point =
            certificate.and_then(|certificate| channel_binding::end_point(&certificate));
        Ok(Negotiated { wire, encryption: Some(Encryption { tls, host, is_direct }), end_point })
    }

    /// Refuses what has to be encrypted.
    #[cfg(not(feature = "tls"))]
    pub(super) async fn negotiate(&self, wire: Wire) -> Result<Negotiated, Error> {
        match self.mode {
            SslMode::Disable => {}
            SslMode::Prefer if matches!(wire.peer_addr(), PeerAddr::Unix(_)) => {}
            SslMode::Prefer => wire.report_unencrypted(false),
            // A mode that the library adds is taken for the strictest one that is known.
            _ => return Err(Error::NoTls),
        }
        Ok(Negotiated::in_clear(wire))
    }
}

impl Negotiated {
    fn in_clear(wire: Wire) -> Self {
        Self { wire, encryption: None, end_point: None }
    }
}

impl Encryption {
    /// Encrypts another connection to the same server.
    #[cfg(feature = "tls")]
    pub(super) async fn encrypt<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        peer: &PeerAddr,
        mut stream: S,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + use<S>> {
        if !self.is_direct && !request_tls(&mut stream).await? {
            return Err(io::Error::other("the server does not offer TLS any more"));
        }
        self.tls.encrypt(self.host.as_deref(), peer, stream).await
    }

    #[cfg(not(feature = "tls"))]
    pub(super) async fn encrypt<S>(&self, _: &PeerAddr, _: S) -> io::Result<S> {
        match self.never {}
    }
}

/// Sends an SSLRequest; returns whether the server agrees to TLS.
///
/// # Errors
///
/// With any answer but yes and no, after which nothing may be said in clear.
#[cfg(feature = "tls")]
async fn request_tls<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> io::Result<bool> {
    stream.write_all(&SSL_REQUEST).await?;
    stream.flush().await?;
    // One byte and no more: the bytes behind it belong to TLS.
    match stream.read_u8().await? {
        b'S' => Ok(true),
        b'N' => Ok(false),
        // A server that cannot start a process says an error, or one that is no PostgreSQL.
        b'E' => Err(read_refusal(stream).await),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the server answered neither yes nor no when it was asked for TLS",
        )),
    }
}

#[cfg(feature = "tls")]
async fn read_refusal<S: AsyncRead + Unpin>(stream: &mut S) -> io::Error {
    let mut space = [0; 512];
    let read = timeout(ERROR_TEXT_TIMEOUT, stream.read(&mut space)).await;
    let count = read.unwrap_or(Ok(0)).unwrap_or(0);
    let text = space[..count].split(|byte| *byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    let text = match text.trim() {
        "" => "(no text)",
        text => text,
    };
    let error =
        format!("the server answered with an error when it was asked for TLS: {}", Escaped(&text));
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// The connector for a stream on which client and server have agreed already.
///
/// The client library asks its TLS for the channel binding data. The pool's TLS lies below the client
/// library, where the pool can reach the socket. So the library is told that a stream is encrypted without
/// a request, and asks the stream itself.
pub(super) struct NegotiatedConnect;

impl NegotiatedConnect {
    /// Keeps the library from sending an SSLRequest of its own.
    pub(super) fn configure(is_encrypted: bool, config: &mut Config) {
        if is_encrypted {
            config.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
        } else {
            config.ssl_mode(SslMode::Disable);
        }
    }
}

impl<S: TlsStream + Unpin> TlsConnect<S> for NegotiatedConnect {
    type Stream = S;
    type Error = Infallible;
    type Future = Ready<Result<S, Infallible>>;

    fn connect(self, io: S) -> Self::Future {
        ready(Ok(io))
    }
}

//! Whether a connection is encrypted, which client and server agree on before anything else.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_postgres::config::{SslMode, SslNegotiation};

use super::binding;
use super::error::Error;
use livepool::net::PeerAddr;
use livepool::protocol::Escaped;
use livepool::protocol::Wire;
use livepool_tls::Tls;

/// Asks for TLS: a length and a number that is no version.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// What is done about TLS.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) mode: SslMode,
    pub(super) negotiation: SslNegotiation,
    pub(super) tls: Option<Tls>,
    /// The name that the certificate must be for, where it was not found by that name.
    pub(super) name: Option<String>,
}

/// A wire on which client and server have agreed.
pub(super) struct Agreed {
    pub(super) wire: Wire,
    /// How it is encrypted, if it is.
    pub(super) encryption: Option<Encryption>,
    /// What the authentication is bound to, if that can be said.
    pub(super) end_point: Option<Vec<u8>>,
}

/// How one connection is encrypted; another one to the same server can be as well.
#[derive(Debug, Clone)]
pub(super) struct Encryption {
    tls: Tls,
    host: Option<String>,
    is_direct: bool,
}

impl Wanted {
    /// Encrypts the wire, if that is wanted and the server agrees.
    pub(super) async fn begin(&self, mut wire: Wire) -> Result<Agreed, Error> {
        let is_local = matches!(wire.peer_addr(), PeerAddr::Unix(_));
        let tls = match (self.mode, &self.tls) {
            (SslMode::Disable, _) => return Ok(Agreed::plain(wire)),
            // A server has none there, and nobody is in between.
            (SslMode::Prefer, _) if is_local => return Ok(Agreed::plain(wire)),
            (SslMode::Prefer, None) => {
                wire.report_unencrypted(false);
                return Ok(Agreed::plain(wire));
            }
            // Whatever the library adds demands as much as the strictest that is known.
            (_, None) => return Err(Error::NoTls),
            (_, Some(tls)) => tls,
        };
        let is_direct = self.negotiation == SslNegotiation::Direct;
        if !is_direct && !agree(&mut wire).await.map_err(Error::Tls)? {
            if self.mode != SslMode::Prefer {
                return Err(Error::NoTls);
            }
            wire.report_unencrypted(true);
            return Ok(Agreed::plain(wire));
        }
        // Who comes without asking has to say what for (PostgreSQL 17, "direct SSL").
        let tls = if is_direct { tls.for_protocol(b"postgresql") } else { tls.clone() };
        let host = wire.host().map(ToOwned::to_owned).or_else(|| self.name.clone());
        let (wire, certificate) =
            tls.connect_to(host.as_deref(), wire).await.map_err(Error::Tls)?;
        let end_point = certificate.and_then(|certificate| binding::end_point(&certificate));
        Ok(Agreed { wire, encryption: Some(Encryption { tls, host, is_direct }), end_point })
    }
}

impl Agreed {
    fn plain(wire: Wire) -> Self {
        Self { wire, encryption: None, end_point: None }
    }
}

impl Encryption {
    /// Encrypts another connection to the same server.
    pub(super) async fn encrypt<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        peer: &PeerAddr,
        mut stream: S,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + use<S>> {
        if !self.is_direct && !agree(&mut stream).await? {
            return Err(io::Error::other("the server does not offer TLS any more"));
        }
        self.tls.encrypt(self.host.as_deref(), peer, stream).await
    }
}

/// Asks for TLS; returns whether the server agrees. Anything but yes and no is not from a PostgreSQL
/// that goes on (an error of one that cannot start a process, say), and nothing is said to it in clear.
async fn agree<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> io::Result<bool> {
    stream.write_all(&SSL_REQUEST).await?;
    stream.flush().await?;
    // One byte and no more: what follows belongs to TLS.
    match stream.read_u8().await? {
        b'S' => Ok(true),
        b'N' => Ok(false),
        b'E' => Err(refused(stream).await),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the server answered neither yes nor no when it was asked for TLS",
        )),
    }
}

/// What it says comes with the byte that announces it, or right after. Nobody knows yet who says it.
const TEXT: Duration = Duration::from_millis(100);

async fn refused<S: AsyncRead + Unpin>(stream: &mut S) -> io::Error {
    let mut space = [0; 512];
    let read = timeout(TEXT, stream.read(&mut space)).await;
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

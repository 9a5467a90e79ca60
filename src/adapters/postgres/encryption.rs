//! Whether a connection is encrypted, which client and server agree on before anything else.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_postgres::config::{SslMode, SslNegotiation};

use super::error::Error;
use crate::net::PeerAddr;
use crate::stream::Wire;
use crate::tls::Tls;

/// Asks for TLS: a length and a number that is no version.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// What is done about TLS.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) mode: SslMode,
    pub(super) negotiation: SslNegotiation,
    pub(super) tls: Option<Tls>,
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
    pub(super) async fn begin(&self, mut wire: Wire) -> Result<(Wire, Option<Encryption>), Error> {
        let (SslMode::Prefer | SslMode::Require, Some(tls)) = (self.mode, &self.tls) else {
            return Ok((wire, None));
        };
        let is_direct = self.negotiation == SslNegotiation::Direct;
        if !is_direct && !agree(&mut wire).await.map_err(Error::Tls)? {
            return match self.mode {
                SslMode::Require => Err(Error::NoTls),
                _ => Ok((wire, None)),
            };
        }
        let host = wire.host().map(ToOwned::to_owned);
        let wire = tls.connect(wire).await.map_err(Error::Tls)?;
        Ok((wire, Some(Encryption { tls: tls.clone(), host, is_direct })))
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
/// that goes on (an error of a full one, say), and nothing is said to it in clear.
async fn agree<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> io::Result<bool> {
    stream.write_all(&SSL_REQUEST).await?;
    stream.flush().await?;
    // One byte and no more: what follows belongs to TLS.
    match stream.read_u8().await? {
        b'S' => Ok(true),
        b'N' => Ok(false),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the server answered neither yes nor no when it was asked for TLS",
        )),
    }
}

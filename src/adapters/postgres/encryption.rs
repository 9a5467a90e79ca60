//! TLS, which a PostgreSQL connection asks for before it begins.
//!
//! <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL>

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

#[cfg(feature = "tls")]
use tokio_rustls::{client::TlsStream, rustls::pki_types::ServerName};

#[cfg(feature = "tls")]
use crate::adapters::tls::Tls;
use crate::stream::Wire;

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// How a session was encrypted, for whoever has to talk about it on another connection.
#[derive(Debug, Clone)]
pub(super) struct Encryption {
    #[cfg(feature = "tls")]
    tls: Tls,
    #[cfg(feature = "tls")]
    name: ServerName<'static>,
}

/// Asks the server for TLS. `false`: it has none.
async fn ask<S: AsyncRead + AsyncWrite + Unpin>(io: &mut S) -> io::Result<bool> {
    io.write_all(&SSL_REQUEST).await?;
    // One byte and no more: what follows is encrypted.
    match io.read_u8().await? {
        b'S' => Ok(true),
        b'N' => Ok(false),
        _ => Err(io::Error::other("no PostgreSQL answers there: it did not understand SSLRequest")),
    }
}

#[cfg(feature = "tls")]
impl Encryption {
    /// Encrypts, if the server can.
    pub(super) async fn begin(tls: &Tls, mut wire: Wire) -> io::Result<(Wire, Option<Self>)> {
        if !ask(&mut wire).await? {
            return Ok((wire, None));
        }
        let (tls, name) = (tls.clone(), tls.name_for(&wire)?);
        let wire = tls.connect(wire).await?;
        Ok((wire, Some(Self { tls, name })))
    }

    pub(super) async fn begin_over<S>(&self, mut io: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if !ask(&mut io).await? {
            return Err(io::Error::other("the server has TLS no more"));
        }
        self.tls.over(self.name.clone(), io).await
    }
}

#[cfg(not(feature = "tls"))]
impl Encryption {
    pub(super) async fn begin_over<S>(&self, io: S) -> io::Result<S> {
        Ok(io)
    }
}

//! Cancelling at the server.
//!
//! Who goes away from a query leaves it running: the server does not look at its client until it has
//! something to send. PostgreSQL takes a request to cancel over a connection of its own.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio_postgres::{CancelToken, NoTls};

use super::encryption::Encryption;
use crate::deadline::Deadline;
use crate::net::PeerAddr;

/// The right to cancel what one connection is doing.
#[derive(Clone)]
pub(super) struct Canceller {
    pub(super) token: CancelToken,
    pub(super) peer: PeerAddr,
    /// As the connection itself has it.
    pub(super) encryption: Option<Encryption>,
}

impl Canceller {
    /// Asks the server to cancel, and waits until it has passed that on: it closes the connection
    /// then. What ran has not necessarily stopped yet.
    pub(super) async fn cancel(&self, limit: Duration) -> io::Result<()> {
        let run = async {
            match &self.peer {
                PeerAddr::Tcp(addr) => self.ask(TcpStream::connect(addr).await?).await,
                #[cfg(unix)]
                PeerAddr::Unix(path) => {
                    self.ask(tokio::net::UnixStream::connect(path).await?).await
                }
                #[cfg(not(unix))]
                PeerAddr::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
            }
        };
        let late = |_| io::Error::from(io::ErrorKind::TimedOut);
        Deadline::after(Some(limit)).run(run).await.map_err(late)?
    }

    async fn ask<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> io::Result<()> {
        match &self.encryption {
            None => self.ask_over(stream).await,
            Some(encryption) => self.ask_over(encryption.encrypt(&self.peer, stream).await?).await,
        }
    }

    async fn ask_over<S: AsyncRead + AsyncWrite + Unpin>(&self, mut stream: S) -> io::Result<()> {
        let asked = self.token.cancel_query_raw(&mut stream, NoTls).await;
        asked.map_err(io::Error::other)?;
        // It answers nothing, and closes in whichever way.
        let _ = stream.read(&mut [0; 1]).await;
        Ok(())
    }
}

//! Cancelling at the server: a request on a connection of its own, which the server closes when it
//! has passed it on.
//!
//! <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-CANCELING-REQUESTS>

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::encryption::Encryption;
use super::scanner::BackendKey;
use crate::net::PeerAddr;

const CANCEL: i32 = 80_877_102;

/// Who cancels what a session does.
#[derive(Debug, Clone)]
pub(super) struct Canceller {
    pub(super) peer: PeerAddr,
    pub(super) encryption: Option<Encryption>,
}

impl Canceller {
    /// Asks the server to cancel whatever the session with this key does now. When this returns, the
    /// session was told.
    pub(super) async fn cancel(&self, key: &BackendKey) -> io::Result<()> {
        if key.len() < 8 {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the server gave no key"));
        }
        let length = i32::try_from(8 + key.len()).map_err(io::Error::other)?;
        let request = [&length.to_be_bytes()[..], &CANCEL.to_be_bytes(), key].concat();
        match &self.peer {
            PeerAddr::Tcp(addr) => {
                let stream = TcpStream::connect(addr).await?;
                match &self.encryption {
                    Some(encryption) => send(encryption.begin_over(stream).await?, &request).await,
                    None => send(stream, &request).await,
                }
            }
            #[cfg(unix)]
            PeerAddr::Unix(path) => {
                send(tokio::net::UnixStream::connect(path).await?, &request).await
            }
            #[cfg(not(unix))]
            PeerAddr::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

async fn send(mut io: impl AsyncRead + AsyncWrite + Unpin, request: &[u8]) -> io::Result<()> {
    io.write_all(request).await?;
    io.flush().await?;
    // It answers nothing; it closes when it is done.
    let _ = io.read(&mut [0]).await;
    Ok(())
}

//! [`Dial`]: our connections under deadpool-postgres' own manager, through its trait `Connect`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use deadpool_postgres::Connect;
use deadpool_postgres::tokio_postgres::{Client, Config, Error, NoTls};
use livepool::{BoxFuture, Connector, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinHandle;

/// Makes connections as a livepool does: every address of the URL, raced; sockets with keepalive; all
/// within `timeouts.connect`; and while one waits to be read, its peer is asked for a sign of life.
pub(crate) struct Dial(pub(crate) Connector, pub(crate) Option<Duration>);

/// A peer that was silent for so long is asked.
const MAX_SILENCE: Duration = Duration::from_secs(1);

impl Connect for Dial {
    fn connect(&self, config: &Config) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), Error>> {
        let config = config.clone();
        Box::pin(async move {
            let mut stream = match self.0.connect().await {
                Ok(stream) => stream,
                Err(error) => return Err(refused(&config, error.into()).await),
            };
            // The client reads all the time, and a statement may take an hour: it is not the answer
            // that has to come in time, but a sign of life from the server's host.
            stream.set_read_timeout(None);
            stream.watch_peer(Some(MAX_SILENCE));
            let (client, connection) = login(&config, stream, self.1).await?;
            Ok((client, tokio::spawn(async move { drop(connection.await) })))
        })
    }
}

type Connection = deadpool_postgres::tokio_postgres::Connection<
    Stream,
    deadpool_postgres::tokio_postgres::tls::NoTlsStream,
>;

/// With encryption it is `tls.make_tls_connect(host)?` instead of `NoTls`.
async fn login(
    config: &Config,
    stream: Stream,
    limit: Option<Duration>,
) -> Result<(Client, Connection), Error> {
    let login = config.connect_raw(stream, NoTls);
    let Some(limit) = limit else { return login.await };
    match tokio::time::timeout(limit, login).await {
        Ok(done) => done,
        Err(_) => Err(refused(config, io::ErrorKind::TimedOut.into()).await),
    }
}

/// The error of a connection that could not be made, as one of tokio-postgres: it makes its own only,
/// of what its stream says.
async fn refused(config: &Config, error: io::Error) -> Error {
    match config.connect_raw(Refused(Some(error)), NoTls).await {
        Err(error) => error,
        Ok(_) => unreachable!("nobody logs in where nothing can be written"),
    }
}

/// A stream that was never made.
struct Refused(Option<io::Error>);

impl Refused {
    fn error(&mut self) -> io::Error {
        self.0.take().unwrap_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl AsyncRead for Refused {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Ready(Err(self.error()))
    }
}

impl AsyncWrite for Refused {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(self.error()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(self.error()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

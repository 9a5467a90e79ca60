//! [`Client`]: one connection, and what its server has said of it.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Ping, PingPong};
use http::uri::Authority;
use tokio::task::JoinHandle;

use super::Http2;
use super::frames::Said;
use crate::{Error, Failure};
use livepool::protocol::Ledger;

/// A connection that speaks HTTP/2. Requests are made on a share of one: see
/// [`Pool::share`](livepool::Pool::share).
///
/// ```
/// # async fn f(pool: livepool::Pool<livepool_http::http2::Http2>) -> Result<(), Box<dyn std::error::Error>> {
///
/// use livepool_http::{PoolExt, Request};
///
/// // Callers do not meet it: requests are sent by the pool, many at a time on one connection.
/// let response = pool.send(Request::get("/status").body(())?).await?;
/// # Ok(()) }
/// ```
pub struct Client {
    pub(super) sender: SendRequest<Bytes>,
    pub(super) ping: Option<PingPong>,
    pub(super) said: Arc<Said>,
    pub(super) ledger: Ledger,
    pub(super) authority: Authority,
    pub(super) http2: Http2,
    pub(super) _driver: DriverTask,
}

impl Client {
    pub(super) async fn ping(&mut self) -> Result<(), Error> {
        let Some(ping) = &mut self.ping else { return Ok(()) };
        // The answer to one that was given up is still to come, and is as good.
        let _ = ping.send_ping(Ping::opaque());
        let pong = std::future::poll_fn(|cx| ping.poll_pong(cx)).await;
        pong.map(drop).map_err(|error| Error::new(Failure::Unanswered).because_of(error))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("authority", &self.authority)
            .field("said", &self.said)
            .finish_non_exhaustive()
    }
}

/// The task that reads and writes. It ends with its client.
#[derive(Debug)]
pub(super) struct DriverTask(JoinHandle<()>);

impl DriverTask {
    pub(super) fn start<F: Future<Output: Send> + Send + 'static>(driver: F) -> Self {
        Self(tokio::spawn(async move { drop(driver.await) }))
    }
}

impl Drop for DriverTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

//! A subscription, which takes its connection for itself.

use ::redis::aio::PubSub;
use ::redis::{ErrorKind, RedisConnectionInfo, RedisError, RedisResult};

use super::client::Client;
use super::reply_parser::ReplyParser;
use livepool::protocol::Scanner;

impl Client {
    /// Makes a subscriber of a connection that was taken out of its pool:
    /// `guard.detach().into_pubsub().await?`. The pool may make another in its place, and this one
    /// never comes back.
    ///
    /// A subscriber waits for messages as long as it takes: no read timeout applies any more. Whether
    /// its peer lives is for the keepalive of its socket to tell. Messages that are not taken are kept
    /// by the crate, however many they are. [`Pool::listen`](livepool::Pool::listen) is without these
    /// drawbacks, and subscribes again by itself.
    ///
    /// # Errors
    ///
    /// The error of the connection, or that a transaction is open on it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    pub async fn into_pubsub(mut self) -> RedisResult<PubSub> {
        self.drain_replies().await?;
        if self.state.in_transaction() || self.state.is_unusable() {
            return Err(RedisError::from((
                ErrorKind::Client,
                "a connection in a transaction, or that is used for something else for good, cannot \
                 subscribe",
            )));
        }
        let wire = self.shared_wire.take().ok_or((ErrorKind::Io, "the connection was closed"))?;
        // The task polls the wire only through the shared place, which is empty now.
        drop(self.driver);
        // A subscriber is owed nothing: the old scanner would keep the read timeout running.
        let _ = wire.scan(UncountedScanner(ReplyParser::new()));
        // It is logged in already; only the protocol has to be said again.
        let info = RedisConnectionInfo::default()
            .set_protocol(self.settings.info.protocol())
            .set_skip_set_lib_name();
        PubSub::new(&info, wire).await
    }
}

/// A scanner that counts no answers, so that no read timeout applies. The length of a message
/// remains bounded.
struct UncountedScanner(ReplyParser);

impl Scanner for UncountedScanner {
    fn sent(&mut self, _: &[u8]) {}

    fn received(&mut self, mut bytes: &[u8]) {
        while self.0.next(&mut bytes).is_some() {}
    }

    fn owed(&self) -> usize {
        0
    }

    fn longest(&mut self) -> u64 {
        self.0.longest()
    }
}

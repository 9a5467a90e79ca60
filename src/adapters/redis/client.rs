//! [`Client`]: what callers get.

use std::fmt;

use ::redis::aio::{ConnectionLike, MultiplexedConnection};
use ::redis::{Cmd, Pipeline, RedisFuture, RedisResult, Value, cmd};
use tokio::task::JoinHandle;

use super::left::Left;
use super::loan::Slot;
use super::settings::Settings;
use super::state::State;
use crate::sync::Arc;

/// A connection to a Redis server that nobody shares.
///
/// It is what the crate `redis` calls a [`ConnectionLike`]: `redis::cmd(..).query_async(&mut *guard)`,
/// pipelines, and everything in `redis::AsyncCommands` work on it.
///
/// Because it is yours while you hold it, commands that wait for something (`BLPOP`, `XREAD BLOCK`)
/// hold up nobody else, `WATCH` and `MULTI` are yours alone, and a subscription takes the connection
/// for itself: [`into_pubsub`](Self::into_pubsub).
pub struct Client {
    pub(super) connection: MultiplexedConnection,
    pub(super) driver: Driver,
    pub(super) slot: Slot,
    pub(super) state: Arc<State>,
    pub(super) left: Left,
    pub(super) settings: Arc<Settings>,
}

impl Client {
    /// Waits until everything that was asked before is answered or dropped: the driver asks in order.
    pub(super) async fn settle(&mut self) -> RedisResult<()> {
        // Whatever it answers: "not permitted" is an answer as well.
        self.connection.send_packed_command(&cmd("PING")).await?;
        self.left.forget();
        Ok(())
    }

    /// Undoes what the last caller left behind, if that is possible: an open transaction, watched
    /// keys, another database.
    pub(super) async fn repair(&mut self) -> RedisResult<()> {
        self.settle().await?;
        let mut repairs = ::redis::pipe();
        if self.state.in_transaction() {
            repairs.cmd("DISCARD");
        }
        if self.state.is_watching() {
            repairs.cmd("UNWATCH");
        }
        if self.state.is_elsewhere() {
            repairs.cmd("SELECT").arg(self.settings.info.db());
        }
        if repairs.is_empty() {
            return Ok(());
        }
        for answer in self.connection.send_packed_commands(&repairs, 0, repairs.len()).await? {
            answer.extract_error()?;
        }
        Ok(())
    }
}

impl ConnectionLike for Client {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        let Self { connection, left, .. } = self;
        Box::pin(async move {
            let asking = left.unless_answered(cmd);
            let result = connection.send_packed_command(cmd).await;
            // Of what nobody wants to hear the answer, that is yet to come.
            if !cmd.is_no_response() {
                asking.answered();
            }
            result
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        let Self { connection, left, .. } = self;
        Box::pin(async move {
            let asking = left.unless_answered(pipeline);
            let result = connection.send_packed_commands(pipeline, offset, count).await;
            asking.answered();
            result
        })
    }

    /// The database of the settings: a connection in another one was put there by its own user.
    fn get_db(&self) -> i64 {
        self.settings.info.db()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("state", &self.state).finish_non_exhaustive()
    }
}

/// The task that reads and writes. It ends with this.
#[derive(Debug)]
pub(super) struct Driver(JoinHandle<()>);

impl Driver {
    pub(super) fn start(driver: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(driver))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

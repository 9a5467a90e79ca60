//! [`Client`]: what callers get.

use std::fmt;
use std::pin::pin;

use ::redis::aio::{ConnectionLike, MultiplexedConnection};
use ::redis::{
    Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, RedisResult, ServerError, Value, cmd,
};
use tokio::task::JoinHandle;

use super::abandoned::AbandonedCommands;
use super::session::SessionState;
use super::settings::RedisSettings;
use super::shared_wire::SharedWire;
use std::sync::Arc;

/// A connection to a Redis server that nobody shares.
///
/// A client is what the crate `redis` calls a [`ConnectionLike`]: pipelines, everything in
/// `redis::AsyncCommands`, and `redis::cmd(..).query_async(&mut *guard)` work on the client that a
/// guard holds.
///
/// The connection is yours while you hold it: commands that wait for something (`BLPOP`, `XREAD
/// BLOCK`) hold up nobody else, `WATCH` and `MULTI` are yours alone, and a subscription takes the
/// connection for itself: [`into_pubsub`](Self::into_pubsub).
///
/// ```
/// use livepool_redis::redis::AsyncCommands;
///
/// # async fn f(pool: livepool::Pool<livepool_redis::Redis>) -> Result<(), Box<dyn std::error::Error>> {
/// let mut client = pool.get().await?;
/// let job: Option<(String, String)> = client.blpop("jobs", 5.0).await?;
/// # Ok(()) }
/// ```
pub struct Client {
    pub(super) connection: MultiplexedConnection,
    pub(super) driver: DriverTask,
    pub(super) shared_wire: SharedWire,
    pub(super) state: Arc<SessionState>,
    pub(super) abandoned: AbandonedCommands,
    pub(super) settings: Arc<RedisSettings>,
}

impl Client {
    /// The answer to this command.
    async fn ask(&mut self, command: &Cmd) -> RedisResult<Value> {
        self.shared_wire.answered(pin!(self.connection.send_packed_command(command))).await
    }

    /// Asks whether the server is well, with a payload that only this ping is answered with. Any
    /// other answer is an error.
    pub(super) async fn ping(&mut self) -> RedisResult<()> {
        // A reply that an earlier command left behind would pass for a bare PONG, and the next user
        // would read the one behind it.
        let word = unique_payload();
        let answer = self.ask(cmd("PING").arg(&word)).await?;
        match answer {
            // A user who may not ping is answered all the same, and a server that cannot save its
            // data can be read from. But these answers may belong to another command.
            Value::ServerError(error) if matches!(error.code(), "NOPERM" | "MISCONF") => {
                self.drain_replies().await
            }
            answer => is_echo(&word, answer),
        }
    }

    /// Waits until every earlier command is answered or dropped.
    pub(super) async fn drain_replies(&mut self) -> RedisResult<()> {
        // Not PING: a server in trouble (MISCONF) refuses that, and answers ECHO.
        let word = unique_payload();
        // The driver asks in order: with this answer every earlier command is answered or dropped.
        let answer = self.ask(cmd("ECHO").arg(&word)).await?;
        // Within a transaction ECHO is queued. `reset_session` discards that and asks again.
        let is_queued = answer == Value::SimpleString("QUEUED".to_owned());
        if !(is_queued && self.state.in_transaction()) {
            is_echo(&word, answer)?;
        }
        self.abandoned.clear();
        Ok(())
    }

    /// Undoes what the last caller left behind, if that is possible: an open transaction, watched
    /// keys, another database.
    pub(super) async fn reset_session(&mut self) -> RedisResult<()> {
        self.drain_replies().await?;
        let mut repairs = ::redis::pipe();
        if self.state.in_transaction() {
            repairs.cmd("DISCARD");
        }
        if self.state.is_watching() {
            repairs.cmd("UNWATCH");
        }
        if self.state.is_database_changed() {
            repairs.cmd("SELECT").arg(self.settings.info.db());
        }
        if repairs.is_empty() {
            return Ok(());
        }
        let word = unique_payload();
        // The last answer shows that the ones before it belong to these commands.
        repairs.cmd("ECHO").arg(&word);
        let asked = pin!(self.connection.send_packed_commands(&repairs, 0, repairs.len()));
        let mut answers = self.shared_wire.answered(asked).await?;
        let last = answers.pop().unwrap_or(Value::Nil);
        for answer in answers {
            answer.extract_error()?;
        }
        is_echo(&word, last)
    }
}

/// A payload that no other command is answered with.
fn unique_payload() -> String {
    format!("livepool {:016x}", fastrand::u64(..))
}

/// Checks that this is the answer to the command with that payload.
fn is_echo(word: &str, answer: Value) -> RedisResult<()> {
    match answer {
        Value::BulkString(echo) if echo == word.as_bytes() => Ok(()),
        // The refusal names the command, so it answers this ECHO and nothing else.
        Value::ServerError(error) if error.code() == "NOPERM" && names_echo(&error) => Ok(()),
        other => {
            other.extract_error()?;
            Err(RedisError::from((ErrorKind::Client, "the answer is another command's")))
        }
    }
}

fn names_echo(error: &ServerError) -> bool {
    error.details().is_some_and(|details| details.to_ascii_lowercase().contains("echo"))
}

impl ConnectionLike for Client {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        let Self { connection, shared_wire, abandoned, .. } = self;
        Box::pin(async move {
            let reply = abandoned.track(cmd);
            let result = shared_wire.answered(pin!(connection.send_packed_command(cmd))).await;
            // The crate returns before the answer to such a command has come.
            if !cmd.is_no_response() {
                reply.mark_answered();
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
        let Self { connection, shared_wire, abandoned, .. } = self;
        Box::pin(async move {
            let reply = abandoned.track(pipeline);
            let asked = pin!(connection.send_packed_commands(pipeline, offset, count));
            let result = shared_wire.answered(asked).await;
            // Also after an error: the crate reports one only for an answer or a dead connection.
            reply.mark_answered();
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

/// The crate's task that reads and writes, aborted when this is dropped.
#[derive(Debug)]
pub(super) struct DriverTask(JoinHandle<()>);

impl DriverTask {
    pub(super) fn start(driver: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(driver))
    }

    /// Ends the task, whose connection somebody else reads and writes from now on.
    pub(super) fn stop(&self) {
        self.0.abort();
    }
}

impl Drop for DriverTask {
    fn drop(&mut self) {
        // The crate's task would keep the connection until the last of its handles is gone.
        self.0.abort();
    }
}

//! [`SharedConnection`]: what those get who share a connection.

use std::fmt;
use std::io;
use std::pin::pin;

use ::redis::aio::{ConnectionLike, MultiplexedConnection};
use ::redis::{Arg, Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, RedisResult, Value};

use super::command::{CommandClassifier, CommandKind};
use super::settings::Redis;
use livepool::ConnId;
use livepool::net::PeerAddr;
use livepool::protocol::{Multiplex, RequestLost, Share, Spread};

/// A part of a connection to a Redis server that other callers use at the same time. Get one with
/// [`Pool::share`](livepool::Pool::share).
///
/// It is what the crate `redis` calls a [`ConnectionLike`]: commands, pipelines and atomic pipelines work
/// on it. A command that concerns the connection itself, or that may wait for something to happen, is
/// refused before it is sent, with an error that says so: those are for a connection of one's own
/// ([`Pool::get`](livepool::Pool::get)).
///
/// ```no_run
/// # async fn f(pool: livepool::Pool<livepool_redis::Redis>) -> Result<(), Box<dyn std::error::Error>> {
/// use livepool_redis::redis::AsyncCommands;
///
/// let value: String = pool.share().await?.get("key").await?;
/// # Ok(()) }
/// ```
///
/// Whoever drops a command harms nobody: its answer is thrown away when it comes. When the connection
/// ends, each command that was in flight on it fails with an error whose text says whether it may have
/// been carried out; [`request_lost`] finds that in it.
pub struct SharedConnection {
    share: Share<Redis>,
    connection: MultiplexedConnection,
}

/// What became of a command whose error this is, if its connection was shared and ended.
pub fn request_lost(error: &RedisError) -> Option<RequestLost> {
    super::classify::io_error(error).and_then(RequestLost::of).copied()
}

impl SharedConnection {
    /// The connection's number, as in events and logs.
    pub fn id(&self) -> ConnId {
        self.share.id()
    }

    /// The address at the other end.
    pub fn peer_addr(&self) -> &PeerAddr {
        self.share.peer_addr()
    }
}

impl Multiplex for Redis {
    type Shared = SharedConnection;

    fn shared(&self, share: Share<Self>) -> SharedConnection {
        SharedConnection { connection: share.client().connection.clone(), share }
    }

    /// One thread of the server works for all connections, and what comes together costs it, and us, a
    /// fraction.
    fn spread(&self) -> Spread {
        Spread::Pack
    }

    fn most_shares(&self, client: &super::Client) -> usize {
        if client.state.is_shareable() { usize::MAX } else { 0 }
    }
}

/// Why a command is not for a shared connection, if so.
fn refusal(command: &Cmd) -> Option<RedisError> {
    let mut kind = CommandClassifier::new();
    let mut words = command.args_iter();
    let simple = |arg| match arg {
        Arg::Simple(word) => word,
        // A cursor is a number, which no word here is.
        _ => &[][..],
    };
    let name = words.next().map(simple).unwrap_or_default();
    if name.is_empty() {
        let why = "a command without words, which no server answers";
        return Some(RedisError::from((
            ErrorKind::InvalidClientConfig,
            NOT_SHARED,
            why.to_owned(),
        )));
    }
    kind.push_argument(name);
    while !kind.is_known() {
        let Some(word) = words.next() else { break };
        kind.push_argument(simple(word));
    }
    let why = match kind.kind() {
        CommandKind::Plain if !kind.is_of_replies() => return None,
        CommandKind::Blocking => "it may wait for something to happen, and all others with it",
        CommandKind::Multi | CommandKind::Exec | CommandKind::Discard => {
            "the commands of others would be in its transaction: make an atomic pipeline"
        }
        CommandKind::Watch | CommandKind::Unwatch => "what it watches, it watches for all",
        CommandKind::Select(_)
        | CommandKind::Identity
        | CommandKind::Reset
        | CommandKind::Asking => "it changes the connection for all others",
        CommandKind::Subscribe | CommandKind::Monitor => "its messages would come between answers",
        CommandKind::Plain | CommandKind::Uncountable => "answers could not be counted any more",
    };
    let name = String::from_utf8_lossy(name).to_ascii_uppercase();
    let text = format!("{name}: {why}; take a connection of your own with Pool::get()");
    Some(RedisError::from((ErrorKind::InvalidClientConfig, NOT_SHARED, text)))
}

const NOT_SHARED: &str = "not on a shared connection";

/// The error for whoever made a request: of its time, or of its connection.
fn told<T>(share: &Share<Redis>, result: io::Result<RedisResult<T>>) -> RedisResult<T> {
    match result {
        Ok(Err(error)) if error.kind() == ErrorKind::Io => Err(lost(share, error)),
        Ok(result) => result,
        Err(late) => Err(late.into()),
    }
}

/// Says of a request that failed with its connection whether it may have been carried out. Nobody can
/// tell what the library's task had sent.
#[cold]
fn lost(share: &Share<Redis>, error: RedisError) -> RedisError {
    share.lost(true).map_or(error, |lost| io::Error::from(lost).into())
}

/// Which answers a pipeline is for, as `ConnectionLike` says it: all of them, or that of its transaction alone.
pub(super) fn answers_of(pipeline: &Pipeline) -> (usize, usize) {
    let len = pipeline.cmd_iter().count();
    if pipeline.is_transaction() { (len + 1, 1) } else { (0, len) }
}

impl SharedConnection {
    /// Fails, if the connection has ended already: nothing is sent then.
    fn check(&self) -> RedisResult<()> {
        if self.share.is_well() {
            return Ok(());
        }
        match self.share.lost(false) {
            Some(lost) => Err(io::Error::from(lost).into()),
            None => Ok(()),
        }
    }
}

impl SharedConnection {
    /// As the user's own, but nothing is refused: the caller vouches that the commands leave the connection
    /// as they find it, and that the answers are counted.
    pub(super) async fn send_all(
        &mut self,
        pipeline: &Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        self.check()?;
        let Self { share, connection } = self;
        let reply = share.client().abandoned.track(pipeline);
        let asked = pin!(connection.send_packed_commands(pipeline, offset, count));
        let result = share.run(share.client().shared_wire.answered(asked)).await;
        // Also after an error: the crate reports one only for an answer or a dead connection.
        if result.is_ok() {
            reply.mark_answered();
        }
        told(share, result)
    }

    /// Why a command is not for a shared connection, if so.
    pub(super) fn refusal(command: &Cmd) -> Option<RedisError> {
        refusal(command)
    }
}

impl ConnectionLike for SharedConnection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        if let Some(refused) = refusal(cmd) {
            return Box::pin(std::future::ready(Err(refused)));
        }
        Box::pin(async move {
            self.check()?;
            let Self { share, connection } = self;
            let reply = share.client().abandoned.track(cmd);
            let asked = pin!(connection.send_packed_command(cmd));
            let result = share.run(share.client().shared_wire.answered(asked)).await;
            // The crate returns before the answer to such a command has come.
            if result.is_ok() && !cmd.is_no_response() {
                reply.mark_answered();
            }
            told(share, result)
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        // Answers are counted by the crate: a wrong count would take those of others.
        if (offset, count) != answers_of(pipeline) {
            let len = pipeline.cmd_iter().count();
            let why = format!("{count} answers from {offset} on, of {len} commands");
            let refused = RedisError::from((ErrorKind::InvalidClientConfig, NOT_SHARED, why));
            return Box::pin(std::future::ready(Err(refused)));
        }
        if let Some(refused) = pipeline.cmd_iter().find_map(refusal) {
            return Box::pin(std::future::ready(Err(refused)));
        }
        Box::pin(self.send_all(pipeline, offset, count))
    }

    /// The database of the settings.
    fn get_db(&self) -> i64 {
        self.share.client().get_db()
    }
}

impl fmt::Debug for SharedConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedConnection").field("share", &self.share).finish()
    }
}

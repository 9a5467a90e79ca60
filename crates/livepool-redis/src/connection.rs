//! [`Connection`] and [`PoolExt`]: a guard that the crate takes for a connection, and commands straight on a
//! pool.

use std::fmt;
use std::future::Future;
use std::io;
use std::ops::{Deref, DerefMut};

use ::redis::aio::ConnectionLike;
use ::redis::{Cmd, FromRedisValue, Pipeline, RedisError, RedisFuture, RedisResult, Value};

use super::settings::Redis;
use livepool::{CheckoutError, Guard, Pool};

/// A [`Guard`] that is a [`ConnectionLike`] itself, so that it goes where the crate `redis` wants a connection:
/// `redis::cmd(..).query_async(&mut conn)`, pipelines, transactions. From [`PoolExt::connection`], or of a guard
/// that one has.
///
/// (A guard of [`Pool::get`](livepool::Pool::get) goes there as `&mut *guard`. It is a type of `livepool`, for which
/// only the crate `redis` could implement its trait.)
///
/// It derefs to its guard, and is that in all else: its deadline, its way back, what its pool looks at.
///
/// ```no_run
/// use livepool_redis::{PoolExt as _, redis};
///
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = livepool_redis::pool("redis://cache.internal")?;
/// let mut conn = pool.connection().await?;
/// let count: i64 = redis::cmd("INCR").arg("visits").query_async(&mut conn).await?;
/// let (a, b): (i64, i64) =
///     redis::pipe().atomic().incr("a", 1).incr("b", 1).query_async(&mut conn).await?;
/// # Ok(()) }
/// ```
#[must_use = "dropped, it goes back to its pool"]
pub struct Connection(Guard<Redis>);

impl Connection {
    /// The guard, for what consumes one: [`release`](Guard::release), [`detach`](Guard::detach).
    pub fn into_guard(self) -> Guard<Redis> {
        self.0
    }
}

impl From<Guard<Redis>> for Connection {
    fn from(guard: Guard<Redis>) -> Self {
        Self(guard)
    }
}

impl Deref for Connection {
    type Target = Guard<Redis>;

    fn deref(&self) -> &Guard<Redis> {
        &self.0
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut Guard<Redis> {
        &mut self.0
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        self.0.req_packed_command(cmd)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.0.req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.0.get_db()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.0).finish()
    }
}

/// Commands straight on a pool: implemented for [`Pool<Redis>`](crate::Pool).
///
/// Each call is one checkout, one command or pipeline, and a connection that goes back. So `WATCH`, `MULTI`,
/// `SELECT` or a subscription have no effect on the next call: an atomic pipeline is one call, and what takes
/// several is for a [`connection`](Self::connection). For many small commands at a time there is
/// [`Pool::share`](livepool::Pool::share).
///
/// Nothing is sent a second time. A connection is proved alive before its command is sent; if it ends all the
/// same before the answer has come, the call fails, and nobody can say whether the command was carried out.
///
/// The wait for a connection is bounded by `timeouts.checkout`, the command by
/// [`timeouts.operation`](livepool::config::Timeouts::operation) if that is set. One that waits (`BLPOP`) has its
/// connection for as long.
///
/// ```no_run
/// use livepool_redis::{PoolExt as _, Redis, redis};
///
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = Redis::from_url("redis://cache.internal")?.pool()?;
/// let name: Option<String> = pool.query(redis::cmd("GET").arg("user:7:name")).await?;
/// # Ok(()) }
/// ```
pub trait PoolExt: sealed::Sealed {
    /// Takes a connection, as [`Pool::get`](livepool::Pool::get), in the form that the crate's own calls take.
    ///
    /// # Errors
    ///
    /// # Cancel safety
    ///
    /// As for [`Pool::get`](livepool::Pool::get).
    fn connection(&self) -> impl Future<Output = Result<Connection, CheckoutError>> + Send;

    /// Sends a command, and gives its answer.
    ///
    /// # Errors
    ///
    /// The errors of [`Cmd::query_async`]. Where no connection was to be had, the command was not sent, and
    /// [`checkout_error`] finds why.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for a connection, it loses its place in the queue. Dropped later, the command
    /// may be carried out all the same; its answer is waited for in the background.
    fn query<T: FromRedisValue>(
        &self,
        command: &Cmd,
    ) -> impl Future<Output = RedisResult<T>> + Send;

    /// Sends a pipeline, and gives its answers.
    ///
    /// # Errors
    ///
    /// The errors of [`Pipeline::query_async`]. Where no connection was to be had, nothing was sent, and
    /// [`checkout_error`] finds why.
    ///
    /// # Cancel safety
    ///
    /// As for [`query`](Self::query).
    fn query_pipeline<T: FromRedisValue>(
        &self,
        pipeline: &Pipeline,
    ) -> impl Future<Output = RedisResult<T>> + Send;
}

impl PoolExt for Pool<Redis> {
    #[track_caller]
    fn connection(&self) -> impl Future<Output = Result<Connection, CheckoutError>> + Send {
        // Here, so that what is told of a checkout names who called.
        let guard = self.get();
        async move { guard.await.map(Connection) }
    }

    #[track_caller]
    fn query<T: FromRedisValue>(
        &self,
        command: &Cmd,
    ) -> impl Future<Output = RedisResult<T>> + Send {
        let conn = self.connection();
        async move { command.query_async(&mut conn.await.map_err(none)?).await }
    }

    #[track_caller]
    fn query_pipeline<T: FromRedisValue>(
        &self,
        pipeline: &Pipeline,
    ) -> impl Future<Output = RedisResult<T>> + Send {
        let conn = self.connection();
        async move { pipeline.query_async(&mut conn.await.map_err(none)?).await }
    }
}

/// No connection, in the crate's form.
fn none(error: CheckoutError) -> RedisError {
    io::Error::from(error).into()
}

/// Why there was no connection for a call of [`PoolExt`], if that was it.
///
/// ```
/// fn is_overload(error: &livepool_redis::redis::RedisError) -> bool {
///     livepool_redis::checkout_error(error).is_some_and(|error| error.is_timeout())
/// }
/// ```
pub fn checkout_error(error: &RedisError) -> Option<&CheckoutError> {
    super::classify::io_error(error)?.get_ref()?.downcast_ref()
}

/// For nobody else, and so methods may be added.
mod sealed {
    use super::{Pool, Redis};

    pub trait Sealed {}

    impl Sealed for Pool<Redis> {}
}

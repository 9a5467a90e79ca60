//! [`Library`]: what works on a [`tokio_postgres::Client`] that it has to itself, with all that a pool
//! does for its sessions.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};

use super::cancel::CancelToken;
use super::error::Error;
use super::notify::Notifications;
use super::protocol::Postgres;
use super::reset::SessionClient;
use super::session::Session;
use super::statements::CacheEpoch;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use livepool::config::Config;
use livepool::protocol::{Protocol, Verdict, Wire};
use livepool::setup::{FromUrl, SetupError};
use livepool::{Builder, Pool};

/// A library that takes the [`tokio_postgres::Client`] of a session for itself, for as long as the session
/// lives: diesel-async does. Its sessions are pooled as those of [`Postgres`] are: what runs for nobody is
/// cancelled, a transaction that was left is rolled back, what was left in the session is undone, and only
/// then the next user gets it; dead servers are noticed, and times are kept. See
/// [`Postgres::with_library`].
///
/// A library keeps knowledge of its session: prepared statements, how deep it is in transactions. Two
/// methods here keep that true when the session was put right behind its back. They need the client as
/// mutable, and are called when a user takes it so, and when a reset does. Users who only ever take `&` are
/// told of lost and useless statements when the connection comes back, not within a use, nor while it is idle;
/// and of transactions not before a reset, or somebody who takes `&mut`. A library whose calls work on `&` and that counts
/// transactions there has to have them begun on `&mut`, as diesel-async does.
///
/// That for diesel-async is `examples/support/diesel.rs`. This one hands the client out as it is:
///
/// ```
/// use livepool_postgres::{Library, Postgres, tokio_postgres};
///
/// struct Plain;
///
/// impl Library for Plain {
///     type Client = tokio_postgres::Client;
///     type Error = tokio_postgres::Error;
///
///     async fn begin(&self, client: tokio_postgres::Client) -> Result<Self::Client, Self::Error> {
///         Ok(client)
///     }
///
///     async fn batch_execute(&self, client: &mut Self::Client, sql: &str) -> Result<(), Self::Error> {
///         client.batch_execute(sql).await
///     }
///
///     // It keeps neither.
///     fn forget_transaction(&self, _: &mut Self::Client) {}
///     fn forget_statements(&self, _: &mut Self::Client) {}
/// }
///
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = Postgres::from_url("postgres://app@db.example/orders")?.with_library(Plain).pool()?;
/// let client = pool.get().await?;
/// let row = client.query_one("SELECT 42", &[]).await?;
/// # Ok(()) }
/// ```
pub trait Library: Send + Sync + 'static {
    /// What its users work with.
    type Client: Send + Sync + 'static;

    /// What its calls fail with.
    type Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static;

    /// Takes the client of a session that has just begun. What this leaves in the session is no user's
    /// doing, and is not undone for its own sake; what a later reset undoes with the doings of a user is set
    /// again by [`settings`](Self::settings). It runs within the time of the dial. When it fails or is
    /// dropped, the session is closed.
    fn begin(
        &self,
        client: tokio_postgres::Client,
    ) -> impl Future<Output = Result<Self::Client, Self::Error>> + Send;

    /// Runs statements that return nothing, separated by semicolons, as
    /// [`tokio_postgres::Client::batch_execute`] does: in one message, unprepared, whatever the library
    /// holds of transactions. It is how the pool resets and pings a session, within
    /// [`timeouts.reset`](livepool::config::Timeouts::reset) and `ping`; when it is dropped, the session is
    /// closed.
    fn batch_execute(
        &self,
        client: &mut Self::Client,
        sql: &str,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Forgets what the library thinks of its session's transactions: the last user has gone, and the session
    /// is in none. Called before the next one uses the client.
    fn forget_transaction(&self, client: &mut Self::Client);

    /// Drops the prepared statements that the library keeps: the session has lost them (`DISCARD ALL`), or
    /// they have become useless (a table was altered). Called between two uses, and between two calls of
    /// one use.
    fn forget_statements(&self, client: &mut Self::Client);

    /// The statements that make the session's settings what the library needs, to be run after a reset by
    /// [`RecyclingMethod`](crate::RecyclingMethod) has undone them: `SET TIME ZONE 'UTC'`, say. Default
    /// none.
    fn settings(&self) -> Cow<'_, str> {
        Cow::Borrowed("")
    }
}

/// Connections to PostgreSQL whose client a [`Library`] has. From [`Postgres::with_library`].
///
/// ```
/// # use livepool_postgres::{Library, LibraryPostgres, Postgres};
/// use livepool::Pool;
///
/// fn pool<L: Library>(library: L) -> Result<Pool<LibraryPostgres<L>>, livepool_postgres::SetupError> {
///     Postgres::from_url("postgres://app@db.example/orders")?.with_library(library).pool()
/// }
/// ```
pub struct LibraryPostgres<L> {
    postgres: Postgres,
    library: Arc<L>,
}

impl Postgres {
    /// Gives each session's client to this library: see [`Library`]. What is set of statement caches
    /// ([`with_statement_cache`](Self::with_statement_cache), [`with_statements`](Self::with_statements))
    /// does not concern it.
    pub fn with_library<L: Library>(self, library: L) -> LibraryPostgres<L> {
        LibraryPostgres { postgres: self, library: Arc::new(library) }
    }
}

impl<L: Library> LibraryPostgres<L> {
    /// The same with the configuration of its pool changed: see [`Postgres::with_config`].
    #[must_use]
    pub fn with_config(mut self, change: impl FnOnce(Config) -> Config) -> Self {
        self.postgres = self.postgres.with_config(change);
        self
    }

    /// A builder of its pool: see [`Postgres::builder`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn builder(self) -> Result<Builder<Self>, SetupError> {
        FromUrl::check(&self.postgres)?;
        Ok(Pool::builder(self.postgres.config()).protocol(self))
    }

    /// Its pool: see [`Postgres::pool`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn pool(self) -> Result<Pool<Self>, SetupError> {
        Ok(self.builder()?.build()?)
    }
}

/// The client of a [`Library`], in a session of the pool. It derefs to the library's own.
///
/// A pool knows its sessions by what is said on them. Whoever swaps the clients of two guards, with
/// [`std::mem::swap`], takes that away.
///
/// ```
/// # use livepool_postgres::{Library, LibraryPostgres};
/// # async fn f<L: Library>(pool: livepool::Pool<LibraryPostgres<L>>) -> Result<(), Box<dyn std::error::Error>> {
/// let mut client = pool.get().await?;
/// let token = client.cancel_token();
/// let own: &mut L::Client = &mut client;
/// # Ok(()) }
/// ```
pub struct LibraryClient<L: Library> {
    client: L::Client,
    library: Arc<L>,
    session: Session,
    /// The generation of the pool's prepared statements.
    generation: Arc<AtomicU64>,
    /// That of the library's statements.
    epoch: CacheEpoch,
    /// Whether the connection came back, and the library was not told yet.
    is_returned: AtomicBool,
}

impl<L: Library> LibraryClient<L> {
    /// The right to cancel what this connection does for its present user: see
    /// [`Client::cancel_token`](crate::Client::cancel_token). A token that the library gives knows no server
    /// here.
    pub fn cancel_token(&self) -> CancelToken {
        self.session.cancel_token()
    }

    /// The notifications that arrive from now on, until the connection is given back: see
    /// [`Client::notifications`](crate::Client::notifications). The library hears of none.
    pub fn notifications(&self) -> Notifications {
        self.session.notifications()
    }

    /// The error that the connection ended with: see [`Client::ended_with`](crate::Client::ended_with).
    pub fn ended_with(&self) -> Option<&tokio_postgres::Error> {
        self.session.ended_with()
    }

    fn now(&self) -> CacheEpoch {
        CacheEpoch::now(&self.generation, &self.session.line)
    }

    /// Tells the library what happened behind its back.
    fn tell(&mut self) {
        if self.is_returned.load(Ordering::Relaxed) {
            self.is_returned.store(false, Ordering::Relaxed);
            self.library.forget_transaction(&mut self.client);
        }
        // What makes statements useless meanwhile is newer than this.
        let now = self.now();
        if self.epoch != now {
            self.epoch = now;
            self.library.forget_statements(&mut self.client);
        }
    }
}

impl<L: Library> Deref for LibraryClient<L> {
    type Target = L::Client;

    fn deref(&self) -> &L::Client {
        &self.client
    }
}

impl<L: Library> DerefMut for LibraryClient<L> {
    fn deref_mut(&mut self) -> &mut L::Client {
        self.tell();
        &mut self.client
    }
}

impl<L: Library> SessionClient for LibraryClient<L> {
    fn session(&self) -> &Session {
        &self.session
    }

    async fn batch_execute(&mut self, sql: &str) -> Result<(), Error> {
        let ran = self.library.batch_execute(&mut self.client, sql).await;
        ran.map_err(|error| Error::Library(error.into()))
    }

    /// Of those that a library has prepared and never run it may keep some. With the statement in SQL that
    /// deallocates them the session's count of losses rises, and the library is told to forget them all.
    fn unclaimed_closed(&mut self) {}

    async fn why_read_only(&mut self) -> Result<Option<Verdict>, Error> {
        super::role::why_read_only_by_code(self).await
    }

    fn settings(&self) -> Option<String> {
        Some(self.library.settings().into_owned()).filter(|settings| !settings.is_empty())
    }

    fn renew(&mut self) {
        self.tell();
    }
}

impl<L: Library> Protocol for LibraryPostgres<L> {
    type Client = LibraryClient<L>;
    type Error = Error;

    async fn connect(&self, wire: Wire) -> Result<LibraryClient<L>, Error> {
        let (client, session) = self.postgres.log_in(wire).await?;
        let generation = Arc::clone(&self.postgres.generation);
        let epoch = CacheEpoch::now(&generation, &session.line);
        let begun = self.library.begin(client).await;
        let client = begun.map_err(|error| Error::Library(error.into()))?;
        // What it has dropped is closed by messages that nobody waits for.
        session.line.quiet().await;
        session.line.settle_with_subscriptions();
        let (library, is_returned) = (Arc::clone(&self.library), AtomicBool::new(false));
        Ok(LibraryClient { client, library, session, generation, epoch, is_returned })
    }

    async fn ping(&self, client: &mut LibraryClient<L>) -> Result<(), Error> {
        client.batch_execute("").await
    }

    fn reuse(&self, client: &LibraryClient<L>) -> Verdict {
        client.is_returned.store(true, Ordering::Relaxed);
        match self.postgres.judge(&client.session) {
            // Also for a user who never asks for the client as mutable.
            Verdict::Keep if client.epoch != client.now() => Verdict::NeedsReset,
            verdict => verdict,
        }
    }

    async fn reset(&self, client: &mut LibraryClient<L>) -> Result<(), Error> {
        self.postgres.put_right(client).await
    }

    fn settled(&self, client: &LibraryClient<L>) {
        client.session.line.settle_with_subscriptions();
    }

    fn is_unsettled(&self, client: &LibraryClient<L>) -> bool {
        client.session.line.is_unsettled()
    }

    fn classify(&self, error: &Error) -> Verdict {
        self.postgres.verdict_on(error)
    }

    fn speaks(&self) -> &'static str {
        self.postgres.speaks()
    }

    fn is_gibberish(&self, error: &Error) -> bool {
        error.is_gibberish()
    }

    fn code(&self, error: &Error) -> Option<String> {
        self.postgres.code(error)
    }

    fn is_permanent(&self, error: &Error) -> bool {
        error.is_permanent()
    }

    fn unread(&self, bytes: &[u8]) -> Verdict {
        self.postgres.unread(bytes)
    }
}

impl<L> Clone for LibraryPostgres<L> {
    fn clone(&self) -> Self {
        Self { postgres: self.postgres.clone(), library: Arc::clone(&self.library) }
    }
}

impl<L> fmt::Debug for LibraryPostgres<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LibraryPostgres").field("postgres", &self.postgres).finish_non_exhaustive()
    }
}

impl<L: Library> fmt::Debug for LibraryClient<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LibraryClient").field("line", &self.session.line).finish_non_exhaustive()
    }
}

//! [`Postgres`]: what a pool has to know of the protocol.

use std::fmt;

use tokio::time::Instant;

use super::cancel::Canceller;
use super::client::Client;
use super::driver::SessionDriver;
use super::driver_stream::DriverStream;
use super::encryption::{Negotiated, NegotiatedConnect, TlsPolicy};
use super::error::Error;
use super::line::Line;
use super::notify::NotificationBoard;
use super::reset::{self, RecyclingMethod, SessionClient};
use super::role::{ServerRole, Target};
use super::session::Session;
use super::session_scanner::SessionScanner;
use super::statements::{self, PoolCounts, StatementCache, Statements};
use super::unclaimed::UnclaimedStatements;
use super::url::KeepaliveOptions;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, OnceLock};
use livepool::net::PeerAddr;
use livepool::protocol::{Credentials, CredentialsRequest, CredentialsSource, Wire};
use livepool::protocol::{Protocol, StatementCounts, Verdict};
use livepool::setup::PoolOptions;
#[cfg(feature = "tls")]
use livepool_tls::Tls;

/// Connections to PostgreSQL: as whom, to which database, and what is done to one that comes back.
///
/// Cloning is cheap.
///
/// ```
/// use livepool_postgres::{Postgres, RecyclingMethod};
///
/// # fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = Postgres::from_url("postgres://app:secret@db.internal/orders")?
///     .with_recycling(RecyclingMethod::Clean)
///     .with_config(|config| config.with_max_size(4))
///     .pool()?;
/// # Ok(()) }
/// # f().unwrap();
/// ```
#[derive(Clone)]
pub struct Postgres {
    pub(super) config: Arc<tokio_postgres::Config>,
    /// The configuration of its pool.
    pub(super) pool_config: livepool::Config,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<Tls>,
    /// Whether `tls` was made from the files that the URL names.
    #[cfg(feature = "tls")]
    pub(super) has_tls_files: bool,
    /// Whether [`with_tls`](Self::with_tls) was called.
    pub(super) was_given_tls: bool,
    /// The options of the URL about keepalive.
    pub(super) keepalive: KeepaliveOptions,
    recycling: RecyclingMethod,
    target: Target,
    statements: Statements,
    capacity: usize,
    /// Who logs in, where that is asked for each dial.
    credentials: Option<CredentialsSource>,
    /// The generation of prepared statements, of all connections. Statements of an older one are
    /// prepared anew.
    pub(super) generation: Arc<AtomicU64>,
    /// What the statements of its pool come to.
    counts: PoolCounts,
}

impl Postgres {
    /// A protocol with these settings. Sockets and hosts are the pool's business: see
    /// [`config`](Self::config).
    pub fn new(config: tokio_postgres::Config) -> Self {
        let mut new = Self {
            target: Target::of(config.get_target_session_attrs()),
            config: Arc::new(config),
            pool_config: livepool::Config::default(),
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "tls")]
            has_tls_files: false,
            was_given_tls: false,
            keepalive: KeepaliveOptions::default(),
            recycling: RecyclingMethod::default(),
            statements: Statements::default(),
            capacity: statements::CAPACITY,
            credentials: None,
            generation: Arc::default(),
            counts: PoolCounts::default(),
        };
        // Hosts that cannot be used are told of when a pool is made, which may be given others.
        let config = livepool::Config::default().with_upstream(new.upstream().unwrap_or_default());
        new.pool_config = new.config_on(config, &PoolOptions::default());
        new
    }

    /// Encrypts with this, as `sslmode` says: `require`, `verify-ca` and `verify-full` always, `prefer`
    /// (the default) and `allow` where the server has TLS, `disable` never. Whenever it encrypts, it
    /// verifies as this says: [`Tls::builder`] the authority, the name and the time, [`Tls::new`]
    /// what its configuration does.
    ///
    /// Under `prefer` whoever is between us and the server decides. A connection in clear is an
    /// event ([`Event::Unencrypted`](livepool::Event::Unencrypted)); `sslmode=require` rules it
    /// out.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(self, tls: Tls) -> Self {
        Self { tls: Some(tls), was_given_tls: true, ..self }
    }

    /// Sets how a connection that comes back is made fit for its next user. Default
    /// [`RecyclingMethod::Tidy`].
    #[must_use]
    pub fn with_recycling(self, recycling: RecyclingMethod) -> Self {
        Self { recycling, ..self }
    }

    /// Sets which of several servers to use. Default: as `target_session_attrs` of the URL says,
    /// else any.
    #[must_use]
    pub fn with_target(self, target: Target) -> Self {
        Self { target, ..self }
    }

    /// Sets the number of prepared statements that each connection keeps. Default 256; with 0
    /// nothing is kept.
    #[must_use]
    pub fn with_statement_cache(self, capacity: usize) -> Self {
        Self { capacity, ..self }
    }

    /// Whether sessions keep prepared statements. Default [`Statements::Named`]; behind a proxy that may
    /// give each transaction another session, [`Statements::Unnamed`].
    #[must_use]
    pub fn with_statements(self, statements: Statements) -> Self {
        Self { statements, ..self }
    }

    /// Has this callback asked for the password of every dial, and for its user, if that changes, too:
    /// a token of a cloud's IAM, what a Vault gives out. What the URL says of them is not used then; a
    /// session that is logged in stays so, whatever becomes of its token.
    ///
    /// The callback is asked once per dial, when the connection stands and is encrypted, by at most
    /// [`max_connecting`](livepool::Config::max_connecting) dials at a time, and within what is left of
    /// `timeouts.connect`: one that gives a token of its cache answers at once. One that fails, panics
    /// or takes too long fails the dial with [`Error::Credentials`]; the pool pauses and tries again, as
    /// after any other failure.
    ///
    /// Credentials that the server refuses (`28P01`, `28000`) are asked for once more, with
    /// [`was_refused`](livepool::protocol::CredentialsRequest::was_refused) set, while the caller waits;
    /// if the new ones are refused as well, that is told at once, as a wrong password is.
    ///
    /// ```no_run
    /// # async fn token_for(host: Option<&str>, fresh: bool) -> std::io::Result<String> { Ok(String::new()) }
    /// # fn f() -> Result<(), Box<dyn std::error::Error>> {
    /// use livepool_postgres::{Credentials, Postgres};
    ///
    /// let pool = Postgres::from_url("postgres://orders@db.example/orders")?
    ///     .with_credentials(|request| async move {
    ///         let token = token_for(request.host(), request.was_refused()).await?;
    ///         std::io::Result::Ok(Credentials::password_only(token))
    ///     })
    ///     .pool()?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn with_credentials<F, R, E>(self, callback: F) -> Self
    where
        F: Fn(CredentialsRequest) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Credentials, E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        Self { credentials: Some(CredentialsSource::new(callback)), ..self }
    }

    /// Asks for the credentials of a session that is about to begin, if there is whom to ask.
    async fn credentials(&self, wire: &Wire) -> Result<Option<Credentials>, Error> {
        let Some(source) = &self.credentials else { return Ok(None) };
        source.ask(wire).await.map(Some).map_err(Error::Credentials)
    }

    /// Notes what became of a login with these credentials.
    fn logged_in<T>(
        &self,
        credentials: Option<&Credentials>,
        login: Result<T, tokio_postgres::Error>,
    ) -> Result<T, Error> {
        let (Some(source), Some(credentials)) = (&self.credentials, credentials) else {
            return Ok(login?);
        };
        login.inspect(|_| source.accepted()).map_err(|error| {
            let is_of_login = error.code().is_some_and(|code| code.code().starts_with("28"));
            match is_of_login && source.refused(credentials) {
                true => Error::CredentialsRefused(error),
                false => Error::Postgres(error),
            }
        })
    }

    /// Begins a session, with its driver and all that watches it.
    pub(super) async fn log_in(
        &self,
        wire: Wire,
    ) -> Result<(tokio_postgres::Client, Session), Error> {
        // Whatever way the pool was built: what the URL demands is done or refused.
        self.check_demands().map_err(Error::Setup)?;
        let began = Instant::now();
        let peer = wire.peer_addr().clone();
        let Negotiated { wire, encryption, end_point } =
            self.tls_policy(&peer).negotiate(wire).await?;
        let credentials = self.credentials(&wire).await?;
        let driver = wire.driver();
        let line = Line::new(driver.state());
        // Its ledger only repeats what the line knows.
        // Before the first byte of the startup: the scanner has to see both directions from the beginning.
        drop(wire.scan(SessionScanner::new(&line, self.target, &self.generation)));
        let mut config = (*self.config).clone();
        if let Some(credentials) = &credentials {
            config.password(credentials.password());
            if let Some(user) = credentials.user() {
                config.user(user);
            }
        }
        NegotiatedConnect::configure(encryption.is_some(), &mut config);
        let (side, linger) = (wire.side_channel(), wire.linger());
        let stream = DriverStream::new(wire, &line, end_point);
        let login = config.connect_raw(stream, NegotiatedConnect).await;
        let (client, connection) = self.logged_in(credentials.as_ref(), login)?;
        let handshake = began.elapsed();

        let canceller = Canceller::new(client.cancel_token(), side, encryption);
        let (board, end) = (Arc::<NotificationBoard>::default(), Arc::<OnceLock<_>>::default());
        let session = Session {
            line: Arc::clone(&line),
            board: Arc::clone(&board),
            canceller: canceller.clone(),
            end: Arc::clone(&end),
            handshake,
        };
        // Before the role is asked for: without the driver no answer would be read.
        let driver = SessionDriver { connection, driver, line, board, end, canceller, linger };
        tokio::spawn(driver.run());
        if self.target != Target::Any {
            // Servers since PostgreSQL 14 report their role in the handshake, which saves a round trip.
            let role = match session.line.role() {
                Some(role) => role,
                None => ServerRole::ask(&client).await?,
            };
            if !self.target.accepts(role) {
                return Err(Error::not_wanted(self.target, role));
            }
        }
        // The answer may be complete while the driver still has to send, or to read on.
        session.line.quiet().await;
        Ok((client, session))
    }

    /// Makes a session fit for its next user.
    pub(super) async fn put_right(&self, client: &mut impl SessionClient) -> Result<(), Error> {
        reset::reset(client, &self.recycling).await
    }

    /// Whether a session that comes back can be used again.
    pub(super) fn judge(&self, session: &Session) -> Verdict {
        // Whatever comes from now on is not for the one who was told so far.
        session.board.close();
        // First, so that a token of the last user is stale before anything is judged.
        let was_cancelled = session.canceller.note_return();
        let line = &session.line;
        if line.is_lost() || line.unclaimed().is_some_and(UnclaimedStatements::is_full) {
            return Verdict::Close;
        }
        let left = line.unclaimed().map_or(0, UnclaimedStatements::len);
        let is_known = left == 0 && !line.doubts_role() && !was_cancelled && !line.is_unsure();
        let is_clean = line.is_quiet() && !line.is_in_transaction() && !line.listens() && is_known;
        if is_clean && self.recycling.sql(line.is_touched()).is_none() {
            Verdict::Keep
        } else {
            Verdict::NeedsReset
        }
    }

    pub(super) fn has_tls(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        false
    }

    /// Whether the URL names the files of certificates.
    pub(super) fn has_tls_files(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.has_tls_files;
        #[cfg(not(feature = "tls"))]
        false
    }

    fn tls_policy(&self, peer: &PeerAddr) -> TlsPolicy {
        #[cfg(not(feature = "tls"))]
        let _ = peer;
        TlsPolicy {
            mode: self.config.get_ssl_mode(),
            #[cfg(feature = "tls")]
            negotiation: self.config.get_ssl_negotiation(),
            #[cfg(feature = "tls")]
            tls: self.tls.clone(),
            #[cfg(feature = "tls")]
            name: self.name_of(peer).map(ToOwned::to_owned),
        }
    }
}

impl Protocol for Postgres {
    type Client = Client;
    type Error = Error;

    async fn connect(&self, wire: Wire) -> Result<Client, Error> {
        let (client, session) = self.log_in(wire).await?;
        let statements = Arc::new(StatementCache::new(
            self.statements,
            self.capacity,
            &session.line,
            &self.generation,
            &self.counts,
        ));
        Ok(Client { client, statements, session })
    }

    async fn ping(&self, client: &mut Client) -> Result<(), Error> {
        Ok(client.client.batch_execute("").await?)
    }

    fn reuse(&self, client: &Client) -> Verdict {
        self.judge(&client.session)
    }

    async fn reset(&self, client: &mut Client) -> Result<(), Error> {
        self.put_right(client).await
    }

    fn settled(&self, client: &Client) {
        client.session.line.settle_with_subscriptions();
    }

    fn is_unsettled(&self, client: &Client) -> bool {
        client.session.line.is_unsettled()
    }

    fn classify(&self, error: &Error) -> Verdict {
        self.verdict_on(error)
    }

    fn statement_counts(&self) -> Option<StatementCounts> {
        Some(self.counts.0.now())
    }

    fn speaks(&self) -> &'static str {
        "PostgreSQL"
    }

    fn is_gibberish(&self, error: &Error) -> bool {
        error.is_gibberish()
    }

    fn code(&self, error: &Error) -> Option<String> {
        error.code().map(|code| code.code().to_owned())
    }

    fn is_permanent(&self, error: &Error) -> bool {
        error.is_permanent()
    }

    fn unread(&self, bytes: &[u8]) -> Verdict {
        super::wire_format::unread(bytes)
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres")
            .field("config", &self.config)
            .field("recycling", &self.recycling)
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

impl Postgres {
    /// What an error says of its connection. Who asked for a server that takes no writes is on the right one.
    pub(super) fn verdict_on(&self, error: &Error) -> Verdict {
        let is_refused =
            error.code() == Some(&tokio_postgres::error::SqlState::READ_ONLY_SQL_TRANSACTION);
        if is_refused && self.target.only_reads() { Verdict::Keep } else { error.verdict() }
    }

    /// Whether a connection that comes back with, or without, state of its user is put right for the next.
    pub(super) fn resets_after(&self, is_touched: bool) -> bool {
        // A mere round trip puts nothing right.
        is_touched && self.recycling.sql(is_touched).is_some_and(|sql| !sql.is_empty())
    }

    /// Has every connection prepare its statements anew, when they are used next: after a change of the
    /// schema, say. (A change that makes a cached statement fail is found by the pool itself.)
    ///
    /// Clones of one [`Postgres`] share this: it concerns the pools of all of them.
    ///
    /// ```no_run
    /// # fn f() -> Result<(), Box<dyn std::error::Error>> {
    /// use livepool_postgres::Postgres;
    ///
    /// let postgres = Postgres::from_url("postgres://me:secret@db.example/orders")?;
    /// let pool = postgres.clone().pool()?;
    /// postgres.clear_statement_caches();
    /// # Ok(()) }
    /// ```
    pub fn clear_statement_caches(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }
}

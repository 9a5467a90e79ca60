//! [`Postgres`]: what a pool has to know of the protocol.

use std::fmt;

use tokio::time::Instant;
use tokio_postgres::NoTls;
use tokio_postgres::config::SslMode;

use super::along::Along;
use super::cancel::Canceller;
use super::client::Client;
use super::driver::Driver;
use super::encryption::Wanted;
use super::error::Error;
use super::line::{Line, Watched};
use super::notify::Board;
use super::reset::{self, RecyclingMethod};
use super::role::{Role, Target};
use super::statements::{self, StatementCache};
use crate::protocol::{Consequence, Protocol, Reuse, Unread};
use crate::stream::Wire;
use crate::sync::{Arc, OnceLock};
#[cfg(feature = "tls")]
use crate::tls::Tls;

/// Connections to PostgreSQL: as whom, to which database, and what is done to one that comes back.
///
/// Cloning is cheap.
#[derive(Clone)]
pub struct Postgres {
    pub(super) config: Arc<tokio_postgres::Config>,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
    recycling: RecyclingMethod,
    target: Target,
    statements: usize,
}

impl Postgres {
    /// With these settings. What concerns sockets and hosts is the pool's business: see
    /// [`config`](Self::config).
    pub fn new(config: tokio_postgres::Config) -> Self {
        Self {
            target: Target::of(config.get_target_session_attrs()),
            config: Arc::new(config),
            #[cfg(feature = "tls")]
            tls: None,
            recycling: RecyclingMethod::default(),
            statements: statements::CAPACITY,
        }
    }

    /// Encrypts with this, as `sslmode` says: `require` always, `prefer` (the default) where the
    /// server has TLS, `disable` never.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(self, tls: Tls) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// What a connection that comes back is made to forget. Default [`RecyclingMethod::Fast`].
    #[must_use]
    pub fn with_recycling(self, recycling: RecyclingMethod) -> Self {
        Self { recycling, ..self }
    }

    /// Which of several servers to use. Default: as `target_session_attrs` of the URL says, else
    /// any.
    #[must_use]
    pub fn with_target(self, target: Target) -> Self {
        Self { target, ..self }
    }

    /// How many prepared statements each connection keeps. Default 256; with 0 nothing is kept.
    #[must_use]
    pub fn with_statement_cache(self, capacity: usize) -> Self {
        Self { statements: capacity, ..self }
    }

    pub(super) fn has_tls(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        false
    }

    #[cfg(feature = "tls")]
    fn wanted(&self) -> Wanted {
        Wanted {
            mode: self.config.get_ssl_mode(),
            negotiation: self.config.get_ssl_negotiation(),
            tls: self.tls.clone(),
        }
    }

    #[cfg(not(feature = "tls"))]
    fn wanted(&self) -> Wanted {
        Wanted
    }
}

impl Protocol for Postgres {
    type Client = Client;
    type Error = Error;

    async fn connect(&self, wire: Wire) -> Result<Client, Error> {
        // Whatever way the pool was built: what the URL demands is done or refused.
        self.check().map_err(Error::Setup)?;
        let began = Instant::now();
        let peer = wire.peer_addr().clone();
        let (wire, encryption) = self.wanted().begin(wire).await?;
        let line = Line::new();
        // Its ledger only repeats what the line knows.
        drop(wire.scan(Along::new(&line, self.target)));
        let mut config = (*self.config).clone();
        // That is done.
        config.ssl_mode(SslMode::Disable);
        let watched = Watched { io: wire, line: Arc::clone(&line) };
        let (client, connection) = config.connect_raw(watched, NoTls).await?;
        let handshake = began.elapsed();

        let canceller = Canceller { token: client.cancel_token(), peer, encryption };
        let (board, end) = (Arc::<Board>::default(), Arc::<OnceLock<_>>::default());
        let client = Client {
            client,
            statements: Arc::new(StatementCache::new(self.statements)),
            line: Arc::clone(&line),
            board: Arc::clone(&board),
            canceller: canceller.clone(),
            end: Arc::clone(&end),
            handshake,
        };
        tokio::spawn(Driver { connection, line, board, end, canceller }.run());
        if self.target != Target::Any {
            let role = match client.line.role() {
                Some(role) => role,
                None => Role::ask(&client).await?,
            };
            if !self.target.accepts(role) {
                return Err(Error::not_wanted(self.target, role));
            }
        }
        client.line.quiet().await;
        Ok(client)
    }

    async fn ping(&self, client: &mut Client) -> Result<(), Error> {
        Ok(client.client.batch_execute("").await?)
    }

    fn reuse(&self, client: &Client) -> Reuse {
        // Whatever comes from now on is not for the one who was told so far.
        client.board.close();
        let line = &client.line;
        if line.is_lost() {
            return Reuse::Never;
        }
        let is_clean = line.is_quiet() && !line.is_in_transaction() && !line.listens();
        if is_clean && self.recycling == RecyclingMethod::Fast {
            Reuse::AsItIs
        } else {
            Reuse::AfterReset
        }
    }

    async fn reset(&self, client: &mut Client) -> Result<(), Error> {
        reset::reset(client, &self.recycling).await
    }

    fn classify(&self, error: &Error) -> Consequence {
        error.consequence()
    }

    fn speaks(&self) -> &'static str {
        "PostgreSQL"
    }

    fn is_gibberish(&self, error: &Error) -> bool {
        error.is_gibberish()
    }

    fn is_permanent(&self, error: &Error) -> bool {
        error.is_permanent()
    }

    fn unread(&self, bytes: &[u8]) -> Unread {
        super::idle::unread(bytes)
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

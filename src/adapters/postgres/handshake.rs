//! The beginning of a session: encryption, start, and whether it is with the server wanted.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_postgres::config::{ChannelBinding, SslMode};
use tokio_postgres::{AsyncMessage, Connection, NoTls, SimpleQueryMessage, tls::NoTlsStream};

use super::cancel::Canceller;
use super::client::Listener;
use super::encryption::Encryption;
use super::scanner::PgScanner;
use super::{Client, Error, Postgres, Target, wants_tls};
#[cfg(feature = "tls")]
use crate::adapters::tls::Tls;
use crate::deadline::Deadline;
use crate::net::PeerAddr;
use crate::stream::Wire;

/// What a query is given to end at the server when its connection has ended.
const LAST_CANCEL: Option<Duration> = Some(Duration::from_secs(1));

impl Postgres {
    pub(super) async fn shake_hands(&self, wire: Wire) -> Result<Client, Error> {
        let peer = wire.peer_addr().clone();
        let (wire, encryption) = self.encrypted(wire).await?;
        let scanner = Arc::new(Mutex::new(PgScanner::new()));
        let ledger = wire.scan(Arc::clone(&scanner));
        let task = wire.driver();
        // The wire is as encrypted as it will be.
        let mut config = self.config.clone();
        config.ssl_mode(SslMode::Disable);
        let (client, connection) = config.connect_raw(wire, NoTls).await?;
        let listener = Listener::default();
        let canceller = Canceller { peer, encryption };
        let driver = Driver {
            connection,
            listener: Arc::clone(&listener),
            scanner: Arc::clone(&scanner),
            canceller: canceller.clone(),
        };
        let (drive, last) = driver.split();
        tokio::spawn(async move {
            task.run(drive).await;
            last.await;
        });
        self.check_target(&client).await?;
        scanner.lock().unwrap_or_else(PoisonError::into_inner).begin();
        Ok(Client::new(client, scanner, ledger, canceller, listener))
    }

    #[cfg(feature = "tls")]
    async fn encrypted(&self, wire: Wire) -> Result<(Wire, Option<Encryption>), Error> {
        let is_unix = matches!(wire.peer_addr(), PeerAddr::Unix(_));
        let is_required = match wants_tls(&self.config) {
            Some(is_required) if !is_unix => is_required,
            _ => return Ok((wire, None)),
        };
        if self.config.get_channel_binding() == ChannelBinding::Require {
            return Err(Error::Settings("channel_binding=require is not supported"));
        }
        let tls = match &self.tls {
            Some(tls) => tls.clone(),
            None if !is_required => return Ok((wire, None)),
            None => {
                let tls = Tls::builder().with_native_roots().build();
                tls.map_err(|error| Error::Tls(std::io::Error::other(error)))?
            }
        };
        let (wire, encryption) = Encryption::begin(&tls, wire).await.map_err(Error::Tls)?;
        if is_required && encryption.is_none() {
            return Err(Error::Settings("sslmode=require, and the server has no TLS"));
        }
        Ok((wire, encryption))
    }

    #[cfg(not(feature = "tls"))]
    async fn encrypted(&self, wire: Wire) -> Result<(Wire, Option<Encryption>), Error> {
        let is_unix = matches!(wire.peer_addr(), PeerAddr::Unix(_));
        if wants_tls(&self.config) == Some(true) && !is_unix {
            return Err(Error::Settings("sslmode=require needs the feature \"tls\" of livepool"));
        }
        if self.config.get_channel_binding() == ChannelBinding::Require {
            return Err(Error::Settings("channel_binding=require is not supported"));
        }
        Ok((wire, None))
    }

    async fn check_target(&self, client: &tokio_postgres::Client) -> Result<(), Error> {
        let (question, wanted) = match self.target {
            Target::Any => return Ok(()),
            Target::ReadWrite => ("SHOW transaction_read_only", "off"),
            Target::ReadOnly => ("SHOW transaction_read_only", "on"),
            Target::Primary => ("SELECT pg_catalog.pg_is_in_recovery()", "f"),
            Target::Standby => ("SELECT pg_catalog.pg_is_in_recovery()", "t"),
        };
        let rows = client.simple_query(question).await?;
        let is_wanted = rows.iter().any(|row| match row {
            SimpleQueryMessage::Row(row) => row.get(0) == Some(wanted),
            _ => false,
        });
        if is_wanted { Ok(()) } else { Err(Error::NotWanted(self.target)) }
    }
}

/// The task that reads and writes.
struct Driver {
    connection: Connection<Wire, NoTlsStream>,
    listener: Listener,
    scanner: Arc<Mutex<PgScanner>>,
    canceller: Canceller,
}

impl Driver {
    /// What it does, and what is left to do when it has ended.
    fn split(self) -> (impl Future<Output = ()> + Send, impl Future<Output = ()> + Send) {
        let Self { mut connection, listener, scanner, canceller } = self;
        let drive = async move {
            loop {
                let message = std::future::poll_fn(|cx| connection.poll_message(cx)).await;
                match message {
                    Some(Ok(AsyncMessage::Notification(notification))) => {
                        let listener = listener.lock().unwrap_or_else(PoisonError::into_inner);
                        if let Some(listener) = &*listener {
                            // If whoever listened is gone, nobody misses it.
                            drop(listener.send(notification));
                        }
                    }
                    Some(Ok(AsyncMessage::Notice(notice))) => {
                        tracing::debug!(%notice, "postgres says");
                    }
                    Some(Ok(_)) => {}
                    // Callers are only told that it is closed.
                    Some(Err(error)) => return tracing::debug!(%error, "a session has ended"),
                    None => return,
                }
            }
        };
        let last = async move {
            let key = {
                let scanner = scanner.lock().unwrap_or_else(PoisonError::into_inner);
                scanner.is_busy().then(|| scanner.key().clone())
            };
            // The server works for nobody, and would not notice before it is done.
            if let Some(key) = key {
                let _ = Deadline::after(LAST_CANCEL).run(canceller.cancel(&key)).await;
            }
        };
        (drive, last)
    }
}

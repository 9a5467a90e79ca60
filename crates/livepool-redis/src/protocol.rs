//! The [`Protocol`] of Redis.

use std::sync::Arc;

use ::redis::{ErrorKind, RedisError, RedisResult};

use super::abandoned::AbandonedCommands;
use super::classify;
use super::client::Client;
use super::handshake::shake_hands;
use super::session::SessionState;
use super::settings::Redis;
use super::shared_wire::SharedWire;
use super::transport::Transport;
use livepool::protocol::Wire;
use livepool::protocol::{Protocol, Verdict};

impl Protocol for Redis {
    type Client = Client;
    type Error = RedisError;

    async fn connect(&self, wire: Wire) -> RedisResult<Client> {
        let wire = self.settings.transport.encrypt(wire).await?;
        let state = SessionState::scan(&wire, self.settings.role);
        let shared_wire = SharedWire::new(wire);
        let (connection, driver) = shake_hands(&shared_wire, &state, &self.settings).await?;
        let (settings, abandoned) = (Arc::clone(&self.settings), AbandonedCommands::default());
        Ok(Client { connection, driver, shared_wire, state, abandoned, settings })
    }

    async fn ping(&self, client: &mut Client) -> RedisResult<()> {
        client.ping().await
    }

    fn reuse(&self, client: &Client) -> Verdict {
        let Client { state, abandoned, .. } = client;
        if state.is_unusable() || abandoned.has_blocking() {
            Verdict::Close
        } else if state.needs_reset() || abandoned.has_any() {
            Verdict::NeedsReset
        } else {
            Verdict::Keep
        }
    }

    async fn reset(&self, client: &mut Client) -> RedisResult<()> {
        client.reset_session().await?;
        if client.state.is_unusable() || client.state.needs_reset() {
            return Err(RedisError::from((ErrorKind::Client, "it is not as it was")));
        }
        Ok(())
    }

    fn classify(&self, error: &RedisError) -> Verdict {
        classify::classify(error, self.settings.role).0
    }

    fn code(&self, error: &RedisError) -> Option<String> {
        classify::classify(error, self.settings.role).1
    }

    fn is_permanent(&self, error: &RedisError) -> bool {
        classify::is_permanent(error)
    }

    fn speaks(&self) -> &'static str {
        if matches!(self.settings.transport, Transport::Plain) { "Redis" } else { "Redis over TLS" }
    }

    fn is_gibberish(&self, error: &RedisError) -> bool {
        matches!(error.kind(), ErrorKind::Parse | ErrorKind::Io)
    }

    fn unread(&self, bytes: &[u8]) -> Verdict {
        super::unread(bytes)
    }
}

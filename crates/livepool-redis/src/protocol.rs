//! What a pool has to know of Redis.

use std::sync::Arc;

use ::redis::{ErrorKind, RedisError, RedisResult};

use super::abandoned::Left;
use super::classify;
use super::client::Client;
use super::handshake::shake_hands;
use super::session::State;
use super::settings::Redis;
use super::shared_wire::Slot;
use super::transport::Secrecy;
use livepool::protocol::Wire;
use livepool::protocol::{Protocol, Verdict};

impl Protocol for Redis {
    type Client = Client;
    type Error = RedisError;

    async fn connect(&self, wire: Wire) -> RedisResult<Client> {
        let wire = self.settings.secrecy.begin(wire).await?;
        let state = State::along(&wire, self.settings.role);
        let slot = Slot::new(wire);
        let (connection, driver) = shake_hands(&slot, &state, &self.settings).await?;
        let (settings, left) = (Arc::clone(&self.settings), Left::default());
        Ok(Client { connection, driver, slot, state, left, settings })
    }

    async fn ping(&self, client: &mut Client) -> RedisResult<()> {
        client.ping().await
    }

    fn reuse(&self, client: &Client) -> Verdict {
        let Client { state, left, .. } = client;
        if state.is_beyond_repair() || left.waiting() {
            Verdict::Close
        } else if state.needs_repair() || left.any() {
            Verdict::NeedsReset
        } else {
            Verdict::Keep
        }
    }

    async fn reset(&self, client: &mut Client) -> RedisResult<()> {
        client.repair().await?;
        if client.state.is_beyond_repair() || client.state.needs_repair() {
            return Err(RedisError::from((ErrorKind::Client, "it is not as it was")));
        }
        Ok(())
    }

    fn classify(&self, error: &RedisError) -> Verdict {
        classify::consequence(error, self.settings.role).0
    }

    fn code(&self, error: &RedisError) -> Option<String> {
        classify::consequence(error, self.settings.role).1
    }

    fn is_permanent(&self, error: &RedisError) -> bool {
        classify::is_permanent(error)
    }

    fn speaks(&self) -> &'static str {
        if matches!(self.settings.secrecy, Secrecy::Plain) { "Redis" } else { "Redis over TLS" }
    }

    fn is_gibberish(&self, error: &RedisError) -> bool {
        matches!(error.kind(), ErrorKind::Parse | ErrorKind::Io)
    }

    fn unread(&self, bytes: &[u8]) -> Verdict {
        super::unread(bytes)
    }
}

//! The [`Protocol`] of Redis.

use std::sync::Arc;

use ::redis::{ErrorKind, RedisError, RedisResult};

use super::abandoned::AbandonedCommands;
use super::classify;
use super::client::Client;
use super::handshake::{Login, shake_hands};
use super::session::SessionState;
use super::settings::Redis;
use super::shared_wire::SharedWire;
use super::transport::Transport;
use livepool::protocol::{Credentials, CredentialsError, CredentialsSource};
use livepool::protocol::{Protocol, Verdict, Wire};
use livepool::setup::FromUrl;

impl Protocol for Redis {
    type Client = Client;
    type Error = RedisError;

    async fn connect(&self, wire: Wire) -> RedisResult<Client> {
        // A pool may be built without a check: nobody is to be logged in as somebody else.
        FromUrl::check(self).map_err(|error| {
            let what = "the settings are refused";
            RedisError::from((ErrorKind::InvalidClientConfig, what, error.to_string()))
        })?;
        let wire = self.settings.transport.encrypt(wire).await?;
        let credentials = match &self.settings.credentials {
            Some(source) => Some(source.ask(&wire).await.map_err(not_given)?),
            None => None,
        };
        let state = SessionState::scan(&wire, self.settings.role);
        let shared_wire = SharedWire::new(wire);
        let login = match &credentials {
            Some(credentials) => Login::with(credentials, &self.settings),
            None => Login::of(&self.settings),
        };
        let shaken = shake_hands(&shared_wire, &state, &self.settings, login).await;
        let (connection, driver) = match (&self.settings.credentials, &credentials) {
            (Some(source), Some(credentials)) => logged_in(source, credentials, shaken)?,
            _ => shaken?,
        };
        let (settings, abandoned) = (Arc::clone(&self.settings), AbandonedCommands::default());
        Ok(Client { connection, driver, shared_wire, state, abandoned, settings })
    }

    async fn ping(&self, client: &mut Client) -> RedisResult<()> {
        client.ping().await
    }

    fn reuse(&self, client: &Client) -> Verdict {
        let Client { state, abandoned, .. } = client;
        // Nobody knows when a command that blocks is answered, so a reset could wait for ever.
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
        // A reset that failed in part must not pass the connection on.
        if client.state.is_unusable() || client.state.needs_reset() {
            return Err(RedisError::from((ErrorKind::Client, "it is not as it was")));
        }
        Ok(())
    }

    fn settled(&self, client: &Client) {
        client.state.settle();
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

/// As a server that is not ready: the next dial may have them.
fn not_given(error: CredentialsError) -> RedisError {
    RedisError::from((ErrorKind::Client, "there are no credentials", error.to_string()))
}

/// Notes what became of a login with these credentials.
fn logged_in<T>(
    source: &CredentialsSource,
    credentials: &Credentials,
    login: RedisResult<T>,
) -> RedisResult<T> {
    login.inspect(|_| source.accepted()).map_err(|error| {
        if error.kind() != ErrorKind::AuthenticationFailed || !source.refused(credentials) {
            return error;
        }
        let said = error.detail().unwrap_or_default().to_owned();
        RedisError::from((ErrorKind::Client, "the server refused the credentials", said))
    })
}

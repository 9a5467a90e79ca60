//! [`CredentialsSource`]: who logs in, asked anew for every dial.
//!
//! Tokens of a cloud's IAM last minutes, passwords of a Vault hours. A connection that is logged in
//! stays so; only the next dial needs the next one.

use std::error::Error;
use std::fmt;
use std::future::Future;

use futures_util::future::BoxFuture;

use super::Wire;
use crate::causes::OneLine;
use crate::deadline::Elapsed;
use crate::foreign::{self, Held, Panicked};
use crate::net::PeerAddr;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::text;

/// A user and a password, or a token in its place. `Debug` shows neither.
///
/// ```
/// use livepool::protocol::Credentials;
///
/// let token = "eyJhbGciOi".to_owned();
/// let credentials = Credentials::new("orders", token);
/// assert_eq!(credentials.user(), Some("orders"));
/// assert!(!format!("{credentials:?}").contains("eyJ"));
/// ```
#[derive(Clone)]
pub struct Credentials {
    user: Option<String>,
    password: String,
    /// They were asked for after others had been refused.
    is_second_try: bool,
}

impl Credentials {
    /// This user with this password.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self { user: Some(user.into()), password: password.into(), is_second_try: false }
    }

    /// The user that the protocol was given, in its URL say, with this password.
    pub fn password_only(password: impl Into<String>) -> Self {
        Self { user: None, password: password.into(), is_second_try: false }
    }

    /// The user, if there is another than the protocol was given.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The password.
    pub fn password(&self) -> &str {
        &self.password
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// What a callback for credentials is told: for which connection they are.
///
/// ```
/// use livepool::protocol::{Credentials, CredentialsRequest};
///
/// async fn from_vault(request: CredentialsRequest) -> std::io::Result<Credentials> {
///     let is_cache_stale = request.was_refused();
///     // ...
/// #   let _ = is_cache_stale;
///     Ok(Credentials::new("orders", "from the vault"))
/// }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CredentialsRequest {
    peer: PeerAddr,
    host: Option<Arc<str>>,
    was_refused: bool,
}

impl CredentialsRequest {
    /// The address of the connection that is to be logged in.
    pub fn peer(&self) -> &PeerAddr {
        &self.peer
    }

    /// The name in the pool's `upstream` under which that address was found, which a token may be bound
    /// to; `None` where it was an address from the start.
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// Whether the last credentials that were used were refused: a callback that keeps some asks for new
    /// ones then.
    pub fn was_refused(&self) -> bool {
        self.was_refused
    }
}

/// A callback for credentials that gave none. Its own words, if it has some, are in the text, on one
/// line and cut; of a URL among them only the host is shown.
///
/// ```
/// use livepool::protocol::CredentialsError;
///
/// fn is_for_later(error: &CredentialsError) -> bool {
///     matches!(error, CredentialsError::TimedOut)
/// }
/// assert!(is_for_later(&CredentialsError::TimedOut));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CredentialsError {
    /// The callback returned an error, with this text.
    Failed(String),
    /// The callback panicked.
    Panicked,
    /// The callback was not done when the time of the dial (`timeouts.connect`) was over.
    TimedOut,
}

impl fmt::Display for CredentialsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(why) => write!(f, "the callback for credentials failed: {why}"),
            Self::Panicked => f.write_str("the callback for credentials panicked"),
            Self::TimedOut => f.write_str(
                "the callback for credentials gave none within the time of the dial \
                 (timeouts.connect)",
            ),
        }
    }
}

/// The text carries the cause, so there is no source.
impl Error for CredentialsError {}

type Answer = Result<Credentials, CredentialsError>;
type Callback = dyn Fn(CredentialsRequest) -> BoxFuture<'static, Answer> + Send + Sync;

/// Where a protocol gets the credentials of a dial from, for whoever implements one. Cloning is cheap,
/// and clones share what they know of a refusal.
///
/// ```
/// use livepool::protocol::{Credentials, CredentialsError, CredentialsSource, Wire};
///
/// async fn log_in(source: &CredentialsSource, wire: &Wire) -> Result<(), CredentialsError> {
///     let credentials = source.ask(wire).await?;
///     let is_welcome = !credentials.password().is_empty(); // ask the server
///     if is_welcome { source.accepted() } else { drop(source.refused(&credentials)) }
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct CredentialsSource {
    callback: Arc<Held<Box<Callback>>>,
    was_refused: Arc<AtomicBool>,
}

impl CredentialsSource {
    /// A source that asks this callback.
    pub fn new<F, R, E>(callback: F) -> Self
    where
        F: Fn(CredentialsRequest) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Credentials, E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let callback: Box<Callback> = Box::new(move |request| {
            let answer = callback(request);
            Box::pin(async move {
                answer.await.map_err(|error| {
                    let error = error.into();
                    CredentialsError::Failed(text::without_urls(&OneLine(&*error).to_string()))
                })
            })
        });
        Self { callback: Arc::new(Held::new(callback)), was_refused: Arc::default() }
    }

    /// Asks for the credentials of this connection, until its dial is over
    /// ([`Wire::dial_deadline`]).
    ///
    /// # Errors
    ///
    /// [`CredentialsError`], if the callback fails, panics or takes too long.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops that of the callback.
    pub async fn ask(&self, wire: &Wire) -> Answer {
        let was_refused = self.was_refused.load(Ordering::Acquire);
        let (peer, host) = (wire.peer_addr().clone(), wire.host().map(Arc::from));
        let request = CredentialsRequest { peer, host, was_refused };
        let callback = &self.callback;
        let asked = foreign::future(async move { callback(request).await });
        match wire.dial_deadline().run(asked).await {
            Ok(Ok(answer)) => {
                answer.map(|credentials| Credentials { is_second_try: was_refused, ..credentials })
            }
            Ok(Err(Panicked)) => Err(CredentialsError::Panicked),
            Err(Elapsed) => Err(CredentialsError::TimedOut),
        }
    }

    /// Notes that the peer took the credentials.
    pub fn accepted(&self) {
        self.was_refused.store(false, Ordering::Release);
    }

    /// Notes that the peer refused these credentials. Returns whether another dial may have better ones:
    /// not if these were asked for because others had been refused.
    pub fn refused(&self, credentials: &Credentials) -> bool {
        self.was_refused.store(true, Ordering::Release);
        !credentials.is_second_try
    }
}

impl fmt::Debug for CredentialsSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CredentialsSource")
    }
}

//! [`Feed`]: a subscription as its protocol sees it.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use super::{Listen, Shared};
use crate::sync::Arc;

/// A [`Subscription`](crate::Subscription) as its protocol sees it: what is wanted, and where to put what
/// comes. Cloning is cheap.
///
/// ```
/// use livepool::protocol::{Feed, Listen};
///
/// /// The server has confirmed all that is wanted, and then sent this.
/// fn begin<P: Listen>(feed: &Feed<P>, first: P::Message) {
///     feed.confirm(&feed.wanted());
///     feed.deliver(first);
/// }
/// ```
pub struct Feed<P: Listen>(pub(super) Arc<Shared<P>>);

impl<P: Listen> Feed<P> {
    /// The channels to be subscribed to now.
    pub fn wanted(&self) -> BTreeSet<P::Channel> {
        self.0.wanted.now()
    }

    /// Resolves when [`wanted`](Self::wanted) may have changed since this last resolved.
    ///
    /// # Cancel safety
    ///
    /// No change is lost.
    pub async fn changed(&self) {
        self.0.wanted.changed().await;
    }

    /// The server has confirmed that exactly these are subscribed to on this connection. The first time
    /// that all that is wanted is among them, the user is told that there is a connection again, and
    /// given what came before.
    pub fn confirm(&self, channels: &BTreeSet<P::Channel>) {
        if self.0.wanted.confirm(channels) {
            self.0.mailbox.connected();
            self.0.wanted.is_up();
        }
    }

    /// The server has refused this channel. If it is a new one, whoever asked for it is told, and it is
    /// wanted no more.
    ///
    /// # Errors
    ///
    /// The error, if the channel was subscribed to before: to go on without it would be to lose messages
    /// without a word. [`Listen::follow`] ends with it, and it is tried again later.
    pub fn refuse(&self, channel: &P::Channel, error: P::Error) -> Result<(), P::Error> {
        self.0.wanted.refuse(channel, error)
    }

    /// A message came.
    pub fn deliver(&self, message: P::Message) {
        let size = P::size_of(&message);
        self.0.mailbox.put(message, size);
    }

    /// See [`SubscriptionConfig::heartbeat`](crate::SubscriptionConfig::heartbeat).
    pub fn heartbeat(&self) -> Option<Duration> {
        self.0.heartbeat
    }
}

impl<P: Listen> Clone for Feed<P> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<P: Listen> fmt::Debug for Feed<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Feed").field(&self.0.wanted.now()).finish()
    }
}

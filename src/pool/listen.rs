//! [`Subscription`]: messages that a server sends unasked, over whatever connections they take.
//!
//! A task of its own (`task`) takes a connection from the pool and has the protocol ([`Listen`]) follow
//! the channels on it; when that ends, whatever the reason, it takes another one. What comes goes into a
//! mailbox of bounded size (`mailbox`), from which the user reads. Which channels are wanted, and which
//! of them the server has confirmed, is in `channels`.

mod channels;
mod feed;
mod mailbox;
mod task;

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::config::{ConfigError, SubscriptionConfig};
use crate::error::CheckoutError;
use crate::event::CloseReason;
use crate::pool::acquire::checkout::{self, Until};
use crate::pool::{Guard, Pool};
use crate::protocol::{OneLine, Protocol};
use crate::sync::Arc;

use channels::Wanted;
pub use feed::Feed;
use mailbox::Mailbox;

/// A protocol whose server sends messages to whoever has subscribed to a channel. See
/// [`Pool::listen`](crate::Pool::listen).
///
/// ```
/// use std::io;
/// use std::pin::Pin;
///
/// use livepool::Guard;
/// use livepool::protocol::{Feed, Listen, Protocol, Wire};
/// use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
///
/// /// A server that sends a line for whatever happens in a room that was entered.
/// struct Chat;
///
/// impl Protocol for Chat {
///     type Client = BufReader<Wire>;
///     type Error = io::Error;
///
///     async fn connect(&self, wire: Wire) -> io::Result<BufReader<Wire>> {
///         Ok(BufReader::new(wire))
///     }
///
///     async fn ping(&self, _: &mut BufReader<Wire>) -> io::Result<()> {
///         Ok(())
///     }
/// }
///
/// impl Listen for Chat {
///     type Channel = String;
///     type Message = String;
///
///     async fn follow(&self, chat: &mut Guard<Self>, feed: &Feed<Self>) -> io::Error {
///         match talk(chat, feed).await {
///             Ok(()) => io::ErrorKind::UnexpectedEof.into(),
///             Err(error) => error,
///         }
///     }
///
///     fn size_of(message: &String) -> usize {
///         message.len()
///     }
/// }
///
/// /// For rooms that are known from the start. `crates/livepool-redis/src/listen.rs` does more: it heeds
/// /// [`Feed::changed`], the server's word for each channel, and [`Feed::heartbeat`].
/// async fn talk(chat: &mut Guard<Chat>, feed: &Feed<Chat>) -> io::Result<()> {
///     let rooms = feed.wanted();
///     for room in &rooms {
///         chat.write_all(format!("ENTER {room}\n").as_bytes()).await?;
///     }
///     feed.confirm(&rooms);
///     let mut line = String::new();
///     while chat.read_line(&mut line).await? > 0 {
///         feed.deliver(std::mem::take(&mut line));
///     }
///     Ok(())
/// }
/// ```
pub trait Listen: Protocol + Sized {
    /// What is subscribed to: the name of a channel, say.
    type Channel: Ord + Clone + fmt::Debug + Send + Sync + 'static;

    /// What comes.
    type Message: Send + 'static;

    /// Subscribes to what is [wanted](Feed::wanted) and delivers what comes, until the connection is of
    /// no use any more. Another one is taken then, and this is called again.
    ///
    /// While this runs no time limit holds for the connection, and the peer's host has to give signs of
    /// life. Whether its program does is for this to find out, every [`heartbeat`](Feed::heartbeat).
    ///
    /// # Errors
    ///
    /// Why it is of no use: the error of the connection, a server that does not answer, a subscription
    /// that is refused and was not before.
    ///
    /// # Cancel safety
    ///
    /// Dropped when the subscription or the pool ends, or the pool has no use for the connection: at any
    /// await.
    fn follow(
        &self,
        guard: &mut Guard<Self>,
        feed: &Feed<Self>,
    ) -> impl Future<Output = Self::Error> + Send;

    /// The bytes that a message takes, about: what is kept for a slow reader is bounded by that.
    fn size_of(message: &Self::Message) -> usize;
}

/// One thing that a [`Subscription`] gives. Whatever is no [`Message`](Self::Message) says that messages
/// may be missing here.
///
/// ```
/// use livepool::Delivery;
///
/// fn told(delivery: Delivery<String>) -> String {
///     match delivery {
///         Delivery::Message(message) => message,
///         Delivery::Reconnected { reason, gap, .. } => format!("away for {gap:?}: {reason}"),
///         Delivery::Missed { count, .. } => format!("{count} were not taken in time"),
///         _ => "something may be missing".to_owned(),
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delivery<M> {
    /// A message.
    Message(M),
    /// The connection had ended, and all channels are subscribed to on another one. What was sent in
    /// between is lost. This comes when the server has confirmed the last channel, before any message of
    /// the new connection: who looks up now what he may have missed misses nothing.
    #[non_exhaustive]
    Reconnected {
        /// Why the last connection ended.
        reason: CloseReason,
        /// For how long there was none. Of several in a row that nobody has read yet, all together.
        gap: Duration,
    },
    /// So many messages were dropped here, the oldest ones, because they were not taken in time: see
    /// [`SubscriptionConfig`].
    #[non_exhaustive]
    Missed {
        /// The number of messages.
        count: u64,
    },
}

/// Why there is no subscription.
///
/// ```
/// use livepool::ListenError;
///
/// /// Whether the server itself said no.
/// fn is_refused<E>(error: &ListenError<E>) -> bool {
///     matches!(error, ListenError::Refused(_))
/// }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum ListenError<E> {
    /// The configuration is not valid.
    Config(ConfigError),
    /// The pool gave no connection.
    Checkout(CheckoutError),
    /// The server has refused it, or the connection ended before the server had confirmed it.
    Refused(Arc<E>),
    /// The subscription has ended, since the pool was closed.
    Closed,
}

impl<E: Error + 'static> fmt::Display for ListenError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Checkout(error) => error.fmt(f),
            Self::Refused(error) => write!(f, "not subscribed: {}", OneLine(&**error)),
            Self::Closed => f.write_str("the subscription has ended: its pool is closed"),
        }
    }
}

impl<E: Error + 'static> Error for ListenError<E> {}

/// Messages of the channels that it is subscribed to, over whatever connections they take. Get one with
/// [`Pool::listen`](crate::Pool::listen).
///
/// It subscribes again by itself when its connection has ended: the server was restarted, killed or
/// superseded, the network is gone, the process stands still, the pool was
/// [invalidated](crate::Pool::invalidate). Then it says [`Delivery::Reconnected`], since servers keep no
/// messages for those who are away. It tries again for as long as it lives, as often as the pool dials
/// and as [`Backoff`](crate::Backoff) says.
///
/// It has a connection of the pool for as long as it lives, and so one of `max_size`; `max_lifetime`,
/// `hold_warning` and the timeouts of the pool are not for it. Dropped, it gives it back. The pool stays
/// open for it when the other handles are dropped; [`Pool::close`](crate::Pool::close) ends it.
///
/// A task of its own takes in what comes, whether or not somebody reads. What is kept is bounded
/// ([`SubscriptionConfig`]), and what is dropped is counted ([`Delivery::Missed`]).
///
/// It is a [`Stream`](futures_util::Stream), too.
///
/// ```
/// use livepool::protocol::Listen;
/// use livepool::{Delivery, Subscription};
///
/// /// The messages, and how often some may have been missed, until the pool is closed.
/// async fn all<P: Listen>(mut subscription: Subscription<P>) -> (Vec<P::Message>, usize) {
///     let (mut messages, mut gaps) = (Vec::new(), 0);
///     while let Some(delivery) = subscription.next().await {
///         match delivery {
///             Delivery::Message(message) => messages.push(message),
///             _ => gaps += 1,
///         }
///     }
///     (messages, gaps)
/// }
/// ```
#[must_use = "dropped, it ends"]
pub struct Subscription<P: Listen> {
    channels: Channels<P>,
    task: JoinHandle<()>,
}

/// The channels of a [`Subscription`], to be changed from elsewhere while it is read. Cloning is cheap.
/// It does not keep the subscription.
///
/// ```
/// use livepool::protocol::Listen;
/// use livepool::{Channels, ListenError};
///
/// async fn move_on<P>(channels: &Channels<P>) -> Result<(), ListenError<P::Error>>
/// where
///     P: Listen<Channel = String>,
/// {
///     channels.listen("new").await?;
///     channels.unlisten("old");
///     Ok(())
/// }
/// ```
pub struct Channels<P: Listen>(Arc<Shared<P>>);

/// What the task, the user and the protocol share.
struct Shared<P: Listen> {
    wanted: Wanted<P::Channel, P::Error>,
    mailbox: Mailbox<P::Message>,
    heartbeat: Option<Duration>,
}

impl<P: Listen> Shared<P> {
    /// Nothing more comes.
    fn end(&self) {
        self.mailbox.close();
        self.wanted.close();
    }
}

impl<P: Listen> Pool<P> {
    /// Subscribes to these channels, with the defaults of [`SubscriptionConfig`].
    ///
    /// ```no_run
    /// use livepool::protocol::Listen;
    /// use livepool::{Delivery, ListenError, Pool};
    ///
    /// # fn handle<M>(message: M) {}
    /// # async fn look_for_what_was_missed() {}
    /// async fn listen<P>(pool: &Pool<P>) -> Result<(), ListenError<P::Error>>
    /// where
    ///     P: Listen<Channel = String>,
    /// {
    ///     let mut subscription = pool.listen(["jobs"]).await?;
    ///     while let Some(delivery) = subscription.next().await {
    ///         match delivery {
    ///             Delivery::Message(message) => handle(message),
    ///             // Reconnected, or Missed.
    ///             _ => look_for_what_was_missed().await,
    ///         }
    ///     }
    ///     Ok(()) // The pool was closed.
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ListenError`]: there is no connection, or the server has refused a channel. Later on nothing but
    /// the end of the pool ends it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the subscription.
    #[track_caller]
    pub fn listen<C: Into<P::Channel>>(
        &self,
        channels: impl IntoIterator<Item = C>,
    ) -> impl Future<Output = Result<Subscription<P>, ListenError<P::Error>>> + Send {
        self.listen_with(channels, SubscriptionConfig::default())
    }

    /// As [`listen`](Self::listen), with this configuration.
    ///
    /// # Errors
    ///
    /// # Cancel safety
    ///
    /// As for [`listen`](Self::listen).
    #[track_caller]
    pub fn listen_with<C: Into<P::Channel>>(
        &self,
        channels: impl IntoIterator<Item = C>,
        config: SubscriptionConfig,
    ) -> impl Future<Output = Result<Subscription<P>, ListenError<P::Error>>> + Send {
        let taken_at = Location::caller();
        let channels: BTreeSet<_> = channels.into_iter().map(Into::into).collect();
        let pool = self.clone();
        async move {
            config.check().map_err(ListenError::Config)?;
            let inner = &pool.handle.0;
            let until = Until::Configured;
            let lease = checkout::checkout(inner, until, taken_at).await;
            let guard = Guard::new(lease.map_err(ListenError::Checkout)?);
            let (up, is_up) = oneshot::channel();
            let shared = Arc::new(Shared {
                wanted: Wanted::new(channels, up),
                mailbox: Mailbox::new(config.max_messages, config.max_bytes),
                heartbeat: config.heartbeat,
            });
            let task = tokio::spawn(task::run(Arc::clone(&shared), pool, guard, taken_at));
            // Dropped with this future, it ends the task.
            let subscription = Subscription { channels: Channels(shared), task };
            match is_up.await {
                Ok(Ok(())) => Ok(subscription),
                Ok(Err(error)) => Err(ListenError::Refused(error)),
                Err(_) => Err(ListenError::Closed),
            }
        }
    }
}

impl<P: Listen> Subscription<P> {
    /// What comes next; `None` when the pool was closed, and everything that came before was read.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the future has taken nothing.
    pub async fn next(&mut self) -> Option<Delivery<P::Message>> {
        poll_fn(|cx| self.poll_delivery(cx)).await
    }

    /// What comes next, if it is there already.
    pub fn try_next(&mut self) -> Option<Delivery<P::Message>> {
        self.shared().mailbox.take()
    }

    /// Subscribes to one channel more. Returns when the server has confirmed it; while there is no
    /// connection, when there is one again.
    ///
    /// # Errors
    ///
    /// [`ListenError::Refused`] by the server, and the others are kept; [`ListenError::Closed`].
    ///
    /// # Cancel safety
    ///
    /// Dropped, the future leaves the channel wanted: it is subscribed to, or the refusal goes to the
    /// log.
    pub async fn listen(
        &self,
        channel: impl Into<P::Channel>,
    ) -> Result<(), ListenError<P::Error>> {
        self.channels.listen(channel).await
    }

    /// Ends the subscription to one channel. Messages that have come are still given, and one that is
    /// on its way may be. Returns whether it was wanted.
    pub fn unlisten(&self, channel: impl Into<P::Channel>) -> bool {
        self.channels.unlisten(channel)
    }

    /// The same two from elsewhere: while another task waits in [`next`](Self::next), say.
    pub fn channels(&self) -> Channels<P> {
        self.channels.clone()
    }

    /// Whether the server has confirmed every channel, on a connection that has not ended as far as is
    /// known.
    pub fn is_connected(&self) -> bool {
        self.shared().mailbox.is_connected()
    }

    fn shared(&self) -> &Shared<P> {
        &self.channels.0
    }

    fn poll_delivery(&mut self, cx: &mut Context<'_>) -> Poll<Option<Delivery<P::Message>>> {
        self.shared().mailbox.poll_take(cx)
    }
}

impl<P: Listen> futures_util::Stream for Subscription<P> {
    type Item = Delivery<P::Message>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_delivery(cx)
    }
}

impl<P: Listen> Drop for Subscription<P> {
    fn drop(&mut self) {
        // Its connection goes back when the runtime drops the task.
        self.task.abort();
        self.shared().end();
    }
}

impl<P: Listen> Channels<P> {
    /// See [`Subscription::listen`].
    ///
    /// # Errors
    ///
    /// # Cancel safety
    ///
    /// As for [`Subscription::listen`].
    pub async fn listen(
        &self,
        channel: impl Into<P::Channel>,
    ) -> Result<(), ListenError<P::Error>> {
        match self.0.wanted.add(channel.into()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(ListenError::Refused(error)),
            Err(_) => Err(ListenError::Closed),
        }
    }

    /// See [`Subscription::unlisten`].
    pub fn unlisten(&self, channel: impl Into<P::Channel>) -> bool {
        self.0.wanted.remove(&channel.into())
    }
}

impl<P: Listen> Clone for Channels<P> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<P: Listen> fmt::Debug for Subscription<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("channels", &self.channels)
            .field("is_connected", &self.is_connected())
            .finish_non_exhaustive()
    }
}

impl<P: Listen> fmt::Debug for Channels<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Channels").field(&self.0.wanted.now()).finish()
    }
}

//! [`Notifications`]: what other sessions say with `NOTIFY`.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::sync::{Arc, Mutex, MutexGuard, PoisonError};
use livepool::protocol::Escaped;

use tokio::sync::broadcast::{self, error::RecvError, error::TryRecvError};
use tokio_postgres::{AsyncMessage, Notification};

/// Notifications that are kept for a subscriber who does not take them.
const MAX_KEPT: usize = 1024;
/// The longest notification in bytes; longer ones are dropped. A server sends at most 8 000 bytes,
/// and less than 32 KiB however it was built.
const MAX_NOTIFICATION: usize = 32 * 1024;

/// The notifications that arrive while a connection is held. See
/// [`Client::notifications`](super::Client::notifications).
///
/// ```
/// # async fn f(pool: livepool::Pool<livepool_postgres::Postgres>) -> Result<(), Box<dyn std::error::Error>> {
/// let client = pool.get().await?;
/// let mut notifications = client.notifications();
/// client.batch_execute("LISTEN jobs").await?;
/// while let Some(notification) = notifications.recv().await {
///     println!("{}: {}", notification.channel(), notification.payload());
/// }
/// // The connection has ended: listen again on another one.
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Notifications {
    receiver: broadcast::Receiver<Notification>,
    missed: u64,
}

impl Notifications {
    /// The next notification; `None` when the connection has ended or was given back. Waiting takes
    /// no read timeout: nothing is owed.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the future has taken no notification.
    pub async fn recv(&mut self) -> Option<Notification> {
        loop {
            match self.receiver.recv().await {
                Ok(notification) => return Some(notification),
                Err(RecvError::Lagged(count)) => self.missed += count,
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// The next notification, if one has arrived already.
    pub fn try_recv(&mut self) -> Option<Notification> {
        loop {
            match self.receiver.try_recv() {
                Ok(notification) => return Some(notification),
                Err(TryRecvError::Lagged(count)) => self.missed += count,
                Err(TryRecvError::Empty | TryRecvError::Closed) => return None,
            }
        }
    }

    /// How many were dropped because they were not taken in time: the last 1024 are kept.
    pub fn missed(&self) -> u64 {
        self.missed
    }
}

/// Where notifications go that somebody follows.
type Post = Box<dyn Fn(Notification) + Send + Sync>;

/// The place where the driver leaves notifications for those who subscribed.
#[derive(Default)]
pub(super) struct NotificationBoard {
    /// The sender, from the first subscription on. No other code runs under the lock.
    sender: Mutex<Option<broadcast::Sender<Notification>>>,
    /// The one who follows. No other code runs under the lock.
    post: Mutex<Option<Arc<Post>>>,
}

/// Ends the following when it is dropped.
#[must_use = "dropped, it ends the following"]
pub(super) struct Posting(Arc<NotificationBoard>);

impl Drop for Posting {
    fn drop(&mut self) {
        let last = self.0.following().take();
        drop(last);
    }
}

impl NotificationBoard {
    /// Has notifications posted there, too, for as long as the returned value lives.
    pub(super) fn post_to(self: Arc<Self>, post: Post) -> Posting {
        let last = self.following().replace(Arc::new(post));
        drop(last);
        Posting(self)
    }

    fn following(&self) -> MutexGuard<'_, Option<Arc<Post>>> {
        self.post.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn subscribe(&self) -> Notifications {
        let mut sender = self.sender();
        let sender = sender.get_or_insert_with(|| broadcast::channel(MAX_KEPT).0);
        Notifications { receiver: sender.subscribe(), missed: 0 }
    }

    /// Ends all subscriptions: the connection has ended, or has another user now.
    pub(super) fn close(&self) {
        let sender = self.sender().take();
        // It wakes whoever waits, outside of the lock.
        drop(sender);
    }

    pub(super) fn post(&self, message: AsyncMessage) {
        match message {
            AsyncMessage::Notification(notification)
                if notification.channel().len() + notification.payload().len()
                    <= MAX_NOTIFICATION =>
            {
                let post = self.following().clone();
                if let Some(post) = post {
                    post(notification.clone());
                }
                let sender = self.sender().clone();
                if let Some(sender) = sender {
                    // Nobody may be left who reads.
                    let _ = sender.send(notification);
                }
            }
            AsyncMessage::Notice(notice) => {
                log(&notice);
            }
            _ => {}
        }
    }

    fn sender(&self) -> MutexGuard<'_, Option<broadcast::Sender<Notification>>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes what the server wants to be read to the log. A subscriber is foreign code: where it panics, the
/// line is lost.
fn log(notice: &tokio_postgres::error::DbError) {
    let (severity, code) = (notice.severity(), notice.code().code());
    let (severity, code, message) =
        (Escaped(&severity), Escaped(&code), Escaped(&notice.message()));
    let _ = catch_unwind(AssertUnwindSafe(
        || tracing::debug!(target: "livepool", %severity, %code, "{message}"),
    ));
}

impl std::fmt::Debug for NotificationBoard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NotificationBoard")
    }
}

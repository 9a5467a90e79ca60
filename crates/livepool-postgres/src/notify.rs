//! [`Notifications`]: what other sessions say with `NOTIFY`.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::sync::{Mutex, MutexGuard, PoisonError};
use livepool::protocol::Escaped;

use tokio::sync::broadcast::{self, error::RecvError, error::TryRecvError};
use tokio_postgres::{AsyncMessage, Notification};

/// How many notifications are kept for one who does not take them.
const MAX_KEPT: usize = 1024;
/// A longer one is none: a server sends at most 8 000 bytes, however it was built less than 32 KiB.
const MAX_NOTIFICATION: usize = 32 * 1024;

/// The notifications that arrive while a connection is held. See
/// [`Client::notifications`](super::Client::notifications).
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
    /// Nothing is lost.
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

/// Where the driver leaves them.
#[derive(Debug, Default)]
pub(super) struct NotificationBoard {
    /// Only used under this lock, nothing else.
    sender: Mutex<Option<broadcast::Sender<Notification>>>,
}

impl NotificationBoard {
    pub(super) fn subscribe(&self) -> Notifications {
        let mut sender = self.sender();
        let sender = sender.get_or_insert_with(|| broadcast::channel(MAX_KEPT).0);
        Notifications { receiver: sender.subscribe(), missed: 0 }
    }

    /// Whoever reads here reads no further: the connection is somebody else's now.
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

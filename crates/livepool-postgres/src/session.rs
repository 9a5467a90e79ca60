//! [`Session`]: what a pool knows of one session, whoever has the client.

use std::time::Duration;

use tokio_postgres::Error;

use super::cancel::{CancelToken, Canceller};
use super::line::Line;
use super::notify::{NotificationBoard, Notifications};
use crate::sync::{Arc, OnceLock};

pub(super) struct Session {
    pub(super) line: Arc<Line>,
    pub(super) board: Arc<NotificationBoard>,
    pub(super) canceller: Canceller,
    /// What the driver ended with.
    pub(super) end: Arc<OnceLock<Error>>,
    /// The time that the handshake took.
    pub(super) handshake: Duration,
}

impl Session {
    pub(super) fn cancel_token(&self) -> CancelToken {
        self.canceller.token()
    }

    pub(super) fn notifications(&self) -> Notifications {
        self.board.subscribe()
    }

    pub(super) fn ended_with(&self) -> Option<&Error> {
        self.end.get()
    }
}

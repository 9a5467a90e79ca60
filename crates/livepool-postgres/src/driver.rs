//! The task that reads and writes for a client, and what it does when that is over.

use std::future::poll_fn;
use std::task::Poll;

use tokio_postgres::{Connection, Error};

use super::cancel::Canceller;
use super::driver_stream::DriverStream;
use super::line::Line;
use super::notify::NotificationBoard;
use crate::sync::{Arc, OnceLock};
use livepool::protocol::{Driver, Linger, Wire, log_trouble};

/// Of one connection.
pub(super) struct SessionDriver {
    pub(super) connection: Connection<DriverStream<Wire>, DriverStream<Wire>>,
    pub(super) driver: Driver,
    pub(super) line: Arc<Line>,
    pub(super) board: Arc<NotificationBoard>,
    pub(super) end: Arc<OnceLock<Error>>,
    pub(super) canceller: Canceller,
    pub(super) linger: Linger,
}

impl SessionDriver {
    /// Reads and writes until the connection has ended.
    pub(super) async fn run(self) {
        let Self { mut connection, driver, line, board, end, canceller, linger } = self;
        let posts = Arc::clone(&board);
        // The connection is the task's: dropped with it, at whatever moment, its stream ends before the task
        // counts as one that has work no more.
        let mut driven = Box::pin(driver.run_reading(poll_fn(move |cx| {
            loop {
                // It reads before it writes, unless it has an answer for which nobody reads.
                match connection.poll_message(cx) {
                    Poll::Ready(Some(Ok(message))) => posts.post(message),
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(error)),
                    Poll::Ready(None) => return Poll::Ready(None),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })));
        let error = driven.as_mut().await;
        // While the task still counts as busy: whoever finds it at rest finds the line lost.
        line.lose();
        let server_ended_it = !line.is_ended_here()
            && error.as_ref().is_some_and(|error| error.is_closed() || error.code().is_some());
        if let Some(error) = error {
            log_trouble(None, &error, "a connection to PostgreSQL ended");
            let _ = end.set(error);
        }
        board.close();
        // The socket is closed before anybody is told.
        drop(driven);
        if line.owed() > 0 && !server_ended_it {
            // The server would go on for nobody: it looks at its client only when it has something
            // to send.
            canceller.end(linger).await;
        }
    }
}

//! [`Listen`] for PostgreSQL: what other sessions say with `NOTIFY`, over whatever connections it takes.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::pin;

use futures_util::future::{Either, pending, select};
use tokio::time::{sleep, timeout};
use tokio_postgres::{Notification, SimpleQueryMessage};

use super::client::Client;
use super::error::Error;
use super::protocol::Postgres;
use livepool::protocol::{Feed, GuardExt, Listen};
use livepool::{CloseReason, Guard};

/// The names that this session listens on. Asked of the session itself: behind a proxy that changes
/// sessions it is another one that listens.
const LISTENING: &str = "SELECT pg_catalog.pg_listening_channels()";

impl Listen for Postgres {
    /// The channel's name, as it is: `LISTEN "Jobs"` and `LISTEN jobs` are two.
    type Channel = String;
    type Message = Notification;

    async fn follow(&self, guard: &mut Guard<Self>, feed: &Feed<Self>) -> Error {
        let posted = feed.clone();
        let post = move |notification| posted.deliver(notification);
        let board = guard.session.board.clone();
        // Until this ends, however it does.
        let _posting = board.post_to(Box::new(post));
        let error = Follower { client: guard, feed, have: BTreeSet::new() }.follow().await;
        match &error {
            Error::NoAnswer => guard.taint_as(CloseReason::PingTimeout),
            Error::NotListening(_) => guard.taint_as(CloseReason::ProtocolError),
            _ => {}
        }
        error
    }

    fn size_of(message: &Notification) -> usize {
        size_of::<Notification>() + message.channel().len() + message.payload().len()
    }
}

/// One session that listens.
struct Follower<'a> {
    client: &'a Client,
    feed: &'a Feed<Postgres>,
    /// What it listens on.
    have: BTreeSet<String>,
}

impl Follower<'_> {
    async fn follow(mut self) -> Error {
        loop {
            if let Err(error) = self.turn().await {
                return error;
            }
        }
    }

    /// Listens on what is wanted, waits until something is to be done, and does it.
    async fn turn(&mut self) -> Result<(), Error> {
        self.apply().await?;
        let beat = async {
            match self.feed.heartbeat() {
                Some(heartbeat) => sleep(heartbeat).await,
                None => pending().await,
            }
        };
        let (changed, ended) = (pin!(self.feed.changed()), pin!(self.client.session.line.ended()));
        match select(ended, select(changed, pin!(beat))).await {
            // What it ended with, in the words that a caller would be given.
            Either::Left(_) => Err(self.run("").await.err().unwrap_or(Error::NotClean)),
            Either::Right((Either::Left(_), _)) => Ok(()),
            Either::Right((Either::Right(_), _)) => {
                let listening = self.listening().await?;
                match self.have.iter().find(|channel| !listening.contains(*channel)) {
                    Some(channel) => Err(Error::NotListening(channel.clone())),
                    None => Ok(()),
                }
            }
        }
    }

    /// Makes the session listen on what is wanted, and on nothing else.
    async fn apply(&mut self) -> Result<(), Error> {
        let wanted = self.feed.wanted();
        let new: Vec<_> = wanted.difference(&self.have).cloned().collect();
        let old: Vec<_> = self.have.difference(&wanted).cloned().collect();
        if !new.is_empty() || !old.is_empty() {
            let old_sql = old.iter().map(|channel| format!("UNLISTEN {};", quoted(channel)));
            let new_sql = new.iter().map(|channel| format!("LISTEN {};", quoted(channel)));
            let sql: String = old_sql.chain(new_sql).collect();
            match self.run(&sql).await {
                Ok(()) => self.have = wanted,
                Err(error) if self.is_over(&error) => return Err(error),
                // One of them, and the others with it.
                Err(_) => self.apply_one_by_one(&old, new.clone()).await?,
            }
            let listening = self.listening().await?;
            for channel in new {
                if self.have.contains(&channel) && !listening.contains(&channel) {
                    // Longer than a name may be, it was cut.
                    self.have.remove(&channel);
                    self.feed.refuse(&channel, Error::NotListening(channel.clone()))?;
                }
            }
        }
        self.feed.confirm(&self.have);
        Ok(())
    }

    async fn apply_one_by_one(&mut self, old: &[String], new: Vec<String>) -> Result<(), Error> {
        for channel in old {
            self.run(&format!("UNLISTEN {}", quoted(channel))).await?;
            self.have.remove(channel);
        }
        for channel in new {
            match self.run(&format!("LISTEN {}", quoted(&channel))).await {
                Ok(()) => {
                    self.have.insert(channel);
                }
                Err(error) if self.is_over(&error) => return Err(error),
                Err(error) => self.feed.refuse(&channel, error)?,
            }
        }
        Ok(())
    }

    fn is_over(&self, error: &Error) -> bool {
        self.client.session.line.is_lost() || matches!(error, Error::NoAnswer)
    }

    async fn run(&self, sql: &str) -> Result<(), Error> {
        self.answered(self.client.client.batch_execute(sql)).await
    }

    async fn listening(&self) -> Result<BTreeSet<String>, Error> {
        let rows = self.answered(self.client.client.simple_query(LISTENING)).await?;
        let name = |message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(ToOwned::to_owned),
            _ => None,
        };
        Ok(rows.into_iter().filter_map(name).collect())
    }

    /// Waits for an answer for as long as the server has to give one.
    async fn answered<T>(
        &self,
        asked: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Error> {
        match self.feed.heartbeat() {
            Some(heartbeat) => {
                Ok(timeout(heartbeat, asked).await.map_err(|_| Error::NoAnswer)??)
            }
            None => Ok(asked.await?),
        }
    }
}

/// A name as an identifier.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

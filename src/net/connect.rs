//! [`dial`]: from endpoints to one connected socket, inside one deadline.

mod attempt;
#[cfg(test)]
mod tests;

use std::io;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;

use super::endpoint::upstream_text;
use super::error::Phase;
use super::options::Unavailable;
use super::race::{Action, Race};
use super::resolve::{known, resolve};
use super::{ConnectAttempt, ConnectError, Endpoint, Io, PeerAddr};
use crate::config::SocketSettings;
use crate::deadline::{Deadline, Elapsed};

/// A connection, just made.
#[derive(Debug)]
pub(crate) struct Dialed {
    pub(crate) io: Io,
    /// The address it goes to.
    pub(crate) peer: PeerAddr,
    /// This end's address.
    pub(crate) local: PeerAddr,
    /// Options it was made without.
    pub(crate) unavailable: Unavailable,
}

/// Connects to whichever address of the endpoints answers first, in the order of RFC 8305, within
/// `limit` and before `deadline`; name lookups count.
///
/// # Cancel safety
///
/// Dropping it closes every socket under way. When it returns, the losers are closed too.
pub(crate) async fn dial(
    endpoints: &[Endpoint],
    socket: &SocketSettings,
    deadline: Deadline,
    limit: Option<Duration>,
) -> Result<Dialed, ConnectError> {
    let mut dial = Dial::new(endpoints, socket);
    let end = dial.race(deadline.min(Deadline::after(limit))).await;
    end.map_err(|end| dial.error(end))
}

/// Why there is no connection.
enum End {
    AllFailed,
    Deadline(Instant),
}

/// What came of one step.
enum Done {
    Resolved { endpoint: usize, result: io::Result<Vec<PeerAddr>> },
    Connected { result: Result<Dialed, (Phase, io::Error)> },
}

/// A dial under way: the pure [`Race`], and the steps it asked for.
struct Dial<'a> {
    endpoints: &'a [Endpoint],
    socket: &'a SocketSettings,
    race: Race,
    steps: FuturesUnordered<BoxFuture<'a, (usize, Done)>>,
    /// What each step works on and since when; taken out when it ends.
    under_way: Vec<Option<(String, Phase, Instant)>>,
    failed: Vec<ConnectAttempt>,
    started: Instant,
}

impl<'a> Dial<'a> {
    fn new(endpoints: &'a [Endpoint], socket: &'a SocketSettings) -> Self {
        Self {
            endpoints,
            socket,
            race: Race::new(endpoints.len()),
            steps: FuturesUnordered::new(),
            under_way: Vec::new(),
            failed: Vec::new(),
            started: Instant::now(),
        }
    }

    async fn race(&mut self, deadline: Deadline) -> Result<Dialed, End> {
        for (endpoint, target) in self.endpoints.iter().enumerate() {
            match known(target) {
                Some(addr) => self.race.resolved(endpoint, vec![addr], self.started),
                None => self.resolve(endpoint, target),
            }
        }
        loop {
            let now = Instant::now();
            if let Some(moment) = deadline.instant().filter(|moment| *moment <= now) {
                return Err(End::Deadline(moment));
            }
            let pause = match self.race.next(now) {
                Action::Start(addr) => {
                    self.connect(addr);
                    continue;
                }
                Action::WaitUntil(moment) => Deadline::at(moment),
                Action::Wait => Deadline::NEVER,
                Action::Exhausted => return Err(End::AllFailed),
            };
            match deadline.min(pause).run(self.steps.next()).await {
                Ok(Some((step, done))) => {
                    if let Some(dialed) = self.ended(step, done) {
                        // The losers, before anybody counts the winner.
                        self.steps.clear();
                        return Ok(dialed);
                    }
                }
                // Nothing is under way, so nothing can come any more.
                Ok(None) => return Err(End::AllFailed),
                // The stagger or the deadline: the head of the loop knows which.
                Err(Elapsed) => {}
            }
        }
    }

    fn resolve(&mut self, endpoint: usize, target: &'a Endpoint) {
        let step = self.begin(target.to_string(), Phase::Resolve);
        self.steps.push(Box::pin(async move {
            (step, Done::Resolved { endpoint, result: resolve(target).await })
        }));
    }

    fn connect(&mut self, addr: PeerAddr) {
        let step = self.begin(addr.to_string(), Phase::Connect);
        let socket = self.socket;
        self.steps.push(Box::pin(async move {
            (step, Done::Connected { result: attempt::connect(addr, socket).await })
        }));
    }

    fn begin(&mut self, target: String, phase: Phase) -> usize {
        self.under_way.push(Some((target, phase, Instant::now())));
        self.under_way.len() - 1
    }

    /// Takes a step's result in; `Some` if it is the connection.
    fn ended(&mut self, step: usize, done: Done) -> Option<Dialed> {
        let now = Instant::now();
        let (phase, error) = match done {
            Done::Connected { result: Ok(dialed) } => return Some(dialed),
            Done::Connected { result: Err(failure) } => {
                self.race.failed();
                failure
            }
            Done::Resolved { endpoint, result } => {
                let (addrs, error) = match result {
                    Ok(addrs) => (addrs, None),
                    Err(error) => (Vec::new(), Some(error)),
                };
                self.race.resolved(endpoint, addrs, now);
                match error {
                    Some(error) => (Phase::Resolve, error),
                    None => {
                        self.under_way[step] = None;
                        return None;
                    }
                }
            }
        };
        if let Some((target, _, since)) = self.under_way[step].take() {
            self.failed.push(ConnectAttempt::new(target, error, now - since, phase));
        }
        None
    }

    fn error(self, end: End) -> ConnectError {
        let now = Instant::now();
        let took = now - self.started;
        let upstream = upstream_text(self.endpoints);
        let mut attempts = self.failed;
        match end {
            End::AllFailed => ConnectError::failed(upstream, attempts, took),
            End::Deadline(moment) => {
                let unfinished =
                    self.under_way.into_iter().flatten().map(|(target, phase, since)| {
                        ConnectAttempt::unfinished(target, now - since, phase)
                    });
                attempts.extend(unfinished);
                let limit = moment.saturating_duration_since(self.started);
                ConnectError::timed_out(upstream, attempts, took, limit)
            }
        }
    }
}

//! [`dial`]: from endpoints to one connected socket, inside one deadline.

mod attempt;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;

use super::endpoint::upstream_text;
use super::error::AttemptStage;
use super::options::Unavailable;
use super::race::{ATTEMPT_DELAY, Action, Race};
use super::resolve::literal_addr;
use super::{
    ConnectAttempt, ConnectError, Directory, Endpoint, Io, PeerAddr, PendingAttempt, Resolver,
};
use crate::config::SocketSettings;
use crate::deadline::{Deadline, Elapsed};
use crate::event::DialOutcome;
use crate::sync::atomic::AtomicUsize;

/// A connection that was just made.
#[derive(Debug)]
pub(crate) struct Dialed {
    pub(crate) io: Io,
    /// The address that the connection goes to.
    pub(crate) peer: PeerAddr,
    /// The address of our own end.
    pub(crate) local: PeerAddr,
    /// The name that the peer's address was found under.
    pub(crate) host: Option<Arc<str>>,
    /// The options that the connection was made without.
    pub(crate) unavailable: Unavailable,
}

/// The endpoints of a dial, the addresses of them to try, and what knows of them.
#[derive(Clone, Copy)]
pub(crate) struct DialTarget<'a> {
    pub(crate) endpoints: &'a [Endpoint],
    /// The only address to try, where not all are.
    pub(crate) only: Option<&'a PeerAddr>,
    /// Addresses not to try: earlier connections to them were not what was looked for.
    pub(crate) except: &'a HashSet<PeerAddr>,
    /// The number of attempts that may still begin, for all dials of a caller together.
    pub(crate) attempts_left: &'a AtomicUsize,
    pub(crate) resolver: &'a Resolver,
    pub(crate) directory: &'a dyn Directory,
}

/// Connects to the address of the endpoints that answers first, in the order of RFC 8305, within
/// `limit`; name lookups count. The connection comes with its attempt, which the caller ends: a
/// handshake may still fail.
///
/// # Cancel safety
///
/// Dropping the future closes every socket under way. When it returns, the losers are closed too.
pub(crate) async fn dial<'a>(
    target: DialTarget<'a>,
    socket: &'a SocketSettings,
    limit: Option<Duration>,
) -> Result<(Dialed, AttemptGuard<'a>), ConnectError> {
    let mut dial = DialState::new(target, socket);
    // From its start on, so that an error names the limit as it was set.
    let deadline = Deadline::within(dial.started, limit);
    let end = dial.race(deadline).await;
    end.map_err(|end| dial.error(end))
}

/// The reason why a dial ended without a connection.
enum DialFailure {
    AllFailed,
    Deadline(Instant),
}

/// The result of a lookup or of an attempt.
enum StepResult<'a> {
    Resolved { endpoint: usize, result: io::Result<Vec<PeerAddr>> },
    Connected { attempt: AttemptGuard<'a>, result: Result<Dialed, (AttemptStage, io::Error)> },
}

/// A dial under way: the pure [`Race`], and the lookups and attempts it asked for, which are the
/// steps.
struct DialState<'a> {
    target: DialTarget<'a>,
    socket: &'a SocketSettings,
    race: Race,
    steps: FuturesUnordered<BoxFuture<'a, (usize, StepResult<'a>)>>,
    /// The target, stage and start of each step; taken out when the step ends.
    under_way: Vec<Option<(String, AttemptStage, Instant)>>,
    failed: Vec<ConnectAttempt>,
    /// The endpoint that each address was found under first.
    endpoint_of: HashMap<PeerAddr, usize>,
    started: Instant,
    /// Whether the deadline has passed, and attempts that are still under way have failed.
    is_overdue: Arc<AtomicBool>,
}

impl<'a> DialState<'a> {
    fn new(target: DialTarget<'a>, socket: &'a SocketSettings) -> Self {
        // One address, known at once, is an endpoint of its own to the race.
        let unknown = if target.only.is_some() { 1 } else { target.endpoints.len() };
        Self {
            target,
            socket,
            race: Race::new(unknown, target.attempts_left.load(Ordering::Relaxed)),
            steps: FuturesUnordered::new(),
            under_way: Vec::new(),
            failed: Vec::new(),
            endpoint_of: HashMap::new(),
            started: Instant::now(),
            is_overdue: Arc::default(),
        }
    }

    async fn race(
        &mut self,
        deadline: Deadline,
    ) -> Result<(Dialed, AttemptGuard<'a>), DialFailure> {
        if let Some(only) = self.target.only {
            self.endpoint_of
                .extend(self.target.directory.endpoint_of(only).map(|of| (only.clone(), of)));
            self.race.resolved(0, vec![only.clone()], self.started);
        } else {
            for (endpoint, target) in self.target.endpoints.iter().enumerate() {
                match literal_addr(target) {
                    Some(addr) => self.take_addrs(endpoint, vec![addr], self.started),
                    None => self.resolve(endpoint, target),
                }
            }
        }
        loop {
            let now = Instant::now();
            if let Some(moment) = deadline.instant().filter(|moment| *moment <= now) {
                // Before the attempts are dropped, which look at it; the same task drops them, so
                // Relaxed.
                self.is_overdue.store(true, Ordering::Relaxed);
                return Err(DialFailure::Deadline(moment));
            }
            let pause = match self.race.next(now, |addrs| self.target.directory.order(addrs)) {
                Action::Start(addr) => {
                    // Relaxed: the caller reads it after this dial, in the same task.
                    self.target.attempts_left.store(self.race.attempts_left(), Ordering::Relaxed);
                    self.connect(addr);
                    continue;
                }
                Action::WaitUntil(moment) => Deadline::at(moment),
                Action::Wait => Deadline::NEVER,
                Action::Exhausted => return Err(DialFailure::AllFailed),
            };
            match deadline.min(pause).run(self.steps.next()).await {
                Ok(Some((step, done))) => {
                    if let Some(dialed) = self.take_result(step, done) {
                        // The losers, before anybody counts the winner.
                        self.steps.clear();
                        return Ok(dialed);
                    }
                }
                // Nothing is under way, so nothing can come any more.
                Ok(None) => return Err(DialFailure::AllFailed),
                // The stagger or the deadline: the head of the loop knows which.
                Err(Elapsed) => {}
            }
        }
    }

    fn take_addrs(&mut self, endpoint: usize, mut addrs: Vec<PeerAddr>, now: Instant) {
        self.target.directory.resolved(endpoint, &addrs);
        // After the directory was told: an address that is not tried is one of the name's all the
        // same.
        addrs.retain(|addr| !self.target.except.contains(addr));
        for addr in &addrs {
            self.endpoint_of.entry(addr.clone()).or_insert(endpoint);
        }
        self.race.resolved(endpoint, addrs, now);
    }

    fn resolve(&mut self, endpoint: usize, target: &'a Endpoint) {
        let resolver = self.target.resolver;
        let step = self.begin(target.to_string(), AttemptStage::Resolve);
        self.steps.push(Box::pin(async move {
            (step, StepResult::Resolved { endpoint, result: resolver.resolve(target).await })
        }));
    }

    fn connect(&mut self, addr: PeerAddr) {
        let step = self.begin(addr.to_string(), AttemptStage::Connect);
        let socket = self.socket;
        let attempt = AttemptGuard::begin(self.target.directory, &addr, &self.is_overdue);
        self.steps.push(Box::pin(async move {
            let result = attempt::connect(addr, socket).await;
            (step, StepResult::Connected { attempt, result })
        }));
    }

    fn begin(&mut self, target: String, stage: AttemptStage) -> usize {
        self.under_way.push(Some((target, stage, Instant::now())));
        self.under_way.len() - 1
    }

    /// Takes a step's result in, which may be the connection.
    fn take_result(
        &mut self,
        step: usize,
        done: StepResult<'a>,
    ) -> Option<(Dialed, AttemptGuard<'a>)> {
        let now = Instant::now();
        let (stage, error) = match done {
            StepResult::Connected { attempt, result: Ok(mut dialed) } => {
                dialed.host = self.host_of(&dialed.peer);
                return Some((dialed, attempt));
            }
            StepResult::Connected { attempt, result: Err(failure) } => {
                attempt.end(failure.0.outcome(&failure.1));
                self.race.failed();
                failure
            }
            StepResult::Resolved { endpoint, result: Ok(addrs) } => {
                self.take_addrs(endpoint, addrs, now);
                // A lookup that succeeded is no attempt of the error.
                self.under_way[step] = None;
                return None;
            }
            StepResult::Resolved { endpoint, result: Err(error) } => {
                self.race.resolved(endpoint, Vec::new(), now);
                (AttemptStage::Resolve, error)
            }
        };
        if let Some((target, _, since)) = self.under_way[step].take() {
            self.failed.push(ConnectAttempt::new(target, error, now - since, stage));
        }
        None
    }

    /// The name that an address was found under, if the endpoint was a name.
    fn host_of(&self, addr: &PeerAddr) -> Option<Arc<str>> {
        let endpoint = self.endpoint_of.get(addr)?;
        self.target.endpoints.get(*endpoint)?.host().map(Arc::from)
    }

    fn error(self, end: DialFailure) -> ConnectError {
        let now = Instant::now();
        let took = now - self.started;
        let upstream = upstream_text(self.target.endpoints);
        let mut attempts = self.failed;
        match end {
            DialFailure::AllFailed => ConnectError::failed(upstream, attempts, took),
            DialFailure::Deadline(moment) => {
                let unfinished =
                    self.under_way.into_iter().flatten().map(|(target, stage, since)| {
                        ConnectAttempt::unfinished(target, now - since, stage)
                    });
                attempts.extend(unfinished);
                let limit = moment.saturating_duration_since(self.started);
                ConnectError::timed_out(upstream, attempts, took, limit)
            }
        }
    }
}

/// An attempt to connect that the directory knows of: its end is reported exactly once, also when
/// it is dropped.
pub(crate) struct AttemptGuard<'a> {
    pending: Option<Box<dyn PendingAttempt + 'a>>,
    began: Instant,
    is_overdue: Arc<AtomicBool>,
}

impl<'a> AttemptGuard<'a> {
    fn begin(directory: &'a dyn Directory, addr: &PeerAddr, is_overdue: &Arc<AtomicBool>) -> Self {
        let (pending, is_overdue) = (Some(directory.began(addr)), Arc::clone(is_overdue));
        Self { pending, began: Instant::now(), is_overdue }
    }

    pub(crate) fn end(mut self, outcome: DialOutcome) {
        if let Some(mut pending) = self.pending.take() {
            pending.ended(outcome);
        }
    }
}

impl Drop for AttemptGuard<'_> {
    fn drop(&mut self) {
        let Some(mut pending) = self.pending.take() else { return };
        // Slower than RFC 8305 waits for an address: that is worth remembering, or every dial would
        // begin with the same silent one.
        let slow = self.began.elapsed() >= ATTEMPT_DELAY || self.is_overdue.load(Ordering::Relaxed);
        pending.ended(if slow { DialOutcome::Timeout } else { DialOutcome::Cancelled });
    }
}

//! [`Inner`]: the nodes that are known, a pool for each, and who serves which slot.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use ::redis::{RedisError, RedisResult};
use livepool::{Builder, Config, ConfigError, Pool};
use tokio::time::{Instant, sleep};

use super::slots::SLOTS;
use super::topology::{Said, error, short};
use crate::numbers::{Number, Numbers};
use crate::settings::Redis;

/// The pause between two such questions.
const APART: Duration = Duration::from_millis(100);
/// So long the users of a node that has left have to finish.
const DRAIN: Duration = Duration::from_secs(2);
/// So often it is looked at whether a node leaves requests without an answer.
const LOOK: Duration = Duration::from_secs(1);
/// After so many looks nodes are asked though nothing has happened.
const LOOKS: u32 = 30;

pub(super) type With = Arc<dyn Fn(Builder<Redis>) -> Builder<Redis> + Send + Sync>;

/// What all handles of a cluster share.
pub(super) struct Inner {
    pub(super) redis: Redis,
    pub(super) config: Config,
    pub(super) with: Option<With>,
    pub(super) max_nodes: usize,
    pub(super) seeds: Vec<String>,
    /// Of the nodes, for their names.
    numbers: Numbers,
    state: Mutex<State>,
    /// Who asks the nodes, for all; and what the last one was told, when.
    turn: tokio::sync::Mutex<Option<(Instant, RedisResult<()>)>>,
    /// Rises with each answer that was taken in.
    version: AtomicU64,
    is_refreshing: AtomicBool,
    is_watched: AtomicBool,
    is_used: AtomicBool,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) nodes: HashMap<String, Arc<Node>>,
    /// Empty until the first answer.
    slots: Vec<Option<Arc<Node>>>,
    /// Who is asked first: a node that a slot has moved to knows it.
    pub(super) knows: Option<String>,
    /// Of the answer that was taken in last: one with a lower number is older.
    pub(super) epoch: Option<u64>,
    /// Since when all that is said is older.
    pub(super) behind_since: Option<Instant>,
    is_closed: bool,
}

/// One node, and its pool.
pub(super) struct Node {
    pub(super) addr: String,
    pub(super) pool: Pool<Redis>,
    begun: AtomicU64,
    ended: AtomicU64,
    /// An `ASK` has led here since the last look: a slot is on its way to this node, which may have none yet.
    is_asked: AtomicBool,
    _number: Number,
}

impl Node {
    pub(super) fn asked(&self) {
        self.is_asked.store(true, Ordering::Relaxed);
    }

    /// The host, as it stands in the address.
    pub(super) fn host(&self) -> &str {
        let host = self.addr.rsplit_once(':').map_or(self.addr.as_str(), |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// A request is under way until what is returned is dropped.
    pub(super) fn begin(&self) -> Running<'_> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        Running(self)
    }

    /// How many requests have ended, if some are under way.
    fn progress(&self) -> Option<u64> {
        let ended = self.ended.load(Ordering::Relaxed);
        (self.begun.load(Ordering::Relaxed) > ended).then_some(ended)
    }
}

pub(super) struct Running<'a>(&'a Node);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

impl Inner {
    pub(super) fn new(
        redis: Redis,
        config: Config,
        with: Option<With>,
        max_nodes: usize,
        seeds: Vec<String>,
    ) -> Result<Arc<Self>, ConfigError> {
        let inner = Self {
            redis,
            config,
            with,
            max_nodes,
            seeds,
            numbers: Numbers::default(),
            state: Mutex::default(),
            turn: tokio::sync::Mutex::new(None),
            version: AtomicU64::new(0),
            is_refreshing: AtomicBool::new(false),
            is_watched: AtomicBool::new(false),
            is_used: AtomicBool::new(false),
        };
        // What is wrong with the configuration is wrong for each node.
        for seed in &inner.seeds {
            inner.make(seed)?;
        }
        Ok(Arc::new(inner))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(&self, addr: &str) -> Result<Arc<Node>, ConfigError> {
        let number = self.numbers.take();
        let name = number.name(&self.config.name);
        let config = self.config.clone().with_upstream([addr]).with_name(name);
        let builder = Pool::builder(config).protocol(self.redis.clone());
        let builder = match &self.with {
            Some(with) => with(builder),
            None => builder,
        };
        let (begun, ended) = (AtomicU64::new(0), AtomicU64::new(0));
        let (addr, pool) = (addr.to_owned(), builder.build()?);
        let is_asked = AtomicBool::new(false);
        Ok(Arc::new(Node { addr, pool, begun, ended, is_asked, _number: number }))
    }

    /// The node at this address; a new one, if there is room.
    pub(super) fn node_at(&self, addr: &str) -> RedisResult<Arc<Node>> {
        if let Some(node) = self.state().nodes.get(addr) {
            return Ok(Arc::clone(node));
        }
        // With no lock held: it calls what the user gave.
        let made = self.make(addr);
        let made =
            made.map_err(|wrong| error("no address of a node", short(&wrong.to_string())))?;
        let mut state = self.state();
        if state.is_closed {
            return Err(closed());
        }
        if let Some(node) = state.nodes.get(addr) {
            return Ok(Arc::clone(node));
        }
        if state.nodes.len() >= self.max_nodes {
            return Err(self.too_many(state.nodes.len() + 1));
        }
        state.nodes.insert(addr.to_owned(), Arc::clone(&made));
        Ok(made)
    }

    fn too_many(&self, count: usize) -> RedisError {
        let detail = format!("{count} nodes, and max_nodes is {}", self.max_nodes);
        error("the cluster has too many nodes", detail)
    }

    /// The node that serves this slot, as far as is known.
    pub(super) fn server_of(&self, slot: u16) -> Option<Arc<Node>> {
        self.state().slots.get(usize::from(slot))?.clone()
    }

    /// Any node that serves a slot.
    pub(super) fn any(&self) -> Option<Arc<Node>> {
        let state = self.state();
        let slots = &state.slots;
        // Most slots have a server; the first one from a random place.
        let start = if slots.is_empty() { return None } else { fastrand::usize(..slots.len()) };
        slots[start..].iter().chain(&slots[..start]).flatten().next().cloned()
    }

    /// Each node that serves slots, with their number.
    pub(super) fn servers(&self) -> Vec<(Arc<Node>, usize)> {
        let state = self.state();
        let mut servers: Vec<(Arc<Node>, usize)> = Vec::new();
        for node in state.slots.iter().flatten() {
            match servers.iter_mut().find(|(known, _)| Arc::ptr_eq(known, node)) {
                Some((_, count)) => *count += 1,
                None => servers.push((Arc::clone(node), 1)),
            }
        }
        servers
    }

    /// A slot of each node that serves some.
    pub(super) fn slot_of_each(&self) -> Vec<u16> {
        let state = self.state();
        let mut found: Vec<(&Arc<Node>, u16)> = Vec::new();
        for (slot, node) in (0..).zip(&state.slots) {
            let Some(node) = node else { continue };
            if !found.iter().any(|(known, _)| Arc::ptr_eq(known, node)) {
                found.push((node, slot));
            }
        }
        found.into_iter().map(|(_, slot)| slot).collect()
    }

    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(super) fn check_open(&self) -> RedisResult<()> {
        if self.state().is_closed { Err(closed()) } else { Ok(()) }
    }

    /// A node has said that this slot is served there.
    pub(super) fn moved(self: &Arc<Self>, slot: u16, addr: &str) -> RedisResult<Arc<Node>> {
        let node = self.node_at(addr)?;
        let mut state = self.state();
        let server = state.slots.get_mut(usize::from(slot));
        let before = server.and_then(|server| server.replace(Arc::clone(&node)));
        state.knows = Some(addr.to_owned());
        drop(state);
        // With it may go its pool, and that calls what the user gave: not under the lock.
        drop(before);
        self.doubt();
        Ok(node)
    }

    /// Has the nodes asked in the background.
    pub(super) fn doubt(self: &Arc<Self>) {
        // Without a runtime nobody can be asked; the next command finds out.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.is_refreshing.swap(true, Ordering::AcqRel) {
            return;
        }
        let inner = Arc::clone(self);
        runtime.spawn(async move {
            let reset = ResetFlag(&inner.is_refreshing);
            let _ = inner.refresh(inner.version()).await;
            // A slot has moved meanwhile: the answer may be from before.
            if inner.state().knows.is_some() {
                let _ = inner.refresh(inner.version()).await;
            }
            drop(reset);
        });
    }

    /// Asks the nodes who serves which slot, unless somebody has since `seen`, or does so meanwhile.
    ///
    /// Dropped, it has changed nothing.
    pub(super) async fn refresh(&self, seen: u64) -> RedisResult<()> {
        let since = Instant::now();
        let mut last = self.turn.lock().await;
        if self.version() != seen {
            return Ok(());
        }
        if let Some((at, said)) = &*last {
            // Whoever waited for another one's question has his answer: it is not asked again for each.
            if *at > since {
                return said.clone();
            }
            tokio::time::sleep_until(*at + APART).await;
        }
        let said = match self.ask().await {
            Ok(said) => self.take_over(&said),
            Err(error) => Err(error),
        };
        *last = Some((Instant::now(), said.clone()));
        said
    }

    fn take_over(&self, said: &Said) -> RedisResult<()> {
        let ranges = &said.ranges;
        let masters: BTreeSet<&str> = ranges.iter().map(|range| range.master.as_str()).collect();
        if masters.len() > self.max_nodes {
            return Err(self.too_many(masters.len()));
        }
        let mut made = Vec::new();
        for addr in &masters {
            let is_known = self.state().nodes.contains_key(*addr);
            if !is_known {
                let node = self.make(addr);
                made.push(
                    node.map_err(|wrong| error("no address of a node", short(&wrong.to_string())))?,
                );
            }
        }
        // Pools that go with these call what the user gave: not under the lock.
        let (leaving, _spare, _before) = {
            let mut state = self.state();
            if state.is_closed {
                return Err(closed());
            }
            let mut spare = Vec::new();
            for node in made {
                // Somebody may have made it meanwhile.
                if let Some(before) = state.nodes.insert(node.addr.clone(), Arc::clone(&node)) {
                    state.nodes.insert(node.addr.clone(), before);
                    spare.push(node);
                }
            }
            let mut slots = vec![None; usize::from(SLOTS)];
            for range in ranges {
                let node = state.nodes.get(&range.master);
                slots[usize::from(range.first)
                    ..=usize::from(range.last).max(usize::from(range.first))]
                    .fill(node.cloned());
            }
            let before = std::mem::replace(&mut state.slots, slots);
            // One that is cut off may have counted failovers that came to nothing.
            if !said.is_cut_off && said.epoch.is_some() {
                state.epoch = said.epoch;
            }
            state.behind_since = None;
            let leaving: Vec<Arc<Node>> = state
                .nodes
                .extract_if(|addr, node| {
                    let is_asked = node.is_asked.swap(false, Ordering::Relaxed);
                    !masters.contains(addr.as_str()) && !is_asked
                })
                .map(|(_, node)| node)
                .collect();
            (leaving, spare, before)
        };
        self.version.fetch_add(1, Ordering::AcqRel);
        for node in leaving {
            retire(node);
        }
        Ok(())
    }

    /// Closes the pools. Whoever uses a connection finishes, and gets no other.
    pub(super) fn close(&self) {
        let (nodes, _slots): (Vec<_>, Vec<_>) = {
            let mut state = self.state();
            state.is_closed = true;
            let slots = std::mem::take(&mut state.slots);
            (state.nodes.drain().map(|(_, node)| node).collect(), slots)
        };
        for node in nodes {
            node.pool.close();
        }
    }

    /// Notes that the cluster is used, and starts the task that looks after it.
    pub(super) fn used(self: &Arc<Self>) {
        if !self.is_used.load(Ordering::Relaxed) {
            self.is_used.store(true, Ordering::Relaxed);
        }
        if !self.is_watched.load(Ordering::Acquire) && !self.is_watched.swap(true, Ordering::AcqRel)
        {
            tokio::spawn(watch(Watched(Arc::downgrade(self))));
        }
    }

    /// Which nodes have left all their requests without an answer since the last look.
    fn stuck(&self, last: &mut HashMap<String, u64>) -> bool {
        let nodes: Vec<_> = self.state().nodes.values().cloned().collect();
        let now: HashMap<String, u64> =
            nodes.iter().filter_map(|node| Some((node.addr.clone(), node.progress()?))).collect();
        let is_stuck = now.iter().any(|(addr, ended)| last.get(addr) == Some(ended));
        *last = now;
        is_stuck
    }
}

/// A node that serves no slot any more. Whoever uses it has a moment to finish.
fn retire(node: Arc<Node>) {
    tokio::spawn(async move { node.pool.close_and_wait(Instant::now() + DRAIN).await });
}

pub(super) fn closed() -> RedisError {
    error("the cluster is closed", "Cluster::close() was called".to_owned())
}

/// Looks after the cluster until its last handle is gone: nodes that leave requests without an answer are
/// doubted, and from time to time all are asked.
async fn watch(watched: Watched) {
    let (mut last, mut looks) = (HashMap::new(), 0);
    loop {
        sleep(LOOK).await;
        let Some(inner) = watched.0.upgrade() else { return };
        if inner.check_open().is_err() {
            return;
        }
        looks += 1;
        let is_due = looks >= LOOKS && inner.is_used.swap(false, Ordering::Relaxed);
        if inner.stuck(&mut last) || is_due {
            looks = 0;
            inner.doubt();
        }
    }
}

/// The cluster is watched for as long as this lives; with its runtime it ends, and another one may begin.
struct Watched(Weak<Inner>);

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(inner) = self.0.upgrade() {
            inner.is_watched.store(false, Ordering::Release);
        }
    }
}

struct ResetFlag<'a>(&'a AtomicBool);

impl Drop for ResetFlag<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

//! The three upstreams, the name that leads to them, and what was done to them.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use livepool::net::Resolve;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::sys;
use crate::upstream::Order;

/// How many upstreams there are.
pub(crate) const PEERS: usize = 3;

/// What pools are told to connect to. Only our directory knows it.
pub(crate) const NAME: &str = "upstream.playground:1";

/// How long an upstream may take to do what it is told. One that is stopped never does.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a button does to an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Fault {
    Close,
    Reset,
    Cut,
    Heal,
    Stop,
    Continue,
    Refuse,
    Accept,
    Delay(u64),
    Forget,
    FailOver,
    BringBack,
}

/// What was done to an upstream and not undone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Plight {
    pub(crate) cut: bool,
    pub(crate) forgot: bool,
    pub(crate) stopped: bool,
    pub(crate) refuses: bool,
    pub(crate) delay_ms: u64,
    /// The process was killed, and the name leads to it no more.
    pub(crate) gone: bool,
}

/// The process of an upstream.
struct Process {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Process {
    async fn start(port: u16) -> io::Result<(Self, u16)> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--upstream", &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (Some(orders), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("the pipes were asked for"));
        };
        let mut process = Self { child, orders, answers: BufReader::new(answers).lines() };
        let port = process.answer().await?.parse().map_err(io::Error::other)?;
        Ok((process, port))
    }

    async fn answer(&mut self) -> io::Result<String> {
        let answer = tokio::time::timeout(PATIENCE, self.answers.next_line());
        let answer = answer.await.map_err(|_| io::Error::other("it does not answer"))??;
        answer.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    async fn obey(&mut self, order: Order) -> io::Result<()> {
        let line = serde_json::to_string(&order)? + "\n";
        self.orders.write_all(line.as_bytes()).await?;
        match self.answer().await?.as_str() {
            "ok" => Ok(()),
            error => Err(io::Error::other(error.to_owned())),
        }
    }

    fn stop(&self, is_stopped: bool) -> io::Result<()> {
        let process = self.child.id().ok_or_else(|| io::Error::other("the process has ended"))?;
        sys::stop(process, is_stopped)
    }
}

/// An upstream as the playground sees it.
struct Peer {
    addr: SocketAddr,
    /// `None` while it is gone. Held while the upstream obeys: one order at a time.
    process: tokio::sync::Mutex<Option<Process>>,
    /// Never held across an await.
    state: Mutex<PeerState>,
}

#[derive(Clone, Copy, Default)]
struct PeerState {
    plight: Plight,
    /// When the last fault was done that leaves no connection usable.
    hit: Option<Instant>,
    /// When that was over, for connections that it did not end.
    healed: Option<Instant>,
}

/// The three upstreams. They end when the last handle is dropped.
#[derive(Clone)]
pub(crate) struct Fleet(Arc<Inside>);

struct Inside {
    peers: Vec<Peer>,
    turn: AtomicUsize,
}

impl Fleet {
    pub(crate) async fn start() -> io::Result<Self> {
        let mut peers = Vec::new();
        for _ in 0..PEERS {
            let (process, port) = Process::start(0).await?;
            let addr = SocketAddr::from(([127, 0, 0, 1], port));
            let (process, state) = (Some(process).into(), Mutex::default());
            peers.push(Peer { addr, process, state });
        }
        Ok(Self(Arc::new(Inside { peers, turn: AtomicUsize::new(0) })))
    }

    pub(crate) fn addr(&self, peer: usize) -> SocketAddr {
        self.0.peers[peer].addr
    }

    pub(crate) fn plight(&self, peer: usize) -> Plight {
        self.state(peer).plight
    }

    /// Which of the three this address is.
    pub(crate) fn peer_at(&self, addr: SocketAddr) -> Option<usize> {
        self.0.peers.iter().position(|peer| peer.addr == addr)
    }

    /// The addresses that the name leads to.
    pub(crate) fn addrs(&self) -> Vec<SocketAddr> {
        let named = (0..PEERS).filter(|peer| !self.plight(*peer).gone);
        named.map(|peer| self.addr(peer)).collect()
    }

    /// One of them, each in turn: what a pool without an opinion of its peers dials.
    ///
    /// # Errors
    ///
    /// `NotFound` if all are gone.
    pub(crate) fn next_addr(&self) -> io::Result<SocketAddr> {
        let addrs = self.addrs();
        let turn = self.0.turn.fetch_add(1, Ordering::Relaxed);
        let chosen = addrs.get(turn.checked_rem(addrs.len()).unwrap_or(0));
        chosen
            .copied()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no upstream is left"))
    }

    /// Whether a connection that was opened then was dead when it was handed out: a fault had come over
    /// its peer between the two.
    pub(crate) fn was_dead(&self, peer: usize, opened: Instant, handed_out: Instant) -> bool {
        let PeerState { hit, healed, .. } = *self.state(peer);
        hit.is_some_and(|hit| opened < hit && hit < handed_out)
            && healed.is_none_or(|healed| handed_out < healed)
    }

    fn state(&self, peer: usize) -> MutexGuard<'_, PeerState> {
        self.0.peers[peer].state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does this to an upstream. Returns when it is done.
    ///
    /// # Errors
    ///
    /// What keeps it from being done, in words for the page.
    ///
    /// # Cancel safety
    ///
    /// An upstream that was told already does it all the same, and its next order fails: not to be dropped.
    pub(crate) async fn inflict(&self, peer: usize, fault: Fault) -> io::Result<()> {
        let mut process = self.0.peers[peer].process.lock().await;
        let plight = self.plight(peer);
        if fault == Fault::BringBack {
            if process.is_none() {
                *process = Some(Process::start(self.addr(peer).port()).await?.0);
            }
            self.state(peer).plight = Plight::default();
            return Ok(());
        }
        let Some(running) = process.as_mut() else {
            return Err(io::Error::other("its process was killed: bring it back first"));
        };
        let told = Instant::now();
        match fault {
            Fault::Stop | Fault::Continue => running.stop(fault == Fault::Stop)?,
            Fault::FailOver => {
                // First the name, so that nobody is sent there any more.
                self.state(peer).plight.gone = true;
                running.child.kill().await?;
                *process = None;
            }
            _ if plight.stopped => {
                return Err(io::Error::other("its process is stopped: have it continue first"));
            }
            Fault::Close => running.obey(Order::Close).await?,
            Fault::Reset => running.obey(Order::Reset).await?,
            Fault::Cut => running.obey(Order::Cut).await?,
            Fault::Heal => running.obey(Order::Heal).await?,
            Fault::Refuse => running.obey(Order::Refuse).await?,
            Fault::Accept => running.obey(Order::Accept).await?,
            Fault::Delay(milliseconds) => running.obey(Order::Delay(milliseconds)).await?,
            Fault::Forget => running.obey(Order::Forget).await?,
            Fault::BringBack => {}
        }
        // A wire that is being cut carries no answer from the first moment on. What ends a connection has
        // ended it when it is done.
        let is_slow = matches!(fault, Fault::Cut | Fault::Forget);
        self.note(peer, fault, if is_slow { told } else { Instant::now() });
        Ok(())
    }

    fn note(&self, peer: usize, fault: Fault, at: Instant) {
        let mut state = self.state(peer);
        let plight = &mut state.plight;
        match fault {
            Fault::Cut => plight.cut = true,
            Fault::Forget => plight.forgot = true,
            Fault::Heal => (plight.cut, plight.forgot) = (false, false),
            Fault::Stop => plight.stopped = true,
            Fault::Continue => plight.stopped = false,
            Fault::Refuse => plight.refuses = true,
            Fault::Accept => plight.refuses = false,
            Fault::Delay(milliseconds) => plight.delay_ms = milliseconds,
            Fault::FailOver => *plight = Plight { gone: true, ..Plight::default() },
            Fault::Close | Fault::Reset | Fault::BringBack => {}
        }
        let kills =
            [Fault::Close, Fault::Reset, Fault::Cut, Fault::Forget, Fault::Refuse, Fault::FailOver];
        if kills.contains(&fault) {
            (state.hit, state.healed) = (Some(at), None);
        }
        if fault == Fault::Heal {
            state.healed = Some(at);
        }
    }
}

impl Resolve for Fleet {
    fn resolve<'a>(
        &'a self,
        _: &'a str,
        _: u16,
    ) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>> {
        let addrs = self.addrs();
        Box::pin(std::future::ready(Ok(addrs)))
    }
}

//! Everything that runs: the upstreams, the pools and their callers, and what the buttons do.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use livepool::Pool;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::board::Board;
use crate::contenders::{self, Bb8, Check, Deadpool, Live, Origins};
use crate::echo::Echo;
use crate::fleet::{Fault, Fleet, PEERS};
use crate::load::{Demand, Load};

/// The size of a pool at the start.
const SIZE: usize = 24;

/// How long an idle connection of livepool stays: short, so that the pool follows its callers while one
/// looks on, and an upstream that is back is soon dialed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3);

/// The most that the page may ask for.
const MOST_SIZE: usize = 256;
const MOST_RATE: u32 = 10_000;
const MOST_THINK_MS: u32 = 1000;
const MOST_DELAY_MS: u64 = 2000;

/// What the page asks for.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Button {
    Demand(Demand),
    /// Whether deadpool and bb8 have the same load, and how they check.
    Beside {
        deadpool: bool,
        bb8: bool,
        check: Check,
    },
    Fault {
        peers: Vec<usize>,
        fault: Fault,
    },
    Resize {
        size: usize,
    },
    Pause {
        on: bool,
    },
    Invalidate,
    CancelAThird,
    Zero,
}

/// How the page's switches stand.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Switches {
    pub(crate) demand: Demand,
    pub(crate) size: usize,
    pub(crate) deadpool: bool,
    pub(crate) bb8: bool,
    pub(crate) check: Check,
    pub(crate) paused: bool,
}

/// A pool beside livepool, and its callers.
pub(crate) struct Beside<P> {
    pub(crate) pool: P,
    pub(crate) load: Load,
}

pub(crate) struct Stage {
    pub(crate) fleet: Fleet,
    pub(crate) board: Board,
    pub(crate) pool: Pool<Echo>,
    pub(crate) load: Load,
    demand: watch::Sender<Demand>,
    /// Never held across an await.
    inside: Mutex<Inside>,
}

pub(crate) struct Inside {
    size: usize,
    check: Check,
    pub(crate) deadpool: Option<Beside<Deadpool>>,
    pub(crate) bb8: Option<Beside<Bb8>>,
}

impl Stage {
    /// Starts the upstreams, the pool and a little load.
    ///
    /// # Errors
    ///
    /// If the upstreams cannot be started.
    pub(crate) async fn start() -> std::io::Result<Self> {
        let fleet = Fleet::start().await?;
        let board = Board::new(&fleet);
        let pool = contenders::livepool(&fleet, SIZE, Some(IDLE_TIMEOUT), board.clone());
        let demand = watch::Sender::new(Demand { rate: 300, think_ms: 25, shared: false });
        let (live, origins) = (pool.clone(), Arc::new(board.clone()));
        let live = move |demand: &Demand| Live {
            pool: live.clone(),
            origins: Arc::clone(&origins) as Arc<dyn Origins>,
            shares: demand.shared,
        };
        let load = Load::start(live, fleet.clone(), demand.subscribe());
        let inside = Inside { size: SIZE, check: Check::Peek, deadpool: None, bb8: None };
        Ok(Self { fleet, board, pool, load, demand, inside: Mutex::new(inside) })
    }

    pub(crate) fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn switches(&self) -> Switches {
        let inside = self.inside();
        Switches {
            demand: *self.demand.borrow(),
            size: inside.size,
            deadpool: inside.deadpool.is_some(),
            bb8: inside.bb8.is_some(),
            check: inside.check,
            paused: self.pool.status().paused,
        }
    }

    /// Does what a button says. Returns when it is done.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words for the page.
    pub(crate) async fn press(&self, button: Button) -> Result<(), String> {
        match button {
            Button::Demand(demand) => {
                if demand.rate > MOST_RATE || demand.think_ms > MOST_THINK_MS {
                    return Err(format!(
                        "at most {MOST_RATE} callers a second, who think for at most {MOST_THINK_MS} ms"
                    ));
                }
                self.demand.send_replace(demand);
            }
            Button::Beside { deadpool, bb8, check } => self.beside(deadpool, bb8, check),
            Button::Fault { peers, fault } => return self.fault(peers, fault).await,
            Button::Resize { size } => self.resize(size)?,
            Button::Pause { on: true } => {
                self.board.pressed("paused", "by you", None);
                self.pool.pause();
            }
            Button::Pause { on: false } => {
                self.board.pressed("resumed", "by you", None);
                self.pool.resume();
            }
            Button::Invalidate => {
                self.board.pressed("invalidated", "by you", None);
                self.pool.invalidate();
                if let Some(deadpool) = &self.inside().deadpool {
                    let _ = deadpool.pool.retain(|_, _| false);
                }
            }
            Button::CancelAThird => {
                let cancelled = self.load.crowd.cancel_a_third();
                let inside = self.inside();
                let loads = [
                    inside.deadpool.as_ref().map(|beside| &beside.load),
                    inside.bb8.as_ref().map(|beside| &beside.load),
                ];
                for load in loads.into_iter().flatten() {
                    load.crowd.cancel_a_third();
                }
                let why = format!("{cancelled} of livepool's callers");
                self.board.pressed("cancelled", &why, None);
            }
            Button::Zero => self.zero(),
        }
        Ok(())
    }

    fn beside(&self, deadpool: bool, bb8: bool, check: Check) {
        let mut inside = self.inside();
        let is_other = inside.check != check;
        inside.check = check;
        let size = inside.size;
        if is_other || !deadpool {
            inside.deadpool = None;
        }
        if is_other || !bb8 {
            inside.bb8 = None;
        }
        if deadpool && inside.deadpool.is_none() {
            let pool = contenders::deadpool(&self.fleet, size, check);
            let (same, demand) = (pool.clone(), self.demand.subscribe());
            let load = Load::start(move |_| same.clone(), self.fleet.clone(), demand);
            inside.deadpool = Some(Beside { pool, load });
        }
        if bb8 && inside.bb8.is_none() {
            let pool = contenders::bb8(&self.fleet, size, check);
            let (same, demand) = (pool.clone(), self.demand.subscribe());
            let load = Load::start(move |_| same.clone(), self.fleet.clone(), demand);
            inside.bb8 = Some(Beside { pool, load });
        }
        drop(inside);
        // From here on they are compared.
        self.zero();
    }

    async fn fault(&self, peers: Vec<usize>, fault: Fault) -> Result<(), String> {
        if peers.iter().any(|peer| *peer >= PEERS) {
            return Err(format!("there are {PEERS} upstreams, counted from 0"));
        }
        if matches!(fault, Fault::Delay(milliseconds) if milliseconds > MOST_DELAY_MS) {
            return Err(format!("at most {MOST_DELAY_MS} ms"));
        }
        let mut problems = Vec::new();
        for peer in peers {
            match self.fleet.inflict(peer, fault).await {
                Ok(()) => self.board.pressed(name(fault), "by you", Some(peer)),
                Err(error) => problems.push(error.to_string()),
            }
        }
        problems.into_iter().next().map_or(Ok(()), Err)
    }

    fn resize(&self, size: usize) -> Result<(), String> {
        if !(1..=MOST_SIZE).contains(&size) {
            return Err(format!("a size from 1 to {MOST_SIZE}"));
        }
        self.pool.resize(size).map_err(|error| error.to_string())?;
        let mut inside = self.inside();
        inside.size = size;
        if let Some(deadpool) = &inside.deadpool {
            deadpool.pool.resize(size);
        }
        // bb8 has a size for life: it is made anew.
        let (was_on, check, has_deadpool) =
            (inside.bb8.take().is_some(), inside.check, inside.deadpool.is_some());
        drop(inside);
        if was_on {
            self.beside(has_deadpool, true, check);
        }
        self.board.pressed("resized", &format!("to {size}"), None);
        Ok(())
    }

    fn zero(&self) {
        self.load.tally.zero();
        let inside = self.inside();
        let loads = [
            inside.deadpool.as_ref().map(|beside| &beside.load),
            inside.bb8.as_ref().map(|beside| &beside.load),
        ];
        loads.into_iter().flatten().for_each(|load| load.tally.zero());
    }
}

/// A fault, as the timeline names it.
pub(crate) fn name(fault: Fault) -> &'static str {
    match fault {
        Fault::Close => "connections closed",
        Fault::Reset => "connections reset",
        Fault::Cut => "wire cut",
        Fault::Heal => "wire healed",
        Fault::Stop => "process stopped",
        Fault::Continue => "process continued",
        Fault::Refuse => "refuses",
        Fault::Accept => "accepts",
        Fault::Delay(0) => "no delay",
        Fault::Delay(_) => "answers late",
        Fault::Forget => "flows forgotten",
        Fault::FailOver => "killed",
        Fault::BringBack => "brought back",
    }
}

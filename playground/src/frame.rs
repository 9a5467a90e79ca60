//! What the page is sent: ten times a second everything that is now, and what happened since the frame
//! before, added up. So its size depends on how many connections there are, and not on how busy they are.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::board::{Dot, Ended, Line, ms};
use crate::fleet::{PEERS, Plight};
use crate::load::Load;
use crate::stage::{Stage, Switches};
use crate::tally::{Sums, Waits, no_waits};

/// The time between two frames.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// Rates and waits are those of so many frames: a second.
const WINDOW: usize = 10;

/// Lines of the timeline that are kept for pages that come, or come late.
const MOST_LINES: usize = 300;

/// A frame, as text, and the lines that a page may lack.
#[derive(Debug, Default)]
pub(crate) struct Frame {
    pub(crate) json: String,
    /// Each with its number, as text.
    pub(crate) lines: VecDeque<(u64, Arc<str>)>,
}

#[derive(Serialize)]
struct Now<'a> {
    number: u64,
    at_ms: u64,
    /// How long the frame before took to make, in microseconds.
    made_in_us: u64,
    status: livepool::Status,
    switches: &'a Switches,
    peers: Vec<Peer>,
    dots: &'a [Dot],
    ended: &'a [Ended],
    /// How long each dial under way has been so.
    connecting_ms: Vec<u64>,
    pools: BTreeMap<&'static str, Figures>,
}

#[derive(Serialize)]
struct Peer {
    addr: String,
    plight: Plight,
    /// The pool's judgement; none where it does not know the peer.
    judgement: Option<&'static str>,
    connections: usize,
}

/// What one pool's callers met.
#[derive(Serialize)]
struct Figures {
    checkouts_per_s: f64,
    errors_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    connections: usize,
    longest_ms: f64,
    checkouts: u64,
    errors: u64,
    dead: u64,
    wrong: u64,
    cancelled: u64,
    held_back: u64,
    kinds: BTreeMap<String, u64>,
}

/// The last second of one pool's callers.
#[derive(Default)]
struct Recent(VecDeque<(Instant, u64, u64, Waits)>);

impl Recent {
    fn figures(&mut self, load: &Load, connections: usize) -> Figures {
        let sums: Sums = load.tally.sums();
        let now = Instant::now();
        let waits = load.tally.take_waits();
        // Set to zero, or another pool.
        if self.0.back().is_some_and(|(_, checkouts, ..)| *checkouts > sums.checkouts) {
            self.0.clear();
        }
        self.0.push_back((now, sums.checkouts, sums.errors, waits));
        if self.0.len() > WINDOW + 1 {
            self.0.pop_front();
        }
        let mut waits = no_waits();
        for (.., of_tick) in self.0.iter().skip(1) {
            // Same bounds.
            let _ = waits.add(of_tick);
        }
        let (began, checkouts, errors, _) = self.0.front().unwrap_or(&self.0[0]);
        let seconds = (now - *began).as_secs_f64();
        #[allow(clippy::cast_precision_loss)]
        let per_s = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        #[allow(clippy::cast_precision_loss)]
        let quantile = |of: f64| waits.value_at_quantile(of) as f64 / 1000.0;
        Figures {
            checkouts_per_s: per_s(sums.checkouts - checkouts),
            errors_per_s: per_s(sums.errors.saturating_sub(*errors)),
            p50_ms: if waits.is_empty() { 0.0 } else { quantile(0.5) },
            p99_ms: if waits.is_empty() { 0.0 } else { quantile(0.99) },
            connections,
            longest_ms: sums.longest.as_secs_f64() * 1000.0,
            checkouts: sums.checkouts,
            errors: sums.errors,
            dead: sums.dead,
            wrong: sums.wrong,
            cancelled: sums.cancelled,
            held_back: sums.held_back,
            kinds: sums.kinds,
        }
    }
}

/// Makes frames, for as long as the program runs. Who is late for one gets the next one: nothing piles up.
pub(crate) async fn run(stage: Arc<Stage>, frames: watch::Sender<Arc<Frame>>) {
    let began = Instant::now();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (mut live, mut deadpool, mut bb8) = <(Recent, Recent, Recent)>::default();
    let mut lines = VecDeque::new();
    let (mut number, mut line_number, mut took) = (0_u64, 0_u64, Duration::ZERO);
    loop {
        tick.tick().await;
        let start = Instant::now();
        number += 1;
        let at_ms = ms(start - began);
        for line in stage.board.take_lines(at_ms) {
            line_number += 1;
            lines.push_back((line_number, numbered(line_number, &line)));
        }
        while lines.len() > MOST_LINES {
            lines.pop_front();
        }
        let (dots, ended, switches) = (stage.board.dots(), stage.board.ended(), stage.switches());
        let mut pools = BTreeMap::new();
        pools.insert("livepool", live.figures(&stage.load, dots.len()));
        {
            let inside = stage.inside();
            if let Some(beside) = &inside.deadpool {
                let connections = beside.pool.status().size;
                pools.insert("deadpool", deadpool.figures(&beside.load, connections));
            }
            if let Some(beside) = &inside.bb8 {
                let connections = beside.pool.state().connections as usize;
                pools.insert("bb8", bb8.figures(&beside.load, connections));
            }
        }
        let report = stage.pool.report();
        let now = Now {
            number,
            at_ms,
            made_in_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            status: report.status,
            switches: &switches,
            peers: peers(&stage),
            dots: &dots,
            ended: &ended,
            connecting_ms: report.dialer.under_way.iter().map(|time| ms(*time)).collect(),
            pools,
        };
        // What is serialised here has no map with keys that are no text, and nothing else fails.
        let json = serde_json::to_string(&now).unwrap_or_default();
        took = start.elapsed();
        frames.send_replace(Arc::new(Frame { json, lines: lines.clone() }));
    }
}

fn numbered(number: u64, line: &Line) -> Arc<str> {
    #[derive(Serialize)]
    struct Numbered<'a> {
        number: u64,
        #[serde(flatten)]
        line: &'a Line,
    }
    serde_json::to_string(&Numbered { number, line }).unwrap_or_default().into()
}

fn peers(stage: &Stage) -> Vec<Peer> {
    let known = stage.pool.peers();
    let peer = |number| {
        let of_pool = known.iter().find(|peer| stage.board.peer(&peer.addr) == Some(number));
        Peer {
            addr: stage.fleet.addr(number).to_string(),
            plight: stage.fleet.plight(number),
            judgement: of_pool.map(|peer| peer.state.as_str()),
            connections: of_pool.map_or(0, |peer| peer.connections),
        }
    };
    (0..PEERS).map(peer).collect()
}

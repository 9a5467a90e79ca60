//! What each button does to each pool, measured and written as a page.

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use deadpool::managed;
use livepool::Pool;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::board::Board;
use crate::contenders::{self, Bb8, Check, Deadpool, Live, Origins, PATIENCE};
use crate::echo::Echo;
use crate::fleet::{Fault, Fleet};
use crate::keeping_up;
use crate::load::{Demand, Load};
use crate::tally::Sums;

/// The load of each pool, and its size.
const DEMAND: Demand = Demand { rate: 400, think_ms: 25, shared: false };
const SIZE: usize = 15;

/// The upstream that is broken: the second of three.
const BROKEN: usize = 1;

/// Before a button is pressed, and after it was taken back.
const CALM: Duration = Duration::from_millis(700);

/// A row of the table.
struct Row {
    name: &'static str,
    does: &'static str,
    step: Step,
    /// How long it lasts.
    holds: Duration,
}

enum Step {
    Nothing,
    Fault(Fault, Option<Fault>),
    Resize,
    Pause,
    Invalidate,
    Cancel,
}

const fn row(name: &'static str, does: &'static str, step: Step, holds_ms: u64) -> Row {
    Row { name, does, step, holds: Duration::from_millis(holds_ms) }
}

const ROWS: [Row; 13] = [
    row("nothing", "for comparison", Step::Nothing, 500),
    row("close", "all sockets of one upstream, FIN", Step::Fault(Fault::Close, None), 500),
    row("reset", "all sockets of one upstream, RST", Step::Fault(Fault::Reset, None), 500),
    row(
        "cut the wire",
        "to one upstream, for 6 s",
        Step::Fault(Fault::Cut, Some(Fault::Heal)),
        6000,
    ),
    row(
        "forget flows",
        "to one upstream, for 6 s; new connections work",
        Step::Fault(Fault::Forget, Some(Fault::Heal)),
        6000,
    ),
    row(
        "stop",
        "the process of one upstream, for 2 s",
        Step::Fault(Fault::Stop, Some(Fault::Continue)),
        2000,
    ),
    row(
        "refuse",
        "one upstream resets, and refuses for 2 s",
        Step::Fault(Fault::Refuse, Some(Fault::Accept)),
        2000,
    ),
    row(
        "delay",
        "one upstream answers 300 ms late, for 2 s",
        Step::Fault(Fault::Delay(300), Some(Fault::Delay(0))),
        2000,
    ),
    row(
        "fail over",
        "the process of one upstream is killed, and the name leads to the others",
        Step::Fault(Fault::FailOver, Some(Fault::BringBack)),
        2000,
    ),
    row("resize", "to half", Step::Resize, 500),
    row("pause", "for 1 s", Step::Pause, 1000),
    row("invalidate", "all connections", Step::Invalidate, 500),
    row("cancel", "every third caller, 40 times in 2 s", Step::Cancel, 2000),
];

/// The pools of one row, and their callers. Each row has its own.
struct Pools {
    livepool: (Pool<Echo>, Load),
    deadpool: Vec<(Deadpool, Load)>,
    bb8: Vec<(Bb8, Load)>,
    demand: watch::Sender<Demand>,
}

/// The columns, in the order of [`Pools::loads`].
const COLUMNS: [&str; 5] =
    ["livepool", "deadpool, peek", "deadpool, ping", "bb8, peek", "bb8, ping"];

impl Pools {
    fn start(fleet: &Fleet) -> Self {
        let demand = watch::Sender::new(DEMAND);
        let board = Board::new(fleet);
        let pool = contenders::livepool(fleet, SIZE, None, board.clone());
        let (live, origins) = (pool.clone(), Arc::new(board) as Arc<dyn Origins>);
        let live = move |_: &Demand| Live {
            pool: live.clone(),
            origins: Arc::clone(&origins),
            shares: false,
        };
        let livepool = (pool, Load::start(live, fleet.clone(), demand.subscribe()));
        let deadpool = [Check::Peek, Check::Ping].map(|check| {
            let pool = contenders::deadpool(fleet, SIZE, check);
            let same = pool.clone();
            (pool, Load::start(move |_| same.clone(), fleet.clone(), demand.subscribe()))
        });
        let bb8 = [Check::Peek, Check::Ping].map(|check| {
            let pool = contenders::bb8(fleet, SIZE, check);
            let same = pool.clone();
            (pool, Load::start(move |_| same.clone(), fleet.clone(), demand.subscribe()))
        });
        Self { livepool, deadpool: deadpool.into(), bb8: bb8.into(), demand }
    }

    fn loads(&self) -> impl Iterator<Item = &Load> {
        let deadpool = self.deadpool.iter().map(|(_, load)| load);
        [&self.livepool.1].into_iter().chain(deadpool).chain(self.bb8.iter().map(|(_, load)| load))
    }

    /// Presses the button of this row. `None` for a pool that has nothing of the kind.
    async fn press(
        &self,
        fleet: &Fleet,
        row: &Row,
    ) -> Result<[bool; COLUMNS.len()], Box<dyn Error>> {
        let began = Instant::now();
        let mut took_part = [true; COLUMNS.len()];
        match &row.step {
            Step::Nothing => {}
            Step::Fault(fault, _) => fleet.inflict(BROKEN, *fault).await?,
            Step::Resize => {
                self.livepool.0.resize(SIZE / 2)?;
                self.deadpool.iter().for_each(|(pool, _)| pool.resize(SIZE / 2));
                took_part = [true, true, true, false, false];
            }
            Step::Pause => {
                self.livepool.0.pause();
                took_part = [true, false, false, false, false];
            }
            Step::Invalidate => {
                self.livepool.0.invalidate();
                for (pool, _) in &self.deadpool {
                    let _: managed::RetainResult<_> = pool.retain(|_, _| false);
                }
                took_part = [true, true, true, false, false];
            }
            Step::Cancel => {
                for _ in 0..40 {
                    for load in self.loads() {
                        load.crowd.cancel_a_third();
                    }
                    sleep(row.holds / 40).await;
                }
            }
        }
        sleep((began + row.holds).saturating_duration_since(Instant::now())).await;
        match &row.step {
            Step::Fault(_, Some(back)) => fleet.inflict(BROKEN, *back).await?,
            Step::Pause => self.livepool.0.resume(),
            _ => {}
        }
        Ok(took_part)
    }

    /// Nobody comes any more; returns when those who are there have their fate.
    async fn drain(&self) {
        self.demand.send_replace(Demand { rate: 0, ..DEMAND });
        let until = Instant::now() + PATIENCE + Duration::from_secs(1);
        while Instant::now() < until && self.loads().any(|load| load.crowd.len() > 0) {
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Measures, and writes the page.
///
/// # Errors
///
/// If the upstreams cannot be started or do not do what they are told, or the file cannot be written.
#[tokio::main]
pub(crate) async fn write(path: &Path) -> Result<(), Box<dyn Error>> {
    let began = Instant::now();
    let fleet = Fleet::start().await?;
    let mut table = String::new();
    for row in &ROWS {
        eprintln!("{}: {}", row.name, row.does);
        let pools = Pools::start(&fleet);
        sleep(CALM).await;
        let took_part = pools.press(&fleet, row).await?;
        sleep(CALM).await;
        pools.drain().await;
        write!(table, "| {} | {} |", row.name, row.does)?;
        for (load, took_part) in pools.loads().zip(took_part) {
            let cell = if took_part { cell(&load.tally.sums()) } else { "–".to_owned() };
            write!(table, " {cell} |")?;
        }
        table.push('\n');
    }
    drop(fleet);
    eprintln!("200 connections, 5 000 checkouts a second");
    let keeping_up = keeping_up::measure().await?;
    std::fs::write(path, page(&table, &keeping_up))?;
    eprintln!("{} written after {:.0?}", path.display(), began.elapsed());
    Ok(())
}

/// Errors, dead ones among them, and the longest wait.
fn cell(sums: &Sums) -> String {
    let wrong = match sums.wrong {
        0 => String::new(),
        wrong => format!(" ({wrong} with somebody else's answer)"),
    };
    let longest = match sums.longest.as_millis() {
        short @ 0..1000 => format!("{short} ms"),
        _ => format!("{:.1} s", sums.longest.as_secs_f64()),
    };
    format!("{}{wrong} · {} · {longest}", sums.errors, sums.dead)
}

fn page(table: &str, keeping_up: &str) -> String {
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    let (rate, think, size, patience) = (DEMAND.rate, DEMAND.think_ms, SIZE, PATIENCE.as_secs());
    let head = COLUMNS.map(|column| format!(" {column} |")).concat();
    let rule = "---|".repeat(COLUMNS.len() + 2);
    format!(
        "# The playground\n\n{}\n\n# What each button does\n\n{}\n\n| button | |{head}\n|{rule}\n{table}\n{}\n",
        include_str!("../text/playground.md").trim(),
        include_str!("../text/method.md")
            .trim()
            .replace("{rate}", &rate.to_string())
            .replace("{think}", &think.to_string())
            .replace("{size}", &size.to_string())
            .replace("{patience}", &patience.to_string())
            .replace("{build}", build),
        include_str!("../text/reading.md").trim().replace("{keeping_up}", keeping_up),
    )
}

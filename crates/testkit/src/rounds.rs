//! Many idle connections to one peer, and what became of every question whether it lives.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use livepool::event::{Check, CheckVerdict};
use livepool::{CloseReason, Config, Event, Pool};

/// Two descriptors each, and many machines allow 1024.
pub const CONNECTIONS: usize = 400;

/// How many rounds are asked for: `LIVEPOOL_ROUNDS`, or as many as take a few seconds.
pub fn wanted() -> usize {
    let given = std::env::var("LIVEPOOL_ROUNDS").ok();
    given.map_or(1000, |text| text.parse().expect("LIVEPOOL_ROUNDS is a number"))
}

/// Rounds by their verdict, and connections that have ended.
#[derive(Default)]
pub struct Tally {
    alive: AtomicUsize,
    dead: AtomicUsize,
    unproved: AtomicUsize,
    ended: Mutex<Vec<CloseReason>>,
}

impl Tally {
    fn note(&self, event: &Event) {
        let count = match event {
            Event::Checked { check: Check::Probe, verdict, .. } => match verdict {
                CheckVerdict::Alive => &self.alive,
                CheckVerdict::Dead => &self.dead,
                _ => &self.unproved,
            },
            Event::Closed { reason, .. } => return self.ended.lock().unwrap().push(*reason),
            _ => return,
        };
        count.fetch_add(1, Ordering::SeqCst);
    }

    pub fn alive(&self) -> usize {
        self.alive.load(Ordering::SeqCst)
    }

    pub fn dead(&self) -> usize {
        self.dead.load(Ordering::SeqCst)
    }

    pub fn unproved(&self) -> usize {
        self.unproved.load(Ordering::SeqCst)
    }

    pub fn rounds(&self) -> usize {
        self.alive() + self.dead() + self.unproved()
    }

    /// Why connections have ended, in order.
    pub fn ended(&self) -> Vec<CloseReason> {
        self.ended.lock().unwrap().clone()
    }
}

/// A pool whose connections all were made at once and are asked as often as possible.
pub struct Watched {
    pub pool: Pool,
    pub tally: Arc<Tally>,
    count: usize,
    start: Instant,
}

impl Watched {
    /// Connects. Nothing is ever sent.
    pub async fn connect(config: Config, count: usize) -> Self {
        Self::connect_and(config, count, async |guard| drop(guard)).await
    }

    /// The same, of a pool that asks only this often.
    pub async fn connect_asking(config: Config, count: usize, max_silence: Duration) -> Self {
        Self::make(config, count, max_silence, async |guard| drop(guard)).await
    }

    /// Connects, and does this to each connection before it lies idle.
    pub async fn connect_and(
        config: Config,
        count: usize,
        prepare: impl AsyncFn(livepool::Guard),
    ) -> Self {
        // As often as can be.
        Self::make(config, count, Duration::from_secs(1), prepare).await
    }

    async fn make(
        config: Config,
        count: usize,
        max_silence: Duration,
        prepare: impl AsyncFn(livepool::Guard),
    ) -> Self {
        let tally = Arc::new(Tally::default());
        let its = Arc::clone(&tally);
        // Not more at a time than a listener keeps for its program: of those beyond, far away, Linux
        // forgets some that the client holds to be made (SYN cookies), and resets them later.
        let config = config
            .with_max_size(count)
            .with_max_connecting(100)
            .with_max_silence(Some(max_silence));
        let pool = Pool::builder(config)
            .observer(move |_: &str, event: &Event| its.note(event))
            .build()
            .unwrap();
        let gets = (0..count).map(|_| pool.get());
        for guard in futures_util::future::try_join_all(gets).await.unwrap() {
            prepare(guard).await;
        }
        assert_eq!(tally.ended(), []);
        Self { pool, tally, count, start: Instant::now() }
    }

    /// Waits until `count` has come to as many rounds as wanted, or a connection has ended.
    pub async fn live_through(&self, count: impl Fn(&Tally) -> usize) {
        self.until(|tally| count(tally) >= wanted() || !tally.ended().is_empty()).await;
    }

    /// Waits until `done`, for as long as there are rounds.
    pub async fn until(&self, done: impl Fn(&Tally) -> bool) {
        let (mut rounds, mut since) = (0, Instant::now());
        while !done(&self.tally) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if self.tally.rounds() > rounds {
                (rounds, since) = (self.tally.rounds(), Instant::now());
            }
            assert!(since.elapsed() < Duration::from_secs(20), "no round ends any more");
        }
    }

    pub fn print(&self, condition: &str) {
        let (rounds, ended) = (self.tally.rounds(), self.tally.ended().len());
        let took = self.start.elapsed().as_secs_f64();
        println!("{condition}: {rounds} rounds, {ended} evictions, {took:.1} s");
    }

    /// Every connection there was is still there.
    pub fn assert_nobody_was_evicted(&self) {
        assert_eq!(self.tally.ended(), []);
        assert_eq!(self.tally.dead(), 0);
        let status = self.pool.status();
        assert_eq!(status.idle + status.quarantined, self.count, "{status}");
    }
}

//! A hundred thousand random operations: whatever callers, operators and upstreams do, no limit is
//! passed, nobody reads another's answer, and nothing is left behind.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use livepool::config::{Backoff, Order as Choice};
use livepool::{CheckoutError, Config, Event, Guard, Pool, Timeouts};
use livepool_testkit::cut::{DROPS, cut};
use livepool_testkit::{Order, Upstream, ask, until, until_seen, until_status};
use tokio::time::Instant;

const OPERATIONS: usize = 50_000;
const MOST: usize = 12;
const MS: Duration = Duration::from_millis(1);

/// A pool over three addresses, and all that may happen to it.
struct Stage {
    pool: Pool,
    upstreams: Mutex<Vec<Upstream>>,
    opened: Arc<AtomicUsize>,
    closed: Arc<AtomicUsize>,
    /// Whoever asks puts a number into the question that nobody else has.
    questions: AtomicUsize,
    answers: AtomicUsize,
}

impl Stage {
    fn new() -> Arc<Self> {
        let upstreams = vec![Upstream::start(), Upstream::start(), Upstream::start()];
        let addrs = upstreams.iter().map(|upstream| upstream.addr().to_string());
        let timeouts = Timeouts::default().with_checkout(5 * MS).with_read(500 * MS);
        let config = Config::new("")
            .with_upstream(addrs)
            .with_max_size(MOST)
            .with_max_connecting(3)
            .with_backoff(Backoff::default().with_first(MS).with_most(4 * MS))
            .with_timeouts(timeouts);
        let (opened, closed) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (opens, closes) = (Arc::clone(&opened), Arc::clone(&closed));
        let observer = move |_: &str, event: &Event| {
            let count = match event {
                Event::Opened { .. } => &opens,
                Event::Closed { .. } => &closes,
                _ => return,
            };
            count.fetch_add(1, Ordering::SeqCst);
        };
        let pool = Pool::builder(config).observer(observer).build().unwrap();
        let (questions, answers) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let upstreams = Mutex::new(upstreams);
        Arc::new(Self { pool, upstreams, opened, closed, questions, answers })
    }

    /// One exchange; the connection is released if it went well.
    async fn exchange(&self, mut conn: Guard) {
        let number = self.questions.fetch_add(1, Ordering::SeqCst).to_string();
        if let Ok(answer) = ask(&mut conn, &format!("ECHO {number}")).await {
            assert_eq!(answer, number, "the answer to another question");
            self.answers.fetch_add(1, Ordering::SeqCst);
            conn.release();
        }
    }

    /// Polls a checkout so many times at most.
    async fn cut_short(
        &self,
        rng: &mut fastrand::Rng,
        get: impl Future<Output = Result<Guard, CheckoutError>>,
    ) -> Option<Guard> {
        let limit =
            tokio::time::timeout(5 * MS, cut(get, rng.usize(0..4), DROPS[rng.usize(0..2)], |_| {}));
        limit.await.ok().flatten()?.ok()
    }

    /// One thing that callers do.
    async fn call(&self, rng: &mut fastrand::Rng, held: &mut Vec<Guard>) {
        let pool = &self.pool;
        match rng.u8(0..100) {
            0..25 => held.extend(pool.try_get()),
            25..35 => held.extend(self.cut_short(rng, pool.get()).await),
            35..40 => held.extend(pool.get_by(Instant::now() + rng.u32(0..3) * MS).await.ok()),
            40..45 => held.extend(pool.get().await.ok()),
            // The rest needs a connection; so nobody holds many.
            done => {
                if held.is_empty() {
                    held.extend(pool.get_by(Instant::now() + 2 * MS).await.ok());
                }
                if held.is_empty() {
                    return;
                }
                let mut conn = held.swap_remove(rng.usize(0..held.len()));
                match done {
                    45..65 => _ = conn.release(),
                    65..80 => self.exchange(conn).await,
                    80..85 => drop(conn),
                    85..90 => {
                        // Nobody is to read the answer to this.
                        let question = ask(&mut conn, "SLOW 1 late");
                        drop(cut(question, rng.usize(0..3), DROPS[0], |_| {}).await);
                        conn.release();
                    }
                    90..94 => conn.discard(),
                    94..97 => drop(conn.detach()),
                    _ => _ = conn.invalidate(),
                }
            }
        }
    }

    /// One thing that happens to the whole pool.
    fn befall(&self, rng: &mut fastrand::Rng) {
        let pool = &self.pool;
        match rng.u8(0..20) {
            0..3 => pool.invalidate(),
            3 => pool.invalidate_and_interrupt(),
            4..7 => pool.resize(rng.usize(1..=MOST)).unwrap(),
            7..9 => {
                let size = rng.usize(1..=MOST);
                let min_idle = rng.usize(0..=size);
                let (life, idle) = (rng.u32(1..400) * MS, rng.u32(1..400) * MS);
                let (read, order) = (rng.u32(300..600) * MS, rng.bool());
                pool.reconfigure(|config| {
                    (config.max_size, config.min_idle) = (size, min_idle);
                    (config.max_lifetime, config.idle_timeout) = (Some(life), Some(idle));
                    config.timeouts.read = read.into();
                    config.order = if order { Choice::Fifo } else { Choice::Lifo };
                    config.max_connecting = size;
                })
                .unwrap();
            }
            9..11 => pool.pause(),
            11..15 => pool.resume(),
            15 => {
                // It is gone for a moment, and back under the same address.
                let mut upstreams = self.upstreams.lock().unwrap();
                let at = rng.usize(0..upstreams.len());
                let addr = upstreams[at].addr();
                upstreams[at].stop();
                upstreams[at] = Upstream::start_on(addr);
            }
            other => {
                let order = match other {
                    16 => Order::HalfClose,
                    17 => Order::Reset,
                    _ => Order::Close,
                };
                let upstreams = self.upstreams.lock().unwrap();
                upstreams[rng.usize(0..upstreams.len())].order_all(&order);
            }
        }
    }

    fn sum(&self) -> usize {
        let now = self.pool.status();
        now.idle + now.in_use + now.connecting + now.quarantined
    }

    /// It still works, and then nothing is left of it.
    async fn end(self: Arc<Self>, seed: u64) {
        self.pool.resume();
        self.pool
            .reconfigure(|config| {
                (config.max_size, config.min_idle) = (MOST, 0);
                (config.max_lifetime, config.idle_timeout) = (None, None);
            })
            .unwrap();
        // The last orders are still being carried out.
        let before = self.answers.load(Ordering::SeqCst);
        while self.answers.load(Ordering::SeqCst) < before + 20 {
            let deadline = Instant::now() + Duration::from_secs(10);
            let conn =
                self.pool.get_by(deadline).await.unwrap_or_else(|e| panic!("{e}, seed {seed}"));
            self.exchange(conn).await;
        }
        let status = self.pool.status();
        assert_eq!((status.in_use, status.waiting), (0, 0), "{status}, seed {seed}");
        let stage = Arc::into_inner(self).expect("all actors have ended");
        let (opened, closed) = (stage.opened, stage.closed);
        stage.pool.close();
        until_status(&stage.pool, |now| now.connecting == 0).await;
        drop(stage.pool);
        let counts = || (closed.load(Ordering::SeqCst), opened.load(Ordering::SeqCst));
        until_seen(counts, |(closed, opened)| closed == opened).await;
        until(|| stage.upstreams.lock().unwrap().iter().all(|upstream| upstream.open() == 0)).await;
        println!(
            "{} opened, {} answers, seed {seed}",
            opened.load(Ordering::SeqCst),
            stage.answers.load(Ordering::SeqCst)
        );
    }
}

#[tokio::test]
async fn after_each_of_many_random_operations_there_are_no_more_connections_than_allowed() {
    let seed = livepool_testkit::seed::seed();
    let mut rng = fastrand::Rng::with_seed(seed);
    let stage = Stage::new();
    let mut held = Vec::new();
    let mut last = 0;
    for operation in 0..OPERATIONS {
        if rng.u16(0..200) == 0 {
            stage.befall(&mut rng);
        } else {
            stage.call(&mut rng, &mut held).await;
        }
        // Nobody else would give one back.
        if held.len() >= stage.pool.status().max_size.min(6) {
            held.clear();
        }
        if stage.pool.status().paused && rng.u8(0..4) == 0 {
            stage.pool.resume();
        }
        // After a resize down there may be more for a while, but never more than there were.
        let (sum, limit) = (stage.sum(), stage.pool.status().max_size);
        assert!(
            sum <= limit || sum <= last,
            "{sum} of {limit}, seed {seed}, operation {operation}"
        );
        last = sum;
    }
    held.clear();
    stage.end(seed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_actors_at_once_pass_no_limit_lose_nothing_and_read_no_answer_of_others() {
    const ACTORS: usize = 8;
    let seed = livepool_testkit::seed::seed();
    let stage = Stage::new();
    let actors = (0..ACTORS).map(|actor| {
        let stage = Arc::clone(&stage);
        let mut rng = fastrand::Rng::with_seed(seed.wrapping_add(actor as u64));
        tokio::spawn(async move {
            let mut held = Vec::new();
            for _ in 0..OPERATIONS / ACTORS {
                // One of them is the operator as well.
                if actor == 0 && rng.u8(0..100) == 0 {
                    stage.befall(&mut rng);
                } else {
                    stage.call(&mut rng, &mut held).await;
                }
                if held.len() > 2 || stage.pool.status().paused {
                    held.clear();
                }
                if stage.pool.status().paused && rng.u8(0..4) == 0 {
                    stage.pool.resume();
                }
                assert!(stage.sum() <= MOST, "{}, seed {seed}", stage.pool.status());
                tokio::task::yield_now().await;
            }
        })
    });
    for actor in actors.collect::<Vec<_>>() {
        actor.await.unwrap();
    }
    stage.end(seed).await;
}

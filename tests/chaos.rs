//! What users meet when an upstream misbehaves, beside what they meet in a plain deadpool pool that
//! is used as its examples show. Run with `--nocapture` to see the figures.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool::managed::{self, Metrics, RecycleResult};
use livepool::net::PeerAddr;
use livepool::{CloseReason, Config, Pool, Release};
use livepool_testkit::cut::{Drop as When, cut};
use livepool_testkit::fickle::Fickle;
use livepool_testkit::{Events, Upstream, watched};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// Raw streams, with a recycle that does nothing.
struct Naive(SocketAddr);

impl managed::Manager for Naive {
    type Type = TcpStream;
    type Error = io::Error;

    async fn create(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.0).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn recycle(&self, _: &mut TcpStream, _: &Metrics) -> RecycleResult<io::Error> {
        Ok(())
    }
}

type NaivePool = managed::Pool<Naive>;

fn naive(addr: SocketAddr, size: usize) -> NaivePool {
    NaivePool::builder(Naive(addr)).max_size(size).build().unwrap()
}

async fn ask_line(
    conn: &mut (impl AsyncRead + AsyncWrite + Unpin),
    text: &str,
) -> io::Result<String> {
    conn.write_all(format!("{text}\n").as_bytes()).await?;
    read_line(conn).await
}

/// Byte by byte, so that nothing is read ahead.
async fn read_line(conn: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let mut text = Vec::new();
    loop {
        match conn.read_u8().await? {
            b'\n' => return Ok(String::from_utf8(text).unwrap()),
            byte => text.push(byte),
        }
    }
}

const SIZE: usize = 16;
const TASKS: usize = 16;
const CHECKOUTS: usize = 10_000;
/// One connection in so many answers is ended.
const CHANCE: f64 = 0.08;

/// How callers fared with connections that the upstream had ended.
#[derive(Debug, Default, Clone, Copy)]
struct Met {
    /// The end was there before the checkout began: handed out dead.
    before: usize,
    /// It came between the beginning of the checkout and the first byte written. A check sees it or
    /// not, depending on which was first.
    during_checkout: usize,
    /// It came when the connection was in use, or on its way.
    in_use: usize,
}

impl Met {
    /// Those that a checkout can tell. How many are in use in the moment of their end depends on how long the
    /// upstream is held up between its look, whether it was asked anything, and the end.
    fn at_checkout(self) -> usize {
        self.before + self.during_checkout
    }
}

/// One caller's exchange: who it was for the upstream, when its checkout began and was over, and
/// whether the exchange failed.
struct Use {
    client: SocketAddr,
    began: Instant,
    got: Instant,
    failed: bool,
}

/// 16 tasks, each with a pause now and then, so that connections are idle when they are ended.
async fn run(upstream: &Arc<Fickle>, one: impl AsyncOne) -> Met {
    let tasks = (0..TASKS).map(|task| {
        let (upstream, one) = (Arc::clone(upstream), one.clone());
        tokio::spawn(async move {
            let mut rng = fastrand::Rng::with_seed(task as u64);
            let mut met = Met::default();
            for round in 0..CHECKOUTS / TASKS {
                if rng.u8(..) < 100 {
                    tokio::time::sleep(Duration::from_micros(rng.u64(100..2000))).await;
                }
                let used = one.exchange(format!("{task} {round}")).await;
                if used.failed {
                    match upstream.ended(used.client) {
                        Some(ended) if ended < used.began => met.before += 1,
                        Some(ended) if ended < used.got => met.during_checkout += 1,
                        _ => met.in_use += 1,
                    }
                }
            }
            met
        })
    });
    let mut all = Met::default();
    for task in tasks.collect::<Vec<_>>() {
        let met = task.await.unwrap();
        all.before += met.before;
        all.during_checkout += met.during_checkout;
        all.in_use += met.in_use;
    }
    all
}

/// A pool as one caller uses it, once.
trait AsyncOne: Clone + Send + Sync + 'static {
    fn exchange(&self, text: String) -> impl Future<Output = Use> + Send;
}

impl AsyncOne for Pool {
    async fn exchange(&self, text: String) -> Use {
        let began = Instant::now();
        let mut conn = self.get().await.unwrap();
        let got = Instant::now();
        let PeerAddr::Tcp(client) = *conn.local_addr() else { unreachable!() };
        let failed = match ask_line(&mut conn, &text).await {
            Ok(answer) => {
                assert_eq!(answer, text);
                conn.release();
                false
            }
            Err(_) => true,
        };
        Use { client, began, got, failed }
    }
}

impl AsyncOne for NaivePool {
    async fn exchange(&self, text: String) -> Use {
        let began = Instant::now();
        let mut conn = self.get().await.unwrap();
        let got = Instant::now();
        let client = conn.local_addr().unwrap();
        let failed = match ask_line(&mut *conn, &text).await {
            Ok(answer) => {
                assert_eq!(answer, text);
                false
            }
            // What a careful user does, once the harm is done.
            Err(_) => {
                drop(managed::Object::take(conn));
                true
            }
        };
        Use { client, began, got, failed }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_ten_thousand_checkouts_nobody_is_handed_a_connection_that_was_dead_before() {
    let seed = livepool_testkit::seed::seed();

    let upstream = Arc::new(Fickle::start(seed, CHANCE));
    let config = Config::new(upstream.addr().to_string()).with_max_size(SIZE);
    let (pool, events) = watched(config);
    let started = Instant::now();
    let live = run(&upstream, pool).await;
    let live_kills = upstream.kills();
    println!(
        "livepool: {live_kills} idle connections ended, met {live:?}, {:?}",
        started.elapsed()
    );
    let evicted = events.closed().into_iter().filter(|reason| reason.is_eviction()).count();

    let upstream = Arc::new(Fickle::start(seed, CHANCE));
    let pool = naive(upstream.addr(), SIZE);
    let started = Instant::now();
    let plain = run(&upstream, pool).await;
    let kills = upstream.kills();
    println!("deadpool: {kills} idle connections ended, met {plain:?}, {:?}", started.elapsed());

    assert_eq!(live.before, 0, "handed out dead");
    // What is left raced the use itself: no check can see what has not happened yet.
    assert!(live_kills >= 200 && kills >= 200, "too few to prove anything");
    assert!(evicted * 2 > live_kills, "most were evicted, {evicted} of {live_kills}");
    assert!(plain.before * 3 > kills, "the same upstream shows many to a pool that does not look");
    assert!(live.at_checkout() * 5 < plain.at_checkout());
}

/// Requests given up half-way, and whether the next user of the pool read their answers. `give_up`
/// sends a request that is answered later and abandons it; `ask` is the next user.
async fn crossings(
    rounds: usize,
    give_up: impl AsyncFn(&str),
    ask: impl AsyncFn(&str) -> String,
) -> usize {
    let mut crossed = 0;
    for round in 0..rounds {
        let abandoned = (0..SIZE).map(|n| format!("secret-{round}-{n}")).collect::<Vec<_>>();
        futures_util::future::join_all(abandoned.iter().map(|text| give_up(text))).await;
        let asked = (0..SIZE).map(|n| format!("mine-{round}-{n}")).collect::<Vec<_>>();
        let answers = futures_util::future::join_all(asked.iter().map(|text| ask(text))).await;
        crossed += answers.iter().zip(&asked).filter(|(answer, asked)| answer != asked).count();
    }
    crossed
}

/// 6 times 16 are 96.
const ROUNDS: usize = 6;

/// Long enough that nobody has read the answer, short enough that the next user waits for it.
fn slowly(text: &str) -> String {
    format!("SLOW 1000 {text}")
}

/// Ways to give a request up.
#[derive(Debug, Clone, Copy)]
enum GivesUp {
    /// The guard is dropped after the request was sent.
    AfterTheRequest,
    /// The future that waits for the answer is dropped, and the guard with it.
    WhileItWaits,
    /// The future is dropped, and the guard released as if all were well.
    ButSaysRelease,
}

async fn give_up(pool: &Pool, how: GivesUp, text: &str) {
    let request = slowly(text);
    let mut conn = pool.get().await.unwrap();
    match how {
        GivesUp::AfterTheRequest => {
            conn.write_all(format!("{request}\n").as_bytes()).await.unwrap()
        }
        GivesUp::WhileItWaits => {
            let exchange = async move { ask_line(&mut conn, &request).await };
            assert!(once(exchange).await.is_none(), "it was to be slow");
        }
        GivesUp::ButSaysRelease => {
            assert!(once(ask_line(&mut conn, &request)).await.is_none(), "it was to be slow");
            assert_eq!(conn.release(), Release::Discarded(CloseReason::Cancelled));
        }
    }
}

/// Polls once, which sends the request, and drops.
async fn once<F: Future>(exchange: F) -> Option<F::Output> {
    cut(exchange, 1, When::AtOnce, |_| {}).await
}

#[tokio::test]
async fn nobody_reads_the_answer_to_a_request_that_another_caller_gave_up() {
    use GivesUp::{AfterTheRequest, ButSaysRelease, WhileItWaits};
    for how in [AfterTheRequest, WhileItWaits, ButSaysRelease] {
        let upstream = Upstream::start();
        let (pool, events): (Pool, Events) = watched(upstream.config().with_max_size(SIZE));
        let ask = async |text: &str| {
            let mut conn = pool.get().await.unwrap();
            let answer = ask_line(&mut conn, &format!("ECHO {text}")).await.unwrap();
            conn.release();
            answer
        };
        let crossed = crossings(ROUNDS, async |text| give_up(&pool, how, text).await, ask).await;
        println!("livepool, {how:?}: {crossed} of {} read another's answer", ROUNDS * SIZE);
        assert_eq!(crossed, 0, "{how:?}");
        let expected = match how {
            AfterTheRequest => CloseReason::Unfinished,
            WhileItWaits | ButSaysRelease => CloseReason::Cancelled,
        };
        assert_eq!(events.closed(), vec![expected; ROUNDS * SIZE]);
    }
}

#[tokio::test]
async fn the_same_in_a_plain_pool_of_streams_crosses_answers() {
    // Without this, the test above might pass because its upstream never sends a late answer.
    let upstream = Upstream::start();
    let pool = naive(upstream.addr(), SIZE);
    let give_up = async |text: &str| {
        let mut conn = pool.get().await.unwrap();
        let exchange = async move { ask_line(&mut *conn, &slowly(text)).await };
        // From the second round on it may end at once: with the answer to an earlier request.
        let _ = once(exchange).await;
    };
    let ask = async |text: &str| {
        let mut conn = pool.get().await.unwrap();
        ask_line(&mut *conn, &format!("ECHO {text}")).await.unwrap()
    };
    let crossed = crossings(ROUNDS, give_up, ask).await;
    println!("deadpool: {crossed} of {} read another's answer", ROUNDS * SIZE);
    assert!(crossed * 2 > ROUNDS * SIZE, "{crossed}");
}

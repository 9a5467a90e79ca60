//! Whoever gives up, at whatever moment, takes nothing along and leaves nothing behind.

use std::time::Duration;

use livepool::error::{CheckoutFailure, Phase};
use livepool::{Config, Guard, Pool, Timeouts};
use livepool_testkit::blackhole::Blackhole;
use livepool_testkit::cut::{DROPS, Drop as When, cut};
use livepool_testkit::{
    Events, Order, Upstream, ask, exchange, fill, until, until_status, watched,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SIZE: usize = 2;

/// A pool in the situation to be tested.
struct Stage {
    upstream: Upstream,
    pool: Pool,
    events: Events,
    held: Vec<Guard>,
    /// Connections that are about to end, whatever their user does.
    dying: usize,
}

impl Stage {
    fn new(config: impl FnOnce(&Upstream) -> Config) -> Self {
        let upstream = Upstream::start();
        let (pool, events) = watched(config(&upstream).with_max_size(SIZE));
        Self { upstream, pool, events, held: Vec::new(), dying: 0 }
    }

    fn empty() -> Self {
        Self::new(Upstream::config)
    }

    async fn idle() -> Self {
        let stage = Self::empty();
        fill(&stage.pool, 1).await;
        stage
    }

    /// All connections are in use.
    async fn full() -> Self {
        let mut stage = Self::empty();
        for _ in 0..SIZE {
            stage.held.push(stage.pool.get().await.unwrap());
        }
        stage
    }

    /// Nothing is left of the caller: no slot, no socket, no place in the line.
    async fn assert_sound(mut self, what: &str) {
        self.held.clear();
        self.events.until_closed(self.dying).await;
        let resting = |pool: &Pool| {
            let now = pool.status();
            (now.in_use, now.connecting, now.waiting) == (0, 0, 0)
        };
        until(|| resting(&self.pool)).await;
        let idle = self.pool.status().idle;
        until(|| self.upstream.open() == idle).await;
        if !self.pool.status().closed {
            // Every slot is still there, and nobody reads another's answer.
            fill(&self.pool, SIZE).await;
            until(|| self.upstream.open() == SIZE).await;
        }
        drop(self.pool);
        until(|| self.upstream.open() == 0).await;
        assert_eq!(self.events.closed().len(), self.events.opened(), "{what}");
    }
}

/// Runs `attempt` on a fresh stage again and again, cut after 0, 1, 2, … polls, until it is not cut
/// any more. Returns how many polls that took.
async fn matrix<T>(
    stage: impl AsyncFn() -> Stage,
    attempt: impl AsyncFn(&Pool) -> T,
    between: impl Fn(&mut Stage, usize),
) -> usize {
    let mut most = 0;
    for when in DROPS {
        for polls in 0.. {
            let mut stage = stage().await;
            let pool = stage.pool.clone();
            let ended = cut(attempt(&pool), polls, when, |poll| between(&mut stage, poll)).await;
            drop(pool);
            let over = ended.is_some();
            drop(ended);
            stage
                .assert_sound(&format!("after {polls} polls, dropped {when:?}, over: {over}"))
                .await;
            if over {
                most = most.max(polls);
                break;
            }
            assert!(polls < 10_000, "it never ends");
        }
    }
    most
}

fn nothing(_: &mut Stage, _: usize) {}

#[tokio::test]
async fn a_checkout_that_dials_may_be_dropped_at_every_poll() {
    let polls = matrix(async || Stage::empty(), async |pool| pool.get().await.unwrap(), nothing);
    assert!(polls.await >= 2, "a dial that never waited would prove nothing");
}

#[tokio::test]
async fn a_checkout_that_looks_a_name_up_may_be_dropped_at_every_poll() {
    let stage = async || {
        Stage::new(|upstream| {
            let port = upstream.addr().port();
            // Where localhost is ::1 first, that address refuses and the next one is tried.
            upstream.config().with_upstream([format!("localhost:{port}")])
        })
    };
    assert!(matrix(stage, async |pool| pool.get().await.unwrap(), nothing).await >= 2);
}

#[tokio::test]
async fn a_checkout_whose_dial_is_slow_may_be_dropped_at_every_poll() {
    let blackhole = Blackhole::start();
    let stage = async || {
        let live = |upstream: &Upstream| {
            let both = [blackhole.addr().to_string(), upstream.addr().to_string()];
            upstream.config().with_upstream(both)
        };
        Stage::new(live)
    };
    let polls = matrix(stage, async |pool| pool.get().await.unwrap(), nothing).await;
    assert!(polls >= 2, "{polls}");
    #[cfg(target_os = "linux")]
    assert_eq!(blackhole.asking(), 0, "the address that lost the race");
}

#[tokio::test]
async fn a_checkout_whose_dial_hangs_may_be_dropped_at_every_poll() {
    let blackhole = Blackhole::start();
    let ms = Duration::from_millis;
    let limit = Timeouts::default().with_connect(ms(40)).with_checkout(ms(100));
    for when in DROPS {
        for polls in 0.. {
            let config = Config::new(blackhole.addr().to_string()).with_max_size(1);
            let config = config.with_first_connect(livepool::config::FirstConnect::Wait);
            let (pool, events) = watched(config.with_timeouts(limit));
            let ended = cut(pool.get(), polls, when, |_| {}).await;
            let now = pool.status();
            assert_eq!((now.in_use, now.waiting, now.idle), (0, 0, 0));
            // The only slot is free again when the dial has ended: the next caller gets as far, or one
            // soon after it where the machine is busy.
            let late = CheckoutFailure::Timeout(Phase::Connect);
            let mut callers = 0;
            loop {
                let next = pool.get().await.unwrap_err();
                assert_eq!(next.failure(), late, "{next}");
                if next.connect_error().is_some() {
                    break;
                }
                callers += 1;
                assert!(callers < 20, "no dial ends: {next}");
            }
            pool.close();
            until_status(&pool, |now| now.connecting == 0).await;
            #[cfg(target_os = "linux")]
            assert_eq!(blackhole.asking(), 0, "its socket is closed");
            assert_eq!(events.opened(), 0);
            if let Some(ended) = ended {
                assert_eq!(ended.unwrap_err().failure(), late);
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_checkout_of_an_idle_connection_may_be_dropped_at_every_poll() {
    let polls = matrix(Stage::idle, async |pool| pool.get().await.unwrap(), nothing).await;
    assert_eq!(polls, 1, "it never waits");
}

#[tokio::test]
async fn a_caller_in_the_queue_may_be_dropped_at_every_poll_while_a_connection_comes_back() {
    let return_one = |stage: &mut Stage, poll: usize| {
        if poll == 1 {
            drop(stage.held.pop());
        }
    };
    let polls = matrix(Stage::full, async |pool| pool.get().await.unwrap(), return_one).await;
    assert!(polls >= 2, "{polls}");
}

#[tokio::test]
async fn a_caller_in_the_queue_may_be_dropped_at_every_poll_while_a_connection_is_discarded() {
    let discard_one = |stage: &mut Stage, poll: usize| {
        if poll == 1 {
            stage.held.pop().unwrap().discard();
        }
    };
    let polls = matrix(Stage::full, async |pool| pool.get().await.unwrap(), discard_one).await;
    assert!(polls >= 2, "it has to wait for its turn: {polls}");
}

#[tokio::test]
async fn a_checkout_may_be_dropped_at_every_poll_while_the_idle_connection_dies() {
    for order in [Order::Close, Order::Reset, Order::Say(b"x".to_vec())] {
        let dying = async || {
            let mut stage = Stage::idle().await;
            stage.dying = 1;
            stage.upstream.order_all(&order);
            stage
        };
        matrix(dying, async |pool| pool.get().await.unwrap(), nothing).await;
    }
}

#[tokio::test]
async fn a_checkout_may_be_dropped_at_every_poll_while_the_pool_is_closed() {
    let close = |stage: &mut Stage, poll: usize| {
        if poll == 1 {
            stage.pool.close();
        }
    };
    matrix(async || Stage::empty(), async |pool| pool.get().await.map(drop), close).await;
    matrix(Stage::full, async |pool| pool.get().await.map(drop), close).await;
}

/// Ends the pause when it is dropped.
struct Resume<'a>(&'a Pool);

impl Drop for Resume<'_> {
    fn drop(&mut self) {
        self.0.resume();
    }
}

#[tokio::test]
async fn a_checkout_of_a_paused_pool_may_be_dropped_at_every_poll() {
    let resume = |stage: &mut Stage, poll: usize| {
        if poll == 1 {
            stage.pool.resume();
        }
    };
    let get = async |pool: &Pool| {
        pool.pause();
        let _resume = Resume(pool);
        pool.get().await.unwrap()
    };
    let polls = matrix(Stage::idle, get, resume).await;
    assert!(polls >= 2, "{polls}");
}

#[tokio::test]
async fn warming_up_may_be_dropped_at_every_poll() {
    let warm = async |pool: &Pool| pool.warm_up(SIZE).await.unwrap();
    let polls = matrix(async || Stage::empty(), warm, nothing).await;
    assert!(polls >= 2, "{polls}");
}

#[tokio::test]
async fn closing_by_a_deadline_may_be_dropped_at_every_poll() {
    let return_one = |stage: &mut Stage, _| drop(stage.held.pop());
    let close = async |pool: &Pool| {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        assert_eq!(pool.close_and_wait(deadline).await, 0);
    };
    let polls = matrix(Stage::full, close, return_one).await;
    assert!(polls >= 2, "{polls}");
}

#[tokio::test]
async fn an_exchange_that_is_tried_again_may_be_dropped_at_every_poll() {
    let retry = async |pool: &Pool| {
        let mut tries = 0;
        let exchange = pool.run_retry(async |conn| {
            tries += 1;
            // The first one ends before any answer.
            let line = if tries == 1 { "QUIT" } else { "ECHO x" };
            ask(conn, line).await
        });
        assert_eq!(exchange.await.unwrap(), "x");
    };
    let polls = matrix(Stage::idle, retry, nothing).await;
    assert!(polls >= 3, "{polls}");
}

#[test]
fn a_pool_that_is_closed_during_a_dial_refuses_the_caller_who_waits_for_it() {
    // In a thread of its own: a caller that spins would stop the runtime, and with it any timeout.
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let upstream = Upstream::start();
            let (pool, events) = watched(upstream.config());
            let closing = pool.clone();
            let close = |_| closing.close();
            let refused = cut(pool.get(), usize::MAX, When::AtOnce, close).await.unwrap();
            let ends = (events.opened(), events.closed());
            tell.send((refused.map(drop), pool.status(), ends)).unwrap();
        });
    });
    let (refused, status, (opened, closed)) =
        told.recv_timeout(Duration::from_secs(10)).expect("it hangs");
    assert_eq!(refused.unwrap_err().failure(), CheckoutFailure::Closed);
    assert_eq!((status.idle, status.in_use, status.connecting), (0, 0, 0));
    // The dial is given up, or it was over already and its connection is closed.
    assert_eq!(closed, vec![livepool::CloseReason::PoolClosed; opened]);
}

#[tokio::test]
async fn the_caller_behind_one_who_gave_up_is_served_in_its_place() {
    for when in DROPS {
        let mut stage = Stage::full().await;
        let (first, second) = (stage.pool.clone(), stage.pool.clone());
        let second = tokio::spawn(async move { second.get().await.unwrap().id() });
        // The second one is in the queue behind the first only if it comes after it.
        let between = |_| {
            drop(stage.held.pop());
        };
        let gone = cut(first.get(), 1, when, between).await;
        assert!(gone.is_none());
        drop(first);
        second.await.unwrap();
        stage.assert_sound("after the second").await;
    }
}

/// A request in two parts and its answer byte by byte, with an await wherever one can be.
async fn whole_exchange(pool: &Pool) -> std::io::Result<String> {
    pool.run(async |conn| {
        conn.write_all(b"SLOW 1 ").await?;
        tokio::task::yield_now().await;
        conn.write_all(b"mine\n").await?;
        conn.flush().await?;
        let first = conn.read_u8().await?;
        tokio::task::yield_now().await;
        let mut rest = [0; 4];
        conn.read_exact(&mut rest).await?;
        assert_eq!((first, &rest), (b'm', b"ine\n"));
        Ok("mine".to_owned())
    })
    .await
}

#[tokio::test]
async fn an_exchange_on_a_new_connection_may_be_dropped_at_every_poll() {
    let exchange = async |pool: &Pool| whole_exchange(pool).await.unwrap();
    let polls = matrix(async || Stage::empty(), exchange, nothing).await;
    assert!(polls >= 5, "{polls}");
}

#[tokio::test]
async fn an_exchange_on_an_idle_connection_may_be_dropped_at_every_poll() {
    let exchange = async |pool: &Pool| whole_exchange(pool).await.unwrap();
    let polls = matrix(Stage::idle, exchange, nothing).await;
    assert!(polls >= 4, "{polls}");
}

#[tokio::test]
async fn a_long_answer_may_be_dropped_at_every_poll() {
    let exchange = async |pool: &Pool| {
        pool.run(async |conn| {
            conn.write_all(b"BULK 300000\n").await?;
            let mut answer = vec![0; 300_001];
            conn.read_exact(&mut answer).await
        })
        .await
        .unwrap()
    };
    matrix(Stage::idle, exchange, nothing).await;
}

#[tokio::test]
async fn a_write_that_the_peer_does_not_take_may_be_dropped_at_every_poll() {
    // While it answers slowly, the upstream reads nothing.
    let exchange = async |pool: &Pool| {
        let mut conn = pool.get().await.unwrap();
        conn.set_write_timeout(Some(Duration::from_millis(20)));
        conn.write_all(b"SLOW 1500 mine\n").await.unwrap();
        let failed = conn.write_all(&vec![b'x'; 16 << 20]).await.unwrap_err();
        assert!(livepool::is_timeout(&failed), "{failed}");
    };
    let polls = matrix(Stage::idle, exchange, nothing).await;
    assert!(polls >= 2, "{polls}");
}

#[tokio::test]
async fn halves_of_a_used_connection_are_discarded_when_the_second_one_is_dropped() {
    for read_half_first in [true, false] {
        let stage = Stage::empty();
        let (mut read, mut write) = stage.pool.get().await.unwrap().into_split();
        write.write_all(b"SLOW 1 mine\n").await.unwrap();
        assert_eq!(read.read_u8().await.unwrap(), b'm');
        let last: Box<dyn std::any::Any> = if read_half_first {
            drop(read);
            Box::new(write)
        } else {
            drop(write);
            Box::new(read)
        };
        assert_eq!(stage.pool.status().in_use, 1, "one half still holds it");
        drop(last);
        assert_eq!(stage.events.closed(), [livepool::CloseReason::Unfinished]);
        stage.assert_sound("after both halves").await;
    }
}

#[tokio::test]
async fn halves_that_are_joined_again_can_be_released() {
    let stage = Stage::empty();
    let (mut read, mut write) = stage.pool.get().await.unwrap().into_split();
    let writer = async {
        write.write_all(b"ECHO x\n").await.unwrap();
        write
    };
    let reader = async {
        let mut answer = [0; 2];
        read.read_exact(&mut answer).await.unwrap();
        read
    };
    let (write, read) = tokio::join!(writer, reader);
    assert_eq!(read.unsplit(write).release(), livepool::Release::Reused);
    stage.assert_sound("after the release").await;
}

#[tokio::test]
async fn a_reader_that_is_dropped_half_way_leaves_nothing_to_the_next_caller() {
    // The read is dropped while it waits, the guard is kept, and released as if all were well.
    let stage = Stage::empty();
    let mut conn = stage.pool.get().await.unwrap();
    conn.write_all(b"SLOW 5000 mine\n").await.unwrap();
    let cut_off = cut(conn.read_u8(), 1, When::AtOnce, |_| {}).await;
    assert!(cut_off.is_none());
    let released = conn.release();
    assert_eq!(released, livepool::Release::Discarded(livepool::CloseReason::Cancelled));
    assert_eq!(exchange(&stage.pool, "ECHO next").await, "next");
    stage.assert_sound("after the release").await;
}

#[tokio::test]
async fn a_read_that_was_dropped_and_tried_again_may_end_in_a_release() {
    let stage = Stage::empty();
    let mut conn = stage.pool.get().await.unwrap();
    conn.write_all(b"SLOW 1000 mine\n").await.unwrap();
    assert!(cut(conn.read_u8(), 1, When::AtOnce, |_| {}).await.is_none());
    assert_eq!(livepool_testkit::answer(&mut conn).await.unwrap(), "mine", "nothing was lost");
    assert_eq!(conn.release(), livepool::Release::Reused);
    let mut conn = stage.pool.get().await.unwrap();
    assert_eq!(ask(&mut conn, "ECHO x").await.unwrap(), "x");
    conn.discard();
    stage.assert_sound("after the discard").await;
}

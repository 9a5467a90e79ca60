//! What one caller does with a connection does not change how it is judged for those who have it later,
//! and what a connection reads while nobody has it is judged as a whole.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use livepool::event::Operation;
use livepool::protocol::{Ledger, Protocol, Scanner, Verdict, Wire, WireStream};
use livepool::{CloseReason, Guard, OpTimeout, Pool, Release, Timeouts};
use livepool_testkit::lines::Lines;
use livepool_testkit::{Events, Order, Upstream, until};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::{mpsc, oneshot};

/// Callers get the wire itself: the least careful protocol there can be.
struct Bare;

impl Protocol for Bare {
    type Client = Wire;
    type Error = io::Error;

    async fn connect(&self, wire: Wire) -> io::Result<Wire> {
        Ok(wire)
    }
    async fn ping(&self, _: &mut Wire) -> io::Result<()> {
        Ok(())
    }
}

async fn ask(wire: &mut Wire, line: &str) -> String {
    wire.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    let mut text = Vec::new();
    loop {
        match wire.read_u8().await.unwrap() {
            b'\n' => return String::from_utf8(text).unwrap(),
            byte => text.push(byte),
        }
    }
}

struct Nothing;

impl Scanner for Nothing {
    fn sent(&mut self, _: &[u8]) {}
    fn received(&mut self, _: &[u8]) {}
    fn owed(&self) -> usize {
        0
    }
}

#[tokio::test]
async fn a_caller_who_has_the_wire_cannot_have_later_callers_judged_otherwise() {
    for late in ["count_debt", "scan", "driver"] {
        let (upstream, events) = (Upstream::start(), Events::default());
        let config = upstream.config().with_max_size(1);
        let builder = Pool::builder(config).observer(events.observer());
        let pool = builder.protocol(Bare).build().unwrap();
        let mut first = pool.get().await.unwrap();
        assert_eq!(ask(&mut first, "ECHO a").await, "a");
        match late {
            "count_debt" => drop(first.count_debt()),
            "scan" => drop(first.scan(Nothing)),
            _ => std::mem::forget(first.driver().run(std::future::pending::<()>())),
        }
        assert_eq!(first.release(), Release::Reused, "{late}");
        let mut second = pool.get().await.unwrap();
        second.write_all(b"SLOW 500 mine\n").await.unwrap();
        drop(second);
        let mut third = pool.get().await.unwrap();
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert_eq!(ask(&mut third, "ECHO yours").await, "yours", "{late}");
        assert_eq!(third.release(), Release::Reused, "{late}");
        assert_eq!(events.closed(), [CloseReason::Unfinished], "{late}");
    }
}

#[tokio::test]
async fn a_ledger_that_comes_too_late_leaves_the_read_timeout_alone() {
    let (upstream, events) = (Upstream::start(), Events::default());
    let timeouts = Timeouts::default().with_read(Duration::from_millis(100));
    let config = upstream.config().with_max_size(1).with_timeouts(timeouts);
    let builder = Pool::builder(config).observer(events.observer());
    let pool = builder.protocol(Bare).build().unwrap();
    let mut guard = pool.get().await.unwrap();
    let ledger = guard.count_debt();
    let read = tokio::time::timeout(Duration::from_secs(5), guard.read_u8());
    read.await.expect("it times out by itself").unwrap_err();
    assert_eq!(ledger.debt(), 0);
    drop(guard);
    assert_eq!(events.timed_out(), [Operation::Read]);
}

/// With a protocol and without one, each user from his own checkout on.
#[tokio::test]
async fn a_use_has_the_time_that_is_configured_for_all() {
    let limit = Duration::from_millis(2200);
    let timeouts = Timeouts::default().with_operation(limit);
    let (upstream, events) = (Upstream::start(), Events::default());
    let config = upstream.config().with_max_size(1).with_timeouts(timeouts);
    let pool = Pool::builder(config.clone()).observer(events.observer()).build().unwrap();
    for _ in 0..3 {
        tokio::time::sleep(limit * 2 / 3).await;
        let mut conn = pool.get().await.unwrap();
        conn.write_all(b"ECHO x\n").await.unwrap();
        conn.read_exact(&mut [0; 2]).await.unwrap();
        assert_eq!(conn.release(), Release::Reused);
    }
    let mut conn = pool.get().await.unwrap();
    conn.write_all(b"HOLD\n").await.unwrap();
    let error = conn.read_u8().await.unwrap_err();
    let text = error.to_string();
    assert_eq!(text, "read cut by timeouts.operation after 2.2s: the peer sent nothing in time");
    assert_eq!(OpTimeout::of(&error).unwrap().after, limit, "as it was set");
    drop(conn);
    // One that takes another time has that, and the next one not.
    let mut conn = pool.get().await.unwrap();
    conn.write_all(b"HOLD\n").await.unwrap();
    conn.deadline(Duration::from_millis(50));
    let error = conn.read_u8().await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("cut by the deadline of its exchange after 50.0ms"), "{text}");
    assert_eq!(OpTimeout::of(&error).unwrap().after, Duration::from_millis(50), "as it was set");
    drop(conn);
    assert_eq!(events.closed(), [CloseReason::OpTimeout; 2]);

    let pool = Pool::builder(config).protocol(Sealed).build().unwrap();
    let mut conn = pool.get().await.unwrap();
    conn.write_all(b"HOLD\n").await.unwrap();
    let text = conn.read_u8().await.unwrap_err().to_string();
    assert!(text.contains("cut by timeouts.operation"), "{text}");
}

#[tokio::test]
async fn a_wire_that_was_taken_out_of_its_pool_is_its_owners() {
    let upstream = Upstream::start();
    let timeouts = Timeouts::default().with_read(Duration::from_millis(50));
    let config = upstream.config().with_timeouts(timeouts);
    let pool = Pool::builder(config).protocol(Bare).build().unwrap();
    let mut wire = pool.get().await.unwrap().detach();
    let ledger = wire.count_debt();
    let silence = tokio::time::timeout(Duration::from_millis(200), wire.read_u8());
    silence.await.expect_err("nothing is owed, and nothing times out");
    let _owed = ledger.owe();
    wire.read_u8().await.unwrap_err();
}

/// Whose callers get bytes and nothing else.
struct Sealed;

impl Protocol for Sealed {
    type Client = WireStream;
    type Error = io::Error;

    async fn connect(&self, wire: Wire) -> io::Result<WireStream> {
        Ok(wire.into())
    }
    async fn ping(&self, _: &mut WireStream) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn connections_that_a_caller_has_exchanged_between_two_guards_reach_nobody_else() {
    let (upstream, events) = (Upstream::start(), Events::default());
    let config = upstream.config().with_max_size(2);
    let builder = Pool::builder(config).observer(events.observer());
    let pool = builder.protocol(Sealed).build().unwrap();
    let (mut a, mut b) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    assert_ne!(a.peer_addr().to_string(), "");
    std::mem::swap(&mut *a, &mut *b);
    assert!(matches!(a.release(), Release::Discarded(_)));
    drop(b);
    assert_eq!((events.closed().len(), pool.status().idle), (2, 0));
    let config = upstream.config().with_max_size(2);
    let pool = Pool::builder(config).protocol(Bare).build().unwrap();
    let (mut a, mut b) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    std::mem::swap(&mut *a, &mut *b);
    drop((a, b));
    assert_eq!(pool.status().idle, 0);
}

#[tokio::test]
async fn a_message_that_comes_in_two_reads_while_nobody_uses_the_connection_is_one_message() {
    let (upstream, events) = (Upstream::start(), Events::default());
    let lines = Lines { notice: Some(b'#'), ..Lines::default() };
    let config = upstream.config().with_max_size(1);
    let builder = Pool::builder(config).observer(events.observer());
    let pool = builder.protocol(lines).build().unwrap();
    let ask = async |line: &str| {
        pool.run(async |client: &mut Guard<Lines>| client.ask(line).await).await.unwrap()
    };
    // Where the machine stands still between its parts, a message is judged in parts, as it comes.
    let mut late = 0;
    for round in 0..20 {
        assert_eq!(ask("ECHO a").await, "a");
        let began = Instant::now();
        upstream.order_all(&Order::Say(b"#ne".to_vec()));
        until(|| upstream.said() == 2 * round + 1).await;
        if round % 2 == 0 {
            // The client's task has read it; otherwise it may still wait in the socket.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        upstream.order_all(&Order::Say(b"ws\n".to_vec()));
        until(|| upstream.said() == 2 * round + 2).await;
        late += usize::from(began.elapsed() > Duration::from_millis(500));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let closed = events.closed().len();
    assert!(closed <= late && late < 10, "{closed} closed, {late} late");
    // What comes long after it begins a message of its own.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    upstream.order_all(&Order::Say(b"stray\n".to_vec()));
    assert_eq!(events.until_closed(closed + 1).await, vec![CloseReason::Dirty; closed + 1]);
    // One who never stops is not idle.
    assert_eq!(ask("ECHO a").await, "a");
    for _ in 0..40 {
        upstream.order_all(&Order::Say([b'#'; 1024].to_vec()));
    }
    assert_eq!(events.until_closed(closed + 2).await[closed + 1], CloseReason::Dirty);
}

/// Reads along and owes by hand as well.
struct Both;

struct Echo {
    wire: Wire,
    ledger: Ledger,
}

struct Count(usize);

impl Scanner for Count {
    fn sent(&mut self, _: &[u8]) {
        self.0 += 1;
    }
    fn received(&mut self, _: &[u8]) {
        self.0 = self.0.saturating_sub(1);
    }
    fn owed(&self) -> usize {
        self.0
    }
}

impl Protocol for Both {
    type Client = Echo;
    type Error = io::Error;

    async fn connect(&self, wire: Wire) -> io::Result<Echo> {
        let ledger = wire.scan(Count(0));
        Ok(Echo { wire, ledger })
    }
    async fn ping(&self, _: &mut Echo) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn what_is_owed_by_hand_adds_to_what_a_scanner_counts_and_never_falls_below_zero() {
    let (upstream, events) = (Upstream::start(), Events::default());
    let config = upstream.config().with_max_size(1);
    let builder = Pool::builder(config).observer(events.observer());
    let pool = builder.protocol(Both).build().unwrap();
    let mut client = pool.get().await.unwrap();
    let owed = client.ledger.owe();
    client.wire.write_all(b"ECHO x\n").await.unwrap();
    assert_eq!(client.ledger.debt(), 2);
    client.wire.read_exact(&mut [0; 2]).await.unwrap();
    assert_eq!(client.ledger.debt(), 1);
    drop(owed);
    assert_eq!(client.ledger.debt(), 0);
    client.ledger.settled().await;
    drop(client);
    assert_eq!((pool.status().idle, events.closed()), (1, vec![]));
    let client = pool.get().await.unwrap();
    let _owed = client.ledger.owe();
    drop(client);
    assert_eq!(events.closed(), [CloseReason::Unfinished]);
}

/// A client with a task that reads all the time, which counts nothing.
struct Uncounted;

type Request = (String, oneshot::Sender<String>);

impl Protocol for Uncounted {
    type Client = mpsc::UnboundedSender<Request>;
    type Error = io::Error;

    async fn connect(&self, wire: Wire) -> io::Result<Self::Client> {
        let driver = wire.driver();
        let (requests, mut asked) = mpsc::unbounded_channel::<Request>();
        tokio::spawn(driver.run(async move {
            let (read, mut write) = tokio::io::split(wire);
            let mut lines = BufReader::new(read).lines();
            let mut waiting = VecDeque::new();
            loop {
                tokio::select! {
                    line = lines.next_line() => match line {
                        Ok(Some(line)) => {
                            if let Some(answer) = waiting.pop_front() {
                                let _: Result<(), String> = oneshot::Sender::send(answer, line);
                            }
                        }
                        Ok(None) | Err(_) => return,
                    },
                    request = asked.recv() => {
                        let Some((line, answer)) = request else { return };
                        waiting.push_back(answer);
                        if write.write_all(format!("{line}\n").as_bytes()).await.is_err() {
                            return;
                        }
                    }
                }
            }
        }));
        Ok(requests)
    }
    async fn ping(&self, _: &mut Self::Client) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_client_with_a_task_and_no_ledger_is_reused_when_its_user_says_that_it_may_be() {
    let (upstream, events) = (Upstream::start(), Events::default());
    let timeouts = Timeouts::default().with_read(Duration::from_secs(2));
    let config = upstream.config().with_max_size(1).with_timeouts(timeouts);
    let builder = Pool::builder(config).observer(events.observer());
    let pool = builder.protocol(Uncounted).build().unwrap();
    async fn ask(client: &mpsc::UnboundedSender<Request>, line: &str) -> Option<String> {
        let (answer, answered) = oneshot::channel();
        client.send((line.to_owned(), answer)).ok()?;
        answered.await.ok()
    }
    for _ in 0..3 {
        let client = pool.get().await.unwrap();
        assert_eq!(ask(&client, "ECHO a").await.as_deref(), Some("a"));
        assert!(matches!(client.release(), Release::Reused | Release::Resetting));
        until(|| pool.status().idle == 1).await;
        // Its task reads all the time, and nobody minds the silence.
        tokio::time::sleep(Duration::from_millis(3000)).await;
    }
    assert_eq!((events.opened(), events.closed(), events.timed_out()), (1, vec![], vec![]));
    let client = pool.get().await.unwrap();
    tokio::time::sleep(Duration::from_millis(3000)).await;
    assert_eq!(ask(&client, "HOLD").await, None, "what was asked has an end");
    assert_eq!(events.timed_out(), [Operation::Read]);
    drop(client);
    assert_eq!(events.until_closed(1).await, [CloseReason::OpTimeout]);
    // Dropped without a word it is not reused.
    let client = pool.get().await.unwrap();
    assert_eq!(ask(&client, "ECHO a").await.as_deref(), Some("a"));
    drop(client);
    assert_eq!(events.until_closed(2).await[1], CloseReason::Unfinished);
}

#[tokio::test]
async fn two_pools_that_nobody_named_have_two_names() {
    let upstream = Upstream::start();
    let named = upstream.addr().to_string();
    let new = || Pool::new(upstream.config()).unwrap();
    let (a, b) = (new(), new());
    assert_eq!((a.name(), b.name()), (&*named, &*format!("{named}#2")));
    drop(a);
    let c = new();
    assert_eq!(c.name(), named, "the first is gone");
    let mine = || Pool::new(upstream.config().with_name("mine")).unwrap();
    assert_eq!((mine().name(), mine().name()), ("mine", "mine"));
    let (d, e) = (mine(), mine());
    assert_eq!((d.name(), e.name()), ("mine", "mine"), "a name that was given is left alone");
}

/// The peer takes no bytes for a moment; or the runtime has the task pause, which does much at once.
#[tokio::test]
async fn a_task_that_has_not_finished_writing_when_its_user_goes_has_cancelled_nothing() {
    let (upstream, events) = (Upstream::start(), Events::default());
    // How long a reset may take is not what this is about.
    let timeouts = Timeouts::default().with_reset(Duration::from_secs(20));
    let config = upstream.config().with_max_size(1).with_timeouts(timeouts);
    let lines = Lines { reuse: Verdict::NeedsReset, ..Lines::default() };
    let builder = Pool::builder(config).observer(events.observer());
    let pool = builder.protocol(lines).build().unwrap();
    let client = pool.get().await.unwrap();
    drop(client.asks_later()("SLOW 300 a"));
    drop(client.asks_later()(&format!("ECHO {}", "x".repeat(8 << 20))));
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(client);
    let client = pool.get().await.unwrap();
    assert_eq!(client.ask("ECHO yours").await.unwrap(), "yours");
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

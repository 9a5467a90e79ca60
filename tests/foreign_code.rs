//! Observers, recorders, subscribers, resolvers, pings, protocols, scanners and layers are called in the
//! middle of everything; whatever they do, nothing breaks.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, LockResult, Mutex, MutexGuard, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use livepool::config::Validation;
use livepool::event::{DialOutcome, Operation};
use livepool::protocol::{Protocol, Scanner, Verdict, Wire, WireStream};
use livepool::{
    BoxFuture, CloseReason, Config, Event, Guard, Ping, Pool, Resolve, Stream, Timeouts,
};
use livepool_testkit::lines::{Client, Lines};
use livepool_testkit::{Events, Order, Upstream, exchange, fill, patient, until};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

#[tokio::test]
async fn an_observer_may_use_another_pool() {
    let upstream = Upstream::start();
    let other = Pool::new(upstream.config().with_max_size(2)).unwrap();
    let used = other.clone();
    let observer = move |_: &str, event: &Event| {
        if matches!(event, Event::Checked { .. } | Event::Closed { .. }) {
            let _ = used.get().now_or_never();
        }
    };
    let config = upstream.config().with_max_size(2);
    let pool = Pool::builder(config).observer(observer).build().unwrap();
    fill(&pool, 1).await;
    let held = pool.get().await.unwrap();
    let dialing = tokio::spawn({
        let pool = pool.clone();
        async move { pool.get().await.unwrap() }
    });
    tokio::task::yield_now().await;
    assert_eq!(pool.status().connecting, 1);
    // Idle again before the dial is over: the new connection enters a store that is not empty.
    drop(held);
    drop(dialing.await.unwrap());
    assert_eq!(pool.status().idle, 2);
    assert_eq!(exchange(&pool, "ECHO x").await, "x");
    assert_eq!(exchange(&other, "ECHO y").await, "y");
}

#[tokio::test]
async fn an_observer_that_panics_costs_nobody_a_connection() {
    let upstream = Upstream::start();
    let observer = |_: &str, _: &Event| panic!("on purpose");
    let config = upstream.config().with_max_size(1);
    let pool = Pool::builder(config).observer(observer).build().unwrap();
    for _ in 0..3 {
        assert_eq!(exchange(&pool, "ECHO x").await, "x");
        pool.get().await.unwrap().discard();
    }
    let status = pool.status();
    assert_eq!((status.idle, status.in_use, status.connecting), (0, 0, 0));
}

/// Where a [`Touchy`] protocol panics, and the pool it uses from wherever it is called.
#[derive(Default)]
struct Place {
    panics: Mutex<Option<&'static str>>,
    enters: OnceLock<Pool<Touchy>>,
}

type Spot = Arc<Place>;

impl Place {
    fn lock(&self) -> LockResult<MutexGuard<'_, Option<&'static str>>> {
        self.panics.lock()
    }

    /// Uses the pool, unless this is called from there.
    fn enter(&self) {
        thread_local!(static IS_INSIDE: Cell<bool> = const { Cell::new(false) });
        let Some(pool) = self.enters.get() else { return };
        if !IS_INSIDE.replace(true) {
            drop(pool.try_get());
            let _ = pool.get().now_or_never();
            pool.resize(2).unwrap();
            assert_eq!((pool.peers().len(), pool.status().max_size), (1, 2));
            IS_INSIDE.set(false);
        }
    }
}

/// Panics if this is the spot, once.
fn at(spot: &Spot, here: &str) {
    spot.enter();
    let is_here = {
        let mut spot = spot.lock().unwrap();
        let is_here = *spot == Some(here);
        if is_here {
            *spot = None;
        }
        is_here
    };
    assert!(!is_here, "on purpose, in {here}");
}

/// [`Lines`], with a client whose drop may panic.
#[derive(Clone, Default)]
struct Touchy {
    lines: Lines,
    spot: Spot,
    layered: bool,
}

struct Delicate {
    client: Client,
    spot: Spot,
}

impl Drop for Delicate {
    fn drop(&mut self) {
        at(&self.spot, "drop");
    }
}

/// Something between the socket and the client.
struct Through(Wire, Spot);

impl AsyncRead for Through {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        at(&self.1, "layer");
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Through {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl Drop for Through {
    fn drop(&mut self) {
        at(&self.1, "layer's drop");
    }
}

impl Protocol for Touchy {
    type Client = Delicate;
    type Error = io::Error;

    async fn connect(&self, wire: Wire) -> io::Result<Delicate> {
        at(&self.spot, "connect");
        let spot = Arc::clone(&self.spot);
        let wire = match self.layered {
            true => wire.layer(async |below| Ok(Through(below, spot))).await?,
            false => wire,
        };
        Ok(Delicate { client: self.lines.client(wire).await?, spot: Arc::clone(&self.spot) })
    }
    async fn ping(&self, client: &mut Delicate) -> io::Result<()> {
        at(&self.spot, "ping");
        self.lines.ping(&mut client.client).await
    }
    fn has_ping(&self) -> bool {
        at(&self.spot, "has_ping");
        true
    }
    fn reuse(&self, client: &Delicate) -> Verdict {
        at(&self.spot, "reuse");
        self.lines.reuse(&client.client)
    }
    fn idle_limit(&self, _: &Delicate) -> Option<Duration> {
        at(&self.spot, "idle_limit");
        None
    }
    async fn reset(&self, client: &mut Delicate) -> io::Result<()> {
        at(&self.spot, "reset");
        self.lines.reset(&mut client.client).await
    }
    fn classify(&self, error: &io::Error) -> Verdict {
        at(&self.spot, "classify");
        self.lines.classify(error)
    }
    fn is_permanent(&self, error: &io::Error) -> bool {
        at(&self.spot, "is_permanent");
        self.lines.is_permanent(error)
    }
    fn unread(&self, bytes: &[u8]) -> Verdict {
        at(&self.spot, "unread");
        self.lines.unread(bytes)
    }
}

async fn ask(pool: &Pool<Touchy>, line: &str) -> io::Result<String> {
    pool.run(async |guard: &mut Guard<Touchy>| guard.client.ask(line).await).await
}

fn touchy(upstream: &Upstream, protocol: &Touchy, config: Config) -> (Pool<Touchy>, Events) {
    let events = Events::default();
    let config = config.with_upstream([upstream.addr().to_string()]).with_max_size(1);
    let builder = Pool::builder(patient(config)).observer(events.observer());
    (builder.protocol(protocol.clone()).build().unwrap(), events)
}

/// The pool works as ever: callers are served, and the background notices the end of a connection.
async fn works(pool: &Pool<Touchy>, events: &Events, upstream: &Upstream) {
    assert_eq!(ask(pool, "ECHO after").await.unwrap(), "after");
    until(|| pool.status().idle == 1).await;
    let closed = events.closed().len();
    upstream.order_all(&Order::Close);
    assert_eq!(events.until_closed(closed + 1).await[closed], CloseReason::PeerClosed);
    pool.close();
    until(|| upstream.open() == 0).await;
}

#[tokio::test]
async fn a_protocol_that_panics_over_a_connection_costs_that_one_and_nobody_else() {
    for layered in [false, true] {
        for here in ["ping", "reset", "reuse", "idle_limit", "unread", "classify"] {
            let upstream = Upstream::start();
            let reuse = if here == "reset" { Verdict::NeedsReset } else { Verdict::Keep };
            let lines = Lines { reuse, notice: Some(b'#'), ..Lines::default() };
            let protocol = Touchy { lines, layered, ..Touchy::default() };
            let validation = if here == "ping" { Validation::Ping } else { Validation::Peek };
            let config = Config::default().with_validation(validation);
            let (pool, events) = touchy(&upstream, &protocol, config);
            assert_eq!(ask(&pool, "ECHO before").await.unwrap(), "before");
            until(|| pool.status().idle == 1).await;
            *protocol.spot.lock().unwrap() = Some(here);
            match here {
                "unread" => upstream.order_all(&Order::Say(b"#news\n".to_vec())),
                "classify" => {
                    let mut guard = pool.get().await.unwrap();
                    let consequence = guard.report(&io::Error::other("whatever"));
                    assert_eq!(consequence, Verdict::Close);
                }
                _ => assert_eq!(ask(&pool, "ECHO during").await.unwrap(), "during", "{here}"),
            }
            assert_eq!(events.until_closed(1).await, [CloseReason::Panicked], "{here}");
            works(&pool, &events, &upstream).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_protocol_and_its_layer_may_use_their_pool_from_wherever_they_are_called() {
    let upstream = Upstream::start();
    let lines = Lines { reuse: Verdict::NeedsReset, notice: Some(b'#'), ..Lines::default() };
    let protocol = Touchy { lines, layered: true, ..Touchy::default() };
    let config = Config::default().with_validation(Validation::Ping);
    let (pool, events) = touchy(&upstream, &protocol, config);
    assert!(protocol.spot.enters.set(pool.clone()).is_ok());
    let work = async {
        for _ in 0..50 {
            let (a, b, c) =
                tokio::join!(ask(&pool, "ECHO a"), ask(&pool, "ECHO b"), ask(&pool, "ECHO c"));
            assert_eq!((a.unwrap(), b.unwrap(), c.unwrap()), ("a".into(), "b".into(), "c".into()));
            upstream.order_all(&Order::Say(b"#news\n".to_vec()));
            let mut guard = pool.get().await.unwrap();
            guard.report(&io::Error::other("evict"));
        }
        pool.invalidate();
        pool.close();
        until(|| upstream.open() == 0).await;
        until(|| events.opened() == events.closed().len()).await;
    };
    tokio::time::timeout(Duration::from_secs(30), work).await.expect("nobody waits for himself");
}

#[tokio::test]
async fn a_handshake_that_panics_is_one_that_failed_for_now() {
    let upstream = Upstream::start();
    let protocol = Touchy::default();
    *protocol.spot.lock().unwrap() = Some("connect");
    let (pool, events) = touchy(&upstream, &protocol, Config::default());
    works(&pool, &events, &upstream).await;
    let failed = |event: &Event| match event {
        Event::DialFailed { outcome, error, .. } => Some((*outcome, error.to_string())),
        _ => None,
    };
    let (outcome, error) = events.all().iter().find_map(failed).unwrap();
    assert_eq!(outcome, DialOutcome::Handshake);
    assert!(error.contains("panicked"), "{error}");
}

#[tokio::test]
async fn a_protocol_that_panics_where_it_is_asked_for_a_rule_has_none() {
    let upstream = Upstream::start();
    let lines = Lines { hello: "ECHO never".to_owned(), ..Lines::default() };
    let protocol = Touchy { lines, ..Touchy::default() };
    *protocol.spot.lock().unwrap() = Some("is_permanent");
    let (pool, _) = touchy(&upstream, &protocol, Config::default());
    // The first refusal was not one for good; the second is.
    assert!(pool.get().await.unwrap_err().connect_error().unwrap().is_denied());
    assert!(upstream.accepted() >= 2);
    *protocol.spot.lock().unwrap() = Some("has_ping");
    let config = upstream.config().with_validation(Validation::Ping);
    assert!(Pool::builder(config).protocol(protocol).build().is_err());
}

#[tokio::test]
async fn a_client_or_a_layer_whose_drop_panics_is_gone_all_the_same() {
    for here in ["drop", "layer's drop"] {
        let upstream = Upstream::start();
        let protocol = Touchy { layered: true, ..Touchy::default() };
        let (pool, events) = touchy(&upstream, &protocol, Config::default());
        assert_eq!(ask(&pool, "ECHO before").await.unwrap(), "before");
        *protocol.spot.lock().unwrap() = Some(here);
        pool.invalidate();
        assert_eq!(events.closed(), [CloseReason::Invalidated], "{here}");
        works(&pool, &events, &upstream).await;
        assert_eq!(*protocol.spot.lock().unwrap(), None, "{here}");
    }
}

#[tokio::test]
async fn a_layer_that_panics_costs_its_connection() {
    let upstream = Upstream::start();
    let protocol = Touchy { layered: true, ..Touchy::default() };
    let (pool, events) = touchy(&upstream, &protocol, Config::default());
    assert_eq!(ask(&pool, "ECHO before").await.unwrap(), "before");
    *protocol.spot.lock().unwrap() = Some("layer");
    // It is asked by whoever looks first: the pool, or the client's task.
    upstream.order_all(&Order::Say(b"stray\n".to_vec()));
    assert_eq!(events.until_closed(1).await, [CloseReason::Panicked]);
    works(&pool, &events, &upstream).await;
}

/// Everything that may panic in one drop does, while another panic unwinds.
#[tokio::test]
async fn a_guard_that_is_dropped_by_a_panic_does_not_end_the_process() {
    let upstream = Upstream::start();
    for here in ["reuse", "idle_limit", "drop", "layer's drop"] {
        let protocol = Touchy { layered: true, ..Touchy::default() };
        let config = upstream.config().with_max_size(1);
        let observer = |_: &str, _: &Event| panic!("on purpose");
        let builder = Pool::builder(config).observer(observer).protocol(protocol.clone());
        let pool = builder.build().unwrap();
        let guard = pool.get().await.unwrap();
        *protocol.spot.lock().unwrap() = Some(here);
        let task = tokio::spawn(async move {
            let _guard = guard;
            panic!("on purpose");
        });
        assert!(task.await.unwrap_err().is_panic());
        assert_eq!(ask(&pool, "ECHO after").await.unwrap(), "after");
        *protocol.spot.lock().unwrap() = Some(here);
        drop(pool);
    }
}

/// Counts lines, and panics where it is told to.
struct Shaky {
    owed: usize,
    spot: Spot,
}

impl Scanner for Shaky {
    fn sent(&mut self, _: &[u8]) {
        at(&self.spot, "sent");
        self.owed += 1;
    }
    fn received(&mut self, _: &[u8]) {
        at(&self.spot, "received");
        self.owed = self.owed.saturating_sub(1);
    }
    fn owed(&self) -> usize {
        at(&self.spot, "owed");
        self.owed
    }
    fn is_patient(&self) -> bool {
        at(&self.spot, "is_patient");
        false
    }
    fn verdict(&mut self) -> Verdict {
        at(&self.spot, "consequence");
        Verdict::Keep
    }
}

impl Drop for Shaky {
    fn drop(&mut self) {
        at(&self.spot, "scanner's drop");
    }
}

struct Scanned(Spot);

impl Protocol for Scanned {
    type Client = WireStream;
    type Error = io::Error;

    async fn connect(&self, wire: Wire) -> io::Result<WireStream> {
        drop(wire.scan(Shaky { owed: 0, spot: Arc::clone(&self.0) }));
        Ok(wire.into())
    }
    async fn ping(&self, _: &mut WireStream) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_scanner_that_panics_costs_its_connection_and_nobody_waits_for_it() {
    for here in ["sent", "received", "owed", "is_patient", "consequence"] {
        let (upstream, spot, events) = (Upstream::start(), Spot::default(), Events::default());
        let builder = Pool::builder(upstream.config()).observer(events.observer());
        let pool = builder.protocol(Scanned(Arc::clone(&spot))).build().unwrap();
        let mut guard = pool.get().await.unwrap();
        *spot.lock().unwrap() = Some(here);
        let began = std::time::Instant::now();
        let exchange = async {
            guard.write_all(b"ECHO a\n").await?;
            guard.read_exact(&mut [0; 2]).await?;
            guard.write_all(b"HOLD\n").await?;
            guard.read_u8().await
        };
        exchange.await.unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(5), "{here}: nobody would count this wait");
        drop(guard);
        assert_eq!(events.closed(), [CloseReason::Panicked], "{here}");
        // One whose drop panics is dropped all the same.
        let guard = pool.get().await.unwrap();
        *spot.lock().unwrap() = Some("scanner's drop");
        drop(guard);
        drop(pool);
        until(|| upstream.open() == 0).await;
        assert_eq!(*spot.lock().unwrap(), None);
    }
}

#[tokio::test]
async fn a_resolver_or_a_ping_that_panics_has_failed_and_the_pool_goes_on() {
    struct Finds(Spot, SocketAddr);
    impl Resolve for Finds {
        fn resolve<'a>(&'a self, _: &'a str, _: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
            at(&self.0, "resolve");
            Box::pin(async {
                at(&self.0, "resolving");
                Ok(vec![self.1])
            })
        }
    }
    impl Drop for Finds {
        fn drop(&mut self) {
            panic!("on purpose");
        }
    }
    struct Pings(Spot);
    impl Ping for Pings {
        fn ping<'a>(&'a self, _: &'a mut Stream) -> BoxFuture<'a, io::Result<()>> {
            at(&self.0, "ping");
            Box::pin(async {
                at(&self.0, "pinging");
                Ok(())
            })
        }
    }
    impl Drop for Pings {
        fn drop(&mut self) {
            panic!("on purpose");
        }
    }
    let (upstream, spot, events) = (Upstream::start(), Spot::default(), Events::default());
    let config = Config::new("name:1").with_max_size(1).with_validation(Validation::Ping);
    let builder = Pool::builder(config).observer(events.observer());
    let builder = builder.resolver(Finds(Arc::clone(&spot), upstream.addr()));
    let pool = builder.ping(Pings(Arc::clone(&spot))).build().unwrap();
    for here in ["resolve", "resolving"] {
        *spot.lock().unwrap() = Some(here);
        pool.get().await.unwrap().discard();
        assert_eq!(*spot.lock().unwrap(), None);
    }
    let closed = events.closed().len();
    for here in ["ping", "pinging"] {
        drop(pool.get().await.unwrap());
        *spot.lock().unwrap() = Some(here);
        drop(pool.get().await.unwrap());
        assert_eq!(*spot.lock().unwrap(), None);
    }
    assert_eq!(events.closed()[closed..], [CloseReason::Panicked; 2]);
    drop(pool);
}

/// An observer takes a lock of its user, who holds it while dropping the guard of the connection that
/// the event is about.
#[test]
fn an_observer_is_called_with_no_lock_of_a_connection_held() {
    for layered in [false, true] {
        let upstream = Upstream::start();
        let users: Arc<Mutex<()>> = Arc::default();
        let (told, tells) = std::sync::mpsc::channel();
        let (lock, told) = (Arc::clone(&users), Mutex::new(told));
        let observer = move |_: &str, event: &Event| {
            if matches!(event, Event::TimedOut { operation: Operation::Read, .. }) {
                told.lock().unwrap().send(()).unwrap();
                drop(lock.lock().unwrap());
            }
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let timeouts = Timeouts::default().with_read(Duration::from_millis(50));
        let config = upstream.config().with_timeouts(timeouts);
        let protocol = Touchy { layered, ..Touchy::default() };
        let builder = Pool::builder(config).observer(observer).protocol(protocol);
        let pool = builder.build().unwrap();
        let guard = runtime.block_on(pool.get()).unwrap();
        let (done, is_done) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let held = users.lock().unwrap();
            let _answer = guard.client.asks_later()("HOLD");
            tells.recv().unwrap();
            drop(guard);
            drop(held);
            done.send(()).unwrap();
        });
        let is_done = is_done.recv_timeout(Duration::from_secs(5));
        if is_done.is_err() {
            // Threads that wait for each other cannot be joined.
            std::mem::forget(runtime);
        }
        assert!(is_done.is_ok(), "they wait for each other; layered: {layered}");
    }
}

/// What a whole process has one of: each of these runs in a process of its own.
#[cfg(target_os = "linux")]
mod of_the_process {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use livepool::{Listener, ListenerConfig};

    use super::*;
    use livepool_testkit::alone::alone;

    static PANICS: AtomicUsize = AtomicUsize::new(0);
    static SPOT: Mutex<&str> = Mutex::new("");

    fn at(here: &str) {
        let spot = *SPOT.lock().unwrap();
        if spot == here || spot == "everywhere" {
            PANICS.fetch_add(1, Ordering::SeqCst);
            panic!("on purpose, in {here}");
        }
    }

    /// Panics are expected here, by the hundred.
    fn quiet() {
        std::panic::set_hook(Box::new(|_| {}));
    }

    /// The whole life of a pool and of a listener, with everything panicking at `spot`.
    async fn live(spot: &'static str) {
        let upstream = Upstream::start();
        let panics = PANICS.load(Ordering::SeqCst);
        *SPOT.lock().unwrap() = spot;
        let (events, clients) = (Events::default(), ListenerConfig::default());
        let timeouts = Timeouts::never();
        let config = upstream.config().with_max_size(2).with_hold_warning(Duration::from_millis(5));
        let builder = Pool::builder(config.with_idle_timeout(Some(Duration::from_millis(100))));
        let builder = builder.observer(events.observer());
        let pool = builder.protocol(Touchy::default()).build().unwrap();
        let held = pool.get().await.unwrap();
        assert_eq!(ask(&pool, "ECHO x").await.unwrap(), "x", "{spot}");
        let reported = |event: &Event| matches!(event, Event::HeldTooLong { .. });
        until(|| events.all().iter().any(reported)).await;
        // The background lives: what is idle for too long goes, and what its peer ends.
        assert_eq!(events.until_closed(1).await, [CloseReason::IdleTimeout], "{spot}");
        drop(held);
        let config = clients.with_idle_timeout(Some(Duration::from_millis(100)));
        let config = config.with_timeouts(timeouts);
        let listener = Listener::bind("127.0.0.1:0", &config).await.unwrap();
        let addr = listener.local_addr().to_string();
        for _ in 0..2 {
            let _client = tokio::net::TcpStream::connect(&addr).await.unwrap();
            let mut accepted = listener.accept().await.unwrap();
            let read = tokio::time::timeout(Duration::from_secs(5), accepted.read_u8()).await;
            assert!(read.expect("the reaper lives").is_err(), "{spot}");
        }
        pool.close();
        drop((pool, listener));
        until(|| upstream.open() == 0).await;
        *SPOT.lock().unwrap() = "";
        assert!(PANICS.load(Ordering::SeqCst) > panics, "nothing panicked in {spot}");
    }

    struct Metric;
    impl metrics::CounterFn for Metric {
        fn increment(&self, _: u64) {
            at("counter");
        }
        fn absolute(&self, _: u64) {}
    }
    impl metrics::GaugeFn for Metric {
        fn increment(&self, _: f64) {}
        fn decrement(&self, _: f64) {}
        fn set(&self, _: f64) {
            at("gauge");
        }
    }
    impl metrics::HistogramFn for Metric {
        fn record(&self, _: f64) {
            at("histogram");
        }
    }
    impl Drop for Metric {
        fn drop(&mut self) {
            at("drop of a metric");
        }
    }
    struct Recorder(#[expect(dead_code, reason = "a recorder of size zero is not seen")] u8);
    impl metrics::Recorder for Recorder {
        fn describe_counter(
            &self,
            _: metrics::KeyName,
            _: Option<metrics::Unit>,
            _: metrics::SharedString,
        ) {
            at("describe");
        }
        fn describe_gauge(
            &self,
            _: metrics::KeyName,
            _: Option<metrics::Unit>,
            _: metrics::SharedString,
        ) {
            at("describe");
        }
        fn describe_histogram(
            &self,
            _: metrics::KeyName,
            _: Option<metrics::Unit>,
            _: metrics::SharedString,
        ) {
            at("describe");
        }
        fn register_counter(
            &self,
            _: &metrics::Key,
            _: &metrics::Metadata<'_>,
        ) -> metrics::Counter {
            at("register_counter");
            metrics::Counter::from_arc(Arc::new(Metric))
        }
        fn register_gauge(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Gauge {
            at("register_gauge");
            metrics::Gauge::from_arc(Arc::new(Metric))
        }
        fn register_histogram(
            &self,
            _: &metrics::Key,
            _: &metrics::Metadata<'_>,
        ) -> metrics::Histogram {
            at("register_histogram");
            metrics::Histogram::from_arc(Arc::new(Metric))
        }
    }

    #[tokio::test]
    async fn a_recorder_may_panic_anywhere() {
        if !alone("of_the_process::a_recorder_may_panic_anywhere") {
            return;
        }
        quiet();
        assert!(metrics::set_global_recorder(Recorder(0)).is_ok());
        for spot in [
            "counter",
            "gauge",
            "histogram",
            "describe",
            "register_counter",
            "register_gauge",
            "register_histogram",
            "drop of a metric",
            "everywhere",
        ] {
            live(spot).await;
        }
    }

    struct Log;
    impl tracing::Subscriber for Log {
        fn register_callsite(
            &self,
            _: &'static tracing::Metadata<'static>,
        ) -> tracing::subscriber::Interest {
            at("register_callsite");
            tracing::subscriber::Interest::sometimes()
        }
        fn enabled(&self, meta: &tracing::Metadata<'_>) -> bool {
            let is_ours = meta.target().starts_with("livepool");
            if is_ours {
                at("enabled");
            }
            is_ours
        }
        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            at("new_span");
            tracing::span::Id::from_u64(1)
        }
        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {
            at("record");
        }
        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
        fn event(&self, _: &tracing::Event<'_>) {
            at("event");
        }
        fn enter(&self, _: &tracing::span::Id) {
            at("enter");
        }
        fn exit(&self, _: &tracing::span::Id) {
            at("exit");
        }
        fn try_close(&self, _: tracing::span::Id) -> bool {
            at("try_close");
            true
        }
    }

    #[tokio::test]
    async fn a_log_subscriber_may_panic_anywhere() {
        if !alone("of_the_process::a_log_subscriber_may_panic_anywhere") {
            return;
        }
        quiet();
        tracing::subscriber::set_global_default(Log).unwrap();
        for spot in [
            "register_callsite",
            "enabled",
            "new_span",
            "record",
            "event",
            "enter",
            "exit",
            "try_close",
            "everywhere",
        ] {
            live(spot).await;
        }
    }
}

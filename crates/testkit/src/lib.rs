//! What the tests of livepool and of its adapters share.
//!
//! At the root: an upstream with a remote control, a recorder of events, and what tests do with both.
//! The modules have other peers, a network lab and, with the feature `servers`, real servers.

#[cfg(target_os = "linux")]
pub mod alone;
pub mod blackhole;
pub mod crossing;
pub mod cut;
#[cfg(unix)]
pub mod descriptors;
#[cfg(target_os = "linux")]
pub mod fault;
pub mod fickle;
#[cfg(target_os = "linux")]
pub mod lab;
pub mod lines;
pub mod log;
#[cfg(target_os = "linux")]
pub mod losses;
pub mod not_run;
pub mod pages;
pub mod pair;
#[cfg(target_os = "linux")]
pub mod peer;
pub mod port;
pub mod rates;
#[cfg(target_os = "linux")]
pub mod rounds;
pub mod rude;
pub mod scene;
pub mod scripted;
pub mod seed;
#[cfg(all(target_os = "linux", feature = "servers"))]
pub mod servers;
pub mod stalls;
#[cfg(target_os = "linux")]
pub mod tcp_info;
pub mod wait;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use livepool::event::Operation;
use livepool::{CloseReason, Config, Event, Guard, Pool};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use scene::Witness;
pub use wait::{ends, until, until_blocking, until_seen, until_status};

/// The folder of the workspace.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// What the upstream can be told to do with its connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Close (FIN).
    Close,
    /// Reset (RST), by closing with linger 0.
    Reset,
    /// Close the sending side only.
    HalfClose,
    /// Send bytes nobody asked for.
    Say(Vec<u8>),
    /// Send, then close.
    SayAndClose(Vec<u8>),
    /// Vanish without a word: see [`fault`].
    #[cfg(target_os = "linux")]
    Silence,
    /// Be back as if nothing had happened.
    #[cfg(target_os = "linux")]
    Heal,
}

/// A server for a line protocol, in a thread and runtime of its own, so that it goes on answering
/// while the runtime of the test is busy, stopped or gone.
///
/// `ECHO text` answers `text`; `SLOW ms text` answers `text` after a while; `HOLD` never answers;
/// `BULK n` answers n bytes and a newline; `QUIT` closes; `SINK` reads no more.
pub struct Upstream {
    addr: SocketAddr,
    clients: Arc<Clients>,
    orders: mpsc::UnboundedSender<Job>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// An order for one client, or for all there are; and who is told that they have it.
struct Job {
    order: Order,
    client: Option<SocketAddr>,
    done: std::sync::mpsc::Sender<()>,
}

/// What the upstream knows of its connections.
#[derive(Default)]
struct Clients {
    /// By the client's address; and the number of the connection, because another one may come from
    /// the same address before the first has ended here.
    controls: Mutex<HashMap<SocketAddr, (usize, mpsc::UnboundedSender<Order>)>>,
    accepted: AtomicUsize,
    silenced: AtomicUsize,
    said: AtomicUsize,
    open: AtomicUsize,
}

impl Clients {
    fn admit(self: &Arc<Self>, stream: TcpStream, client: SocketAddr) {
        let number = self.accepted.fetch_add(1, Ordering::SeqCst);
        let (sender, orders) = mpsc::unbounded_channel();
        self.controls.lock().unwrap().insert(client, (number, sender));
        self.open.fetch_add(1, Ordering::SeqCst);
        let clients = Arc::clone(self);
        tokio::spawn(async move {
            serve(stream, orders, &clients).await;
            let mut controls = clients.controls.lock().unwrap();
            if controls.get(&client).is_some_and(|(latest, _)| *latest == number) {
                controls.remove(&client);
            }
            drop(controls);
            clients.open.fetch_sub(1, Ordering::SeqCst);
        });
    }

    fn give(&self, job: Job) {
        for (client, (_, control)) in &*self.controls.lock().unwrap() {
            if job.client.is_none_or(|wanted| wanted == *client) {
                let _ = control.send(job.order.clone());
            }
        }
        let _ = job.done.send(());
    }
}

impl Witness for Clients {
    fn tell(&self) -> String {
        let mut known: Vec<_> =
            self.controls.lock().unwrap().keys().map(|addr| addr.port()).collect();
        known.sort();
        let [accepted, open, silenced] =
            [&self.accepted, &self.open, &self.silenced].map(|count| count.load(Ordering::SeqCst));
        format!("upstream: {accepted} accepted, {open} open, {silenced} silenced, from {known:?}")
    }
}

/// Gives pings and resets 20 s: where they are not what a test is about, a machine that stands still for their
/// default of a second does not end them.
pub fn patient(config: Config) -> Config {
    let limit = Duration::from_secs(20);
    let timeouts = config.timeouts.with_ping(limit).with_reset(limit);
    config.with_timeouts(timeouts)
}

impl Upstream {
    /// Starts on a free loopback port, which nobody else gets while it is [stopped](Self::stop).
    pub fn start() -> Self {
        Self::start_on(port::local(port::free_port()))
    }

    /// Starts on this address.
    pub fn start_on(addr: SocketAddr) -> Self {
        let clients = Arc::<Clients>::default();
        scene::add(&clients);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let (orders, mut jobs) = mpsc::unbounded_channel();
        let inside = Arc::clone(&clients);
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let backlog = listen(addr);
                let listener = TcpListener::from_std(backlog.try_clone().unwrap()).unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                let serve = async {
                    loop {
                        tokio::select! {
                            accepted = listener.accept() => {
                                let (stream, client) = accepted.unwrap();
                                inside.admit(stream, client);
                            }
                            Some(job) = jobs.recv() => {
                                // To its client a connection is there before it is accepted. It is
                                // meant, too.
                                while let Ok((stream, client)) = backlog.accept() {
                                    stream.set_nonblocking(true).unwrap();
                                    inside.admit(TcpStream::from_std(stream).unwrap(), client);
                                }
                                inside.give(job);
                            }
                        }
                    }
                };
                tokio::select! {
                    () = serve => {}
                    _ = stopped => {}
                }
            });
        });
        let addr = told.recv().unwrap();
        Self { addr, clients, orders, stop: Some(stop), thread: Some(thread) }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// A configuration that points here, for pings and resets with the time of [`patient`].
    pub fn config(&self) -> Config {
        patient(Config::new(self.addr.to_string()))
    }

    /// Connections ever accepted.
    pub fn accepted(&self) -> usize {
        self.clients.accepted.load(Ordering::SeqCst)
    }

    /// Connections open now, as this side sees it.
    pub fn open(&self) -> usize {
        self.clients.open.load(Ordering::SeqCst)
    }

    /// Connections that have carried out [`Order::Silence`].
    pub fn silenced(&self) -> usize {
        self.clients.silenced.load(Ordering::SeqCst)
    }

    /// Orders to [`Order::Say`] something that were carried out.
    pub fn said(&self) -> usize {
        self.clients.said.load(Ordering::SeqCst)
    }

    /// Gives an order for every connection that a client has, accepted or not.
    pub fn order_all(&self, order: &Order) {
        self.give(order.clone(), None);
    }

    /// Gives an order for the connection with this client address.
    pub fn order(&self, client: SocketAddr, order: Order) {
        self.give(order, Some(client));
    }

    /// Returns when they have it: connections made after that are not meant.
    fn give(&self, order: Order, client: Option<SocketAddr>) {
        let (done, is_done) = std::sync::mpsc::channel();
        // Neither matters where the upstream has been stopped.
        let _ = self.orders.send(Job { order, client, done });
        let _ = is_done.recv();
    }

    /// Stops listening and closes every connection. Whoever connects after that is refused.
    pub fn stop(&mut self) {
        self.end();
        // Another host's address leads there from its own threads only, and may lead nowhere by now.
        if self.addr.ip().is_loopback() {
            port::until_refused(self.addr);
        }
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.end();
    }
}

/// A listener with room for as many connections as a test makes at a time. Beyond it, and beyond the
/// 128 that std and tokio ask for, Linux forgets some of those that their client holds to be made,
/// and resets them later.
pub fn listen(addr: SocketAddr) -> std::net::TcpListener {
    // Who looks for a free port has this one for a moment.
    let mut tries = 0;
    let socket = loop {
        match port::bound(addr) {
            Ok(socket) => break socket,
            Err(error) => assert!(tries < 200, "{addr}: {error}"),
        }
        tries += 1;
        std::thread::sleep(Duration::from_millis(10));
    };
    socket.set_nonblocking(true).unwrap();
    socket.listen(4096).unwrap();
    socket.into()
}

async fn serve(stream: TcpStream, mut orders: mpsc::UnboundedReceiver<Order>, clients: &Clients) {
    stream.set_nodelay(true).unwrap();
    let mut line = String::new();
    let mut pending = None;
    // One reader for the whole connection: it reads ahead, and requests may be pipelined.
    let (read, mut write) = stream.into_split();
    let mut reader = BufReader::new(read);
    loop {
        tokio::select! {
            got = reader.read_line(&mut line) => {
                // The end, or a request that was given up half-way.
                if got.is_err() || !line.ends_with('\n') {
                    return;
                }
                let mut words = line.trim_end().splitn(2, ' ');
                let (verb, rest) = (words.next().unwrap(), words.next().unwrap_or(""));
                let answer = match verb {
                    "ECHO" => format!("{rest}\n"),
                    "SLOW" => {
                        let (ms, text) = rest.split_once(' ').unwrap();
                        let (ms, text) = (ms.parse().unwrap(), text.to_owned());
                        tokio::time::sleep(Duration::from_millis(ms)).await;
                        format!("{text}\n")
                    }
                    "BULK" => format!("{}\n", "x".repeat(rest.parse().unwrap())),
                    "QUIT" => return,
                    "SINK" => {
                        pending = orders.recv().await;
                        String::new()
                    }
                    _ => String::new(),
                };
                if write.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
                line.clear();
            }
            Some(order) = orders.recv() => pending = Some(order),
        }
        match pending.take() {
            None => {}
            Some(Order::Close) => return,
            Some(Order::Reset) => {
                let socket: &TcpStream = write.as_ref();
                socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO)).unwrap();
                // Dropping this half would say goodbye with a FIN first.
                write.forget();
                return;
            }
            Some(Order::HalfClose) => write.shutdown().await.unwrap(),
            Some(Order::Say(bytes)) => {
                write.write_all(&bytes).await.unwrap();
                clients.said.fetch_add(1, Ordering::SeqCst);
            }
            #[cfg(target_os = "linux")]
            Some(Order::Silence) => {
                fault::silence(AsRef::<TcpStream>::as_ref(&write));
                clients.silenced.fetch_add(1, Ordering::SeqCst);
            }
            #[cfg(target_os = "linux")]
            Some(Order::Heal) => fault::heal(AsRef::<TcpStream>::as_ref(&write)),
            Some(Order::SayAndClose(bytes)) => {
                write.write_all(&bytes).await.unwrap();
                return;
            }
        }
    }
}

/// Sends one line and reads one line, byte by byte so that nothing is read ahead.
pub async fn ask(conn: &mut Guard, line: &str) -> std::io::Result<String> {
    conn.write_all(format!("{line}\n").as_bytes()).await?;
    answer(conn).await
}

/// Reads one line, byte by byte.
pub async fn answer(conn: &mut Guard) -> std::io::Result<String> {
    let mut text = Vec::new();
    loop {
        match conn.read_u8().await? {
            b'\n' => return Ok(String::from_utf8(text).unwrap()),
            byte => text.push(byte),
        }
    }
}

/// Takes a connection, exchanges one line, releases it.
pub async fn exchange(pool: &Pool, line: &str) -> String {
    let mut conn = pool.get().await.unwrap();
    let text = ask(&mut conn, line).await.unwrap();
    assert_eq!(conn.release(), livepool::Release::Reused);
    text
}

/// Fills the pool with this many idle connections.
pub async fn fill(pool: &Pool, count: usize) {
    let mut guards = Vec::new();
    for _ in 0..count {
        let mut conn = pool.get().await.unwrap();
        // An answer proves that the upstream has accepted it and takes orders for it.
        assert_eq!(ask(&mut conn, "ECHO hello").await.unwrap(), "hello");
        guards.push(conn);
    }
    for conn in guards {
        assert_eq!(conn.release(), livepool::Release::Reused);
    }
    assert_eq!(pool.status().idle, count);
}

/// Every event of a pool, in order.
#[derive(Clone)]
pub struct Events(Arc<Told>);

#[derive(Default)]
struct Told(Mutex<Vec<Event>>);

impl Witness for Told {
    fn tell(&self) -> String {
        const LAST: usize = 40;
        let events = self.0.lock().unwrap();
        let mut text = format!("{} events, the last of them:", events.len());
        for event in &events[events.len().saturating_sub(LAST)..] {
            text += &format!("\n  {event:?}");
        }
        text
    }
}

impl Default for Events {
    fn default() -> Self {
        let told = Arc::default();
        scene::add(&told);
        Self(told)
    }
}

impl Events {
    /// To be given to `Builder::observer`.
    pub fn observer(&self) -> impl livepool::Observer + use<> {
        let told = Arc::clone(&self.0);
        move |_: &str, event: &Event| told.0.lock().unwrap().push(event.clone())
    }

    pub fn all(&self) -> Vec<Event> {
        self.0.0.lock().unwrap().clone()
    }

    /// The reasons of all closes so far, in order.
    pub fn closed(&self) -> Vec<CloseReason> {
        let reason = |event: &Event| match event {
            Event::Closed { reason, .. } => Some(*reason),
            _ => None,
        };
        self.0.0.lock().unwrap().iter().filter_map(reason).collect()
    }

    /// The peer's own words that belong to these reasons, in the same order.
    pub fn codes(&self) -> Vec<Option<String>> {
        let code = |event: &Event| match event {
            Event::Closed { code, .. } => Some(code.as_deref().map(str::to_owned)),
            _ => None,
        };
        self.0.0.lock().unwrap().iter().filter_map(code).collect()
    }

    pub fn opened(&self) -> usize {
        self.0
            .0
            .lock()
            .unwrap()
            .iter()
            .filter(|event| matches!(event, Event::Opened { .. }))
            .count()
    }

    /// The operations that timed out so far, in order.
    pub fn timed_out(&self) -> Vec<Operation> {
        let operation = |event: &Event| match event {
            Event::TimedOut { operation, .. } => Some(*operation),
            _ => None,
        };
        self.0.0.lock().unwrap().iter().filter_map(operation).collect()
    }

    /// Waits until this many connections have been closed. Real time: kernel and reactor work in it.
    #[track_caller]
    pub fn until_closed(&self, count: usize) -> impl Future<Output = Vec<CloseReason>> {
        let events = self.clone();
        until_seen(move || events.closed(), move |closed| closed.len() >= count)
    }
}

/// A pool and its events.
pub fn watched(config: Config) -> (Pool, Events) {
    let events = Events::default();
    let pool = Pool::builder(config).observer(events.observer()).build().unwrap();
    (pool, events)
}

/// Returns when what this thread has sent over loopback, a FIN or RST of a closed socket too, has
/// reached the other socket: loopback hands packets over in the order in which they were sent, and
/// datagrams sent after them have come back.
pub fn loopback_delivered() {
    for _ in 0..2 {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        socket.recv(&mut [0]).unwrap();
    }
}

/// States of a socket, as the kernel's table spells them.
pub const SYN_SENT: &str = "02";
pub const CLOSE_WAIT: &str = "08";

/// How many sockets of this machine that go to `addr` (IPv4) are in this state.
#[cfg(target_os = "linux")]
pub fn sockets_to(addr: SocketAddr, state: &str) -> usize {
    let port = format!(":{:04X}", addr.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let counts = |line: &&str| {
        let mut cells = line.split_whitespace().skip(2);
        cells.next().is_some_and(|remote| remote.ends_with(&port)) && cells.next() == Some(state)
    };
    table.lines().filter(counts).count()
}

/// Bytes that wait unread in sockets of this machine that go to `addr` (IPv4).
#[cfg(target_os = "linux")]
pub fn unread_from(addr: SocketAddr) -> usize {
    let port = format!(":{:04X}", addr.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let unread = |line: &str| {
        let mut cells = line.split_whitespace().skip(2);
        cells.next().filter(|remote| remote.ends_with(&port))?;
        let (_, received) = cells.nth(1)?.split_once(':')?;
        usize::from_str_radix(received, 16).ok()
    };
    table.lines().filter_map(unread).sum()
}

/// The file descriptors this process has open.
#[cfg(target_os = "linux")]
pub fn open_fds() -> usize {
    // Where anybody has tokio's signals, the first runtime of a process makes a pair of sockets for them,
    // and keeps it.
    static FIRST: std::sync::Once = std::sync::Once::new();
    FIRST.call_once(|| {
        let first = || drop(tokio::runtime::Builder::new_current_thread().enable_all().build());
        std::thread::spawn(first).join().expect("no panic");
    });
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

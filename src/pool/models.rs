//! Models of the pool: connections between users, maintenance, the reactor and whoever closes it, and
//! the callers who wait.
//!
//! Dials are not made: connections are put into the pool as a dial does it. Maintenance is what
//! `maintenance.rs` does, step by step, when a model says so, or its own task.

use std::collections::HashMap;
use std::future::Future;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream as Peer;
use std::panic::Location;
use std::pin::pin;
use std::sync::Mutex as Plain;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::BoxFuture;
use shuttle::rand::{Rng, thread_rng};
use shuttle::thread;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::config::{Config, Limits, MadeOf, Validation};
use crate::deadline::Deadline;
use crate::error::{CheckoutFailure, Phase};
use crate::event::{CloseReason, ConnId, Event};
use crate::foreign::Held;
use crate::models::{Model, advance, block_on, turn};
use crate::net::Directory;
use crate::pool::acquire::checkout::{Until, checkout, share, try_checkout};
use crate::pool::acquire::ping::{Ping, Pinger};
use crate::pool::acquire::sharing::{Rule, Spread};
use crate::pool::acquire::wait_queue::{WaitQueue, Wants};
use crate::pool::conn::entry::Entry;
use crate::pool::conn::lease::Lease;
use crate::pool::control::reconfigure::Configured;
use crate::pool::health::maintenance;
use crate::pool::health::quarantine::Quarantine;
use crate::pool::health::silence::is_in_doubt;
use crate::pool::hooks::Hooks;
use crate::pool::inner::{PoolInner, Running};
use crate::protocol::{Bare, Conn, Verdict, Wire};
use crate::stream::models::{is_closed, pair, read, tcp_stream};
use crate::stream::{Connector, Stream};
use crate::sync::{Arc, Mutex, Weak};

pub(crate) fn all() -> Vec<Model> {
    vec![
        Model { name: "entry", run: a_connection_has_one_owner_and_one_end },
        Model { name: "entry-client", run: a_clients_connection_has_one_owner_and_one_end },
        Model { name: "looking", run: what_is_looked_at_while_its_pool_is_closed_ends_with_it },
        Model { name: "homecoming", run: what_a_sentinel_sees_on_the_way_home_is_looked_at },
        Model { name: "quarantine-client", run: what_a_sentinel_saw_in_quarantine_is_looked_at },
        Model { name: "quarantine", run: a_silent_connection_is_neither_lost_nor_kept },
        Model { name: "line", run: callers_are_called_in_order_and_none_is_passed_over },
        Model { name: "waiting", run: whoever_waits_is_served_while_a_connection_lives },
        Model { name: "closing", run: what_is_left_to_maintenance_is_closed_though_that_ends },
        Model { name: "doubt", run: nobody_is_given_whom_something_speaks_against },
        Model { name: "doubt-meanwhile", run: what_is_said_meanwhile_is_not_taken_back },
        Model { name: "ping", run: a_ping_goes_on_for_the_pool_and_ends_with_it },
        Model { name: "close", run: nobody_waits_for_a_pool_that_was_closed },
        Model {
            name: "sharing",
            run: whoever_waits_for_a_share_is_served_while_others_keep_theirs,
        },
        Model { name: "kept", run: a_connection_is_kept_for_who_waits_for_it },
        Model { name: "deadpool", run: what_a_plain_deadpool_keeps_has_one_owner_and_one_end },
    ]
}

/// A pool, what it said, and the other ends of its connections.
struct World {
    inner: Arc<PoolInner>,
    ends: Arc<Plain<Vec<(ConnId, CloseReason)>>>,
    peers: Vec<(ConnId, Option<Peer>)>,
    owned: Arc<Plain<HashMap<ConnId, bool>>>,
    /// Of clients that read all the time.
    wires: Vec<Wire>,
}

fn config(size: usize) -> Config {
    let mut config = Config::new("unix:/nowhere").with_name("model").with_max_size(size);
    config.max_lifetime = None;
    config.max_silence = None;
    config
}

/// What the other end of a connection is put around.
#[derive(Clone, Copy)]
enum Kind {
    Raw,
    Client,
    /// It reads all the time, and what comes unasked does no harm.
    Reader,
}

impl World {
    fn new(connections: usize, kind: Kind) -> Self {
        let mut world = Self::empty(connections);
        for _ in 0..connections {
            let (stream, peer) = pair();
            // Nobody has used it: it goes to the idle ones.
            drop(world.connect(stream, kind, Some(peer)));
        }
        world.begin()
    }

    /// All of its connections are idle.
    fn begin(self) -> Self {
        assert_eq!(self.inner.registry.idle_count(), self.peers.len(), "{:?}", self.ends);
        self
    }

    fn empty(size: usize) -> Self {
        Self::of(config(size), Pinger::default())
    }

    fn of(config: Config, pinger: Pinger) -> Self {
        let ends = Arc::<Plain<Vec<_>>>::default();
        let heard = Arc::clone(&ends);
        let observer = move |_: &str, event: &Event| {
            if let Event::Closed { conn, reason, .. } = event {
                heard.lock().expect("nobody panics here").push((*conn, *reason));
            }
        };
        let connector = Connector::observed(&config, Some(Arc::new(observer))).expect("valid");
        let made_of = MadeOf { has_ping: pinger.0.is_some(), is_for_deadpool: false };
        let configured = Configured::new(config, made_of);
        let inner = PoolInner::new(connector, configured, pinger, None, Hooks::default());
        let inner = Arc::new(inner);
        // By hand, here.
        inner.maintained.store(true, SeqCst);
        Self { inner, ends, peers: Vec::new(), owned: Arc::default(), wires: Vec::new() }
    }

    /// As a dial does it.
    fn connect(&mut self, stream: Stream, kind: Kind, peer: Option<Peer>) -> Lease {
        let slot = self.inner.slots.try_take().expect("a slot is free");
        self.inner.peers.resolved(0, &[stream.peer_addr().clone()]);
        let mut conn = match kind {
            Kind::Raw => Conn::Raw(Box::new(stream)),
            Kind::Client => {
                let judge = Arc::new(|_: &[u8]| Verdict::Close);
                Bare::new(Box::new(stream), judge, Limits::unlimited()).with_client(Box::new(()))
            }
            Kind::Reader => {
                let judge = Arc::new(|_: &[u8]| Verdict::Keep);
                let bare = Bare::new(Box::new(stream), judge, Limits::unlimited());
                let wire = bare.wire(Deadline::NEVER);
                // A read that is pending means nothing.
                drop(wire.count_debt());
                self.wires.push(wire);
                bare.with_client(Box::new(()))
            }
        };
        let entry = self.inner.adopt(&mut conn, slot, self.inner.generation.now());
        self.peers.push((entry.id, peer));
        self.owned.lock().expect("nobody panics here").insert(entry.id, false);
        let since = entry.age();
        Lease::new(&self.inner, entry, conn, since)
    }

    fn owner(&self) -> Owner {
        Owner(Arc::clone(&self.owned))
    }

    /// Looks at what the sentinels saw. False if there was nothing.
    fn look(&self) -> bool {
        let fired = self.inner.fired_queue.take();
        let some = !fired.is_empty();
        for entry in fired.iter().filter_map(Weak::upgrade) {
            self.inner.check_socket(&entry);
        }
        some
    }

    /// As if the sentinels of all idle ones had fired.
    fn stir(&self) {
        for entry in self.inner.registry.idle() {
            self.inner.fired_queue.push(Arc::downgrade(&entry));
        }
    }

    /// Looks whether the idle ones are silent, `looks` times later than the last time.
    fn look_for_silence(&self, looks: u32) {
        let later = Instant::now() + looks * Duration::from_secs(3600);
        for entry in self.inner.registry.idle() {
            self.inner.check_silence(&entry, later, Duration::from_nanos(1));
        }
    }

    /// Until nothing is left to look at.
    fn settle(&self) {
        turn();
        let mut rounds = 0;
        while self.look() {
            turn();
            rounds += 1;
            assert!(rounds < 20, "a connection that nobody touches keeps being looked at");
        }
        for entry in self.inner.longest_idle() {
            self.inner.evict_unwanted(&entry);
        }
        self.close_left();
    }

    /// Closes what was left to maintenance. Without one, nothing may be left.
    fn close_left(&self) {
        if self.inner.maintained.load(SeqCst) {
            drop(self.inner.closing.take());
        }
    }

    /// As a caller does it, who does not get it yet.
    fn take(&self) -> Option<Lease> {
        self.inner.take_idle()
    }

    fn ends_of(&self, conn: ConnId) -> Vec<CloseReason> {
        let ends = self.ends.lock().expect("nobody panics here");
        ends.iter().filter(|(ended, _)| *ended == conn).map(|(_, reason)| *reason).collect()
    }

    /// What holds when no other thread is left: what is open is idle and can be taken, what is not has
    /// ended once and its socket is closed, and the slots are theirs.
    fn check(mut self) {
        self.settle();
        let idle: Vec<_> = self.inner.registry.idle().iter().map(|entry| entry.id).collect();
        assert_eq!(self.inner.guards(), 0, "every guard was counted out");
        assert_eq!(self.inner.slots.used(), idle.len(), "a slot for each that is open");
        let counts = self.inner.registry.count(&self.inner.slots);
        assert_eq!((counts.in_use, counts.connecting), (0, 0), "each that is open is idle");
        for (id, peer) in &mut self.peers {
            let is_open = idle.contains(id);
            let (id, ends) = (*id, ends(&self.ends, *id));
            assert_eq!(ends.len(), usize::from(!is_open), "{id}: one end, and one only: {ends:?}");
            match peer {
                Some(peer) => assert_eq!(is_closed(peer), !is_open, "{id}: its socket"),
                None => assert!(!is_open, "{id}: its peer has gone, and it is kept"),
            }
        }
        if self.inner.is_closed() {
            assert!(idle.is_empty(), "a socket outlives its pool");
        } else {
            let ends = self.ends.lock().expect("nobody panics here").clone();
            let is_lost = |(_, reason): &(ConnId, CloseReason)| *reason == CloseReason::PoolClosed;
            assert!(!ends.iter().any(is_lost), "its last handle was lost: {ends:?}");
            let taken: Vec<_> = std::iter::from_fn(|| self.take()).collect();
            assert_eq!(taken.len(), idle.len(), "each that is idle is in the idle set");
            self.inner.close();
            drop(taken);
            self.close_left();
        }
        assert_eq!(self.inner.slots.used(), 0);
        for (id, peer) in &mut self.peers {
            assert_eq!(ends(&self.ends, *id).len(), 1, "{id}: one end when the pool is closed");
            assert!(peer.as_mut().is_none_or(is_closed), "{id}: a socket outlives its pool");
        }
    }
}

fn ends(ends: &Plain<Vec<(ConnId, CloseReason)>>, conn: ConnId) -> Vec<CloseReason> {
    let ends = ends.lock().expect("nobody panics here");
    ends.iter().filter(|(ended, _)| *ended == conn).map(|(_, reason)| *reason).collect()
}

/// Sees to it that a connection has one user at a time.
#[derive(Clone)]
struct Owner(Arc<Plain<HashMap<ConnId, bool>>>);

impl Owner {
    fn set(&self, conn: ConnId, owned: bool) {
        let before = self.0.lock().expect("nobody panics here").insert(conn, owned);
        assert_eq!(before, Some(!owned), "{conn} has two users at a time");
    }

    /// Uses a connection and gives it back, or throws it away.
    fn uses(&self, mut lease: Lease) {
        self.holds(&mut lease);
        match thread_rng().gen_range(0..8) {
            0 => lease.throw_away(CloseReason::Discarded),
            _ => drop(lease),
        }
    }

    fn gives_back(&self, mut lease: Lease) {
        self.holds(&mut lease);
    }

    fn holds(&self, lease: &mut Lease) {
        let id = lease.id();
        self.set(id, true);
        thread::yield_now();
        drop(lease.stream_mut());
        self.set(id, false);
    }
}

/// Begins at any moment of what the others do.
fn some_time() {
    for _ in 0..thread_rng().gen_range(0..40) {
        thread::yield_now();
    }
}

/// A user who takes what is there.
fn user(world: &World, rounds: usize) -> thread::JoinHandle<()> {
    let (inner, owner) = (Arc::clone(&world.inner), world.owner());
    thread::spawn(move || {
        for _ in 0..rounds {
            some_time();
            if let Some(lease) = try_checkout(&inner, Location::caller()) {
                owner.uses(lease);
            }
        }
    })
}

/// No model takes so long.
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Whoever does something to the pool as a whole.
fn owner_of_pool(world: &World) -> thread::JoinHandle<()> {
    let inner = Arc::clone(&world.inner);
    thread::spawn(move || {
        some_time();
        match thread_rng().gen_range(0..10) {
            0 => inner.invalidate(false),
            1 => inner.invalidate(true),
            2 => inner.resize(1).expect("it is a size"),
            3 => {
                inner.pause();
                inner.resume();
            }
            4 => {
                let change = |config: &mut Config| config.max_lifetime = Some(YEAR);
                inner.reconfigure(change).expect("it is a time");
            }
            5 => {}
            _ => inner.close(),
        }
    })
}

fn a_connection_has_one_owner_and_one_end() {
    of_one_owner_and_one_end(World::new(2, Kind::Raw));
}

fn a_clients_connection_has_one_owner_and_one_end() {
    of_one_owner_and_one_end(World::new(2, Kind::Client));
}

/// Users take connections and give them back, sentinels fire, maintenance looks, and somebody closes,
/// invalidates or resizes the pool.
fn of_one_owner_and_one_end(mut world: World) {
    let threads = [user(&world, 2), user(&world, 1), owner_of_pool(&world)];
    for step in 1..=4 {
        match thread_rng().gen_range(0..10) {
            // The peer goes.
            0..2 => drop(world.peers[thread_rng().gen_range(0..2)].1.take()),
            // Bytes that nobody asked for.
            2 => {
                let written =
                    world.peers[1].1.as_mut().map(|peer| std::io::Write::write(peer, b"x"));
                drop(written);
            }
            3 | 4 => world.look_for_silence(step),
            5 | 6 => {
                world.stir();
                world.look();
            }
            7 => turn(),
            _ => {
                turn();
                world.look();
            }
        }
    }
    for thread in threads {
        thread.join().expect("it held");
    }
    world.check();
}

/// A connection of a plain deadpool: users take it out of deadpool's queue and put it back without a word,
/// the watch parks it, maintenance looks at it, its peer may go, and deadpool drops it at any moment.
fn what_a_plain_deadpool_keeps_has_one_owner_and_one_end() {
    let mut world = World::empty(1);
    let (stream, peer) = pair();
    let kind = if thread_rng().gen_bool(0.5) { Kind::Raw } else { Kind::Client };
    let queue = Arc::new(Mutex::new(Some(world.connect(stream, kind, Some(peer)))));
    let lock = |queue: &Arc<Mutex<Option<Lease>>>| {
        let queue = Arc::clone(queue);
        move |act: &mut dyn FnMut(&mut Option<Lease>)| act(&mut queue.lock().expect("it held"))
    };
    let (queued, owner) = (lock(&queue), world.owner());
    let user = thread::spawn(move || {
        for _ in 0..2 {
            some_time();
            let mut taken = None;
            queued(&mut |queue| taken = queue.take());
            let Some(mut lease) = taken else { return };
            // As a recycle takes it back.
            while lease.is_parked() && !lease.has_ended() {
                if lease.entry().claim_for_owner().is_none() {
                    thread::yield_now();
                }
            }
            if lease.has_ended() {
                return lease.end_kept(CloseReason::Discarded);
            }
            owner.holds(&mut lease);
            let mut lease = Some(lease);
            queued(&mut |queue| *queue = lease.take());
        }
    });
    let queued = lock(&queue);
    let watch = thread::spawn(move || {
        for _ in 0..2 {
            some_time();
            let mut parking = None;
            queued(&mut |queue| parking = queue.as_ref().and_then(Lease::begin_parking));
            if let Some(parking) = parking {
                parking.end(thread_rng().gen_bool(0.5));
            }
        }
    });
    let queued = lock(&queue);
    let end = move || {
        let mut dropped = None;
        queued(&mut |queue| dropped = queue.take());
        if let Some(lease) = dropped {
            lease.end_kept(CloseReason::Discarded);
        }
    };
    let dropper = thread::spawn(move || {
        some_time();
        end();
        end
    });
    for step in 1..=4 {
        match thread_rng().gen_range(0..8) {
            0 => drop(world.peers[0].1.take()),
            1 | 2 => world.look_for_silence(step),
            3..6 => {
                world.stir();
                world.look();
            }
            _ => turn(),
        }
    }
    user.join().expect("it held");
    watch.join().expect("it held");
    // The user may have put it back after that.
    dropper.join().expect("it held")();
    world.settle();
    block_on(world.inner.close_given_up());
    assert_eq!(world.inner.registry.idle_count(), 0, "nobody has it, and it is kept");
    world.check();
}

/// A connection is looked at while its pool is closed: whoever closes it passes by, or meets it.
fn what_is_looked_at_while_its_pool_is_closed_ends_with_it() {
    let world = World::new(1, Kind::Raw);
    let inner = Arc::clone(&world.inner);
    let closer = thread::spawn(move || inner.close());
    if thread_rng().gen_bool(0.5) {
        world.look_for_silence(1);
    } else {
        world.stir();
        world.look();
    }
    closer.join().expect("it closed the pool");
    world.check();
}

/// A connection comes back while its peer goes. Its sentinel fires at any moment of that, and the look
/// that follows may find nobody home: there is another one.
fn what_a_sentinel_sees_on_the_way_home_is_looked_at() {
    let mut world = World::new(1, Kind::Raw);
    let lease = try_checkout(&world.inner, Location::caller()).expect("it is idle");
    let owner = world.owner();
    let user = thread::spawn(move || owner.gives_back(lease));
    for _ in 0..thread_rng().gen_range(0..12) {
        thread::yield_now();
    }
    drop(world.peers[0].1.take());
    turn();
    world.look();
    user.join().expect("it held");
    world.check();
}

/// While a connection is in quarantine its client reads what comes unasked; the sentinel fires, and the
/// look that follows finds nobody home. When it is back, the end of its peer is noticed.
fn what_a_sentinel_saw_in_quarantine_is_looked_at() {
    let (mut world, mut far_ends) = over_tcp(World::empty(1), Kind::Reader, 1);
    let mut far_end = far_ends.pop().expect("there is one");
    let mut wire = world.wires.pop().expect("there is one");
    let client = thread::spawn(move || {
        block_on(async { while read(&mut wire).await.is_ok_and(|count| count > 0) {} });
        wire
    });
    let pool = Arc::clone(&world.inner);
    let mut quarantine = Quarantine::new(&pool);
    for step in 1..=6 {
        match thread_rng().gen_range(0..5) {
            0 | 1 => world.look_for_silence(step),
            2 | 3 => {
                std::io::Write::write_all(&mut far_end, b"x").expect("there is room");
                turn();
                world.look();
            }
            _ => {
                advance(Duration::from_millis(50));
                block_on(quarantine.look());
            }
        }
        thread::yield_now();
    }
    let mut looks = 0;
    while pool.probing.count() > 0 {
        advance(Duration::from_millis(50));
        block_on(quarantine.look());
        looks += 1;
        assert!(looks < 100, "a connection stays in quarantine");
    }
    assert_eq!(pool.registry.idle_count(), 1, "it is alive: {:?}", world.ends);
    // What came before has been looked at.
    world.settle();
    drop(far_end);
    turn();
    let wire = client.join().expect("it read all there was");
    drop(quarantine);
    world.check();
    drop(wire);
}

/// Silent connections are asked for a sign of life and come back, while users look for them and
/// somebody closes the pool.
fn a_silent_connection_is_neither_lost_nor_kept() {
    let (world, mut far_ends) = over_tcp(World::empty(2), Kind::Raw, 2);
    let threads = [user(&world, 2), owner_of_pool(&world)];
    let pool = Arc::clone(&world.inner);
    let mut quarantine = Quarantine::new(&pool);
    for step in 1..=3 {
        // Maintenance ends with the pool.
        if pool.is_closed() {
            break;
        }
        match thread_rng().gen_range(0..3) {
            0 => world.look_for_silence(step),
            1 => advance(Duration::from_millis(50)),
            _ => drop(block_on(quarantine.look())),
        }
        turn();
        world.look();
    }
    for thread in threads {
        thread.join().expect("it held");
    }
    // Loopback has answered long ago.
    let mut looks = 0;
    while pool.probing.count() > 0 && !pool.is_closed() {
        advance(Duration::from_millis(50));
        block_on(quarantine.look());
        looks += 1;
        assert!(looks < 100, "a connection stays in quarantine");
    }
    match pool.is_closed() {
        true => block_on(quarantine.close()),
        // Its runtime has ended.
        false => drop(quarantine),
    }
    assert_eq!(pool.probing.count(), 0);
    check_over_tcp(world, &mut far_ends);
}

/// Puts TCP connections into the pool, whose other ends are returned.
fn over_tcp(mut world: World, kind: Kind, connections: usize) -> (World, Vec<TcpStream>) {
    thread_local! {
        static LISTENER: TcpListener = TcpListener::bind("127.0.0.1:0").expect("a port");
    }
    let mut far_ends = Vec::new();
    for _ in 0..connections {
        let (ours, theirs) = LISTENER.with(|listener| {
            let ours = TcpStream::connect(listener.local_addr().expect("its address"));
            (ours.expect("it listens"), listener.accept().expect("one came").0)
        });
        drop(world.connect(tcp_stream(ours), kind, None));
        far_ends.push(theirs);
    }
    (world.begin(), far_ends)
}

/// As [`World::check`].
fn check_over_tcp(mut world: World, far_ends: &mut [TcpStream]) {
    let mut peers = std::mem::take(&mut world.peers);
    world.settle();
    // The other ends are looked at here.
    let idle = world.inner.registry.idle();
    let idle: Vec<_> = idle.iter().map(|entry| entry.id).collect();
    for ((id, _), end) in peers.drain(..).zip(far_ends) {
        let mut space = [0; 8];
        end.set_nonblocking(true).expect("a socket that does not block");
        let read = std::io::Read::read(end, &mut space);
        let is_open = read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert_eq!(is_open, idle.contains(&id), "{id}: its socket");
        assert_eq!(world.ends_of(id).len(), usize::from(!is_open), "{id}: one end");
    }
    world.check();
}

/// Of several connections that have to go, all but one are left to the maintenance task, which looks at
/// others, and ends with the pool or with its runtime at any moment. None stays.
fn what_is_left_to_maintenance_is_closed_though_that_ends() {
    let mut world = World::new(3, Kind::Raw);
    let running = Running(Arc::clone(&world.inner));
    let ends_with_pool = thread_rng().gen_bool(0.5);
    let user = {
        let (inner, owner) = (Arc::clone(&world.inner), world.owner());
        thread::spawn(move || {
            for _ in 0..2 {
                some_time();
                // Without a word to maintenance: that would begin anew.
                if let Some(lease) = inner.take_idle() {
                    owner.gives_back(lease);
                }
            }
        })
    };
    let owner_of_pool = match ends_with_pool {
        true => {
            let inner = Arc::clone(&world.inner);
            thread::spawn(move || {
                some_time();
                inner.close();
            })
        }
        false => owner_of_pool(&world),
    };
    // On the thread whose turns are the reactor's.
    let mut task = Box::pin(maintenance::run(Arc::clone(&world.inner)));
    let mut has_ended = false;
    for _ in 0..thread_rng().gen_range(0..12) {
        match thread_rng().gen_range(0..6) {
            0 => drop(world.peers[thread_rng().gen_range(0..3)].1.take()),
            1 => world.stir(),
            2 => turn(),
            _ => {
                let polled = task.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                has_ended = polled.is_ready();
                if has_ended {
                    assert!(world.inner.is_closed());
                    break;
                }
            }
        }
        thread::yield_now();
    }
    if ends_with_pool && !has_ended {
        block_on(task);
    } else {
        drop(task);
    }
    drop(running);
    for thread in [user, owner_of_pool] {
        thread.join().expect("it held");
    }
    world.check();
}

/// While something is said against all connections to a peer, maintenance asks them and takes the word
/// back when all were heard. Whoever takes a connection is given one that was heard after what had been
/// said before.
fn nobody_is_given_whom_something_speaks_against() {
    const USERS: usize = 2;
    let mut config = config(2);
    config.max_silence = Some(Duration::from_secs(3600));
    config.max_silence_after_use = config.max_silence;
    let (world, mut far_ends) = over_tcp(World::of(config, Pinger::default()), Kind::Raw, 2);
    let a_while = Duration::from_millis(50);
    advance(a_while);
    let said = Arc::new(Plain::new(None::<Instant>));
    let ended = Arc::new(AtomicUsize::new(0));
    let mut threads: Vec<_> = (0..USERS)
        .map(|user| {
            let (inner, owner) = (Arc::clone(&world.inner), world.owner());
            let (said, ended) = (Arc::clone(&said), Arc::clone(&ended));
            thread::spawn(move || {
                for _ in 0..3 {
                    some_time();
                    let before = *said.lock().expect("nobody panics here");
                    let lease = match user {
                        0 => try_checkout(&inner, Location::caller()),
                        _ => block_on(checkout(
                            &inner,
                            Until::By(Deadline::NEVER),
                            Location::caller(),
                        ))
                        .ok(),
                    };
                    let Some(lease) = lease else { continue };
                    let all = inner.registry.all();
                    let entry = all.into_iter().find(|entry| entry.id == lease.id());
                    let entry = entry.expect("it is known while somebody has it");
                    let heard = entry.moment(entry.age()) - entry.unheard_for(entry.age());
                    assert!(
                        before.is_none_or(|before| heard > before),
                        "nobody has heard it since"
                    );
                    owner.gives_back(lease);
                }
                ended.fetch_add(1, SeqCst);
            })
        })
        .collect();
    threads.push({
        let (inner, said, ended) =
            (Arc::clone(&world.inner), Arc::clone(&said), Arc::clone(&ended));
        thread::spawn(move || {
            for _ in 0..2 {
                some_time();
                let all = inner.registry.all();
                let moment = Instant::now();
                inner.doubt_siblings(&all[0], Some(moment));
                *said.lock().expect("nobody panics here") = Some(moment);
            }
            ended.fetch_add(1, SeqCst);
        })
    });
    let pool = Arc::clone(&world.inner);
    let mut quarantine = Quarantine::new(&pool);
    let mut steps = 0;
    while ended.load(SeqCst) < threads.len() || pool.probing.count() > 0 {
        match thread_rng().gen_range(0..7) {
            0 => advance(a_while),
            1 | 5 | 6 => world.inner.clear_doubts(),
            2 => block_on(world.inner.ask_siblings()),
            3 => drop(block_on(quarantine.look())),
            _ => {
                turn();
                world.look();
            }
        }
        thread::yield_now();
        steps += 1;
        assert!(steps < 2_000, "a connection is never heard");
    }
    for thread in threads {
        thread.join().expect("it held");
    }
    // All of them were heard, or can be: the word is taken back.
    let mut looks = 0;
    while !pool.peers.doubted().is_empty() {
        advance(a_while);
        pool.has_doubts.store(true, SeqCst);
        block_on(world.inner.ask_siblings());
        block_on(quarantine.look());
        world.inner.clear_doubts();
        looks += 1;
        assert!(looks < 100, "what was said is never taken back");
    }
    drop(quarantine);
    check_over_tcp(world, &mut far_ends);
}

/// Something is said against a peer while what was said before is taken back, since its connection was
/// heard in between. What was said last stays, until the connection is heard again.
fn what_is_said_meanwhile_is_not_taken_back() {
    let world = World::new(1, Kind::Raw);
    let pool = Arc::clone(&world.inner);
    let entry = pool.registry.all().pop().expect("there is one");
    let hear = |entry: &Arc<Entry>| {
        advance(Duration::from_millis(50));
        pool.prove(entry, entry.age());
    };
    advance(Duration::from_millis(50));
    pool.doubt_siblings(&entry, Some(Instant::now()));
    hear(&entry);
    advance(Duration::from_millis(50));
    let speaker = {
        let (entry, pool) = (Arc::clone(&entry), Arc::clone(&pool));
        thread::spawn(move || pool.doubt_siblings(&entry, Some(Instant::now())))
    };
    pool.clear_doubts();
    speaker.join().expect("it was said");
    assert!(is_in_doubt(&entry), "what was said last is taken back");
    hear(&entry);
    pool.clear_doubts();
    assert!(pool.peers.doubted().is_empty(), "it was heard, and is doubted for good");
    drop((entry, pool));
    world.check();
}

/// One byte, and one byte of answer.
struct Byte;

impl Ping for Byte {
    fn ping<'a>(&'a self, stream: &'a mut Stream) -> BoxFuture<'a, std::io::Result<()>> {
        Box::pin(async move {
            stream.write_all(b"?").await?;
            stream.read_exact(&mut [0; 1]).await.map(drop)
        })
    }
}

/// Callers whose connections are pinged wait for that, go away or are too late; somebody may close the
/// pool. A ping whose caller has gone goes on while the pool lives, and is gone with it.
fn a_ping_goes_on_for_the_pool_and_ends_with_it() {
    let config = config(2).with_validation(Validation::Ping);
    let mut world = World::of(config, Pinger(Some(Held::new(std::sync::Arc::new(Byte)))));
    for _ in 0..2 {
        let (stream, peer) = pair();
        drop(world.connect(stream, Kind::Raw, Some(peer)));
    }
    let mut world = world.begin();
    let ended = Arc::new(AtomicUsize::new(0));
    let mut threads: Vec<_> = (0..3)
        .map(|caller| {
            let (inner, owner) = (Arc::clone(&world.inner), world.owner());
            let ended = Arc::clone(&ended);
            thread::spawn(move || {
                let patience = (caller == 1).then_some(Duration::from_millis(20));
                let get =
                    checkout(&inner, Until::By(Deadline::after(patience)), Location::caller());
                if caller == 0 {
                    let mut get = pin!(get);
                    let mut cx = Context::from_waker(Waker::noop());
                    for _ in 0..thread_rng().gen_range(0..4) {
                        if let Poll::Ready(lease) = get.as_mut().poll(&mut cx) {
                            lease.into_iter().for_each(|lease| owner.gives_back(lease));
                            break;
                        }
                        thread::yield_now();
                    }
                } else {
                    match block_on(get) {
                        Ok(lease) => owner.gives_back(lease),
                        Err(_) => assert!(caller == 1 || inner.is_closed(), "it is served"),
                    }
                }
                ended.fetch_add(1, SeqCst);
            })
        })
        .collect();
    let is_closed = thread_rng().gen_bool(0.5);
    if is_closed {
        let (inner, ended) = (Arc::clone(&world.inner), Arc::clone(&ended));
        threads.push(thread::spawn(move || {
            some_time();
            inner.close();
            ended.fetch_add(1, SeqCst);
        }));
    }
    // In the dialer's tasks, which end with the pool.
    let mut pings = Vec::new();
    let mut steps = 0;
    loop {
        let is_over = ended.load(SeqCst) == threads.len();
        if world.inner.is_closed() {
            pings.clear();
        } else {
            pings.extend(world.inner.pings.take());
        }
        pings.retain_mut(|ping| {
            ping.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending()
        });
        if is_over && pings.is_empty() {
            break;
        }
        match thread_rng().gen_range(0..8) {
            0 => advance(Duration::from_millis(10)),
            1..4 => answer(&mut world.peers),
            _ => turn(),
        }
        thread::yield_now();
        steps += 1;
        assert!(steps < 2_000, "a ping does not end");
    }
    for thread in threads {
        thread.join().expect("it held");
    }
    world.settle();
    if !is_closed {
        let left = world.inner.registry.idle_count();
        assert_eq!(left, 2, "all have answered: {:?}", world.ends);
    }
    world.check();
}

/// The other ends answer each byte with one.
fn answer(peers: &mut [(ConnId, Option<Peer>)]) {
    for peer in peers.iter_mut().filter_map(|(_, peer)| peer.as_mut()) {
        let mut space = [0; 8];
        if let Ok(count) = std::io::Read::read(peer, &mut space) {
            // It may be closed.
            let _ = std::io::Write::write(peer, &space[..count]);
        }
    }
}

/// Things to give away, each another one.
const GIFTS: [CheckoutFailure; 5] = [
    CheckoutFailure::Timeout(Phase::Queue),
    CheckoutFailure::Timeout(Phase::Check),
    CheckoutFailure::Timeout(Phase::Connect),
    CheckoutFailure::QueueFull,
    CheckoutFailure::Closed,
];

/// Callers stand in line, some leave it; gifts are given one after another by one thread.
fn callers_are_called_in_order_and_none_is_passed_over() {
    const CALLERS: usize = 4;
    let queue = WaitQueue::default();
    let start = Instant::now();
    let waiters: Vec<_> = (0..CALLERS)
        .map(|_| queue.join(start, None, None, Wants::Lease, Location::caller()).expect("room"))
        .collect();
    let served = Plain::new([None; CALLERS]);
    thread::scope(|scope| {
        for (place, waiter) in waiters.into_iter().enumerate() {
            let served = &served;
            let leaves = thread_rng().gen_bool(0.3);
            scope.spawn(move || {
                let got = if leaves {
                    let mut called = pin!(waiter.called(|| {}));
                    match called.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                        Poll::Ready(served) => Some(served),
                        Poll::Pending => None,
                    }
                } else {
                    Some(block_on(waiter.called(|| {})))
                };
                let got = got.map(|served| served.expect_err("there are no connections").failure);
                served.lock().expect("nobody panics here")[place] = got;
            });
        }
        scope.spawn(|| {
            for served in GIFTS {
                // More than there are callers.
                let _ = queue.give(Err(served.into()));
            }
        });
        // Whoever looks meanwhile sees no more than there are.
        assert!(queue.since(start).0 <= CALLERS);
        queue.wake_all();
    });
    assert_eq!(queue.waiting(), 0, "nobody is counted who is not there");
    assert!(queue.give(Err(CheckoutFailure::Closed.into())).is_err(), "nobody is left");
    let served = served.into_inner().expect("nobody panics here");
    let order = |served: &CheckoutFailure| GIFTS.iter().position(|known| known == served);
    assert!(served.iter().flatten().map(order).is_sorted(), "in order of arrival: {served:?}");
}

/// One connection, more callers than that, some of whom give up, and maintenance that looks at it.
fn whoever_waits_is_served_while_a_connection_lives() {
    let world = World::new(1, Kind::Raw);
    let callers: Vec<_> = (0..3)
        .map(|caller| {
            let (inner, owner) = (Arc::clone(&world.inner), world.owner());
            thread::spawn(move || {
                let mut get =
                    pin!(checkout(&inner, Until::By(Deadline::NEVER), Location::caller()));
                if caller == 0 {
                    // It waits for a while and goes away.
                    let mut cx = Context::from_waker(Waker::noop());
                    for _ in 0..2 {
                        if let Poll::Ready(lease) = get.as_mut().poll(&mut cx) {
                            owner.gives_back(lease.expect("nothing is wrong"));
                            return;
                        }
                        thread::yield_now();
                    }
                    return;
                }
                owner.gives_back(block_on(get).expect("it is served"));
            })
        })
        .collect();
    for step in 1..=3 {
        match thread_rng().gen_range(0..3) {
            0 => world.look_for_silence(step),
            1 => turn(),
            _ => {
                world.stir();
                world.look();
            }
        }
    }
    for caller in callers {
        caller.join().expect("it was served");
    }
    assert_eq!(world.inner.wait_queue.waiting(), 0);
    world.settle();
    assert_eq!(world.inner.registry.idle_count(), 1, "nothing happened to it");
    world.check();
}

/// Callers wait, join and hold connections while the pool is closed. When that is over, nobody uses a
/// connection or is given one.
fn nobody_waits_for_a_pool_that_was_closed() {
    let world = World::new(1, Kind::Raw);
    let is_over = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..3)
        .map(|_| {
            let (inner, owner) = (Arc::clone(&world.inner), world.owner());
            let is_over = Arc::clone(&is_over);
            thread::spawn(move || {
                if let Ok(lease) =
                    block_on(checkout(&inner, Until::By(Deadline::NEVER), Location::caller()))
                {
                    assert!(!is_over.load(SeqCst), "nobody waited for this one");
                    owner.gives_back(lease);
                }
            })
        })
        .collect();
    let inner = Arc::clone(&world.inner);
    let closer = thread::spawn(move || {
        let left = block_on(inner.close_and_wait(Deadline::NEVER));
        is_over.store(true, SeqCst);
        assert_eq!(left, 0, "without a deadline all of them come back");
    });
    for thread in callers.into_iter().chain([closer]) {
        thread.join().expect("it came to an end");
    }
    world.check();
}

/// A pool with one idle connection, which at most two share.
fn world_to_share() -> (World, Rule) {
    let mut world = World::of(config(1).with_max_shares(2), Pinger::default());
    let rule = world.inner.shares.rule(|| Rule { spread: Spread::Pack, most: |_, _| usize::MAX });
    let (stream, peer) = pair();
    drop(world.connect(stream, Kind::Client, Some(peer)));
    (world.begin(), rule)
}

/// One has a share for as long as others come for the one that is left, some of whom give up. Everybody
/// is served meanwhile, and there are never more than two.
fn whoever_waits_for_a_share_is_served_while_others_keep_theirs() {
    let (world, rule) = world_to_share();
    let take = move |inner: Arc<PoolInner>| async move {
        share(&inner, rule, Until::By(Deadline::NEVER), Location::caller()).await
    };
    let held = block_on(take(Arc::clone(&world.inner))).expect("it is idle");
    let others = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..3)
        .map(|caller| {
            let (inner, others) = (Arc::clone(&world.inner), Arc::clone(&others));
            thread::spawn(move || {
                for _ in 0..2 {
                    let mut part = pin!(take(Arc::clone(&inner)));
                    if caller == 0 && thread_rng().gen_bool(0.5) {
                        // It goes away, perhaps with something given to it.
                        let mut cx = Context::from_waker(Waker::noop());
                        let polled = part.as_mut().poll(&mut cx);
                        thread::yield_now();
                        drop(polled);
                        continue;
                    }
                    let part = block_on(part).expect("it is served");
                    assert_eq!(others.fetch_add(1, SeqCst), 0, "three have it");
                    thread::yield_now();
                    others.fetch_sub(1, SeqCst);
                    drop(part);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.join().expect("it was served");
    }
    drop(held);
    is_as_before(world);
}

/// Somebody waits for the connection, and then others come to share it, which one does already. It is his
/// first; then it is theirs.
fn a_connection_is_kept_for_who_waits_for_it() {
    let (world, rule) = world_to_share();
    let take = move |inner: Arc<PoolInner>| async move {
        share(&inner, rule, Until::By(Deadline::NEVER), Location::caller()).await
    };
    let held = block_on(take(Arc::clone(&world.inner))).expect("it is idle");
    let inner = Arc::clone(&world.inner);
    let mut alone = Box::pin(checkout(&inner, Until::By(Deadline::NEVER), Location::caller()));
    assert!(alone.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let was_served = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..2)
        .map(|_| {
            let (inner, was_served) = (Arc::clone(&world.inner), Arc::clone(&was_served));
            thread::spawn(move || {
                let part = block_on(take(inner)).expect("it is served");
                assert!(was_served.load(SeqCst), "somebody had come before");
                thread::yield_now();
                drop(part);
            })
        })
        .collect();
    thread::yield_now();
    drop(held);
    let lease = block_on(alone).expect("it is his");
    was_served.store(true, SeqCst);
    thread::yield_now();
    drop(lease);
    for caller in callers {
        caller.join().expect("it was served");
    }
    is_as_before(world);
}

/// Nothing is left of those who shared.
fn is_as_before(world: World) {
    assert_eq!(world.inner.shares.counts(), (0, 0));
    assert_eq!(world.inner.wait_queue.waiting() + world.inner.wait_queue.sharing(), 0);
    world.settle();
    assert_eq!(world.inner.registry.idle_count(), 1, "nothing happened to it");
    world.check();
}

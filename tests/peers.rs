//! Several addresses of one upstream: connections are spread over them, an address whose
//! connections die silently is left alone until it is back, and one that left its name is drained.
#![cfg(target_os = "linux")]

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, join_all, try_join_all};
use livepool::CloseReason::{Drained, PeerEjected, PeerSilent, ProbeTimeout};
use livepool::config::Backoff;
use livepool::{Config, Event, Guard, PeerAddr, PeerState, Pool, Release, Resolve};
use livepool_testkit::lab::{Host, lab};
use livepool_testkit::lines::Lines;
use livepool_testkit::stalls::Stalls;
use livepool_testkit::{Events, Order, Upstream, ask, exchange, until_seen, until_status, watched};

const SECOND: Duration = Duration::from_secs(1);

fn config(upstreams: &[&Upstream], size: usize) -> Config {
    let upstream = upstreams.iter().map(|upstream| upstream.addr().to_string());
    Config::new("").with_upstream(upstream).with_max_size(size).with_max_silence(Some(SECOND))
}

async fn take(pool: &Pool, count: usize) -> Vec<Guard> {
    try_join_all((0..count).map(|_| pool.get())).await.unwrap()
}

/// As [`take`], and the upstreams know of them.
async fn take_and_use(pool: &Pool, count: usize) -> Vec<Guard> {
    let mut guards = take(pool, count).await;
    for guard in &mut guards {
        assert_eq!(ask(guard, "ECHO x").await.unwrap(), "x");
    }
    guards
}

fn release(guards: Vec<Guard>) {
    for guard in guards {
        assert_eq!(guard.release(), Release::Reused);
    }
}

fn count_to(guards: &[Guard], upstream: &Upstream) -> usize {
    let addr = PeerAddr::Tcp(upstream.addr());
    guards.iter().filter(|guard| *guard.peer_addr() == addr).count()
}

fn state(pool: &Pool, upstream: &Upstream) -> PeerState {
    let addr = PeerAddr::Tcp(upstream.addr());
    pool.peers().into_iter().find(|peer| peer.addr == addr).unwrap().state
}

/// The states an upstream went through, in order.
fn changes(events: &Events, upstream: &Upstream) -> Vec<PeerState> {
    let addr = PeerAddr::Tcp(upstream.addr());
    let change = |event: &Event| match event {
        Event::PeerChanged { peer, to, .. } if *peer == addr => Some(*to),
        _ => None,
    };
    events.all().iter().filter_map(change).collect()
}

#[tokio::test]
async fn connections_are_spread_over_the_addresses_of_the_upstream() {
    let upstreams = [Upstream::start(), Upstream::start(), Upstream::start()];
    let [a, b, c] = &upstreams;
    let (pool, _) = watched(config(&[a, b, c], 9));
    let guards = take(&pool, 9).await;
    for upstream in &upstreams {
        assert_eq!(count_to(&guards, upstream), 3);
    }
    let connections: Vec<_> = pool.peers().iter().map(|peer| peer.connections).collect();
    assert_eq!(connections, [3, 3, 3]);
}

#[tokio::test]
async fn a_connection_that_ends_is_replaced_where_there_are_the_fewest() {
    let (a, b) = (Upstream::start(), Upstream::start());
    let (pool, _) = watched(config(&[&a, &b], 4));
    let mut guards = take(&pool, 4).await;
    for _ in 0..3 {
        let at = guards.iter().position(|one| *one.peer_addr() == PeerAddr::Tcp(b.addr()));
        guards.remove(at.unwrap()).discard();
        guards.push(pool.get().await.unwrap());
        assert_eq!((count_to(&guards, &a), count_to(&guards, &b)), (2, 2));
    }
}

/// Two hosts with an upstream each, and a pool with three connections to each of them.
struct Pair {
    one: (Host, Upstream),
    other: (Host, Upstream),
    pool: Pool,
    events: Events,
}

async fn pair(lab: &livepool_testkit::lab::Lab) -> (Pair, Vec<Guard>) {
    let hosts = [lab.host(), lab.host()].map(|host| {
        let upstream = host.upstream();
        (host, upstream)
    });
    let [one, other] = hosts;
    let backoff = Backoff::default().with_most(SECOND / 2);
    let (pool, events) = watched(config(&[&one.1, &other.1], 6).with_backoff(backoff));
    let mut guards = take_and_use(&pool, 6).await;
    guards.sort_by_key(|guard| *guard.peer_addr() != PeerAddr::Tcp(one.1.addr()));
    assert_eq!((count_to(&guards, &one.1), count_to(&guards, &other.1)), (3, 3));
    (Pair { one, other, pool, events }, guards)
}

#[tokio::test]
async fn a_peer_whose_connections_die_silently_is_ejected_and_taken_back_when_it_answers() {
    let lab = lab!();
    let (Pair { one, other, pool, events }, mut guards) = pair(&lab).await;
    // One of the dying peer stays in use; the others are idle.
    let in_use = guards.remove(0);
    release(guards);
    one.0.unplug();
    until_seen(|| state(&pool, &one.1), |seen| *seen == PeerState::Ejected).await;
    assert_eq!(events.closed(), [ProbeTimeout; 2]);
    assert_eq!(state(&pool, &other.1), PeerState::Healthy);
    // The one in use is marked.
    assert_eq!(in_use.release(), Release::Discarded(PeerEjected));
    // Whatever is dialed now goes elsewhere, and waits for nobody.
    let (start, stalls) = (Instant::now(), Stalls::watch());
    let guards = take(&pool, 5).await;
    assert_eq!(count_to(&guards, &other.1), 5);
    let (took, stall) = (start.elapsed(), stalls.lost().await);
    assert!(took < SECOND + stall, "{took:?}, stall {stall:?}");
    drop(guards);

    one.0.heal();
    until_seen(|| state(&pool, &one.1), |seen| *seen == PeerState::Healthy).await;
    let seen = changes(&events, &one.1);
    assert_eq!(seen[..2], [PeerState::Suspect, PeerState::Ejected]);
    assert!(seen.ends_with(&[PeerState::Probing, PeerState::Healthy]), "{seen:?}");
    // One connection was made to see whether it is back, and is as good as any other.
    until_status(&pool, |now| now.idle == 6).await;
    let guards = take(&pool, 6).await;
    assert_eq!(count_to(&guards, &one.1), 1);
}

#[tokio::test]
async fn a_request_that_finds_its_peer_silent_has_the_idle_ones_asked_and_the_peer_ejected() {
    let lab = lab!();
    let (Pair { one, other: _lives, pool, events }, mut guards) = pair(&lab).await;
    let mut asking = guards.remove(0);
    release(guards);
    one.0.unplug();
    let error = ask(&mut asking, "ECHO x").await.unwrap_err();
    assert!(livepool::PeerSilent::of(&error).is_some(), "{error}");
    drop(asking);
    until_seen(|| state(&pool, &one.1), |seen| *seen == PeerState::Ejected).await;
    let closed = events.until_closed(3).await;
    assert!(closed.contains(&PeerSilent), "{closed:?}");
    // A checkout meets none of them.
    for _ in 0..8 {
        assert_eq!(exchange(&pool, "ECHO y").await, "y");
    }
}

#[tokio::test]
async fn the_last_peer_is_never_ejected_and_serves_as_soon_as_it_is_back() {
    let lab = lab!();
    let host = lab.host();
    let upstream = host.upstream();
    let backoff = Backoff::default().with_most(SECOND / 4);
    let (pool, events) = watched(config(&[&upstream], 4).with_backoff(backoff));
    drop(take(&pool, 4).await);
    host.unplug();
    events.until_closed(4).await;
    assert_eq!(state(&pool, &upstream), PeerState::Suspect);
    let late = tokio::time::Instant::now() + SECOND / 5;
    assert!(pool.get_by(late).await.is_err());
    host.heal();
    assert_eq!(exchange(&pool, "ECHO back").await, "back");
    assert_eq!(changes(&events, &upstream), [PeerState::Suspect, PeerState::Healthy]);
}

#[tokio::test]
async fn one_connection_that_dies_alone_costs_its_peer_nothing() {
    let (a, b) = (Upstream::start(), Upstream::start());
    let (pool, events) = watched(config(&[&a, &b], 6));
    let guards = take_and_use(&pool, 6).await;
    let to_a = guards.iter().find(|one| *one.peer_addr() == PeerAddr::Tcp(a.addr())).unwrap();
    let PeerAddr::Tcp(client) = *to_a.local_addr() else { unreachable!() };
    release(guards);
    a.order(client, Order::Silence);
    assert_eq!(events.until_closed(1).await, [ProbeTimeout]);
    until_seen(|| state(&pool, &a), |seen| *seen == PeerState::Healthy).await;
    assert_eq!(changes(&events, &a), [PeerState::Suspect, PeerState::Healthy]);
    // Its siblings were asked, and answered; they are asked again each second.
    until_status(&pool, |now| now.idle == 5).await;
    assert_eq!(events.closed(), [ProbeTimeout]);
}

#[tokio::test]
async fn an_address_that_refuses_is_backed_off_and_its_connections_live() {
    let (mut a, b) = (Upstream::start(), Upstream::start());
    let (pool, events) = watched(config(&[&a, &b], 6));
    let mut guards = take(&pool, 2).await;
    a.stop();
    // All that a new caller notices is nothing.
    let more = take(&pool, 4).await;
    assert_eq!(count_to(&more, &b), 4);
    assert_eq!(state(&pool, &a), PeerState::Healthy);
    let alive = guards.iter_mut().find(|one| *one.peer_addr() == PeerAddr::Tcp(b.addr()));
    assert_eq!(ask(alive.unwrap(), "ECHO x").await.unwrap(), "x");
    assert_eq!(events.closed(), []);
}

/// A name server whose answers a test changes.
#[derive(Clone)]
struct Names(Arc<Mutex<Vec<SocketAddr>>>);

impl Resolve for Names {
    fn resolve<'a>(&'a self, _: &'a str, _: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        let addrs = self.0.lock().unwrap().clone();
        Box::pin(async move { Ok(addrs) })
    }
}

#[tokio::test]
async fn an_address_that_left_its_name_is_drained() {
    let (a, b) = (Upstream::start(), Upstream::start());
    let names = Names(Arc::new(Mutex::new(vec![a.addr(), b.addr()])));
    let events = Events::default();
    let config = Config::new("db.internal:1").with_max_size(6).with_dns_refresh(Some(SECOND));
    let pool = Pool::builder(config).resolver(names.clone()).observer(events.observer());
    let pool = pool.build().unwrap();
    let mut guards = take(&pool, 6).await;
    assert_eq!((count_to(&guards, &a), count_to(&guards, &b)), (3, 3));
    guards.sort_by_key(|guard| *guard.peer_addr() != PeerAddr::Tcp(a.addr()));
    let in_use = guards.remove(0);
    drop(guards);
    names.0.lock().unwrap().remove(0);
    assert_eq!(events.until_closed(2).await, [Drained; 2]);
    assert_eq!(state(&pool, &a), PeerState::Draining);
    assert_eq!(in_use.release(), Release::Discarded(Drained));
    let guards = take(&pool, 6).await;
    assert_eq!(count_to(&guards, &b), 6);
    // Nothing of it is left when the name is looked up once more.
    until_seen(|| pool.peers().len(), |seen| *seen == 1).await;
}

#[tokio::test]
async fn a_connection_that_was_being_made_when_its_address_left_the_name_is_drained() {
    let (a, b) = (Upstream::start(), Upstream::start());
    let names = Names(Arc::new(Mutex::new(vec![a.addr()])));
    let config = Config::new("db.internal:1").with_dns_refresh(Some(SECOND));
    let lines = Lines { hello: "SLOW 5000 x".to_owned(), ..Lines::default() };
    let timeouts =
        livepool::Timeouts::default().with_connect(60 * SECOND).with_checkout(60 * SECOND);
    let pool = Pool::builder(config.with_timeouts(timeouts)).resolver(names.clone());
    let events = Events::default();
    let pool = pool.protocol(lines).observer(events.observer()).build().unwrap();
    let (conn, ()) = tokio::join!(pool.get(), async {
        livepool_testkit::until(|| a.accepted() == 1).await;
        *names.0.lock().unwrap() = vec![b.addr()];
    });
    let conn = conn.unwrap();
    assert_eq!((conn.peer_addr(), events.closed()), (&PeerAddr::Tcp(b.addr()), vec![Drained]));
    assert_eq!(conn.release(), Release::Reused);
}

#[tokio::test]
async fn callers_find_a_living_peer_when_half_of_the_idle_connections_are_silent() {
    let lab = lab!();
    let (Pair { one, other: _lives, pool, .. }, guards) = pair(&lab).await;
    release(guards);
    one.0.unplug();
    tokio::time::sleep(SECOND * 3 / 2).await;
    // Each takes one that answers, or has one made: nobody waits for a verdict.
    let start = Instant::now();
    let answers = join_all((0..6).map(|_| exchange(&pool, "ECHO x"))).await;
    assert_eq!(answers, vec!["x"; 6]);
    assert!(start.elapsed() < 2 * SECOND, "{:?}", start.elapsed());
}

#[tokio::test]
async fn no_caller_waits_for_the_dial_that_looks_whether_a_peer_is_back() {
    let lab = lab!();
    let (Pair { one, other: _lives, pool, .. }, guards) = pair(&lab).await;
    release(guards);
    one.0.unplug();
    until_seen(|| state(&pool, &one.1), |seen| *seen == PeerState::Ejected).await;
    let begin = Instant::now();
    for _ in 0..5 {
        // Each needs a new connection, and most come while such a dial is under way.
        until_seen(|| state(&pool, &one.1), |seen| *seen == PeerState::Probing).await;
        let (start, stalls) = (Instant::now(), Stalls::watch());
        pool.get().await.unwrap().discard();
        drop(take(&pool, 6).await.into_iter().map(Guard::discard).collect::<Vec<_>>());
        // Such a dial takes a second here, and has just begun: so long would whoever waits for it.
        let (took, stall) = (start.elapsed(), stalls.lost().await);
        assert!(took < SECOND * 9 / 10 + stall, "{took:?}, stall {stall:?}");
    }
    assert!(begin.elapsed() < 20 * SECOND);
}

#[tokio::test]
async fn answers_to_users_clear_the_suspicion_over_a_peer() {
    let (a, b) = (Upstream::start(), Upstream::start());
    let (pool, events) = watched(config(&[&a, &b], 6));
    let mut guards = take_and_use(&pool, 6).await;
    guards.sort_by_key(|guard| *guard.peer_addr() != PeerAddr::Tcp(a.addr()));
    let PeerAddr::Tcp(client) = *guards[0].local_addr() else { unreachable!() };
    release(guards);
    a.order(client, Order::Silence);
    // The others are never quiet for long enough to be asked.
    while changes(&events, &a).len() < 2 {
        let _ = join_all((0..5).map(|_| exchange(&pool, "SLOW 5 x"))).await;
    }
    assert_eq!(changes(&events, &a), [PeerState::Suspect, PeerState::Healthy]);
}

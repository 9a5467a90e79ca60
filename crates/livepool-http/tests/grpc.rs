//! A tonic client on a pool: calls and streams, and what they end with when their server is killed, restarted,
//! slow, silent or moved.
#![cfg(target_os = "linux")]

#[path = "grpc/server.rs"]
mod server;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use livepool::protocol::Spread;
use livepool::{Config, Pool, Resolve};
use livepool_http::http2::Http2;
use livepool_http::tower::Grpc;
use livepool_testkit::blackhole::Blackhole;
use livepool_testkit::lab::lab;
use livepool_testkit::{Events, until, until_status};
use tokio::task::JoinSet;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use server::Server;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

type Client = HealthClient<Grpc>;

fn client_of(config: Config) -> (Client, Pool<Http2>, Events) {
    let events = Events::default();
    let builder = Pool::builder(config).observer(events.observer());
    let pool = builder.protocol(Http2::new().with_spread(Spread::Even(32))).build().unwrap();
    (HealthClient::new(Grpc::new(pool.clone())), pool, events)
}

fn config_of(servers: &[&Server]) -> Config {
    Config::new("").with_upstream(servers.iter().map(|server| server.addr.to_string()))
}

fn ask(service: &str) -> tonic::Request<HealthCheckRequest> {
    tonic::Request::new(HealthCheckRequest { service: service.to_owned() })
}

fn within(service: &str, limit: Duration) -> tonic::Request<HealthCheckRequest> {
    let mut request = ask(service);
    request.set_timeout(limit);
    request
}

#[tokio::test]
async fn calls_and_streams_and_their_errors_are_those_of_the_server() {
    let server = Server::start();
    let (mut client, pool, events) = client_of(config_of(&[&server]));
    assert_eq!(client.check(ask("fine")).await.unwrap().into_inner().status, 1);
    let unknown = client.check(ask("unknown")).await.unwrap_err();
    assert_eq!((unknown.code(), unknown.message()), (Code::NotFound, "no such service"));
    let mut stream = client.watch(ask("three")).await.unwrap().into_inner();
    let mut statuses = Vec::new();
    while let Some(answer) = stream.message().await.unwrap() {
        statuses.push(answer.status);
    }
    assert_eq!(statuses, [1, 2, 1]);
    // One that ends with an error of its own.
    let mut stream = client.watch(ask("fails")).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    assert_eq!(stream.message().await.unwrap_err().code(), Code::DataLoss);
    until_status(&pool, |now| now.shares == 0).await;
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

#[tokio::test]
async fn a_deadline_of_a_call_bounds_all_of_it_and_costs_nobody_else() {
    let server = Server::start();
    let (mut client, pool, events) = client_of(config_of(&[&server]));
    let late = client.check(within("hold", 2 * SECOND)).await.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");
    assert!(late.message().contains("deadline"), "{late}");
    let mut stream = client.watch(within("three-slowly", 2 * SECOND)).await.unwrap().into_inner();
    let late = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it takes 3 s"),
            Err(late) => break late,
        }
    };
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");
    until(|| server.given_up.load(Ordering::SeqCst) >= 1).await;
    until_status(&pool, |now| now.shares == 0).await;
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
    // The wait for a connection is a part of it.
    let nobody = Blackhole::start();
    let (mut client, ..) = client_of(Config::new(nobody.addr().to_string()));
    let began = Instant::now();
    let late = client.check(within("fine", 200 * MS)).await.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");
    assert!(began.elapsed() < 5 * SECOND);
}

#[tokio::test]
async fn a_server_is_told_what_the_wait_for_it_has_left_of_a_deadline() {
    let mut server = Server::start();
    let (mut client, pool, _events) = client_of(config_of(&[&server]));
    client.check(ask("fine")).await.unwrap();
    server.kill();
    until_status(&pool, |now| now.idle + now.shared == 0).await;
    let asking = tokio::spawn(async move { client.check(within("fine", 60 * SECOND)).await });
    tokio::time::sleep(300 * MS).await;
    server.start_again();
    asking.await.unwrap().unwrap();
    let told = server.timeout.lock().unwrap().clone();
    let micros: u64 = told.strip_suffix('u').expect(&told).parse().unwrap();
    // It has waited for 300 ms at least, and not for half a minute.
    assert!((30_000_000..=59_700_000).contains(&micros), "{told}");
}

#[tokio::test]
async fn a_server_that_is_restarted_politely_costs_no_call() {
    let mut server = Server::start();
    let (client, _, events) = client_of(config_of(&[&server]));
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut callers = JoinSet::new();
    for _ in 0..8 {
        let (mut client, stopped) = (client.clone(), stopped.clone());
        callers.spawn(async move {
            let mut served = 0;
            while !*stopped.borrow() {
                client.check(ask("fine")).await.unwrap();
                served += 1;
            }
            served
        });
    }
    for time in 1..=3 {
        until(|| events.opened() >= time).await;
        tokio::time::sleep(150 * MS).await;
        server.restart().await;
    }
    until(|| events.opened() >= 4).await;
    stop.send(true).unwrap();
    assert!(callers.join_all().await.iter().all(|served| *served > 0));
}

#[tokio::test]
async fn a_server_that_is_killed_costs_the_calls_that_it_has_and_the_other_one_has_the_rest() {
    let (mut one, two) = (Server::start(), Server::start());
    let config = config_of(&[&one, &two]).with_max_size(2).with_min_idle(2);
    let (client, pool, _) = client_of(config);
    pool.warm_up(2).await.unwrap();
    let mut held = JoinSet::new();
    for _ in 0..64 {
        let mut client = client.clone();
        held.spawn(async move { client.check(ask("hold")).await });
    }
    // Two connections, one to each.
    until(|| one.calls() + two.calls() == 64).await;
    assert!(one.calls() > 0 && two.calls() > 0, "{} {}", one.calls(), two.calls());
    let lost = one.calls();
    one.kill();
    for _ in 0..lost {
        let error = held.join_next().await.unwrap().unwrap().unwrap_err();
        assert_eq!(error.code(), Code::Unavailable, "{error}");
        assert!(error.message().contains("may have"), "{error}");
    }
    let mut client = client;
    for _ in 0..50 {
        client.check(ask("fine")).await.unwrap();
    }
    held.abort_all();
    while held.join_next().await.is_some() {}
    until_status(&pool, |now| now.shares == 0).await;
    // A stream that is cut in its middle says so.
    let mut stream = client.watch(ask("three-slowly")).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    let mut two = two;
    two.kill();
    assert_eq!(stream.message().await.unwrap_err().code(), Code::Unavailable);
}

/// A name whose address changes.
#[derive(Clone)]
struct Moves(Arc<Mutex<SocketAddr>>);

impl Resolve for Moves {
    fn resolve<'a>(
        &'a self,
        _: &'a str,
        _: u16,
    ) -> BoxFuture<'a, std::io::Result<Vec<SocketAddr>>> {
        let addr = *self.0.lock().unwrap();
        Box::pin(async move { Ok(vec![addr]) })
    }
}

#[tokio::test]
async fn a_name_that_moves_takes_its_calls_along() {
    let (old, new) = (Server::start(), Server::start());
    let name = Moves(Arc::new(Mutex::new(old.addr)));
    let config = Config::new("service.test:50051").with_dns_refresh(SECOND);
    let builder = Pool::builder(config).resolver(name.clone());
    let pool = builder.protocol(Http2::new()).build().unwrap();
    let mut client = HealthClient::new(Grpc::new(pool));
    client.check(ask("fine")).await.unwrap();
    *name.0.lock().unwrap() = new.addr;
    // Nothing is wrong with the old one: it is left, not lost.
    let moved = async {
        while new.calls() == 0 {
            client.check(ask("fine")).await.unwrap();
            tokio::time::sleep(5 * MS).await;
        }
    };
    tokio::time::timeout(10 * SECOND, moved).await.expect("it moves");
    let before = old.calls();
    for _ in 0..20 {
        client.check(ask("fine")).await.unwrap();
    }
    assert_eq!(old.calls(), before);
}

#[tokio::test]
async fn a_server_that_is_unplugged_is_left_within_seconds() {
    let lab = lab!();
    let (one, two) = (lab.host(), lab.host());
    let addrs = [Server::on(&one), Server::on(&two)];
    let config = Config::new("").with_upstream(addrs.map(|addr| addr.to_string()));
    let (client, pool, _) = client_of(config.with_max_size(2));
    pool.warm_up(2).await.unwrap();
    let mut held = JoinSet::new();
    for _ in 0..64 {
        let mut client = client.clone();
        held.spawn(async move { client.check(ask("hold")).await });
    }
    until_status(&pool, |now| now.shares == 64 && now.shared == 2).await;
    let began = Instant::now();
    one.unplug();
    // Half of them are lost, and told so soon. No deadline was set.
    for _ in 0..32 {
        let error = held.join_next().await.unwrap().unwrap().unwrap_err();
        assert_eq!(error.code(), Code::Unavailable, "{error}");
    }
    assert!(began.elapsed() < 10 * SECOND, "{:?}", began.elapsed());
    let mut client = client;
    for _ in 0..20 {
        client.check(ask("fine")).await.unwrap();
    }
    assert!(began.elapsed() < 20 * SECOND, "{:?}", began.elapsed());
}

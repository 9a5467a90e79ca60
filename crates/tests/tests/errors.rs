//! Errors as a service logs them: each mistake is made on purpose, with a real server where it takes one.
//! One line, the cause once, nothing again from a walk over the sources.
#![cfg(target_os = "linux")]

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use livepool::config::FirstConnect;
use livepool::error::{CheckoutFailure, Phase};
use livepool::protocol::Protocol;
use livepool::{
    BoxFuture, CheckoutError, Config, ConnectError, Listener, ListenerConfig, OpTimeout, Pool,
    Resolve, Timeouts,
};
use livepool_http as http1;
use livepool_http::PoolExt;
use livepool_http::tower::tower_service::Service;
use livepool_postgres::Postgres;
use livepool_redis::Redis;
use livepool_testkit::blackhole::Blackhole;
use livepool_testkit::servers::{Certs, Nginx, Postgres as PostgresServer, Redis as RedisServer};
use livepool_testkit::{Upstream, ask, exchange, port, until_status, watched};
use livepool_tls::{Tls, is_distrusted};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);
/// Of one dial to a program that never answers.
const BRIEF: Duration = Duration::from_secs(2);

/// What `{:#}` of `anyhow` and `eyre` makes of it.
fn walked(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |error| (*error).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// The text of this error, if it is as a service can log it. `once`: what it has to say, and says once.
fn logged(error: &(dyn Error + 'static), once: &[&str]) -> String {
    let text = error.to_string();
    println!("{text}");
    assert!(!text.chars().any(char::is_control), "not one line: {text:?}");
    for words in once {
        assert_eq!(text.matches(words).count(), 1, "{words:?} in {text}");
    }
    assert_eq!(walked(error), text, "the walk says more, or says it again");
    text
}

fn brief() -> Timeouts {
    Timeouts::default().with_connect(BRIEF)
}

/// The first checkout of a new pool, which fails without its deadline having to pass.
async fn fails<P: Protocol>(config: Config, protocol: P) -> CheckoutError {
    let timeouts = config.timeouts.with_connect(BRIEF).with_checkout(60 * SECOND);
    let pool = Pool::builder(config.with_timeouts(timeouts)).protocol(protocol).build().unwrap();
    let began = Instant::now();
    let error = pool.get().await.map(drop).unwrap_err();
    // The first dial, and a machine that does other things as well.
    assert!(began.elapsed() < 10 * SECOND, "{:?}: {error}", began.elapsed());
    assert_eq!(error.failure(), CheckoutFailure::Connect, "{error}");
    assert_eq!(error.status().waiting, 1, "who waited is one of those who waited: {error}");
    error
}

async fn postgres_fails(url: &str) -> CheckoutError {
    let postgres = Postgres::from_url(url).unwrap();
    fails(postgres.config(), postgres).await
}

async fn redis_fails(url: &str) -> CheckoutError {
    let redis = Redis::from_url(url).unwrap();
    fails(redis.config(), redis).await
}

#[tokio::test]
async fn a_server_that_lets_nobody_in_is_quoted_once() {
    let server = PostgresServer::start();
    let at = format!("127.0.0.1:{}", server.port());
    let error = postgres_fails(&format!("postgres://app:wrong@{at}/app")).await;
    let text = logged(&error, &["28P01", "password authentication failed for user \"app\""]);
    assert_eq!(
        text,
        format!(
            "pool {at}: no connection could be made (0 of 10 in use, 0 idle, 0 connecting, \
             1 waiting): the handshake with {at} failed: password authentication failed for user \
             \"app\" (28P01)"
        )
    );
    let postgres = error.find::<livepool_postgres::Error>().expect("with its type");
    assert_eq!(postgres.code().unwrap().code(), "28P01");
    logged(postgres, &["28P01"]);
    logged(error.find::<ConnectError>().unwrap(), &["28P01"]);

    let error = postgres_fails(&format!("postgres://app:open%20sesame@{at}/nowhere")).await;
    logged(&error, &["3D000", "database \"nowhere\" does not exist"]);
    let error = postgres_fails(&format!("postgres://app@{at}/app")).await;
    logged(&error, &["password missing"]);
    let demands = format!("postgres://app:x@{at}/app?sslmode=require");
    let error = fails(Config::new(&at), Postgres::new(demands.parse().unwrap())).await;
    logged(&error, &["nobody says whom to trust"]);
    // A URL trusts whom this system trusts.
    logged(&postgres_fails(&demands).await, &["the server has no TLS"]);

    let server = RedisServer::start_with(&["requirepass secret"]);
    let error = redis_fails(&server.url()).await;
    logged(&error, &["NOAUTH", "the server wants a password and none was given"]);
    let error = redis_fails(&format!("redis://:wrong@{}", server.addr())).await;
    logged(&error, &["WRONGPASS", "the server refused the user or password"]);
    assert!(error.find::<livepool_redis::redis::RedisError>().is_some(), "with its type");
}

#[tokio::test]
async fn another_protocol_behind_the_port_is_asked_about_within_the_first_dial() {
    let (postgres, redis, nginx) = (PostgresServer::start(), RedisServer::start(), Nginx::start());
    let tls = || Tls::builder().with_root_pem(Certs::new().ca_pem()).build().unwrap();
    let at = |port: u16| format!("127.0.0.1:{port}");

    let question = "does the server there speak PostgreSQL?";
    let error = postgres_fails(&format!("postgres://me@{}/x", redis.addr())).await;
    let text = logged(&error, &[question, "within 2.0s: no answer yet"]);
    assert!(!text.contains("firewall") && !text.contains("timeouts.checkout"), "{text}");
    assert!(error.is_timeout());
    let error = postgres_fails(&format!("postgres://me@{}/x", at(nginx.port()))).await;
    logged(&error, &[question, "the handshake with"]);
    let encrypted = Postgres::from_url(&format!("postgres://me@{}/x", at(nginx.port()))).unwrap();
    let error = fails(encrypted.config(), encrypted.with_tls(tls())).await;
    logged(&error, &[question, "the handshake with"]);

    let question = "does the server there speak Redis?";
    let error = redis_fails(&format!("redis://{}", at(postgres.port()))).await;
    logged(&error, &[question, "the handshake with"]);
    let error = redis_fails(&format!("redis://{}", at(nginx.port()))).await;
    logged(
        &error,
        &["what answers there is no Redis server", "HTTP/1.1 400", "the handshake with"],
    );

    let encrypted = Redis::from_url(format!("rediss://{}", at(nginx.port()))).unwrap();
    let error = fails(encrypted.config(), encrypted.with_tls(tls())).await;
    logged(&error, &["does the server there speak Redis over TLS?"]);
    let error = fails(Config::new(at(nginx.port())), tls()).await;
    logged(&error, &["does the server there speak TLS?", "the handshake with"]);
    let error = fails(Config::new(at(nginx.port())), http1::Http1::new().with_tls(tls())).await;
    logged(&error, &["does the server there speak HTTPS?", "the handshake with"]);
}

#[tokio::test]
async fn a_certificate_that_nobody_trusts_is_quoted_once() {
    let certs = Certs::new();
    let nginx = Nginx::start_with("", Some(&certs));
    let stranger = Tls::builder().with_root_pem(Certs::new().ca_pem()).build().unwrap();
    let config = || Config::new(format!("localhost:{}", nginx.tls_port()));
    let error = fails(config(), stranger.clone()).await;
    logged(&error, &["invalid peer certificate: "]);
    assert!(is_distrusted(&error));
    let error = fails(config(), http1::Http1::new().with_tls(stranger)).await;
    logged(&error, &["invalid peer certificate: "]);
    assert!(http1::Error::from(error).is_distrusted());
}

#[tokio::test]
async fn an_upstream_that_was_never_there_is_told_of_by_the_first_dial() {
    let addr = port::nobody();
    let error = fails(Config::new(addr.to_string()), livepool::protocol::Raw::default()).await;
    assert_eq!(
        logged(&error, &[]),
        format!(
            "pool {addr}: no connection could be made (0 of 10 in use, 0 idle, 0 connecting, \
             1 waiting): could not connect to {addr}: connection refused (os error 111) (is the upstream running, \
             and listening there?)"
        )
    );
    assert!(error.is_retryable() && !error.is_timeout());
    assert!(error.waited() < 5 * SECOND);

    // Longer than the 63 bytes of RFC 1035: refused without asking anybody.
    let name = format!("{}.invalid:5432", "no-such-host-".repeat(5));
    let error = fails(Config::new(&name), livepool::protocol::Raw::default()).await;
    logged(&error, &["failed to lookup address information", "(check the name)"]);

    let hole = Blackhole::start();
    let error =
        fails(Config::new(hole.addr().to_string()), livepool::protocol::Raw::default()).await;
    logged(&error, &["within 2.0s: still connecting", "check route and firewall"]);
    assert!(error.is_timeout());
}

#[tokio::test]
async fn everybody_who_waits_is_told_and_whoever_comes_later_has_a_dial_of_their_own() {
    let mut upstream = Upstream::start();
    let addr = upstream.addr();
    upstream.stop();
    let (pool, _) = watched(Config::new(addr.to_string()).with_max_size(4));
    let began = Instant::now();
    for result in join_all((0..100).map(|_| pool.get())).await {
        assert_eq!(result.map(drop).unwrap_err().failure(), CheckoutFailure::Connect);
    }
    // And it is asked again, as often as somebody asks.
    for _ in 0..5 {
        let error = pool.warm_up(1).await.unwrap_err();
        assert_eq!(error.failure(), CheckoutFailure::Connect, "{error}");
    }
    assert!(began.elapsed() < 5 * SECOND, "{:?}", began.elapsed());
    let mut upstream = Upstream::start_on(addr);
    assert_eq!(exchange(&pool, "ECHO x").await, "x");

    // From now on callers wait.
    upstream.stop();
    until_status(&pool, |now| now.idle == 0).await;
    let error = pool.get_by(Instant::now() + BRIEF).await.map(drop).unwrap_err();
    assert_eq!(error.failure(), CheckoutFailure::Timeout(Phase::Connect), "{error}");
    let text = logged(&error, &["connection refused", "1 waiting", "the last dial: could not"]);
    assert!(!text.contains("timeouts.checkout"), "that never helps: {text}");
    let (got, _upstream) = tokio::join!(pool.get(), async {
        tokio::time::sleep(BRIEF).await;
        Upstream::start_on(addr)
    });
    assert_eq!(ask(&mut got.unwrap(), "ECHO y").await.unwrap(), "y");
}

#[tokio::test]
async fn a_program_that_starts_before_its_upstream_waits_for_it_if_told_so() {
    let mut upstream = Upstream::start();
    let addr = upstream.addr();
    upstream.stop();
    let config = Config::new(addr.to_string()).with_first_connect(FirstConnect::Wait);
    let (pool, _) = watched(config.with_min_idle(2));
    let (warm, got, _upstream) = tokio::join!(pool.warm_up(2), pool.get(), async {
        tokio::time::sleep(SECOND).await;
        Upstream::start_on(addr)
    });
    warm.unwrap();
    drop(got.unwrap());
    until_status(&pool, |now| now.idle >= 2).await;
}

/// Fails so often with this kind, and then finds.
struct Finds {
    addr: SocketAddr,
    kind: io::ErrorKind,
    failures: usize,
    asked: Arc<AtomicUsize>,
}

impl Resolve for Finds {
    fn resolve<'a>(&'a self, _: &'a str, _: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            match self.asked.fetch_add(1, Ordering::SeqCst) < self.failures {
                true => Err(io::Error::new(self.kind, "the registry says no")),
                false => Ok(vec![self.addr]),
            }
        })
    }
}

#[tokio::test]
async fn a_name_server_in_trouble_is_waited_for_and_a_name_that_nobody_knows_is_not() {
    let upstream = Upstream::start();
    for (kind, is_served) in [(io::ErrorKind::Other, true), (io::ErrorKind::NotFound, false)] {
        let asked = Arc::new(AtomicUsize::new(0));
        let finds = Finds { addr: upstream.addr(), kind, failures: 3, asked: Arc::clone(&asked) };
        let pool = Pool::builder(Config::new("db.internal:1")).resolver(finds).build().unwrap();
        match pool.get().await {
            Ok(_) => assert!(is_served && asked.load(Ordering::SeqCst) == 4),
            Err(error) => {
                assert!(!is_served, "{error}");
                logged(&error, &["the registry says no", "(check the name)"]);
            }
        }
    }
}

/// Refuses for now, in its own words.
struct Starting;

impl Protocol for Starting {
    type Client = livepool::protocol::Wire;
    type Error = io::Error;

    async fn connect(
        &self,
        mut wire: livepool::protocol::Wire,
    ) -> io::Result<livepool::protocol::Wire> {
        wire.write_all(b"ECHO starting\n").await?;
        let mut answer = [0; 9];
        wire.read_exact(&mut answer).await?;
        Err(io::Error::other(String::from_utf8_lossy(&answer).trim().to_owned()))
    }

    async fn ping(&self, _: &mut livepool::protocol::Wire) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_server_that_says_that_it_is_starting_is_waited_for() {
    let upstream = Upstream::start();
    let timeouts = Timeouts::default().with_checkout(3 * SECOND);
    let pool = Pool::builder(upstream.config().with_timeouts(timeouts));
    let pool = pool.protocol(Starting).build().unwrap();
    let error = pool.get().await.map(drop).unwrap_err();
    assert_eq!(error.failure(), CheckoutFailure::Timeout(Phase::Connect), "{error}");
    let text = logged(&error, &["the handshake with", "starting"]);
    assert!(!text.contains('?'), "there is nothing to ask: {text}");
}

#[tokio::test]
async fn a_pool_that_is_full_paused_or_closed_says_so_in_one_line() {
    let upstream = Upstream::start();
    let timeouts = Timeouts::default().with_checkout(BRIEF);
    let config = upstream.config().with_name("orders").with_max_size(1).with_timeouts(timeouts);
    let (pool, _) = watched(config.with_max_waiting(Some(1)).with_hold_warning(SECOND));
    let held = pool.get().await.unwrap();
    let (full, refused) = tokio::join!(pool.get(), pool.get());
    let full = full.map(drop).unwrap_err();
    let waited = format!("became free within {:.1?} (", full.waited());
    logged(&full, &["1 of 1 in use", "1 waiting", &waited, "raise max_size", "longest held"]);
    assert!(full.waited() >= BRIEF, "{full}");
    assert_eq!(full.failure(), CheckoutFailure::Timeout(Phase::Queue));
    logged(&refused.map(drop).unwrap_err(), &["the queue is full", "1 waiting", "max_waiting"]);
    drop(held);
    pool.pause();
    logged(&pool.get().await.map(drop).unwrap_err(), &["call resume()", ", paused"]);
    pool.close();
    let closed = pool.get().await.map(drop).unwrap_err();
    assert_eq!(logged(&closed, &[]), "pool orders: the pool is closed");
}

/// Every connection that comes back is reset, which takes for ever.
struct Untidy;

impl Protocol for Untidy {
    type Client = livepool::protocol::Wire;
    type Error = io::Error;

    async fn connect(
        &self,
        wire: livepool::protocol::Wire,
    ) -> io::Result<livepool::protocol::Wire> {
        Ok(wire)
    }

    async fn ping(&self, _: &mut livepool::protocol::Wire) -> io::Result<()> {
        Ok(())
    }

    fn reuse(&self, _: &livepool::protocol::Wire) -> livepool::protocol::Verdict {
        livepool::protocol::Verdict::NeedsReset
    }

    async fn reset(&self, _: &mut livepool::protocol::Wire) -> io::Result<()> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_connection_that_is_being_reset_is_nobodys_in_the_text() {
    let upstream = Upstream::start();
    let timeouts = Timeouts::default().with_checkout(BRIEF).with_reset(60 * SECOND);
    let config = upstream.config().with_max_size(1).with_timeouts(timeouts);
    let pool = Pool::builder(config).protocol(Untidy).build().unwrap();
    drop(pool.get().await.unwrap());
    let error = pool.get().await.map(drop).unwrap_err();
    let text = logged(&error, &["0 of 1 in use", "1 being reset", "1 waiting"]);
    assert!(!text.contains("shorter"), "nobody holds one: {text}");
    let status = pool.status();
    assert_eq!((status.in_use, status.resetting), (1, 1));
}

#[tokio::test]
async fn an_operation_that_timed_out_says_so_in_round_numbers() {
    let upstream = Upstream::start();
    let (pool, _) = watched(upstream.config());
    let mut conn = pool.get().await.unwrap();
    // Not a microsecond passes between the two lines that follow.
    tokio::time::pause();
    conn.deadline(Duration::from_micros(299_999));
    let error = ask(&mut conn, "HOLD").await.unwrap_err();
    let text = logged(OpTimeout::of(&error).unwrap(), &["after 300.0ms"]);
    assert_eq!(text, error.to_string());
}

#[tokio::test]
async fn a_request_without_a_response_says_why_in_one_line() {
    let addr = port::nobody();
    let get = |pool: &Pool<http1::Http1>, path: &str| {
        let request: http1::Request<http1::RequestBody> =
            http1::Request::get(path).body(().into()).unwrap();
        let pool = pool.clone();
        async move { pool.send(request).await.map(drop).unwrap_err() }
    };
    let pool = http1::pool(&format!("http://{addr}")).unwrap();
    let error = get(&pool, "/a?token=x").await;
    let text = logged(&error, &["GET /a:", "connection refused", "could not connect"]);
    assert!(!text.contains("token"), "{text}");
    assert!(error.find::<CheckoutError>().is_some() && error.find::<ConnectError>().is_some());
    assert_eq!(error.find::<io::Error>().unwrap().kind(), io::ErrorKind::ConnectionRefused);

    let server = livepool_testkit::scripted::Scripted::start(|mut talk, _| async move {
        talk.request().await;
        talk.say("HTTP/1.1 200 OK\r\nContent-").await;
    })
    .await;
    let pool = http1::pool(&format!("http://{}", server.addr())).unwrap();
    let error = get(&pool, "/b").await;
    logged(&error, &["GET /b at", "the answer broke off", "connection closed"]);

    for url in ["http://h:port", "ftp://h", "http://h:1/x?y#z", "https://[::1"] {
        logged(&http1::pool(url).map(drop).unwrap_err(), &["the connection URL cannot be used: "]);
    }
}

#[tokio::test]
async fn what_cannot_be_set_up_says_why_in_one_line() {
    let config = Config::default().with_max_size(0).with_max_connecting(0);
    let error = Pool::new(config.clone()).map(drop).unwrap_err();
    logged(
        &error,
        &[
            "invalid configuration, 3 problems: (1) upstream",
            "; (2) max_size",
            "; (3) max_connecting",
        ],
    );
    for url in ["postgres://me@db:port", "mysql://me@db", "user=me"] {
        logged(&livepool_postgres::pool(url).map(drop).unwrap_err(), &[]);
    }
    logged(&livepool_postgres::SetupError::from(error), &["invalid configuration, 3 problems"]);
    logged(
        &Redis::from_url("redis://db/zero").map(drop).unwrap_err(),
        &["the connection URL cannot be used: invalid database number"],
    );
    logged(&Tls::builder().build().map(drop).unwrap_err(), &["nobody is trusted"]);
    logged(
        &Tls::builder().with_root_pem("x").build().map(drop).unwrap_err(),
        &["no certificate in it"],
    );

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let error = Listener::bind(&addr, &ListenerConfig::default()).await.map(drop).unwrap_err();
    logged(&error, &["cannot listen on", "in use"]);
    let broken = ListenerConfig::default().with_backlog(0);
    let error = Listener::bind("127.0.0.1:0", &broken).await.map(drop).unwrap_err();
    logged(&error, &["invalid configuration: backlog"]);

    let mut connect =
        livepool_http::tower::Connect::new(&Config::default().with_timeouts(brief())).unwrap();
    let uri = format!("http://{}", port::nobody()).parse().unwrap();
    let error = connect.call(uri).await.map(drop).unwrap_err();
    logged(&error, &["connection refused", "could not connect"]);
    let error = connect.call("/nowhere".parse().unwrap()).await.map(drop).unwrap_err();
    logged(&error, &["the URI leads nowhere"]);
}

#[test]
fn whoever_asks_outside_a_runtime_is_told_what_to_do() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let upstream = Upstream::start();
    let (pool, _) = watched(upstream.config());
    let told = |error: CheckoutError| {
        assert_eq!(error.failure(), CheckoutFailure::NoRuntime);
        assert!(!error.is_retryable());
        logged(&error, &["there is no tokio runtime here", "#[tokio::main]"]);
    };
    told(pool.get().now_or_never().unwrap().map(drop).unwrap_err());
    told(pool.warm_up(1).now_or_never().unwrap().unwrap_err());
    assert!(pool.try_get().is_none());
    assert_eq!(runtime.block_on(exchange(&pool, "ECHO x")), "x");
    assert!(pool.try_get().is_some(), "nothing has to be made for one that is idle");
}

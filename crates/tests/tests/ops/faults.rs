//! A fault for each alert. Each goes on until its task is dropped, on a pool that has its name.

use std::convert::Infallible;
use std::future::{Future, pending};
use std::net::SocketAddr;
use std::time::Duration;

use livepool::{Config, FirstConnect, Guard, Listener, ListenerConfig, Pool, Status, Timeouts};
use livepool_testkit::servers::port::nobody;
use livepool_testkit::{Order, Upstream, ask, exchange};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

pub const MS: Duration = Duration::from_millis(1);
/// What is no part of a fault has this time, however busy the machine is.
pub const LONG: Duration = Duration::from_secs(60);

/// What comes of a fault.
pub struct Fault {
    /// The name of its pool or listener.
    pub of: &'static str,
    pub alert: &'static str,
    /// What may fire as well: consequences. Callers who have to wait are one of each: most of the faults
    /// cost connections, and on a busy machine a new one takes its time.
    pub also: &'static [&'static str],
}

/// Callers who get none.
pub const GET_NONE: &[&str] = &["LivepoolCheckoutsFail", "LivepoolPoolFull"];

#[derive(Default)]
pub struct Faults {
    pub all: Vec<Fault>,
    tasks: JoinSet<Infallible>,
}

impl Faults {
    pub fn add<F>(
        &mut self,
        of: &'static str,
        alert: &'static str,
        also: &'static [&'static str],
        fault: impl FnOnce(Config) -> F,
    ) where
        F: Future<Output = Infallible> + Send + 'static,
    {
        self.all.push(Fault { of, alert, also });
        let timeouts = Timeouts::default().with_checkout(LONG).with_connect(LONG).with_reset(LONG);
        self.tasks.spawn(fault(Config::new("").with_name(of).with_timeouts(timeouts)));
    }

    /// Fails if one of them has ended.
    pub fn go_on(&mut self) {
        if let Some(ended) = self.tasks.try_join_next() {
            panic!("a fault has ended: {ended:?}");
        }
    }

    pub async fn stop(&mut self) {
        self.tasks.shutdown().await;
    }
}

/// The faults that need no server but our own.
pub fn add_all(faults: &mut Faults) {
    faults.add("checkouts", "LivepoolCheckoutsFail", GET_NONE, in_vain);
    faults.add("waiting", "LivepoolCallersWait", GET_NONE, waiting);
    faults.add("full", "LivepoolPoolFull", &[], full);
    faults.add("held", "LivepoolConnectionsHeldTooLong", &[], held);
    faults.add("unreachable", "LivepoolUpstreamUnreachable", GET_NONE, unreachable);
    faults.add("some-dials", "LivepoolDialsFail", WHILE_IT_RESTARTS, some_dials);
    faults.add("closes-idle", "LivepoolUpstreamClosesIdle", &[], closes_idle);
    faults.add("slow", "LivepoolUpstreamSlow", &[], slow);
    faults.add("thrown-away", "LivepoolConnectionsThrownAway", &[], thrown_away);
    faults.add("panics", "LivepoolPanics", &[], panics);
    faults.add("hooks", "LivepoolHooksFail", &[], hooks_fail);
}

const WHILE_IT_RESTARTS: &[&str] = &[
    "LivepoolCheckoutsFail",
    "LivepoolPoolFull",
    "LivepoolUpstreamUnreachable",
    "LivepoolUpstreamClosesIdle",
];

fn pool(config: Config, upstream: SocketAddr) -> Pool {
    Pool::new(config.with_upstream([upstream.to_string()])).unwrap()
}

fn checkout_within(limit: Duration) -> Timeouts {
    Timeouts::default().with_checkout(limit)
}

/// A caller who takes it as it comes.
pub async fn call(pool: &Pool) {
    if let Ok(mut conn) = pool.get().await
        && ask(&mut conn, "ECHO x").await.is_ok()
    {
        conn.release();
    }
}

/// Waits until a pool is like this. Between two looks the other faults have their turn.
pub async fn until(pool: &Pool, is_so: impl Fn(&Status) -> bool) {
    while !is_so(&pool.status()) {
        sleep(10 * MS).await;
    }
}

/// Nothing is wrong with it, and somebody tries which size is best.
pub async fn calm(config: Config) -> Infallible {
    let upstream = Upstream::start();
    let pool = pool(config, upstream.addr());
    loop {
        for size in [10, 11] {
            pool.resize(size).unwrap();
            for _ in 0..10 {
                exchange(&pool, "ECHO all is well").await;
                sleep(20 * MS).await;
            }
        }
    }
}

/// The only connection is held, and whoever else comes is told so.
async fn in_vain(config: Config) -> Infallible {
    let upstream = Upstream::start();
    let config = config.with_max_size(1).with_timeouts(checkout_within(50 * MS));
    let pool = pool(config, upstream.addr());
    // On a busy machine it takes longer than that to make one.
    let _held = pool.get_by(Instant::now() + LONG).await.unwrap();
    loop {
        pool.get().await.unwrap_err();
    }
}

/// More callers than connections. All of them are served, late.
async fn waiting(config: Config) -> Infallible {
    let upstream = Upstream::start();
    let pool = pool(config.with_max_size(1), upstream.addr());
    let caller = async || -> Infallible {
        loop {
            let mut conn = pool.get().await.unwrap();
            ask(&mut conn, "SLOW 150 x").await.unwrap();
            conn.release();
        }
    };
    let (one, ..) = tokio::join!(caller(), caller(), caller());
    one
}

async fn full(config: Config) -> Infallible {
    let upstream = Upstream::start();
    let pool = pool(config.with_max_size(2), upstream.addr());
    let _held = [pool.get().await.unwrap(), pool.get().await.unwrap()];
    pending().await
}

async fn held(config: Config) -> Infallible {
    let upstream = Upstream::start();
    let config = config.with_max_size(4).with_hold_warning(Some(20 * MS));
    let pool = pool(config, upstream.addr());
    loop {
        let conn = pool.get().await.unwrap();
        sleep(1500 * MS).await;
        conn.release();
    }
}

async fn unreachable(config: Config) -> Infallible {
    let config = config.with_timeouts(checkout_within(300 * MS));
    let pool = pool(config, nobody());
    loop {
        pool.get().await.unwrap_err();
        sleep(20 * MS).await;
    }
}

/// The upstream is there for half of the time, and each caller has a connection made.
async fn some_dials(config: Config) -> Infallible {
    let addr = nobody();
    let config = config.with_first_connect(FirstConnect::Wait).with_max_size(4);
    let pool = pool(config, addr);
    let restarts = async {
        loop {
            let mut upstream = Upstream::start_on(addr);
            sleep(150 * MS).await;
            upstream.stop();
            sleep(150 * MS).await;
        }
    };
    let calls = async {
        loop {
            if let Ok(mut conn) = pool.get().await {
                let _ = ask(&mut conn, "ECHO x").await;
                conn.discard();
            }
            sleep(20 * MS).await;
        }
    };
    tokio::select! { ended = restarts => ended, ended = calls => ended }
}

/// It has an idle limit below the pool's.
async fn closes_idle(config: Config) -> Infallible {
    let upstream = Upstream::start();
    let pool = pool(config, upstream.addr());
    loop {
        call(&pool).await;
        upstream.order_all(&Order::Close);
        until(&pool, |now| now.idle == 0).await;
        sleep(100 * MS).await;
    }
}

async fn slow(config: Config) -> Infallible {
    let upstream = Upstream::start();
    let pool = pool(config, upstream.addr());
    loop {
        let mut conn = pool.get().await.unwrap();
        conn.set_read_timeout(Some(100 * MS));
        ask(&mut conn, "SLOW 60000 x").await.unwrap_err();
    }
}

/// Somebody forgets to say that the exchange was complete.
async fn thrown_away(config: Config) -> Infallible {
    let upstream = Upstream::start();
    let pool = pool(config, upstream.addr());
    loop {
        let mut conn = pool.get().await.unwrap();
        ask(&mut conn, "ECHO x").await.unwrap();
        drop(conn);
        sleep(20 * MS).await;
    }
}

async fn panics(config: Config) -> Infallible {
    let upstream = Upstream::start();
    let pool = pool(config, upstream.addr());
    loop {
        let conn = pool.get().await.unwrap();
        let caller = tokio::spawn(async move {
            let _conn: Guard = conn;
            // As a panic does it, without a message in the output.
            std::panic::resume_unwind(Box::new("a bug"));
        });
        caller.await.unwrap_err();
        sleep(500 * MS).await;
    }
}

/// The upstream is a replica, and a hook that asks it wants the primary.
async fn hooks_fail(config: Config) -> Infallible {
    let upstream = Upstream::start();
    let config = config.with_upstream([upstream.addr().to_string()]);
    let pool = Pool::builder(config).after_return(|stream, _about| {
        Box::pin(async move {
            stream.write_all(b"ECHO replica\n").await?;
            let mut answer = [0; 8];
            stream.read_exact(&mut answer).await?;
            if &answer == b"primary\n" { Ok(()) } else { Err("it is no primary any more".into()) }
        })
    });
    let pool = pool.build().unwrap();
    loop {
        call(&pool).await;
        sleep(50 * MS).await;
    }
}

/// A listener with clients of all kinds. One stays, one says nothing for longer than it may, one breaks off,
/// one is answered.
pub async fn clients(name: &'static str) -> Infallible {
    let timeouts = Timeouts::default().with_read(50 * MS);
    let config = ListenerConfig::default().with_name(name).with_timeouts(timeouts);
    let listener = Listener::bind("127.0.0.1:0", &config).await.unwrap();
    let addr = listener.local_addr().to_string();
    // Whenever it is looked, somebody is there.
    let _stays = (TcpStream::connect(&addr).await.unwrap(), listener.accept().await.unwrap());
    loop {
        for word in [&b""[..], b"x", b"bye"] {
            let mut client = TcpStream::connect(&addr).await.unwrap();
            let mut stream = listener.accept().await.unwrap();
            client.write_all(word).await.unwrap();
            match word {
                b"" => drop(stream.read(&mut [0]).await),
                b"x" => {
                    drop(client);
                    while stream.read(&mut [0]).await.is_ok_and(|count| count > 0) {}
                }
                _ => drop(stream.read_exact(&mut [0; 3]).await),
            }
        }
        sleep(50 * MS).await;
    }
}

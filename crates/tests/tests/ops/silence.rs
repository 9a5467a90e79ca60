//! Peers that vanish without a word.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use livepool::{Config, Pool};
use livepool_testkit::fault::silence;
use livepool_testkit::{Order, Upstream, ask};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use super::faults::{Faults, GET_NONE, MS, call, until};

pub fn add_all(faults: &mut Faults) {
    faults.add("silent-idle", "LivepoolPeersVanish", &[], while_idle);
    faults.add("silent-in-use", "LivepoolPeersVanish", &[], in_use);
    faults.add("silent-and-needed", "LivepoolPeersVanish", GET_NONE, needed);
    faults.add("peer-out", "LivepoolPeerOut", &["LivepoolPeersVanish"], one_of_two);
}

fn pool(config: Config, upstreams: &[SocketAddr]) -> Pool {
    Pool::new(config.with_upstream(upstreams.iter().map(SocketAddr::to_string))).unwrap()
}

/// Takes so many connections, and gives back those that answer.
async fn use_some(pool: &Pool, count: usize) {
    let mut used = Vec::new();
    for _ in 0..count {
        let mut conn = pool.get().await.unwrap();
        if ask(&mut conn, "ECHO x").await.is_ok() {
            used.push(conn);
        }
    }
    for conn in used {
        conn.release();
    }
}

/// With the settings that everybody has. Ends as `probe_timeout`.
async fn while_idle(config: Config) -> Infallible {
    let upstream = Upstream::start();
    let pool = pool(config, &[upstream.addr()]);
    loop {
        use_some(&pool, 3).await;
        upstream.order_all(&Order::Silence);
        until(&pool, |now| now.idle + now.quarantined == 0).await;
    }
}

/// Ends as `peer_silent`.
async fn in_use(config: Config) -> Infallible {
    let upstream = Upstream::start();
    let pool = pool(config, &[upstream.addr()]);
    loop {
        let mut conn = pool.get().await.unwrap();
        conn.write_all(b"SINK all of it\n").await.unwrap();
        upstream.order_all(&Order::Silence);
        conn.read_u8().await.unwrap_err();
    }
}

/// Callers need connections before the verdict over the silent ones: these end as `superseded`.
async fn needed(config: Config) -> Infallible {
    let upstream = Upstream::start();
    let pool = pool(config.with_max_size(4), &[upstream.addr()]);
    loop {
        // Each of these makes room for itself, while the pool is full of silent ones.
        use_some(&pool, 4).await;
        upstream.order_all(&Order::Silence);
        until(&pool, |now| now.idle == 0).await;
    }
}

/// One of two hosts is gone, and lets nobody in.
async fn one_of_two(config: Config) -> Infallible {
    let (lost, other) = (Host::start().await, Upstream::start());
    let config = config.with_max_size(6).with_max_silence(Some(Duration::from_secs(1)));
    let pool = pool(config, &[lost.addr, other.addr()]);
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(pool.get().await.unwrap());
    }
    for conn in held {
        conn.release();
    }
    lost.vanish();
    loop {
        call(&pool).await;
        sleep(50 * MS).await;
    }
}

/// Answers `ECHO` to whoever it has let in, until it vanishes: then its kernel drops whatever comes, to
/// its connections and to the socket that listens.
struct Host {
    addr: SocketAddr,
    listener: Arc<TcpListener>,
    clients: Arc<Mutex<Vec<Arc<TcpStream>>>>,
    _accepting: tokio::task::JoinSet<()>,
}

impl Host {
    async fn start() -> Self {
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").await.unwrap());
        let addr = listener.local_addr().unwrap();
        let clients = Arc::<Mutex<Vec<Arc<TcpStream>>>>::default();
        let (accepting, all) = (Arc::clone(&listener), Arc::clone(&clients));
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            while let Ok((client, _)) = accepting.accept().await {
                all.lock().unwrap().push(Arc::new(client));
            }
        });
        Self { addr, listener, clients, _accepting: tasks }
    }

    fn vanish(&self) {
        silence(&*self.listener);
        for client in &*self.clients.lock().unwrap() {
            silence(&**client);
        }
    }
}

//! A proxy that ends what is idle for longer than it likes: the pool notices by itself, and nobody is
//! handed such a connection.

use futures_util::future::join_all;
use livepool::CloseReason;
use livepool_http::{PoolExt, Request};
use livepool_redis::redis::cmd;

use super::*;
use livepool_testkit::servers::{Nginx, Redis as RedisServer};
use livepool_testkit::until_seen;

/// Often enough to be right by luck hardly ever.
const ROUNDS: usize = 8;

/// HAProxy counts what passes in either direction for the side it comes from or goes to.
const SHORT: [[&str; 1]; 2] = [["timeout client 2s"], ["timeout server 2s"]];

/// Each round uses the connections there are, or new ones, and then has HAProxy end them all. They are
/// closed for one of these reasons.
async fn rounds<P: livepool::protocol::Protocol>(
    pool: &Pool<P>,
    events: &Events,
    may: &[CloseReason],
    ask: impl AsyncFn(usize) -> String,
) {
    for round in 1..=ROUNDS {
        let asked = join_all((0..4).map(|tag| ask(tag))).await;
        assert_eq!(asked, ["0", "1", "2", "3"]);
        let ended = |(opened, closed): &(usize, usize)| closed == opened;
        let (opened, _) = until_seen(|| (events.opened(), events.closed().len()), ended).await;
        assert!(opened >= round && pool.status().idle == 0, "round {round}: {opened} opened");
    }
    let reasons = events.closed();
    assert!(reasons.iter().all(|reason| may.contains(reason)), "{reasons:?}");
}

#[tokio::test]
async fn postgres_sessions_that_a_haproxy_ended_while_idle_are_handed_to_nobody() {
    let server = trusting_server();
    join_all(SHORT.map(async |lines| {
        let haproxy = Haproxy::tcp(&[format!("127.0.0.1:{}", server.port())], &lines);
        let (pool, events) = postgres_at(&postgres_url(haproxy.port()), |config| config);
        rounds(&pool, &events, &[CloseReason::PeerClosed], async |tag| {
            let conn = pool.get().await.unwrap();
            let row = conn.query_one(&format!("SELECT '{tag}'"), &[]).await.unwrap();
            row.get(0)
        })
        .await;
    }))
    .await;
}

#[tokio::test]
async fn redis_connections_that_a_haproxy_ended_while_idle_are_handed_to_nobody() {
    let server = RedisServer::start();
    join_all(SHORT.map(async |lines| {
        let haproxy = Haproxy::tcp(&[server.addr()], &lines);
        let (pool, events) = redis_at(&haproxy.addr(), |config| config);
        rounds(&pool, &events, &[CloseReason::PeerClosed], async |tag| {
            let mut conn = pool.get().await.unwrap();
            cmd("ECHO").arg(tag).query_async(&mut *conn).await.unwrap()
        })
        .await;
    }))
    .await;
}

/// HAProxy may say 408 before it ends an idle connection; it is nobody's answer. Where it comes between a
/// checkout and its request, on a busy machine, the connection is closed as `dirty`, and the request is made
/// on another one.
#[tokio::test]
async fn http_connections_that_a_haproxy_ended_while_idle_are_handed_to_nobody() {
    let nginx = Nginx::start();
    let short =
        [["timeout http-keep-alive 2s"], ["timeout http-request 2s"], ["timeout client 2s"]];
    join_all(short.map(async |lines| {
        let haproxy = Haproxy::http(&[format!("127.0.0.1:{}", nginx.port())], &lines);
        let (pool, events) = http_at(haproxy.addr(), |config| config);
        rounds(&pool, &events, &[CloseReason::PeerClosed, CloseReason::Dirty], async |tag| {
            let request = Request::get(format!("/tag/{tag}")).body(()).unwrap();
            let response = pool.send(request).await.unwrap();
            let bytes = response.into_body().bytes(1 << 10).await.unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        })
        .await;
    }))
    .await;
}

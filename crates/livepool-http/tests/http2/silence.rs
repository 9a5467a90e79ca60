//! Servers that fall silent under requests.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use h2::server::Builder;
use livepool::{CloseReason, Config};
use livepool_http::{Failure, PoolExt};
use livepool_testkit::lab::{Host, lab};
use livepool_testkit::until_status;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::peer::Peer;
use crate::{get_text, pool_of, post};

/// Serves HTTP/2 on this host.
fn serve(host: &Host) -> SocketAddr {
    let addr = host.addr(50051);
    host.run(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(1).enable_all().build().unwrap();
        let peer = runtime
            .block_on(async { Peer::over(TcpListener::bind(addr).await.unwrap(), Builder::new()) });
        // Until the test ends.
        std::mem::forget((peer, runtime));
    });
    addr
}

/// At most 10 s: one for a pending read to look after its peer, and its probes.
const BOUND: Duration = Duration::from_secs(10);

#[tokio::test]
async fn requests_to_a_server_whose_cable_is_pulled_end_soon_and_others_go_elsewhere() {
    let lab = lab!();
    let (one, two) = (lab.host(), lab.host());
    let addrs = [serve(&one), serve(&two)];
    let (pool, events) = pool_of(Config::new("").with_upstream(addrs.map(|addr| addr.to_string())));
    assert_eq!(get_text(&pool, "/tag/a").await.unwrap(), "a");
    let mut held = JoinSet::new();
    for _ in 0..20 {
        let pool = pool.clone();
        held.spawn(async move { pool.send(post("/hold", "x")).await.unwrap_err() });
    }
    until_status(&pool, |now| now.shares == 20).await;
    let share = pool.share().await.unwrap();
    let lost = if share.peer_addr().to_string() == addrs[0].to_string() { &one } else { &two };
    drop(share);
    let began = Instant::now();
    lost.unplug();
    for error in held.join_all().await {
        assert_eq!(error.failure(), Failure::Unanswered, "{error}");
    }
    assert!(began.elapsed() < BOUND, "{:?}", began.elapsed());
    let reason = events.until_closed(1).await[0];
    let silent =
        [CloseReason::PeerSilent, CloseReason::ProbeTimeout, CloseReason::RetransmitTimeout];
    let is_silent = silent.contains(&reason);
    assert!(is_silent, "{reason:?}");
    // The other one is asked from now on.
    for _ in 0..20 {
        assert_eq!(get_text(&pool, "/tag/b").await.unwrap(), "b");
    }
    assert!(began.elapsed() < 2 * BOUND, "{:?}", began.elapsed());
}

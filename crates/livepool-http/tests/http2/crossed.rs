//! Ten thousand requests, a third of which are given up: no answer reaches another caller.

use livepool::protocol::Spread;
use livepool_http::http2::Http2;
use livepool_testkit::crossing::requests;
use livepool_testkit::servers::Nginx;
use livepool_testkit::until_status;

use crate::peer::Peer;
use crate::{get_text, pool_with};

const COUNT: usize = 10_000;

async fn crosses_none(config: livepool::Config) {
    let http2 = Http2::new().with_spread(Spread::Even(8));
    let (pool, events) = pool_with(config.with_max_size(4), http2);
    let asked = pool.clone();
    let tally = requests(COUNT, move |number| {
        let pool = asked.clone();
        async move {
            get_text(&pool, &format!("/tag/{number}")).await.map_err(|error| error.to_string())
        }
    })
    .await;
    assert_eq!((tally.crossed(), tally.failed()), (0, 0), "{tally:?}");
    assert!(tally.cancelled() > COUNT / 10, "{tally:?}");
    until_status(&pool, |now| now.shares == 0).await;
    assert_eq!((events.closed(), events.opened() <= 4), (vec![], true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_requests_with_random_cancellation_cross_no_answers() {
    crosses_none(Peer::start().await.config()).await;
}

/// It ends a connection after a thousand requests by default.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_requests_to_an_nginx_cross_no_answers() {
    let nginx = Nginx::start_http2(None);
    let config = Http2::from_url(&nginx.http2_url()).unwrap().config();
    let (pool, events) = pool_with(config.with_max_size(4), Http2::new());
    let asked = pool.clone();
    let tally = requests(COUNT, move |number| {
        let pool = asked.clone();
        async move {
            get_text(&pool, &format!("/tag/{number}")).await.map_err(|error| error.to_string())
        }
    })
    .await;
    assert_eq!((tally.crossed(), tally.failed()), (0, 0), "{tally:?}");
    let goodbye = |reason: &livepool::CloseReason| *reason == livepool::CloseReason::PeerClosed;
    assert!(events.closed().iter().all(goodbye), "{:?}", events.closed());
}

//! Bodies in both directions.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http_body::{Body as _, Frame};
use http_body_util::StreamBody;
use livepool_http::http2::Http2;
use livepool_http::{Failure, HttpPool, RequestBody};
use livepool_testkit::{until, until_status};

use crate::peer::Peer;
use crate::{MS, get_text, pool_of, pool_with, post, request_for, text};

/// 20 MB in pieces of 20 kB.
fn twenty_megabytes() -> RequestBody {
    let piece = || Ok::<_, std::io::Error>(Frame::data(Bytes::from(vec![b'x'; 20_000])));
    let pieces = futures_util::stream::iter((0..1000).map(move |_| piece()));
    RequestBody::stream(StreamBody::new(pieces))
}

#[tokio::test]
async fn an_upload_is_as_fast_as_its_server_takes_it() {
    let peer = Peer::start().await;
    let (pool, events) = pool_of(peer.config());
    let response = pool.send(post("/upload", twenty_megabytes())).await.unwrap();
    assert_eq!(text(response).await.unwrap(), "20000000");
    let response = pool.send(post("/upload", vec![0; 3_000_000])).await.unwrap();
    assert_eq!(text(response).await.unwrap(), "3000000");
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

#[tokio::test]
async fn an_upload_that_is_answered_early_goes_on_to_its_end() {
    let peer = Peer::start().await;
    let (pool, events) = pool_of(peer.config());
    let response = pool.send(post("/early", twenty_megabytes())).await.unwrap();
    assert_eq!(text(response).await.unwrap(), "early");
    until(|| peer.counts.uploaded.load(Ordering::SeqCst) == 20_000_000).await;
    until_status(&pool, |now| now.shares == 0).await;
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

#[tokio::test]
async fn an_upload_that_nobody_waits_for_may_pause_for_so_long_and_no_longer() {
    let peer = Peer::start().await;
    let (pool, events) = pool_with(peer.config(), Http2::new().with_longest_pause(100 * MS));
    let endless = || {
        let pieces = futures_util::stream::iter([Bytes::from_static(b"some")])
            .chain(futures_util::stream::pending())
            .map(|data| Ok::<_, std::io::Error>(Frame::data(data)));
        RequestBody::stream(StreamBody::new(pieces))
    };
    let response = pool.send(post("/early", endless())).await.unwrap();
    assert_eq!(text(response).await.unwrap(), "early");
    assert_eq!(pool.status().shares, 1);
    until_status(&pool, |now| now.shares == 0).await;
    // One whose response is dropped ends at once.
    let response = pool.send(post("/early", endless())).await.unwrap();
    drop(response);
    until_status(&pool, |now| now.shares == 0).await;
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

#[tokio::test]
async fn a_body_gives_its_share_back_with_its_last_frame() {
    let peer = Peer::start().await;
    let (pool, _) = pool_of(peer.config());
    let mut body = pool.send(request_for("/trailers")).await.unwrap().into_body();
    assert!(body.holds_connection());
    let data = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(data, "data");
    let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    assert!(!body.holds_connection());
    assert!(body.frame().await.is_none());
    let body = pool.send(request_for("/tag/")).await.unwrap().into_body();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(body.size_hint().exact(), body.is_end_stream().then_some(0));
}

#[tokio::test]
async fn a_body_that_is_cut_short_is_an_error() {
    let peer = Peer::start().await;
    let (pool, events) = pool_of(peer.config());
    let mut body = pool.send(request_for("/half")).await.unwrap().into_body();
    assert_eq!(body.size_hint().exact(), Some(20));
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "ten bytes.");
    assert_eq!(body.size_hint().exact(), Some(10));
    let error = body.frame().await.unwrap().unwrap_err();
    assert_eq!((error.failure(), error.http2_code()), (Failure::Reset, Some(2)));
    assert_eq!(get_text(&pool, "/tag/a").await.unwrap(), "a");
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

//! Bodies in both directions.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http_body::{Body as _, Frame};
use http_body_util::StreamBody;
use livepool::Config;
use livepool_http::http2::Http2;
use livepool_http::{Failure, PoolExt, RequestBody};
use livepool_testkit::{ends, until, until_status};

use crate::peer::Peer;
use crate::raw::{self, Raw};
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
    let mut body = pool.send(post("/early", endless())).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "early");
    assert!(body.is_end_stream());
    assert_eq!(pool.status().shares, 1);
    until_status(&pool, |now| now.shares == 0).await;
    // Its server is told, whether or not somebody still has the body.
    until(|| peer.counts.given_up.load(Ordering::SeqCst) == 1).await;
    drop(body);
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

/// RFC 9113 section 8.1 has a server reset so what it has answered completely, and nothing else.
#[tokio::test]
async fn a_body_that_is_reset_without_an_error_before_its_end_is_cut_short() {
    let addr = Raw::listen(|_, mut raw| async move {
        let stream = raw.next(raw::HEADERS).await?.stream;
        raw.send(raw::HEADERS, 4, stream, raw::STATUS_200).await?;
        raw.send(raw::DATA, 0, stream, b"half").await?;
        raw.send(raw::RST_STREAM, 0, stream, &0_u32.to_be_bytes()).await?;
        raw.next(raw::HEADERS).await?;
        Ok(())
    });
    let (pool, _) = pool_of(Config::new(addr.await.to_string()));
    let error = text(pool.send(request_for("/")).await.unwrap()).await.unwrap_err();
    assert_eq!((error.failure(), error.http2_code()), (Failure::Reset, Some(0)));
}

#[tokio::test]
async fn a_source_that_fails_when_the_response_has_begun_is_named_by_it() {
    let peer = Peer::start().await;
    let (pool, events) = pool_of(peer.config());
    let (fail, fails) = tokio::sync::oneshot::channel::<()>();
    let pieces = futures_util::stream::iter([Ok(Frame::data(Bytes::from_static(b"some")))]).chain(
        futures_util::stream::once(async {
            let _told = fails.await;
            Err(std::io::Error::other("the disk is gone"))
        }),
    );
    let body = RequestBody::stream(StreamBody::new(Box::pin(pieces)));
    let mut body = pool.send(post("/open", body)).await.unwrap().into_body();
    fail.send(()).unwrap();
    let error = ends(body.frame()).await.unwrap().unwrap_err();
    assert_eq!((error.failure(), error.http2_code()), (Failure::RequestBody, None));
    assert!(error.to_string().contains("the disk is gone"), "{error}");
    until(|| peer.counts.given_up.load(Ordering::SeqCst) == 1).await;
    assert!(body.frame().await.is_none(), "nothing comes after an error");
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

#[tokio::test]
async fn trailers_that_http2_forbids_fail_the_request_at_once() {
    let peer = Peer::start().await;
    let (pool, events) = pool_of(peer.config());
    let mut trailers = http::HeaderMap::new();
    trailers.insert("connection", "close".parse().unwrap());
    let frames = [Ok::<_, std::io::Error>(Frame::trailers(trailers))];
    let body = RequestBody::stream(StreamBody::new(futures_util::stream::iter(frames)));
    let error = ends(pool.send(post("/upload", body))).await.unwrap_err();
    assert_eq!(error.failure(), Failure::RequestBody, "{error}");
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

/// The server cannot answer what it does not have, and who does not ask waits for nothing.
#[tokio::test]
async fn the_read_timeout_runs_only_while_somebody_waits_for_the_server() {
    let peer = Peer::start().await;
    let timeouts = livepool::Timeouts::default().with_read(1500 * MS);
    let (pool, events) = pool_of(peer.config().with_timeouts(timeouts));
    let slow = futures_util::stream::unfold(0, |count| async move {
        tokio::time::sleep(1600 * MS).await;
        (count < 2).then(|| (Ok::<_, std::io::Error>(Frame::data(Bytes::from("x"))), count + 1))
    });
    let body = RequestBody::stream(StreamBody::new(Box::pin(slow)));
    let response = pool.send(post("/upload", body)).await.unwrap();
    assert_eq!(text(response).await.unwrap(), "2");
    let mut body = pool.send(request_for("/pieces/2000")).await.unwrap().into_body();
    for _ in 0..2 {
        // Longer than the timeout; and the next piece is not there yet, but comes in time.
        tokio::time::sleep(1600 * MS).await;
        body.frame().await.unwrap().unwrap();
    }
    drop(body);
    assert_eq!((events.timed_out(), events.closed()), (vec![], vec![]));
}

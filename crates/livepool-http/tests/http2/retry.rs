//! Requests that are made again: those that a server has done nothing of.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body::Frame;
use http_body_util::StreamBody;
use livepool::Config;
use livepool_http::{Failure, PoolExt, RequestBody};
use livepool_testkit::port::until_refused;

use crate::raw::{HEADERS, RST_STREAM, Raw, SETTINGS};
use crate::{MS, pool_of, post};

/// A stream of so many pieces of 1 KiB.
fn stream_of(pieces: usize) -> RequestBody {
    let piece = || Ok::<_, std::io::Error>(Frame::data(Bytes::from(vec![b'x'; 1024])));
    RequestBody::stream(StreamBody::new(futures_util::stream::iter(
        (0..pieces).map(move |_| piece()),
    )))
}

#[tokio::test]
async fn a_request_that_a_server_going_away_has_not_taken_is_made_again_whatever_its_method() {
    let counts = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&counts);
    let addr = Raw::listen(move |number, mut raw| {
        let counts = Arc::clone(&counted);
        async move {
            loop {
                let stream = raw.next(HEADERS).await?.stream;
                if number == 0 && stream == 3 {
                    // The second one of the first connection came too late.
                    raw.go_away(1, 0).await?;
                    continue;
                }
                counts.fetch_add(1, Ordering::SeqCst);
                raw.answer(stream).await?;
            }
        }
    });
    let (pool, events) = pool_of(Config::new(addr.await.to_string()));
    for body in [RequestBody::from(()), "text".into(), stream_of(1)] {
        assert_eq!(pool.send(post("/", body)).await.unwrap().status(), 200);
    }
    assert_eq!((counts.load(Ordering::SeqCst), events.opened()), (3, 2));
}

#[tokio::test]
async fn a_stream_is_sent_again_whole_as_long_as_it_is_short() {
    for (pieces, is_short) in [(0, true), (3, true), (64, true), (65, false)] {
        let addr = Raw::listen(move |number, mut raw| async move {
            let head = raw.next(HEADERS).await?;
            let stream = head.stream;
            // Its data, to the end, which may have come with the head.
            let mut length = 0;
            while head.flags & 1 == 0 && raw.next_data(&mut length).await? {}
            if number == 0 {
                raw.go_away(0, 0).await?;
            } else {
                assert_eq!(length, pieces * 1024);
                raw.answer(stream).await?;
            }
            raw.next(HEADERS).await?;
            Ok(())
        });
        let (pool, _) = pool_of(Config::new(addr.await.to_string()));
        let answer = pool.send(post("/", stream_of(pieces))).await;
        match answer {
            Ok(answer) => assert!(is_short && answer.status() == 200, "{pieces}"),
            Err(error) => {
                assert!(!is_short, "{pieces}: {error}");
                assert_eq!(error.failure(), Failure::Unprocessed);
                assert!(error.is_retryable());
            }
        }
    }
}

/// It may panic when it is asked again, as this one does.
#[tokio::test]
async fn a_source_that_has_ended_is_not_asked_again_for_a_second_try() {
    let addr = Raw::listen(move |number, mut raw| async move {
        let stream = raw.next(HEADERS).await?.stream;
        while raw.next_data(&mut 0).await? {}
        match number {
            0 => raw.go_away(0, 0).await?,
            _ => raw.answer(stream).await?,
        }
        raw.next(HEADERS).await?;
        Ok(())
    });
    let (pool, events) = pool_of(Config::new(addr.await.to_string()));
    let once = futures_util::stream::unfold(true, |is_first| async move {
        is_first.then(|| (Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(b"x"))), false))
    });
    let body = RequestBody::stream(StreamBody::new(Box::pin(once)));
    let answer = livepool_testkit::ends(pool.send(post("/", body))).await.unwrap();
    assert_eq!((answer.status(), events.opened()), (http::StatusCode::OK, 2));
}

/// A second connection has no room for it, and goes away, too.
#[tokio::test]
async fn a_stream_that_was_sent_in_part_twice_is_sent_whole_the_third_time() {
    // Of one of them the length is known, and has to hold for what is sent again.
    let whole = http_body_util::Full::new(Bytes::from(vec![b'x'; 3 * 1024]));
    for body in [stream_of(3), RequestBody::stream(whole)] {
        let addr = Raw::listen(move |number, mut raw| async move {
            if number == 1 {
                // SETTINGS_INITIAL_WINDOW_SIZE
                raw.send(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]).await?;
            }
            let head = raw.next(HEADERS).await?;
            let mut length = 0;
            while number != 1 && raw.next_data(&mut length).await? {}
            if number < 2 {
                raw.go_away(0, 0).await?;
            } else {
                assert_eq!(length, 3 * 1024);
                raw.answer(head.stream).await?;
            }
            raw.next(HEADERS).await?;
            Ok(())
        });
        let (pool, events) = pool_of(Config::new(addr.await.to_string()));
        let answer = livepool_testkit::ends(pool.send(post("/", body))).await.unwrap();
        assert_eq!((answer.status(), events.opened()), (http::StatusCode::OK, 3));
    }
}

/// There is no other connection to make it on, and the server may have acted on it all the same.
#[tokio::test]
async fn a_request_that_was_sent_and_lost_with_the_last_server_says_that_it_was_sent() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let timeouts = livepool::Timeouts::default().with_checkout(1000 * MS);
    let addr = listener.local_addr().unwrap();
    let config = Config::new(addr.to_string()).with_timeouts(timeouts);
    tokio::spawn(async move {
        let mut raw = Raw::accept(&listener).await?;
        drop(listener);
        let stream = raw.next(HEADERS).await?.stream;
        raw.answer(stream).await?;
        raw.next(HEADERS).await
    });
    let (pool, _) = pool_of(config);
    let put = || livepool_http::Request::put("/").body(RequestBody::from("body")).unwrap();
    assert_eq!(pool.send(put()).await.unwrap().status(), 200);
    let error = pool.send(put()).await.unwrap_err();
    assert_eq!(error.failure(), Failure::Unanswered, "{error}");
    // A program that another test starts may have the listener for a moment longer.
    until_refused(addr);
    let error = pool.send(put()).await.unwrap_err();
    assert_eq!(error.failure(), Failure::Checkout, "nothing was sent: {error}");
}

#[tokio::test]
async fn a_request_that_every_connection_refuses_is_made_three_times() {
    let counts = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&counts);
    let addr = Raw::listen(move |_, mut raw| {
        let counts = Arc::clone(&counted);
        async move {
            loop {
                let stream = raw.next(HEADERS).await?.stream;
                counts.fetch_add(1, Ordering::SeqCst);
                // REFUSED_STREAM
                raw.send(RST_STREAM, 0, stream, &7_u32.to_be_bytes()).await?;
            }
        }
    });
    let (pool, events) = pool_of(Config::new(addr.await.to_string()));
    let error = pool.send(post("/", "x")).await.unwrap_err();
    assert_eq!((error.failure(), error.http2_code()), (Failure::Unprocessed, Some(7)));
    assert!(error.is_retryable());
    assert_eq!((counts.load(Ordering::SeqCst), events.opened(), events.closed()), (3, 1, vec![]));
}

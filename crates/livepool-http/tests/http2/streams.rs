//! Requests are streams: how many there are, and what one of them costs the others.

use std::sync::atomic::Ordering;

use h2::server::Builder;
use livepool::CloseReason;
use livepool::config::Validation;
use livepool::protocol::Spread;
use livepool_http::http2::Http2;
use livepool_http::{Failure, Limits, PoolExt, RequestBody};
use livepool_testkit::cut::{DROPS, cut};
use livepool_testkit::{until, until_status};
use tokio::task::JoinSet;

use crate::peer::{Order, Peer};
use crate::raw::{self, Raw};
use crate::{MS, SECOND, get_text, pool_of, pool_with, post, request_for, text};

#[tokio::test]
async fn many_requests_share_few_connections() {
    let peer = Peer::start().await;
    let (pool, events) = pool_with(peer.config(), Http2::new().with_spread(Spread::Even(100)));
    assert_eq!(get_text(&pool, "/tag/first").await.unwrap(), "first");
    let mut callers = JoinSet::new();
    for number in 0..100 {
        let pool = pool.clone();
        callers.spawn(async move {
            let tag = number.to_string();
            assert_eq!(get_text(&pool, &format!("/slow/20/{tag}")).await.unwrap(), tag);
        });
    }
    callers.join_all().await;
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
    assert_eq!((pool.status().shares, pool.status().idle), (0, 1));
}

#[tokio::test]
async fn no_more_requests_are_on_a_connection_than_its_server_takes() {
    let mut builder = Builder::new();
    builder.max_concurrent_streams(5);
    let peer = Peer::start_with(builder).await;
    let (pool, events) = pool_of(peer.config().with_max_size(2));
    let mut callers = JoinSet::new();
    for number in 0..60 {
        let pool = pool.clone();
        callers.spawn(async move {
            let tag = number.to_string();
            assert_eq!(get_text(&pool, &format!("/slow/5/{tag}")).await.unwrap(), tag);
        });
    }
    callers.join_all().await;
    assert!(peer.counts.most.load(Ordering::SeqCst) <= 5, "{:?}", peer.counts.most);
    assert_eq!((events.opened(), events.closed()), (2, vec![]));
}

#[tokio::test]
async fn a_server_that_goes_away_finishes_what_it_has_taken_and_gets_no_more() {
    let peer = Peer::start().await;
    let (pool, events) = pool_of(peer.config());
    let slow = tokio::spawn({
        let pool = pool.clone();
        async move { get_text(&pool, "/slow/300/finished").await }
    });
    until_status(&pool, |now| now.shares == 1).await;
    until(|| peer.counts.requests.load(Ordering::SeqCst) == 1).await;
    peer.order_all(Order::GoAway);
    // Whether the GOAWAY is there yet or not.
    for _ in 0..20 {
        assert_eq!(get_text(&pool, "/tag/another").await.unwrap(), "another");
    }
    assert_eq!(slow.await.unwrap().unwrap(), "finished");
    assert_eq!(events.until_closed(1).await, [CloseReason::PeerClosed]);
    assert_eq!(events.opened(), 2);
}

#[tokio::test]
async fn an_idle_connection_whose_server_goes_away_is_closed_at_once() {
    let peer = Peer::start().await;
    let (pool, events) = pool_of(peer.config());
    assert_eq!(get_text(&pool, "/tag/a").await.unwrap(), "a");
    until_status(&pool, |now| now.idle == 1).await;
    peer.order_all(Order::GoAway);
    assert_eq!(events.until_closed(1).await, [CloseReason::PeerClosed]);
    assert_eq!(get_text(&pool, "/tag/b").await.unwrap(), "b");
}

#[tokio::test]
async fn a_stream_that_is_reset_costs_one_request_and_is_named_by_its_code() {
    let peer = Peer::start().await;
    let (pool, events) = pool_of(peer.config());
    let slow = tokio::spawn({
        let pool = pool.clone();
        async move { get_text(&pool, "/slow/100/fine").await }
    });
    until_status(&pool, |now| now.shares == 1).await;
    let error = pool.send(request_for("/reset/2")).await.unwrap_err();
    assert_eq!((error.failure(), error.http2_code()), (Failure::Reset, Some(2)));
    assert!(error.is_retryable(), "a GET may be made again: {error}");
    let error = pool.send(post("/reset/8", "x")).await.unwrap_err();
    assert_eq!((error.http2_code(), error.is_retryable()), (Some(8), false));
    let line = error.to_string();
    assert!(line.contains("POST /reset/8") && line.contains("may have acted"), "{line}");
    assert_eq!(slow.await.unwrap().unwrap(), "fine");
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

#[tokio::test]
async fn who_gives_up_ends_his_stream_and_harms_nobody() {
    let peer = Peer::start().await;
    let (pool, events) = pool_of(peer.config());
    assert_eq!(get_text(&pool, "/tag/first").await.unwrap(), "first");
    let others = tokio::spawn({
        let pool = pool.clone();
        async move { get_text(&pool, "/slow/300/fine").await }
    });
    for _ in 0..50 {
        let held = pool.send(request_for("/hold"));
        tokio::time::timeout(2 * MS, held).await.unwrap_err();
    }
    // And bodies that nobody reads to their end.
    for _ in 0..5 {
        let response = pool.send(request_for("/large/3000000")).await.unwrap();
        drop(response);
    }
    assert_eq!(others.await.unwrap().unwrap(), "fine");
    until_status(&pool, |now| now.shares == 0).await;
    until(|| peer.counts.given_up.load(Ordering::SeqCst) >= 5).await;
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
    assert_eq!(get_text(&pool, "/tag/a").await.unwrap(), "a");
}

/// Dropped at each of its polls, a request leaves no share behind.
#[tokio::test]
async fn a_request_that_is_dropped_at_any_poll_gives_its_share_back() {
    let peer = Peer::start().await;
    let (pool, events) = pool_of(peer.config().with_max_size(1));
    for drop in DROPS {
        for polls in 0..40 {
            let request = async {
                let response = pool.send(post("/upload", vec![0; 200_000])).await.unwrap();
                assert_eq!(text(response).await.unwrap(), "200000");
            };
            if cut(request, polls, drop, |_| {}).await.is_some() {
                break;
            }
            until_status(&pool, |now| now.shares == 0).await;
        }
    }
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
    assert_eq!(get_text(&pool, "/tag/a").await.unwrap(), "a");
}

#[tokio::test]
async fn a_connection_that_dies_costs_each_of_its_requests_one_clear_error() {
    let peer = Peer::start().await;
    let http2 = Http2::new().with_spread(Spread::Even(256));
    let (pool, events) = pool_with(peer.config(), http2);
    assert_eq!(get_text(&pool, "/tag/a").await.unwrap(), "a");
    let mut callers = JoinSet::new();
    for _ in 0..200 {
        let pool = pool.clone();
        callers.spawn(async move { pool.send(post("/hold", "x")).await.unwrap_err() });
    }
    until(|| peer.counts.requests.load(Ordering::SeqCst) == 201).await;
    peer.order_all(Order::Drop);
    let errors = tokio::time::timeout(5 * SECOND, callers.join_all()).await.expect("each ends");
    for error in &errors {
        assert_eq!(error.failure(), Failure::Unanswered, "{error}");
        assert!(!error.is_retryable(), "{error}");
    }
    assert_eq!(errors.len(), 200);
    assert_eq!(events.until_closed(1).await.len(), 1);
    // What may be made again is.
    let held = tokio::spawn({
        let pool = pool.clone();
        async move { get_text(&pool, "/slow/200/again").await }
    });
    until(|| peer.counts.requests.load(Ordering::SeqCst) == 202).await;
    peer.order_all(Order::Drop);
    assert_eq!(held.await.unwrap().unwrap(), "again");
}

#[tokio::test]
async fn time_is_each_requests_own() {
    let peer = Peer::start().await;
    let timeouts = livepool::Timeouts::default().with_read(2000 * MS);
    let (pool, events) = pool_of(peer.config().with_timeouts(timeouts));
    // A body whose pieces come in time: all of them take longer.
    let pieces = pool.send(request_for("/pieces/300")).await.unwrap();
    assert_eq!(text(pieces).await.unwrap().len(), 50);
    let late = pool.send(request_for("/hold")).await.unwrap_err();
    assert_eq!(late.failure(), Failure::Unanswered);
    assert!(late.is_timeout() && late.to_string().contains("timeouts.read"), "{late}");
    let pieces = pool.send(request_for("/pieces/3000")).await.unwrap();
    let late = text(pieces).await.unwrap_err();
    assert!(late.failure() == Failure::Body && late.is_timeout(), "{late}");
    // Who was late takes his connection out of use.
    assert_eq!(events.until_closed(2).await, [CloseReason::NotReusable; 2]);
    assert_eq!(get_text(&pool, "/tag/a").await.unwrap(), "a");
    let limits = Limits::new().with_deadline(1000 * MS).with_read_timeout(None);
    let opened = events.opened();
    let late = pool.send_within(request_for("/hold"), limits).await.unwrap_err();
    assert!(late.is_timeout() && late.to_string().contains("deadline"), "{late}");
    assert_eq!(get_text(&pool, "/tag/a").await.unwrap(), "a");
    assert_eq!(events.opened(), opened, "a deadline of one's own says nothing of the connection");
}

/// As a server whose kernel goes on while nothing of it does.
#[tokio::test]
async fn a_connection_on_which_a_request_had_no_answer_in_time_is_nobody_elses() {
    let (times, limit) = (livepool::Timeouts::default, 3 * SECOND);
    for timeouts in [times().with_operation(limit), times().with_read(limit)] {
        // The first one answers one request and no other; the second head of an answer has no end.
        let addr = Raw::listen(|number, mut raw| async move {
            for count in 0.. {
                let stream = raw.next(raw::HEADERS).await?.stream;
                match (number, count) {
                    (0, 1..) => {}
                    (1, 1..) => raw.send(raw::HEADERS, 4, stream, raw::STATUS_200).await?,
                    _ => raw.answer(stream).await?,
                }
            }
            Ok(())
        });
        let config = livepool::Config::new(addr.await.to_string()).with_timeouts(timeouts);
        let (pool, events) = pool_of(config);
        for round in 1..=2 {
            assert_eq!(pool.send(request_for("/")).await.unwrap().status(), 200);
            let late = match pool.send(request_for("/")).await {
                Ok(response) => text(response).await.unwrap_err(),
                Err(error) => error,
            };
            assert!(late.is_timeout(), "{late}");
            assert_eq!(events.until_closed(round).await, vec![CloseReason::NotReusable; round]);
        }
        assert_eq!(pool.send(request_for("/")).await.unwrap().status(), 200);
        assert_eq!(events.opened(), 3);
    }
}

#[tokio::test]
async fn a_connection_is_asked_with_a_ping_of_http2_before_it_is_used_again() {
    // The first one answers no ping.
    let addr = Raw::listen(|number, mut raw| async move {
        loop {
            let stream = raw.next(raw::HEADERS).await?.stream;
            raw.answer(stream).await?;
            let ping = raw.next(raw::PING).await?;
            assert_eq!((ping.flags, ping.stream), (0, 0));
            if number > 0 {
                raw.send(raw::PING, 1, 0, &ping.payload).await?;
            }
        }
    });
    let config = livepool::Config::new(addr.await.to_string())
        .with_validation(Validation::Ping)
        .with_timeouts(livepool::Timeouts::default().with_ping(2000 * MS));
    let (pool, events) = pool_of(config);
    for _ in 0..5 {
        assert_eq!(pool.send(request_for("/")).await.unwrap().status(), 200);
        until_status(&pool, |now| now.idle == 1).await;
    }
    assert_eq!((events.opened(), events.timed_out()), (2, vec![livepool::event::Operation::Ping]));
}

#[tokio::test]
async fn a_server_that_breaks_the_rules_or_floods_a_connection_loses_it() {
    let addr = Raw::listen(|number, mut raw| async move {
        loop {
            let stream = raw.next(raw::HEADERS).await?.stream;
            raw.answer(stream).await?;
            match number {
                // To a request that nobody has made.
                0 => raw.answer(9).await?,
                1 => {
                    for _ in 0..20_000 {
                        raw.send(raw::PING, 0, 0, &[0; 8]).await?;
                    }
                }
                _ => {}
            }
        }
    });
    let (pool, events) = pool_of(livepool::Config::new(addr.await.to_string()));
    for count in 1..=2 {
        assert_eq!(pool.send(request_for("/")).await.unwrap().status(), 200);
        // In nobody's use, or about to be.
        assert_eq!(events.until_closed(count).await, vec![CloseReason::ProtocolError; count]);
    }
    assert_eq!(pool.send(request_for("/")).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_body_that_fails_costs_its_request_alone() {
    let peer = Peer::start().await;
    let (pool, events) = pool_of(peer.config());
    let source = futures_util::stream::iter([
        Ok(http_body::Frame::data(bytes::Bytes::from_static(b"some"))),
        Err(std::io::Error::other("the disk is gone")),
    ]);
    let body = RequestBody::stream(http_body_util::StreamBody::new(source));
    let error = pool.send(post("/upload", body)).await.unwrap_err();
    assert_eq!(error.failure(), Failure::RequestBody);
    assert!(error.to_string().contains("the disk is gone"), "{error}");
    assert_eq!(get_text(&pool, "/tag/a").await.unwrap(), "a");
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

/// The library knows of the end then, and its task cannot say so before its bytes are taken: the connection
/// looks as well as ever. (On one thread: who tried again without a pause would let nothing else run.)
#[tokio::test]
async fn a_server_that_breaks_the_rules_and_takes_no_bytes_is_left_for_another_connection() {
    let addr = Raw::listen(|number, mut raw| async move {
        if number > 0 {
            loop {
                let stream = raw.next(raw::HEADERS).await?.stream;
                raw.answer(stream).await?;
            }
        }
        // Room for more than two kernels hold: SETTINGS_INITIAL_WINDOW_SIZE, WINDOW_UPDATE.
        raw.send(raw::SETTINGS, 0, 0, &[0, 4, 2, 0, 0, 0]).await?;
        raw.send(raw::WINDOW_UPDATE, 0, 0, &[2, 0, 0, 0]).await?;
        raw.next(raw::HEADERS).await?;
        tokio::time::sleep(300 * MS).await;
        raw.answer(9).await?;
        // Nothing more is read here, and nothing closed.
        std::future::pending().await
    });
    let (pool, events) = pool_of(livepool::Config::new(addr.await.to_string()));
    // It stays open for as long as somebody has it.
    let _held = pool.share().await.unwrap();
    let upload = tokio::spawn({
        let pool = pool.clone();
        async move { pool.send(post("/", vec![0; 32 << 20])).await }
    });
    let error = livepool_testkit::ends(upload).await.unwrap().unwrap_err();
    assert_eq!(error.failure(), Failure::Malformed, "{error}");
    let answer = livepool_testkit::ends(pool.send(post("/", "x"))).await.unwrap();
    assert_eq!((answer.status(), events.opened()), (http::StatusCode::OK, 2));
}

//! When a connection is used again, and what it was closed for otherwise.

use std::time::Duration;

use livepool::config::Validation;
use livepool::event::Operation;
use livepool::{CloseReason, Timeouts};
use livepool_http::{Failure, Http1, Limits, PoolExt, Request, RequestBody};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::{get, get_text, pool_of, pool_with, request_for, text};
use livepool_testkit::scripted::Scripted;
use livepool_testkit::until;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const SECOND: Duration = Duration::from_secs(1);

/// Asks twice, and returns how many connections that took and what they were closed for.
async fn twice(
    answer: &'static str,
    request: fn() -> Request<RequestBody>,
) -> (usize, Vec<CloseReason>) {
    let server = Scripted::always(answer).await;
    let (pool, events) = pool_of(server.config());
    for _ in 0..2 {
        let response = pool.send(request()).await.unwrap();
        assert_eq!(response.into_body().bytes(100).await.unwrap().as_ref(), b"ok");
    }
    (server.accepted(), events.closed())
}

#[tokio::test]
async fn a_connection_is_used_again_if_both_sides_say_so() {
    use CloseReason::{Discarded, PeerClosed};
    let get = || request_for("/");
    let chunked =
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n";
    assert_eq!(twice(OK, get).await, (1, vec![]));
    assert_eq!(twice(chunked, get).await, (1, vec![]));
    let bye = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
    assert_eq!(twice(bye, get).await, (2, vec![PeerClosed; 2]));
    let old = "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok";
    assert_eq!(twice(old, get).await, (2, vec![PeerClosed; 2]));
    let kept = "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok";
    assert_eq!(twice(kept, get).await, (1, vec![]));
    let last = "HTTP/1.1 200 OK\r\nkeep-alive: timeout=5, max=0\r\ncontent-length: 2\r\n\r\nok";
    assert_eq!(twice(last, get).await, (2, vec![PeerClosed; 2]));
    let own = || Request::get("/").header("connection", "close").body(().into()).unwrap();
    assert_eq!(twice(OK, own).await, (2, vec![Discarded; 2]));
    let posted = || Request::post("/").body(RequestBody::from("four")).unwrap();
    assert_eq!(twice(OK, posted).await.1, [], "what was sent is no request of its own");
}

#[tokio::test]
async fn a_body_without_a_length_ends_with_its_connection() {
    let server = Scripted::start(|mut talk, _| async move {
        talk.request().await;
        talk.say("HTTP/1.1 200 OK\r\n\r\nall of it").await;
    })
    .await;
    let (pool, events) = pool_of(server.config());
    for _ in 0..2 {
        assert_eq!(get_text(&pool, "/").await.unwrap(), "all of it");
    }
    assert_eq!((server.accepted(), events.closed()), (2, vec![CloseReason::PeerClosed; 2]));
}

#[tokio::test]
async fn a_response_that_came_whole_frees_its_connection_though_nobody_reads_it() {
    let server = Scripted::always(OK).await;
    let (pool, events) = pool_of(server.config().with_max_size(1));
    let mut kept = Vec::new();
    for _ in 0..3 {
        let response = get(&pool, "/").await.unwrap();
        until(|| pool.status().idle == 1 || response.body().holds_connection()).await;
        kept.push(response);
    }
    for response in kept {
        assert_eq!(text(response).await.unwrap(), "ok");
    }
    assert_eq!((server.accepted(), events.closed()), (1, vec![]));
}

/// A server that sends the beginning of a long answer, and the rest when it is told to.
async fn halting(length: usize) -> (Scripted, mpsc::UnboundedSender<()>) {
    let (go_on, told) = mpsc::unbounded_channel();
    let told = std::sync::Arc::new(tokio::sync::Mutex::new(told));
    let server = Scripted::start(move |mut talk, _| {
        let told = std::sync::Arc::clone(&told);
        async move {
            while talk.request().await.is_some() {
                talk.say(&format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\nbegin"))
                    .await;
                told.lock().await.recv().await;
                talk.say(&"x".repeat(length - 5)).await;
            }
        }
    })
    .await;
    (server, go_on)
}

#[tokio::test]
async fn a_long_body_that_was_dropped_half_way_closes_its_connection() {
    let (server, go_on) = halting(100_000).await;
    let (pool, events) = pool_of(server.config());
    let response = get(&pool, "/").await.unwrap();
    assert!(response.body().holds_connection());
    drop(response);
    assert_eq!(events.closed(), [CloseReason::Unfinished]);
    go_on.send(()).unwrap();
    let mut body = get(&pool, "/").await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().as_ref(), b"begin");
    drop(body);
    assert_eq!(events.closed(), [CloseReason::Unfinished; 2]);
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn the_rest_of_a_short_body_is_read_in_the_background() {
    let (server, go_on) = halting(1000).await;
    let (pool, events) = pool_of(server.config().with_max_size(1));
    drop(get(&pool, "/").await.unwrap());
    assert_eq!(pool.status().idle, 0, "it is not free yet");
    go_on.send(()).unwrap();
    go_on.send(()).unwrap();
    assert_eq!(get_text(&pool, "/").await.unwrap().len(), 1000);
    assert_eq!((server.accepted(), events.closed()), (1, vec![]));
}

#[tokio::test]
async fn a_rest_that_does_not_come_closes_the_connection_in_time() {
    let (server, _go_on) = halting(1000).await;
    let timeouts = Timeouts::default().with_reset(Duration::from_millis(50));
    let (pool, events) = pool_of(server.config().with_timeouts(timeouts));
    drop(get(&pool, "/").await.unwrap());
    assert_eq!(events.until_closed(1).await, [CloseReason::ResetFailed]);
}

/// A body that never ends, and says nothing after its beginning.
struct Endless(bool);

impl livepool_http::http_body::Body for Endless {
    type Data = bytes::Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<std::io::Result<livepool_http::http_body::Frame<bytes::Bytes>>>>
    {
        match std::mem::replace(&mut self.0, true) {
            false => std::task::Poll::Ready(Some(Ok(livepool_http::http_body::Frame::data(
                "begin".into(),
            )))),
            true => std::task::Poll::Pending,
        }
    }
}

#[tokio::test]
async fn a_request_whose_source_is_forgotten_has_its_connection_for_a_while() {
    let server = Scripted::always(OK).await;
    let http1 = Http1::new().with_longest_pause(SECOND / 5);
    let (pool, events) = pool_with(server.config(), http1);
    let request = Request::post("/").body(RequestBody::stream(Endless(false))).unwrap();
    let response = pool.send(request).await.unwrap();
    assert!(response.body().holds_connection());
    let began = Instant::now();
    assert_eq!(text(response).await.unwrap(), "ok", "the answer itself is good");
    assert_eq!((pool.status().in_use, events.closed()), (1, vec![]));
    assert_eq!(events.until_closed(1).await, [CloseReason::Unfinished]);
    assert!(began.elapsed() >= SECOND / 5, "{:?}", began.elapsed());
    assert_eq!(get_text(&pool, "/").await.unwrap(), "ok");
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn a_caller_who_goes_away_takes_the_connection_along() {
    let server = Scripted::start(|mut talk, number| async move {
        while talk.request().await.is_some() {
            if number > 0 {
                talk.say(OK).await;
            }
        }
    })
    .await;
    let (pool, events) = pool_of(server.config());
    tokio::select! {
        answer = get(&pool, "/") => panic!("{answer:?}"),
        () = until(|| server.heard() == 1) => {}
    }
    assert_eq!(events.closed(), [CloseReason::Unfinished]);
    assert_eq!(get_text(&pool, "/").await.unwrap(), "ok");
}

#[tokio::test]
async fn what_comes_on_an_idle_connection_ends_it_and_a_late_408_is_a_goodbye() {
    let goodbye = "HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    for (stray, reason) in [
        (goodbye, CloseReason::PeerClosed),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", CloseReason::Dirty),
        ("x", CloseReason::Dirty),
    ] {
        let (tell, told) = mpsc::unbounded_channel::<()>();
        let told = std::sync::Arc::new(tokio::sync::Mutex::new(told));
        let server = Scripted::start(move |mut talk, number| {
            let told = std::sync::Arc::clone(&told);
            async move {
                talk.request().await;
                talk.say(OK).await;
                if number == 0 {
                    told.lock().await.recv().await;
                    talk.say(stray).await;
                }
                talk.listen().await;
            }
        })
        .await;
        let (pool, events) = pool_of(server.config());
        assert_eq!(get_text(&pool, "/").await.unwrap(), "ok");
        tell.send(()).unwrap();
        assert_eq!(events.until_closed(1).await, [reason], "{stray}");
        assert_eq!(get_text(&pool, "/").await.unwrap(), "ok");
    }
}

#[tokio::test]
async fn more_than_was_asked_for_ends_the_connection_and_not_the_answer() {
    let server =
        Scripted::always("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n").await;
    let (pool, events) = pool_of(server.config());
    for _ in 0..2 {
        assert_eq!(get_text(&pool, "/").await.unwrap(), "ok");
    }
    assert_eq!((server.accepted(), events.closed()), (2, vec![CloseReason::Dirty; 2]));
}

#[tokio::test]
async fn what_is_no_http_is_an_error_and_an_eviction() {
    let server = Scripted::always("SSH-2.0-nonsense\r\n\r\n").await;
    let (pool, events) = pool_of(server.config());
    let error = get(&pool, "/").await.unwrap_err();
    assert_eq!(error.failure(), Failure::Malformed, "{error}");
    assert_eq!(events.closed(), [error.reason().unwrap()]);
}

#[tokio::test]
async fn an_idle_connection_is_not_used_longer_than_its_server_said() {
    let server =
        Scripted::always("HTTP/1.1 200 OK\r\nkeep-alive: timeout=1\r\ncontent-length: 2\r\n\r\nok")
            .await;
    let (pool, events) = pool_of(server.config().with_min_idle(1));
    let began = Instant::now();
    assert_eq!(get_text(&pool, "/").await.unwrap(), "ok");
    // Even those that the pool is to keep. This server itself keeps it for ever.
    assert_eq!(events.until_closed(1).await, [CloseReason::IdleTimeout]);
    assert!(began.elapsed() >= SECOND / 2, "{:?}", began.elapsed());
}

#[tokio::test]
async fn it_is_not_even_if_nobody_had_the_time_to_evict_it() {
    let server =
        Scripted::always("HTTP/1.1 200 OK\r\nkeep-alive: timeout=1\r\ncontent-length: 2\r\n\r\nok")
            .await;
    let (pool, events) = pool_of(server.config());
    assert_eq!(get_text(&pool, "/").await.unwrap(), "ok");
    // The pool's own task has this thread only.
    std::thread::sleep(SECOND * 6 / 10);
    assert_eq!(get_text(&pool, "/").await.unwrap(), "ok");
    assert_eq!((events.opened(), events.closed()), (2, vec![CloseReason::IdleTimeout]));
}

#[tokio::test]
async fn a_read_times_out_only_while_an_answer_is_owed() {
    let server = Scripted::start(|mut talk, _| async move {
        while let Some(head) = talk.request().await {
            if head.starts_with("GET /poll") {
                tokio::time::sleep(3 * SECOND).await;
            } else if head.starts_with("GET /never") {
                talk.listen().await;
            }
            talk.say(OK).await;
        }
    })
    .await;
    let timeouts = Timeouts::default().with_read(2 * SECOND);
    let (pool, events) = pool_of(server.config().with_timeouts(timeouts));
    assert_eq!(get_text(&pool, "/").await.unwrap(), "ok");
    tokio::time::sleep(3 * SECOND).await;
    assert_eq!(get_text(&pool, "/").await.unwrap(), "ok", "silence that nobody minds");
    assert_eq!(events.opened(), 1);
    let patient = Limits::new().with_read_timeout(None);
    let response = pool.send_within(request_for("/poll"), patient).await.unwrap();
    assert_eq!(text(response).await.unwrap(), "ok");
    let error = get(&pool, "/never").await.unwrap_err();
    assert!(error.is_timeout() && error.is_retryable(), "{error}");
    assert_eq!(error.failure(), Failure::Unanswered);
    assert_eq!(events.closed(), [CloseReason::OpTimeout]);
    assert_eq!(events.timed_out(), [Operation::Read]);
    assert_eq!(events.opened(), 1, "a timeout is no reason to try again");
}

#[tokio::test]
async fn a_deadline_holds_over_the_head_and_the_body() {
    let server = Scripted::start(|mut talk, _| async move {
        while let Some(head) = talk.request().await {
            if head.starts_with("GET /body") {
                talk.say("HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n").await;
                loop {
                    // Trickles: no single read waits for long.
                    talk.say("x").await;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
            talk.listen().await;
        }
    })
    .await;
    let (pool, events) = pool_of(server.config());
    let limits = Limits::new().with_deadline(SECOND);
    let error = pool.send_within(request_for("/head"), limits).await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    let response = pool.send_within(request_for("/body"), limits).await.unwrap();
    let error = text(response).await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert_eq!(error.failure(), Failure::Body);
    assert_eq!(events.closed(), [CloseReason::OpTimeout; 2]);
    drop(pool);
}

#[tokio::test]
async fn a_deadline_holds_while_all_connections_are_in_use() {
    let (server, _go_on) = halting(100_000).await;
    let (pool, _) = pool_of(server.config().with_max_size(1));
    let held = get(&pool, "/").await.unwrap();
    let limits = Limits::new().with_deadline(Duration::from_millis(50));
    let error = pool.send_within(request_for("/"), limits).await.unwrap_err();
    assert_eq!(error.failure(), Failure::Checkout);
    assert!(error.is_timeout() && error.is_retryable());
    assert!(error.checkout_error().is_some(), "{error}");
    drop(held);
}

#[tokio::test]
async fn a_host_is_filled_in_and_interim_responses_are_skipped() {
    let server = Scripted::start(|mut talk, _| async move {
        while let Some(head) = talk.request().await {
            let host = head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
            let line = head.lines().next().unwrap();
            let text = format!("{line}|{host}");
            talk.say("HTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\n").await;
            let length = text.len();
            talk.say(&format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{text}")).await;
        }
    })
    .await;
    let (pool, events) = pool_of(server.config());
    let addr = server.addr();
    let own = get_text(&pool, "/a?b").await.unwrap();
    assert_eq!(own, format!("GET /a?b HTTP/1.1|{addr}"));
    let whole = get_text(&pool, "http://example.org/a").await.unwrap();
    assert_eq!(whole, "GET /a HTTP/1.1|example.org");
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
    let (pool, _) = pool_with(server.config(), Http1::new().with_host("mine").unwrap());
    assert_eq!(get_text(&pool, "/").await.unwrap(), "GET / HTTP/1.1|mine");
}

#[tokio::test]
async fn another_protocol_is_refused_and_the_connection_is_not_lost_by_it() {
    let server = Scripted::start(|mut talk, _| async move {
        while let Some(head) = talk.request().await {
            match head.starts_with("GET /switch") {
                true => talk.say("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n").await,
                false => talk.say(OK).await,
            }
        }
    })
    .await;
    let (pool, events) = pool_of(server.config());
    assert_eq!(get_text(&pool, "/").await.unwrap(), "ok");
    let upgrade = Request::get("/").header("upgrade", "websocket").body(()).unwrap();
    let error = pool.send(upgrade).await.unwrap_err();
    assert_eq!(error.failure(), Failure::Refused);
    assert!(error.to_string().contains("upgrade"), "{error}");
    assert_eq!((pool.status().idle, events.closed()), (1, vec![]));
    let error = get(&pool, "/switch").await.unwrap_err();
    assert_eq!(error.failure(), Failure::Malformed, "it was sent: {error}");
    assert_eq!(events.closed(), [error.reason().unwrap()]);
}

#[tokio::test]
async fn a_ping_is_a_head_request_before_a_connection_is_handed_out() {
    let server = Scripted::start(|mut talk, number| async move {
        while let Some(head) = talk.request().await {
            match (head.starts_with("HEAD /up "), number) {
                (false, _) => talk.say(OK).await,
                (true, 0) => talk.say("HTTP/1.1 503 No\r\ncontent-length: 9\r\n\r\n").await,
                (true, _) => talk.say("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n").await,
            }
        }
    })
    .await;
    let http1 = Http1::new().with_ping("/up").unwrap();
    let (pool, events) = pool_with(server.config().with_validation(Validation::Ping), http1);
    for _ in 0..4 {
        assert_eq!(get_text(&pool, "/").await.unwrap(), "ok");
    }
    assert_eq!(events.closed(), [CloseReason::PingFailed]);
    // Before each of the four, and once in vain.
    assert_eq!((server.accepted(), server.heard()), (2, 9));
}

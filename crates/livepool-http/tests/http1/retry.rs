//! Which requests are made again, and how often.

use std::time::Duration;

use livepool::{CloseReason, Config, Guard};
use livepool_http::{Failure, GuardExt, Http1, PoolExt, Request, RequestBody};

use crate::{get_text, pool_of, request_for, text};
use livepool_testkit::port::until_refused;
use livepool_testkit::scripted::{Scripted, Talk};
use livepool_testkit::{CLOSE_WAIT, sockets_to, until_seen};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// What a server does with the second request of its first connection, instead of answering it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Close,
    Reset,
    /// It gave up waiting at the moment in which the request was on its way.
    TooLate,
    /// It closes in the middle of the head of its answer.
    HalfHead,
}

async fn server(end: End, times: usize) -> Scripted {
    Scripted::start(move |mut talk: Talk, number| async move {
        talk.request().await;
        if number >= times {
            loop {
                talk.say(OK).await;
                if talk.request().await.is_none() {
                    return;
                }
            }
        }
        talk.say(OK).await;
        if talk.request().await.is_none() {
            return;
        }
        match end {
            End::Close => {}
            End::Reset => talk.reset(),
            End::TooLate => {
                talk.say("HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
            }
            End::HalfHead => talk.say("HTTP/1.1 200").await,
        }
    })
    .await
}

fn post(body: impl Into<RequestBody>) -> Request<RequestBody> {
    Request::post("/").body(body.into()).unwrap()
}

fn put(body: impl Into<RequestBody>) -> Request<RequestBody> {
    Request::put("/").body(body.into()).unwrap()
}

fn stream() -> RequestBody {
    RequestBody::stream(http_body_util::Full::new(bytes::Bytes::from_static(b"body")))
}

#[tokio::test]
async fn an_idempotent_request_that_met_the_close_is_made_once_more() {
    for end in [End::Close, End::Reset, End::TooLate] {
        for request in [request_for("/"), put("body"), put(())] {
            let server = server(end, 1).await;
            let (pool, events) = pool_of(server.config());
            assert_eq!(get_text(&pool, "/").await.unwrap(), "ok");
            let what = format!("{end:?} {request:?}");
            assert_eq!(text(pool.send(request).await.unwrap()).await.unwrap(), "ok", "{what}");
            assert_eq!((server.accepted(), server.heard()), (2, 3), "{what}");
            assert!(matches!(events.closed()[..], [CloseReason::PeerClosed | CloseReason::Reset]));
        }
    }
}

#[tokio::test]
async fn what_may_have_had_an_effect_is_not_made_again_and_its_error_says_so() {
    for end in [End::Close, End::Reset] {
        for request in [post("body"), post(()), put(stream())] {
            let server = server(end, 1).await;
            let (pool, _) = pool_of(server.config());
            assert_eq!(get_text(&pool, "/").await.unwrap(), "ok");
            let is_idempotent = request.method().is_idempotent();
            let error = pool.send(request).await.unwrap_err();
            assert_eq!(error.failure(), Failure::Unanswered, "{error}");
            assert_eq!(error.is_retryable(), is_idempotent);
            assert!(!error.is_timeout());
            assert!(error.to_string().contains("before any answer"), "{error}");
            assert_eq!(server.heard(), 2, "it was sent once");
            assert_eq!(get_text(&pool, "/").await.unwrap(), "ok", "the pool is whole");
        }
    }
}

#[tokio::test]
async fn a_408_to_what_cannot_be_made_again_is_the_answer() {
    let server = server(End::TooLate, 1).await;
    let (pool, events) = pool_of(server.config());
    assert_eq!(get_text(&pool, "/").await.unwrap(), "ok");
    let response = pool.send(post("body")).await.unwrap();
    assert_eq!(response.status(), 408);
    assert_eq!(events.closed(), [CloseReason::PeerClosed]);
}

#[tokio::test]
async fn an_answer_that_broke_off_is_not_asked_for_again() {
    let server = server(End::HalfHead, 1).await;
    let (pool, _) = pool_of(server.config());
    assert_eq!(get_text(&pool, "/").await.unwrap(), "ok");
    let error = get_text(&pool, "/").await.unwrap_err();
    assert_eq!(error.failure(), Failure::Answer, "{error}");
    assert_eq!(server.heard(), 2);
}

#[tokio::test]
async fn a_request_is_sent_twice_at_most() {
    let server = server(End::Close, 9).await;
    // Time enough to ask the second one whether it lives. Its kernel says so.
    let (pool, _) = pool_of(server.config().with_patience(std::time::Duration::from_secs(5)));
    // Both are idle, and both will be closed under a request.
    let both = tokio::join!(pool.get(), pool.get());
    let (first, second) = (both.0.unwrap(), both.1.unwrap());
    for guard in [first, second] {
        text(guard.send(request_for("/")).await.unwrap()).await.unwrap();
    }
    assert_eq!((pool.status().idle, server.heard()), (2, 2));
    let error = get_text(&pool, "/").await.unwrap_err();
    assert_eq!(error.failure(), Failure::Unanswered, "{error}");
    assert_eq!(server.heard(), 4);
}

/// There is no other connection to make it on, and the server may have acted on it all the same.
#[tokio::test]
async fn a_request_that_was_sent_and_lost_with_the_last_server_says_that_it_was_sent() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let timeouts = livepool::Timeouts::default().with_checkout(Duration::from_secs(1));
    let addr = listener.local_addr().unwrap();
    let config = Config::new(addr.to_string()).with_timeouts(timeouts);
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        drop(listener);
        let mut space = [0; 4096];
        assert!(stream.read(&mut space).await.unwrap() > 0);
        stream.write_all(OK.as_bytes()).await.unwrap();
        assert!(stream.read(&mut space).await.unwrap() > 0);
    });
    let (pool, _) = pool_of(config);
    assert_eq!(get_text(&pool, "/").await.unwrap(), "ok");
    let error = pool.send(put("body")).await.unwrap_err();
    server.await.unwrap();
    assert_eq!(error.failure(), Failure::Unanswered, "{error}");
    assert!(error.to_string().contains("may have seen"), "{error}");
    // A program that another test starts may have the listener for a moment longer.
    until_refused(addr);
    let error = pool.send(put("body")).await.unwrap_err();
    assert_eq!(error.failure(), Failure::Checkout, "nothing was sent: {error}");
}

#[tokio::test]
async fn a_new_connection_that_is_closed_at_once_is_not_tried_again() {
    let server = Scripted::start(|mut talk, _| async move {
        talk.request().await;
    })
    .await;
    let (pool, _) = pool_of(server.config());
    let error = get_text(&pool, "/").await.unwrap_err();
    assert_eq!((error.failure(), server.heard()), (Failure::Unanswered, 1));
    assert!(error.is_retryable());
}

/// As the kernel does for a server that ends: connections that it will never accept are made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_of_which_nothing_was_sent_is_made_on_another_new_connection() {
    let server = Scripted::start(|mut talk, number| async move {
        while number % 2 == 1 && talk.request().await.is_some() {
            talk.say(OK).await;
        }
    })
    .await;
    let (mut answered, mut unanswered) = (0, 0);
    for _ in 0..100 {
        let (pool, _) = pool_of(server.config());
        match pool.send(post("body")).await {
            Ok(response) => assert_eq!(text(response).await.unwrap(), "ok", "{answered}"),
            Err(error) => {
                assert_eq!(error.failure(), Failure::Unanswered, "after {answered}: {error}");
                unanswered += 1;
                continue;
            }
        }
        answered += 1;
    }
    println!("{answered} answered, {unanswered} not");
}

#[tokio::test]
async fn a_connection_that_ended_before_the_first_byte_gives_the_request_back_unsent() {
    let goodbye = "HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n\r\n";
    for (last_word, reason) in [("", CloseReason::PeerClosed), (goodbye, CloseReason::Dirty)] {
        let server =
            Scripted::start(move |mut talk, _| async move { talk.say(last_word).await }).await;
        let (pool, events) = pool_of(server.config());
        let guard: Guard<Http1> = pool.get().await.unwrap();
        // A program that another test starts may have the server's end for a moment longer.
        until_seen(|| sockets_to(server.addr(), CLOSE_WAIT), |seen| *seen == 1).await;
        let error = guard.send(post("body")).await.unwrap_err();
        assert_eq!(error.failure(), Failure::Unsent, "{error}");
        assert!(error.is_retryable());
        assert_eq!((server.heard(), events.closed()), (0, vec![reason]));
    }
}

/// One of two servers, each with a name of its own, ends every connection before it is asked anything.
#[tokio::test]
async fn a_request_that_is_made_again_at_another_server_has_the_host_of_that_one() {
    let gone = Scripted::start(|_, _| async {}).await;
    let there = Scripted::start(|mut talk, _| async move {
        while let Some(head) = talk.request().await {
            let host = head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
            let length = host.len();
            talk.say(&format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{host}")).await;
        }
    })
    .await;
    let config =
        Config::new("").with_upstream([&gone, &there].map(|server| server.addr().to_string()));
    let mut made_again = 0;
    for _ in 0..100 {
        let (pool, events) = pool_of(config.clone());
        // The first one has ended by the time it is used, as far as that can be.
        let Ok(host) = get_text(&pool, "/").await else { continue };
        assert_eq!(host, there.addr().to_string());
        let own = Request::get("/").header("host", "mine").body(RequestBody::from(())).unwrap();
        if let Ok(response) = pool.send(own).await {
            assert_eq!(text(response).await.unwrap(), "mine");
        }
        made_again += usize::from(events.opened() > 1);
    }
    println!("{made_again} made again");
    assert!(made_again > 0, "no request was made again");
}

/// The close comes at every possible moment: while the connection is idle, between the checkout and
/// the first byte, and after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_have_had_an_effect_reaches_the_server_once_at_most_however_the_close_falls() {
    let server = Scripted::start(|mut talk, number| async move {
        for count in 0.. {
            if talk.request().await.is_none() {
                return;
            }
            talk.say(OK).await;
            if count == number % 4 {
                // From nothing to about as long as a request takes to be made.
                for _ in 0..number % 64 {
                    std::hint::spin_loop();
                    tokio::task::yield_now().await;
                }
                if number % 3 == 0 {
                    // Read, perhaps acted upon, and not answered.
                    talk.request().await;
                }
                return;
            }
        }
    })
    .await;
    let (pool, _) = pool_of(server.config().with_max_size(4));
    let (mut answered, mut unanswered) = (0, 0);
    for _ in 0..3000 {
        match pool.send(post(())).await {
            Ok(response) => {
                assert_eq!(text(response).await.unwrap(), "ok");
                answered += 1;
            }
            Err(error) => {
                assert_eq!(error.failure(), Failure::Unanswered, "{error}");
                unanswered += 1;
            }
        }
    }
    println!("{answered} answered, {unanswered} not, {} heard", server.heard());
    assert!(answered >= 1500 && server.heard() >= answered);
    assert!(server.heard() <= answered + unanswered, "one was heard twice");
    for _ in 0..3000 {
        assert_eq!(get_text(&pool, "/").await.unwrap(), "ok", "what does no harm is made again");
    }
}

#[tokio::test]
async fn a_body_that_fails_is_the_callers_own_error() {
    struct Broken;
    impl livepool_http::http_body::Body for Broken {
        type Data = bytes::Bytes;
        type Error = std::io::Error;
        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<std::io::Result<livepool_http::http_body::Frame<bytes::Bytes>>>>
        {
            std::task::Poll::Ready(Some(Err(std::io::Error::other("no paper left"))))
        }
    }
    let server = Scripted::always(OK).await;
    let (pool, events) = pool_of(server.config());
    let error = pool.send(post(RequestBody::stream(Broken))).await.unwrap_err();
    assert_eq!(error.failure(), Failure::RequestBody, "{error}");
    assert!(error.to_string().ends_with("no paper left"), "{error}");
    assert_eq!(events.closed(), [CloseReason::Unfinished]);
}

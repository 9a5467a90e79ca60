//! Responses as servers of the field send them: what the caller gets, and what the next one meets.

use std::time::Duration;

use livepool::{CloseReason, Config, Timeouts};
use livepool_http::{Failure, GuardExt, Http1, Limits, PoolExt, Request, RequestBody};
use tokio::time::Instant;

use crate::{get, get_text, pool_of, pool_with, request_for};
use livepool_testkit::blackhole::Blackhole;
use livepool_testkit::scripted::Scripted;
use livepool_testkit::until_seen;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Whether the next request has the same connection. `None`: it does not matter.
type Reused = Option<bool>;

/// Asks a server that answers `/first` with this, and then for something else. Returns what the first
/// caller got, the status and the body or the error, and whether the second had the same connection.
async fn then_another(method: &'static str, answer: String) -> (Result<String, String>, bool) {
    let server = Scripted::start(move |mut talk, _| {
        let answer = answer.clone();
        async move {
            while let Some(head) = talk.request().await {
                match head.contains("/second") {
                    true => talk.say("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecond").await,
                    false => talk.say(&answer).await,
                }
            }
        }
    })
    .await;
    let timeouts = Timeouts::default().with_read(Duration::from_secs(2));
    let (pool, events) = pool_of(server.config().with_max_size(1).with_timeouts(timeouts));
    let request = Request::builder().method(method).uri("/first").body(()).unwrap();
    let first = match pool.send(request).await {
        Err(error) => Err(error.to_string()),
        Ok(response) => {
            let status = response.status().as_u16();
            let body = response.into_body().bytes(1 << 20).await;
            body.map(|body| format!("{status} {}", String::from_utf8_lossy(&body)))
                .map_err(|error| error.to_string())
        }
    };
    let second = pool.send(Request::post("/second").body(()).unwrap()).await.unwrap();
    let second = second.into_body().bytes(100).await.unwrap();
    assert_eq!(second.as_ref(), b"second", "the next caller has an answer of its own");
    (first, events.opened() == 1)
}

#[tokio::test]
async fn every_framing_is_understood_or_refused_and_never_in_doubt_for_the_next_request() {
    const YES: Reused = Some(true);
    const NO: Reused = Some(false);
    let rows: &[(&str, &str, Reused, Option<&str>)] = &[
        ("HEAD", "200 OK\r\ncontent-length: 500\r\n\r\n", YES, Some("200 ")),
        ("HEAD", "200 OK\r\ntransfer-encoding: chunked\r\n\r\n", YES, Some("200 ")),
        ("GET", "304 Not Modified\r\ncontent-length: 500\r\n\r\n", YES, Some("304 ")),
        ("GET", "204 No Content\r\ncontent-length: 0\r\n\r\n", YES, Some("204 ")),
        ("GET", "204 No Content\r\ncontent-length: 5\r\n\r\nhello", NO, Some("204 ")),
        ("HEAD", "200 OK\r\ncontent-length: 5\r\n\r\nhello", NO, Some("200 ")),
        (
            "GET",
            "200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x\r\n\r\n2\r\nok\r\n0\r\nx: 7\r\n\r\n",
            YES,
            Some("200 ok"),
        ),
        (
            "GET",
            "200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;a=b\r\nok\r\n0;c\r\n\r\n",
            YES,
            Some("200 ok"),
        ),
        ("GET", "200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\nok\r\n0\r\n\r\n", NO, None),
        ("GET", "200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n", NO, None),
        ("GET", "200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok", None, Some("200 ok")),
        ("GET", "200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok", NO, None),
        ("GET", "200 OK\r\ncontent-length: +2\r\n\r\nok", NO, None),
        ("GET", "200 OK\r\ncontent-length: 2\r\n\r\nokGARBAGE", NO, Some("200 ok")),
        (
            "GET",
            "200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
            NO,
            Some("200 ok"),
        ),
        ("GET", "200 OK\r\nx-a: b\r\n c\r\ncontent-length: 2\r\n\r\nok", NO, None),
        ("GET", "200\r\ncontent-length: 2\r\n\r\nok", YES, Some("200 ok")),
        ("GET", "101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n", NO, None),
        // Two lengths: RFC 9112 sections 6.1 and 6.3. Somebody may be smuggling a response.
        (
            "GET",
            "200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            NO,
            Some("200 ok"),
        ),
        (
            "HEAD",
            "200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
            NO,
            Some("200 "),
        ),
        // HTTP/1.0 has no chunks.
        (
            "GET",
            "1.0 200 OK\r\nconnection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            NO,
            None,
        ),
    ];
    for &(method, answer, reused, expected) in rows {
        let version = if answer.starts_with("1.0 ") { "HTTP/" } else { "HTTP/1.1 " };
        let (first, was_reused) = then_another(method, format!("{version}{answer}")).await;
        match (expected, &first) {
            (Some(expected), Ok(text)) => assert_eq!(text, expected, "{method} {answer}"),
            (None, Err(_)) => {}
            _ => panic!("{method} {answer}: {first:?}"),
        }
        assert!(
            reused.is_none_or(|reused| reused == was_reused),
            "{method} {answer}: {was_reused}"
        );
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_understood_says_why_and_is_not_worth_a_second_request() {
    let many: String = (0..101).map(|count| format!("x-{count}: y\r\n")).collect();
    let many = format!("HTTP/1.1 200 OK\r\n{many}content-length: 2\r\n\r\nok");
    for (answer, why) in [
        (many.as_str(), "message head is too large"),
        ("HTTP/1.1 200 OK\r\nx-a: b\r\n c\r\ncontent-length: 2\r\n\r\nok", "invalid HTTP header"),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "invalid HTTP version"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok", "content-length"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "chunk size"),
        (
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
            "another protocol",
        ),
    ] {
        let answer = answer.to_owned();
        let server = Scripted::start(move |mut talk, _| {
            let answer = answer.clone();
            async move {
                talk.request().await;
                talk.say(&answer).await;
                talk.listen().await;
            }
        })
        .await;
        let (pool, events) = pool_of(server.config());
        let error = get_text(&pool, "/").await.unwrap_err();
        assert_eq!(error.failure(), Failure::Malformed, "{error}");
        let text = error.to_string();
        assert!(text.contains(why) && text.matches(why).count() == 1, "{text}");
        assert!(text.contains("cannot be understood") && !text.contains('\n'), "{text}");
        assert!(!error.is_retryable() && !error.is_timeout(), "{text}");
        assert_eq!(error.reason(), Some(CloseReason::ProtocolError), "{text}");
        assert_eq!(
            (server.heard(), events.closed()),
            (1, vec![CloseReason::ProtocolError]),
            "{text}"
        );
        let chain =
            std::iter::successors(std::error::Error::source(&error), |error| error.source());
        assert!(!chain.into_iter().any(|source| source.to_string().contains(why)), "said twice");
    }
}

#[tokio::test]
async fn a_chunked_body_that_has_arrived_costs_no_connection_when_nobody_reads_it() {
    let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
    let server = Scripted::always(answer).await;
    let (pool, events) = pool_of(server.config().with_max_size(1));
    for _ in 0..5 {
        let response = get(&pool, "/").await.unwrap();
        assert!(response.body().holds_connection());
        drop(response);
    }
    assert_eq!(get_text(&pool, "/").await.unwrap(), "hello world");
    assert_eq!((server.accepted(), events.closed()), (1, vec![]));
}

#[tokio::test]
async fn a_chunked_body_whose_end_is_not_there_costs_its_connection_at_once() {
    for (beginning, then) in [
        // More than is read for nobody.
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n20000\r\n", 0x20000),
        // An event stream: its end never comes.
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n", 0),
    ] {
        let server = Scripted::start(move |mut talk, _| async move {
            talk.request().await;
            talk.say(beginning).await;
            talk.say(&"x".repeat(then)).await;
            talk.listen().await;
        })
        .await;
        let timeouts = Timeouts::default().with_reset(Duration::from_secs(60));
        let (pool, events) = pool_of(server.config().with_timeouts(timeouts));
        let began = Instant::now();
        drop(get(&pool, "/").await.unwrap());
        assert_eq!(events.until_closed(1).await, [CloseReason::Unfinished]);
        assert!(began.elapsed() < Duration::from_secs(5), "not for as long as a reset may take");
    }
}

#[tokio::test]
async fn a_body_that_a_deadline_cuts_says_so() {
    let server = Scripted::start(|mut talk, _| async move {
        talk.request().await;
        talk.say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        let chunks = "1\r\nx\r\n".repeat(2000);
        loop {
            talk.say(&chunks).await;
            tokio::task::yield_now().await;
        }
    })
    .await;
    let (pool, events) = pool_of(server.config());
    let limits = Limits::new().with_deadline(Duration::from_millis(200));
    let mut cut = 0;
    while cut < 20 {
        let error = match pool.send_within(request_for("/"), limits).await {
            // On a machine that is busy the head may be late.
            Err(error) => error,
            Ok(response) => {
                cut += 1;
                let mut body = response.into_body();
                let error = loop {
                    match body.frame().await {
                        Some(Ok(_)) => {}
                        Some(Err(error)) => break error,
                        None => panic!("the body ended"),
                    }
                };
                assert_eq!(error.failure(), Failure::Body);
                assert!(error.to_string().contains("did not come in time (op_timeout)"), "{error}");
                error
            }
        };
        assert!(error.is_timeout(), "{error}: {error:?}");
    }
    assert!(events.closed().iter().all(|reason| *reason == CloseReason::OpTimeout));
}

#[tokio::test]
async fn what_is_no_request_for_this_pool_fails_at_once_and_takes_no_connection() {
    let hole = Blackhole::start();
    let (pool, events) = pool_of(Config::new(hole.addr().to_string()));
    let requests: [(livepool_http::http::request::Builder, &str); 4] = [
        (Request::get("/").header("upgrade", "websocket"), "upgrade"),
        (Request::connect("example.org:443"), "CONNECT"),
        (Request::get("https://example.org/"), "for https"),
        (Request::get("/").version(livepool_http::http::Version::HTTP_2), "HTTP/2"),
    ];
    for (request, why) in requests {
        let began = Instant::now();
        let error = pool.send(request.body(RequestBody::from(())).unwrap()).await.unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(5), "before any deadline: {error}");
        assert_eq!(error.failure(), Failure::Refused, "{error}");
        assert!(error.to_string().contains(why) && !error.is_retryable(), "{error}");
    }
    assert_eq!(pool.status().connecting, 0);
    // With a connection in hand that stays whole.
    let server = Scripted::always(OK).await;
    let (pool, others) = pool_of(server.config());
    let guard = pool.get().await.unwrap();
    let error =
        guard.send(Request::connect("example.org:443").body(()).unwrap()).await.unwrap_err();
    assert_eq!(error.failure(), Failure::Refused, "{error}");
    until_seen(|| pool.status(), |now| now.idle == 1).await;
    assert_eq!((events.all().len(), others.closed()), (0, vec![]));
}

#[tokio::test]
async fn what_a_response_may_be_is_a_setting() {
    let many: String = (0..23_990).map(|count| format!("x-{count}: y\r\n")).collect();
    let long = format!("x: {}\r\n", "y".repeat(600_000));
    let rows: [(&str, Http1); 7] = [
        (&many, Http1::new().with_max_headers(24_000).unwrap()),
        (&long, Http1::new().with_max_buf_size(1 << 20).unwrap()),
        ("x-a: b\r\n c\r\n", Http1::new().with_folded_headers(true)),
        ("x-a : b\r\n", Http1::new().with_spaces_after_header_names(true)),
        ("this is no header\r\n", Http1::new().with_invalid_headers_ignored(true)),
        ("X-A: b\r\n", Http1::new().with_header_case_preserved(true).with_vectored_writes(false)),
        ("", Http1::new().with_max_head_size(100)),
    ];
    for (fields, http1) in rows {
        let answer = format!("HTTP/1.1 200 OK\r\n{fields}content-length: 2\r\n\r\nok");
        let server = Scripted::start(move |mut talk, _| {
            let answer = answer.clone();
            async move {
                while talk.request().await.is_some() {
                    talk.say(&answer).await;
                }
            }
        })
        .await;
        let what = &fields[..fields.len().min(20)];
        let (pool, _) = pool_with(server.config(), http1);
        assert_eq!(get_text(&pool, "/").await.unwrap(), "ok", "{what}");
        let is_plain = fields.is_empty() || fields.starts_with("X-A");
        if !is_plain {
            let (pool, _) = pool_of(server.config());
            let error = get_text(&pool, "/").await.unwrap_err();
            assert_eq!(error.failure(), Failure::Malformed, "{what}: {error}");
        }
    }
    let server = Scripted::always(OK).await;
    let (pool, _) = pool_with(server.config(), Http1::new().with_max_head_size(20));
    let error = get_text(&pool, "/").await.unwrap_err();
    assert!(error.to_string().contains("with_max_headers"), "{error}");
    for refused in [Http1::new().with_max_buf_size(8191), Http1::new().with_max_headers(24_001)] {
        assert_eq!(refused.unwrap_err().failure(), Failure::Setup);
    }
}

#[tokio::test]
async fn a_request_is_written_as_its_server_needs_it_and_an_old_answer_is_taken() {
    let server = Scripted::start(|mut talk, _| async move {
        while let Some(head) = talk.request().await {
            if head.starts_with("GET /old") {
                return talk.say("just this").await;
            }
            let is_title = head.contains("\r\nX-Some-Name: ");
            let length = is_title.to_string().len();
            talk.say(&format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{is_title}"))
                .await;
        }
    })
    .await;
    for title in [true, false] {
        let http1 = Http1::new().with_title_case_headers(title).with_http09_responses(true);
        let (pool, _) = pool_with(server.config(), http1);
        let request = Request::get("/").header("x-some-name", "x").body(()).unwrap();
        let response = pool.send(request).await.unwrap();
        let body = response.into_body().bytes(100).await.unwrap();
        assert_eq!(body, title.to_string());
    }
    let (pool, _) = pool_with(server.config(), Http1::new().with_http09_responses(true));
    assert_eq!(get_text(&pool, "/old").await.unwrap(), "just this");
}

#[test]
fn a_path_that_is_pinged_keeps_its_query_to_itself() {
    let http1 = Http1::new().with_ping("/up?token=hunter2").unwrap();
    let shown = format!("{http1:?}");
    assert!(shown.contains("/up") && !shown.contains("hunter2"), "{shown}");
}

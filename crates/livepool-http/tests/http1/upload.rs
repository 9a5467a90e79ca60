//! Uploads: an answer that comes before the request is over, and a source that takes its time.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use livepool::event::Operation;
use livepool::{CloseReason, Config, Timeouts};
use livepool_http::http_body::{Body, Frame};
use livepool_http::{Failure, Limits, PoolExt, Request, RequestBody};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::{get_text, pool_of, text};
use livepool_testkit::scripted::{Scripted, Talk};
use livepool_testkit::servers::Nginx;
use livepool_testkit::{until, until_seen};

const SECOND: Duration = Duration::from_secs(1);
const UPLOAD: usize = 20_000_000;

/// A body that comes through a channel, and is over with it.
struct Piecewise(mpsc::UnboundedReceiver<Bytes>);

impl Body for Piecewise {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

fn piecewise() -> (mpsc::UnboundedSender<Bytes>, RequestBody) {
    let (pieces, source) = mpsc::unbounded_channel();
    (pieces, RequestBody::stream(Piecewise(source)))
}

fn post(body: impl Into<RequestBody>) -> Request<RequestBody> {
    Request::post("/up").body(body.into()).unwrap()
}

/// How many bytes of each body a server took in.
type Taken = Arc<Mutex<Vec<usize>>>;

/// Answers as soon as it has the head of a request, and then takes in its body.
async fn hasty(answer: &'static str) -> (Scripted, Taken) {
    let taken = Taken::default();
    let notes = Arc::clone(&taken);
    let server = Scripted::start(move |mut talk, _| {
        let notes = Arc::clone(&notes);
        async move {
            while let Some(head) = talk.request().await {
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                talk.say(answer).await;
                let taken = match length {
                    Some(length) => talk.skip(length.parse().unwrap()).await,
                    None if head.contains("transfer-encoding: chunked") => talk.chunks().await,
                    None => continue,
                };
                notes.lock().unwrap().push(taken);
            }
        }
    })
    .await;
    (server, taken)
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\naccepted";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_before_the_upload_is_over_does_not_cut_it() {
    let (server, taken) = hasty(OK).await;
    let (pool, events) = pool_of(server.config().with_max_size(1));
    for _ in 0..5 {
        let response = pool.send(post(vec![b'u'; UPLOAD])).await.unwrap();
        assert_eq!(text(response).await.unwrap(), "accepted");
    }
    // All at once, or in pieces; read to the end, or dropped.
    let (pieces, streamed) = piecewise();
    for _ in 0..200 {
        pieces.send(vec![b'u'; UPLOAD / 200].into()).unwrap();
    }
    drop(pieces);
    drop(pool.send(post(streamed)).await.unwrap());
    drop(pool.send(post(vec![b'u'; UPLOAD])).await.unwrap());
    until_seen(|| taken.lock().unwrap().clone(), |taken| taken.len() == 7).await;
    assert_eq!(*taken.lock().unwrap(), [UPLOAD; 7]);
    assert_eq!((server.accepted(), events.closed()), (1, vec![]), "and it is used again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_answers_an_upload_early_and_gets_all_of_it() {
    let nginx = Nginx::start_with("client_max_body_size 64m;", None);
    let (pool, events) =
        pool_of(Config::new(format!("127.0.0.1:{}", nginx.port())).with_max_size(1));
    for tag in 0..5 {
        let request = Request::post("/tag/early").body(vec![b'u'; UPLOAD]).unwrap();
        assert_eq!(text(pool.send(request).await.unwrap()).await.unwrap(), "early");
        // The same connection, on which nginx has read what was sent before.
        assert_eq!(get_text(&pool, &format!("/tag/{tag}")).await.unwrap(), tag.to_string());
    }
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

#[tokio::test]
async fn an_answer_without_a_body_does_not_stop_an_upload_whatever_becomes_of_it() {
    for answer in [
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 202 Accepted\r\ncontent-length: 8\r\n\r\naccepted",
    ] {
        let (server, taken) = hasty(answer).await;
        let (pool, events) = pool_of(server.config());
        let mut response = pool.send(post(vec![b'u'; UPLOAD])).await.unwrap();
        if response.status() == 202 {
            // As who knows that there is no more.
            response.body_mut().frame().await.unwrap().unwrap();
        }
        // Kept, and not polled.
        until_seen(|| taken.lock().unwrap().clone(), |taken| taken.len() == 1).await;
        assert_eq!(*taken.lock().unwrap(), [UPLOAD]);
        until_seen(|| pool.status(), |now| now.idle == 1).await;
        assert_eq!(events.closed(), []);
        drop(response);
    }
}

#[tokio::test]
async fn nginx_waits_for_an_upload_that_pauses() {
    let nginx = Nginx::start();
    let timeouts = Timeouts::default().with_read(2 * SECOND);
    let config = Config::new(format!("127.0.0.1:{}", nginx.port())).with_timeouts(timeouts);
    let (pool, events) = pool_of(config);
    let (pieces, streamed) = piecewise();
    tokio::spawn(async move {
        for _ in 0..2 {
            tokio::time::sleep(SECOND * 3).await;
            let _ = pieces.send("piece".into());
        }
    });
    // It takes all of it in before it passes it on.
    let request = Request::post("/upload").body(streamed).unwrap();
    assert_eq!(text(pool.send(request).await.unwrap()).await.unwrap(), "took it");
    assert_eq!((events.opened(), events.timed_out()), (1, vec![]));
}

#[tokio::test]
async fn an_answer_that_does_not_want_the_upload_cuts_it() {
    for answer in [
        "HTTP/1.1 413 Content Too Large\r\ncontent-length: 8\r\n\r\naccepted",
        "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 8\r\n\r\naccepted",
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 8\r\n\r\naccepted",
    ] {
        let (server, _) = hasty(answer).await;
        let (pool, events) = pool_of(server.config());
        for is_read in [true, false] {
            let (_pieces, streamed) = piecewise();
            let response = pool.send(post(streamed)).await.unwrap();
            assert!(response.body().holds_connection());
            if is_read {
                assert_eq!(text(response).await.unwrap(), "accepted", "the answer itself is good");
            }
        }
        assert_eq!(events.closed(), [CloseReason::Unfinished; 2], "{answer}");
        assert_eq!(server.accepted(), 2);
    }
}

#[tokio::test]
async fn an_upload_that_goes_on_has_its_connection_until_it_is_over() {
    let (server, taken) = hasty(OK).await;
    // Shorter than the pauses, which are no concern of either.
    let timeouts = Timeouts::default().with_read(2 * SECOND).with_reset(2 * SECOND);
    let (pool, events) = pool_of(server.config().with_max_size(1).with_timeouts(timeouts));
    let (pieces, streamed) = piecewise();
    let response = pool.send(post(streamed)).await.unwrap();
    assert_eq!(text(response).await.unwrap(), "accepted");
    for _ in 0..3 {
        tokio::time::sleep(SECOND * 3).await;
        assert_eq!((pool.status().in_use, pool.status().idle), (1, 0));
        pieces.send("piece".into()).unwrap();
    }
    drop(pieces);
    let other = pool.send(Request::get("/").body(()).unwrap()).await.unwrap();
    assert_eq!(text(other).await.unwrap(), "accepted");
    assert_eq!(*taken.lock().unwrap(), [15]);
    assert_eq!((server.accepted(), events.closed()), (1, vec![]));
}

#[tokio::test]
async fn a_pause_of_the_source_is_no_fault_of_the_server() {
    let server = Scripted::start(|mut talk, _| async move {
        while let Some(head) = talk.request().await {
            let length = match head.contains("chunked") {
                true => talk.chunks().await,
                false => talk.skip(15).await,
            };
            talk.say(&format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{length}")).await;
        }
    })
    .await;
    let timeouts = Timeouts::default().with_read(2 * SECOND);
    let (pool, events) = pool_of(server.config().with_timeouts(timeouts));
    let uploads = ["", "15"].map(|length| {
        let (pieces, streamed) = piecewise();
        let mut request = post(streamed);
        if !length.is_empty() {
            request.headers_mut().insert("content-length", length.parse().unwrap());
        }
        let feeds = tokio::spawn(async move {
            for _ in 0..3 {
                tokio::time::sleep(SECOND * 3).await;
                pieces.send("piece".into()).unwrap();
            }
        });
        let pool = &pool;
        async move {
            let response = pool.send(request).await.unwrap();
            assert_eq!(text(response).await.unwrap(), "15");
            feeds.await.unwrap();
        }
    });
    futures_util::future::join_all(uploads).await;
    assert_eq!((events.opened(), events.closed(), events.timed_out()), (2, vec![], vec![]));
}

#[tokio::test]
async fn a_server_that_has_all_of_a_streamed_request_owes_its_answer_in_time() {
    let server = Scripted::start(|mut talk, _| async move {
        talk.request().await;
        talk.listen().await;
    })
    .await;
    let timeouts = Timeouts::default().with_read(SECOND / 4);
    let (pool, events) = pool_of(server.config().with_timeouts(timeouts));
    let (pieces, streamed) = piecewise();
    let over = Arc::new(Mutex::new(None));
    let noted = Arc::clone(&over);
    tokio::spawn(async move {
        tokio::time::sleep(SECOND).await;
        *noted.lock().unwrap() = Some(Instant::now());
        drop(pieces);
    });
    let error = pool.send(post(streamed)).await.unwrap_err();
    let waited = over.lock().unwrap().expect("it failed while its source paused").elapsed();
    assert!(waited >= SECOND / 4, "{waited:?}");
    assert!(error.is_timeout(), "{error}");
    assert_eq!(error.failure(), Failure::Unanswered);
    assert_eq!(events.timed_out(), [Operation::Read]);
}

/// Takes no byte of any body.
async fn stuck(answer: &'static str) -> Scripted {
    Scripted::start(move |mut talk: Talk, _| async move {
        talk.request().await;
        talk.say(answer).await;
        std::future::pending::<()>().await;
    })
    .await
}

#[tokio::test]
async fn a_server_that_takes_no_bytes_is_left_after_the_write_timeout() {
    let timeouts = Timeouts::default().with_read(None).with_write(SECOND);
    let server = stuck("").await;
    let (pool, events) = pool_of(server.config().with_timeouts(timeouts));
    let error = pool.send(post(vec![b'u'; UPLOAD])).await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    // Where it has answered before, the caller is gone already.
    let server = stuck(OK).await;
    let (pool, later) = pool_of(server.config().with_timeouts(timeouts));
    assert_eq!(text(pool.send(post(vec![b'u'; UPLOAD])).await.unwrap()).await.unwrap(), "accepted");
    assert_eq!(later.until_closed(1).await, [CloseReason::OpTimeout]);
    for events in [events, later] {
        assert!(
            matches!(events.timed_out()[..], [Operation::Write | Operation::Flush]),
            "{:?}",
            events.timed_out()
        );
    }
}

#[tokio::test]
async fn the_deadline_of_a_request_holds_for_an_upload_that_goes_on() {
    let (server, _) = hasty(OK).await;
    let (pool, events) = pool_of(server.config());
    let (_pieces, streamed) = piecewise();
    let limits = Limits::new().with_deadline(SECOND);
    let response = pool.send_within(post(streamed), limits).await.unwrap();
    assert_eq!(text(response).await.unwrap(), "accepted");
    assert_eq!(events.closed(), []);
    assert_eq!(events.until_closed(1).await, [CloseReason::OpTimeout]);
}

#[tokio::test]
async fn a_source_that_panics_for_nobody_costs_its_own_connection() {
    /// At this moment.
    struct Panics(Pin<Box<tokio::time::Sleep>>);
    impl Body for Panics {
        type Data = Bytes;
        type Error = std::io::Error;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
            assert!(self.0.as_mut().poll(cx).is_pending(), "on purpose");
            Poll::Pending
        }
    }
    let (server, _) = hasty("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let (pool, events) = pool_of(server.config());
    let panics = RequestBody::stream(Panics(Box::pin(tokio::time::sleep(SECOND))));
    let response = pool.send(post(panics)).await.unwrap();
    // Nothing moves it but a task of the pool.
    drop(response);
    assert_eq!(events.until_closed(1).await, [CloseReason::Panicked]);
    assert_eq!(get_text(&pool, "/").await.unwrap(), "");
}

#[tokio::test]
async fn a_pool_that_is_closed_ends_what_goes_on() {
    let (server, _) = hasty(OK).await;
    let (pool, events) = pool_of(server.config());
    let (_pieces, streamed) = piecewise();
    assert_eq!(text(pool.send(post(streamed)).await.unwrap()).await.unwrap(), "accepted");
    pool.close();
    assert_eq!(events.until_closed(1).await.len(), 1);
    until(|| server.finished() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn early_answers_and_callers_who_go_leave_every_answer_with_its_request() {
    let served = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&served);
    let server = Scripted::start(move |mut talk, _| {
        let count = Arc::clone(&count);
        async move {
            while let Some(head) = talk.request().await {
                count.fetch_add(1, Ordering::SeqCst);
                let tag = head.split(' ').nth(1).unwrap().to_owned();
                talk.say(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{tag}", tag.len()))
                    .await;
                if head.contains("content-length") {
                    talk.skip(200_000).await;
                }
            }
        }
    })
    .await;
    let (pool, _) = pool_of(server.config().with_max_size(4));
    let callers = (0..8).map(|caller| {
        let pool = pool.clone();
        tokio::spawn(async move {
            for count in 0..100 {
                let tag = format!("/{caller}-{count}");
                let request = Request::post(&tag).body(vec![b'u'; 200_000]).unwrap();
                let asks = async { text(pool.send(request).await?).await };
                let patience = Duration::from_micros(fastrand::u64(0..3000));
                if let Ok(answer) = tokio::time::timeout(patience, asks).await {
                    assert_eq!(answer.unwrap(), tag);
                }
                assert_eq!(
                    get_text(&pool, &format!("{tag}-get")).await.unwrap(),
                    format!("{tag}-get")
                );
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    println!("{} heard, {} connections", served.load(Ordering::SeqCst), server.accepted());
}

mod tls {
    use super::*;
    use crate::pool_with;
    use livepool_http::Http1;
    use livepool_testkit::servers::Certs;
    use livepool_tls::Tls;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn under_tls_an_early_answer_does_not_cut_an_upload_either() {
        let certs = Certs::new();
        let nginx = Nginx::start_with("client_max_body_size 64m;", Some(&certs));
        let tls = Tls::builder().with_root_pem(certs.ca_pem()).build().unwrap();
        let config = Config::new(format!("localhost:{}", nginx.tls_port())).with_max_size(1);
        let (pool, events) = pool_with(config, Http1::new().with_tls(tls));
        for tag in 0..2 {
            let request = Request::post("/tag/early").body(vec![b'u'; UPLOAD / 4]).unwrap();
            assert_eq!(text(pool.send(request).await.unwrap()).await.unwrap(), "early");
            assert_eq!(get_text(&pool, &format!("/tag/{tag}")).await.unwrap(), tag.to_string());
        }
        assert_eq!((events.opened(), events.closed()), (1, vec![]));
    }

    #[tokio::test]
    async fn whatever_way_a_pool_is_built_https_is_spoken_or_nothing() {
        let first = Arc::new(Mutex::new(Vec::<Vec<u8>>::new()));
        let notes = Arc::clone(&first);
        let server = Scripted::start(move |mut talk, _| {
            let notes = Arc::clone(&notes);
            async move {
                let first = talk.body(1).await;
                notes.lock().unwrap().extend(first);
            }
        })
        .await;
        let url = format!("https://{}", server.addr());
        let quick =
            |config: Config| config.with_timeouts(Timeouts::default().with_checkout(3 * SECOND));
        let http1 = livepool_http::Http1::from_url(&url).unwrap();
        let (pool, _) = pool_with(quick(http1.config()), http1);
        get_text(&pool, "/secret").await.unwrap_err();
        let error = get_text(&pool, "http://example.org/secret").await.unwrap_err();
        assert_eq!(error.failure(), Failure::Refused, "{error}");
        let pool = livepool_http::pool(&url).unwrap();
        let limits = Limits::new().with_deadline(3 * SECOND);
        pool.send_within(Request::get("/secret").body(()).unwrap(), limits).await.unwrap_err();
        // A ClientHello of TLS (RFC 8446 section 5.1).
        let first = first.lock().unwrap();
        assert!(first.len() >= 2 && first.iter().all(|bytes| bytes == b"\x16"), "{first:?}");
    }
}

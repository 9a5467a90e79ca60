//! A real nginx: restarted, killed, stopped, and strict about its connections.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use livepool::{CloseReason, Config, Pool, Timeouts};
use livepool_http::{Error, Failure, Http1, Limits, PoolExt, Request};

use crate::{get, get_text, pool_of, request_for, text};
use livepool_testkit::servers::Nginx;
use livepool_testkit::{Events, until_seen, until_status};

const SECOND: Duration = Duration::from_secs(1);

/// The pool is whole again within this time after its server is back: a dial that failed is tried
/// again after 50 ms at first, and after 5 s at most when it had failed for long.
const BOUND: Duration = Duration::from_secs(6);

fn config_of(nginx: &Nginx) -> Config {
    Config::new(format!("127.0.0.1:{}", nginx.port())).with_max_size(16)
}

/// Callers that ask without a pause, and what they met.
struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<Vec<Error>>>,
}

impl Load {
    fn start(pool: &Pool<Http1>, callers: usize) -> Self {
        let (stop, served) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let caller = |caller: usize| {
            let (pool, stop, served) = (pool.clone(), Arc::clone(&stop), Arc::clone(&served));
            tokio::spawn(async move {
                let mut errors = Vec::new();
                for count in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let tag = format!("{caller}-{count}");
                    let limits = Limits::new().with_deadline(BOUND);
                    let request = request_for(&format!("/tag/{tag}"));
                    let answer = async { text(pool.send_within(request, limits).await?).await };
                    match answer.await {
                        Ok(answer) => {
                            assert_eq!(answer, tag, "another caller's answer");
                            served.fetch_add(1, Ordering::SeqCst);
                        }
                        Err(error) => {
                            errors.push(error);
                            // As a caller would who means well.
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                    }
                }
                errors
            })
        };
        let tasks = (0..callers).map(caller).collect();
        Self { stop, served, tasks }
    }

    /// Until so many more were served.
    async fn serves(&self, more: usize) {
        let goal = self.served.load(Ordering::SeqCst) + more;
        let began = Instant::now();
        while self.served.load(Ordering::SeqCst) < goal {
            assert!(began.elapsed() < BOUND, "not served again within {BOUND:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn stop(self) -> Vec<Error> {
        self.stop.store(true, Ordering::SeqCst);
        let mut errors = Vec::new();
        for task in self.tasks {
            errors.extend(task.await.unwrap());
        }
        errors
    }
}

/// As many requests at a time as there are connections, each answered.
async fn is_whole(pool: &Pool<Http1>) {
    let answers = (0..16).map(|tag| async move {
        let answer = get_text(pool, &format!("/tag/{tag}")).await.unwrap();
        assert_eq!(answer, tag.to_string());
    });
    futures_util::future::join_all(answers).await;
}

fn reasons(events: &Events) -> BTreeSet<&'static str> {
    events.closed().into_iter().map(CloseReason::as_str).collect()
}

/// What ends while it is worked with: before or in the middle of an answer.
fn assert_clear(errors: &[Error]) {
    for error in errors {
        let clear = match error.failure() {
            Failure::Checkout => {
                error.checkout_error().is_some_and(|e| e.connect_error().is_some())
            }
            Failure::Unanswered | Failure::Answer | Failure::Body => {
                matches!(error.reason(), Some(CloseReason::PeerClosed | CloseReason::Reset))
            }
            _ => false,
        };
        assert!(clear, "{error}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_under_load_costs_clear_errors_and_no_more() {
    for kill in [false, true] {
        let mut nginx = Nginx::start();
        let (pool, events) = pool_of(config_of(&nginx));
        let load = Load::start(&pool, 16);
        load.serves(500).await;
        match kill {
            true => {
                nginx.kill_9();
                nginx.start_again();
            }
            false => nginx.restart_fast(),
        }
        load.serves(500).await;
        let errors = load.stop().await;
        println!("kill {kill}: {} errors", errors.len());
        assert_clear(&errors);
        is_whole(&pool).await;
        let reasons = reasons(&events);
        assert!(!reasons.is_empty());
        assert!(reasons.is_subset(&BTreeSet::from(["peer_closed", "reset"])), "{reasons:?}");
        // A dial whose caller was served by another connection may not be over yet.
        until_seen(
            || (events.opened() - events.closed().len(), pool.status()),
            |(open, now)| *open == now.idle,
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_worker_costs_clear_errors_and_no_more() {
    let nginx = Nginx::start();
    let (pool, events) = pool_of(config_of(&nginx));
    let load = Load::start(&pool, 8);
    for _ in 0..3 {
        load.serves(200).await;
        nginx.kill_worker();
    }
    load.serves(200).await;
    assert_clear(&load.stop().await);
    is_whole(&pool).await;
    let reasons = reasons(&events);
    assert!(reasons.is_subset(&BTreeSet::from(["peer_closed", "reset"])), "{reasons:?}");
}

#[tokio::test]
async fn a_restart_while_nobody_asks_is_met_without_an_error() {
    let mut nginx = Nginx::start();
    let (pool, events) = pool_of(config_of(&nginx));
    is_whole(&pool).await;
    nginx.kill_9();
    // The pool notices by itself.
    let reasons = events.until_closed(events.opened()).await;
    let by_peer =
        |reason: &CloseReason| matches!(reason, CloseReason::PeerClosed | CloseReason::Reset);
    assert!(reasons.iter().all(by_peer), "{reasons:?}");
    assert_eq!(pool.status().idle, 0);
    let error = get(&pool, "/").await.unwrap_err();
    assert_eq!(error.failure(), Failure::Checkout);
    nginx.start_again();
    is_whole(&pool).await;
}

#[tokio::test]
async fn what_the_server_closes_while_idle_is_noticed_and_costs_nobody_an_error() {
    const ROUNDS: usize = 20;
    // A second: where this process stands still for that long, a request that is made again may cross a
    // close once more.
    let nginx = Nginx::start_with("keepalive_timeout 1s;", None);
    let (pool, events) = pool_of(config_of(&nginx));
    assert_eq!(get_text(&pool, "/tag/a").await.unwrap(), "a");
    assert_eq!(events.until_closed(1).await, [CloseReason::PeerClosed]);
    // Around the moment of the close, from both sides of it.
    let ask = async |round: usize, caller: usize| {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..11))).await;
        let tag = format!("{round}-{caller}");
        assert_eq!(get_text(&pool, &format!("/tag/{tag}")).await.unwrap(), tag);
    };
    for round in 0..ROUNDS {
        futures_util::future::join_all((0..16).map(|caller| ask(round, caller))).await;
        tokio::time::sleep(Duration::from_millis(998)).await;
    }
    assert!(events.closed().len() > ROUNDS, "{:?}", events.closed());
    // A request that crosses the close is answered by a reset.
    let reasons = reasons(&events);
    assert!(reasons.is_subset(&BTreeSet::from(["peer_closed", "reset"])), "{reasons:?}");
}

#[tokio::test]
async fn a_connection_is_left_before_the_server_ends_it_if_it_says_when() {
    let nginx = Nginx::start_with("keepalive_timeout 60s 1s;", None);
    let (pool, events) = pool_of(config_of(&nginx));
    let response = get(&pool, "/tag/a").await.unwrap();
    assert_eq!(response.headers()["keep-alive"], "timeout=1");
    assert_eq!(text(response).await.unwrap(), "a");
    assert_eq!(events.until_closed(1).await, [CloseReason::IdleTimeout]);
}

#[tokio::test]
async fn a_server_that_takes_few_requests_per_connection_costs_nobody_an_error() {
    let nginx = Nginx::start_with("keepalive_requests 10;", None);
    let (pool, events) = pool_of(config_of(&nginx));
    for tag in 0..100 {
        assert_eq!(get_text(&pool, &format!("/tag/{tag}")).await.unwrap(), tag.to_string());
    }
    assert_eq!((events.opened(), events.closed()), (10, vec![CloseReason::PeerClosed; 10]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_server_costs_its_callers_their_deadline_and_comes_back() {
    let nginx = Nginx::start();
    let timeouts = Timeouts::default().with_read(3 * SECOND);
    let (pool, events) = pool_of(config_of(&nginx).with_timeouts(timeouts));
    is_whole(&pool).await;
    nginx.freeze();
    let callers = (0..32).map(|caller| {
        let pool = &pool;
        async move {
            let began = Instant::now();
            let limit = SECOND / 4 + Duration::from_millis(caller * 10);
            let limits = Limits::new().with_deadline(limit);
            let error = pool.send_within(request_for("/tag/a"), limits).await.unwrap_err();
            assert!(error.is_timeout(), "{error}");
            assert!(began.elapsed() >= limit);
            assert!(began.elapsed() < BOUND, "{:?}", began.elapsed());
        }
    });
    futures_util::future::join_all(callers).await;
    // Without a deadline, the read timeout is the bound.
    let error = get(&pool, "/tag/a").await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert_eq!(error.failure(), Failure::Unanswered);
    nginx.thaw();
    let began = Instant::now();
    is_whole(&pool).await;
    assert!(began.elapsed() < BOUND);
    assert_eq!(reasons(&events), BTreeSet::from(["op_timeout"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_of_a_stopped_server_are_told_within_the_time_that_is_configured_for_a_use() {
    let nginx = Nginx::start();
    let limit = 3 * SECOND;
    let timeouts = Timeouts::default().with_operation(limit);
    let (pool, events) = pool_of(config_of(&nginx).with_timeouts(timeouts));
    is_whole(&pool).await;
    nginx.freeze();
    let began = Instant::now();
    let error = get(&pool, "/tag/a").await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert!(began.elapsed() >= limit && began.elapsed() < BOUND, "{:?}", began.elapsed());
    nginx.thaw();
    is_whole(&pool).await;
    assert_eq!(reasons(&events), BTreeSet::from(["op_timeout"]));
}

#[tokio::test]
async fn a_body_that_is_left_half_way_closes_its_connection_and_a_request_body_is_sent() {
    let nginx = Nginx::start();
    let (pool, events) = pool_of(config_of(&nginx));
    let mut body = get(&pool, "/slow").await.unwrap().into_body();
    assert!(!body.frame().await.unwrap().unwrap().into_data().unwrap().is_empty());
    drop(body);
    assert_eq!(events.closed(), [CloseReason::Unfinished]);
    let bytes = vec![b'x'; 1 << 20];
    let request = Request::post("/upload").body(bytes).unwrap();
    assert_eq!(text(pool.send(request).await.unwrap()).await.unwrap(), "took it");
    let head = Request::head("/slow").body(()).unwrap();
    let response = pool.send(head).await.unwrap();
    assert_eq!(response.headers()["content-length"], "200000");
    assert!(!response.body().holds_connection());
    assert_eq!(get_text(&pool, "/").await.unwrap(), "hello\n");
    until_status(&pool, |now| now.idle == 1).await;
    assert_eq!(events.opened(), 2);
}

mod tls {
    use super::*;
    use crate::pool_with;
    use livepool_testkit::servers::Certs;
    use livepool_tls::Tls;

    fn pool(nginx: &Nginx, certs: &Certs) -> (Pool<Http1>, Events) {
        let tls = Tls::builder().with_root_pem(certs.ca_pem()).build().unwrap();
        let config = Config::new(format!("localhost:{}", nginx.tls_port()));
        pool_with(config, Http1::new().with_tls(tls))
    }

    #[tokio::test]
    async fn https_is_kept_alive_as_http_is() {
        let certs = Certs::new();
        let mut nginx = Nginx::start_with("keepalive_requests 1000;", Some(&certs));
        let (pool, events) = pool(&nginx, &certs);
        for tag in 0..20 {
            assert_eq!(get_text(&pool, &format!("/tag/{tag}")).await.unwrap(), tag.to_string());
        }
        let whole = get_text(&pool, "https://localhost/tag/a").await.unwrap();
        assert_eq!((whole.as_str(), events.opened()), ("a", 1));
        let error = get(&pool, "http://localhost/tag/a").await.unwrap_err();
        assert_eq!(error.failure(), Failure::Refused, "{error}");
        nginx.restart_fast();
        assert_eq!(events.until_closed(1).await, [CloseReason::PeerClosed]);
        assert_eq!(get_text(&pool, "/tag/b").await.unwrap(), "b");
    }

    #[tokio::test]
    async fn a_server_that_would_rather_speak_http2_is_not_asked_for_it() {
        let certs = Certs::new();
        let port = livepool_testkit::servers::port::free_port();
        let http2 = format!("listen 127.0.0.1:{port} ssl http2;");
        let _nginx = Nginx::start_with(&http2, Some(&certs));
        for offered in [vec!["h2", "http/1.1"], vec!["h2"], vec!["http/1.1"], vec![]] {
            let tls = Tls::builder().with_root_pem(certs.ca_pem()).with_alpn(offered.clone());
            let config = Config::new(format!("localhost:{port}"));
            let (pool, _) = pool_with(config, Http1::new().with_tls(tls.build().unwrap()));
            assert_eq!(get_text(&pool, "/tag/a").await.unwrap(), "a", "{offered:?}");
        }
    }

    #[tokio::test]
    async fn a_certificate_for_somebody_else_is_one_clear_error_at_once() {
        let certs = Certs::of_somebody_else();
        let nginx = Nginx::start_with("", Some(&certs));
        let (pool, events) = pool(&nginx, &certs);
        let began = Instant::now();
        let error = get(&pool, "/").await.unwrap_err();
        assert!(began.elapsed() < 5 * SECOND, "long before the checkout's deadline");
        assert_eq!(error.failure(), Failure::Checkout);
        assert!(!error.is_retryable() && !error.is_timeout());
        assert!(error.to_string().contains("certificate"), "{error}");
        assert_eq!(events.opened(), 0);
    }
}

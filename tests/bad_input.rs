//! What is wrong is said clearly: settings before anything starts, upstreams as soon as they show it.
//! Nothing panics, nothing hangs, nothing is left behind.

use std::error::Error;
use std::time::Duration;

use livepool::config::{Backoff, FirstConnect, Limits, MetricsConfig, SocketConfig, UserTimeout};
use livepool::error::{CheckoutFailure, Phase};
use livepool::{CheckoutError, CloseReason, Config, Keepalive, Pool, Status, Timeouts};
use livepool_testkit::blackhole::Blackhole;
use livepool_testkit::rude::{GARBAGE, Rude, Rudeness};
use livepool_testkit::{Upstream, ask, exchange, port, until_seen, until_status, watched};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn base() -> Config {
    Config::new("db:1")
}

fn with_socket(change: impl FnOnce(SocketConfig) -> SocketConfig) -> Config {
    base().with_socket(change(SocketConfig::default()))
}

fn with_keepalive(change: impl FnOnce(Keepalive) -> Keepalive) -> Config {
    with_socket(|socket| socket.with_keepalive(change(Keepalive::default())))
}

fn with_timeouts(change: impl FnOnce(Timeouts) -> Timeouts) -> Config {
    base().with_timeouts(change(Timeouts::default()))
}

fn with_user_timeout(limit: Duration) -> Config {
    with_socket(|socket| socket.with_user_timeout(UserTimeout::After(limit)))
}

/// Config, and the one problem expected: field, value, words of its rule.
#[rustfmt::skip]
fn out_of_range() -> Vec<(Config, &'static str, &'static str, &'static str)> {
    let zero = Duration::ZERO;
    let time = "at least 1 ms";
    let seconds = "whole seconds from 1 s to 32767 s";
    vec![
        (base().with_name("x".repeat(300)), "name", "300 bytes", "at most 255 bytes"),
        (base().with_upstream([""; 0]), "upstream", "[]", "at least one address"),
        (base().with_upstream(["a:1", "b"]), "upstream[1]", "\"b\"", "end with a port"),
        (Config::new("127.0.0.1:0"), "upstream[0]", "\"127.0.0.1:0\"", "from 1 to 65535"),
        (Config::new("db:65536"), "upstream[0]", "\"db:65536\"", "from 1 to 65535"),
        (Config::new("http://db:80"), "upstream[0]", "\"http://db:80\"", "leave \"http://\" out"),
        (Config::new("::1:80"), "upstream[0]", "\"::1:80\"", "in brackets"),
        (Config::new("1.2.3.4.5:80"), "upstream[0]", "\"1.2.3.4.5:80\"", "neither"),
        (Config::new(":80"), "upstream[0]", "\":80\"", "a host before the port"),
        (Config::new("a b:80"), "upstream[0]", "\"a b:80\"", "cannot contain ' '"),
        (Config::new("db\n:80"), "upstream[0]", "\"db\\n:80\"", "cannot contain"),
        (Config::new("unix:"), "upstream[0]", "\"unix:\"", "a path"),
        (base().with_max_size(0), "max_size", "0", "from 1 to 65535"),
        (base().with_min_idle(11), "min_idle", "11", "cannot be above max_size (10)"),
        (base().with_max_connecting(0), "max_connecting", "0", "at least 1"),
        (base().with_max_connecting(65_536), "max_connecting", "65536", "at most 65535"),
        (base().with_max_waiting(1 << 25), "max_waiting", "33554432", "\"unlimited\""),
        (base().with_dns_refresh(secs(31_536_001)), "dns_refresh", "31536001s", "at most 365 days"),
        (base().with_patience(secs(31_536_001)), "patience", "31536001s", "at most 365 days"),
        (base().with_limits(Limits::default().with_message(1023)), "limits.message", "1023", "from 1024"),
        (base().with_limits(Limits::default().with_handshake(0)), "limits.handshake", "0", "\"unlimited\""),
        (base().with_backoff(Backoff::default().with_most(ms(49))), "backoff.most", "49ms", "not be below backoff.first (50ms)"),
        (base().with_dns_refresh(ms(999)), "dns_refresh", "999ms", "at least 1s"),
        (base().with_hold_warning(zero), "hold_warning", "0s", time),
        (base().with_metrics(MetricsConfig::default().with_peers(1001)), "metrics.peers", "1001", "at most 1000"),
        (base().with_wait_warning(zero), "wait_warning", "0s", time),
        (base().with_max_size(usize::MAX), "max_size", "18446744073709551615", "from 1 to 65535"),
        (base().with_idle_timeout(zero), "idle_timeout", "0s", "use None"),
        (base().with_max_lifetime(zero), "max_lifetime", "0s", "use None"),
        (base().with_idle_timeout(Duration::from_nanos(1)), "idle_timeout", "1ns", time),
        (with_timeouts(|t| t.with_checkout(zero)), "timeouts.checkout", "0s", time),
        (with_timeouts(|t| t.with_connect(zero)), "timeouts.connect", "0s", time),
        (with_timeouts(|t| t.with_read(zero)), "timeouts.read", "0s", time),
        (with_timeouts(|t| t.with_write(zero)), "timeouts.write", "0s", time),
        (with_timeouts(|t| t.with_flush(zero)), "timeouts.flush", "0s", time),
        (with_timeouts(|t| t.with_shutdown(zero)), "timeouts.shutdown", "0s", time),
        (with_timeouts(|t| t.with_read(Duration::from_micros(9))), "timeouts.read", "9µs", time),
        (with_keepalive(|k| k.with_idle(ms(500))), "socket.keepalive.idle", "500ms", seconds),
        (with_keepalive(|k| k.with_idle(ms(1500))), "socket.keepalive.idle", "1.5s", seconds),
        (with_keepalive(|k| k.with_idle(zero)), "socket.keepalive.idle", "0ns", seconds),
        (with_keepalive(|k| k.with_interval(secs(32_768))), "socket.keepalive.interval", "32768s", seconds),
        (with_keepalive(|k| k.with_retries(0)), "socket.keepalive.retries", "0", "from 2 to 127"),
        (with_keepalive(|k| k.with_retries(1)), "socket.keepalive.retries", "1", "from 2 to 127"),
        (with_keepalive(|k| k.with_retries(128)), "socket.keepalive.retries", "128", "from 2 to 127"),
        (with_socket(|s| s.with_send_buffer(0)), "socket.send_buffer", "0", "let the kernel tune it"),
        (with_socket(|s| s.with_recv_buffer(usize::MAX)), "socket.recv_buffer", "18446744073709551615", "from 1 to 2147483647"),
        (with_socket(|s| s.with_device("")), "socket.device", "0 bytes", "1 to 15 bytes"),
        (with_socket(|s| s.with_congestion("a\0b")), "socket.congestion", "3 bytes", "without a zero byte"),
        // Not above idle + interval * 2, or above idle + interval * 3: it and keepalive disagree.
        (with_user_timeout(secs(1)), "socket.user_timeout", "1s", "contradicts socket.keepalive"),
        (with_user_timeout(secs(25)), "socket.user_timeout", "25s", "above 25s and at most 30s"),
        (with_user_timeout(ms(30_001)), "socket.user_timeout", "30.001s", "above 25s and at most 30s"),
        (with_user_timeout(Duration::from_micros(29_000_500)), "socket.user_timeout", "29.0005s", "whole milliseconds"),
        (with_user_timeout(zero), "socket.user_timeout", "0ns", "whole milliseconds"),
        (with_user_timeout(secs(30 * 86_400)), "socket.user_timeout", "2592000s", "2147483647 ms"),
        (with_keepalive(|k| k.with_interval(secs(32_767)).with_retries(127)), "socket.user_timeout", "derived, 4161424s", "lower keepalive's values"),
    ]
}

#[test]
#[cfg(target_pointer_width = "64")]
fn every_value_out_of_range_is_refused_with_its_field_its_value_and_the_rule() {
    for (config, field, value, rule) in out_of_range() {
        let error = Pool::new(config).expect_err(field);
        let [problem] = error.problems() else { panic!("{field}: one problem, not {error}") };
        assert_eq!((problem.field.as_str(), problem.value.as_str()), (field, value), "{error}");
        assert!(problem.rule.contains(rule), "{field}: {:?} in {:?}", rule, problem.rule);
        let line = format!("invalid configuration: {field} = {value}: ");
        assert!(error.to_string().starts_with(&line), "{error}");
    }
}

#[test]
fn all_that_is_wrong_is_said_at_once_in_the_order_of_the_fields() {
    let zero = Duration::ZERO;
    let keepalive = Keepalive::default().with_idle(zero).with_interval(zero).with_retries(0);
    let socket = SocketConfig::default()
        .with_keepalive(keepalive)
        .with_user_timeout(UserTimeout::After(zero))
        .with_send_buffer(0)
        .with_recv_buffer(0)
        .with_device("")
        .with_congestion("");
    let config = Config::default()
        .with_name("x".repeat(256))
        .with_upstream(["", "unix:"])
        .with_max_size(0)
        .with_idle_timeout(zero)
        .with_max_lifetime(zero)
        .with_min_idle(1)
        .with_max_connecting(0)
        .with_backoff(Backoff::default().with_first(zero))
        .with_dns_refresh(zero)
        .with_max_silence(zero)
        .with_patience(zero)
        .with_hold_warning(zero)
        .with_wait_warning(zero)
        .with_timeouts(Timeouts::all(zero))
        .with_socket(socket);
    let error = Pool::new(config).unwrap_err();
    let fields: Vec<_> = error.problems().iter().map(|problem| problem.field.as_str()).collect();
    #[rustfmt::skip]
    let expected = [
        "name", "upstream[0]", "upstream[1]", "max_size", "min_idle", "max_connecting",
        "backoff.first", "dns_refresh", "idle_timeout", "max_lifetime", "max_silence", "patience",
        "hold_warning", "wait_warning", "timeouts.checkout", "timeouts.connect", "timeouts.ping", "timeouts.reset",
        "timeouts.hook", "timeouts.read", "timeouts.write", "timeouts.flush", "timeouts.shutdown", "timeouts.accept",
        "socket.keepalive.idle", "socket.keepalive.interval", "socket.keepalive.retries",
        "socket.user_timeout", "socket.send_buffer", "socket.recv_buffer", "socket.device",
        "socket.congestion",
    ];
    assert_eq!(fields, expected);
    let text = error.to_string();
    assert!(text.starts_with("invalid configuration, 32 problems: (1) name = "), "{text}");
    assert_eq!(text.lines().count(), 1, "for a log: {text}");
    let lines = format!("{error:#}");
    assert!(lines.starts_with("invalid configuration, 32 problems:\nname = "), "{lines}");
    assert_eq!(lines.lines().count(), 33, "one line each: {lines}");
}

/// The error and its causes, as a program prints them.
fn told(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Runs `scene` in a runtime of its own, alone in this process, and looks at the process's open
/// files before and after. They are counted for the whole process: every test of this file that
/// opens one goes through here.
#[track_caller]
fn leaves_nothing(scene: impl AsyncFnOnce()) {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // What holds them is a file that stays.
    port::free_port();
    #[cfg(target_os = "linux")]
    let before = livepool_testkit::open_fds();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limited = async {
        tokio::time::timeout(secs(60), scene()).await.expect("a scene takes some seconds at most")
    };
    runtime.block_on(limited);
    drop(runtime);
    #[cfg(target_os = "linux")]
    assert_eq!(livepool_testkit::open_fds(), before, "open files");
}

fn assert_empty(status: Status) {
    let Status { idle, in_use, connecting, waiting, .. } = status;
    assert_eq!((idle, in_use, connecting, waiting), (0, 0, 0, 0), "{status}");
}

/// One checkout that asks in vain for a connection, and what is left after it.
async fn connect_fails(config: Config, failure: CheckoutFailure) -> CheckoutError {
    let waits = matches!(failure, CheckoutFailure::Timeout(_));
    // Who waits to the end has a dial that failed before it, on a busy machine, too.
    let timeouts = config.timeouts.with_checkout(ms(if waits { 1000 } else { 10_000 }));
    let (pool, events) = watched(config.with_max_size(1).with_timeouts(timeouts));
    let error = pool.get().await.unwrap_err();
    let Status { idle, in_use, waiting, .. } = pool.status();
    assert_eq!((idle, in_use, waiting), (0, 0, 0));
    assert_eq!(events.opened(), 0);
    // Neither slot nor place is lost: the next caller fails in the same way.
    assert_eq!(pool.get().await.unwrap_err().failure(), error.failure());
    assert_eq!(error.failure(), failure, "{error}");
    assert!(error.is_retryable(), "{error}");
    pool.close();
    until_status(&pool, |now| now.connecting == 0).await;
    error
}

#[test]
fn a_name_that_nobody_knows_is_an_error_that_names_it() {
    leaves_nothing(async || {
        // A label longer than the 63 bytes of RFC 1035: refused without asking anybody.
        let name = format!("{}.invalid:5432", "no-such-host-".repeat(5));
        for first in [FirstConnect::FailFast, FirstConnect::Wait] {
            let failure = match first {
                FirstConnect::FailFast => CheckoutFailure::Connect,
                _ => CheckoutFailure::Timeout(Phase::Connect),
            };
            let config = Config::new(&name).with_first_connect(first);
            let error = connect_fails(config, failure).await;
            let text = error.to_string();
            assert!(text.contains(&format!("could not connect to {name}")), "{text}");
            assert!(text.ends_with(" (check the name)"), "{text}");
        }
    });
}

#[test]
fn a_port_where_nobody_listens_is_an_error_that_says_refused() {
    leaves_nothing(async || {
        let addr = port::nobody();
        let config = Config::new(addr.to_string());
        let error = connect_fails(config, CheckoutFailure::Connect).await;
        let text = error.to_string();
        assert!(
            text.contains(&format!("could not connect to {addr}: connection refused")),
            "{text}"
        );
        assert!(text.contains("is the upstream running, and listening there?"), "{text}");
    });
}

#[test]
fn an_address_that_never_answers_is_an_error_that_names_the_connect_limit() {
    leaves_nothing(async || {
        let blackhole = Blackhole::start();
        let limit = Timeouts::default().with_connect(ms(50));
        let config = Config::new(blackhole.addr().to_string()).with_timeouts(limit);
        let error = connect_fails(config, CheckoutFailure::Connect).await;
        assert!(error.is_timeout(), "{error}");
        let text = error.to_string();
        assert!(text.contains(&format!("{} within 50.0ms", blackhole.addr())), "{text}");
        assert!(text.contains("check route and firewall, or raise timeouts.connect"), "{text}");
        #[cfg(target_os = "linux")]
        assert_eq!(blackhole.asking(), 0);
    });
}

#[test]
fn an_address_that_never_answers_costs_no_more_than_the_checkout_limit() {
    leaves_nothing(async || {
        let blackhole = Blackhole::start();
        let limit = Timeouts::default().with_connect(secs(600));
        let config = Config::new(blackhole.addr().to_string()).with_timeouts(limit);
        let failure = CheckoutFailure::Timeout(Phase::Connect);
        let error = connect_fails(config, failure).await;
        assert!(error.is_timeout(), "{error}");
        assert_eq!(error.status().connecting, 1, "it is still being tried");
        let text = error.to_string();
        assert!(text.contains("check that the upstream is reachable"), "{text}");
        assert!(text.contains("raise timeouts.checkout"), "{text}");
        assert!(text.contains("1 connecting"), "{text}");
        #[cfg(target_os = "linux")]
        assert_eq!(blackhole.asking(), 0);
    });
}

#[test]
fn callers_behind_one_who_waits_for_an_address_that_never_answers_all_get_an_error() {
    leaves_nothing(async || {
        let blackhole = Blackhole::start();
        let limit = Timeouts::default().with_checkout(ms(80));
        let config = Config::new(blackhole.addr().to_string())
            .with_timeouts(limit)
            .with_max_size(1)
            .with_max_waiting(3);
        let (pool, events) = watched(config);
        let callers = (0..6).map(|_| pool.get());
        let mut kinds = [0; 3];
        for result in futures_util::future::join_all(callers).await {
            let error = result.unwrap_err();
            let (kind, advice) = match error.failure() {
                CheckoutFailure::Timeout(Phase::Connect) => (0, "raise timeouts.checkout"),
                CheckoutFailure::Timeout(Phase::Queue) => (1, "raise max_size"),
                CheckoutFailure::QueueFull => (2, "max_waiting"),
                other => panic!("{other:?}"),
            };
            assert!(error.to_string().contains(advice), "{error}");
            kinds[kind] += 1;
        }
        // Whose time ends first, when two end together, is the timer's business.
        assert!(kinds[0] >= 1 && kinds[0] + kinds[1] == 4 && kinds[2] == 2, "{kinds:?}");
        assert_eq!(events.opened(), 0);
        pool.close();
        until_status(&pool, |now| now.connecting == 0).await;
        assert_empty(pool.status());
    });
}

/// Callers who want an answer from an upstream without manners: each gets an error that says what
/// happened. Returns their texts.
async fn all_fail(rudeness: Rudeness) -> Vec<String> {
    let rude = Rude::start(rudeness);
    // Who resets early enough makes dials fail, and a pool waits longer and longer before the next.
    let backoff = Backoff::default().with_first(ms(1)).with_most(ms(20));
    let config = Config::new(rude.addr().to_string()).with_max_size(3).with_backoff(backoff);
    let (pool, events) = watched(config);
    let caller = || async {
        let mut texts = Vec::new();
        for _ in 0..10 {
            let failed = match pool.get().await {
                Ok(mut conn) => ask(&mut conn, "ECHO x").await.expect_err("nobody answers").into(),
                Err(error) => Box::<dyn Error>::from(error),
            };
            texts.push(told(&*failed));
        }
        texts
    };
    let texts = futures_util::future::join_all((0..8).map(|_| caller())).await.concat();
    until_status(&pool, |now| now.idle == 0).await;
    assert_empty(pool.status());
    let opened = events.opened();
    assert_eq!(events.until_closed(opened).await.len(), opened, "each closed once");
    texts
}

#[test]
fn callers_of_an_upstream_that_closes_at_once_are_told_so() {
    leaves_nothing(async || {
        for text in all_fail(Rudeness::Close).await {
            let told = ["end of file", "broken pipe", "reset by peer"];
            assert!(told.iter().any(|words| text.to_lowercase().contains(words)), "{text}");
        }
    });
}

#[test]
fn callers_of_an_upstream_that_resets_at_once_are_told_so() {
    leaves_nothing(async || {
        for text in all_fail(Rudeness::Reset).await {
            let told = ["broken pipe", "reset by peer"];
            assert!(told.iter().any(|words| text.to_lowercase().contains(words)), "{text}");
        }
    });
}

#[test]
fn an_unused_connection_over_which_garbage_came_is_not_kept() {
    for rudeness in [Rudeness::Garbage, Rudeness::GarbageAndClose] {
        leaves_nothing(async || {
            let rude = Rude::start(rudeness);
            let (pool, events) = watched(Config::new(rude.addr().to_string()).with_max_size(1));
            for round in 1..=20 {
                let conn = pool.get().await.unwrap();
                until_seen(|| rude.served(), |seen| *seen == round).await;
                drop(conn);
                // Found at the return, or by the sentinel right after it.
                let closed = events.until_closed(round).await;
                assert_eq!(closed, vec![CloseReason::Dirty; round], "{rudeness:?}");
            }
            assert_empty(pool.status());
        });
    }
}

#[test]
fn a_greeting_is_readable_by_the_caller_who_opened_the_connection() {
    // Some protocols begin with the server's word, so a new connection is not judged by it.
    leaves_nothing(async || {
        let rude = Rude::start(Rudeness::Garbage);
        let (pool, _) = watched(Config::new(rude.addr().to_string()).with_max_size(1));
        let mut conn = pool.get().await.unwrap();
        let mut greeting = [0; GARBAGE.len()];
        conn.read_exact(&mut greeting).await.unwrap();
        assert_eq!(greeting, GARBAGE);
        assert_eq!(conn.release(), livepool::Release::Reused);
    });
}

#[test]
fn a_caller_who_writes_without_end_to_an_upstream_that_reads_nothing_is_told_so() {
    leaves_nothing(async || {
        let rude = Rude::start(Rudeness::Garbage);
        let config = Config::new(rude.addr().to_string())
            .with_timeouts(Timeouts::default().with_write(ms(50)));
        let (pool, events) = watched(config);
        let mut conn = pool.get().await.unwrap();
        let error = conn.write_all(&vec![0; 64 << 20]).await.unwrap_err();
        assert!(livepool::is_timeout(&error), "{error}");
        assert_eq!(
            error.to_string(),
            "write timed out after 50.0ms (timeouts.write): the peer took no more bytes"
        );
        drop(conn);
        assert_eq!(events.closed(), [CloseReason::OpTimeout]);
        assert_empty(pool.status());
    });
}

#[test]
fn a_pool_recovers_by_itself_when_the_upstream_comes_back() {
    leaves_nothing(async || {
        let mut upstream = Upstream::start();
        let (addr, (pool, _)) = (upstream.addr(), watched(upstream.config()));
        assert_eq!(exchange(&pool, "ECHO before").await, "before");
        upstream.stop();
        until_status(&pool, |now| now.idle == 0).await;
        let deadline = tokio::time::Instant::now() + ms(2000);
        let error = pool.get_by(deadline).await.unwrap_err();
        assert!(told(&error).contains("connection refused"), "{}", told(&error));
        until_status(&pool, |now| now.connecting == 0).await;
        assert_empty(pool.status());
        // Port and address stay the same; the old connections were closed by the other side.
        let _upstream = Upstream::start_on(addr);
        assert_eq!(exchange(&pool, "ECHO after").await, "after");
    });
}

//! What the gauges say of a running pool, as a scrape sees them.

use std::time::{Duration, Instant};

use livepool::protocol::Verdict;
use livepool::telemetry::{METRICS, Metric};
use livepool::{Backoff, Config, Listener, ListenerConfig, MetricsConfig, Pool, Timeouts};
use livepool_testkit::lines::Lines;
use livepool_testkit::{Upstream, exchange, fill, port, until_seen};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

/// A recorder for this thread, on which everything in a test's runtime happens.
struct Recorded {
    handle: PrometheusHandle,
    _guard: metrics::LocalRecorderGuard<'static>,
}

impl Recorded {
    fn install() -> Self {
        // One for each test, and never freed: the guard's recorder has to outlive it.
        let recorder: &'static PrometheusRecorder =
            Box::leak(Box::new(PrometheusBuilder::new().build_recorder()));
        let handle = recorder.handle();
        Self { handle, _guard: metrics::set_default_local_recorder(recorder) }
    }

    /// The value of this series, as the exporter writes it, if it is there.
    fn find(&self, series: &str) -> Option<f64> {
        let page = self.handle.render();
        let value = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map(|value| value.parse().expect("a number"))
    }
}

/// A pool whose gauges are set every 25 ms: the tick is a quarter of the shortest limit.
fn config(upstream: &Upstream) -> Config {
    upstream.config().with_name("orders").with_hold_warning(Duration::from_millis(100))
}

#[tokio::test]
async fn a_connection_that_is_being_reset_has_a_state_of_its_own() {
    let recorded = Recorded::install();
    let upstream = Upstream::start();
    let lines =
        Lines { reuse: Verdict::NeedsReset, reset: "SLOW 2000 x".to_owned(), ..Lines::default() };
    let pool = Pool::builder(config(&upstream)).protocol(lines).build().unwrap();
    let seen = || {
        ["in_use", "resetting", "idle"].map(|state| {
            recorded.find(&format!(r#"livepool_connections{{pool="orders",state="{state}"}}"#))
        })
    };
    let client = pool.get().await.unwrap();
    until_seen(seen, |seen| *seen == [Some(1.0), Some(0.0), Some(0.0)]).await;
    drop(client);
    until_seen(seen, |seen| *seen == [Some(0.0), Some(1.0), Some(0.0)]).await;
    until_seen(seen, |seen| *seen == [Some(0.0), Some(0.0), Some(1.0)]).await;
}

#[tokio::test]
async fn a_change_of_the_configuration_is_counted_and_seen_in_the_gauges_of_settings_at_once() {
    let recorded = Recorded::install();
    let upstream = Upstream::start();
    let pool = Pool::new(config(&upstream)).unwrap();
    let setting = |kind: &str, setting: &str| {
        recorded.find(&format!(r#"livepool_setting{kind}{{pool="orders",setting="{setting}"}}"#))
    };
    assert_eq!(setting("", "max_waiting"), Some(1024.0));
    pool.reconfigure(|config| {
        (config.max_size, config.max_waiting) = (7, None);
        config.idle_timeout = Some(Duration::from_secs(9));
        config.timeouts.operation = Some(Duration::from_secs(3));
    })
    .unwrap();
    assert_eq!(setting("", "max_waiting"), Some(f64::INFINITY));
    assert_eq!(setting("_seconds", "idle_timeout"), Some(9.0));
    assert_eq!(setting("_seconds", "timeouts.operation"), Some(3.0));
    assert_eq!(recorded.find(r#"livepool_connections_max{pool="orders"}"#), Some(7.0));
    assert_eq!(recorded.find(r#"livepool_reconfigurations_total{pool="orders"}"#), Some(1.0));
    pool.reconfigure(|config| config.max_size = 0).unwrap_err();
    assert_eq!(recorded.find(r#"livepool_reconfigurations_total{pool="orders"}"#), Some(1.0));
}

/// As [`config`], and nobody notes who holds what for a warning.
fn without_warning(upstream: &Upstream) -> Config {
    config(upstream).with_hold_warning(None).with_max_silence(Duration::from_secs(1))
}

#[tokio::test]
async fn the_longest_hold_and_wait_grow_while_somebody_holds_or_waits_and_no_longer() {
    let recorded = Recorded::install();
    let upstream = Upstream::start();
    let pool = Pool::new(without_warning(&upstream).with_max_size(1)).unwrap();
    let seen = || {
        ["hold", "wait"].map(|what| {
            recorded.find(&format!(r#"livepool_longest_{what}_seconds{{pool="orders"}}"#))
        })
    };
    let held = pool.get().await.unwrap();
    let first = until_seen(seen, |seen| seen[0] > Some(0.0)).await;
    assert_eq!(first[1], Some(0.0), "nobody waits");
    let mut waiting = std::pin::pin!(pool.get());
    assert!(futures_util::poll!(waiting.as_mut()).is_pending());
    let both = until_seen(seen, |seen| seen[1] > Some(0.1)).await;
    assert!(both[0] > both[1] && both[0] > first[0], "it was held before: {first:?}, {both:?}");
    let passed_on = Instant::now();
    drop(held);
    let next = waiting.await.unwrap();
    let of_next = until_seen(seen, |seen| seen[1] == Some(0.0)).await;
    let longest = passed_on.elapsed().as_secs_f64();
    assert!(of_next[0] <= Some(longest), "it is the next caller's: {of_next:?}, {longest}");
    drop(next);
    until_seen(seen, |seen| *seen == [Some(0.0); 2]).await;
}

#[tokio::test]
async fn the_oldest_connection_is_the_oldest_that_is_left() {
    let recorded = Recorded::install();
    let upstream = Upstream::start();
    let pool = Pool::new(without_warning(&upstream)).unwrap();
    let age = || recorded.find(r#"livepool_oldest_connection_seconds{pool="orders"}"#);
    let old = pool.get().await.unwrap();
    until_seen(age, |age| *age > Some(0.3)).await;
    let opened = Instant::now();
    let young = pool.get().await.unwrap();
    old.discard();
    // The other one would be 300 ms older.
    let is_of_young = |age: f64| age > 0.0 && age <= opened.elapsed().as_secs_f64();
    let left = until_seen(age, |age| age.is_some_and(is_of_young)).await;
    drop(young);
    until_seen(age, |age| *age > left).await;
    pool.close();
    assert_eq!(age(), Some(0.0));
}

#[test]
fn all_series_of_a_pool_are_there_before_its_first_event_and_outside_a_runtime() {
    let recorded = Recorded::install();
    let pool = Pool::new(Config::new("192.0.2.1:1").with_name("orders")).unwrap();
    // Those of each peer are opt-in.
    let of_pool = |metric: &&Metric| {
        metric.labels[0].name == "pool" && metric.labels.iter().all(|label| label.name != "peer")
    };
    let expected = METRICS.iter().filter(of_pool);
    let page = recorded.handle.render();
    for metric in expected {
        assert!(page.contains(&format!("# TYPE {} ", metric.name)), "{}: {page}", metric.name);
    }
    let series = r#"livepool_dials_total{pool="orders",outcome="refused"}"#;
    assert_eq!(recorded.find(series), Some(0.0), "a first failure is an increase");
    assert_eq!(recorded.find(r#"livepool_connections_max{pool="orders"}"#), Some(10.0));
    drop(pool);
    assert_eq!(recorded.find(r#"livepool_connections_max{pool="orders"}"#), Some(0.0));
}

#[tokio::test]
async fn all_series_of_a_listener_are_there_before_its_first_client() {
    let recorded = Recorded::install();
    let config = ListenerConfig::default().with_name("front");
    let _listener = Listener::bind("127.0.0.1:0", &config).await.unwrap();
    let page = recorded.handle.render();
    for metric in METRICS.iter().filter(|metric| metric.labels[0].name == "listener") {
        assert!(page.contains(&format!("# TYPE {} ", metric.name)), "{}: {page}", metric.name);
    }
}

#[test]
fn what_a_pool_is_and_how_it_is_configured_is_there_while_it_is() {
    let recorded = Recorded::install();
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    let timeouts = Timeouts::default().with_checkout(seconds(11)).with_connect(seconds(12));
    let timeouts = timeouts.with_ping(seconds(13)).with_reset(seconds(14)).with_read(seconds(15));
    let timeouts = timeouts.with_hook(seconds(18));
    let config = Config::new("no.such.name:1")
        .with_name("orders")
        .with_min_idle(3)
        .with_max_connecting(4)
        .with_max_waiting(None)
        .with_max_shares(5)
        .with_idle_timeout(seconds(21))
        .with_max_lifetime(None)
        .with_max_silence(seconds(23))
        .with_max_silence_after_use(seconds(24))
        .with_patience(Duration::from_millis(1250))
        .with_hold_warning(seconds(26))
        .with_dns_refresh(seconds(27))
        .with_wait_warning(seconds(29))
        .with_backoff(Backoff::default().with_most(Duration::from_secs(28)))
        .with_timeouts(timeouts.with_write(seconds(16)).with_operation(seconds(17)));
    let builder = Pool::builder(config).protocol(Lines::default());
    let (pool, raw) = (builder.build().unwrap(), Pool::new(Config::new("192.0.2.1:1")).unwrap());
    let version = env!("CARGO_PKG_VERSION");
    let info = |pool: &str, protocol: &str| {
        format!(r#"livepool_info{{pool="{pool}",version="{version}",protocol="{protocol}"}}"#)
    };
    assert_eq!(recorded.find(&info("orders", "unnamed")), Some(1.0));
    assert_eq!(recorded.find(&info("192.0.2.1:1", "none")), Some(1.0));
    const NEVER: f64 = f64::INFINITY;
    // All there are, each with a value of its own.
    let expected = [
        ("", &[("min_idle", 3.0), ("max_connecting", 4.0), ("max_waiting", NEVER)][..]),
        ("", &[("max_shares", 5.0)]),
        ("_seconds", &[("idle_timeout", 21.0), ("max_lifetime", NEVER), ("max_silence", 23.0)]),
        ("_seconds", &[("max_silence_after_use", 23.0), ("patience", 1.25)]),
        ("_seconds", &[("hold_warning", 26.0), ("dns_refresh", 27.0), ("backoff.most", 28.0)]),
        ("_seconds", &[("wait_warning", 29.0)]),
        ("_seconds", &[("timeouts.checkout", 11.0), ("timeouts.connect", 12.0)]),
        ("_seconds", &[("timeouts.ping", 13.0), ("timeouts.reset", 14.0)]),
        ("_seconds", &[("timeouts.read", 15.0), ("timeouts.write", 16.0)]),
        ("_seconds", &[("timeouts.operation", 17.0), ("timeouts.hook", 18.0)]),
    ];
    let setting = |suffix: &str, name: &str| {
        let series = format!(r#"livepool_setting{suffix}{{pool="orders",setting="{name}"}}"#);
        recorded.find(&series)
    };
    for (suffix, settings) in expected {
        for (name, value) in settings {
            assert_eq!(setting(suffix, name), Some(*value), "{name}");
        }
    }
    let tested: usize = expected.iter().map(|(_, settings)| settings.len()).sum();
    let labels = METRICS.iter().flat_map(|metric| metric.labels);
    let all: usize = labels.filter(|label| label.name == "setting").map(|l| l.values.len()).sum();
    assert_eq!(tested, all);
    drop((pool, raw));
    assert_eq!(recorded.find(&info("orders", "unnamed")), Some(0.0));
    assert_eq!(setting("_seconds", "timeouts.write"), Some(0.0));
}

/// The value of this series of a peer of `orders`.
fn of_peer(recorded: &Recorded, name: &str, peer: &str, label: &str) -> Option<f64> {
    recorded.find(&format!(r#"livepool_peer_{name}{{pool="orders",peer="{peer}",{label}}}"#))
}

#[tokio::test]
async fn each_peer_has_its_connections_dials_and_closes_if_that_is_asked_for() {
    let recorded = Recorded::install();
    let upstreams = [Upstream::start(), Upstream::start()];
    let nobody = port::nobody().to_string();
    let addrs = [upstreams[0].addr().to_string(), upstreams[1].addr().to_string()];
    let config = without_warning(&upstreams[0]).with_upstream([&nobody, &addrs[0], &addrs[1]]);
    let pool = Pool::new(config.with_metrics(MetricsConfig::default().with_peers(3))).unwrap();
    fill(&pool, 4).await;
    let spread =
        || addrs.each_ref().map(|addr| of_peer(&recorded, "connections", addr, r#"state="idle""#));
    until_seen(spread, |seen| *seen == [Some(2.0), Some(2.0)]).await;
    let dials = |peer: &str, outcome: &str| {
        of_peer(&recorded, "dials_total", peer, &format!(r#"outcome="{outcome}""#))
    };
    assert_eq!(dials(&addrs[0], "ok"), Some(2.0));
    assert!(dials(&nobody, "refused") >= Some(1.0), "{:?}", dials(&nobody, "refused"));
    assert_eq!((dials(&nobody, "ok"), dials(&addrs[0], "refused")), (Some(0.0), Some(0.0)));
    let held = pool.get().await.unwrap();
    let peer = held.peer_addr().to_string();
    let in_use = || of_peer(&recorded, "connections", &peer, r#"state="in_use""#);
    until_seen(in_use, |seen| *seen == Some(1.0)).await;
    held.discard();
    let closed = of_peer(&recorded, "closed_total", &peer, r#"reason="discarded""#);
    assert_eq!(closed, Some(1.0));
    pool.close();
    until_seen(spread, |seen| *seen == [Some(0.0); 2]).await;
    assert_eq!(dials("other", "ok"), None, "nobody is beyond the bound");
}

#[tokio::test]
async fn peers_beyond_the_bound_have_one_set_of_series_together() {
    let recorded = Recorded::install();
    let upstreams: Vec<_> = (0..4).map(|_| Upstream::start()).collect();
    let addrs: Vec<_> = upstreams.iter().map(|upstream| upstream.addr().to_string()).collect();
    let config = without_warning(&upstreams[0]).with_upstream(&addrs);
    let pool = Pool::new(config.with_metrics(MetricsConfig::default().with_peers(1))).unwrap();
    fill(&pool, 8).await;
    let idle = |peer: &str| of_peer(&recorded, "connections", peer, r#"state="idle""#);
    until_seen(|| idle("other"), |seen| *seen == Some(6.0)).await;
    let own: Vec<_> = addrs.iter().filter_map(|addr| idle(addr)).collect();
    assert_eq!(own, [2.0], "one of them has its own");
    assert_eq!(of_peer(&recorded, "dials_total", "other", r#"outcome="ok""#), Some(6.0));
}

#[tokio::test]
async fn a_pool_that_was_not_asked_has_no_series_of_peers() {
    let recorded = Recorded::install();
    let upstream = Upstream::start();
    let pool = Pool::new(config(&upstream)).unwrap();
    exchange(&pool, "ECHO x").await;
    pool.close();
    assert!(!recorded.handle.render().contains("peer="));
}

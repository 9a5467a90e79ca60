//! Nothing that is configured, announced or looked up is without a bound.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use livepool::{Config, Connector, Event, Pool, Resolve, Timeouts};

/// Leads to 4 000 addresses, others each time, none of which anybody listens on.
#[derive(Default)]
struct Many(AtomicU16);

impl Resolve for Many {
    fn resolve<'a>(
        &'a self,
        _: &'a str,
        _: u16,
    ) -> BoxFuture<'a, std::io::Result<Vec<SocketAddr>>> {
        let round = self.0.fetch_add(1, Ordering::Relaxed).to_be_bytes()[1];
        let addr = move |n: u16| {
            let [high, low] = n.to_be_bytes();
            ([127, round.wrapping_add(1), high, low], 1).into()
        };
        Box::pin(std::future::ready(Ok((0..4_000).map(addr).collect())))
    }
}

/// How long this thread has run, if the system tells: what others do on the machine does not count.
fn busy(began: Instant) -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = stat.split(' ').next().and_then(|nanos| nanos.parse().ok());
    nanos.map_or_else(|| began.elapsed(), Duration::from_nanos)
}

/// The most that this thread worked between two ticks of a 5 ms timer, while this ran: so late was the
/// timer for that.
async fn lateness<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let worst = Arc::new(Mutex::new(Duration::ZERO));
    let noted = Arc::clone(&worst);
    let ticking = tokio::spawn(async move {
        let began = Instant::now();
        let mut before = busy(began);
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let now = busy(began);
            let mut worst = noted.lock().unwrap();
            *worst = now.saturating_sub(before).max(*worst);
            before = now;
        }
    });
    let done = work.await;
    // The last tick is looked at, too.
    tokio::time::sleep(Duration::from_millis(20)).await;
    ticking.abort();
    let worst = *worst.lock().unwrap();
    println!("between two ticks there were {worst:?} of work");
    (done, worst)
}

/// It takes 16 ms in a build without optimizations. What is asked for is that the work per
/// answer is that of a few passes over its addresses, and not of one pass per address, which took
/// 886 ms in an optimized build.
const NOT_LATE: Duration = Duration::from_millis(100);

#[tokio::test]
async fn an_answer_of_four_thousand_addresses_does_not_stop_the_runtime() {
    let config = Config::new("many.example:1")
        .with_timeouts(Timeouts::default().with_checkout(Duration::from_secs(2)));
    let pool = Pool::builder(config).resolver(Many::default()).build().unwrap();
    let (result, late) = lateness(pool.get()).await;
    assert!(result.is_err(), "nobody listens there");
    assert!(late < NOT_LATE, "a timer was {late:?} late");
}

#[tokio::test]
async fn a_dial_without_a_pool_does_not_stop_the_runtime_either() {
    let config = Config::new("many.example:1");
    let connector = Connector::new(&config).unwrap().with_resolver(Many::default());
    let (result, late) = lateness(connector.connect()).await;
    assert_eq!(result.unwrap_err().attempts().len(), 32);
    assert!(late < NOT_LATE, "a timer was {late:?} late");
}

#[tokio::test]
async fn one_dial_tries_thirty_two_addresses_at_most() {
    let failures = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&failures);
    let config = Config::new("many.example:1")
        .with_timeouts(Timeouts::default().with_checkout(Duration::from_secs(2)));
    let pool = Pool::builder(config)
        .resolver(Many::default())
        .observer(move |_: &str, event: &Event| {
            if let Event::DialFailed { error, .. } = event {
                seen.lock().unwrap().push(error.matches("127.").count());
            }
        })
        .build()
        .unwrap();
    let error = pool.get().await.unwrap_err();
    let failures = failures.lock().unwrap().clone();
    assert!(!failures.is_empty(), "{error}");
    assert!(failures.iter().all(|tried| *tried == 32), "{failures:?}");
}

#[tokio::test]
async fn a_limit_that_a_caller_sets_may_be_any() {
    let upstream = livepool_testkit::Upstream::start();
    let pool = Pool::new(upstream.config()).unwrap();
    for limit in [Duration::MAX, Duration::from_secs(365 * 86_400)] {
        let mut conn = pool.get().await.unwrap();
        conn.set_read_timeout(Some(limit));
        conn.set_write_timeout(Some(limit));
        conn.deadline(limit);
        assert_eq!(livepool_testkit::ask(&mut conn, "SLOW 20 hello").await.unwrap(), "hello");
        conn.release();
    }
}

#[cfg(feature = "serde")]
mod configured {
    use std::sync::atomic::AtomicUsize;

    use livepool::Listener;
    use livepool::config::{ConfigError, Keepalive, ListenerConfig, SocketConfig, Validation};
    use serde_json::{Value, json};

    use super::*;

    /// Fields in which every text or number has a meaning of its own, and none is a limit.
    const FREE: [&str; 4] = ["name", "upstream[0]", "socket.mark", "socket.tos"];

    fn socket() -> SocketConfig {
        SocketConfig::default()
            .with_keepalive(Keepalive::default())
            .with_send_buffer(65_536)
            .with_recv_buffer(65_536)
            .with_mark(1)
            .with_tos(1)
    }

    /// Every field that has a value to write has one.
    fn pool_config() -> Config {
        Config::new("db:1")
            .with_validation(Validation::PingIfIdle(Duration::from_secs(1)))
            .with_socket(socket())
    }

    fn listener_config() -> ListenerConfig {
        ListenerConfig::default().with_socket(socket())
    }

    /// The path of every value that is no table, and no list of more than values.
    fn leaves(value: &Value, path: &str, found: &mut Vec<(String, String)>) {
        let below = |name: &str| match path {
            "" => name.to_owned(),
            _ => format!("{path}.{name}"),
        };
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    leaves(value, &below(name), found);
                }
            }
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    leaves(item, &format!("{path}[{index}]"), found);
                }
            }
            Value::Bool(_) | Value::Null => {}
            _ => {
                let pointer = path.replace(['.', '['], "/").replace(']', "");
                found.push((path.to_owned(), format!("/{pointer}")));
            }
        }
    }

    /// The same with one field changed; `None` if a file cannot even say so.
    fn changed<T>(config: &T, pointer: &str, value: &Value) -> Option<T>
    where
        T: serde::Serialize + serde::de::DeserializeOwned + PartialEq,
    {
        let mut all = serde_json::to_value(config).unwrap();
        *all.pointer_mut(pointer).unwrap() = value.clone();
        serde_json::from_value(all).ok().filter(|changed| changed != config)
    }

    fn fields<T: serde::Serialize>(config: &T) -> Vec<(String, String)> {
        let mut found = Vec::new();
        leaves(&serde_json::to_value(config).unwrap(), "", &mut found);
        found.retain(|(field, _)| !FREE.contains(&field.as_str()));
        found
    }

    /// Far too much, as a duration and as a number.
    fn too_much() -> [Value; 3] {
        [json!("500000000000years"), json!(u64::MAX), json!(u32::MAX)]
    }

    fn is_refused_everywhere<T>(config: &T, check: fn(&T) -> Result<(), ConfigError>) -> usize
    where
        T: serde::Serialize + serde::de::DeserializeOwned + PartialEq,
    {
        check(config).unwrap();
        let mut tried = 0;
        for (field, pointer) in fields(config) {
            for value in too_much() {
                let Some(config) = changed(config, &pointer, &value) else { continue };
                tried += 1;
                let error = check(&config).expect_err(&field);
                let problem = error.problems().iter().find(|problem| problem.field == field);
                let problem = problem.unwrap_or_else(|| panic!("{field}: {error}"));
                let says =
                    ["at most", "above", "to"].iter().any(|word| problem.rule.contains(word));
                assert!(says, "{error}");
            }
        }
        tried
    }

    #[test]
    fn no_duration_and_no_number_of_a_configuration_is_without_an_upper_bound() {
        // Each duration once, each number once or twice.
        assert!(is_refused_everywhere(&pool_config(), Config::check) >= 30);
        assert!(is_refused_everywhere(&listener_config(), ListenerConfig::check) >= 15);
    }

    /// A panic anywhere, in a background task too.
    fn panics() -> &'static AtomicUsize {
        static PANICS: AtomicUsize = AtomicUsize::new(0);
        static HOOK: std::sync::Once = std::sync::Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                PANICS.fetch_add(1, Ordering::SeqCst);
                before(info);
            }));
        });
        &PANICS
    }

    /// The configurations that have one field at its highest value.
    fn at_the_edge<T>(config: &T, check: fn(&T) -> Result<(), ConfigError>) -> Vec<(String, T)>
    where
        T: serde::Serialize + serde::de::DeserializeOwned + PartialEq,
    {
        let highest = [
            json!("365days"),
            json!("32767s"),
            json!("2147483647ms"),
            json!(16_777_216),
            json!(2_147_483_647),
            json!(65_535),
            json!(127),
        ];
        let mut all = Vec::new();
        for (field, pointer) in fields(config) {
            let accepted = highest.iter().find_map(|value| {
                changed(config, &pointer, value).filter(|config| check(config).is_ok())
            });
            all.extend(accepted.map(|config| (field, config)));
        }
        all
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_pool_runs_with_every_field_at_its_highest_value() {
        let base = Config::default()
            .with_timeouts(Timeouts::default().with_checkout(Duration::from_millis(300)));
        let configs = at_the_edge(&base.with_upstream(["localhost:1"]), Config::check);
        assert!(configs.len() >= 20, "{}", configs.len());
        let mut runs = tokio::task::JoinSet::new();
        for (field, config) in configs {
            runs.spawn(async move {
                runs_through(config).await;
                field
            });
        }
        while let Some(run) = runs.join_next().await {
            run.unwrap();
        }
        assert_eq!(panics().load(Ordering::SeqCst), 0);
    }

    /// Connections that are used, closed by the peer, and refused.
    async fn runs_through(config: Config) {
        panics();
        let mut upstream = livepool_testkit::Upstream::start();
        let port = upstream.addr().port();
        let config = config.with_upstream([format!("localhost:{port}")]);
        let pool = Pool::new(config).unwrap();
        let by = || tokio::time::Instant::now() + Duration::from_secs(10);
        let mut conn = pool.get_by(by()).await.unwrap();
        livepool_testkit::ask(&mut conn, "ECHO hello").await.unwrap();
        conn.release();
        upstream.order_all(&livepool_testkit::Order::Reset);
        livepool_testkit::until(|| pool.status().idle == 0).await;
        upstream.stop();
        let soon = tokio::time::Instant::now() + Duration::from_millis(200);
        pool.get_by(soon).await.unwrap_err();
        pool.get_by(soon + Duration::from_millis(100)).await.unwrap_err();
        pool.close();
    }

    #[tokio::test]
    async fn a_listener_runs_with_every_field_at_its_highest_value() {
        panics();
        let configs = at_the_edge(&ListenerConfig::default(), ListenerConfig::check);
        assert!(configs.len() >= 10, "{}", configs.len());
        for (field, config) in configs {
            let listener = Listener::bind("127.0.0.1:0", &config).await.expect(&field);
            let addr = listener.local_addr().to_string();
            let client = Connector::new(&Config::new(addr)).unwrap();
            let (accepted, client) = tokio::join!(listener.accept(), client.connect());
            accepted.unwrap();
            client.unwrap();
        }
        assert_eq!(panics().load(Ordering::SeqCst), 0);
    }
}

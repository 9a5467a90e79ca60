//! Every setting of a configuration is in the guide's table, and does what the table says.

use std::collections::BTreeMap;

use livepool::{BoxFuture, Config, ConfigError, Ping, Pool, SocketConfig, SocketOption, Stream};
use livepool_testkit::pages::table;
use livepool_testkit::{Events, Upstream};
use serde_json::{Value, json};

use super::changes;

/// Another value for each setting, by its path.
fn others() -> BTreeMap<&'static str, Value> {
    let times = [
        "dns_refresh",
        "idle_timeout",
        "max_lifetime",
        "max_silence",
        "max_silence_after_use",
        "patience",
        "hold_warning",
        "wait_warning",
        "backoff.most",
        "timeouts.checkout",
        "timeouts.connect",
        "timeouts.ping",
        "timeouts.reset",
        "timeouts.hook",
        "timeouts.read",
        "timeouts.write",
        "timeouts.flush",
        "timeouts.shutdown",
        "timeouts.accept",
        "timeouts.operation",
    ];
    let short = ["backoff.first", "backoff.while_waiting"];
    let counts = ["max_size", "max_connecting", "max_waiting", "max_shares"];
    let bytes = [
        "limits.message",
        "limits.handshake",
        "limits.retire_above",
        "socket.send_buffer",
        "socket.recv_buffer",
    ];
    let mut others = BTreeMap::from([
        ("name", json!("another")),
        ("upstream", json!(["127.0.0.1:1"])),
        ("min_idle", json!(1)),
        ("first_connect", json!("wait")),
        ("order", json!("fifo")),
        ("validation", json!({ "ping_if_idle": "7s" })),
        ("metrics.names", json!("both")),
        ("metrics.peers", json!(7)),
        ("socket.keepalive", json!("off")),
        ("socket.user_timeout", json!("off")),
        ("socket.nodelay", json!(false)),
        ("socket.local_addr", json!("127.0.0.2")),
        ("socket.device", json!("lo")),
        ("socket.mark", json!(8)),
        ("socket.tos", json!(16)),
        ("socket.congestion", json!("cubic")),
        ("socket.best_effort", json!(["mark", "device"])),
    ]);
    others.extend(times.map(|path| (path, json!("7s"))));
    others.extend(short.map(|path| (path, json!("70ms"))));
    others.extend(counts.map(|path| (path, json!(7))));
    others.extend(bytes.map(|path| (path, json!(65_537))));
    others
}

/// Has nothing to ask.
struct Silent;

impl Ping for Silent {
    fn ping<'a>(&'a self, _: &'a mut Stream) -> BoxFuture<'a, std::io::Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

/// A configuration in which every setting has a value, so that each is written out.
fn whole(upstream: &Upstream) -> Config {
    let socket = SocketConfig::default()
        .with_send_buffer(70_000)
        .with_recv_buffer(70_000)
        .with_local_addr("127.0.0.1".parse::<std::net::IpAddr>().unwrap())
        .with_device("eth0")
        .with_mark(7)
        .with_tos(8)
        .with_congestion("reno")
        .with_best_effort([SocketOption::Mark]);
    upstream.config().with_socket(socket)
}

/// The paths of all settings. A keepalive is one, whatever it is made of.
fn paths(config: &Config) -> Vec<String> {
    fn walk(value: &Value, prefix: &str, paths: &mut Vec<String>) {
        for (key, value) in value.as_object().unwrap() {
            let path = format!("{prefix}{key}");
            match value {
                Value::Object(_) if path != "socket.keepalive" => {
                    walk(value, &format!("{path}."), paths);
                }
                _ => paths.push(path),
            }
        }
    }
    let mut paths = Vec::new();
    walk(&serde_json::to_value(config).unwrap(), "", &mut paths);
    paths.sort();
    paths
}

fn with(config: &Config, path: &str, other: &Value) -> Config {
    let mut value = serde_json::to_value(config).unwrap();
    *value.pointer_mut(&format!("/{}", path.replace('.', "/"))).unwrap() = other.clone();
    serde_json::from_value(value).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[tokio::test]
async fn every_setting_is_in_the_table_of_the_guide_and_does_what_that_says() {
    let page = include_str!("../../docs/guide/reconfiguring.md");
    let rows = table::<3>(page, "| setting |");
    let mut in_table: Vec<_> = rows.iter().map(|row| row[0].trim_matches('`').to_owned()).collect();
    in_table.sort();
    let upstream = Upstream::start();
    let config = whole(&upstream);
    assert_eq!(in_table, paths(&config), "the table, and the fields of Config");
    let others = others();
    for row in rows {
        let path = row[0].trim_matches('`');
        let other = others.get(path).unwrap_or_else(|| panic!("{path} has no other value here"));
        let other = with(&config, path, other);
        let events = Events::default();
        let builder = Pool::builder(config.clone()).ping(Silent).observer(events.observer());
        let pool = builder.build().unwrap();
        let result = pool.reconfigure(|config| *config = other.clone());
        match row[1].as_str() {
            "at once" | "for new connections" => {
                result.unwrap_or_else(|error| panic!("{path}: {error}"));
                assert_eq!(*pool.config(), other, "{path}");
                assert_eq!(changes(&events), [[path]]);
            }
            "never" => {
                let refused = |error: &ConfigError| error.problems()[0].field == path;
                assert!(refused(&result.unwrap_err()), "{path}");
                assert_eq!(*pool.config(), config, "{path}");
                assert!(changes(&events).is_empty());
            }
            word => panic!("{path}: {word:?} is none of the three"),
        }
    }
}

//! Serves a pool's metrics at `http://127.0.0.1:9000/metrics` while something uses the pool.
//!
//! ```sh
//! cargo run --example metrics_server                  # until Ctrl-C
//! cargo run --example metrics_server -- --seconds 5   # for five seconds
//! curl -s http://127.0.0.1:9000/metrics | grep '^livepool'
//! ```

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use livepool::{Config, Pool};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let seconds: Option<u64> = match &args[..] {
        [] => None,
        [flag, seconds] if flag == "--seconds" => Some(seconds.parse()?),
        _ => return Err("usage: metrics_server [--seconds N]".into()),
    };
    let address = SocketAddr::from(([127, 0, 0, 1], 9000));
    // Buckets make histograms that can be added up over processes; without them the exporter
    // renders quantiles, which cannot.
    PrometheusBuilder::new()
        .with_http_listener(address)
        .set_buckets_for_metric(
            Matcher::Suffix("_seconds".to_owned()),
            &[0.0001, 0.001, 0.01, 0.1, 1.0, 10.0],
        )?
        .install()?;
    println!("metrics: curl -s http://{address}/metrics | grep '^livepool'");

    let upstream = support::start_upstream().await?;
    let pool = Pool::new(Config::new(&upstream).with_name("orders").with_max_size(4))?;
    let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut round = 0_u64;
    while end.is_none_or(|end| Instant::now() < end) {
        round += 1;
        let used: std::io::Result<()> = pool
            .run(async |conn| {
                conn.write_all(b"PING\r\n").await?;
                conn.read_exact(&mut [0; 7]).await.map(drop)
            })
            .await;
        used?;
        if round.is_multiple_of(50) {
            // Somebody gives up half-way now and then.
            pool.get().await?.write_all(b"PING\r\n").await?;
            println!("{round} exchanges: {}", pool.status());
        }
        sleep(Duration::from_millis(10)).await;
    }
    // One look at what a scrape gets, through the real HTTP endpoint.
    let mut http = tokio::net::TcpStream::connect(address).await?;
    http.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n").await?;
    let mut page = String::new();
    http.read_to_string(&mut page).await?;
    let count = page.lines().filter(|line| line.starts_with("livepool")).count();
    println!("the last scrape had {count} livepool series; a few of them:");
    let shown = ["livepool_connections", "livepool_checkouts_total", "livepool_closed_total"];
    for line in page.lines().filter(|line| shown.iter().any(|name| line.starts_with(name))) {
        if !line.ends_with(" 0") {
            println!("  {line}");
        }
    }
    Ok(())
}

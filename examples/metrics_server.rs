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
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
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
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(
            Matcher::Suffix("_seconds".to_owned()),
            &[0.0001, 0.001, 0.01, 0.1, 1.0, 10.0],
        )?
        .build_recorder();
    tokio::spawn(serve(TcpListener::bind(address).await?, recorder.handle()));
    metrics::set_global_recorder(recorder)?;
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
    let mut http = TcpStream::connect(address).await?;
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

/// Answers every request with the metrics as they are now.
///
/// In a service, the exporter does this itself: `with_http_listener(address).install()`, with its
/// feature `http-listener`. That takes hyper, which no other example here needs.
async fn serve(listener: TcpListener, metrics: PrometheusHandle) -> std::io::Result<()> {
    loop {
        let (mut client, _) = listener.accept().await?;
        // Its head fits into one read, and nothing in it matters.
        let _ = client.read(&mut [0; 4096]).await;
        metrics.run_upkeep();
        let page = metrics.render();
        let head = format!("HTTP/1.0 200 OK\r\ncontent-length: {}\r\n\r\n", page.len());
        let _ = client.write_all(format!("{head}{page}").as_bytes()).await;
    }
}

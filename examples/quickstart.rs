//! A tour of livepool in a few seconds, against an upstream in this process or a real Redis.
//!
//! ```sh
//! cargo run --example quickstart
//! cargo run --example quickstart -- --upstream 127.0.0.1:6379
//! ```

mod support;

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use livepool::{CloseReason, Config, Connector, Event, Guard, OpTimeout, Pool, Release};
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const CONNECTIONS: usize = 4;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Where the metrics go. In a service, `PrometheusBuilder::install` serves them over HTTP.
    let recorder = PrometheusBuilder::new().build_recorder();
    let scrape = recorder.handle();
    metrics::set_global_recorder(recorder)?;

    let upstream = match upstream_argument()? {
        Some(address) => address,
        None => support::start_upstream().await?,
    };
    let config = Config::new(&upstream).with_name("quickstart").with_max_size(CONNECTIONS);
    let closes = Closes::default();
    let pool = Pool::builder(config.clone()).observer(closes.observer()).build()?;

    println!("== 1. Connections are made with keepalive, and the kernel confirms it");
    let conn = pool.get().await?;
    let report = conn.socket_report()?;
    println!("{} to {}", conn.id(), conn.peer_addr());
    println!("  as the kernel has it: {report}");
    if let Some(time) = report.detection_time() {
        println!("  so a peer that vanishes while idle is declared dead by the kernel in {time:?}");
    }
    drop(conn);

    println!("\n== 2. Checkouts reuse them");
    let started = Instant::now();
    let mut seen = HashSet::new();
    for _ in 0..1000 {
        let mut conn = pool.get().await?;
        seen.insert(conn.id());
        ask(&mut conn, "PING", "+PONG\r\n").await?;
        conn.release();
    }
    let per = started.elapsed() / 1000;
    println!("1000 PINGs over {} connection(s), {per:?} each: {}", seen.len(), pool.status());

    println!("\n== 3. The upstream closes idle connections: they leave before anyone asks");
    let guards = futures_util::future::try_join_all((0..CONNECTIONS).map(|_| pool.get())).await?;
    drop(guards);
    println!("before: {}", pool.status());
    let mut admin = Connector::new(&config.with_name("admin"))?.connect().await?;
    admin.write_all(b"CLIENT KILL TYPE normal SKIPME yes\r\n").await?;
    let mut answer = [0; 4];
    admin.read_exact(&mut answer).await?;
    let killed = Instant::now();
    closes.until(CONNECTIONS).await?;
    println!(
        "the upstream closed {} and the pool evicted {} ({}) {:?} after its answer, with no checkout",
        String::from_utf8_lossy(&answer[1..2]),
        closes.count(CloseReason::PeerClosed),
        CloseReason::PeerClosed,
        killed.elapsed(),
    );
    println!("after:  {}", pool.status());
    drop(admin);

    println!("\n== 4. A read that takes too long ends with an error of its own");
    let mut conn = pool.get().await?;
    conn.set_read_timeout(Some(Duration::from_millis(300)));
    conn.write_all(b"BLPOP livepool:nothing 2\r\n").await?;
    let error = conn.read_u8().await.expect_err("there is nothing to pop");
    println!("{error}");
    println!("  is it ours? {}", OpTimeout::of(&error).is_some());
    println!("  and the connection: {:?}", conn.release());

    println!("\n== 5. A request is abandoned, and nobody else reads its late answer");
    let mut conn = pool.get().await?;
    let abandoned = conn.id();
    conn.write_all(b"BLPOP livepool:nothing 1\r\n").await?;
    drop(conn);
    println!("{abandoned} was dropped with an answer on its way: {:?}", closes.last());
    tokio::time::sleep(Duration::from_millis(1200)).await;
    for _ in 0..3 {
        let mut conn = pool.get().await?;
        ask(&mut conn, "PING", "+PONG\r\n").await?;
        assert_eq!(conn.release(), Release::Reused);
    }
    println!("the next three callers sent PING and each read its own +PONG");

    println!("\n== 6. What a Prometheus scrape shows");
    pool.close();
    for line in scrape.render().lines().filter(|line| worth_reading(line)) {
        println!("{line}");
    }
    Ok(())
}

/// Sends one line and expects one answer.
async fn ask(conn: &mut Guard, request: &str, expected: &str) -> io::Result<()> {
    conn.write_all(format!("{request}\r\n").as_bytes()).await?;
    let mut answer = vec![0; expected.len()];
    conn.read_exact(&mut answer).await?;
    if answer != expected.as_bytes() {
        let answer = String::from_utf8_lossy(&answer).into_owned();
        return Err(io::Error::other(format!("{request}: expected {expected:?}, read {answer:?}")));
    }
    Ok(())
}

/// Remembers why connections were closed.
#[derive(Clone, Default)]
struct Closes(Arc<Mutex<Vec<CloseReason>>>);

impl Closes {
    fn observer(&self) -> impl livepool::Observer + use<> {
        let reasons = Arc::clone(&self.0);
        move |_: &str, event: &Event| {
            if let Event::Closed { reason, .. } = event {
                reasons.lock().expect("not poisoned").push(*reason);
            }
        }
    }

    fn count(&self, reason: CloseReason) -> usize {
        let reasons = self.0.lock().expect("not poisoned");
        reasons.iter().filter(|closed| **closed == reason).count()
    }

    fn last(&self) -> Option<CloseReason> {
        self.0.lock().expect("not poisoned").last().copied()
    }

    async fn until(&self, count: usize) -> io::Result<()> {
        for _ in 0..5000 {
            if self.0.lock().expect("not poisoned").len() >= count {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "the pool noticed nothing"))
    }
}

fn upstream_argument() -> Result<Option<String>, String> {
    let mut args = std::env::args().skip(1);
    match (args.next().as_deref(), args.next()) {
        (None, _) => Ok(None),
        (Some("--upstream"), Some(address)) => Ok(Some(address)),
        _ => Err("usage: quickstart [--upstream HOST:PORT], a Redis without password".to_owned()),
    }
}

/// All series are there from the start, at 0; print those that say something, with their help.
fn worth_reading(line: &str) -> bool {
    line.starts_with("livepool") && !line.ends_with(" 0") && !line.contains("quantile")
}

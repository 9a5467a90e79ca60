//! hyper-util's own client and pool, on our sockets: keepalive, deadlines, and a reason for every
//! end.
//!
//! ```sh
//! cargo run -p livepool-http --features tower --example hyper_util
//! cargo run -p livepool-http --features tower --example hyper_util -- --url http://127.0.0.1:8080
//! ```

#[path = "support/web.rs"]
mod web;

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use livepool::{Config, Event, Timeouts};
use livepool_http::tower::Connect;
use livepool_http::tower::tower_service::Service;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = web::Server::start().await?;
    println!("against {} at {}", server.name(), server.url());

    let tell = |_: &str, event: &Event| match event {
        Event::Opened { conn, took, .. } => println!("    opened {conn} in {took:.1?}"),
        Event::Closed { conn, reason, age, .. } => {
            println!("    closed {conn} after {age:.1?}: {reason}");
        }
        Event::TimedOut { operation, after, .. } => {
            println!("    timed out: {operation} after {after:?}");
        }
        _ => {}
    };
    // No upstream: every request names its own. The read timeout is shorter than the pauses below,
    // and does not run while nothing is asked.
    let timeouts = Timeouts::default()
        .with_read(Duration::from_millis(200))
        .with_connect(Duration::from_millis(300));
    let config = Config::default().with_name("outgoing").with_timeouts(timeouts);
    let mut connect = Connect::with_observer(&config, tell)?;

    println!("\n1. A connection as the kernel has it");
    let connection = connect.call(server.url().parse()?).await?;
    println!("    {}", connection.stream().socket_report()?);
    drop(connection);

    let client: Client<Connect, Empty<Bytes>> =
        Client::builder(TokioExecutor::new()).build(connect);

    println!("\n2. A thousand requests through hyper-util's pool");
    let began = Instant::now();
    for _ in 0..1000 {
        get(&client, server.url()).await?;
    }
    println!("    {:.1?} each", began.elapsed() / 1000);

    println!("\n3. Idle for longer than a read may take, and used again");
    tokio::time::sleep(Duration::from_millis(300)).await;
    get(&client, server.url()).await?;

    println!("\n4. The server closes what is idle");
    tokio::time::sleep(Duration::from_millis(800)).await;
    get(&client, server.url()).await?;

    println!("\n5. A host that does not answer (an address for documentation, RFC 5737)");
    let began = Instant::now();
    match get(&client, "http://192.0.2.1/").await {
        Ok(()) => println!("    it did"),
        Err(error) => {
            println!("    after {:.1?}:", began.elapsed());
            let first: &dyn std::error::Error = &*error;
            for error in std::iter::successors(Some(first), |error| error.source()) {
                println!("    {error}");
            }
        }
    }
    Ok(())
}

async fn get(
    client: &Client<Connect, Empty<Bytes>>,
    url: &str,
) -> Result<(), Box<dyn std::error::Error>> {
    client.get(url.parse()?).await?.into_body().collect().await?;
    Ok(())
}

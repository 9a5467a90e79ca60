//! Requests over HTTP/1.1, and what becomes of their connections.
//!
//! ```sh
//! cargo run -p livepool-http --example http1
//! cargo run -p livepool-http --example http1 -- --url http://127.0.0.1:8080
//! ```

#[path = "support/web.rs"]
mod web;

use std::time::{Duration, Instant};

use livepool::{Event, Pool};
use livepool_http::{Http1, Limits, PoolExt, Request};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = web::Server::start().await?;
    println!("against {} at {}", server.name(), server.url());

    let tell = |_: &str, event: &Event| match event {
        Event::Opened { conn, took, .. } => println!("    opened {conn} in {took:.1?}"),
        Event::Closed { conn, reason, age, .. } => {
            println!("    closed {conn} after {age:.1?}: {reason}");
        }
        _ => {}
    };
    let http1 = Http1::from_url(server.url())?.with_config(|config| config.with_max_size(4));
    let pool = http1.builder()?.observer(tell).build()?;

    println!("\n1. A thousand requests, one after the other");
    let began = Instant::now();
    for _ in 0..1000 {
        hello(&pool).await?;
    }
    println!("    {:.1?} each: {}", began.elapsed() / 1000, pool.status());

    println!("\n2. The server closes what is idle: nobody meets that");
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(800)).await;
        hello(&pool).await?;
        println!("    and the next request was answered");
    }

    println!("\n3. A body that is not read to its end takes its connection along");
    let response = pool.send(Request::get("/large").body(())?).await?;
    let mut body = response.into_body();
    if let Some(frame) = body.frame().await {
        let read = frame?.into_data().map_or(0, |data| data.len());
        println!("    read {read} bytes of it");
    }
    drop(body);
    println!("    {}", pool.status());

    println!("\n4. A deadline over all of a request, its body included");
    let limits = Limits::new().with_deadline(Duration::from_millis(300));
    let began = Instant::now();
    let request = Request::get("/large").body(())?;
    let answer =
        async { pool.send_within(request, limits).await?.into_body().bytes(4 << 20).await };
    match answer.await {
        Ok(body) => println!("    {} bytes in {:.1?}", body.len(), began.elapsed()),
        Err(error) => println!("    after {:.1?}: {error}", began.elapsed()),
    }

    println!("\n5. And the pool goes on");
    hello(&pool).await?;
    println!("    {}", pool.status());
    Ok(())
}

async fn hello(pool: &Pool<Http1>) -> Result<(), Box<dyn std::error::Error>> {
    let response = pool.send(Request::get("/").body(())?).await?;
    response.into_body().bytes(1 << 20).await?;
    Ok(())
}

//! livepool's connections in a deadpool pool that a program already has: one line changes, and dead
//! or half-used connections are no longer handed out; another one, and they are taken out of the pool
//! though nobody asks.
//!
//! ```sh
//! cargo run --example plain_deadpool
//! ```

mod support;

use deadpool::managed::Pool;
use livepool::{Config, Connection, Event, Manager};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let upstream = support::start_upstream().await?;
    let config = Config::new(&upstream).with_name("plain");
    // The one line: this manager instead of your own. The observer only tells what happens.
    let manager = Manager::with_observer(&config, |_: &str, event: &Event| match event {
        Event::Opened { conn, .. } => println!("      [connection {conn} was opened]"),
        Event::Closed { conn, reason, .. } => {
            println!("      [connection {conn} was closed: {reason}]");
        }
        _ => {}
    })?;
    let pool = Pool::<Manager>::builder(manager).max_size(2).build()?;

    println!("== 1. A connection is made with keepalive, and reused once its exchange is finished");
    let mut conn = pool.get().await?;
    println!("  as the kernel has it: {}", conn.socket_report()?);
    for text in ["one", "two"] {
        println!("  {} answers {:?}", conn.id(), echo(&mut conn, text).await?);
        // deadpool takes back whatever is dropped, so the connection has to be told.
        conn.finish();
        drop(conn);
        conn = pool.get().await?;
    }

    println!("\n== 2. Without finish() nobody knows whether an answer is still to come");
    println!("  {} is asked something slow, and dropped before it answers", conn.id());
    conn.write_all(b"BLPOP queue 0.2\r\n").await?;
    drop(conn);
    let mut conn = pool.get().await?;
    println!("  the next caller gets {}: {:?}", conn.id(), echo(&mut conn, "mine").await?);
    conn.finish();
    drop(conn);

    println!("\n== 3. The upstream closes its connections while they are idle");
    let admin = livepool::Connector::new(&config)?;
    let mut admin = admin.connect().await?;
    admin.write_all(b"CLIENT KILL TYPE normal SKIPME yes\r\n").await?;
    let mut count = [0; 4];
    admin.read_exact(&mut count).await?;
    // The upstream shares this thread: let it come to the closing.
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    println!("  deadpool does not know yet: {:?}", pool.status());
    let mut conn = pool.get().await?;
    println!("  the next caller gets {}: {:?}", conn.id(), echo(&mut conn, "alive").await?);

    println!("\n== 4. The pool is watched, and they are closed once more");
    Manager::watch(&pool);
    // As a drop after finish(), and watched from this moment on.
    println!("  {} is given back: {:?}", conn.id(), Connection::release(conn));
    admin.write_all(b"CLIENT KILL TYPE normal SKIPME yes\r\n").await?;
    admin.read_exact(&mut count).await?;
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    println!("  deadpool has it no more: {:?}", pool.status());

    println!(
        "\nWhat a plain deadpool with this manager can do, and what it cannot, is a table in the"
    );
    println!(
        "documentation of Manager. (The numbers left out are the other ends, which are in this"
    );
    println!("process, too.)");
    drop(pool);
    Ok(())
}

/// One exchange.
async fn echo(conn: &mut Connection, text: &str) -> std::io::Result<String> {
    conn.write_all(format!("ECHO {text}\r\n").as_bytes()).await?;
    let head = format!("${}\r\n", text.len()).len();
    let mut answer = vec![0; head + text.len() + 2];
    conn.read_exact(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer[head..head + text.len()]).into_owned())
}

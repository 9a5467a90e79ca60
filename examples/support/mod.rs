//! Shared by the examples: a small upstream in this process, so that each runs with one command.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use livepool::net::PeerAddr;
use livepool::{Listener, ListenerConfig, Stream};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::sync::Notify;

/// The connections of the upstream, each with the order to close it.
type Clients = Arc<Mutex<HashMap<u64, Arc<Notify>>>>;

/// Starts an upstream that speaks a little of Redis' inline protocol: `PING`, `ECHO text`,
/// `BLPOP key seconds` (which waits and then answers that there is nothing), and
/// `CLIENT KILL TYPE normal SKIPME yes` (which closes all other connections).
pub(crate) async fn start_upstream() -> std::io::Result<String> {
    let listener = Listener::bind("127.0.0.1:0", &ListenerConfig::default()).await?;
    let PeerAddr::Tcp(addr) = listener.local_addr().clone() else { unreachable!("it is TCP") };
    tokio::spawn(async move {
        let clients = Clients::default();
        loop {
            match listener.accept().await {
                Ok(stream) => {
                    tokio::spawn(serve(stream, Arc::clone(&clients)));
                }
                // Nobody came for a while: that is what an accept deadline says.
                Err(error) if livepool::is_timeout(&error) => {}
                Err(error) => return eprintln!("upstream: {error}"),
            }
        }
    });
    Ok(addr.to_string())
}

async fn serve(mut stream: Stream, clients: Clients) {
    // A server waits for the next request as long as the client likes.
    stream.set_read_timeout(None);
    let id = stream.id().get();
    let close = Arc::new(Notify::new());
    clients.lock().expect("not poisoned").insert(id, Arc::clone(&close));
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        tokio::select! {
            () = close.notified() => break,
            read = stream.read_line(&mut line) => if !matches!(read, Ok(1..)) { break },
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match words[..] {
            ["PING"] => "+PONG\r\n".to_owned(),
            ["ECHO", text] => format!("${}\r\n{text}\r\n", text.len()),
            ["BLPOP", _, seconds] => {
                tokio::time::sleep(Duration::from_secs_f64(seconds.parse().unwrap_or(1.0))).await;
                "*-1\r\n".to_owned()
            }
            ["CLIENT", "KILL", ..] => {
                let clients = clients.lock().expect("not poisoned");
                let others = clients.iter().filter(|(other, _)| **other != id);
                format!(":{}\r\n", others.map(|(_, close)| close.notify_one()).count())
            }
            _ => "-ERR unknown command\r\n".to_owned(),
        };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            break;
        }
    }
    clients.lock().expect("not poisoned").remove(&id);
}

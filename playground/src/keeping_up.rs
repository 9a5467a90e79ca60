//! Whether the page's program keeps up: 200 connections, 5 000 checkouts a second, and a reader of
//! `/events` who counts.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use crate::load::Demand;
use crate::stage::{Button, Stage};
use crate::{frame, server};

const CONNECTIONS: usize = 200;
const RATE: u32 = 5000;
const THINK_MS: u32 = 35;
const LASTS: Duration = Duration::from_secs(5);

/// Runs the load, and says in a sentence what a reader got.
///
/// # Errors
///
/// If something cannot be started, or there are never so many connections.
pub(crate) async fn measure() -> Result<String, Box<dyn Error>> {
    let stage = Arc::new(Stage::start().await?);
    let (frames, seen) = watch::channel(Arc::default());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let at = listener.local_addr()?;
    let tasks = [
        tokio::spawn(frame::run(Arc::clone(&stage), frames)).abort_handle(),
        tokio::spawn(server::serve(listener, Arc::clone(&stage), seen)).abort_handle(),
    ];
    stage.press(Button::Resize { size: CONNECTIONS }).await?;
    // So long that nearly all of them are in use.
    stage.press(Button::Demand(Demand { rate: RATE, think_ms: THINK_MS, shared: false })).await?;
    let until = Instant::now() + Duration::from_secs(20);
    while stage.board.dots().len() < CONNECTIONS {
        if Instant::now() > until {
            return Err("there were never 200 connections".into());
        }
        sleep(Duration::from_millis(50)).await;
    }
    sleep(Duration::from_secs(1)).await;
    let read = read(at).await?;
    tasks.iter().for_each(tokio::task::AbortHandle::abort);
    Ok(read)
}

async fn read(at: std::net::SocketAddr) -> Result<String, Box<dyn Error>> {
    let mut client = TcpStream::connect(at).await?;
    let request = format!("GET /events HTTP/1.1\r\nHost: {at}\r\n\r\n");
    client.write_all(request.as_bytes()).await?;
    let end = Instant::now() + LASTS;
    let (mut text, mut buf, mut bytes) = (Vec::new(), vec![0; 65536], 0);
    let mut frames: Vec<Value> = Vec::new();
    while let Ok(length) = timeout_at(end, client.read(&mut buf)).await {
        let length = length?;
        if length == 0 {
            break;
        }
        bytes += length;
        text.extend_from_slice(&buf[..length]);
        // Each frame is one line; what the transfer puts between is none of it.
        while let Some(line_end) = text.windows(2).position(|pair| pair == b"\n\n") {
            let line: Vec<u8> = text.drain(..line_end + 2).collect();
            let Some(begin) = line.windows(6).position(|six| six == b"data: ") else { continue };
            frames.push(serde_json::from_slice(&line[begin + 6..])?);
        }
    }
    let number = |frame: &Value| frame["now"]["number"].as_u64().unwrap_or_default();
    let (Some(first), Some(last)) = (frames.first(), frames.last()) else {
        return Err("no frame came".into());
    };
    let missed = number(last) - number(first) + 1 - frames.len() as u64;
    let live = |frame: &Value, name: &str| {
        frame["now"]["pools"]["livepool"][name].as_f64().unwrap_or_default()
    };
    #[allow(clippy::cast_precision_loss)]
    let seconds = LASTS.as_secs_f64();
    #[allow(clippy::cast_precision_loss)]
    let per_s = |count: usize| count as f64 / seconds;
    let made: Vec<u64> =
        frames.iter().filter_map(|frame| frame["now"]["made_in_us"].as_u64()).collect();
    let (average, most) =
        (made.iter().sum::<u64>() / made.len().max(1) as u64, made.iter().max().copied());
    #[allow(clippy::cast_precision_loss)]
    let checkouts = (live(last, "checkouts") - live(first, "checkouts"))
        / ((number(last) - number(first)).max(1) as f64 / 10.0);
    Ok(format!(
        "{} connections, {checkouts:.0} checkouts a second: {:.1} frames a second, {missed} left out, \
         {:.0} kB/s in all; a frame took {:.1} ms to make on average, {:.1} ms at most; wait for a \
         connection p99 {:.2} ms",
        last["now"]["dots"].as_array().map_or(0, Vec::len),
        per_s(frames.len()),
        per_s(bytes) / 1000.0,
        average as f64 / 1000.0,
        most.unwrap_or_default() as f64 / 1000.0,
        live(last, "p99_ms"),
    ))
}

//! Callers who give up at any moment, also in the middle of a body: nobody reads the answer of
//! another. And the same callers on a plain pool of sockets, where many do.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use livepool::{Config, Pool};
use livepool_http::{Http1, PoolExt, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{pool_of, request_for, text};
use livepool_testkit::seed::seed;
use livepool_testkit::servers::Nginx;

const REQUESTS: usize = 10_000;
const CALLERS: usize = 48;
const CONNECTIONS: usize = 16;

/// Answers `/big/x` with 512 lines of `x`.
fn nginx() -> Nginx {
    let lines = "$1\n".repeat(512);
    Nginx::start_with(&format!("location ~ ^/big/(.*)$ {{ return 200 \"{lines}\"; }}"), None)
}

#[derive(Debug, Default)]
struct Tally {
    whole: AtomicUsize,
    cut: AtomicUsize,
    crossed: AtomicUsize,
    failed: AtomicUsize,
}

impl Tally {
    fn count(counter: &AtomicUsize) {
        counter.fetch_add(1, Ordering::SeqCst);
    }

    fn get(counter: &AtomicUsize) -> usize {
        counter.load(Ordering::SeqCst)
    }
}

/// Runs `one` for every number, by as many callers at a time as there are, each given up after a
/// random time or not at all.
async fn storm<F>(
    requests: usize,
    tally: &Arc<Tally>,
    one: impl Fn(usize) -> F + Send + Sync + 'static,
) where
    F: Future<Output = io::Result<Option<bool>>> + Send,
{
    let (one, seed) = (Arc::new(one), seed());
    let next = Arc::new(AtomicUsize::new(0));
    let callers = (0..CALLERS).map(|_| {
        let (one, next, tally) = (Arc::clone(&one), Arc::clone(&next), Arc::clone(tally));
        tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::SeqCst);
                if number >= requests {
                    return;
                }
                let mut random = fastrand::Rng::with_seed(seed.wrapping_add(number as u64));
                let patience = match random.bool() {
                    true => Duration::from_micros(random.u64(0..20_000)),
                    false => Duration::from_secs(30),
                };
                Tally::count(match tokio::time::timeout(patience, one(number)).await {
                    Err(_) | Ok(Ok(None)) => &tally.cut,
                    Ok(Ok(Some(true))) => &tally.whole,
                    Ok(Ok(Some(false))) => &tally.crossed,
                    Ok(Err(_)) => &tally.failed,
                });
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
}

/// A tag of its own length, so that a body taken for another's shows.
fn tag(number: usize) -> String {
    format!("{number}-{}", "x".repeat(number % 50))
}

async fn ask(pool: &Pool<Http1>, number: usize) -> io::Result<Option<bool>> {
    let tag = tag(number);
    let answer = match number % 3 {
        0 => {
            let request = request_for(&format!("/tag/{tag}"));
            let response = pool.send(request).await.map_err(io::Error::other)?;
            return Ok(Some(text(response).await.map_err(io::Error::other)? == tag));
        }
        // Given up by dropping the body after its first piece.
        1 => {
            let request = request_for(&format!("/big/{tag}"));
            let mut body = pool.send(request).await.map_err(io::Error::other)?.into_body();
            let Some(frame) = body.frame().await else { return Ok(Some(false)) };
            let piece = frame.map_err(io::Error::other)?.into_data().unwrap_or_default();
            return Ok(if piece.starts_with(tag.as_bytes()) { None } else { Some(false) });
        }
        _ => {
            let request = Request::post(format!("/big/{tag}")).body(tag.clone()).unwrap();
            pool.send(request).await
        }
    };
    let answer = text(answer.map_err(io::Error::other)?).await.map_err(io::Error::other)?;
    Ok(Some(answer.lines().count() == 512 && answer.lines().all(|line| line == tag)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_reads_the_answer_of_another_whoever_gives_up() {
    let nginx = nginx();
    let config = Config::new(format!("127.0.0.1:{}", nginx.port())).with_max_size(CONNECTIONS);
    let (pool, events) = pool_of(config);
    let tally = Arc::<Tally>::default();
    let asking = pool.clone();
    storm(REQUESTS, &tally, move |number| {
        let pool = asking.clone();
        async move { ask(&pool, number).await }
    })
    .await;
    println!("{tally:?}, {} connections", events.opened());
    assert_eq!(Tally::get(&tally.crossed), 0);
    assert_eq!(Tally::get(&tally.failed), 0, "giving up is nobody else's error");
    // Both happened, often.
    assert!(Tally::get(&tally.whole) > REQUESTS / 10, "{tally:?}");
    assert!(Tally::get(&tally.cut) > REQUESTS / 10, "{tally:?}");
    assert!(pool.status().idle + pool.status().in_use <= CONNECTIONS);
}

/// What one writes first: a pool of sockets, given back however the exchange ended.
struct Sockets(std::net::SocketAddr);

impl deadpool::managed::Manager for Sockets {
    type Type = TcpStream;
    type Error = io::Error;

    async fn create(&self) -> io::Result<TcpStream> {
        TcpStream::connect(self.0).await
    }

    async fn recycle(
        &self,
        _: &mut TcpStream,
        _: &deadpool::managed::Metrics,
    ) -> deadpool::managed::RecycleResult<io::Error> {
        Ok(())
    }
}

async fn ask_by_hand(
    pool: &deadpool::managed::Pool<Sockets>,
    number: usize,
) -> io::Result<Option<bool>> {
    let mut stream = pool.get().await.map_err(io::Error::other)?;
    let tag = tag(number);
    let result = exchange(&mut stream, &tag).await;
    if result.is_err() {
        drop(deadpool::managed::Object::take(stream));
    }
    Ok(Some(result? == tag))
}

async fn exchange(stream: &mut TcpStream, tag: &str) -> io::Result<String> {
    let request = format!("GET /tag/{tag} HTTP/1.1\r\nhost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length = length.and_then(|length| length.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_plain_pool_of_sockets_many_do() {
    let nginx = nginx();
    let addr = std::net::SocketAddr::from(([127, 0, 0, 1], nginx.port()));
    let pool =
        deadpool::managed::Pool::builder(Sockets(addr)).max_size(CONNECTIONS).build().unwrap();
    let tally = Arc::<Tally>::default();
    storm(REQUESTS, &tally, move |number| {
        let pool = pool.clone();
        async move { ask_by_hand(&pool, number).await }
    })
    .await;
    println!("{tally:?}");
    assert!(Tally::get(&tally.crossed) > 0, "{tally:?}");
}

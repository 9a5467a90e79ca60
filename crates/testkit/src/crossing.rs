//! Answers that reach somebody else: how a pool of clients is asked for them, and the plain deadpool
//! of byte streams on which they do happen.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use deadpool::managed::{self, Metrics, RecycleResult};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What became of the requests.
#[derive(Debug, Default)]
pub struct Tally {
    pub answered: AtomicUsize,
    pub cancelled: AtomicUsize,
    pub failed: AtomicUsize,
    /// Answers to somebody else's request.
    pub crossed: AtomicUsize,
}

impl Tally {
    fn count(&self, which: &AtomicUsize) {
        which.fetch_add(1, Ordering::SeqCst);
    }

    pub fn crossed(&self) -> usize {
        self.crossed.load(Ordering::SeqCst)
    }

    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::SeqCst)
    }

    pub fn cancelled(&self) -> usize {
        self.cancelled.load(Ordering::SeqCst)
    }

    pub fn failed(&self) -> usize {
        self.failed.load(Ordering::SeqCst)
    }
}

/// Has 32 tasks make so many requests in all, a third of which are dropped after up to 3 ms. Each
/// is for a tag of its own, and its answer has to be that tag; an error is no answer.
pub async fn requests<F>(
    count: usize,
    request: impl Fn(usize) -> F + Send + Sync + 'static,
) -> Arc<Tally>
where
    F: Future<Output = Result<String, String>> + Send,
{
    let tally = Arc::<Tally>::default();
    let next = Arc::<AtomicUsize>::default();
    let request = Arc::new(request);
    let tasks: Vec<_> = (0..32)
        .map(|_| {
            let (tally, next, request) =
                (Arc::clone(&tally), Arc::clone(&next), Arc::clone(&request));
            tokio::spawn(async move {
                loop {
                    let tag = next.fetch_add(1, Ordering::SeqCst);
                    if tag >= count {
                        return;
                    }
                    let patience = match fastrand::u32(0..3) {
                        0 => Duration::from_micros(fastrand::u64(0..3_000)),
                        _ => Duration::from_secs(60),
                    };
                    match tokio::time::timeout(patience, request(tag)).await {
                        Err(_) => tally.count(&tally.cancelled),
                        Ok(Err(_)) => tally.count(&tally.failed),
                        Ok(Ok(answer)) if answer == tag.to_string() => tally.count(&tally.answered),
                        Ok(Ok(_)) => tally.count(&tally.crossed),
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    tally
}

/// deadpool over bare streams, as a hurried user would write it: with what is said first on each.
pub struct Plain {
    addr: SocketAddr,
    hello: Vec<u8>,
    /// How the answer to that ends.
    welcome: Vec<u8>,
}

impl managed::Manager for Plain {
    type Type = TcpStream;
    type Error = std::io::Error;

    async fn create(&self) -> std::io::Result<TcpStream> {
        let mut stream = TcpStream::connect(self.addr).await?;
        stream.set_nodelay(true)?;
        stream.write_all(&self.hello).await?;
        let mut answer = Vec::new();
        while !answer.ends_with(&self.welcome) {
            answer.push(stream.read_u8().await?);
        }
        Ok(stream)
    }

    async fn recycle(&self, _: &mut TcpStream, _: &Metrics) -> RecycleResult<std::io::Error> {
        Ok(())
    }
}

pub fn plain(addr: SocketAddr) -> managed::Pool<Plain> {
    plain_with(addr, b"", b"")
}

pub fn plain_with(addr: SocketAddr, hello: &[u8], welcome: &[u8]) -> managed::Pool<Plain> {
    let plain = Plain { addr, hello: hello.to_vec(), welcome: welcome.to_vec() };
    managed::Pool::builder(plain).max_size(16).build().unwrap()
}

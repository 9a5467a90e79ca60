//! Answers that reach somebody else: how a pool of clients is asked for them, and the plain deadpool
//! of byte streams on which they do happen.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
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

/// When a caller gives up.
#[derive(Debug, Clone, Copy)]
enum Patience {
    Endless,
    /// However fast the answer is.
    Polls(usize),
    Time(Duration),
}

impl Patience {
    /// A third of all callers give up: in the midst of a request, or after up to 3 ms.
    fn any() -> Self {
        match fastrand::u32(0..12) {
            0..3 => Self::Polls(fastrand::usize(1..=2)),
            3 => Self::Time(Duration::from_micros(fastrand::u64(0..3_000))),
            _ => Self::Endless,
        }
    }

    /// The answer, unless its caller gives up before it has come.
    async fn wait<F: Future>(self, request: F) -> Option<F::Output> {
        match self {
            Self::Endless => Some(request.await),
            Self::Time(limit) => tokio::time::timeout(limit, request).await.ok(),
            Self::Polls(mut left) => {
                let mut request = pin!(request);
                poll_fn(|cx| match request.as_mut().poll(cx) {
                    Poll::Ready(output) => Poll::Ready(Some(output)),
                    Poll::Pending => {
                        left -= 1;
                        if left == 0 { Poll::Ready(None) } else { Poll::Pending }
                    }
                })
                .await
            }
        }
    }
}

/// Has 32 tasks make so many requests in all, a third of which are given up. Each is for a tag of its
/// own, and its answer has to be that tag; an error is no answer.
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
                    match Patience::any().wait(request(tag)).await {
                        None => tally.count(&tally.cancelled),
                        Some(Err(_)) => tally.count(&tally.failed),
                        Some(Ok(answer)) if answer == tag.to_string() => {
                            tally.count(&tally.answered);
                        }
                        Some(Ok(_)) => tally.count(&tally.crossed),
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

//! A server whose every byte the test decides, for what no real server does on command.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use livepool::Config;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::listen;

pub struct Scripted {
    addr: SocketAddr,
    accepted: Arc<AtomicUsize>,
    heard: Arc<AtomicUsize>,
    finished: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Scripted {
    /// Serves every connection with `serve`, which is told how many there were before.
    pub async fn start<F, S>(serve: F) -> Self
    where
        F: Fn(Talk, usize) -> S + Send + 'static,
        S: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::from_std(listen("127.0.0.1:0".parse().unwrap())).unwrap();
        let addr = listener.local_addr().unwrap();
        let (accepted, heard) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (count, requests) = (Arc::clone(&accepted), Arc::clone(&heard));
        let finished = Arc::<AtomicUsize>::default();
        let done = Arc::clone(&finished);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let number = count.fetch_add(1, Ordering::SeqCst);
                let heard = Arc::clone(&requests);
                let served = serve(Talk { stream, ahead: Vec::new(), heard }, number);
                let done = Arc::clone(&done);
                tokio::spawn(async move {
                    served.await;
                    done.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Self { addr, accepted, heard, finished, task }
    }

    /// Answers every request on every connection with this.
    pub async fn always(answer: &'static str) -> Self {
        Self::start(move |mut talk, _| async move {
            while talk.request().await.is_some() {
                talk.say(answer).await;
            }
        })
        .await
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn config(&self) -> Config {
        Config::new(self.addr.to_string())
    }

    /// Connections ever accepted.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Requests whose head was read.
    pub fn heard(&self) -> usize {
        self.heard.load(Ordering::SeqCst)
    }

    /// Connections that are closed on this side.
    pub fn finished(&self) -> usize {
        self.finished.load(Ordering::SeqCst)
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One connection.
pub struct Talk {
    stream: TcpStream,
    ahead: Vec<u8>,
    heard: Arc<AtomicUsize>,
}

impl Talk {
    /// The head of the next request; `None` if the client has gone.
    pub async fn request(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.ahead.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                let rest = self.ahead.split_off(end + 4);
                let head = std::mem::replace(&mut self.ahead, rest);
                self.heard.fetch_add(1, Ordering::SeqCst);
                return Some(String::from_utf8(head).unwrap());
            }
            self.more().await?;
        }
    }

    /// So many bytes of a body.
    pub async fn body(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.ahead.len() < count {
            self.more().await?;
        }
        let rest = self.ahead.split_off(count);
        Some(std::mem::replace(&mut self.ahead, rest))
    }

    /// Takes in so many bytes of a body. Returns how many came before the client was gone.
    pub async fn skip(&mut self, count: usize) -> usize {
        let mut left = count;
        loop {
            let here = left.min(self.ahead.len());
            self.ahead.drain(..here);
            left -= here;
            if left == 0 || self.more().await.is_none() {
                return count - left;
            }
        }
    }

    /// Takes in a body that comes in chunks. Returns how long it was, as far as it came.
    pub async fn chunks(&mut self) -> usize {
        let mut taken = 0;
        loop {
            let Some(end) = self.ahead.windows(2).position(|bytes| bytes == b"\r\n") else {
                match self.more().await {
                    Some(()) => continue,
                    None => return taken,
                }
            };
            let line: Vec<u8> = self.ahead.drain(..end + 2).collect();
            let size = std::str::from_utf8(&line[..end]).unwrap();
            let size = usize::from_str_radix(size, 16).unwrap();
            taken += self.skip(size).await;
            self.skip(2).await;
            if size == 0 {
                return taken;
            }
        }
    }

    async fn more(&mut self) -> Option<()> {
        let mut space = [0; 16 * 1024];
        let count = self.stream.read(&mut space).await.ok().filter(|count| *count > 0)?;
        self.ahead.extend_from_slice(&space[..count]);
        Some(())
    }

    pub async fn say(&mut self, text: &str) {
        let _ = self.stream.write_all(text.as_bytes()).await;
    }

    /// Until the client has gone.
    pub async fn listen(&mut self) {
        while self.more().await.is_some() {}
    }

    /// RST instead of FIN.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

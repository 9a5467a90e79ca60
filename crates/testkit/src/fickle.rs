//! An upstream that ends its idle connections as it pleases, and remembers when.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::listen;

/// Echoes lines. After each answer it ends, with the given chance, one of its connections at random,
/// by FIN or by RST: only one that has answered before and on which it has seen no request since.
pub struct Fickle {
    addr: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// When the end of a connection had reached its client, by the client's address. A client that
    /// comes again from the same port is a new one.
    ended: Mutex<HashMap<SocketAddr, Instant>>,
    kills: AtomicUsize,
    open: Mutex<HashMap<SocketAddr, mpsc::UnboundedSender<How>>>,
}

#[derive(Debug, Clone, Copy)]
enum How {
    Fin,
    Rst,
}

impl Fickle {
    pub fn start(seed: u64, chance: f64) -> Self {
        let shared = Arc::new(Shared::default());
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let inside = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = listen("127.0.0.1:0".parse().unwrap());
                let listener = TcpListener::from_std(listener).unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                let mut rng = fastrand::Rng::with_seed(seed);
                let accept = async {
                    loop {
                        let (stream, client) = listener.accept().await.unwrap();
                        let (sender, orders) = mpsc::unbounded_channel();
                        inside.ended.lock().unwrap().remove(&client);
                        inside.open.lock().unwrap().insert(client, sender);
                        let (shared, rng) = (Arc::clone(&inside), rng.fork());
                        tokio::spawn(async move {
                            serve(stream, client, orders, &shared, rng, chance).await;
                        });
                    }
                };
                tokio::select! {
                    () = accept => {}
                    _ = stopped => {}
                }
            });
        });
        Self { addr: told.recv().unwrap(), shared, stop: Some(stop), thread: Some(thread) }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn kills(&self) -> usize {
        self.shared.kills.load(Ordering::SeqCst)
    }

    /// When this client's connection had been ended, if it was.
    pub fn ended(&self, client: SocketAddr) -> Option<Instant> {
        self.shared.ended.lock().unwrap().get(&client).copied()
    }
}

impl Drop for Fickle {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

async fn serve(
    mut stream: TcpStream,
    client: SocketAddr,
    mut orders: mpsc::UnboundedReceiver<How>,
    shared: &Shared,
    mut rng: fastrand::Rng,
    chance: f64,
) {
    stream.set_nodelay(true).unwrap();
    let mut request = Vec::new();
    let mut chunk = [0; 256];
    let mut answered = false;
    loop {
        tokio::select! {
            got = stream.read(&mut chunk) => match got {
                Ok(bytes @ 1..) => request.extend_from_slice(&chunk[..bytes]),
                _ => break,
            },
            order = orders.recv() => {
                if let Some(how) = order.filter(|_| answered && request.is_empty() && unasked(&stream)) {
                    end(stream, client, how, shared);
                    shared.open.lock().unwrap().remove(&client);
                    return;
                }
            }
        }
        if request.ends_with(b"\n") {
            if stream.write_all(&request).await.is_err() {
                break;
            }
            request.clear();
            answered = true;
            if rng.f64() < chance {
                let open = shared.open.lock().unwrap();
                let victim = open.values().nth(rng.usize(..open.len()));
                let how = if rng.bool() { How::Fin } else { How::Rst };
                let _ = victim.map(|victim| victim.send(how));
            }
        }
    }
    shared.open.lock().unwrap().remove(&client);
}

/// Whether no request waits in the kernel.
fn unasked(stream: &TcpStream) -> bool {
    let mut byte = [std::mem::MaybeUninit::uninit()];
    let peeked = socket2::SockRef::from(stream).peek(&mut byte);
    peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

fn end(stream: TcpStream, client: SocketAddr, how: How, shared: &Shared) {
    if let How::Rst = how {
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
    drop(stream);
    super::loopback_delivered();
    shared.ended.lock().unwrap().insert(client, Instant::now());
    shared.kills.fetch_add(1, Ordering::SeqCst);
}

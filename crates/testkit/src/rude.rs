//! Upstreams without manners.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::listen;

/// What happens to every connection as soon as it is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rudeness {
    /// Closed.
    Close,
    /// Reset.
    Reset,
    /// Bytes that nobody asked for, and then silence.
    Garbage,
    /// Bytes that nobody asked for, and then a close.
    GarbageAndClose,
}

pub const GARBAGE: &[u8] = b"\x00\xffSSH-2.0-nonsense\n";

/// A server in a thread of its own that treats all its clients alike.
pub struct Rude {
    addr: SocketAddr,
    served: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Rude {
    pub fn start(rudeness: Rudeness) -> Self {
        let listener = listen("127.0.0.1:0".parse().unwrap());
        listener.set_nonblocking(false).unwrap();
        let addr = listener.local_addr().unwrap();
        let (served, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let shared = (Arc::clone(&served), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let (served, stop) = shared;
            let mut kept = Vec::new();
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(stream) = stream {
                    kept.extend(treat(stream, rudeness));
                }
                served.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { addr, served, stop, thread: Some(thread) }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Clients that have got their treatment.
    pub fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }
}

/// Returns the stream if it stays open.
fn treat(mut stream: TcpStream, rudeness: Rudeness) -> Option<TcpStream> {
    match rudeness {
        Rudeness::Close => None,
        Rudeness::Reset => {
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            None
        }
        Rudeness::Garbage => {
            // The client may be gone already.
            let _ = stream.write_all(GARBAGE);
            Some(stream)
        }
        Rudeness::GarbageAndClose => {
            let _ = stream.write_all(GARBAGE);
            None
        }
    }
}

impl Drop for Rude {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Out of accept.
        drop(TcpStream::connect(self.addr));
        self.thread.take().unwrap().join().unwrap();
    }
}

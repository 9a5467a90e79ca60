//! Both ends of one connection in the same test: a livepool stream, and the plain socket it talks
//! to.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use livepool::config::SocketConfig;
use livepool::{Config, Connector, Listener, ListenerConfig, Stream, Timeouts};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::Events;

/// A socket of tokio's own, with no livepool around it.
pub trait Plain: AsyncRead + AsyncWrite + AsFd + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + AsFd + Unpin + Send> Plain for T {}

/// The ways to come by a [`Stream`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Made by a [`Connector`], to a TCP server.
    ConnectTcp,
    /// Made by a [`Connector`], to a Unix socket.
    ConnectUnix,
    /// Accepted by a [`Listener`] on a TCP port.
    AcceptTcp,
    /// Accepted by a [`Listener`] on a Unix socket.
    AcceptUnix,
}

impl Way {
    pub const ALL: [Self; 4] =
        [Self::ConnectTcp, Self::ConnectUnix, Self::AcceptTcp, Self::AcceptUnix];
}

/// A livepool stream, its peer, and what it reported.
pub struct Pair {
    pub stream: Stream,
    pub peer: Box<dyn Plain>,
    pub events: Events,
}

impl Pair {
    /// Dropped, with the peer still there: what was reported from beginning to end.
    pub fn end(self) -> Events {
        let Self { stream, peer, events } = self;
        drop(stream);
        drop(peer);
        events
    }
}

/// A connection with these timeouts.
pub async fn pair(way: Way, timeouts: Timeouts) -> Pair {
    pair_with(way, timeouts, SocketConfig::default()).await
}

/// A connection with these timeouts and socket options.
pub async fn pair_with(way: Way, timeouts: Timeouts, socket: SocketConfig) -> Pair {
    match way {
        Way::ConnectTcp => connect_tcp("127.0.0.1:0", timeouts, socket).await,
        Way::ConnectUnix => {
            let scratch = Scratch::new();
            let path = scratch.path("socket");
            let listener = UnixListener::bind(&path).unwrap();
            let upstream = format!("unix:{}", path.display());
            let (stream, events) = connect(upstream, timeouts, socket).await;
            Pair { stream, events, peer: Box::new(listener.accept().await.unwrap().0) }
        }
        Way::AcceptTcp => {
            let (listener, events) = listen("127.0.0.1:0", timeouts, socket).await;
            let livepool::net::PeerAddr::Tcp(addr) = listener.local_addr() else { panic!() };
            let peer = Box::new(TcpStream::connect(addr).await.unwrap());
            Pair { stream: listener.accept().await.unwrap(), peer, events }
        }
        Way::AcceptUnix => {
            let scratch = Scratch::new();
            let path = scratch.path("socket");
            let (listener, events) =
                listen(&format!("unix:{}", path.display()), timeouts, socket).await;
            let peer = Box::new(UnixStream::connect(&path).await.unwrap());
            Pair { stream: listener.accept().await.unwrap(), peer, events }
        }
    }
}

/// A connection made to a plain TCP server at this address (port 0).
pub async fn connect_tcp(addr: &str, timeouts: Timeouts, socket: SocketConfig) -> Pair {
    let listener = TcpListener::bind(addr).await.unwrap();
    let upstream = listener.local_addr().unwrap().to_string();
    let (stream, events) = connect(upstream, timeouts, socket).await;
    Pair { stream, events, peer: Box::new(listener.accept().await.unwrap().0) }
}

async fn connect(upstream: String, timeouts: Timeouts, socket: SocketConfig) -> (Stream, Events) {
    let config = Config::new(upstream).with_timeouts(timeouts).with_socket(socket);
    let events = Events::default();
    let connector = Connector::with_observer(&config, events.observer()).unwrap();
    (connector.connect().await.unwrap(), events)
}

async fn listen(addr: &str, timeouts: Timeouts, socket: SocketConfig) -> (Listener, Events) {
    let config = ListenerConfig::default()
        .with_timeouts(timeouts)
        .with_socket(socket)
        .with_idle_timeout(None);
    let events = Events::default();
    (Listener::bind_with_observer(addr, &config, events.observer()).await.unwrap(), events)
}

/// A directory that is removed with everything in it.
pub struct Scratch(PathBuf);

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Scratch {
    pub fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("livepool-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

//! A relay in front of a server, whose connections can fall silent.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use livepool_testkit::fault;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// The client's side of a connection, and the task that copies.
type Relayed = (std::net::TcpStream, AbortHandle);

pub struct Relay {
    addr: SocketAddr,
    relayed: Arc<Mutex<Vec<Relayed>>>,
    _accepts: JoinSet<()>,
}

impl Relay {
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("it has one");
        let relayed = Arc::<Mutex<Vec<Relayed>>>::default();
        let mut accepts = JoinSet::new();
        let kept = Arc::clone(&relayed);
        accepts.spawn(async move {
            let mut copies = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let Ok(client) = client.into_std() else { continue };
                let Ok(copy) = client.try_clone() else { continue };
                let task = copies.spawn(relay(client, server));
                kept.lock().expect("not poisoned").push((copy, task));
            }
        });
        Self { addr, relayed, _accepts: accepts }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Those that there are hear and say nothing more, and are not closed.
    pub fn silence(&self) {
        for (client, task) in &*self.relayed.lock().expect("not poisoned") {
            fault::silence(client);
            task.abort();
        }
    }
}

async fn relay(client: std::net::TcpStream, server: SocketAddr) {
    let Ok(mut client) = TcpStream::from_std(client) else { return };
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    let _delays = (client.set_nodelay(true), server.set_nodelay(true));
    let _ended = tokio::io::copy_bidirectional(&mut client, &mut server).await;
}

//! Lost keepalive probes and lost answers, and how the kernel's own keepalive fares with them.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::lab::{Host, Kind, Verdict, Way};

/// Loses probes to this host and answers from it with this probability, and nothing else.
///
/// Every connection has random numbers of its own, one row for probes and one for answers, the same
/// in every run: which of its answers are lost does not depend on when others are sent.
pub fn lose(host: &Host, probability: f64, kernel: &Arc<Kernel>) {
    let mut rows = HashMap::new();
    let kernel = Arc::clone(kernel);
    let mut asked = HashSet::new();
    host.filter(move |packet| {
        let (row, port) = match (packet.way, packet.kind) {
            (Way::In, Kind::Probe) => (0, packet.to.port()),
            (Way::Out, Kind::Ack) => (1, packet.from.port()),
            _ => return Verdict::Pass,
        };
        let seed = packet.connection * 2 + row;
        let random = rows.entry(seed).or_insert_with(|| fastrand::Rng::with_seed(seed));
        let lost = random.f64() < probability;
        if usize::from(port) == kernel.port.load(Ordering::SeqCst) {
            match row {
                0 => drop(asked.insert(packet.connection)),
                _ if !lost && asked.remove(&packet.connection) => {
                    kernel.answered.fetch_add(1, Ordering::SeqCst);
                }
                _ => {}
            }
        }
        if lost { Verdict::Drop } else { Verdict::Pass }
    });
}

/// Plain sockets that only their kernel watches.
#[derive(Default)]
pub struct Kernel {
    port: AtomicUsize,
    answered: AtomicUsize,
    deaths: AtomicUsize,
}

impl Kernel {
    /// Holds this many connections, each replaced when it dies: asked after a second of silence,
    /// then every second, given up after `tries`.
    pub async fn watch(self: &Arc<Self>, addr: SocketAddr, count: usize, tries: u32) {
        self.port.store(addr.port().into(), Ordering::SeqCst);
        for _ in 0..count {
            let stream = connect(addr, tries).await;
            let its = Arc::clone(self);
            tokio::spawn(its.keep(stream, addr, tries));
        }
    }

    async fn keep(self: Arc<Self>, mut stream: TcpStream, addr: SocketAddr, tries: u32) {
        // Nothing is ever sent: whatever ends this read is the kernel's verdict.
        while stream.read_u8().await.is_err() {
            self.deaths.fetch_add(1, Ordering::SeqCst);
            stream = connect(addr, tries).await;
        }
    }

    /// First probes whose round has ended, with an answer or with a death.
    pub fn rounds(&self) -> usize {
        self.answered.load(Ordering::SeqCst) + self.deaths()
    }

    pub fn deaths(&self) -> usize {
        self.deaths.load(Ordering::SeqCst)
    }
}

async fn connect(addr: SocketAddr, tries: u32) -> TcpStream {
    let second = Duration::from_secs(1);
    let stream = TcpStream::connect(addr).await.unwrap();
    let keepalive = TcpKeepalive::new().with_time(second).with_interval(second);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive.with_retries(tries)).unwrap();
    stream
}

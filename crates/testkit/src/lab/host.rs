//! A host: a network namespace with an address, and its link.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::Upstream;
use super::super::alone::loopback_up;
use super::interface;
use super::link::Link;
use super::namespace::Namespace;
use super::network::Network;
use super::rules::Verdict;

/// A host of the lab. It derefs to its [`Link`], where the faults are.
///
/// When it is dropped it is gone from the network, as if unplugged; sockets and threads that were
/// made in it keep the rest of it for as long as they live.
pub struct Host {
    link: Link,
    network: Arc<Network>,
    namespace: Namespace,
    aliases: AtomicUsize,
}

impl Host {
    pub(super) fn new(address: Ipv4Addr, network: Arc<Network>) -> Self {
        let namespace = Namespace::new(format!("host {address}")).unwrap();
        let tun = namespace.run(move || {
            loopback_up();
            interface::open(address)
        });
        let link = Link::new(address);
        network.connect(address, tun.unwrap(), link.clone());
        Self { link, network, namespace, aliases: AtomicUsize::new(0) }
    }

    /// An address of this host.
    pub fn addr(&self, port: u16) -> SocketAddr {
        (self.ip(), port).into()
    }

    /// Runs this on the host, in a thread of its own that others wait for. Sockets made and threads
    /// started in it stay on the host; a runtime built in it works there.
    ///
    /// Files are shared by all hosts, but `/proc/sys/net` shows the settings of this host only.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        self.namespace.run(job)
    }

    /// An upstream on this host. Drop it before the host if its sockets are to say goodbye.
    pub fn upstream(&self) -> Upstream {
        let addr = self.addr(0);
        self.run(move || Upstream::start_on(addr))
    }

    /// Failover: this host takes an address over from whatever host has it. The former owner is not
    /// told, and hears and says nothing under that address any more. Connections to it now meet a
    /// kernel that does not know them and answers RST.
    pub fn take_over(&self, address: Ipv4Addr) {
        if address != self.ip() {
            let number = self.aliases.fetch_add(1, Ordering::Relaxed) + 1;
            self.run(move || interface::add_address(address, number)).unwrap();
        }
        self.network.route(address, self.ip());
    }

    /// A middlebox between here and the rest forgets all connections there are. Their packets, in
    /// both directions, meet this verdict; new connections work.
    pub fn forget_connections(&self, verdict: Verdict) {
        self.link.forget_up_to(self.network.connections(), verdict);
    }
}

impl Deref for Host {
    type Target = Link;

    fn deref(&self) -> &Link {
        &self.link
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.network.disconnect(self.ip());
    }
}

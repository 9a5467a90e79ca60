//! Faults that need more than loopback: hosts with a kernel TCP of their own, and a network between
//! them that delays, loses, rejects and forgets.
//!
//! Every host is a network namespace, and so is the test itself, the *client*, with all its threads
//! and runtimes. Each has one interface, a TUN device, and all TUN devices end in one thread of the
//! test: the relay. It is the whole network in between, so it can do to a packet whatever networks
//! do, while the TCP at both ends is the kernel's own. No program is run and nothing is installed.
//!
//! ```ignore
//! #[tokio::test]
//! async fn a_sentence() {
//!     let lab = lab!();
//!     let server = lab.host();
//!     let upstream = server.upstream();
//!     let pool = Pool::new(upstream.config()).unwrap();
//!     server.set_delay(Duration::from_millis(20)); // RTT 40 ms
//!     server.unplug();
//!     ..
//!     server.heal();
//! }
//! ```
//!
//! # A new fault
//!
//! A fault that has no method of its own is a filter: a closure that sees each packet and decides.
//!
//! ```ignore
//! // The server's answers to probes are lost, its data arrives.
//! server.filter(|packet| match (packet.way, packet.kind) {
//!     (Way::Out, Kind::Ack) => Verdict::Drop,
//!     _ => Verdict::Pass,
//! });
//! ```
//!
//! # How a test gets in
//!
//! [`lab!`](lab) runs the test again, alone in a process that was born in a network namespace, and
//! returns in the first process when that one has ended. Root may do that, and an ordinary user
//! where user namespaces are allowed and `/dev/net/tun` may be opened. Where it is not possible, see
//! [`not_run`](super::not_run::not_run).
//!
//! Namespaces have no names: they end with the threads and sockets in them, whatever happens to the
//! test.
//!
//! # What it is not
//!
//! - IPv4 only.
//! - There is no Ethernet and no ARP: nobody finds out that an unplugged neighbour does not answer
//!   ARP (`EHOSTUNREACH` after three seconds on a real LAN). [`Link::reject`] with
//!   [`Verdict::Unreachable`] leads to the same error.
//! - Packets that are on their way when a fault begins still arrive.

mod available;
mod clock;
mod flows;
mod host;
mod interface;
mod link;
mod namespace;
mod network;
mod packet;
mod queue;
mod relay;
mod reply;
mod rules;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

pub use host::Host;
pub use link::Link;
pub use packet::{Kind, Packet, Way};
pub use rules::{Counts, Verdict};

use super::alone::{alone_in_a_network, is_alone, loopback_up};
use super::not_run::not_run;
use relay::Relay;

/// The lab of this test. In a process where the test cannot or need not run, returns from it.
#[macro_export]
macro_rules! lab {
    () => {{
        fn here() {}
        match $crate::lab::Lab::enter(std::any::type_name_of_val(&here)) {
            Some(lab) => lab,
            None => return,
        }
    }};
}
pub use lab;

/// A network that consists of the client, which is this process, and hosts.
pub struct Lab {
    client: Link,
    relay: Relay,
    hosts: AtomicU8,
}

impl Lab {
    /// Whether this machine allows it, and if not, why.
    pub fn available() -> Result<(), String> {
        available::available()
    }

    /// Use [`lab!`](lab), which knows where it stands. `here` is the path of a function inside of
    /// the test.
    pub fn enter(here: &str) -> Option<Self> {
        let test = test_around(here);
        // The first process has found out for the second one.
        if !is_alone()
            && let Err(why) = Self::available()
        {
            not_run(&test, &why);
            return None;
        }
        if !alone_in_a_network(&test)? {
            return None;
        }
        Some(Self::new())
    }

    fn new() -> Self {
        loopback_up();
        let relay = Relay::start();
        let address = Ipv4Addr::new(10, 0, 0, 1);
        let tun = interface::open(address).expect("as in the rehearsal");
        let client = Link::new(address);
        relay.network().connect(address, tun, client.clone());
        Self { client, relay, hosts: AtomicU8::new(0) }
    }

    /// The client's own link to the network: everything it sends and receives passes here as well
    /// as over the link of the host.
    pub fn client(&self) -> &Link {
        &self.client
    }

    /// A new host: 10.0.0.2, then 10.0.0.3, and so on.
    pub fn host(&self) -> Host {
        let number = self.hosts.fetch_add(1, Ordering::Relaxed);
        assert!(number < 250, "no more addresses");
        Host::new(Ipv4Addr::new(10, 0, 0, number + 2), Arc::clone(self.relay.network()))
    }
}

/// `lab::modules::the_test::{{closure}}::here` gives `modules::the_test`, the name that the test
/// harness knows.
fn test_around(here: &str) -> String {
    let path: Vec<_> = here.split("::").filter(|part| *part != "{{closure}}").collect();
    path[1..path.len() - 1].join("::")
}

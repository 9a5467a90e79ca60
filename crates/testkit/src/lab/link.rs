//! The link between one host and the network, and what goes wrong on it.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::super::scene::{self, Witness};
use super::packet::{Packet, Way};
use super::rules::{Counts, Rules, Verdict};

impl Witness for Mutex<Rules> {
    fn tell(&self) -> String {
        let rules = self.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let [incoming, outgoing] =
            [Way::In, Way::Out].map(|way| rules.directions[way as usize].counts);
        format!("a link: in {incoming:?}, out {outgoing:?}")
    }
}

/// The link of one host, or of the client. All changes act on the packets sent from now on.
///
/// `In` and `Out` are meant from the owner's side: `server.cut(Way::In)` loses what is sent *to*
/// the server.
#[derive(Clone)]
pub struct Link {
    address: Ipv4Addr,
    rules: Arc<Mutex<Rules>>,
}

impl Link {
    /// Random numbers are the same in every run, and others for every link and direction.
    pub(super) fn new(address: Ipv4Addr) -> Self {
        let link = Self { address, rules: Arc::new(Mutex::new(Rules::new())) };
        link.seed(u64::from(u32::from(address)));
        scene::add(&link.rules);
        link
    }

    /// The address its owner was born with.
    pub fn ip(&self) -> Ipv4Addr {
        self.address
    }

    /// Packets take this long, in each direction: it adds twice this to the round trip.
    pub fn set_delay(&self, delay: Duration) {
        self.rules().delay = delay;
    }

    /// Packets take up to this much longer than the delay, at random: they overtake each other.
    pub fn set_jitter(&self, jitter: Duration) {
        self.rules().jitter = jitter;
    }

    /// From now on each packet is lost with this probability.
    pub fn set_loss(&self, way: Way, probability: f64) {
        assert!((0.0..=1.0).contains(&probability));
        self.rules().directions[way as usize].loss = probability;
    }

    /// Begins the random numbers anew, as with [`seed`](crate::seed::seed).
    pub fn seed(&self, seed: u64) {
        let mut rules = self.rules();
        let mut seeds = fastrand::Rng::with_seed(seed);
        rules.random = seeds.fork();
        rules.directions[0].random = seeds.fork();
        rules.directions[1].random = seeds.fork();
    }

    /// Pulls the cable at the far end: silence in both directions, and no interface goes down.
    pub fn unplug(&self) {
        self.cut(Way::In);
        self.cut(Way::Out);
    }

    /// Swallows everything in this direction.
    pub fn cut(&self, way: Way) {
        self.rules().directions[way as usize].fault = Verdict::Drop;
    }

    /// Refuses everything sent to the owner, and swallows what the owner sends.
    pub fn reject(&self, verdict: Verdict) {
        self.rules().directions[Way::In as usize].fault = verdict;
        self.cut(Way::Out);
    }

    /// Asks this closure about every packet that no other fault has caught, in the relay's thread.
    /// It must not use the lab.
    pub fn filter(&self, filter: impl FnMut(&Packet) -> Verdict + Send + 'static) {
        self.rules().filter = Some(Box::new(filter));
    }

    pub(super) fn forget_up_to(&self, connection: u64, verdict: Verdict) {
        self.rules().forgotten = (connection, verdict);
    }

    /// Ends every fault. Delay, jitter and loss stay as they are.
    pub fn heal(&self) {
        let mut rules = self.rules();
        rules.directions[0].fault = Verdict::Pass;
        rules.directions[1].fault = Verdict::Pass;
        rules.forgotten = (0, Verdict::Pass);
        rules.filter = None;
    }

    /// What has been seen in this direction so far.
    pub fn counts(&self, way: Way) -> Counts {
        self.rules().directions[way as usize].counts
    }

    /// Counts it, and says what happens to it and how long it takes on this link.
    pub(super) fn decide(&self, packet: &Packet) -> (Verdict, Duration) {
        self.rules().decide(packet)
    }

    /// Counts a packet whose sender no longer owns the address it was sent from.
    pub(super) fn stray(&self) {
        self.rules().directions[Way::Out as usize].counts.refused += 1;
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        // A filter that has panicked ends the relay's thread, which the lab reports.
        self.rules.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

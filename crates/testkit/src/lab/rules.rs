//! What goes wrong on a link: the decision about each packet.

use std::time::Duration;

use super::packet::{Kind, Packet};

/// What happens to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Pass,
    /// It goes on, this much later than others.
    Hold(Duration),
    /// It vanishes.
    Drop,
    /// Its sender gets a TCP RST, as from a host that knows nothing of the connection. What is not
    /// TCP vanishes.
    Reset,
    /// Its sender gets "host unreachable", as from the last router.
    Unreachable,
    /// Its sender gets "administratively prohibited", as from a firewall.
    Prohibited,
}

/// What one direction of a link has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets that went on.
    pub passed: u64,
    /// Packets lost at random.
    pub lost: u64,
    /// Packets a fault has swallowed or rejected.
    pub refused: u64,
    /// Of all these: the keepalive probes.
    pub probes: u64,
    /// Of all these: those that acknowledge and carry nothing.
    pub acks: u64,
    /// Of all these: those that carry bytes.
    pub data: u64,
}

impl Counts {
    /// Packets of every fate.
    pub fn seen(&self) -> u64 {
        self.passed + self.lost + self.refused
    }
}

pub(super) type Filter = Box<dyn FnMut(&Packet) -> Verdict + Send>;

/// The faults of one link.
pub(super) struct Rules {
    pub(super) delay: Duration,
    pub(super) jitter: Duration,
    pub(super) random: fastrand::Rng,
    pub(super) directions: [Direction; 2],
    /// Connections up to this number are unknown to the network.
    pub(super) forgotten: (u64, Verdict),
    pub(super) filter: Option<Filter>,
}

pub(super) struct Direction {
    pub(super) fault: Verdict,
    pub(super) loss: f64,
    pub(super) random: fastrand::Rng,
    pub(super) counts: Counts,
}

impl Rules {
    pub(super) fn new() -> Self {
        let direction = || Direction {
            fault: Verdict::Pass,
            loss: 0.0,
            random: fastrand::Rng::with_seed(0),
            counts: Counts::default(),
        };
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            random: fastrand::Rng::with_seed(0),
            directions: [direction(), direction()],
            forgotten: (0, Verdict::Pass),
            filter: None,
        }
    }

    pub(super) fn decide(&mut self, packet: &Packet) -> (Verdict, Duration) {
        let direction = &mut self.directions[packet.way as usize];
        let mut verdict = direction.fault;
        if verdict == Verdict::Pass && (1..=self.forgotten.0).contains(&packet.connection) {
            verdict = self.forgotten.1;
        }
        if verdict == Verdict::Pass
            && let Some(filter) = &mut self.filter
        {
            verdict = filter(packet);
        }
        let counts = &mut direction.counts;
        counts.probes += u64::from(packet.kind == Kind::Probe);
        counts.acks += u64::from(packet.kind == Kind::Ack);
        counts.data += u64::from(packet.kind == Kind::Data);
        if !matches!(verdict, Verdict::Pass | Verdict::Hold(_)) {
            counts.refused += 1;
        } else if direction.random.f64() < direction.loss {
            counts.lost += 1;
            verdict = Verdict::Drop;
        } else {
            counts.passed += 1;
        }
        let mut delay = self.delay + self.jitter.mul_f64(self.random.f64());
        if let Verdict::Hold(more) = verdict {
            delay += more;
        }
        (verdict, delay)
    }
}

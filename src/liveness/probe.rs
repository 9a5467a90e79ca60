//! The verdict over a silent connection: probes on demand, and how many unanswered ones are enough.
//! Pure: readings and `now` in, steps out.
//!
//! Linux answers at most one keepalive probe per 500 ms and connection (`tcp_invalid_ratelimit`).
//! So three probes in 76 ms are one piece of evidence, not three: repeating covers a lost probe,
//! but not a lost answer. A verdict counts *chances to answer*: a probe that was really sent, and
//! 550 ms plus twice the longest plausible round trip for its answer.

use std::time::Duration;

use tokio::time::Instant;

use crate::event::CloseReason;
use crate::sys::tcp_info::TcpInfo;

/// Chances to answer before a silent peer is dead. At 5 % loss each way that is one false death in
/// 100 000 rounds.
const CHANCES: u32 = 4;
/// The peer's rate limit for answers, and a little.
const CHANCE: Duration = Duration::from_millis(550);
/// The kernel ends a connection itself after 127 unanswered probes; we stay well below.
const MOST_PROBES: u32 = 60;
/// Between two of them, where that many are not needed.
const PROBE_EVERY: Duration = Duration::from_millis(50);
/// A probe that the kernel did not count after this long was dropped by our own interface.
const UNCOUNTED: Duration = Duration::from_millis(200);
/// The kernel sends no probe to a peer that it has heard within a second.
pub(crate) const UNASKED: Duration = Duration::from_secs(1);
/// The first look comes early. A probe leaves at the next tick of the kernel's clock, within 4 ms
/// where it ticks 250 times a second, and on a local network the answer is there at once.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// The kernel counts in ticks of its clock, of 10 ms at most (`CONFIG_HZ` is 100 at least): the same
/// moment, read twice, may seem to have moved by as much.
pub(crate) const TICK: Duration = Duration::from_millis(10);
/// Time that a queue on the way adds to a round trip, beside twice the smallest one.
const LITTLE: Duration = Duration::from_millis(10);
/// Retransmissions without an answer that are enough, if they span the time of a verdict.
const RETRANSMISSIONS: u32 = 3;

/// The next thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Heard since the probe began.
    Alive,
    /// Not heard through every chance it had.
    Dead(CloseReason),
    /// No probe can tell: bytes of ours wait for a peer that does not take them.
    Unknown,
    /// Look again after this long; send a probe now if so told.
    Wait { send: bool, look_in: Duration },
}

/// The probe of one connection, from the suspicion to the verdict.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Probe {
    began: Instant,
    /// Whatever was heard after this is a sign of life, where there is no first reading.
    since: Instant,
    /// When the peer had been heard, by the first reading.
    heard_at: Option<Instant>,
    /// The current chance: when it began, and how many there were.
    chance: Option<Instant>,
    chances: u32,
    /// When we last told the kernel to send, and what it had counted then.
    sent: Option<Instant>,
    counted: u32,
    looks: u32,
}

impl Probe {
    pub(crate) fn begin(now: Instant) -> Self {
        Self {
            began: now,
            since: now,
            heard_at: None,
            chance: None,
            chances: 0,
            sent: None,
            counted: 0,
            looks: 0,
        }
    }

    /// One that was sent already, to a peer that may have been heard just before. Then the kernel
    /// sends none; but that, too, is a sign of life. Returns when to look, too.
    pub(crate) fn begin_sent(now: Instant) -> (Self, Duration) {
        let since = now.checked_sub(UNASKED).unwrap_or(now);
        (Self { since, sent: Some(now), looks: 1, ..Self::begin(now) }, FIRST_LOOK)
    }

    /// How long a verdict over a silent peer takes with these round-trip times.
    pub(crate) fn verdict_time(info: &TcpInfo) -> Duration {
        CHANCES * chance_length(info)
    }

    /// Judges one reading. `unsent`: bytes of ours wait in the send queue.
    pub(crate) fn step(
        &mut self,
        now: Instant,
        info: &TcpInfo,
        unsent: impl FnOnce() -> bool,
    ) -> Step {
        if self.is_heard(now, info) {
            return Step::Alive;
        }
        if info.unacked > 0 {
            // Our own bytes ask for an answer; the kernel sends no probe beside them.
            let long = info.heard >= Self::verdict_time(info);
            if info.retransmits >= RETRANSMISSIONS && long {
                return Step::Dead(CloseReason::RetransmitTimeout);
            }
            return Step::Wait { send: false, look_in: LOOK_EVERY };
        }
        if unsent() {
            return Step::Unknown;
        }
        if info.heard < UNASKED {
            // The kernel was told, and asks when a second is over.
            let send = self.sent.is_none();
            self.sent.get_or_insert(now);
            return Step::Wait { send, look_in: UNASKED - info.heard + FIRST_LOOK };
        }
        let length = chance_length(info);
        self.count(now, info, length);
        let over = self.chance.is_some_and(|began| now.saturating_duration_since(began) >= length);
        if self.chances >= CHANCES && over {
            return Step::Dead(CloseReason::ProbeTimeout);
        }
        let every = PROBE_EVERY.max(CHANCES * length / MOST_PROBES);
        let send = self.sent.is_none_or(|sent| now.saturating_duration_since(sent) >= every);
        if send {
            self.sent = Some(now);
        }
        self.looks += 1;
        let look_in = (FIRST_LOOK * self.looks).min(LOOK_EVERY);
        Step::Wait { send, look_in }
    }

    /// Whether the peer was heard since the probe began. A moment that has only moved by what the
    /// kernel's clock is coarse is the same one.
    fn is_heard(&mut self, now: Instant, info: &TcpInfo) -> bool {
        let heard_at = now.checked_sub(info.heard).unwrap_or(now);
        match self.heard_at {
            None => {
                self.heard_at = Some(heard_at);
                info.heard < now.saturating_duration_since(self.since)
            }
            Some(first) => heard_at > first + TICK,
        }
    }

    /// Notes a chance that begins: a probe left, and the chance before it is over.
    fn count(&mut self, now: Instant, info: &TcpInfo, length: Duration) {
        let left = info.probes > self.counted;
        self.counted = info.probes;
        // Dropped by our own interface, it is not counted; then the silence alone has to tell.
        let dropped = self.sent.is_some()
            && now.saturating_duration_since(self.began) >= UNCOUNTED
            && info.heard >= UNASKED + UNCOUNTED
            && info.probes == 0;
        let free = self.chance.is_none_or(|began| now.saturating_duration_since(began) >= length);
        if free && (left || dropped) && self.chances < CHANCES {
            self.chances += 1;
            self.chance = Some(now);
        }
    }
}

fn chance_length(info: &TcpInfo) -> Duration {
    CHANCE + 2 * longest_round_trip(info)
}

/// The longest plausible round trip of a probe, which its kernel answers at once. What the kernel
/// measured on answers has their delayed acknowledgements in it, 40 ms and more (RFC 1122, 4.2.3.2);
/// so it is not believed beyond twice the smallest round trip and a little.
fn longest_round_trip(info: &TcpInfo) -> Duration {
    let measured = info.rtt + 4 * info.rttvar;
    info.min_rtt.map_or(measured, |least| measured.min(2 * least + LITTLE))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn silent(heard: Duration, probes: u32) -> TcpInfo {
        TcpInfo::quiet(heard, probes, MS)
    }

    /// Runs a probe against a peer, as a function from elapsed time and probes sent to a reading.
    /// Returns the end, how long it took, and how many probes were sent.
    fn run(peer: impl Fn(Duration, u32) -> TcpInfo) -> (Step, Duration, u32) {
        let start = Instant::now();
        let (mut probe, mut now, mut sent) = (Probe::begin(start), start, 0);
        loop {
            match probe.step(now, &peer(now - start, sent), || false) {
                Step::Wait { send, look_in } => {
                    sent += u32::from(send);
                    now += look_in;
                    assert!(now - start < Duration::from_secs(60), "no verdict");
                }
                end => return (end, now - start, sent),
            }
        }
    }

    const SILENCE: Duration = Duration::from_secs(6);

    #[test]
    fn a_peer_that_answers_the_first_probe_is_alive_after_the_first_looks() {
        let (end, took, sent) = run(|at, sent| match at > 2 * MS && sent > 0 {
            true => silent(Duration::ZERO, 0),
            false => silent(SILENCE + at, sent),
        });
        assert_eq!((end, sent), (Step::Alive, 1));
        assert!(took <= 10 * MS, "{took:?}");
    }

    #[test]
    fn a_peer_that_spoke_just_before_it_was_asked_blindly_is_alive() {
        let start = Instant::now();
        let table = [(900 * MS, true), (990 * MS, true), (1100 * MS, false), (SILENCE, false)];
        for (heard, alive) in table {
            let (mut probe, look_in) = Probe::begin_sent(start);
            let step = probe.step(start + look_in, &silent(heard + look_in, 0), || false);
            assert_eq!(step == Step::Alive, alive, "{heard:?}: {step:?}");
        }
    }

    #[test]
    fn a_peer_that_answers_nothing_has_four_chances_and_no_more() {
        let (end, took, _) = run(|at, sent| silent(SILENCE + at, sent));
        assert_eq!(end, Step::Dead(CloseReason::ProbeTimeout));
        let chance = chance_length(&silent(SILENCE, 0));
        assert!(took >= 4 * chance && took < 4 * chance + 4 * LOOK_EVERY + UNCOUNTED, "{took:?}");
    }

    #[test]
    fn an_answer_in_the_last_moment_of_the_last_chance_counts() {
        let late = 4 * chance_length(&silent(SILENCE, 0)) - LOOK_EVERY;
        let (end, ..) = run(|at, sent| match at > late {
            true => silent(at - late, 0),
            false => silent(SILENCE + at, sent),
        });
        assert_eq!(end, Step::Alive);
    }

    #[test]
    fn many_probes_in_one_chance_are_one_piece_of_evidence() {
        let start = Instant::now();
        let mut probe = Probe::begin(start);
        for look in 0..20 {
            let now = start + look * 10 * MS;
            let heard = SILENCE + look * 10 * MS;
            let step = probe.step(now, &silent(heard, look * 6), || false);
            assert!(matches!(step, Step::Wait { .. }), "look {look}: {step:?}");
        }
        assert_eq!(probe.chances, 1);
    }

    #[test]
    fn a_slow_path_has_longer_chances_and_not_more_probes() {
        let far = |at: Duration, sent| TcpInfo {
            rtt: 376 * MS,
            rttvar: 201 * MS,
            ..silent(SILENCE + at, sent)
        };
        let (end, took, sent) = run(far);
        assert_eq!(end, Step::Dead(CloseReason::ProbeTimeout));
        assert!(took > Duration::from_secs(10), "{took:?}");
        assert!(sent < 100, "{sent} probes; the kernel ends the connection itself at 127");
    }

    #[test]
    fn probes_that_our_own_interface_drops_are_not_counted_and_silence_tells() {
        let (end, ..) = run(|at, _| silent(SILENCE + at, 0));
        assert_eq!(end, Step::Dead(CloseReason::ProbeTimeout));
    }

    #[test]
    fn answers_that_were_acknowledged_late_make_no_verdict_late() {
        let busy =
            TcpInfo { rtt: 40 * MS, rttvar: 30 * MS, min_rtt: Some(MS), ..silent(SILENCE, 0) };
        assert!(Probe::verdict_time(&busy) < 2_400 * MS, "{:?}", Probe::verdict_time(&busy));
        let far = TcpInfo { rtt: 210 * MS, min_rtt: Some(200 * MS), ..busy };
        let unknown = TcpInfo { min_rtt: None, ..far };
        assert_eq!(Probe::verdict_time(&far), Probe::verdict_time(&unknown), "it is really far");
    }

    #[test]
    fn a_peer_that_was_heard_within_a_second_is_asked_when_that_is_over() {
        let start = Instant::now();
        let mut probe = Probe::begin(start);
        let early = probe.step(start, &silent(300 * MS, 0), || false);
        assert_eq!(early, Step::Wait { send: true, look_in: 705 * MS });
        let heard = probe.step(start + 705 * MS, &silent(4 * MS, 0), || false);
        assert_eq!(heard, Step::Alive);
        // Silence does not count before that, and has its four chances after it.
        // The kernel counts what was told before that as one probe, when it sends it.
        let (end, took, _) = run(|at, sent| {
            let heard = 300 * MS + at;
            silent(heard, if heard < UNASKED { 0 } else { sent })
        });
        assert_eq!(end, Step::Dead(CloseReason::ProbeTimeout));
        assert!(took >= 700 * MS + 4 * chance_length(&silent(SILENCE, 0)), "{took:?}");
    }

    #[test]
    fn bytes_on_their_way_need_retransmissions_that_span_the_verdict() {
        let start = Instant::now();
        let verdict = Probe::verdict_time(&silent(SILENCE, 0));
        let table = [
            (1, 10 * verdict, false),
            (3, verdict - MS, false),
            (3, verdict, true),
            (9, verdict, true),
        ];
        for (retransmits, heard, dead) in table {
            let info = TcpInfo { unacked: 1, retransmits, ..silent(heard, 0) };
            let step = Probe::begin(start).step(start, &info, || true);
            let expected = Step::Dead(CloseReason::RetransmitTimeout);
            assert_eq!(step == expected, dead, "{retransmits} in {heard:?}: {step:?}");
        }
    }

    #[test]
    fn a_closed_window_is_not_a_death() {
        let start = Instant::now();
        assert_eq!(Probe::begin(start).step(start, &silent(SILENCE, 0), || true), Step::Unknown);
    }
}

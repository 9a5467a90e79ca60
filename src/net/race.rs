//! The order and the times in which addresses are tried: Happy Eyeballs version 2 (RFC 8305),
//! decided without sockets and clocks.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::PeerAddr;

/// The pause before the next address is tried beside those under way (RFC 8305 section 8,
/// "Connection Attempt Delay").
pub(super) const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// The time for which the first known addresses wait for names that come before them (RFC 8305
/// section 8, "Resolution Delay").
pub(super) const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

/// The most attempts of a dial. A name may lead to thousands of addresses, each of them a socket
/// and an entry in the error; where so many have failed, a further attempt says nothing new. At an
/// attempt every [`ATTEMPT_DELAY`] they take longer than the default `timeouts.connect`.
pub(crate) const MAX_ATTEMPTS: usize = 32;

/// The next action of a dial.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Start connecting to this address, and ask again.
    Start(PeerAddr),
    /// Ask again at this moment, or when something has happened.
    WaitUntil(Instant),
    /// Ask again when something has happened: an attempt or a lookup has ended.
    Wait,
    /// End the dial: no address is left to try and no attempt is under way.
    Exhausted,
}

/// The race of a dial over the addresses of all its endpoints.
#[derive(Debug)]
pub(super) struct Race {
    /// The addresses of each endpoint while names are looked up; emptied when the race begins.
    found: Vec<Vec<PeerAddr>>,
    /// The number of endpoints whose addresses are not known yet.
    unresolved: usize,
    /// The moment at which the race begins although some endpoints are unknown; `None` while all
    /// are.
    begin_at: Option<Instant>,
    has_begun: bool,
    /// The addresses met so far, so that none is tried twice.
    met: HashSet<PeerAddr>,
    queue: VecDeque<PeerAddr>,
    /// Whether an address was added to the queue since it was last put in order.
    needs_order: bool,
    next_start: Option<Instant>,
    under_way: usize,
    /// The number of attempts that may still begin.
    attempts_left: usize,
}

impl Race {
    /// A race over this many endpoints, all unknown, of so many attempts at most.
    pub(super) fn new(endpoints: usize, most: usize) -> Self {
        Self {
            found: vec![Vec::new(); endpoints],
            unresolved: endpoints,
            begin_at: None,
            has_begun: false,
            met: HashSet::new(),
            queue: VecDeque::new(),
            needs_order: false,
            next_start: None,
            under_way: 0,
            attempts_left: most,
        }
    }

    /// Takes in the addresses of an endpoint, which are none if its lookup failed. Called once per
    /// endpoint.
    pub(super) fn resolved(&mut self, endpoint: usize, addrs: Vec<PeerAddr>, now: Instant) {
        self.unresolved -= 1;
        if !addrs.is_empty() {
            self.begin_at.get_or_insert(now + RESOLUTION_DELAY);
        }
        if self.has_begun {
            self.enqueue(addrs);
        } else {
            self.found[endpoint] = addrs;
        }
    }

    /// Takes in that an attempt failed: the next one need not wait.
    pub(super) fn failed(&mut self) {
        self.under_way -= 1;
        self.next_start = None;
    }

    /// Decides what to do now. `order` may change the order of the addresses that are about to be
    /// tried.
    pub(super) fn next(&mut self, now: Instant, order: impl FnOnce(&mut Vec<PeerAddr>)) -> Action {
        if !self.has_begun {
            match self.begin_at {
                Some(begin) if self.unresolved > 0 && now < begin => {
                    return Action::WaitUntil(begin);
                }
                None if self.unresolved > 0 => return Action::Wait,
                _ => {
                    self.has_begun = true;
                    let found = std::mem::take(&mut self.found).concat();
                    self.enqueue(found);
                }
            }
        }
        // Only then: what was put in order stays so, and `order` looks at every peer.
        if std::mem::take(&mut self.needs_order) {
            let mut addrs = Vec::from(std::mem::take(&mut self.queue));
            order(&mut addrs);
            self.queue = addrs.into();
        }
        if self.attempts_left == 0 {
            // What a name that is still being looked up leads to would not be tried either.
            return if self.under_way > 0 { Action::Wait } else { Action::Exhausted };
        }
        match (self.queue.front(), self.next_start) {
            (Some(_), Some(at)) if now < at => return Action::WaitUntil(at),
            _ => {}
        }
        match self.queue.pop_front() {
            Some(addr) => {
                self.under_way += 1;
                self.attempts_left -= 1;
                self.next_start = Some(now + ATTEMPT_DELAY);
                Action::Start(addr)
            }
            None if self.under_way > 0 || self.unresolved > 0 => Action::Wait,
            None => Action::Exhausted,
        }
    }

    /// The number of attempts that may still begin.
    pub(super) fn attempts_left(&self) -> usize {
        self.attempts_left
    }

    fn enqueue(&mut self, mut addrs: Vec<PeerAddr>) {
        addrs.retain(|addr| self.met.insert(addr.clone()));
        self.queue.extend(interleave(addrs));
        self.needs_order = true;
    }
}

/// The addresses with their families in turn, beginning with the first address's, and otherwise in
/// the same order (RFC 8305 section 4, with a first family count of 1).
fn interleave(addrs: Vec<PeerAddr>) -> Vec<PeerAddr> {
    let Some(first) = addrs.first().map(family) else {
        return addrs;
    };
    let (mut same, mut other): (VecDeque<_>, VecDeque<_>) =
        addrs.into_iter().partition(|addr| family(addr) == first);
    let mut mixed = Vec::with_capacity(same.len() + other.len());
    while !same.is_empty() || !other.is_empty() {
        mixed.extend(same.pop_front());
        mixed.extend(other.pop_front());
    }
    mixed
}

/// The family of an address: 4, 6, or 0 for a Unix socket.
fn family(addr: &PeerAddr) -> u8 {
    match addr {
        PeerAddr::Tcp(addr) if addr.is_ipv4() => 4,
        PeerAddr::Tcp(_) => 6,
        PeerAddr::Unix(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addrs(texts: &[&str]) -> Vec<PeerAddr> {
        let parse = |text: &&str| match text.strip_prefix("unix:") {
            Some(path) => PeerAddr::Unix(path.into()),
            None => PeerAddr::Tcp(text.parse().unwrap()),
        };
        texts.iter().map(parse).collect()
    }

    fn start(text: &str) -> Action {
        Action::Start(addrs(&[text]).remove(0))
    }

    /// A race whose only endpoint is known.
    fn race(texts: &[&str], now: Instant) -> Race {
        let mut race = Race::new(1, MAX_ATTEMPTS);
        race.resolved(0, addrs(texts), now);
        race
    }

    #[test]
    fn families_take_turns_beginning_with_the_first() {
        let table: [(&[&str], &[&str]); 5] = [
            (&[], &[]),
            (&["1.1.1.1:1", "1.1.1.2:1"], &["1.1.1.1:1", "1.1.1.2:1"]),
            (
                &["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"],
                &["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"],
            ),
            (
                &["1.1.1.1:1", "[::1]:1", "[::2]:1", "1.1.1.2:1"],
                &["1.1.1.1:1", "[::1]:1", "1.1.1.2:1", "[::2]:1"],
            ),
            (&["unix:/a", "unix:/b", "[::1]:1"], &["unix:/a", "[::1]:1", "unix:/b"]),
        ];
        for (given, expected) in table {
            assert_eq!(interleave(addrs(given)), addrs(expected));
        }
    }

    #[test]
    fn a_silent_address_gets_250_ms_before_the_next_one_starts_beside_it() {
        let t = Instant::now();
        let mut race = race(&["1.1.1.1:1", "1.1.1.2:1"], t);
        assert_eq!(race.next(t, |_| {}), start("1.1.1.1:1"));
        assert_eq!(race.next(t, |_| {}), Action::WaitUntil(t + ATTEMPT_DELAY));
        assert_eq!(race.next(t + ATTEMPT_DELAY, |_| {}), start("1.1.1.2:1"));
        assert_eq!(race.next(t + ATTEMPT_DELAY, |_| {}), Action::Wait);
    }

    #[test]
    fn a_failed_address_lets_the_next_one_start_at_once() {
        let t = Instant::now();
        let mut race = race(&["1.1.1.1:1", "1.1.1.2:1", "1.1.1.3:1"], t);
        assert_eq!(race.next(t, |_| {}), start("1.1.1.1:1"));
        race.failed();
        let t = t + Duration::from_millis(3);
        assert_eq!(race.next(t, |_| {}), start("1.1.1.2:1"));
        assert_eq!(
            race.next(t, |_| {}),
            Action::WaitUntil(t + ATTEMPT_DELAY),
            "the pause counts from there"
        );
    }

    #[test]
    fn when_all_have_failed_the_race_is_exhausted() {
        let t = Instant::now();
        let mut race = race(&["1.1.1.1:1"], t);
        assert_eq!(race.next(t, |_| {}), start("1.1.1.1:1"));
        assert_eq!(race.next(t, |_| {}), Action::Wait);
        race.failed();
        assert_eq!(race.next(t, |_| {}), Action::Exhausted);
    }

    #[test]
    fn an_address_that_appears_twice_is_tried_once() {
        let t = Instant::now();
        let mut race = race(&["1.1.1.1:1", "1.1.1.1:1"], t);
        assert_eq!(race.next(t, |_| {}), start("1.1.1.1:1"));
        assert_eq!(race.next(t, |_| {}), Action::Wait);
    }

    #[test]
    fn a_known_address_waits_50_ms_for_a_name_before_it() {
        let t = Instant::now();
        let mut race = Race::new(2, MAX_ATTEMPTS);
        assert_eq!(race.next(t, |_| {}), Action::Wait);
        race.resolved(1, addrs(&["2.2.2.2:1"]), t);
        assert_eq!(race.next(t, |_| {}), Action::WaitUntil(t + RESOLUTION_DELAY));
        race.resolved(0, addrs(&["1.1.1.1:1"]), t);
        assert_eq!(
            race.next(t, |_| {}),
            start("1.1.1.1:1"),
            "all is known, so the order is as given"
        );
    }

    #[test]
    fn a_name_that_comes_late_joins_at_the_end() {
        let t = Instant::now();
        let mut race = Race::new(2, MAX_ATTEMPTS);
        race.resolved(1, addrs(&["2.2.2.2:1"]), t);
        let t = t + RESOLUTION_DELAY;
        assert_eq!(race.next(t, |_| {}), start("2.2.2.2:1"));
        assert_eq!(race.next(t, |_| {}), Action::Wait);
        race.resolved(0, addrs(&["2.2.2.2:1", "1.1.1.1:1"]), t);
        assert_eq!(race.next(t, |_| {}), Action::WaitUntil(t + ATTEMPT_DELAY));
        race.failed();
        assert_eq!(race.next(t, |_| {}), start("1.1.1.1:1"));
    }

    #[test]
    fn names_that_cannot_be_resolved_exhaust_the_race() {
        let t = Instant::now();
        let mut race = Race::new(2, MAX_ATTEMPTS);
        race.resolved(0, Vec::new(), t);
        assert_eq!(race.next(t, |_| {}), Action::Wait);
        race.resolved(1, Vec::new(), t);
        assert_eq!(race.next(t, |_| {}), Action::Exhausted);
    }

    #[test]
    fn of_very_many_addresses_the_first_in_order_are_tried_and_no_more_than_that() {
        let t = Instant::now();
        let addr = |n: u32| PeerAddr::Tcp((std::net::Ipv4Addr::from(0x0a00_0000 + n), 1).into());
        let mut race = Race::new(2, 3);
        race.resolved(0, (0..4000).map(addr).collect(), t);
        let t = t + RESOLUTION_DELAY;
        for n in (3997..4000).rev() {
            assert_eq!(race.next(t, |addrs| addrs.reverse()), Action::Start(addr(n)));
            race.failed();
        }
        assert_eq!(race.attempts_left(), 0);
        assert_eq!(race.next(t, |_| {}), Action::Exhausted, "whatever the other name leads to");
    }

    #[test]
    fn the_last_attempt_of_a_race_is_waited_for() {
        let t = Instant::now();
        let mut race = Race::new(1, 1);
        race.resolved(0, addrs(&["1.1.1.1:1", "1.1.1.2:1"]), t);
        assert_eq!(race.next(t, |_| {}), start("1.1.1.1:1"));
        assert_eq!(race.next(t + ATTEMPT_DELAY, |_| {}), Action::Wait);
        race.failed();
        assert_eq!(race.next(t + ATTEMPT_DELAY, |_| {}), Action::Exhausted);
    }

    #[test]
    fn whoever_knows_the_peers_has_the_last_word_on_the_order() {
        let t = Instant::now();
        let mut race = race(&["1.1.1.1:1", "1.1.1.2:1"], t);
        assert_eq!(race.next(t, |addrs| addrs.reverse()), start("1.1.1.2:1"));
        race.failed();
        assert_eq!(race.next(t, |_| panic!("asked once")), start("1.1.1.1:1"));
    }
}

//! [`RecentErrors`]: what went wrong lately, for whoever asks later. Bounded: one entry for each kind.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use crate::event::{CheckoutOutcome, CloseReason, DialOutcome, Event, Hook, Operation, PeerState};
use crate::net::PeerAddr;
use crate::report::ErrorReport;
use crate::text::Escaped;

/// So many kinds are kept; a new one takes the place of the one that was not seen for the longest time.
const MOST: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Dial(DialOutcome),
    Connection(PeerAddr, CloseReason),
    Checkout(CheckoutOutcome),
    Operation(Operation),
    Hook(Hook),
    Ejection(PeerAddr),
}

#[derive(Debug)]
struct Recent {
    kind: Kind,
    /// Of the last one.
    text: Option<Arc<str>>,
    count: u64,
    first: Instant,
    last: Instant,
}

/// The last errors of a pool.
#[derive(Debug, Default)]
pub(super) struct RecentErrors(
    /// Looked up and changed under this lock, nothing else.
    Mutex<Vec<Recent>>,
);

impl RecentErrors {
    /// Notes an event, if it is an error.
    pub(super) fn note(&self, event: &Event) {
        let (kind, text) = match event {
            // What happens all the time is none.
            Event::CheckedOut { .. } | Event::Returned { .. } | Event::Checked { .. } => return,
            Event::DialFailed { outcome, error, .. } if *outcome != DialOutcome::Cancelled => {
                (Kind::Dial(*outcome), Some(Arc::clone(error)))
            }
            Event::Closed { peer, reason, code, .. } if is_error(*reason) => {
                (Kind::Connection(peer.clone(), *reason), code.clone())
            }
            Event::CheckoutFailed { outcome, .. } if *outcome != CheckoutOutcome::Cancelled => {
                (Kind::Checkout(*outcome), None)
            }
            // A checkout's or a dial's is an outcome as well.
            Event::TimedOut { operation, .. }
                if !matches!(
                    operation,
                    Operation::Checkout | Operation::Connect | Operation::Handshake
                ) =>
            {
                (Kind::Operation(*operation), None)
            }
            Event::HookFailed { hook, error, .. } => (Kind::Hook(*hook), Some(Arc::clone(error))),
            Event::PeerChanged { peer, to: PeerState::Ejected, .. } => {
                (Kind::Ejection(peer.clone()), None)
            }
            _ => return,
        };
        self.add(kind, text, Instant::now());
    }

    fn add(&self, kind: Kind, text: Option<Arc<str>>, now: Instant) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.iter_mut().find(|known| known.kind == kind) {
            known.count += 1;
            (known.last, known.text) = (now, text);
            return;
        }
        if all.len() >= MOST {
            let oldest = all.iter().enumerate().min_by_key(|(_, recent)| recent.last);
            if let Some((at, _)) = oldest {
                all.swap_remove(at);
            }
        }
        all.push(Recent { kind, text, count: 1, first: now, last: now });
    }

    /// The last ones, the last first.
    pub(super) fn report(&self, now: Instant) -> Vec<ErrorReport> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reports: Vec<_> = all.iter().map(|recent| recent.report(now)).collect();
        drop(all);
        reports.sort_by_key(|report| report.last);
        reports
    }
}

impl Recent {
    fn report(&self, now: Instant) -> ErrorReport {
        let (what, peer) = match &self.kind {
            Kind::Dial(outcome) => (format!("dial {outcome}"), None),
            Kind::Connection(peer, reason) => (format!("connection {reason}"), Some(peer)),
            Kind::Checkout(outcome) => (format!("checkout {outcome}"), None),
            Kind::Operation(operation) => (format!("{operation} timed out"), None),
            Kind::Hook(hook) => (format!("hook {hook}"), None),
            Kind::Ejection(peer) => ("peer ejected".to_owned(), Some(peer)),
        };
        ErrorReport {
            what,
            peer: peer.cloned(),
            text: self.text.as_ref().map(|text| Escaped(text).to_string()),
            count: self.count,
            first: now.saturating_duration_since(self.first),
            last: now.saturating_duration_since(self.last),
        }
    }
}

/// Whether an operator asks about a connection that ended so: it died, or something is wrong with what
/// was said on it. What a rule or a caller did is none.
fn is_error(reason: CloseReason) -> bool {
    reason.is_death()
        || matches!(
            reason,
            CloseReason::Dirty
                | CloseReason::ProtocolError
                | CloseReason::TooLarge
                | CloseReason::ResetFailed
                | CloseReason::HookFailed
                | CloseReason::Panicked
        )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_kind_has_one_entry_and_the_longest_unseen_makes_room() {
        let errors = RecentErrors::default();
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let peer = |port| PeerAddr::Tcp(([10, 0, 0, 1], port).into());
        for round in 0..3 {
            let text = format!("no. {round}");
            errors.add(Kind::Dial(DialOutcome::Refused), Some(text.into()), start + round * second);
        }
        let now = start + 10 * second;
        let [only] = &errors.report(now)[..] else { panic!("{errors:?}") };
        assert_eq!((only.what.as_str(), only.count), ("dial refused", 3));
        assert_eq!(
            (only.text.as_deref(), only.first, only.last),
            (Some("no. 2"), 10 * second, 8 * second)
        );
        for port in 0..100 {
            errors.add(Kind::Connection(peer(port), CloseReason::Reset), None, now);
        }
        let reports = errors.report(now);
        assert_eq!(reports.len(), MOST);
        assert!(reports.iter().all(|report| report.what == "connection reset"), "{reports:?}");
    }
}

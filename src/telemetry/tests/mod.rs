//! The telemetry room, tested from inside: it is not public.

use std::collections::BTreeMap;
use std::time::Duration;

use metrics_util::debugging::{DebugValue, Snapshotter};

use super::{Facts, Gauges};
use crate::config::Config;
use crate::event::{
    CancelOutcome, Check, CheckVerdict, CheckoutOutcome, CloseReason, ConnId, DialOutcome, Event,
    Hook, Operation, PeerState,
};
use crate::net::PeerAddr;
use crate::protocol::StatementCounts;

mod feeds;
mod logs;
mod naming;
mod recorder;

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const LEVELS: Gauges = Gauges {
    idle: 3,
    in_use: 4,
    shared: 2,
    resetting: 1,
    shares: 9,
    connecting: 1,
    quarantined: 1,
    ending: 1,
    max: 10,
    min_idle: 2,
    waiters: 2,
    longest_wait: SECOND,
    longest_hold: Duration::from_millis(2500),
    oldest: Duration::from_secs(60),
    statements: StatementCounts::new(12, 5, 2),
    peers: [1, 0, 2, 0, 0],
};

pub(super) fn facts() -> Facts {
    Facts::of(&Config::new("db:1").to_settings().unwrap(), Some("PostgreSQL"))
}

pub(super) fn peer() -> PeerAddr {
    PeerAddr::Tcp(([127, 0, 0, 1], 5432).into())
}

pub(super) fn opened() -> Event {
    Event::Opened { conn: ConnId(7), peer: peer(), took: SECOND }
}

pub(super) fn dial_failed(outcome: DialOutcome) -> Event {
    Event::DialFailed { outcome, took: SECOND, error: "refused by 127.0.0.1:5432".into() }
}

pub(super) fn checked_out() -> Event {
    Event::CheckedOut { conn: ConnId(7), waited: SECOND }
}

pub(super) fn checkout_failed(outcome: CheckoutOutcome) -> Event {
    Event::CheckoutFailed { outcome, waited: SECOND }
}

pub(super) fn returned() -> Event {
    Event::Returned { conn: ConnId(7), used: SECOND }
}

pub(super) fn checked(verdict: CheckVerdict) -> Event {
    Event::Checked { conn: ConnId(7), check: Check::Peek, verdict, heard: None }
}

pub(super) fn closed(reason: CloseReason) -> Event {
    Event::Closed { conn: ConnId(7), peer: peer(), reason, age: SECOND, used: None, code: None }
}

pub(super) fn timed_out(operation: Operation) -> Event {
    Event::TimedOut { operation, conn: Some(ConnId(7)), after: SECOND }
}

pub(super) fn peer_changed(to: PeerState) -> Event {
    Event::PeerChanged { peer: peer(), from: PeerState::Suspect, to }
}

pub(super) fn held_too_long() -> Event {
    let taken_at = std::panic::Location::caller();
    Event::HeldTooLong { conn: ConnId(7), peer: peer(), held: SECOND, taken_at }
}

pub(super) fn waited_too_long() -> Event {
    let taken_at = std::panic::Location::caller();
    Event::WaitedTooLong { conn: ConnId(7), peer: peer(), waited: SECOND, taken_at }
}

pub(super) fn unencrypted(was_asked: bool) -> Event {
    Event::Unencrypted { conn: ConnId(7), peer: peer(), was_asked }
}

pub(super) fn hook_failed(hook: Hook) -> Event {
    Event::HookFailed { hook, conn: ConnId(7), peer: peer(), error: "it said no".into() }
}

pub(super) fn reconfigured() -> Event {
    Event::Reconfigured { changed: ["idle_timeout", "timeouts.checkout"].into() }
}

pub(super) fn sharing_ended() -> Event {
    Event::SharingEnded { conn: ConnId(7), peer: peer() }
}

pub(super) fn cancel_requested(outcome: CancelOutcome) -> Event {
    Event::CancelRequested { conn: ConnId(7), peer: peer(), outcome, took: SECOND }
}

pub(super) fn option_unavailable() -> Event {
    Event::OptionUnavailable { option: "user_timeout", error: "not supported".into() }
}

pub(super) fn accepted() -> Event {
    Event::Accepted { conn: ConnId(7), peer: peer() }
}

pub(super) fn accept_failed() -> Event {
    Event::AcceptFailed { error: "too many open files".into(), backoff: SECOND }
}

/// Every event there is, with every value of its enums.
pub(super) fn events() -> Vec<Event> {
    let mut events = vec![
        opened(),
        checked_out(),
        returned(),
        option_unavailable(),
        held_too_long(),
        waited_too_long(),
        unencrypted(true),
        unencrypted(false),
        sharing_ended(),
        reconfigured(),
        accepted(),
        accept_failed(),
    ];
    events.extend(DialOutcome::ALL.iter().copied().map(dial_failed));
    events.extend(CheckoutOutcome::ALL.iter().copied().map(checkout_failed));
    events.extend(CancelOutcome::ALL.iter().copied().map(cancel_requested));
    events.extend(CheckVerdict::ALL.iter().copied().map(checked));
    events.extend(CloseReason::ALL.iter().copied().map(closed));
    events.extend(Hook::ALL.iter().copied().map(hook_failed));
    events.extend(Operation::ALL.iter().copied().map(timed_out));
    events.extend(PeerState::ALL.iter().copied().map(peer_changed));
    events
}

/// What was recorded since the last look, as `name{label=value,..}`. Gauges are left out.
pub(super) fn fed(snapshotter: &Snapshotter) -> BTreeMap<String, f64> {
    series(snapshotter)
        .into_iter()
        .filter_map(|(series, value)| match value {
            DebugValue::Counter(count) if count > 0 => Some((series, count as f64)),
            DebugValue::Histogram(values) if !values.is_empty() => {
                Some((series, values.iter().map(|value| value.into_inner()).sum()))
            }
            _ => None,
        })
        .collect()
}

pub(super) fn gauges(snapshotter: &Snapshotter) -> BTreeMap<String, f64> {
    series(snapshotter)
        .into_iter()
        .filter_map(|(series, value)| match value {
            DebugValue::Gauge(value) => Some((series, value.into_inner())),
            _ => None,
        })
        .collect()
}

/// Every series that is registered.
pub(super) fn series(snapshotter: &Snapshotter) -> BTreeMap<String, DebugValue> {
    let snapshot = snapshotter.snapshot().into_vec();
    snapshot
        .into_iter()
        .map(|(key, _, _, value)| {
            let labels: Vec<_> = key
                .key()
                .labels()
                .map(|label| format!("{}={}", label.key(), label.value()))
                .collect();
            (format!("{}{{{}}}", key.key().name(), labels.join(",")), value)
        })
        .collect()
}

//! The table of all metrics.
//!
//! The handles are registered from this table and `docs/metrics.md` is tested against it, so a name
//! is written once. Label values come from the enums of [`crate::event`], word for word.

use super::metric::{Kind, Label, Metric, Unit};
use crate::event::{
    CancelOutcome, Check, CheckVerdict, CheckoutOutcome, CloseReason, DialOutcome, Hook, Operation,
    PeerState,
};

/// The names of all values of a closed enum, in the order of declaration.
macro_rules! names_of {
    ($($(#[$meta:meta])* $list:ident: $named:ty;)+) => {
        $(
            $(#[$meta])*
            pub(super) const $list: [&str; <$named>::ALL.len()] = {
                // A loop by hand: iterators are not const.
                let mut names = [""; <$named>::ALL.len()];
                let mut at = 0;
                while at < names.len() {
                    names[at] = <$named>::ALL[at].as_str();
                    at += 1;
                }
                names
            };
        )+
    };
}

names_of! {
    CANCELS: CancelOutcome;
    CHECKS: Check;
    VERDICTS: CheckVerdict;
    CHECKOUTS: CheckoutOutcome;
    DIALS: DialOutcome;
    HOOKS: Hook;
    OPERATIONS: Operation;
    PEER_STATES: PeerState;
    REASONS: CloseReason;
}

/// The reasons that are evictions.
const EVICTIONS: [&str; count_evictions()] = {
    let mut names = [""; count_evictions()];
    let (mut at, mut found) = (0, 0);
    while at < CloseReason::ALL.len() {
        if CloseReason::ALL[at].is_eviction() {
            names[found] = CloseReason::ALL[at].as_str();
            found += 1;
        }
        at += 1;
    }
    names
};

// The length of `EVICTIONS`, which must be known before its values are.
const fn count_evictions() -> usize {
    let (mut at, mut found) = (0, 0);
    while at < CloseReason::ALL.len() {
        if CloseReason::ALL[at].is_eviction() {
            found += 1;
        }
        at += 1;
    }
    found
}

/// The states counted by `livepool_connections`, in the order the gauges are kept.
pub(super) const STATES: [&str; 7] =
    ["idle", "in_use", "connecting", "quarantined", "ending", "shared", "resetting"];

/// The settings that are numbers, in the order of [`Facts`](super::Facts).
pub(super) const SETTINGS: [&str; 4] = ["min_idle", "max_connecting", "max_waiting", "max_shares"];

/// The settings that are times, in the order of [`Facts`](super::Facts).
pub(super) const TIMES: [&str; 17] = [
    "idle_timeout",
    "max_lifetime",
    "max_silence",
    "max_silence_after_use",
    "patience",
    "hold_warning",
    "wait_warning",
    "dns_refresh",
    "backoff.most",
    "timeouts.checkout",
    "timeouts.connect",
    "timeouts.ping",
    "timeouts.reset",
    "timeouts.hook",
    "timeouts.read",
    "timeouts.write",
    "timeouts.operation",
];

/// What became of a look for a prepared statement.
pub(super) const LOOKUPS: [&str; 2] = ["hit", "miss"];

const POOL: Label = Label { name: "pool", values: &[] };
const LISTENER: Label = Label { name: "listener", values: &[] };
const VERSION: Label = Label { name: "version", values: &[] };
const PROTOCOL: Label = Label { name: "protocol", values: &[] };
const SETTING_NAME: Label = Label { name: "setting", values: &SETTINGS };
const TIME_NAME: Label = Label { name: "setting", values: &TIMES };
const PEER: Label = Label { name: "peer", values: &[] };
const LOOKUP: Label = Label { name: "result", values: &LOOKUPS };
const STATE: Label = Label { name: "state", values: &STATES };
const PEER_STATE: Label = Label { name: "state", values: &PEER_STATES };
const DIAL_OUTCOME: Label = Label { name: "outcome", values: &DIALS };
const CHECKOUT_OUTCOME: Label = Label { name: "outcome", values: &CHECKOUTS };
const HOOK: Label = Label { name: "hook", values: &HOOKS };
const CANCEL_OUTCOME: Label = Label { name: "outcome", values: &CANCELS };
const OPERATION: Label = Label { name: "operation", values: &OPERATIONS };
const CHECK: Label = Label { name: "check", values: &CHECKS };
const VERDICT: Label = Label { name: "verdict", values: &VERDICTS };
const REASON: Label = Label { name: "reason", values: &REASONS };
const EVICTION: Label = Label { name: "reason", values: &EVICTIONS };

/// Defines each metric as a constant and lists all of them, so that none can be left out.
macro_rules! table {
    ($($metric:ident: $kind:ident in $unit:ident, $name:literal, $labels:expr, $description:literal;)+) => {
        $(
            pub(super) const $metric: Metric = Metric {
                name: $name,
                kind: Kind::$kind,
                unit: Unit::$unit,
                labels: &$labels,
                description: $description,
            };
        )+

        /// Every metric this crate records, with its labels and their values.
        ///
        /// `docs/metrics.md` says what each metric tells an operator.
        pub const METRICS: &[Metric] = &[$($metric,)+];
    };
}

table! {
    CONNECTIONS: Gauge in Count, "livepool_connections", [POOL, STATE],
        "Connections the pool has, by state.";
    CONNECTIONS_MAX: Gauge in Count, "livepool_connections_max", [POOL],
        "Connections the pool may have.";
    SHARES: Gauge in Count, "livepool_shares", [POOL],
        "Callers who use connections that are shared.";
    WAITERS: Gauge in Count, "livepool_waiters", [POOL],
        "Callers waiting for a connection.";
    LONGEST_WAIT: Gauge in Seconds, "livepool_longest_wait_seconds", [POOL],
        "Time for which the first caller in the queue has been waiting.";
    LONGEST_HOLD: Gauge in Seconds, "livepool_longest_hold_seconds", [POOL],
        "Time for which the caller who has had a connection the longest has had it.";
    OLDEST_CONNECTION: Gauge in Seconds, "livepool_oldest_connection_seconds", [POOL],
        "Age of the oldest open connection.";
    PEERS: Gauge in Count, "livepool_peers", [POOL, PEER_STATE],
        "Addresses of the upstream that the pool knows, by state.";
    PEER_EJECTIONS_TOTAL: Counter in Count, "livepool_peer_ejections_total", [POOL],
        "Peers the pool stopped using because their connections died silently.";
    HOLD_WARNINGS_TOTAL: Counter in Count, "livepool_hold_warnings_total", [POOL],
        "Connections that callers held for longer than hold_warning.";
    WAIT_WARNINGS_TOTAL: Counter in Count, "livepool_wait_warnings_total", [POOL],
        "Callers who got a connection after a wait longer than wait_warning.";
    DIALS_TOTAL: Counter in Count, "livepool_dials_total", [POOL, DIAL_OUTCOME],
        "Dials that ended, by outcome.";
    CLOSED_TOTAL: Counter in Count, "livepool_closed_total", [POOL, REASON],
        "Connections that ended, by reason.";
    EVICTIONS_TOTAL: Counter in Count, "livepool_evictions_total", [POOL, EVICTION],
        "Connections the pool ended on its own judgement, by reason.";
    TIMEOUTS_TOTAL: Counter in Count, "livepool_timeouts_total", [POOL, OPERATION],
        "Operations that passed their deadline, by operation.";
    CHECKOUTS_TOTAL: Counter in Count, "livepool_checkouts_total", [POOL, CHECKOUT_OUTCOME],
        "Checkouts that ended, by outcome.";
    CHECKS_TOTAL: Counter in Count, "livepool_checks_total", [POOL, CHECK, VERDICT],
        "Liveness checks, by check and verdict.";
    CANCELS_TOTAL: Counter in Count, "livepool_cancels_total", [POOL, CANCEL_OUTCOME],
        "Requests to peers to stop what they do for a connection, by outcome.";
    SHARING_ENDED_TOTAL: Counter in Count, "livepool_sharing_ended_total", [POOL],
        "Connections that are shared no more since a caller has left something in their session.";
    HOOK_FAILURES_TOTAL: Counter in Count, "livepool_hook_failures_total", [POOL, HOOK],
        "Hooks of the pool's user that failed, panicked or took too long, by hook.";
    RECONFIGURATIONS_TOTAL: Counter in Count, "livepool_reconfigurations_total", [POOL],
        "Changes of the pool's configuration while it runs.";
    STATEMENTS: Gauge in Count, "livepool_statements", [POOL],
        "Prepared statements that the pool's connections keep.";
    STATEMENT_LOOKUPS_TOTAL: Counter in Count, "livepool_statement_lookups_total", [POOL, LOOKUP],
        "Looks for a prepared statement, by whether it was there.";
    UNENCRYPTED_TOTAL: Counter in Count, "livepool_unencrypted_total", [POOL],
        "Connections that are not encrypted although their protocol would have encrypted them.";
    PEER_CONNECTIONS: Gauge in Count, "livepool_peer_connections", [POOL, PEER, STATE],
        "Connections the pool has to one peer, by state.";
    PEER_DIALS_TOTAL: Counter in Count, "livepool_peer_dials_total", [POOL, PEER, DIAL_OUTCOME],
        "Attempts to connect to one peer that ended, by outcome.";
    PEER_CLOSED_TOTAL: Counter in Count, "livepool_peer_closed_total", [POOL, PEER, REASON],
        "Connections to one peer that ended, by reason.";
    INFO: Gauge in Count, "livepool_info", [POOL, VERSION, PROTOCOL],
        "Always 1 while there is the pool; its labels say what it is.";
    SETTING: Gauge in Count, "livepool_setting", [POOL, SETTING_NAME],
        "Settings of the pool that are numbers.";
    SETTING_TIME: Gauge in Seconds, "livepool_setting_seconds", [POOL, TIME_NAME],
        "Settings of the pool that are times.";
    CHECKOUT_WAIT: Histogram in Seconds, "livepool_checkout_wait_seconds", [POOL],
        "Time callers waited for a checkout to end, whatever its outcome.";
    DIAL: Histogram in Seconds, "livepool_dial_seconds", [POOL],
        "Time dials took, name lookup included, whatever their outcome.";
    CANCEL: Histogram in Seconds, "livepool_cancel_seconds", [POOL],
        "Time requests to stop took, the wait for their turn included, whatever their outcome.";
    USE: Histogram in Seconds, "livepool_use_seconds", [POOL],
        "Time from a checkout to the return or to the end of the connection, whichever came first.";
    CONNECTION_AGE: Histogram in Seconds, "livepool_connection_age_seconds", [POOL],
        "Age of connections at their end.";

    LISTENER_CONNECTIONS: Gauge in Count, "livepool_listener_connections", [LISTENER],
        "Accepted connections that are open.";
    LISTENER_ACCEPTED_TOTAL: Counter in Count, "livepool_listener_accepted_total", [LISTENER],
        "Clients accepted.";
    LISTENER_ACCEPT_ERRORS_TOTAL: Counter in Count, "livepool_listener_accept_errors_total", [LISTENER],
        "Calls of accept that failed in a way that passes.";
    LISTENER_CLOSED_TOTAL: Counter in Count, "livepool_listener_closed_total", [LISTENER, REASON],
        "Accepted connections that ended, by reason.";
    LISTENER_EVICTIONS_TOTAL: Counter in Count, "livepool_listener_evictions_total", [LISTENER, EVICTION],
        "Accepted connections the listener ended on its own judgement, by reason.";
    LISTENER_TIMEOUTS_TOTAL: Counter in Count, "livepool_listener_timeouts_total", [LISTENER, OPERATION],
        "Operations that passed their deadline, by operation.";
    LISTENER_CONNECTION_AGE: Histogram in Seconds, "livepool_listener_connection_age_seconds", [LISTENER],
        "Age of accepted connections at their end.";
}

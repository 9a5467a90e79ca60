//! What is logged, and at which level.

use livepool_testkit::log::Log;

use super::*;
use crate::telemetry::{Emitter, Span};

/// What is logged meanwhile, one line each, with level and target.
fn logged(what: impl FnOnce()) -> String {
    let (log, _guard) = Log::start(tracing::Level::TRACE);
    what();
    log.all().trim().to_owned()
}

fn pool_logs(event: &Event) -> String {
    logged(|| Emitter::of_connector("orders", None).record(event))
}

#[test]
fn a_line_carries_the_fields_of_its_event() {
    assert_eq!(
        pool_logs(&closed(CloseReason::Reset)),
        r#"INFO livepool: connection died pool="orders" conn_id=7 peer=127.0.0.1:5432 reason=reset age=1s"#
    );
    let mut event = closed(CloseReason::ProtocolError);
    let Event::Closed { code, .. } = &mut event else { unreachable!() };
    *code = Some("26000".into());
    assert_eq!(
        pool_logs(&event),
        r#"INFO livepool: connection closed pool="orders" conn_id=7 peer=127.0.0.1:5432 reason=protocol_error code=26000 age=1s"#
    );
    assert_eq!(
        pool_logs(&timed_out(Operation::Checkout)),
        r#"DEBUG livepool: timed out pool="orders" conn_id=7 operation=checkout after=1s"#
    );
    assert_eq!(
        pool_logs(&dial_failed(DialOutcome::Refused)),
        r#"WARN livepool: dial failed pool="orders" outcome=refused took=1s error=refused by 127.0.0.1:5432"#
    );
    assert_eq!(
        pool_logs(&unencrypted(true)),
        r#"DEBUG livepool: not encrypted: the peer does not offer it pool="orders" conn_id=7 peer=127.0.0.1:5432"#
    );
    assert_eq!(
        pool_logs(&cancel_requested(CancelOutcome::Failed)),
        r#"INFO livepool: cancel requested pool="orders" conn_id=7 peer=127.0.0.1:5432 outcome=failed took=1s"#
    );
    assert_eq!(
        pool_logs(&reconfigured()),
        r#"INFO livepool: reconfigured pool="orders" changed=idle_timeout,timeouts.checkout"#
    );
    assert_eq!(
        logged(|| Emitter::of_listener("front", None).record(&accepted())),
        r#"DEBUG livepool: accepted listener="front" conn_id=7 peer=127.0.0.1:5432"#
    );
}

#[test]
fn a_field_that_is_unknown_is_left_out() {
    let event = Event::TimedOut { operation: Operation::Accept, conn: None, after: SECOND };
    assert_eq!(
        logged(|| Emitter::of_listener("front", None).record(&event)),
        r#"DEBUG livepool: timed out listener="front" operation=accept after=1s"#
    );
}

#[test]
fn the_level_says_who_should_care() {
    for event in events() {
        let level = match &event {
            Event::CheckedOut { .. } | Event::Returned { .. } => "TRACE",
            Event::Checked { verdict: CheckVerdict::Alive, .. } => "TRACE",
            Event::Checked { .. } | Event::Opened { .. } | Event::Accepted { .. } => "DEBUG",
            Event::Closed { reason, .. } if reason.is_death() => "INFO",
            Event::Closed { reason: CloseReason::ProtocolError, .. } => "INFO",
            Event::Closed { .. } | Event::Unencrypted { .. } => "DEBUG",
            Event::CancelRequested { outcome: CancelOutcome::Ok, .. } => "DEBUG",
            Event::CancelRequested { .. } | Event::SharingEnded { .. } => "INFO",
            Event::Reconfigured { .. } => "INFO",
            Event::TimedOut { operation: Operation::Checkout | Operation::Accept, .. } => "DEBUG",
            Event::TimedOut { .. } => "INFO",
            Event::PeerChanged { to: PeerState::Ejected, .. } => "WARN",
            Event::PeerChanged { .. } => "INFO",
            Event::DialFailed { outcome: DialOutcome::Cancelled, .. } => "DEBUG",
            Event::DialFailed { .. }
            | Event::HookFailed { .. }
            | Event::OptionUnavailable { .. }
            | Event::HeldTooLong { .. }
            | Event::WaitedTooLong { .. }
            | Event::AcceptFailed { .. } => "WARN",
            Event::CheckoutFailed { outcome, .. } => match outcome {
                CheckoutOutcome::Timeout | CheckoutOutcome::QueueFull | CheckoutOutcome::Hook => {
                    "WARN"
                }
                CheckoutOutcome::Cancelled => "DEBUG",
                _ => "INFO",
            },
        };
        let line = pool_logs(&event);
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(line.starts_with(&format!("{level} livepool: ")), "{event:?}: {line}");
        assert!(line.contains(r#"pool="orders""#), "{line}");
    }
}

#[test]
fn a_span_takes_the_peer_and_the_connection_when_they_are_known() {
    let lines = logged(|| {
        for span in [Span::of_checkout("orders"), Span::of_dial("orders", "db:5432")] {
            span.record_conn(ConnId(7), &peer());
            span.in_scope(|| tracing::trace!(target: "livepool", "inside"));
        }
    });
    let lines: Vec<_> = lines.lines().map(str::trim).collect();
    assert_eq!(
        lines,
        [
            r#"TRACE checkout{pool="orders" peer=127.0.0.1:5432 conn_id=7}: livepool: inside"#,
            r#"TRACE dial{pool="orders" upstream="db:5432" peer=127.0.0.1:5432 conn_id=7}: livepool: inside"#,
        ]
    );
}

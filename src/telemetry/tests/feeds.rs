//! Which event feeds which series.

use metrics_util::debugging::DebuggingRecorder;

use super::*;
use crate::telemetry::Emitter;

/// What one event feeds. Every event here carries one second.
fn feeds(emitter: &Emitter, event: &Event) -> Vec<String> {
    let recorder = DebuggingRecorder::new();
    metrics::with_local_recorder(&recorder, || emitter.record(event));
    let fed = fed(&recorder.snapshotter());
    assert!(fed.values().all(|value| *value == 1.0), "{event:?} counted more than once: {fed:?}");
    fed.into_keys().collect()
}

fn pool_feeds(event: &Event) -> Vec<String> {
    feeds(&Emitter::of_connector("orders", None), event)
}

fn listener_feeds(event: &Event) -> Vec<String> {
    feeds(&Emitter::of_listener("orders", None), event)
}

#[test]
fn a_dial_feeds_its_outcome_and_its_time() {
    let time = "livepool_dial_seconds{pool=orders}";
    assert_eq!(pool_feeds(&opened()), [time, "livepool_dials_total{pool=orders,outcome=ok}"]);
    for outcome in DialOutcome::ALL {
        assert_eq!(
            pool_feeds(&dial_failed(*outcome)),
            [time.to_owned(), format!("livepool_dials_total{{pool=orders,outcome={outcome}}}")]
        );
    }
}

#[test]
fn a_checkout_feeds_its_outcome_and_its_wait() {
    let time = "livepool_checkout_wait_seconds{pool=orders}";
    assert_eq!(
        pool_feeds(&checked_out()),
        [time, "livepool_checkouts_total{pool=orders,outcome=ok}"]
    );
    for outcome in CheckoutOutcome::ALL {
        assert_eq!(
            pool_feeds(&checkout_failed(*outcome)),
            [time.to_owned(), format!("livepool_checkouts_total{{pool=orders,outcome={outcome}}}")]
        );
    }
}

#[test]
fn a_return_feeds_the_time_of_use() {
    assert_eq!(pool_feeds(&returned()), ["livepool_use_seconds{pool=orders}"]);
}

#[test]
fn a_request_to_cancel_feeds_its_outcome_and_its_time() {
    for outcome in CancelOutcome::ALL {
        assert_eq!(
            pool_feeds(&cancel_requested(*outcome)),
            [
                "livepool_cancel_seconds{pool=orders}".to_owned(),
                format!("livepool_cancels_total{{pool=orders,outcome={outcome}}}")
            ]
        );
    }
}

#[test]
fn a_connection_that_is_not_encrypted_is_counted() {
    for was_asked in [false, true] {
        let found = pool_feeds(&unencrypted(was_asked));
        assert_eq!(found, ["livepool_unencrypted_total{pool=orders}"]);
    }
    assert_eq!(pool_feeds(&sharing_ended()), ["livepool_sharing_ended_total{pool=orders}"]);
    assert_eq!(pool_feeds(&reconfigured()), ["livepool_reconfigurations_total{pool=orders}"]);
}

#[test]
fn a_warning_is_counted() {
    let found = [held_too_long(), waited_too_long()].map(|event| pool_feeds(&event).concat());
    assert_eq!(
        found,
        ["livepool_hold_warnings_total{pool=orders}", "livepool_wait_warnings_total{pool=orders}"]
    );
}

#[test]
fn of_the_looks_for_statements_what_is_new_is_counted_once() {
    let recorder = DebuggingRecorder::new();
    let emitter = Emitter::of_connector("orders", None);
    let counted = |hits, misses| {
        let statements = StatementCounts::new(12, hits, misses);
        let levels = Gauges { statements, ..LEVELS };
        metrics::with_local_recorder(&recorder, || emitter.set_gauges(&levels));
        let fed = fed(&recorder.snapshotter());
        let of = |result| {
            let series = format!("livepool_statement_lookups_total{{pool=orders,result={result}}}");
            fed.get(&series).copied().unwrap_or_default()
        };
        (of("hit"), of("miss"))
    };
    assert_eq!(counted(5, 2), (5.0, 2.0));
    assert_eq!(counted(5, 2), (0.0, 0.0));
    assert_eq!(counted(9, 3), (4.0, 1.0));
    assert_eq!(counted(8, 3), (0.0, 0.0), "an older sample that comes late");
    assert_eq!(counted(10, 3), (1.0, 0.0));
}

#[test]
fn a_check_feeds_its_verdict() {
    for verdict in CheckVerdict::ALL {
        assert_eq!(
            pool_feeds(&checked(*verdict)),
            [format!("livepool_checks_total{{pool=orders,check=peek,verdict={verdict}}}")]
        );
    }
}

#[test]
fn a_close_feeds_its_reason_and_its_age_and_an_eviction_counts_as_one() {
    for reason in CloseReason::ALL {
        for (prefix, owner, found) in [
            ("livepool", "pool", pool_feeds(&closed(*reason))),
            ("livepool_listener", "listener", listener_feeds(&closed(*reason))),
        ] {
            let mut expected = vec![
                format!("{prefix}_closed_total{{{owner}=orders,reason={reason}}}"),
                format!("{prefix}_connection_age_seconds{{{owner}=orders}}"),
            ];
            if reason.is_eviction() {
                expected
                    .push(format!("{prefix}_evictions_total{{{owner}=orders,reason={reason}}}"));
            }
            assert_eq!(found, expected);
        }
    }
}

#[test]
fn a_use_that_ended_badly_counts_as_a_use() {
    let mut event = closed(CloseReason::OpTimeout);
    if let Event::Closed { used, .. } = &mut event {
        *used = Some(SECOND);
    }
    assert!(pool_feeds(&event).contains(&"livepool_use_seconds{pool=orders}".to_owned()));
}

#[test]
fn timeouts_are_fed_by_timeout_events_alone() {
    for operation in Operation::ALL {
        assert_eq!(
            pool_feeds(&timed_out(*operation)),
            [format!("livepool_timeouts_total{{pool=orders,operation={operation}}}")]
        );
        assert_eq!(
            listener_feeds(&timed_out(*operation)),
            [format!("livepool_listener_timeouts_total{{listener=orders,operation={operation}}}")]
        );
    }
    for event in events().iter().filter(|event| !matches!(event, Event::TimedOut { .. })) {
        assert!(!pool_feeds(event).iter().any(|series| series.contains("timeouts")), "{event:?}");
    }
}

#[test]
fn a_listener_counts_what_it_accepts() {
    assert_eq!(listener_feeds(&accepted()), ["livepool_listener_accepted_total{listener=orders}"]);
    assert_eq!(
        listener_feeds(&accept_failed()),
        ["livepool_listener_accept_errors_total{listener=orders}"]
    );
    let recorder = DebuggingRecorder::new();
    let listener = Emitter::of_listener("orders", None);
    metrics::with_local_recorder(&recorder, || listener.set_connections(5));
    assert_eq!(
        gauges(&recorder.snapshotter()).into_iter().collect::<Vec<_>>(),
        [("livepool_listener_connections{listener=orders}".to_owned(), 5.0)]
    );
}

#[test]
fn an_option_that_is_missing_is_logged_and_not_counted() {
    assert!(pool_feeds(&option_unavailable()).is_empty());
    assert!(listener_feeds(&option_unavailable()).is_empty());
}

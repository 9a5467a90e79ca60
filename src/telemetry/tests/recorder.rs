//! When a recorder is found, and what it is left with.

use metrics_util::debugging::DebuggingRecorder;

use super::*;
use crate::telemetry::emitter::{Emitter, Handles};

#[test]
fn a_recorder_installed_after_the_pool_and_its_first_events_is_served() {
    let emitter = Emitter::of_connector("orders", None);
    emitter.record(&checked_out());
    emitter.set_gauges(&LEVELS);

    let recorder = DebuggingRecorder::new();
    metrics::with_local_recorder(&recorder, || emitter.record(&checked_out()));
    let found = fed(&recorder.snapshotter());
    assert_eq!(found["livepool_checkouts_total{pool=orders,outcome=ok}"], 1.0);

    // From here on the handles are kept, wherever the event happens.
    emitter.record(&checked_out());
    let found = fed(&recorder.snapshotter());
    assert_eq!(found["livepool_checkouts_total{pool=orders,outcome=ok}"], 1.0);
}

#[test]
fn setting_the_gauges_is_enough_to_find_the_recorder() {
    let emitter = Emitter::of_connector("orders", None);
    let recorder = DebuggingRecorder::new();
    metrics::with_local_recorder(&recorder, || emitter.set_gauges(&LEVELS));
    assert_eq!(
        gauges(&recorder.snapshotter()).into_iter().collect::<Vec<_>>(),
        [
            ("livepool_connections_max{pool=orders}".to_owned(), 10.0),
            ("livepool_connections{pool=orders,state=connecting}".to_owned(), 1.0),
            ("livepool_connections{pool=orders,state=ending}".to_owned(), 1.0),
            ("livepool_connections{pool=orders,state=idle}".to_owned(), 3.0),
            ("livepool_connections{pool=orders,state=in_use}".to_owned(), 4.0),
            ("livepool_connections{pool=orders,state=quarantined}".to_owned(), 1.0),
            ("livepool_connections{pool=orders,state=resetting}".to_owned(), 1.0),
            ("livepool_connections{pool=orders,state=shared}".to_owned(), 2.0),
            ("livepool_longest_hold_seconds{pool=orders}".to_owned(), 2.5),
            ("livepool_longest_wait_seconds{pool=orders}".to_owned(), 1.0),
            ("livepool_oldest_connection_seconds{pool=orders}".to_owned(), 60.0),
            ("livepool_peers{pool=orders,state=draining}".to_owned(), 0.0),
            ("livepool_peers{pool=orders,state=ejected}".to_owned(), 2.0),
            ("livepool_peers{pool=orders,state=healthy}".to_owned(), 1.0),
            ("livepool_peers{pool=orders,state=probing}".to_owned(), 0.0),
            ("livepool_peers{pool=orders,state=suspect}".to_owned(), 0.0),
            ("livepool_shares{pool=orders}".to_owned(), 9.0),
            ("livepool_statements{pool=orders}".to_owned(), 12.0),
            ("livepool_waiters{pool=orders}".to_owned(), 2.0),
        ]
    );
}

#[test]
fn threads_that_find_the_recorder_together_lose_no_event() {
    let recorder = DebuggingRecorder::new();
    let emitter = Emitter::of_connector("orders", None);
    let start = std::sync::Barrier::new(8);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                metrics::with_local_recorder(&recorder, || {
                    start.wait();
                    emitter.record(&checked_out());
                });
            });
        }
    });
    let found = fed(&recorder.snapshotter());
    assert_eq!(found["livepool_checkouts_total{pool=orders,outcome=ok}"], 8.0);
}

#[test]
fn without_a_recorder_nothing_is_resolved() {
    let emitter = Emitter::of_connector("orders", None);
    events().iter().for_each(|event| emitter.record(event));
    emitter.set_gauges(&LEVELS);
    assert!(matches!(&emitter.handles, Handles::Pool(handles) if handles.get().is_none()));
}

#[test]
fn a_pool_that_is_gone_has_no_connections() {
    let recorder = DebuggingRecorder::new();
    let emitter = Emitter::of_connector("orders", None);
    let listener = Emitter::of_listener("front", None);
    metrics::with_local_recorder(&recorder, || {
        emitter.set_gauges(&LEVELS);
        listener.set_connections(5);
    });
    drop(emitter);
    drop(listener);
    let found = gauges(&recorder.snapshotter());
    assert_eq!(found.len(), 20);
    assert!(found.values().all(|value| *value == 0.0), "{found:?}");
}

//! A test that this machine does not allow says so, and never just passes.

use std::io::Write;

/// Says on stderr that this test did not run, and why. Where `LIVEPOOL_NO_SKIP` is set, as in CI,
/// it fails instead.
pub fn not_run(test: &str, why: &str) {
    let strict = std::env::var_os("LIVEPOOL_NO_SKIP").is_some_and(|value| !value.is_empty());
    assert!(!strict, "{test} cannot run here, and LIVEPOOL_NO_SKIP is set: {why}");
    // Not `eprintln!`: the test harness keeps that from the reader of a test that passes.
    let _ = writeln!(std::io::stderr(), "NOT RUN: {test}: {why}");
}

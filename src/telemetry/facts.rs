//! [`Facts`]: what is known of a pool before anything happens, and the gauges that say it.

use std::time::Duration;

use metrics::Gauge;

use super::handles::dispose;
use super::names::{self, SETTINGS, TIMES};
use super::register::Register;
use crate::config::Settings;
use crate::foreign;

/// What a pool is, now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    /// The value of the label `protocol`.
    protocol: &'static str,
    /// A protocol knows what it is owed.
    knows_debts: bool,
    /// In the order of [`SETTINGS`].
    settings: [f64; SETTINGS.len()],
    /// In the order of [`TIMES`], in seconds.
    times: [f64; TIMES.len()],
}

impl Facts {
    /// The facts of the same pool with these settings.
    pub(crate) fn with_settings(&self, settings: &Settings) -> Self {
        Self::labelled(settings, self.protocol, self.knows_debts)
    }

    /// The facts of a pool with these settings, and of this protocol, which is `None` for bare streams.
    pub(crate) fn of(settings: &Settings, protocol: Option<&'static str>) -> Self {
        let label = match protocol {
            None => "none",
            // A label without a value is one that is not there.
            Some("") => "unnamed",
            Some(name) => name,
        };
        Self::labelled(settings, label, protocol.is_some())
    }

    fn labelled(settings: &Settings, protocol: &'static str, knows_debts: bool) -> Self {
        let timeouts = &settings.timeouts;
        Self {
            protocol,
            knows_debts,
            settings: [
                settings.min_idle as f64,
                settings.max_connecting as f64,
                settings.max_waiting.map_or(f64::INFINITY, |most| most as f64),
                settings.max_shares as f64,
            ],
            times: [
                settings.idle_timeout,
                settings.max_lifetime,
                settings.max_silence,
                settings.max_silence_after_use,
                Some(settings.patience),
                settings.hold_warning,
                settings.wait_warning,
                settings.dns_refresh,
                Some(settings.backoff.most),
                timeouts.checkout,
                timeouts.connect,
                timeouts.ping,
                timeouts.reset,
                timeouts.hook,
                timeouts.read.limit(knows_debts),
                timeouts.write,
                timeouts.operation,
            ]
            .map(seconds),
        }
    }
}

/// A time in seconds; infinite where it is never.
fn seconds(time: Option<Duration>) -> f64 {
    time.map_or(f64::INFINITY, |time| time.as_secs_f64())
}

/// The gauges of a pool's facts.
pub(super) struct FactGauges {
    info: Gauge,
    settings: [Gauge; SETTINGS.len()],
    times: [Gauge; TIMES.len()],
}

impl FactGauges {
    pub(super) fn resolve(register: &Register<'_>, facts: &Facts) -> Self {
        let labels = [env!("CARGO_PKG_VERSION"), facts.protocol];
        let gauges = Self {
            info: register.gauge(&names::INFO, &labels),
            settings: SETTINGS.map(|setting| register.gauge(&names::SETTING, &[setting])),
            times: TIMES.map(|setting| register.gauge(&names::SETTING_TIME, &[setting])),
        };
        // A recorder that panics here is asked for the other handles all the same.
        let _ = foreign::call(|| gauges.tell(facts));
        gauges
    }

    pub(super) fn tell(&self, facts: &Facts) {
        self.set(1.0, &facts.settings, &facts.times);
    }

    /// The pool is gone.
    pub(super) fn clear(&self) {
        self.set(0.0, &[0.0; SETTINGS.len()], &[0.0; TIMES.len()]);
    }

    fn set(&self, info: f64, settings: &[f64], times: &[f64]) {
        self.info.set(info);
        let gauges = self.settings.iter().chain(&self.times);
        for (gauge, value) in gauges.zip(settings.iter().chain(times)) {
            gauge.set(*value);
        }
    }
}

impl Drop for FactGauges {
    fn drop(&mut self) {
        let Self { info, settings, times } = self;
        dispose(settings.iter_mut().chain(times).chain([info]), Gauge::noop);
    }
}

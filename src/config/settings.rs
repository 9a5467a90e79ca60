//! The valid form of a configuration, after its check. Code that acts takes these settings, so that
//! nothing needs checking twice.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::error::Problems;
use super::{
    Backoff, Config, ConfigError, FirstConnect, Keepalive, Limits, ListenerConfig, Order,
    ReadTimeout, SocketConfig, SocketOption, Timeouts, UserTimeout, Validation, rules,
};
use crate::net::Endpoint;

/// A checked [`Config`].
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The name in metrics and logs; never empty.
    pub(crate) name: String,
    /// The parsed `upstream`; never empty.
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) max_size: usize,
    pub(crate) min_idle: usize,
    pub(crate) max_connecting: usize,
    pub(crate) backoff: Backoff,
    pub(crate) first_connect: FirstConnect,
    pub(crate) dns_refresh: Option<Duration>,
    pub(crate) max_waiting: Option<usize>,
    pub(crate) max_shares: usize,
    pub(crate) order: Order,
    pub(crate) validation: Validation,
    pub(crate) timeouts: Timeouts,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) max_lifetime: Option<Duration>,
    pub(crate) max_silence: Option<Duration>,
    /// The value in effect: not above `max_silence`, and `None` if that is.
    pub(crate) max_silence_after_use: Option<Duration>,
    pub(crate) patience: Duration,
    pub(crate) hold_warning: Option<Duration>,
    pub(crate) wait_warning: Option<Duration>,
    pub(crate) limits: Limits,
    pub(crate) socket: SocketSettings,
}

/// A checked [`ListenerConfig`].
#[derive(Debug, Clone)]
pub(crate) struct ListenerSettings {
    /// The name that was given; empty when the address is to be the name.
    pub(crate) name: String,
    pub(crate) reuse_address: bool,
    pub(crate) reuse_port: bool,
    pub(crate) backlog: i32,
    pub(crate) dual_stack: bool,
    /// The time limits, shared: a copy of its own would be a third of each stream.
    pub(crate) timeouts: Arc<Timeouts>,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) socket: SocketSettings,
}

/// A checked [`SocketConfig`].
#[derive(Debug, Clone)]
pub(crate) struct SocketSettings {
    pub(crate) keepalive: Option<Keepalive>,
    /// The value in effect, derived or given; `None` when it is off.
    pub(crate) user_timeout: Option<Duration>,
    pub(crate) nodelay: bool,
    pub(crate) send_buffer: Option<usize>,
    pub(crate) recv_buffer: Option<usize>,
    pub(crate) local_addr: Option<IpAddr>,
    pub(crate) device: Option<String>,
    pub(crate) mark: Option<u32>,
    pub(crate) tos: Option<u8>,
    pub(crate) congestion: Option<String>,
    pub(crate) best_effort: Vec<SocketOption>,
}

impl Config {
    /// Checks every rule. No socket is opened and no name is looked up.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with every field that breaks a rule.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.to_settings().map(drop)
    }

    /// The valid form that the pool works with.
    pub(crate) fn to_settings(&self) -> Result<Settings, ConfigError> {
        Settings::of(self)
    }

    /// Refuses the settings that a plain deadpool cannot honour.
    pub(crate) fn check_for_deadpool(&self) -> Result<(), ConfigError> {
        rules::for_deadpool(self)
    }
}

impl ListenerConfig {
    /// Checks every rule. No socket is opened.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with every field that breaks a rule.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.to_settings().map(drop)
    }

    /// The valid form that the listener works with.
    pub(crate) fn to_settings(&self) -> Result<ListenerSettings, ConfigError> {
        ListenerSettings::of(self)
    }
}

impl Settings {
    fn of(config: &Config) -> Result<Self, ConfigError> {
        let mut problems = Problems::default();
        rules::name(&mut problems, &config.name);
        let endpoints = rules::upstream(&mut problems, &config.upstream);
        rules::max_size(&mut problems, config.max_size);
        rules::min_idle(&mut problems, config.min_idle, config.max_size);
        rules::max_connecting(&mut problems, config.max_connecting);
        rules::max_waiting(&mut problems, config.max_waiting);
        rules::max_shares(&mut problems, config.max_shares);
        rules::backoff(&mut problems, &config.backoff);
        rules::dns_refresh(&mut problems, config.dns_refresh);
        rules::limit(&mut problems, "idle_timeout", config.idle_timeout);
        rules::limit(&mut problems, "max_lifetime", config.max_lifetime);
        rules::max_silence(&mut problems, "max_silence", config.max_silence);
        let after_use = config.max_silence_after_use;
        rules::max_silence(&mut problems, "max_silence_after_use", after_use);
        rules::patience(&mut problems, config.patience);
        rules::limit(&mut problems, "hold_warning", config.hold_warning);
        rules::limit(&mut problems, "wait_warning", config.wait_warning);
        rules::metrics(&mut problems, config.metrics);
        rules::validation(&mut problems, config.validation);
        rules::limits(&mut problems, &config.limits);
        rules::timeouts(&mut problems, &config.timeouts);
        let socket = SocketSettings::of(&mut problems, &config.socket);
        let names = endpoints.iter().any(|endpoint| matches!(endpoint, Endpoint::Host { .. }));
        // Without an upstream there is a problem, and the settings are never used.
        let name = match (&config.name, config.upstream.first()) {
            (name, Some(first)) if name.is_empty() => first.clone(),
            (name, _) => name.clone(),
        };
        problems.or(Self {
            name,
            endpoints,
            max_size: config.max_size,
            min_idle: config.min_idle,
            max_connecting: config.max_connecting,
            backoff: config.backoff,
            first_connect: config.first_connect,
            // Without a name among the endpoints there is nothing to look up, and no task for it.
            dns_refresh: config.dns_refresh.filter(|_| names),
            max_waiting: config.max_waiting,
            max_shares: config.max_shares,
            order: config.order,
            validation: config.validation,
            timeouts: effective_timeouts(config),
            idle_timeout: config.idle_timeout,
            max_lifetime: config.max_lifetime,
            max_silence: config.max_silence,
            max_silence_after_use: config
                .max_silence
                // Silence of any connection is bounded by `max_silence`, also just after a use.
                .map(|max| after_use.map_or(max, |after_use| after_use.min(max))),
            patience: config.patience,
            hold_warning: config.hold_warning,
            wait_warning: config.wait_warning,
            limits: config.limits,
            socket,
        })
    }
}

/// The time limits in effect.
fn effective_timeouts(config: &Config) -> Timeouts {
    match (config.socket.keepalive.is_some(), config.timeouts.read) {
        // Without keepalive nothing proves that a peer lives from which an answer is awaited, and
        // only a read timeout ends that wait: it is there for all, unless the user says otherwise.
        (false, ReadTimeout::Default) => config.timeouts.with_read(ReadTimeout::BARE),
        _ => config.timeouts,
    }
}

impl Settings {
    /// The same settings, name included, for another upstream.
    pub(crate) fn with_upstream(&self, upstream: &str) -> Result<Self, ConfigError> {
        let mut problems = Problems::default();
        let endpoints = rules::upstream(&mut problems, &[upstream.to_owned()]);
        problems.or(Self { endpoints, ..self.clone() })
    }
}

impl ListenerSettings {
    fn of(config: &ListenerConfig) -> Result<Self, ConfigError> {
        let mut problems = Problems::default();
        rules::name(&mut problems, &config.name);
        // Every rule is checked before `problems.or`: all problems are reported at once.
        let backlog = rules::backlog(&mut problems, config.backlog);
        rules::limit(&mut problems, "idle_timeout", config.idle_timeout);
        rules::timeouts(&mut problems, &config.timeouts);
        let socket = SocketSettings::of(&mut problems, &config.socket);
        rules::no_local_addr(&mut problems, config.socket.local_addr);
        problems.or(Self {
            name: config.name.clone(),
            reuse_address: config.reuse_address,
            reuse_port: config.reuse_port,
            backlog,
            dual_stack: config.dual_stack,
            timeouts: Arc::new(config.timeouts),
            idle_timeout: config.idle_timeout,
            socket,
        })
    }
}

impl SocketSettings {
    fn of(problems: &mut Problems, config: &SocketConfig) -> Self {
        if let Some(keepalive) = &config.keepalive {
            rules::keepalive(problems, keepalive);
        }
        rules::user_timeout(problems, config);
        rules::buffer(problems, "socket.send_buffer", config.send_buffer);
        rules::buffer(problems, "socket.recv_buffer", config.recv_buffer);
        rules::short_name(problems, "socket.device", config.device.as_deref());
        rules::short_name(problems, "socket.congestion", config.congestion.as_deref());
        Self {
            keepalive: config.keepalive.clone(),
            user_timeout: match config.user_timeout {
                // Off where keepalive is, or where the system decides one of its values: then there
                // is nothing to agree with.
                UserTimeout::Derived => {
                    config.keepalive.as_ref().and_then(Keepalive::detection_time)
                }
                UserTimeout::Off => None,
                UserTimeout::After(limit) => Some(limit),
            },
            nodelay: config.nodelay,
            send_buffer: config.send_buffer,
            recv_buffer: config.recv_buffer,
            local_addr: config.local_addr,
            device: config.device.clone(),
            mark: config.mark,
            tos: config.tos,
            congestion: config.congestion.clone(),
            best_effort: config.best_effort.clone(),
        }
    }
}

#[cfg(test)]
impl Default for SocketSettings {
    fn default() -> Self {
        Self::of(&mut Problems::default(), &SocketConfig::default())
    }
}

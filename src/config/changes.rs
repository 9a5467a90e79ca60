//! What becomes of each setting when it is changed while the pool runs, and the check of such a change.

use super::error::Problems;
use super::{
    Backoff, Config, ConfigError, Limits, MetricsConfig, Settings, SocketConfig, Timeouts, rules,
};
use crate::text;

/// What a change of a setting does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Acts {
    /// It holds from now on, for connections that exist as well.
    AtOnce,
    /// It holds for connections that are made from now on.
    OnNewConnections,
    /// It is refused, with this as the rule.
    Never(&'static str),
}

use Acts::{AtOnce, Never, OnNewConnections};

/// One setting.
struct Setting {
    /// Its path, as a configuration file would spell it.
    path: &'static str,
    acts: Acts,
    differs: fn(&Config, &Config) -> bool,
    shown: fn(&Config) -> String,
}

const NAME: &str = "is the name of the pool's metrics and log lines for as long as it lives: make another \
                    pool, and close this one";
const UPSTREAM: &str = "is what all that the pool knows of its peers is about: make another pool for \
                        another upstream, and close this one";
const SERIES: &str = "says which series are registered when the pool is made: make another pool, and \
                      close this one";
const PROBED: &str = "is what the pool asks silent peers by, on all of its connections alike: make \
                      another pool, and close this one";

/// The value of a setting.
macro_rules! value {
    ($config:ident, [] $field:ident) => {
        $config.$field
    };
    ($config:ident, [$group:ident] $field:ident) => {
        $config.$group.$field
    };
}

/// The path of a setting.
macro_rules! path {
    ([] $field:ident) => {
        stringify!($field)
    };
    ([$group:ident] $field:ident) => {
        concat!(stringify!($group), ".", stringify!($field))
    };
}

/// Makes the table, and has the compiler refuse it while a field is missing.
macro_rules! settings {
    ($($group:tt $type:ident { $($field:ident: $acts:expr,)+ } groups { $($inner:ident)* };)+) => {
        const SETTINGS: &[Setting] = &[$($(
            Setting {
                path: path!($group $field),
                acts: $acts,
                differs: |before, after| {
                    value!(before, $group $field) != value!(after, $group $field)
                },
                shown: |config| format!("{:?}", value!(config, $group $field)),
            },
        )+)+];

        $(const _: fn(&$type) = |every_field| {
            let $type { $($field: _,)+ $($inner: _,)* } = every_field;
        };)+
    };
}

settings! {
    [] Config {
        name: Never(NAME),
        upstream: Never(UPSTREAM),
        max_size: AtOnce,
        min_idle: AtOnce,
        max_connecting: AtOnce,
        first_connect: AtOnce,
        dns_refresh: AtOnce,
        max_waiting: AtOnce,
        max_shares: AtOnce,
        order: AtOnce,
        validation: AtOnce,
        idle_timeout: AtOnce,
        max_lifetime: AtOnce,
        max_silence: AtOnce,
        max_silence_after_use: AtOnce,
        patience: AtOnce,
        hold_warning: AtOnce,
        wait_warning: AtOnce,
    } groups { backoff metrics limits timeouts socket };
    [backoff] Backoff {
        first: AtOnce,
        most: AtOnce,
        while_waiting: AtOnce,
    } groups {};
    [metrics] MetricsConfig {
        names: Never(SERIES),
        peers: Never(SERIES),
    } groups {};
    [limits] Limits {
        message: OnNewConnections,
        handshake: OnNewConnections,
        retire_above: OnNewConnections,
    } groups {};
    [timeouts] Timeouts {
        checkout: AtOnce,
        connect: OnNewConnections,
        ping: AtOnce,
        reset: AtOnce,
        hook: AtOnce,
        read: AtOnce,
        write: AtOnce,
        flush: AtOnce,
        shutdown: AtOnce,
        accept: AtOnce,
        operation: AtOnce,
    } groups {};
    [socket] SocketConfig {
        keepalive: Never(PROBED),
        user_timeout: Never(PROBED),
        nodelay: OnNewConnections,
        send_buffer: OnNewConnections,
        recv_buffer: OnNewConnections,
        local_addr: OnNewConnections,
        device: OnNewConnections,
        mark: OnNewConnections,
        tos: OnNewConnections,
        congestion: OnNewConnections,
        best_effort: OnNewConnections,
    } groups {};
}

/// What a pool is made of beside its configuration, and what that has to fit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MadeOf {
    pub(crate) has_ping: bool,
    /// It is inside a plain deadpool.
    pub(crate) is_for_deadpool: bool,
}

/// A change that keeps every rule.
pub(crate) struct Change {
    pub(crate) settings: Settings,
    /// The paths of the settings that change. Never empty.
    pub(crate) changed: Vec<&'static str>,
}

impl Config {
    /// The check of a pool's configuration that is to take the place of another one: every rule of a new
    /// pool, and that nothing changes which cannot. `None` if nothing changes.
    pub(crate) fn check_change(
        &self,
        before: &Self,
        made_of: MadeOf,
    ) -> Result<Option<Change>, ConfigError> {
        let mut problems = Problems::default();
        let changes = || SETTINGS.iter().filter(|setting| (setting.differs)(before, self));
        for setting in changes() {
            if let Never(rule) = setting.acts {
                problems.add(setting.path, setting.value(self), rule);
            }
        }
        // All of it, and not the first.
        if made_of.is_for_deadpool {
            problems.take(rules::for_deadpool(self));
        }
        problems.take(rules::check_ping(self.validation, made_of.has_ping));
        let settings = problems.take(self.to_settings());
        let settings = problems.or(settings)?;
        let changed: Vec<_> = changes().map(|setting| setting.path).collect();
        // Without settings there was a problem.
        let change = settings.map(|settings| Change { settings, changed });
        Ok(change.filter(|change| !change.changed.is_empty()))
    }
}

impl Setting {
    fn value(&self, config: &Config) -> String {
        match self.path {
            // A URL with a password may have been given in its place.
            "upstream" => {
                let shown: Vec<_> =
                    config.upstream.iter().map(|entry| text::redacted(entry)).collect();
                format!("{shown:?}")
            }
            "name" => format!("{} bytes", config.name.len()),
            _ => (self.shown)(config),
        }
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn the_guide_says_of_each_setting_when_a_change_of_it_acts() {
        let page = include_str!("../../docs/guide/reconfiguring.md");
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
        let mut said: Vec<_> = rows
            .map(|row| {
                let mut cells = row.split('|').map(|cell| cell.trim().trim_matches('`'));
                (cells.next().unwrap(), cells.next().unwrap())
            })
            .collect();
        let mut done: Vec<_> = SETTINGS
            .iter()
            .map(|setting| match setting.acts {
                AtOnce => (setting.path, "at once"),
                OnNewConnections => (setting.path, "for new connections"),
                Never(_) => (setting.path, "never"),
            })
            .collect();
        said.sort();
        done.sort();
        assert_eq!(said, done);
    }
}

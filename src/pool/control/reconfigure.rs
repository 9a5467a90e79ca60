//! A configuration that changes while the pool runs: [`Pool::reconfigure`](crate::Pool::reconfigure).
//!
//! The user's closure changes a copy, with no lock held; the copy is checked as a whole; and it takes the
//! place of the configuration that it is a copy of, unless another one has done so before: then the closure
//! is called again, with that one. All that acts on settings looks at one snapshot of them
//! ([`LiveSettings`](crate::config::LiveSettings)), and is told here to look again.

use crate::config::{Change, Config, ConfigError, MadeOf, check_max_size};
use crate::event::Event;
use crate::pool::Pool;
use crate::pool::conn::entry::Entry;
use crate::pool::inner::PoolInner;
use crate::protocol::Protocol;
use crate::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The settings that an operation looks at while it waits. It may have no clock by which it would look again.
const OF_WAITING: [&str; 5] =
    ["max_silence", "timeouts.read", "timeouts.write", "timeouts.flush", "timeouts.shutdown"];

impl<P: Protocol> Pool<P> {
    /// The configuration in force: as it was given, and changed since.
    pub fn config(&self) -> Arc<Config> {
        self.handle.0.config()
    }

    /// Changes settings while the pool runs: all together or, if one of them is refused, none.
    ///
    /// The closure is given a copy of the present configuration. What it makes of that is checked as a whole,
    /// by the rules of a new pool, and takes the place of the present one in one step: whoever looks at the
    /// settings sees those of before or those of afterwards, and no mixture. An operation that takes its
    /// time looks several times.
    ///
    /// Most settings hold at once, for connections that exist as well: idle ones that are too old, too long
    /// idle or too many now are closed, in the background where they are very many; missing ones are dialed;
    /// reads and writes that begin from now on have the new timeouts, on connections in use, too. Some hold
    /// for connections that are made from now on. A few cannot change: the upstream, the name, what is
    /// recorded, and the keepalive by which peers are asked.
    #[cfg_attr(
        doc,
        doc = "A [page of the guide](crate::guide::reconfiguring) says it of every setting."
    )]
    ///
    /// Nobody is cut off. A checkout that waits has the time that it began with, and its place in the queue;
    /// what is done with its connection then goes by the settings of that moment. A dial has the time that it
    /// began with, and so has a read or write that waits. But one that waits without a limit has the new one
    /// from now on; a read that waits has its peer asked if `max_silence` is set where it was `None`; and
    /// callers who wait for the first connection fail with the next dial that fails as a wrong setting makes
    /// it, if `first_connect` becomes [`FailFast`](crate::FirstConnect::FailFast).
    ///
    /// What the user of a connection has set himself
    /// ([`Guard::set_read_timeout`](crate::Guard::set_read_timeout)) is left alone.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # fn f(pool: livepool::Pool) -> Result<(), livepool::ConfigError> {
    /// pool.reconfigure(|config| {
    ///     config.timeouts.operation = Some(Duration::from_secs(2));
    ///     config.idle_timeout = Some(Duration::from_secs(60));
    ///     config.min_idle = 4;
    /// })?;
    /// assert_eq!(pool.config().min_idle, 4);
    /// # Ok(()) }
    /// ```
    ///
    /// No lock is held while the closure runs, and if it panics nothing has changed. Where another thread
    /// changes the configuration meanwhile, the closure is called once more, with that one, so that no
    /// change is lost; therefore it must not reconfigure the same pool itself. A change is told as
    /// [`Event::Reconfigured`](crate::Event::Reconfigured), and one that changes nothing is not.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with every problem: a value that breaks a rule, and a setting that cannot change.
    pub fn reconfigure(&self, change: impl FnMut(&mut Config)) -> Result<(), ConfigError> {
        self.handle.0.reconfigure(change)
    }

    /// Changes `max_size`, as [`reconfigure`](Self::reconfigure) does. When it is lowered, idle connections
    /// that are too many are closed, as in [`invalidate`](Self::invalidate), those in use when they come
    /// back; until then no new one is made.
    ///
    /// A `min_idle` that is above it is lowered with it, and comes back with the next `resize` that has room
    /// for it. A [`reconfigure`](Self::reconfigure) that changes `max_size` or `min_idle` ends that: the
    /// `min_idle` that is configured then is the one that counts.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] unless it is from 1 to 65535.
    pub fn resize(&self, max_size: usize) -> Result<(), ConfigError> {
        self.handle.0.resize(max_size)
    }
}

/// The configuration of a pool as its user wrote it.
#[derive(Debug)]
pub(in crate::pool) struct Configured {
    /// Exchanged under this lock together with the settings made of it, and nothing else is done there.
    now: Mutex<Version>,
    made_of: MadeOf,
}

#[derive(Debug, Clone)]
struct Version {
    config: Arc<Config>,
    /// The `min_idle` that was configured: after a `resize` to a smaller pool, it has to do with less.
    min_idle: usize,
}

impl Configured {
    pub(in crate::pool) fn new(config: Config, made_of: MadeOf) -> Self {
        let min_idle = config.min_idle;
        Self { now: Mutex::new(Version { config: Arc::new(config), min_idle }), made_of }
    }

    fn version(&self) -> Version {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Version> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PoolInner {
    /// The configuration in force.
    pub(in crate::pool) fn config(&self) -> Arc<Config> {
        self.configured.version().config
    }

    /// Changes the configuration; see [`Pool::reconfigure`](crate::Pool::reconfigure).
    pub(in crate::pool) fn reconfigure(
        self: &Arc<Self>,
        mut change: impl FnMut(&mut Config),
    ) -> Result<(), ConfigError> {
        self.exchange(|before| {
            let mut config = Config::clone(&before.config);
            change(&mut config);
            let sizes = |config: &Config| (config.max_size, config.min_idle);
            let min_idle = match sizes(&config) == sizes(&before.config) {
                true => before.min_idle,
                // Said by its user, who knows of no other.
                false => config.min_idle,
            };
            (config, min_idle)
        })
    }

    pub(in crate::pool) fn resize(self: &Arc<Self>, size: usize) -> Result<(), ConfigError> {
        check_max_size(size)?;
        self.exchange(|before| {
            // What does not fit any more comes back with the next size that has room for it.
            let min_idle = before.min_idle.min(size);
            let config = Config::clone(&before.config).with_max_size(size).with_min_idle(min_idle);
            (config, before.min_idle)
        })
    }

    /// Puts another version in the place of the present one: of that very one which it was made from.
    fn exchange(
        self: &Arc<Self>,
        mut next: impl FnMut(&Version) -> (Config, usize),
    ) -> Result<(), ConfigError> {
        loop {
            let before = self.configured.version();
            let (config, min_idle) = next(&before);
            let checked = config.check_change(&before.config, self.configured.made_of)?;
            let Some(Change { settings, changed }) = checked else { return Ok(()) };
            let size = config.max_size;
            let has_new_size = size != before.config.max_size;
            if has_new_size {
                // Before the limit is raised: a return must never need memory.
                self.idle_set.grow(size);
            }
            let version = Version { config: Arc::new(config), min_idle };
            let settings = Arc::new(settings);
            let old_settings = {
                let mut now = self.configured.lock();
                if !Arc::ptr_eq(&now.config, &before.config) {
                    continue;
                }
                // `before` keeps the old one, and the old settings are returned: nothing is dropped here.
                *now = version;
                if has_new_size {
                    self.slots.set_limit(size);
                }
                self.live().set(settings)
            };
            drop(old_settings);
            self.follow(&changed);
            return Ok(());
        }
    }

    /// Has all that acts on settings look at them again.
    fn follow(self: &Arc<Self>, changed: &[&'static str]) {
        self.emitter().emit(Event::Reconfigured { changed: changed.into() });
        self.connector.asides().follow();
        if changed.contains(&"max_lifetime") {
            for entry in self.registry.all() {
                self.limit_life(&entry);
            }
        }
        if changed.contains(&"hold_warning") && self.settings().hold_warning.is_none() {
            // Who returns a connection forgets its note only while there are any.
            for entry in self.registry.all() {
                entry.forget_holder();
            }
        }
        if changed.iter().any(|path| OF_WAITING.contains(path)) {
            for entry in self.registry.in_use() {
                entry.look_again();
            }
        }
        // Idle connections that are too many or too old now; and maintenance, which looks at all others,
        // and plans anew.
        self.end_unwanted();
        // The dialer.
        self.slots.announce();
        // There may be room for callers who wait.
        self.serve();
        self.serve_sharers();
    }

    /// Limits the life of a connection that the registry knows as the settings say now.
    pub(in crate::pool) fn limit_life(&self, entry: &Entry) {
        loop {
            // Of two threads that do this, each looks again after it has done it, and each change is
            // counted before its thread does it. All of that is in one order (SeqCst): of a store that is
            // the last one, and of older settings, the look behind it sees that they were changed.
            let changes = self.live().changes();
            entry.limit_life(self.settings().max_lifetime);
            if self.live().changes() == changes {
                return;
            }
        }
    }
}

//! [`LiveSettings`]: the settings in force, which may be changed while they are used.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::cache::Cache;
use arc_swap::{ArcSwap, Guard};

use super::{Order, Settings, Timeouts, Validation};
use crate::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

/// Something may have to be done before a connection is handed out.
const PREPARES: u8 = 1;
/// Whoever takes a connection is noted.
const NOTES_HOLDERS: u8 = 1 << 1;
/// A use has a limit.
const LIMITS_USES: u8 = 1 << 2;
/// The choice among idle connections is not the usual one.
const HAS_ORDER: u8 = 1 << 3;
/// An answer has a limit where a protocol knows what it is owed.
const LIMITS_ANSWERS: u8 = 1 << 4;

/// The settings in force. All that change together are exchanged in one step: who looks has one snapshot,
/// of before or of afterwards.
pub(crate) struct LiveSettings {
    now: Arc<ArcSwap<Settings>>,
    /// What a checkout and a return have to look at the settings for. While a change is under way it
    /// holds what either needs, so that who finds nothing here is right not to look.
    wanted: AtomicU8,
    /// Of the settings, for whoever joins others and looks at nothing else.
    max_shares: AtomicUsize,
    /// How often they were changed.
    changes: AtomicUsize,
}

/// One look at the settings. Not to be kept while something is awaited: for that there is
/// [`LiveSettings::snapshot`].
pub(crate) type SettingsNow = Guard<Arc<Settings>>;

impl LiveSettings {
    pub(crate) fn new(settings: Settings) -> Arc<Self> {
        let wanted = AtomicU8::new(wanted(&settings));
        let max_shares = AtomicUsize::new(settings.max_shares);
        let now = Arc::new(ArcSwap::from_pointee(settings));
        Arc::new(Self { now, wanted, max_shares, changes: AtomicUsize::new(0) })
    }

    pub(crate) fn now(&self) -> SettingsNow {
        self.now.load()
    }

    /// As [`now`](Self::now), to be kept.
    pub(crate) fn snapshot(&self) -> Arc<Settings> {
        self.now.load_full()
    }

    /// How often the settings were changed. Read before they are: a change that comes in between is then
    /// seen again, and not missed. In one order with what is written `SeqCst` between two looks.
    pub(crate) fn changes(&self) -> usize {
        self.changes.load(Ordering::SeqCst)
    }

    /// From now on these. Returns those of before. One call at a time.
    pub(crate) fn set(&self, settings: Arc<Settings>) -> Arc<Settings> {
        let (wanted, max_shares) = (wanted(&settings), settings.max_shares);
        self.wanted.fetch_or(wanted, Ordering::SeqCst);
        let before = self.now.swap(settings);
        self.wanted.store(wanted, Ordering::SeqCst);
        self.max_shares.store(max_shares, Ordering::Release);
        self.changes.fetch_add(1, Ordering::SeqCst);
        before
    }

    #[inline(always)]
    fn wants(&self, what: u8) -> bool {
        self.wanted.load(Ordering::Acquire) & what != 0
    }

    /// Whether a connection may have to be pinged before it is handed out.
    #[inline(always)]
    pub(crate) fn pings(&self) -> bool {
        self.wants(PREPARES) && self.look(|now| now.validation != Validation::Peek)
    }

    /// Whether it is noted who has a connection.
    #[inline(always)]
    pub(crate) fn notes_holders(&self) -> bool {
        self.wants(NOTES_HOLDERS) && self.look(|now| now.hold_warning.is_some())
    }

    /// The limit of a use.
    #[inline(always)]
    pub(crate) fn limit_of_use(&self) -> Option<Duration> {
        if self.wants(LIMITS_USES) { self.look(|now| now.timeouts.operation) } else { None }
    }

    /// The limit of an answer where a protocol knows what it is owed.
    #[inline(always)]
    pub(crate) fn limit_of_answer(&self) -> Option<Duration> {
        if self.wants(LIMITS_ANSWERS) {
            self.look(|now| now.timeouts.read.limit(true))
        } else {
            None
        }
    }

    /// How many callers may share a connection.
    #[inline(always)]
    pub(crate) fn max_shares(&self) -> usize {
        self.max_shares.load(Ordering::Acquire)
    }

    #[inline(always)]
    pub(crate) fn order(&self) -> Order {
        if self.wants(HAS_ORDER) { self.look(|now| now.order) } else { Order::Lifo }
    }

    // Not in the code of a checkout, most of which look at nothing.
    #[cold]
    #[inline(never)]
    fn look<T>(&self, look: impl FnOnce(&Settings) -> T) -> T {
        look(&self.now())
    }
}

fn wanted(settings: &Settings) -> u8 {
    let when = |condition: bool, what: u8| if condition { what } else { 0 };
    when(settings.validation != Validation::Peek, PREPARES)
        | when(settings.hold_warning.is_some(), NOTES_HOLDERS)
        | when(settings.timeouts.operation.is_some(), LIMITS_USES)
        | when(settings.order != Order::Lifo, HAS_ORDER)
        | when(settings.timeouts.read.limit(true).is_some(), LIMITS_ANSWERS)
}

impl fmt::Debug for LiveSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.now().fmt(f)
    }
}

/// The time limits of one stream as they are configured, and whether its peer is watched.
///
/// Those of a pool follow it. A stream keeps the settings that it looked at last and compares a pointer
/// when an operation waits: counting a reference each time would cost it more than all else it does.
pub(crate) enum StreamSettings {
    Fixed(Arc<Timeouts>),
    Live(Cache<Arc<ArcSwap<Settings>>, Arc<Settings>>),
}

impl StreamSettings {
    pub(crate) fn live(settings: &LiveSettings) -> Self {
        Self::Live(Cache::new(Arc::clone(&settings.now)))
    }

    /// Those in force now.
    #[inline]
    pub(crate) fn timeouts(&mut self) -> &Timeouts {
        match self {
            Self::Fixed(timeouts) => timeouts,
            Self::Live(cache) => &cache.load().timeouts,
        }
    }

    /// As [`timeouts`](Self::timeouts), for whoever only has a shared reference.
    pub(crate) fn read_timeouts(&self) -> Timeouts {
        match self {
            Self::Fixed(timeouts) => **timeouts,
            Self::Live(cache) => cache.arc_swap().load().timeouts,
        }
    }

    /// Whether the pool of this stream has silent peers asked.
    #[inline]
    pub(crate) fn asks_silent_peers(&mut self) -> bool {
        match self {
            Self::Fixed(_) => false,
            Self::Live(cache) => cache.load().max_silence.is_some(),
        }
    }
}

impl Clone for StreamSettings {
    fn clone(&self) -> Self {
        match self {
            Self::Fixed(timeouts) => Self::Fixed(Arc::clone(timeouts)),
            Self::Live(cache) => Self::Live(cache.clone()),
        }
    }
}

impl From<Arc<Timeouts>> for StreamSettings {
    fn from(timeouts: Arc<Timeouts>) -> Self {
        Self::Fixed(timeouts)
    }
}

impl fmt::Debug for StreamSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.read_timeouts().fmt(f)
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use super::*;
    use crate::config::Config;

    fn settings(change: impl FnOnce(&mut Config)) -> Arc<Settings> {
        let mut config = Config::new("db:1");
        change(&mut config);
        Arc::new(config.to_settings().unwrap())
    }

    #[test]
    fn what_the_settings_of_before_and_of_afterwards_both_need_is_never_missed() {
        let second = Duration::from_secs(1);
        let one = settings(|config| {
            config.timeouts.operation = Some(second);
            config.hold_warning = Some(second);
        });
        let other = settings(|config| {
            config.timeouts.operation = Some(2 * second);
            config.order = Order::Fifo;
            config.timeouts.read = second.into();
        });
        let live = LiveSettings::new(Settings::clone(&one));
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    assert!(live.limit_of_use().is_some());
                }
            });
            for _ in 0..20_000 {
                drop(live.set(Arc::clone(&other)));
                drop(live.set(Arc::clone(&one)));
            }
            is_over.store(true, Relaxed);
        });
        assert!(live.notes_holders() && live.order() == Order::Lifo);
        assert_eq!((live.changes(), live.limit_of_answer()), (40_000, None));
    }

    #[test]
    fn a_stream_sees_a_change_at_its_next_look() {
        let live = LiveSettings::new(Settings::clone(&settings(|_| ())));
        let mut stream = StreamSettings::live(&live);
        assert_eq!(stream.timeouts().operation, None);
        assert!(stream.asks_silent_peers());
        let operation = Some(Duration::from_secs(1));
        drop(live.set(settings(|config| {
            (config.timeouts.operation, config.max_silence) = (operation, None);
        })));
        assert_eq!(stream.read_timeouts().operation, operation);
        assert_eq!(stream.timeouts().operation, operation);
        assert!(!stream.asks_silent_peers());
    }
}

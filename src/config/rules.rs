//! The rules a configuration has to keep, one function each. A value that the kernel would
//! truncate, ignore or answer with `EINVAL` is refused here, where its field can be named.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::error::Problems;
use super::{
    Backoff, Config, ConfigError, Keepalive, Limits, MetricsConfig, SocketConfig, Timeouts,
    UserTimeout, Validation,
};
use crate::event::Hook;
use crate::net::Endpoint;
use crate::text;

/// The longest name. Metric labels and log lines carry it, so it has to stay readable.
const NAME_BYTES: usize = 255;
/// The range of [`Config::max_size`](super::Config::max_size).
const SIZES: RangeInclusive<usize> = 1..=65_535;
/// The longest duration of all. A longer one is meant as "never", which has a word of its own; and
/// no sum of a moment and a duration exceeds what a clock can count.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// The most callers that may wait, if they are counted: a hundred times as many tasks as a process
/// has memory for.
const MAX_WAITING: usize = 1 << 24;
/// The backlogs that every kernel understands: Linux counted in 16 bits for a long time, and a
/// larger number came out small.
const BACKLOGS: RangeInclusive<u32> = 1..=65_535;
/// The most peers with series of their own: fifty times as many series are what a scrape can carry.
const MAX_PEERS: usize = 1000;
/// The smallest limit of [`Limits`](super::Limits) that any protocol gets on with.
const SHORTEST_LIMIT: usize = 1024;
/// The largest limit: no message of a protocol we know is longer, and no vector on a 32-bit system.
const LONGEST_LIMIT: usize = i32::MAX as usize;
/// `MAX_TCP_KEEPIDLE` and `MAX_TCP_KEEPINTVL` of Linux, in seconds.
const KEEPALIVE_SECONDS: RangeInclusive<u64> = 1..=32_767;
/// At least 2 by RFC 1122 section 4.2.3.6, at most `MAX_TCP_KEEPCNT` of Linux.
const KEEPALIVE_RETRIES: RangeInclusive<u32> = 2..=127;
/// `TCP_USER_TIMEOUT` is an int of milliseconds.
const USER_TIMEOUT_MAX: Duration = Duration::from_millis(i32::MAX as u64);
/// `IFNAMSIZ` and `TCP_CA_NAME_MAX` are both 16 and count the closing zero byte.
const SHORT_NAME_BYTES: RangeInclusive<usize> = 1..=15;

pub(super) fn name(problems: &mut Problems, name: &str) {
    if name.len() > NAME_BYTES {
        // Its length, and not the name itself, which is too long to be read.
        let value = format!("{} bytes", name.len());
        problems.add(
            "name",
            value,
            format!("must be at most {NAME_BYTES} bytes; choose a shorter one"),
        );
    }
}

pub(super) fn upstream(problems: &mut Problems, upstream: &[String]) -> Vec<Endpoint> {
    if upstream.is_empty() {
        problems.add("upstream", "[]", "must name at least one address, such as \"db:5432\"");
    }
    let mut endpoints = Vec::with_capacity(upstream.len());
    for (index, entry) in upstream.iter().enumerate() {
        match entry.parse() {
            // A list with an entry that is not valid is refused as a whole; the others are parsed
            // to find their problems too.
            Ok(endpoint) => endpoints.push(endpoint),
            Err(reason) => {
                problems.add(&format!("upstream[{index}]"), text::redacted(entry), reason)
            }
        }
    }
    endpoints
}

pub(super) fn max_size(problems: &mut Problems, size: usize) {
    if !SIZES.contains(&size) {
        let rule = "must be from 1 to 65535 (memory for all of them is reserved at the start)";
        problems.add("max_size", size, rule);
    }
}

/// Checks a size that is changed later.
pub(crate) fn check_max_size(size: usize) -> Result<(), ConfigError> {
    let mut problems = Problems::default();
    max_size(&mut problems, size);
    problems.or(())
}

pub(super) fn min_idle(problems: &mut Problems, min_idle: usize, max_size: usize) {
    if min_idle > max_size {
        let rule = format!("cannot be above max_size ({max_size}); lower it, or raise max_size");
        problems.add("min_idle", min_idle, rule);
    }
}

pub(super) fn max_connecting(problems: &mut Problems, most: usize) {
    if !SIZES.contains(&most) {
        let rule = "must be at least 1, or nothing is ever connected, and at most 65535; for no \
                    bound of its own, give it the value of max_size";
        problems.add("max_connecting", most, rule);
    }
}

pub(super) fn max_waiting(problems: &mut Problems, most: Option<usize>) {
    if let Some(most) = most.filter(|most| *most > MAX_WAITING) {
        let rule = "must be at most 16777216; for no bound at all, use None (\"unlimited\")";
        problems.add("max_waiting", most, rule);
    }
}

pub(super) fn max_shares(problems: &mut Problems, most: usize) {
    if !SIZES.contains(&most) {
        let rule = "must be from 1 (nobody shares) to 65535";
        problems.add("max_shares", most, rule);
    }
}

pub(super) fn metrics(problems: &mut Problems, metrics: MetricsConfig) {
    if metrics.peers > MAX_PEERS {
        let rule = "must be at most 1000 (each is about 50 series); those beyond share one set";
        problems.add("metrics.peers", metrics.peers, rule);
    }
}

pub(super) fn backoff(problems: &mut Problems, backoff: &Backoff) {
    time(problems, "backoff.first", backoff.first, NO_NEVER);
    time(problems, "backoff.while_waiting", backoff.while_waiting, NO_NEVER);
    if backoff.most < backoff.first {
        let rule = format!("must not be below backoff.first ({:?})", backoff.first);
        problems.add("backoff.most", format!("{:?}", backoff.most), rule);
    } else {
        longest(problems, "backoff.most", backoff.most, NO_NEVER);
    }
}

pub(super) fn validation(problems: &mut Problems, validation: Validation) {
    if let Validation::PingIfIdle(idle) = validation {
        longest(problems, "validation.ping_if_idle", idle, "to ping none, use Peek (\"peek\")");
    }
}

pub(super) fn patience(problems: &mut Problems, patience: Duration) {
    time(problems, "patience", patience, NO_NEVER);
}

/// Checks that a setting which a plain deadpool decides itself, or has no hook for, is at its
/// default.
pub(super) fn for_deadpool(config: &Config) -> Result<(), ConfigError> {
    let default = Config::default();
    let mut problems = Problems::default();
    // Each pair: as it is, and as it has to be.
    macro_rules! default_only {
        ($($($field:ident).+: $rule:literal;)+) => {
            $(if config.$($field).+ != default.$($field).+ {
                let field = stringify!($($field).+).replace(' ', "");
                problems.add(&field, format!("{:?}", config.$($field).+), $rule);
            })+
        };
    }
    default_only! {
        max_size: "is deadpool's: give it to Pool::builder(manager).max_size(..), and leave it out here";
        min_idle: "needs livepool::Pool: a plain deadpool makes no connection ahead of a caller";
        max_waiting: "needs livepool::Pool: a plain deadpool bounds no queue";
        max_shares: "needs livepool::Pool: a plain deadpool shares no connection";
        order: "is deadpool's: give it to Pool::builder(manager).queue_mode(..), and leave it out here";
        hold_warning: "needs livepool::Pool: a plain deadpool does not say who holds what";
        wait_warning: "needs livepool::Pool: in a plain deadpool callers wait for deadpool, which does not say for how long";
    }
    problems.or(())
}

/// Refuses hooks that were given for another protocol, and those of which a plain deadpool has its own.
pub(crate) fn check_hooks(
    is_for_another: bool,
    is_for_deadpool: bool,
    given: &[Hook],
) -> Result<(), ConfigError> {
    let mut problems = Problems::default();
    if is_for_another {
        let rule = "are for the clients of the protocol: give them after protocol(..)";
        problems.add("hooks", "given before protocol(..)", rule);
    }
    let is_deadpools = |hook: &&Hook| matches!(hook, Hook::BeforeCheckout | Hook::AfterReturn);
    for hook in given.iter().filter(is_deadpools).filter(|_| is_for_deadpool) {
        let rule =
            "needs livepool::Pool: give deadpool's own hooks to managed::Pool::builder(manager)";
        problems.add(hook.as_str(), "given", rule);
    }
    problems.or(())
}

/// Checks that a ping was given if the validation needs one.
pub(crate) fn check_ping(validation: Validation, given: bool) -> Result<(), ConfigError> {
    let mut problems = Problems::default();
    if validation != Validation::Peek && !given {
        let rule = "needs a ping: give one to Pool::builder(config).ping(..), or a protocol that has one, or use \"peek\"";
        problems.add("validation", format!("{validation:?}"), rule);
    }
    problems.or(())
}

pub(super) fn dns_refresh(problems: &mut Problems, every: Option<Duration>) {
    let Some(every) = every else { return };
    if every < Duration::from_secs(1) {
        let rule = "must be at least 1s, or None to look names up for dials only";
        problems.add("dns_refresh", format!("{every:?}"), rule);
    }
    longest(problems, "dns_refresh", every, NEVER);
}

pub(super) fn backlog(problems: &mut Problems, backlog: u32) -> i32 {
    if !BACKLOGS.contains(&backlog) {
        let rule = "must be from 1 to 65535 (kernels that count it in 16 bits would take the rest \
                    for a small number); the default is 1024";
        problems.add("backlog", backlog, rule);
    }
    // Above i32::MAX it was just refused, and the number is not used.
    i32::try_from(backlog).unwrap_or(i32::MAX)
}

pub(super) fn no_local_addr(problems: &mut Problems, local_addr: Option<IpAddr>) {
    if let Some(addr) = local_addr {
        let rule =
            "has no meaning for a listener: give the address when it is bound, and leave this out";
        problems.add("socket.local_addr", addr, rule);
    }
}

pub(super) fn timeouts(problems: &mut Problems, timeouts: &Timeouts) {
    // All fields by name: one that is added is not forgotten here.
    let Timeouts {
        checkout,
        connect,
        ping,
        reset,
        hook,
        read,
        write,
        flush,
        shutdown,
        accept,
        operation,
    } = timeouts;
    limit(problems, "timeouts.checkout", *checkout);
    limit(problems, "timeouts.connect", *connect);
    limit(problems, "timeouts.ping", *ping);
    limit(problems, "timeouts.reset", *reset);
    limit(problems, "timeouts.hook", *hook);
    // `true`: the default, whichever it is, is in range.
    limit(problems, "timeouts.read", read.limit(true));
    limit(problems, "timeouts.write", *write);
    limit(problems, "timeouts.flush", *flush);
    limit(problems, "timeouts.shutdown", *shutdown);
    limit(problems, "timeouts.accept", *accept);
    limit(problems, "timeouts.operation", *operation);
}

/// The advice about a time that is too long.
const NEVER: &str = "for no limit at all, use None (\"never\")";
/// The advice where "never" has no word.
const NO_NEVER: &str = "there is none that is never over";

/// Checks an optional time limit.
pub(super) fn limit(problems: &mut Problems, field: &str, limit: Option<Duration>) {
    if let Some(limit) = limit {
        time(problems, field, limit, NEVER);
    }
}

/// Checks a time limit that tokio's timer keeps.
fn time(problems: &mut Problems, field: &str, time: Duration, instead: &str) {
    // tokio's timer counts milliseconds: it would round a shorter time up, and zero is no limit at
    // all.
    if time.is_zero() {
        problems.add(field, "0s", format!("must be at least 1 ms; {instead}"));
    // A rule of its own: a fraction was not meant as "no limit".
    } else if time < Duration::from_millis(1) {
        let rule = "must be at least 1 ms (the timer counts milliseconds)";
        problems.add(field, format!("{time:?}"), rule);
    }
    longest(problems, field, time, instead);
}

/// Checks the upper bound of a duration that the kernel has no bound for.
fn longest(problems: &mut Problems, field: &str, time: Duration, instead: &str) {
    if time > LONGEST {
        problems.add(field, format!("{time:?}"), format!("must be at most 365 days; {instead}"));
    }
}

/// Checks the limits of what a peer may have a client library hold.
pub(super) fn limits(problems: &mut Problems, limits: &Limits) {
    // All fields by name, as in `timeouts`.
    let Limits { message, handshake, retire_above } = limits;
    bytes(problems, "limits.message", *message);
    bytes(problems, "limits.handshake", *handshake);
    bytes(problems, "limits.retire_above", *retire_above);
}

fn bytes(problems: &mut Problems, field: &str, limit: Option<usize>) {
    if let Some(bytes) = limit
        && !(SHORTEST_LIMIT..=LONGEST_LIMIT).contains(&bytes)
    {
        let rule = "must be from 1024 to 2147483647 bytes; for no limit at all, use None \
                    (\"unlimited\")";
        problems.add(field, bytes, rule);
    }
}

pub(super) fn max_bytes(problems: &mut Problems, most: usize) {
    if !(SHORTEST_LIMIT..=LONGEST_LIMIT).contains(&most) {
        problems.add("max_bytes", most, "must be from 1024 to 2147483647 bytes");
    }
}

pub(super) fn max_messages(problems: &mut Problems, most: usize) {
    if !(1..=MAX_WAITING).contains(&most) {
        problems.add("max_messages", most, "must be from 1 to 16777216");
    }
}

pub(super) fn max_silence(problems: &mut Problems, field: &str, silence: Option<Duration>) {
    let Some(silence) = silence else { return };
    longest(problems, field, silence, NEVER);
    if silence < Duration::from_secs(1) {
        let rule = "must be at least 1 s (the kernel sends no probe to a peer it heard within that); \
                    to leave silence to keepalive, set None (\"never\")";
        problems.add(field, format!("{silence:?}"), rule);
    }
}

pub(super) fn keepalive(problems: &mut Problems, keepalive: &Keepalive) {
    let times = [("idle", keepalive.idle), ("interval", keepalive.interval)];
    for (field, time) in times {
        let Some(time) = time else { continue };
        // Fractions are refused, too: the kernel would drop them, and probe sooner than was asked
        // for.
        if time.subsec_nanos() != 0 || !KEEPALIVE_SECONDS.contains(&time.as_secs()) {
            let rule = "must be whole seconds from 1 s to 32767 s (the kernel counts whole seconds); \
                to switch keepalive off, set socket.keepalive to None (\"off\")";
            problems.add(&format!("socket.keepalive.{field}"), format!("{time:?}"), rule);
        }
    }
    if let Some(retries) = keepalive.retries
        && !KEEPALIVE_RETRIES.contains(&retries)
    {
        let rule =
            "must be from 2 to 127 (RFC 1122 4.2.3.6: one lost probe must not end a connection)";
        problems.add("socket.keepalive.retries", retries, rule);
    }
}

pub(super) fn user_timeout(problems: &mut Problems, socket: &SocketConfig) {
    const FIELD: &str = "socket.user_timeout";
    let bounds = socket.keepalive.as_ref().and_then(agreeing_user_timeouts);
    match (socket.user_timeout, bounds) {
        (UserTimeout::Derived, Some((_, most))) if most > USER_TIMEOUT_MAX => {
            let value = format!("derived, {most:?}");
            let rule = "follows from socket.keepalive and must be at most 2147483647 ms (24 days): \
                lower keepalive's values, or set this to Off (\"off\")";
            problems.add(FIELD, value, rule);
        }
        // Before the comparison with keepalive: a value out of range is told its range.
        (UserTimeout::After(limit), _)
            if limit.subsec_nanos() % 1_000_000 != 0
                || limit.is_zero()
                || limit > USER_TIMEOUT_MAX =>
        {
            let rule = "must be whole milliseconds from 1 ms to 2147483647 ms (the kernel counts \
                        milliseconds); to switch it off, use Off (\"off\")";
            problems.add(FIELD, format!("{limit:?}"), rule);
        }
        (UserTimeout::After(limit), Some((above, most))) if limit <= above || limit > most => {
            let rule = format!(
                "contradicts socket.keepalive, whose count of retries it replaces: must be \
                 above {above:?} and at most {most:?}, or change keepalive, or use Derived (\"derived\")"
            );
            problems.add(FIELD, format!("{limit:?}"), rule);
        }
        _ => {}
    }
}

/// The user timeouts that end an idle connection at the same probe as the count of retries: above
/// the first and up to the second. Known only if all three values of keepalive are.
fn agreeing_user_timeouts(keepalive: &Keepalive) -> Option<(Duration, Duration)> {
    let most = keepalive.detection_time()?;
    Some((most.checked_sub(keepalive.interval?)?, most))
}

pub(super) fn buffer(problems: &mut Problems, field: &str, bytes: Option<usize>) {
    // setsockopt(2) takes the size as an int.
    if let Some(bytes) = bytes
        && (bytes == 0 || i32::try_from(bytes).is_err())
    {
        let rule =
            "must be from 1 to 2147483647 bytes; leave it out (None) to let the kernel tune it";
        problems.add(field, bytes, rule);
    }
}

/// Checks a name that goes into a 16-byte field of the kernel.
pub(super) fn short_name(problems: &mut Problems, field: &str, name: Option<&str>) {
    if let Some(name) = name
        && (!SHORT_NAME_BYTES.contains(&name.len()) || name.contains('\0'))
    {
        let rule = "must be 1 to 15 bytes without a zero byte, as the kernel spells it";
        // Not the name itself: a secret may stand at the wrong place.
        problems.add(field, format!("{} bytes", name.len()), rule);
    }
}

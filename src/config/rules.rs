//! The rules a configuration has to keep, one function each. What the kernel would truncate, ignore
//! or answer with `EINVAL` is refused here, where it still has a name.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::error::Problems;
use super::{Backoff, ConfigError, Keepalive, SocketConfig, Timeouts, UserTimeout, Validation};
use crate::net::Endpoint;
use crate::text;

/// Metric labels and log lines carry the name, so it has to stay readable.
const NAME_BYTES: usize = 255;
/// See [`Config::max_size`](super::Config::max_size).
const SIZES: RangeInclusive<usize> = 1..=65_535;
/// `MAX_TCP_KEEPIDLE` and `MAX_TCP_KEEPINTVL` of Linux, in seconds.
const KEEPALIVE_SECONDS: RangeInclusive<u64> = 1..=32_767;
/// At least 2 by RFC 1122 section 4.2.3.6; `MAX_TCP_KEEPCNT` of Linux.
const KEEPALIVE_RETRIES: RangeInclusive<u32> = 2..=127;
/// `TCP_USER_TIMEOUT` is an int of milliseconds.
const USER_TIMEOUT_MAX: Duration = Duration::from_millis(i32::MAX as u64);
/// `IFNAMSIZ` and `TCP_CA_NAME_MAX` are both 16 and count the closing zero byte.
const SHORT_NAME_BYTES: RangeInclusive<usize> = 1..=15;

pub(super) fn name(problems: &mut Problems, name: &str) {
    if name.len() > NAME_BYTES {
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
            Ok(endpoint) => endpoints.push(endpoint),
            Err(reason) => problems.add(&format!("upstream[{index}]"), text::given(entry), reason),
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

/// For a size that is changed later.
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
    if most == 0 {
        problems.add("max_connecting", most, "must be at least 1, or nothing is ever connected");
    }
}

pub(super) fn backoff(problems: &mut Problems, backoff: &Backoff) {
    limit(problems, "backoff.first", Some(backoff.first));
    if backoff.most < backoff.first {
        let rule = format!("must not be below backoff.first ({:?})", backoff.first);
        problems.add("backoff.most", format!("{:?}", backoff.most), rule);
    }
}

/// A ping that nobody gave cannot be made.
pub(crate) fn check_ping(validation: Validation, given: bool) -> Result<(), ConfigError> {
    let mut problems = Problems::default();
    if validation != Validation::Peek && !given {
        let rule = "needs a ping: give one to Pool::builder(config).ping(..), or a protocol that has one, or use \"peek\"";
        problems.add("validation", format!("{validation:?}"), rule);
    }
    problems.or(())
}

pub(super) fn dns_refresh(problems: &mut Problems, every: Option<Duration>) {
    if let Some(every) = every.filter(|every| *every < Duration::from_secs(1)) {
        let rule = "must be at least 1s, or None to look names up for dials only";
        problems.add("dns_refresh", format!("{every:?}"), rule);
    }
}

pub(super) fn backlog(problems: &mut Problems, backlog: u32) -> i32 {
    match i32::try_from(backlog) {
        Ok(backlog @ 1..) => backlog,
        _ => {
            problems.add("backlog", backlog, "must be from 1 to 2147483647; the default is 1024");
            0
        }
    }
}

pub(super) fn no_local_addr(problems: &mut Problems, local_addr: Option<IpAddr>) {
    if let Some(addr) = local_addr {
        let rule =
            "has no meaning for a listener: give the address when it is bound, and leave this out";
        problems.add("socket.local_addr", addr, rule);
    }
}

pub(super) fn timeouts(problems: &mut Problems, timeouts: &Timeouts) {
    let Timeouts { checkout, connect, ping, reset, read, write, flush, shutdown, accept } =
        timeouts;
    limit(problems, "timeouts.checkout", *checkout);
    limit(problems, "timeouts.connect", *connect);
    limit(problems, "timeouts.ping", *ping);
    limit(problems, "timeouts.reset", *reset);
    limit(problems, "timeouts.read", *read);
    limit(problems, "timeouts.write", *write);
    limit(problems, "timeouts.flush", *flush);
    limit(problems, "timeouts.shutdown", *shutdown);
    limit(problems, "timeouts.accept", *accept);
}

/// A time limit of ours. tokio's timer counts milliseconds.
pub(super) fn limit(problems: &mut Problems, field: &str, limit: Option<Duration>) {
    match limit {
        Some(limit) if limit.is_zero() => {
            let rule = "must be at least 1 ms; for no limit at all, use None (\"never\")";
            problems.add(field, "0s", rule);
        }
        Some(limit) if limit < Duration::from_millis(1) => {
            problems.add(
                field,
                format!("{limit:?}"),
                "must be at least 1 ms (the timer counts milliseconds)",
            );
        }
        _ => {}
    }
}

pub(super) fn max_silence(problems: &mut Problems, silence: Option<Duration>) {
    if let Some(silence) = silence
        && silence < Duration::from_secs(1)
    {
        let rule = "must be at least 1 s (the kernel sends no probe to a peer it heard within that); \
                    to leave silence to keepalive, set None (\"never\")";
        problems.add("max_silence", format!("{silence:?}"), rule);
    }
}

pub(super) fn keepalive(problems: &mut Problems, keepalive: &Keepalive) {
    let times = [("idle", keepalive.idle), ("interval", keepalive.interval)];
    for (field, time) in times {
        let Some(time) = time else { continue };
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
    let bounds = socket.keepalive.as_ref().and_then(agreeing);
    match (socket.user_timeout, bounds) {
        (UserTimeout::Derived, Some((_, most))) if most > USER_TIMEOUT_MAX => {
            let value = format!("derived, {most:?}");
            let rule = "follows from socket.keepalive and must be at most 2147483647 ms (24 days): \
                lower keepalive's values, or set this to Off (\"off\")";
            problems.add(FIELD, value, rule);
        }
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
/// the first and up to the second. `None` unless all of keepalive is known.
fn agreeing(keepalive: &Keepalive) -> Option<(Duration, Duration)> {
    let most = keepalive.detection_time()?;
    Some((most.checked_sub(keepalive.interval?)?, most))
}

pub(super) fn buffer(problems: &mut Problems, field: &str, bytes: Option<usize>) {
    if let Some(bytes) = bytes
        && (bytes == 0 || i32::try_from(bytes).is_err())
    {
        let rule =
            "must be from 1 to 2147483647 bytes; leave it out (None) to let the kernel tune it";
        problems.add(field, bytes, rule);
    }
}

/// A name that goes into a 16-byte field of the kernel.
pub(super) fn short_name(problems: &mut Problems, field: &str, name: Option<&str>) {
    if let Some(name) = name
        && (!SHORT_NAME_BYTES.contains(&name.len()) || name.contains('\0'))
    {
        let rule = "must be 1 to 15 bytes without a zero byte, as the kernel spells it";
        problems.add(field, format!("{name:?}"), rule);
    }
}

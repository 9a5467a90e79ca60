//! File descriptors: as many as a test needs, or fewer than a program would like.

use rlimit::Resource;

use super::not_run::not_run;

/// Whether this process may have so many descriptors: raises its soft limit if it is lower, as every
/// user may up to the hard limit. If that is too low, the named test cannot run, and this says so.
/// The limit is for all tests of one process together, and for the processes they start.
pub fn may_have(count: u64, test: &str) -> bool {
    let allowed = rlimit::increase_nofile_limit(count).unwrap();
    if allowed < count {
        let why = format!(
            "it needs {count} file descriptors, and the hard limit is {allowed} (ulimit -Hn); \
             raise that"
        );
        not_run(test, &why);
    }
    allowed >= count
}

/// Allows this process so many descriptors and no more, and returns how many it was allowed before. Only
/// for a test that is [`alone`].
///
/// [`alone`]: super::alone::alone
pub fn allow_only(count: u64) -> u64 {
    let (before, hard) = Resource::NOFILE.get().unwrap();
    Resource::NOFILE.set(count, hard).unwrap();
    before
}

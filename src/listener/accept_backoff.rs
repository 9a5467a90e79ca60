//! [`AcceptBackoff`]: the errors of accept that pass, and the wait until they have. Pure.

use std::io;
use std::time::Duration;

/// The wait after the first lack of descriptors or memory.
const FIRST: Duration = Duration::from_millis(10);
/// The longest wait, to which the first one doubles.
const LONGEST: Duration = Duration::from_secs(1);

/// The backoff of a single wait for a client, over all errors of accept.
#[derive(Debug, Default)]
pub(super) struct AcceptBackoff {
    last: Option<Duration>,
}

impl AcceptBackoff {
    /// The wait before the next try; `None` if the listening socket is broken for good.
    pub(super) fn next(&mut self, error: &io::Error) -> Option<Duration> {
        if is_fatal(error) {
            return None;
        }
        // The error concerns the client that was next in line (accept(2) hands over errors already
        // pending on it), and is over once it was reported.
        if !is_exhaustion(error) {
            return Some(Duration::ZERO);
        }
        // A lack of descriptors, memory or buffers passes when something is closed: a busy loop
        // would only keep that from happening.
        let wait = self.last.map_or(FIRST, |last| (last * 2).min(LONGEST));
        self.last = Some(wait);
        Some(wait)
    }
}

/// Whether the error says only that the client has gone before it was accepted.
pub(super) fn is_client_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, NotConnected};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | NotConnected)
}

/// Whether the process or the system is out of descriptors, memory or buffers.
fn is_exhaustion(error: &io::Error) -> bool {
    if error.kind() == io::ErrorKind::OutOfMemory {
        return true;
    }
    #[cfg(unix)]
    return error.raw_os_error().is_some_and(|code| {
        [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM].contains(&code)
    });
    // WSAEMFILE, WSAENOBUFS.
    #[cfg(not(unix))]
    return error.raw_os_error().is_some_and(|code| [10024, 10055].contains(&code));
}

/// Whether the descriptor is not a listening socket (any more), or its runtime has ended.
fn is_fatal(error: &io::Error) -> bool {
    #[cfg(unix)]
    let broken = error.raw_os_error().is_some_and(|code| {
        [libc::EBADF, libc::EINVAL, libc::ENOTSOCK, libc::EFAULT].contains(&code)
    });
    // WSAEBADF, WSAEFAULT, WSAEINVAL, WSAENOTSOCK.
    #[cfg(not(unix))]
    let broken =
        error.raw_os_error().is_some_and(|code| [10009, 10014, 10022, 10038].contains(&code));
    // tokio's own errors carry no number: its driver is gone.
    broken || error.raw_os_error().is_none() && error.kind() == io::ErrorKind::Other
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn wait(backoff: &mut AcceptBackoff, code: i32) -> Option<Duration> {
        backoff.next(&io::Error::from_raw_os_error(code))
    }

    #[test]
    fn a_client_that_went_away_is_no_trouble_at_all() {
        for code in [libc::ECONNABORTED, libc::ECONNRESET, libc::ENOTCONN] {
            assert!(is_client_gone(&io::Error::from_raw_os_error(code)));
        }
        for code in [libc::EMFILE, libc::EPERM, libc::EBADF, libc::EINVAL] {
            assert!(!is_client_gone(&io::Error::from_raw_os_error(code)));
        }
    }

    #[test]
    fn what_concerns_one_client_needs_no_pause() {
        let mut backoff = AcceptBackoff::default();
        for code in [libc::EPROTO, libc::EPERM, libc::ENETDOWN, libc::EINTR] {
            assert_eq!(wait(&mut backoff, code), Some(Duration::ZERO));
        }
    }

    #[test]
    fn being_out_of_descriptors_backs_off_and_doubles_to_a_second() {
        let mut backoff = AcceptBackoff::default();
        let waits: Vec<_> =
            (0..9).map(|_| wait(&mut backoff, libc::EMFILE).unwrap().as_millis()).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
    }

    #[test]
    fn a_broken_listening_socket_ends_the_loop() {
        assert_eq!(wait(&mut AcceptBackoff::default(), libc::EBADF), None);
        assert_eq!(wait(&mut AcceptBackoff::default(), libc::EINVAL), None);
    }
}

//! For a test that changes or counts what a whole process shares, such as file descriptors.
#![allow(unsafe_code)]

use std::os::unix::process::CommandExt;
use std::process::Command;

const MARK: &str = "LIVEPOOL_TEST_ALONE";

/// Whether this process runs the named test and nothing else. If not, it starts one that does, and
/// fails when that fails. A test that needs it begins with
///
/// ```ignore
/// if !alone("the_name_of_the_test") { return; }
/// ```
pub fn alone(test: &str) -> bool {
    alone_after(test, |_| {})
}

/// Whether this process was started by one of these functions.
pub fn is_alone() -> bool {
    std::env::var_os(MARK).is_some()
}

/// As [`alone`], in a network namespace of its own whose loopback is down. `None`: this machine does
/// not allow it.
pub fn alone_in_a_network(test: &str) -> Option<bool> {
    if is_alone() {
        return Some(alone(test));
    }
    if !can_unshare() {
        return None;
    }
    Some(alone_after(test, |command| {
        // SAFETY: see `unshare_network`: it only makes system calls.
        unsafe { command.pre_exec(unshare_network) };
    }))
}

fn alone_after(test: &str, prepare: impl FnOnce(&mut Command)) -> bool {
    if std::env::var_os(MARK).is_some_and(|name| name == test) {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(MARK, test);
    prepare(&mut command);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    print!("{text}");
    eprint!("{errors}");
    assert!(output.status.success(), "{test} failed in its own process");
    assert!(text.contains("1 passed"), "no test is called {test}");
    false
}

fn can_unshare() -> bool {
    let mut command = Command::new("/proc/self/exe");
    command.arg("--list").stdout(std::process::Stdio::null());
    // SAFETY: as in `alone_in_a_network`.
    unsafe { command.pre_exec(unshare_network) };
    command.status().is_ok_and(|status| status.success())
}

/// Runs in the child between fork and exec, where only async-signal-safe calls are allowed: these
/// are plain system calls on constants, and nothing allocates.
pub fn unshare_network() -> std::io::Result<()> {
    // SAFETY: unshare(2) takes flags and touches no memory of ours.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0 {
        return Ok(());
    }
    // SAFETY: geteuid(2) cannot fail.
    let user = unsafe { libc::geteuid() };
    // SAFETY: as above.
    if unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    // Root of the new namespace, or exec would take the capabilities away.
    map_to_root(user)
}

/// Writes `0 <user> 1` to `/proc/self/uid_map`.
fn map_to_root(user: libc::uid_t) -> std::io::Result<()> {
    let mut line = *b"0 0000000000 1\n";
    let mut rest = user;
    for digit in line[2..12].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    // SAFETY: open(2) reads the path, a constant that ends with a zero byte.
    let fd = unsafe { libc::open(c"/proc/self/uid_map".as_ptr(), libc::O_WRONLY) };
    // SAFETY: write(2) reads `line.len()` bytes from a live array.
    let wrote = unsafe { libc::write(fd, line.as_ptr().cast(), line.len()) };
    // SAFETY: the descriptor was opened above and is used by nobody else. A failed open gave -1,
    // which close refuses.
    unsafe { libc::close(fd) };
    if wrote == line.len() as isize { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Switches the loopback of a new network namespace on.
pub fn loopback_up() {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
    // SAFETY: an `ifreq` is plain data, for which all zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one `ifreq` from the pointer (netdevice(7)), which is live on this
    // stack; the descriptor is open.
    let result = unsafe { libc::ioctl(fd, libc::SIOCSIFFLAGS, &raw const request) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

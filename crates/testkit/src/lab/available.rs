//! Whether this machine allows the lab.
#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::super::alone::unshare_network;
use super::interface;

/// `Err`: why not, for a reader.
pub(super) fn available() -> Result<(), String> {
    static FOUND: OnceLock<Result<(), String>> = OnceLock::new();
    FOUND.get_or_init(rehearse).clone()
}

fn rehearse() -> Result<(), String> {
    in_a_child(unshare_network).map_err(|error| {
        format!(
            "this process may not make a network namespace, neither at once nor in a user \
             namespace (unshare: {error}); run it as root, or allow user namespaces"
        )
    })?;
    in_a_child(|| unshare_network().and_then(|()| interface::rehearse())).map_err(|error| {
        format!("no TUN device can be made in a network namespace (/dev/net/tun: {error})")
    })
}

/// Starts this program after `step`, and has it end without running a test.
fn in_a_child(step: fn() -> io::Result<()>) -> io::Result<()> {
    let mut command = Command::new("/proc/self/exe");
    command.arg("--list").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: both steps above make system calls on constants and their own stack, and nothing
    // else: they are allowed between fork and exec.
    unsafe { command.pre_exec(step) };
    command.status().map(|_| ())
}

//! Is this connection alive? The rungs that answer, cheapest first.
//!
//! 0. *flag*: the [sentinel](sentinel) has already been told by the reactor that something happened.
//! 1. *peek*: `recv(MSG_PEEK | MSG_DONTWAIT)`, the authority. It asks the kernel, not tokio's cached
//!    readiness, which may lag by milliseconds on a busy runtime.
//!
//! What no rung here can see is a FIN that is still on its way, and a peer that vanished without
//! one: the kernel's keepalive and user timeout stand behind those.

mod ladder;
mod probe;
mod sentinel;
mod verdict;

pub(crate) use ladder::check;
pub(crate) use probe::{Probe, Step};
use sentinel::runtime_gone;
pub(crate) use sentinel::{Parked, park};
pub(crate) use verdict::Verdict;

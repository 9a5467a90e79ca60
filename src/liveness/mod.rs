//! Is this connection alive? The rungs that answer, cheapest first.
//!
//! 0. *flag*: the [sentinel](sentinel) has already been told by the reactor that something happened. It
//!    only leads to a look.
//! 1. *peek*: `recv(MSG_PEEK | MSG_DONTWAIT)`, the authority. The peek asks the kernel, not tokio's
//!    cached readiness, which may lag by milliseconds on a busy runtime.
//! 2. [*life*](Life): `TCP_INFO` knows how long ago the peer's kernel was last heard.
//! 3. [*probe*](probe): [keepalive probes](session) on demand ask a silent peer, until an answer or a
//!    verdict.
//!
//! A checkout takes the first two, and the third where the last proof of life is too old.
//!
//! Where the system has no `TCP_INFO` (anything but Linux and Android), the rungs 2 and 3 answer
//! that they do not know, and the peek decides; the kernel's keepalive and user timeout stand
//! behind it. No rung sees a FIN that is still on its way, or a process that hangs while its kernel
//! answers.

mod probe;
mod sentinel;
mod session;
mod verdict;

pub(crate) use probe::{Probe, Step, TICK, UNASKED};
pub(crate) use sentinel::{Parked, park, runtime_gone};
pub(crate) use session::ProbeSession;
pub(crate) use verdict::{Life, Liveness, check};

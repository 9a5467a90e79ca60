//! The rungs that never wait, which every idle connection has to pass before it is handed out.

use std::task::Waker;

use super::{Verdict, runtime_gone};
use crate::event::CloseReason;
use crate::net::Io;

/// Checks an idle connection, and leaves `waker` in its reader slot.
pub(crate) fn check(io: &Io, waker: &Waker) -> Verdict {
    if runtime_gone(io, waker) {
        return Verdict::Dead(CloseReason::RuntimeGone);
    }
    Verdict::of_peek(io.peek())
}

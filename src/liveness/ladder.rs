//! The rungs that never wait, which every idle connection has to pass before it is handed out.

use std::task::Waker;

use super::{Verdict, runtime_gone};
use crate::event::CloseReason;
use crate::net::Io;

/// Checks an idle connection. Where its sentinel has fired that may be for the end of its runtime,
/// which no peek shows: then `waker` is left in its reader slot.
#[inline(always)]
pub(crate) fn check(io: &Io, has_fired: bool, waker: &Waker) -> Verdict {
    if has_fired && runtime_gone(io, waker) {
        return Verdict::Dead(CloseReason::RuntimeGone);
    }
    Verdict::of_peek(io.peek())
}

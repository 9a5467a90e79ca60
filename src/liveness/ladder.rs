//! The rungs that never wait, which every idle connection has to pass before it is handed out.

use super::{Verdict, runtime_gone};
use crate::event::CloseReason;
use crate::net::Io;

/// Checks an idle connection.
pub(crate) fn check(io: &Io) -> Verdict {
    if runtime_gone(io) {
        return Verdict::Dead(CloseReason::RuntimeGone);
    }
    Verdict::of_peek(io.peek())
}

//! The ladder: which rungs an idle connection has to pass before it is handed out.

use super::{Verdict, runtime_gone};
use crate::config::Validation;
use crate::event::CloseReason;
use crate::net::Io;

/// Checks an idle connection. Never waits.
pub(crate) fn check(io: &Io, validation: Validation) -> Verdict {
    if runtime_gone(io) {
        return Verdict::Dead(CloseReason::RuntimeGone);
    }
    match validation {
        Validation::Peek => Verdict::of_peek(io.peek()),
    }
}

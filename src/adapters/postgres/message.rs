//! What of the message under way has to be read, in either direction; everything else is skipped.

use super::fields::Fields;
use super::opening::Opening;
use super::parameter::Parameter;

/// What of the message that is being sent has to be read.
#[derive(Debug)]
pub(super) enum Sending {
    /// Its first four bytes, and how many of them came.
    Startup([u8; 4], usize),
    Query(Opening),
    Parse(Opening),
    Nothing,
}

/// What of the message that is being received has to be read.
#[derive(Debug)]
pub(super) enum Receiving {
    Error(Fields),
    Parameter(Parameter),
    /// What a statement was that is complete.
    Complete(Parameter),
    Ready,
    Nothing,
}

impl Sending {
    pub(super) fn read(&mut self, body: &[u8]) {
        match self {
            Self::Startup(code, have) => {
                for &byte in body {
                    let Some(place) = code.get_mut(*have) else { return };
                    *place = byte;
                    *have += 1;
                }
            }
            Self::Query(text) | Self::Parse(text) => text.read(body),
            Self::Nothing => {}
        }
    }
}

//! What of the message under way has to be read, in either direction; everything else is skipped.

use super::fields::Fields;
use super::opening::{Name, Opening};
use super::parameter::Parameter;

/// What of the message that is being sent has to be read.
#[derive(Debug)]
pub(super) enum Sending {
    /// Its first four bytes, and how many of them came.
    Startup([u8; 4], usize),
    Query(Opening),
    Parse(Opening),
    /// A Bind or a Close, whose statement is looked for.
    Bind(Named),
    Close(Named),
    Nothing,
}

/// The name of a statement that something else stands in front of.
#[derive(Debug)]
pub(super) struct Named {
    front: Front,
    name: Name,
}

/// What stands in front of it.
#[derive(Debug)]
enum Front {
    /// The name of a portal, with a zero behind.
    Portal,
    /// An `S`. With anything else it is no statement's name.
    Kind,
    Nothing,
    /// The name was read.
    All,
}

impl Named {
    pub(super) fn of_bind() -> Self {
        Self { front: Front::Portal, name: Name::default() }
    }

    pub(super) fn of_close() -> Self {
        Self { front: Front::Kind, name: Name::default() }
    }

    fn read(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.front = match (&self.front, byte) {
                (Front::All, _) => return,
                (Front::Portal, 0) | (Front::Kind, b'S') => Front::Nothing,
                (Front::Portal, _) => Front::Portal,
                (Front::Kind, _) | (Front::Nothing, 0) => Front::All,
                (Front::Nothing, byte) => {
                    self.name.read(byte);
                    Front::Nothing
                }
            };
        }
    }

    /// Its number, if the client library made it.
    pub(super) fn number(&self) -> Option<u64> {
        self.name.number()
    }
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
            Self::Bind(statement) | Self::Close(statement) => statement.read(body),
            Self::Nothing => {}
        }
    }
}

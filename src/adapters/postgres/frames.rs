//! Where a message of PostgreSQL's protocol ends. Bytes come in pieces of any size; none are kept but
//! the beginning of each message.
//!
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html>

/// As much of a message as anybody looks at: an error's code comes within it.
const HEAD: usize = 512;

/// A length that no message has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lost;

/// Splits a direction of the stream into messages.
#[derive(Debug)]
pub(super) struct Frames {
    /// The first message of a client has no kind, only a length.
    is_untyped: bool,
    header: [u8; 5],
    header_length: usize,
    /// Bytes of the message that are still to come.
    left: usize,
    head: Vec<u8>,
}

impl Frames {
    /// What a server sends.
    pub(super) fn typed() -> Self {
        Self { is_untyped: false, header: [0; 5], header_length: 0, left: 0, head: Vec::new() }
    }

    /// What a client sends from the start.
    pub(super) fn from_startup() -> Self {
        Self { is_untyped: true, ..Self::typed() }
    }

    #[cfg(test)]
    pub(super) fn is_small(&self) -> bool {
        self.head.capacity() <= 2 * HEAD
    }

    /// Whether no message is half over.
    pub(super) fn is_between(&self) -> bool {
        self.header_length == 0
    }

    /// Calls `done` for every message that is complete, with its kind (0 for none) and beginning.
    pub(super) fn read(
        &mut self,
        mut bytes: &[u8],
        mut done: impl FnMut(u8, &[u8]),
    ) -> Result<(), Lost> {
        while !bytes.is_empty() {
            let wanted = if self.is_untyped { 4 } else { 5 };
            if self.header_length < wanted {
                let count = bytes.len().min(wanted - self.header_length);
                self.header[self.header_length..self.header_length + count]
                    .copy_from_slice(&bytes[..count]);
                self.header_length += count;
                bytes = &bytes[count..];
                if self.header_length == wanted {
                    self.left = self.length(wanted)?;
                }
            } else {
                let count = bytes.len().min(self.left);
                let kept = count.min(HEAD - self.head.len());
                self.head.extend_from_slice(&bytes[..kept]);
                self.left -= count;
                bytes = &bytes[count..];
            }
            if self.header_length == wanted && self.left == 0 {
                let kind = if self.is_untyped { 0 } else { self.header[0] };
                done(kind, &self.head);
                self.is_untyped = false;
                self.header_length = 0;
                self.head.clear();
            }
        }
        Ok(())
    }

    /// What follows the header; the length counts itself.
    fn length(&self, wanted: usize) -> Result<usize, Lost> {
        let length = self.header[wanted - 4..wanted].try_into().map_err(|_| Lost)?;
        let length = i32::from_be_bytes(length);
        usize::try_from(length).ok().and_then(|length| length.checked_sub(4)).ok_or(Lost)
    }
}

//! [`Frames`]: where messages begin and end, in bytes that come in pieces. Pure.

/// Splits one direction of the stream into messages, and keeps nothing of them but the header.
#[derive(Debug)]
pub(super) struct Frames {
    /// Messages begin with a byte that says what they are. The client's first ones do not.
    typed: bool,
    header: [u8; 5],
    have: usize,
    /// What is to come of the body; `None` before it.
    left: Option<usize>,
}

/// What the next bytes are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// A message begins, with this type (zero if it has none) and this many bytes after its header.
    Start {
        tag: u8,
        len: usize,
    },
    /// A part of its body, never an empty one.
    Body(&'a [u8]),
    End,
    /// No message has such a length. What comes after it means nothing.
    Broken,
}

impl Frames {
    pub(super) fn typed() -> Self {
        Self { typed: true, header: [0; 5], have: 0, left: None }
    }

    pub(super) fn untyped() -> Self {
        Self { typed: false, ..Self::typed() }
    }

    /// From the next message on, messages say what they are.
    pub(super) fn become_typed(&mut self) {
        self.typed = true;
    }

    /// A message has begun and not ended.
    pub(super) fn is_midway(&self) -> bool {
        self.have > 0
    }

    /// Takes the next piece off `bytes`; `None` if more have to come.
    pub(super) fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<Piece<'a>> {
        match self.left {
            None => self.start(bytes),
            Some(0) => {
                self.have = 0;
                self.left = None;
                Some(Piece::End)
            }
            Some(_) if bytes.is_empty() => None,
            Some(left) => {
                let (body, rest) = bytes.split_at(left.min(bytes.len()));
                *bytes = rest;
                self.left = Some(left - body.len());
                Some(Piece::Body(body))
            }
        }
    }

    fn start<'a>(&mut self, bytes: &mut &[u8]) -> Option<Piece<'a>> {
        let size = 4 + usize::from(self.typed);
        let (header, rest) = bytes.split_at(bytes.len().min(size - self.have));
        self.header[self.have..self.have + header.len()].copy_from_slice(header);
        self.have += header.len();
        *bytes = rest;
        if self.have < size {
            return None;
        }
        let [a, b, c, d, e] = self.header;
        let (tag, len) = if self.typed { (a, [b, c, d, e]) } else { (0, [a, b, c, d]) };
        // The length counts its own four bytes.
        match usize::try_from(i32::from_be_bytes(len)).ok().and_then(|len| len.checked_sub(4)) {
            Some(len) => {
                self.left = Some(len);
                Some(Piece::Start { tag, len })
            }
            None => Some(Piece::Broken),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Piece::{Body, Broken, End, Start};

    #[test]
    fn a_message_without_a_body_ends_where_it_begins() {
        let mut frames = Frames::typed();
        let mut bytes: &[u8] = b"S\0\0\0\x04d\0\0\0\x06ab";
        let pieces: Vec<_> = std::iter::from_fn(|| frames.next(&mut bytes)).collect();
        let start = |tag, len| Start { tag, len };
        assert_eq!(pieces, [start(b'S', 0), End, start(b'd', 2), Body(b"ab"), End]);
        assert!(!frames.is_midway());
    }

    #[test]
    fn the_first_messages_of_a_client_have_no_type() {
        let mut frames = Frames::untyped();
        let mut bytes: &[u8] = b"\0\0\0\x05x";
        assert_eq!(frames.next(&mut bytes), Some(Start { tag: 0, len: 1 }));
    }

    #[test]
    fn a_length_that_cannot_be_is_not_believed() {
        for header in [b"X\0\0\0\x03", b"X\xff\xff\xff\xff"] {
            assert_eq!(Frames::typed().next(&mut &header[..]), Some(Broken));
        }
    }
}

//! [`Line`] and [`Word`]: short texts. Pure.

use std::fmt;

/// A line, of which no more than `MOST` bytes are taken.
#[derive(Debug)]
pub(super) struct Line<const MOST: usize> {
    text: [u8; MOST],
    len: usize,
}

/// How far a line has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// It goes on.
    Part,
    Whole,
    TooLong,
}

impl<const MOST: usize> Line<MOST> {
    pub(super) fn new() -> Self {
        Self { text: [0; MOST], len: 0 }
    }

    /// Takes the rest of the line off `bytes`, up to the byte that ends it.
    pub(super) fn read(&mut self, bytes: &mut &[u8]) -> Read {
        while let Some((&byte, rest)) = bytes.split_first() {
            *bytes = rest;
            if byte == b'\n' {
                return Read::Whole;
            }
            let Some(place) = self.text.get_mut(self.len) else { return Read::TooLong };
            *place = byte;
            self.len += 1;
        }
        Read::Part
    }

    /// What stands before CR LF; `None` if CR is missing.
    pub(super) fn strict(&self) -> Option<&[u8]> {
        self.text[..self.len].strip_suffix(b"\r")
    }

    /// What stands before LF, and before CR if it is there.
    pub(super) fn lenient(&self) -> &[u8] {
        self.strict().unwrap_or(&self.text[..self.len])
    }
}

/// A number that is not negative, in decimal digits and nothing else.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    let is_plain = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    is_plain.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}

/// A word, or as much of it as is needed to know it.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Word {
    text: [u8; 16],
    len: usize,
}

impl Word {
    pub(super) fn of(text: &[u8]) -> Self {
        let mut word = Self { len: text.len().min(16), ..Self::default() };
        word.text[..word.len].copy_from_slice(&text[..word.len]);
        word
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.text[..self.len]
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_bytes().escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_as_long_as_is_allowed_and_no_longer() {
        let mut line = Line::<4>::new();
        assert_eq!(line.read(&mut &b"12"[..]), Read::Part);
        let mut bytes = &b"3\r\nrest"[..];
        assert_eq!(line.read(&mut bytes), Read::Whole);
        assert_eq!((line.strict(), bytes), (Some(&b"123"[..]), &b"rest"[..]));
        assert_eq!(Line::<4>::new().read(&mut &b"12345"[..]), Read::TooLong);

        let mut bare = Line::<4>::new();
        bare.read(&mut &b"12\n"[..]);
        assert_eq!((bare.strict(), bare.lenient()), (None, &b"12"[..]));
    }

    #[test]
    fn a_number_is_digits() {
        let table: [(&[u8], Option<u64>); 6] = [
            (b"0", Some(0)),
            (b"12", Some(12)),
            (b"", None),
            (b"-1", None),
            (b"+1", None),
            (b"99999999999999999999", None),
        ];
        for (text, expected) in table {
            assert_eq!(number(text), expected);
        }
    }
}

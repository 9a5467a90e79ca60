//! [`PartialLine`] and [`Word`]: short texts. Pure.

use std::fmt;

/// A line, of which no more than `MAX` bytes are taken.
#[derive(Debug)]
pub(super) struct PartialLine<const MAX: usize> {
    text: [u8; MAX],
    len: usize,
}

/// How far a line has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LineRead<'a> {
    /// The end of the line has not come.
    Part,
    /// The line, without its LF.
    Whole(&'a [u8]),
    TooLong,
}

impl<const MAX: usize> PartialLine<MAX> {
    pub(super) fn new() -> Self {
        Self { text: [0; MAX], len: 0 }
    }

    /// Takes the rest of the line off `bytes`, LF included. A line that comes in one piece is not
    /// copied.
    pub(super) fn read<'a, 'b: 'a>(&'a mut self, bytes: &mut &'b [u8]) -> LineRead<'a> {
        let room = MAX - self.len;
        let end = bytes.iter().take(room + 1).position(|byte| *byte == b'\n');
        if end.is_none() && bytes.len() > room {
            *bytes = &bytes[room + 1..];
            return LineRead::TooLong;
        }
        let (part, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
        *bytes = rest.get(1..).unwrap_or_default();
        if end.is_some() && self.len == 0 {
            return LineRead::Whole(part);
        }
        self.text[self.len..][..part.len()].copy_from_slice(part);
        self.len += part.len();
        if end.is_some() { LineRead::Whole(&self.text[..self.len]) } else { LineRead::Part }
    }
}

/// The line without its CR; `None` if CR is missing.
pub(super) fn strict(line: &[u8]) -> Option<&[u8]> {
    line.strip_suffix(b"\r")
}

/// The line without its CR, if it has one.
pub(super) fn lenient(line: &[u8]) -> &[u8] {
    strict(line).unwrap_or(line)
}

/// A number that is not negative, in decimal digits and nothing else.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    let and_digit = |number: u64, byte: &u8| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number.checked_mul(10)?.checked_add(digit.into())
    };
    if text.is_empty() { None } else { text.iter().try_fold(0, and_digit) }
}

/// The first 16 bytes of a word, enough to recognise it.
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
        for pieces in
            [&[&b"123\r\nrest"[..]][..], &[b"12", b"", b"3\r\nrest"], &[b"123\r", b"\nrest"]]
        {
            let mut line = PartialLine::<4>::new();
            let (last, parts) = pieces.split_last().unwrap();
            for part in parts {
                assert_eq!(line.read(&mut &part[..]), LineRead::Part);
            }
            let mut bytes = *last;
            assert_eq!(line.read(&mut bytes), LineRead::Whole(b"123\r"), "{pieces:?}");
            assert_eq!(bytes, b"rest");
        }
        assert_eq!(PartialLine::<4>::new().read(&mut &b"12345"[..]), LineRead::TooLong);
        assert_eq!((strict(b"12\r"), lenient(b"12\r")), (Some(&b"12"[..]), &b"12"[..]));
        assert_eq!((strict(b"12"), lenient(b"12")), (None, &b"12"[..]));
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

//! [`Replies`]: where what a server says begins and ends, RESP2 and RESP3. Pure.

use super::error_code::{code, first_word};
use super::line::{Line, Read, Word, number, strict};

use crate::seen::Seen;

/// Something the server said, complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerMessage {
    /// An answer: its type, and how it begins if it is a status or an error.
    Reply(u8, Word),
    /// Something said unasked.
    Push,
}

/// Follows what the server says, and keeps nothing of it but the beginning of a status or an error.
#[derive(Debug)]
pub(super) struct Replies {
    state: State,
    /// The aggregates that are not complete. A peer can open no more than [`DEEPEST`].
    open: Vec<Open>,
    /// The type of what stands outside of all of them; `None` in between.
    top: Option<u8>,
    /// The type of the status or error that is under way, and how it begins.
    saying: Option<u8>,
    text: [u8; MOST_TEXT],
    text_len: usize,
    errors: Seen<Word>,
    /// What the client holds of what is under way, announced payloads and elements included.
    held: u64,
    /// The most it held since that was asked last.
    longest: u64,
}

/// What an element costs a client beside its content: the largest there are take 56 bytes.
const ELEMENT: u64 = 64;

#[derive(Debug)]
enum State {
    Type,
    /// A line of any length, and whether its last byte was CR.
    Text {
        is_cr: bool,
    },
    /// The line with the length of a payload, of a part of a streamed one, or of an aggregate.
    Length(u8, Line<24>),
    Payload {
        left: u64,
        is_part: bool,
    },
    /// The empty line behind a payload.
    Close {
        is_part: bool,
        line: Line<1>,
    },
    /// The type of the next part of a streamed payload.
    Part,
    /// The line that ends a streamed aggregate.
    End(Line<1>),
    /// It is not RESP, or deeper than any server would have it.
    Broken,
}

/// An aggregate.
#[derive(Debug)]
struct Open {
    /// How many elements are to come; `None` if it says itself when it ends.
    left: Option<u64>,
    /// It says something about what follows it, and counts for nothing.
    is_attribute: bool,
}

const DEEPEST: usize = 128;

/// More than stands before the word that counts, wherever a server puts it.
const MOST_TEXT: usize = 160;

impl Replies {
    pub(super) fn new() -> Self {
        Self {
            state: State::Type,
            open: Vec::new(),
            top: None,
            saying: None,
            text: [0; MOST_TEXT],
            text_len: 0,
            errors: Seen::new(),
            held: 0,
            longest: 0,
        }
    }

    /// What the client had to hold at once since this was asked last.
    pub(super) fn longest(&mut self) -> u64 {
        std::mem::replace(&mut self.longest, self.held)
    }

    /// The code of an error that came since this was asked last, within an answer or as one; the
    /// oldest first, each once.
    pub(super) fn take_error(&mut self) -> Option<Word> {
        self.errors.take()
    }

    /// The client holds so much more.
    fn hold(&mut self, bytes: u64) {
        self.held = self.held.saturating_add(bytes);
        self.longest = self.longest.max(self.held);
    }

    /// It is not RESP: what follows means nothing.
    pub(super) fn is_broken(&self) -> bool {
        matches!(self.state, State::Broken)
    }

    /// What began and is not complete is something other than a push.
    pub(super) fn is_within_reply(&self) -> bool {
        self.top.is_some_and(|top| top != b'>')
    }

    /// Takes bytes until something is complete; `None` if more have to come.
    pub(super) fn next(&mut self, bytes: &mut &[u8]) -> Option<ServerMessage> {
        while !bytes.is_empty() {
            let said = match std::mem::replace(&mut self.state, State::Broken) {
                State::Type => self.begins(take(bytes)?, bytes),
                State::Text { is_cr } => self.line(is_cr, bytes),
                State::Length(kind, line) => self.length(kind, line, bytes),
                State::Payload { left, is_part } => self.payload(left, is_part, bytes),
                State::Close { is_part, line } => self.close(is_part, line, bytes),
                State::Part if take(bytes) == Some(b';') => {
                    self.state = State::Length(b';', Line::new());
                    None
                }
                State::End(line) => self.end(line, bytes),
                State::Part | State::Broken => {
                    // The client may wait for the end of it all the same.
                    self.hold(bytes.len() as u64);
                    *bytes = &[];
                    return None;
                }
            };
            if said.is_some() {
                return said;
            }
        }
        None
    }

    fn begins(&mut self, kind: u8, bytes: &mut &[u8]) -> Option<ServerMessage> {
        if self.open.is_empty() {
            self.top = Some(kind);
        }
        self.saying = matches!(kind, b'+' | b'-' | b'!').then_some(kind);
        self.text_len = 0;
        match kind {
            b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => self.line(false, bytes),
            // A push stands for itself, never within an answer.
            b'>' if !self.open.is_empty() => None,
            b'$' | b'!' | b'=' | b'*' | b'~' | b'%' | b'|' | b'>' => {
                self.length(kind, Line::new(), bytes)
            }
            b'.' if matches!(self.open.last(), Some(Open { left: None, .. })) => {
                self.end(Line::new(), bytes)
            }
            _ => None,
        }
    }

    fn line(&mut self, is_cr: bool, bytes: &mut &[u8]) -> Option<ServerMessage> {
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
            self.hold(bytes.len() as u64);
            self.says(bytes);
            self.state = State::Text { is_cr: bytes.last() == Some(&b'\r') };
            *bytes = &[];
            return None;
        };
        let (line, rest) = bytes.split_at(end);
        *bytes = &rest[1..];
        self.hold(line.len() as u64);
        self.says(line);
        let is_cr = line.last().map_or(is_cr, |last| *last == b'\r');
        if is_cr { self.element() } else { None }
    }

    fn length(&mut self, kind: u8, mut line: Line<24>, bytes: &mut &[u8]) -> Option<ServerMessage> {
        let line = match line.read(bytes) {
            Read::Part => {
                self.state = State::Length(kind, line);
                return None;
            }
            Read::TooLong => return None,
            Read::Whole(line) => line,
        };
        let text = strict(line)?;
        match (kind, text) {
            (b'$' | b'*', b"-1") => return self.element(),
            (b'$', b"?") => self.state = State::Part,
            (b'*' | b'~' | b'%', b"?") => self.open(None, false),
            (b';', b"0") => return self.element(),
            (b'$' | b'!' | b'=', _) => {
                let left = number(text)?;
                self.hold(left);
                return self.payload(left, false, bytes);
            }
            (b';', _) => {
                let left = number(text)?;
                self.hold(left);
                return self.payload(left, true, bytes);
            }
            (b'*' | b'~' | b'>', _) => match number(text)? {
                0 => return self.element(),
                left => self.open(Some(left), false),
            },
            // A key and a value each.
            (b'%' | b'|', _) => match (number(text)?.checked_mul(2)?, kind) {
                (0, b'%') => return self.element(),
                (0, _) => self.state = State::Type,
                (left, _) => self.open(Some(left), kind == b'|'),
            },
            _ => {}
        }
        None
    }

    fn payload(&mut self, left: u64, is_part: bool, bytes: &mut &[u8]) -> Option<ServerMessage> {
        let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let (payload, rest) = bytes.split_at(here);
        *bytes = rest;
        self.says(payload);
        match left - payload.len() as u64 {
            0 => self.close(is_part, Line::new(), bytes),
            left => {
                self.state = State::Payload { left, is_part };
                None
            }
        }
    }

    fn close(
        &mut self,
        is_part: bool,
        mut line: Line<1>,
        bytes: &mut &[u8],
    ) -> Option<ServerMessage> {
        match line.read(bytes) {
            Read::Part => self.state = State::Close { is_part, line },
            Read::Whole(b"\r") if is_part => self.state = State::Part,
            Read::Whole(b"\r") => return self.element(),
            _ => {}
        }
        None
    }

    fn end(&mut self, mut line: Line<1>, bytes: &mut &[u8]) -> Option<ServerMessage> {
        match line.read(bytes) {
            Read::Part => self.state = State::End(line),
            Read::Whole(b"\r") => {
                self.open.pop();
                return self.element();
            }
            _ => {}
        }
        None
    }

    fn says(&mut self, text: &[u8]) {
        if self.saying.is_some() {
            let kept = &text[..text.len().min(MOST_TEXT - self.text_len)];
            self.text[self.text_len..][..kept.len()].copy_from_slice(kept);
            self.text_len += kept.len();
        }
    }

    fn text(&self) -> &[u8] {
        self.text[..self.text_len].trim_ascii_end()
    }

    fn open(&mut self, left: Option<u64>, is_attribute: bool) {
        // The room for all of them may be made at once.
        self.hold(left.unwrap_or(0).saturating_mul(ELEMENT));
        if self.open.len() < DEEPEST {
            self.open.push(Open { left, is_attribute });
            self.state = State::Type;
        }
    }

    /// An element is complete, and with it perhaps those it is the last one of.
    fn element(&mut self) -> Option<ServerMessage> {
        self.state = State::Type;
        if matches!(self.saying, Some(b'-' | b'!')) {
            self.errors.note(Word::of(code(self.text())));
        }
        if let Some(Open { left: None, .. }) = self.open.last() {
            self.hold(ELEMENT);
        }
        while let Some(Open { left, is_attribute }) = self.open.last_mut() {
            match left {
                None => return None,
                Some(left) if *left > 1 => {
                    *left -= 1;
                    return None;
                }
                Some(_) => {
                    let is_attribute = *is_attribute;
                    self.open.pop();
                    if is_attribute {
                        return None;
                    }
                }
            }
        }
        self.held = 0;
        Some(match self.top.take()? {
            b'>' => ServerMessage::Push,
            kind @ (b'+' | b'-' | b'!') => {
                ServerMessage::Reply(kind, Word::of(first_word(self.text())))
            }
            kind => ServerMessage::Reply(kind, Word::default()),
        })
    }
}

fn take(bytes: &mut &[u8]) -> Option<u8> {
    let (first, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(*first)
}

//! [`ReplyParser`]: where what a server says begins and ends, RESP2 and RESP3. Pure.

use std::collections::VecDeque;

use super::classify::{error_code, first_word};
use super::line::{LineRead, PartialLine, Word, number, strict};

/// A complete message of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerMessage {
    /// An answer: its type byte, and the first word if it is a status or an error.
    Reply(u8, Word),
    /// A message that no command asked for.
    Push,
}

/// Finds the messages in the bytes that a server sends, and keeps only the beginning of a status or
/// an error.
#[derive(Debug)]
pub(super) struct ReplyParser {
    state: ReplyState,
    /// The aggregates that are not complete. A peer can open no more than [`MAX_DEPTH`].
    aggregates: Vec<Aggregate>,
    /// The type of the outermost element; `None` between messages.
    outermost: Option<u8>,
    /// The type of the status or error under way; its beginning is in `text`.
    text_type: Option<u8>,
    text: [u8; MAX_TEXT],
    text_len: usize,
    errors: PendingErrors<Word>,
    /// The bytes that the client holds of the message under way, announced payloads and elements
    /// included.
    held: u64,
    /// The largest value of `held` since the last call of `longest`.
    longest: u64,
}

/// The bytes that an element takes in a client beside its content, rounded up: a `redis::Value` has
/// 56.
const ELEMENT_OVERHEAD: u64 = 64;

#[derive(Debug)]
enum ReplyState {
    Type,
    /// A line of any length, and whether its last byte was CR.
    Text {
        is_cr: bool,
    },
    /// The line with the length of a payload, of a part of a streamed one, or of an aggregate.
    Length(u8, PartialLine<24>),
    Payload {
        left: u64,
        is_part: bool,
    },
    /// The empty line behind a payload.
    Close {
        is_part: bool,
        line: PartialLine<1>,
    },
    /// The type of the next part of a streamed payload.
    Part,
    /// The line that ends a streamed aggregate.
    End(PartialLine<1>),
    /// The end: the bytes were not RESP, or nested deeper than [`MAX_DEPTH`].
    Broken,
}

/// An aggregate.
#[derive(Debug)]
struct Aggregate {
    /// The number of elements that are to come; `None` if the aggregate is streamed.
    left: Option<u64>,
    /// Whether this is an attribute, which describes the next element and is none itself.
    is_attribute: bool,
}

const MAX_DEPTH: usize = 128;

/// The bytes of a status or error that are kept: more than stand before the code, wherever a server
/// puts it.
const MAX_TEXT: usize = 160;

impl ReplyParser {
    pub(super) fn new() -> Self {
        Self {
            state: ReplyState::Type,
            aggregates: Vec::new(),
            outermost: None,
            text_type: None,
            text: [0; MAX_TEXT],
            text_len: 0,
            errors: PendingErrors::new(),
            held: 0,
            longest: 0,
        }
    }

    /// The most bytes that the client had to hold at once since the last call.
    pub(super) fn longest(&mut self) -> u64 {
        std::mem::replace(&mut self.longest, self.held)
    }

    /// Takes the oldest error code that arrived since the last call, within an answer or as one,
    /// each kind once.
    pub(super) fn take_error(&mut self) -> Option<Word> {
        self.errors.take()
    }

    /// Adds to the bytes that the client holds.
    fn add_held(&mut self, bytes: u64) {
        self.held = self.held.saturating_add(bytes);
        self.longest = self.longest.max(self.held);
    }

    /// Whether the bytes were not RESP, so that the rest means nothing.
    pub(super) fn is_broken(&self) -> bool {
        matches!(self.state, ReplyState::Broken)
    }

    /// Whether a message other than a push has begun and is not complete.
    pub(super) fn is_within_reply(&self) -> bool {
        self.outermost.is_some_and(|top| top != b'>')
    }

    /// Takes bytes until a message is complete; `None` if more have to come.
    pub(super) fn next(&mut self, bytes: &mut &[u8]) -> Option<ServerMessage> {
        while !bytes.is_empty() {
            let message = match std::mem::replace(&mut self.state, ReplyState::Broken) {
                ReplyState::Type => self.begin(take(bytes)?, bytes),
                ReplyState::Text { is_cr } => self.line(is_cr, bytes),
                ReplyState::Length(kind, line) => self.length(kind, line, bytes),
                ReplyState::Payload { left, is_part } => self.payload(left, is_part, bytes),
                ReplyState::Close { is_part, line } => self.close(is_part, line, bytes),
                ReplyState::Part if take(bytes) == Some(b';') => {
                    self.state = ReplyState::Length(b';', PartialLine::new());
                    None
                }
                ReplyState::End(line) => self.end(line, bytes),
                ReplyState::Part | ReplyState::Broken => {
                    // The client may wait for the end of it all the same.
                    self.add_held(bytes.len() as u64);
                    *bytes = &[];
                    return None;
                }
            };
            if message.is_some() {
                return message;
            }
        }
        None
    }

    fn begin(&mut self, kind: u8, bytes: &mut &[u8]) -> Option<ServerMessage> {
        if self.aggregates.is_empty() {
            self.outermost = Some(kind);
        }
        self.text_type = matches!(kind, b'+' | b'-' | b'!').then_some(kind);
        self.text_len = 0;
        match kind {
            b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => self.line(false, bytes),
            // A push stands for itself, never within an answer.
            b'>' if !self.aggregates.is_empty() => None,
            b'$' | b'!' | b'=' | b'*' | b'~' | b'%' | b'|' | b'>' => {
                self.length(kind, PartialLine::new(), bytes)
            }
            b'.' if matches!(self.aggregates.last(), Some(Aggregate { left: None, .. })) => {
                self.end(PartialLine::new(), bytes)
            }
            _ => None,
        }
    }

    fn line(&mut self, is_cr: bool, bytes: &mut &[u8]) -> Option<ServerMessage> {
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
            self.add_held(bytes.len() as u64);
            self.keep_text(bytes);
            self.state = ReplyState::Text { is_cr: bytes.last() == Some(&b'\r') };
            *bytes = &[];
            return None;
        };
        let (line, rest) = bytes.split_at(end);
        *bytes = &rest[1..];
        self.add_held(line.len() as u64);
        self.keep_text(line);
        let is_cr = line.last().map_or(is_cr, |last| *last == b'\r');
        if is_cr { self.finish_element() } else { None }
    }

    fn length(
        &mut self,
        kind: u8,
        mut line: PartialLine<24>,
        bytes: &mut &[u8],
    ) -> Option<ServerMessage> {
        let line = match line.read(bytes) {
            LineRead::Part => {
                self.state = ReplyState::Length(kind, line);
                return None;
            }
            LineRead::TooLong => return None,
            LineRead::Whole(line) => line,
        };
        let text = strict(line)?;
        match (kind, text) {
            (b'$' | b'*', b"-1") => return self.finish_element(),
            (b'$', b"?") => self.state = ReplyState::Part,
            (b'*' | b'~' | b'%', b"?") => self.open_aggregate(None, false),
            (b';', b"0") => return self.finish_element(),
            (b'$' | b'!' | b'=', _) => {
                let left = number(text)?;
                self.add_held(left);
                return self.payload(left, false, bytes);
            }
            (b';', _) => {
                let left = number(text)?;
                self.add_held(left);
                return self.payload(left, true, bytes);
            }
            (b'*' | b'~' | b'>', _) => match number(text)? {
                0 => return self.finish_element(),
                left => self.open_aggregate(Some(left), false),
            },
            // A key and a value each.
            (b'%' | b'|', _) => match (number(text)?.checked_mul(2)?, kind) {
                (0, b'%') => return self.finish_element(),
                (0, _) => self.state = ReplyState::Type,
                (left, _) => self.open_aggregate(Some(left), kind == b'|'),
            },
            _ => {}
        }
        None
    }

    fn payload(&mut self, left: u64, is_part: bool, bytes: &mut &[u8]) -> Option<ServerMessage> {
        let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let (payload, rest) = bytes.split_at(here);
        *bytes = rest;
        self.keep_text(payload);
        match left - payload.len() as u64 {
            0 => self.close(is_part, PartialLine::new(), bytes),
            left => {
                self.state = ReplyState::Payload { left, is_part };
                None
            }
        }
    }

    fn close(
        &mut self,
        is_part: bool,
        mut line: PartialLine<1>,
        bytes: &mut &[u8],
    ) -> Option<ServerMessage> {
        match line.read(bytes) {
            LineRead::Part => self.state = ReplyState::Close { is_part, line },
            LineRead::Whole(b"\r") if is_part => self.state = ReplyState::Part,
            LineRead::Whole(b"\r") => return self.finish_element(),
            _ => {}
        }
        None
    }

    fn end(&mut self, mut line: PartialLine<1>, bytes: &mut &[u8]) -> Option<ServerMessage> {
        match line.read(bytes) {
            LineRead::Part => self.state = ReplyState::End(line),
            LineRead::Whole(b"\r") => {
                self.aggregates.pop();
                return self.finish_element();
            }
            _ => {}
        }
        None
    }

    fn keep_text(&mut self, text: &[u8]) {
        if self.text_type.is_some() {
            let kept = &text[..text.len().min(MAX_TEXT - self.text_len)];
            self.text[self.text_len..][..kept.len()].copy_from_slice(kept);
            self.text_len += kept.len();
        }
    }

    fn text(&self) -> &[u8] {
        self.text[..self.text_len].trim_ascii_end()
    }

    fn open_aggregate(&mut self, left: Option<u64>, is_attribute: bool) {
        // The room for all of them may be made at once.
        self.add_held(left.unwrap_or(0).saturating_mul(ELEMENT_OVERHEAD));
        if self.aggregates.len() < MAX_DEPTH {
            self.aggregates.push(Aggregate { left, is_attribute });
            self.state = ReplyState::Type;
        }
    }

    /// Ends an element, and the aggregates whose last one it is.
    fn finish_element(&mut self) -> Option<ServerMessage> {
        self.state = ReplyState::Type;
        if matches!(self.text_type, Some(b'-' | b'!')) {
            self.errors.record(Word::of(error_code(self.text())));
        }
        if let Some(Aggregate { left: None, .. }) = self.aggregates.last() {
            self.add_held(ELEMENT_OVERHEAD);
        }
        while let Some(Aggregate { left, is_attribute }) = self.aggregates.last_mut() {
            match left {
                None => return None,
                Some(left) if *left > 1 => {
                    *left -= 1;
                    return None;
                }
                Some(_) => {
                    let is_attribute = *is_attribute;
                    self.aggregates.pop();
                    if is_attribute {
                        return None;
                    }
                }
            }
        }
        self.held = 0;
        Some(match self.outermost.take()? {
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

/// The error codes that arrived and were not asked for yet, each kind once, 16 kinds at most. One
/// read may bring several, and the one that matters to the whole pool may stand between others.
#[derive(Debug)]
pub(super) struct PendingErrors<T>(VecDeque<T>);

const MAX_ERRORS: usize = 16;

impl<T: PartialEq> PendingErrors<T> {
    pub(super) fn new() -> Self {
        Self(VecDeque::new())
    }

    pub(super) fn record(&mut self, error: T) {
        if self.0.len() < MAX_ERRORS && !self.0.contains(&error) {
            self.0.push_back(error);
        }
    }

    /// Takes the oldest.
    pub(super) fn take(&mut self) -> Option<T> {
        self.0.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_kept_once_and_a_peer_cannot_fill_the_memory() {
        let mut errors = PendingErrors::new();
        for n in (0..1000).flat_map(|n| [n, n]) {
            errors.record(n);
        }
        let kept: Vec<_> = std::iter::from_fn(|| errors.take()).collect();
        assert_eq!(kept, (0..MAX_ERRORS).collect::<Vec<_>>());
    }
}

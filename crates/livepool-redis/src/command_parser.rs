//! [`Commands`]: where what a client sends begins and ends. Pure.

use super::command::{Command, Kind, LONGEST};
use super::line::{Line, Read, lenient, number, strict};

/// Follows what a client sends, and keeps nothing of it but the beginning of an argument.
#[derive(Debug)]
pub(super) struct Commands {
    state: State,
    command: Command,
    /// Arguments that are to come.
    left: u64,
    argument: [u8; LONGEST],
    /// How much of that is kept.
    have: usize,
}

#[derive(Debug)]
enum State {
    Start,
    /// A command in one line, as a person types it.
    Inline(Line<128>),
    /// The line with the number of arguments.
    Count(Line<24>),
    /// The type of an argument, which must be that of a payload.
    Type,
    /// The line with its length.
    Length(Line<24>),
    Payload(u64),
    /// The empty line behind it.
    Close(Line<1>),
    Broken,
}

impl Commands {
    pub(super) fn new() -> Self {
        Self {
            state: State::Start,
            command: Command::new(),
            left: 0,
            argument: [0; LONGEST],
            have: 0,
        }
    }

    /// It is not RESP: what follows means nothing.
    pub(super) fn is_broken(&self) -> bool {
        matches!(self.state, State::Broken)
    }

    /// A command has begun and not ended.
    pub(super) fn is_midway(&self) -> bool {
        !matches!(self.state, State::Start)
    }

    /// Takes bytes until a command is complete; `None` if more have to come.
    pub(super) fn next(&mut self, bytes: &mut &[u8]) -> Option<Kind> {
        while !bytes.is_empty() {
            let kind = match std::mem::replace(&mut self.state, State::Broken) {
                State::Start => self.begins(bytes),
                State::Inline(line) => self.inline(line, bytes),
                State::Count(line) => self.count(line, bytes),
                State::Type if bytes[0] == b'$' => {
                    *bytes = &bytes[1..];
                    self.length(Line::new(), bytes)
                }
                State::Length(line) => self.length(line, bytes),
                State::Payload(left) => self.payload(left, bytes),
                State::Close(line) => self.close(line, bytes),
                State::Type | State::Broken => return None,
            };
            if kind.is_some() {
                return kind;
            }
        }
        None
    }

    fn begins(&mut self, bytes: &mut &[u8]) -> Option<Kind> {
        self.command = Command::new();
        if bytes[0] != b'*' {
            return self.inline(Line::new(), bytes);
        }
        *bytes = &bytes[1..];
        self.count(Line::new(), bytes)
    }

    /// Quotes are not understood; a client that has them to send does not send lines.
    fn inline(&mut self, mut line: Line<128>, bytes: &mut &[u8]) -> Option<Kind> {
        let line = match line.read(bytes) {
            Read::Part => {
                self.state = State::Inline(line);
                return None;
            }
            Read::TooLong => return None,
            Read::Whole(line) => line,
        };
        let text = lenient(line);
        if text.iter().any(|byte| matches!(byte, b'"' | b'\'' | 0)) {
            return None;
        }
        self.state = State::Start;
        let mut words =
            text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).peekable();
        // An empty line is nothing to answer.
        words.peek()?;
        words.for_each(|word| self.command.argument(word));
        Some(self.command.kind())
    }

    fn count(&mut self, mut line: Line<24>, bytes: &mut &[u8]) -> Option<Kind> {
        let line = match line.read(bytes) {
            Read::Part => {
                self.state = State::Count(line);
                return None;
            }
            Read::TooLong => return None,
            Read::Whole(line) => line,
        };
        self.left = number(strict(line)?)?;
        // Nothing is nothing to answer.
        self.state = if self.left == 0 { State::Start } else { State::Type };
        None
    }

    fn length(&mut self, mut line: Line<24>, bytes: &mut &[u8]) -> Option<Kind> {
        let line = match line.read(bytes) {
            Read::Part => {
                self.state = State::Length(line);
                return None;
            }
            Read::TooLong => return None,
            Read::Whole(line) => line,
        };
        self.have = 0;
        self.payload(number(strict(line)?)?, bytes)
    }

    fn payload(&mut self, left: u64, bytes: &mut &[u8]) -> Option<Kind> {
        let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let (payload, rest) = bytes.split_at(here);
        *bytes = rest;
        let kept = &payload[..here.min(LONGEST - self.have)];
        self.argument[self.have..self.have + kept.len()].copy_from_slice(kept);
        self.have += kept.len();
        match left - payload.len() as u64 {
            0 => self.close(Line::new(), bytes),
            left => {
                self.state = State::Payload(left);
                None
            }
        }
    }

    fn close(&mut self, mut line: Line<1>, bytes: &mut &[u8]) -> Option<Kind> {
        match line.read(bytes) {
            Read::Part => {
                self.state = State::Close(line);
                return None;
            }
            Read::Whole(b"\r") => {}
            _ => return None,
        }
        self.command.argument(&self.argument[..self.have]);
        self.left -= 1;
        if self.left > 0 {
            self.state = State::Type;
            return None;
        }
        self.state = State::Start;
        Some(self.command.kind())
    }
}

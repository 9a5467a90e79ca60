//! [`CommandParser`]: where what a client sends begins and ends. Pure.

use super::command::{CommandClassifier, CommandKind, MAX_ARGUMENT};
use super::line::{LineRead, PartialLine, lenient, number, strict};

/// Finds the commands in the bytes that a client sends, and keeps only the beginning of one
/// argument.
#[derive(Debug)]
pub(super) struct CommandParser {
    state: CommandState,
    command: CommandClassifier,
    /// The number of arguments that are to come.
    arguments_left: u64,
    argument: [u8; MAX_ARGUMENT],
    /// The length of the kept part of the argument.
    argument_len: usize,
}

#[derive(Debug)]
enum CommandState {
    Start,
    /// An inline command: one line, as a person types it.
    Inline(PartialLine<128>),
    /// The line with the number of arguments.
    Count(PartialLine<24>),
    /// The type of an argument, which must be that of a payload.
    Type,
    /// The line with an argument's length.
    Length(PartialLine<24>),
    Payload(u64),
    /// The empty line behind an argument.
    Close(PartialLine<1>),
    Broken,
}

impl CommandParser {
    pub(super) fn new() -> Self {
        Self {
            state: CommandState::Start,
            command: CommandClassifier::new(),
            arguments_left: 0,
            argument: [0; MAX_ARGUMENT],
            argument_len: 0,
        }
    }

    /// Whether the bytes were not RESP, so that the rest means nothing.
    pub(super) fn is_broken(&self) -> bool {
        matches!(self.state, CommandState::Broken)
    }

    /// Whether a command has begun and not ended.
    pub(super) fn is_within_command(&self) -> bool {
        !matches!(self.state, CommandState::Start)
    }

    /// Takes bytes until a command is complete; `None` if more have to come.
    pub(super) fn next(&mut self, bytes: &mut &[u8]) -> Option<CommandKind> {
        while !bytes.is_empty() {
            let kind = match std::mem::replace(&mut self.state, CommandState::Broken) {
                CommandState::Start => self.begin(bytes),
                CommandState::Inline(line) => self.inline(line, bytes),
                CommandState::Count(line) => self.count(line, bytes),
                CommandState::Type if bytes[0] == b'$' => {
                    *bytes = &bytes[1..];
                    self.length(PartialLine::new(), bytes)
                }
                CommandState::Length(line) => self.length(line, bytes),
                CommandState::Payload(left) => self.payload(left, bytes),
                CommandState::Close(line) => self.close(line, bytes),
                CommandState::Type | CommandState::Broken => return None,
            };
            if kind.is_some() {
                return kind;
            }
        }
        None
    }

    fn begin(&mut self, bytes: &mut &[u8]) -> Option<CommandKind> {
        self.command = CommandClassifier::new();
        if bytes[0] != b'*' {
            return self.inline(PartialLine::new(), bytes);
        }
        *bytes = &bytes[1..];
        self.count(PartialLine::new(), bytes)
    }

    /// Quotes are not understood; a client that has them to send does not send lines.
    fn inline(&mut self, mut line: PartialLine<128>, bytes: &mut &[u8]) -> Option<CommandKind> {
        let line = match line.read(bytes) {
            LineRead::Part => {
                self.state = CommandState::Inline(line);
                return None;
            }
            LineRead::TooLong => return None,
            LineRead::Whole(line) => line,
        };
        let text = lenient(line);
        if text.iter().any(|byte| matches!(byte, b'"' | b'\'' | 0)) {
            return None;
        }
        self.state = CommandState::Start;
        let mut words =
            text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).peekable();
        // An empty line is nothing to answer.
        words.peek()?;
        words.for_each(|word| self.command.push_argument(word));
        Some(self.command.kind())
    }

    fn count(&mut self, mut line: PartialLine<24>, bytes: &mut &[u8]) -> Option<CommandKind> {
        let line = match line.read(bytes) {
            LineRead::Part => {
                self.state = CommandState::Count(line);
                return None;
            }
            LineRead::TooLong => return None,
            LineRead::Whole(line) => line,
        };
        self.arguments_left = number(strict(line)?)?;
        // Nothing is nothing to answer.
        self.state =
            if self.arguments_left == 0 { CommandState::Start } else { CommandState::Type };
        None
    }

    fn length(&mut self, mut line: PartialLine<24>, bytes: &mut &[u8]) -> Option<CommandKind> {
        let line = match line.read(bytes) {
            LineRead::Part => {
                self.state = CommandState::Length(line);
                return None;
            }
            LineRead::TooLong => return None,
            LineRead::Whole(line) => line,
        };
        self.argument_len = 0;
        self.payload(number(strict(line)?)?, bytes)
    }

    fn payload(&mut self, left: u64, bytes: &mut &[u8]) -> Option<CommandKind> {
        let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let (payload, rest) = bytes.split_at(here);
        *bytes = rest;
        let kept = &payload[..here.min(MAX_ARGUMENT - self.argument_len)];
        self.argument[self.argument_len..self.argument_len + kept.len()].copy_from_slice(kept);
        self.argument_len += kept.len();
        match left - payload.len() as u64 {
            0 => self.close(PartialLine::new(), bytes),
            left => {
                self.state = CommandState::Payload(left);
                None
            }
        }
    }

    fn close(&mut self, mut line: PartialLine<1>, bytes: &mut &[u8]) -> Option<CommandKind> {
        match line.read(bytes) {
            LineRead::Part => {
                self.state = CommandState::Close(line);
                return None;
            }
            LineRead::Whole(b"\r") => {}
            _ => return None,
        }
        self.command.push_argument(&self.argument[..self.argument_len]);
        self.arguments_left -= 1;
        if self.arguments_left > 0 {
            self.state = CommandState::Type;
            return None;
        }
        self.state = CommandState::Start;
        Some(self.command.kind())
    }
}

//! RESP, as far as it takes to know where a command and a reply end. Bytes come in pieces of any
//! size; none are kept but the beginning of a line and of a few arguments.
//!
//! <https://redis.io/docs/latest/develop/reference/protocol-spec/>

/// A line that says how much follows is never longer: a sign, 19 digits, CR and LF.
const LINE: usize = 64;
/// As much of an argument as tells which command it is.
const WORD: usize = 20;
/// Replies within replies. Redis has fewer; a peer that has more is none.
const DEPTH: usize = 32;

/// What is not understood is not reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lost;

/// The beginning of something, never more than `MAX` bytes.
#[derive(Debug, Clone)]
struct Head<const MAX: usize> {
    bytes: [u8; MAX],
    length: usize,
}

impl<const MAX: usize> Default for Head<MAX> {
    fn default() -> Self {
        Self { bytes: [0; MAX], length: 0 }
    }
}

impl<const MAX: usize> Head<MAX> {
    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
    }

    fn extend(&mut self, bytes: &[u8]) {
        let count = bytes.len().min(MAX - self.length);
        self.bytes[self.length..self.length + count].copy_from_slice(&bytes[..count]);
        self.length += count;
    }

    fn get(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn clear(&mut self) {
        self.length = 0;
    }
}

/// A number as RESP writes it. `None` for -1: there is nothing.
fn number(text: &[u8]) -> Result<Option<u64>, Lost> {
    let text = std::str::from_utf8(text).map_err(|_| Lost)?;
    match text.parse::<i64>() {
        Ok(-1) => Ok(None),
        Ok(number) => u64::try_from(number).map(Some).map_err(|_| Lost),
        Err(_) => Err(Lost),
    }
}

/// The words of one command, as far as they are kept: each cut short, in capitals.
#[derive(Debug, Default, Clone)]
pub(super) struct Words {
    words: [Head<WORD>; 8],
    count: usize,
}

impl Words {
    pub(super) fn get(&self, index: usize) -> &[u8] {
        self.words.get(index).map_or(&[], Head::get)
    }

    pub(super) fn has(&self, word: &[u8]) -> bool {
        self.words.iter().any(|own| own.get() == word)
    }

    fn clear(&mut self) {
        self.count = 0;
        self.words.iter_mut().for_each(Head::clear);
    }
}

/// Reads commands: arrays of bulk strings, as every client library sends them.
#[derive(Debug, Default)]
pub(super) struct Commands {
    line: Head<LINE>,
    /// Arguments that are still to come.
    arguments: u64,
    /// Bytes of this argument that are still to come, its CR and LF included.
    bytes: u64,
    words: Words,
}

impl Commands {
    /// Calls `done` for every command that is complete.
    pub(super) fn read(
        &mut self,
        mut bytes: &[u8],
        mut done: impl FnMut(&Words),
    ) -> Result<(), Lost> {
        while let Some((&first, rest)) = bytes.split_first() {
            if self.bytes > 0 {
                let count = usize::try_from(self.bytes).unwrap_or(usize::MAX).min(bytes.len());
                let (part, rest) = bytes.split_at(count);
                self.keep(part);
                self.bytes -= count as u64;
                bytes = rest;
                if self.bytes == 0 {
                    self.words.count += 1;
                    self.arguments -= 1;
                    if self.arguments == 0 {
                        done(&self.words);
                        self.words.clear();
                    }
                }
                continue;
            }
            bytes = rest;
            if first != b'\n' {
                self.line.push(first);
                if self.line.length == LINE {
                    return Err(Lost);
                }
                continue;
            }
            let line = self.line.get().strip_suffix(b"\r").ok_or(Lost)?;
            match line.split_first() {
                Some((b'*', count)) if self.arguments == 0 => {
                    self.arguments = number(count)?.filter(|count| *count > 0).ok_or(Lost)?;
                }
                Some((b'$', length)) if self.arguments > 0 => {
                    let length = number(length)?.ok_or(Lost)?;
                    self.bytes = length.checked_add(2).ok_or(Lost)?;
                }
                _ => return Err(Lost),
            }
            self.line.clear();
        }
        Ok(())
    }

    fn keep(&mut self, part: &[u8]) {
        // Without its CR and LF.
        let text = self.bytes.saturating_sub(2);
        let part = &part[..part.len().min(usize::try_from(text).unwrap_or(usize::MAX))];
        if let Some(word) = self.words.words.get_mut(self.words.count) {
            for byte in part.iter().take(WORD - word.length.min(WORD)) {
                word.push(byte.to_ascii_uppercase());
            }
        }
    }
}

/// One reply, complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply<'a> {
    /// It answers a command.
    Answer,
    /// The same; an error, which begins with this word.
    Error(&'a [u8]),
    /// Nobody asked for it (RESP3).
    Push,
}

/// Reads replies of RESP2 and RESP3.
#[derive(Debug, Default)]
pub(super) struct Replies {
    line: Head<LINE>,
    /// Bytes of a bulk that are still to come, its CR and LF included.
    bytes: u64,
    /// Elements still to come, of each aggregate around.
    open: Vec<u64>,
    /// What the outermost one began with.
    kind: u8,
    error: Head<WORD>,
}

impl Replies {
    /// Calls `done` for every reply that is complete.
    pub(super) fn read(
        &mut self,
        mut bytes: &[u8],
        mut done: impl FnMut(Reply<'_>),
    ) -> Result<(), Lost> {
        while !bytes.is_empty() {
            if self.bytes > 0 {
                let count = usize::try_from(self.bytes).unwrap_or(usize::MAX).min(bytes.len());
                self.bytes -= count as u64;
                bytes = &bytes[count..];
                if self.bytes == 0 {
                    self.element(&mut done);
                }
                continue;
            }
            match bytes.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    self.line.extend(&bytes[..end]);
                    bytes = &bytes[end + 1..];
                    self.line_ends(&mut done)?;
                    self.line.clear();
                }
                None => {
                    self.line.extend(bytes);
                    bytes = &[];
                }
            }
        }
        Ok(())
    }

    fn line_ends(&mut self, done: &mut impl FnMut(Reply<'_>)) -> Result<(), Lost> {
        let Some((&kind, text)) = self.line.get().split_first() else { return Err(Lost) };
        if self.open.is_empty() {
            self.kind = kind;
        }
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        match kind {
            b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => {
                if kind == b'-' && self.open.is_empty() {
                    self.error.clear();
                    self.error.extend(text.split(|byte| *byte == b' ').next().unwrap_or_default());
                }
                self.element(done);
            }
            b'$' | b'=' | b'!' => match number(text)? {
                None => self.element(done),
                Some(length) => self.bytes = length.checked_add(2).ok_or(Lost)?,
            },
            b'*' | b'~' | b'>' | b'%' | b'|' => {
                let count = number(text)?;
                let pairs = if matches!(kind, b'%' | b'|') { 2 } else { 1 };
                match count.map(|count| count.checked_mul(pairs)) {
                    None | Some(Some(0)) if kind != b'|' => self.element(done),
                    // An attribute is followed by what it belongs to.
                    Some(Some(count)) if kind == b'|' => self.opened(count + 1)?,
                    Some(Some(count)) => self.opened(count)?,
                    _ => return Err(Lost),
                }
            }
            _ => return Err(Lost),
        }
        Ok(())
    }

    fn opened(&mut self, count: u64) -> Result<(), Lost> {
        if self.open.len() == DEPTH {
            return Err(Lost);
        }
        self.open.push(count);
        Ok(())
    }

    /// One element is complete, and with it perhaps those around it.
    fn element(&mut self, done: &mut impl FnMut(Reply<'_>)) {
        while let Some(left) = self.open.last_mut() {
            *left -= 1;
            if *left > 0 {
                return;
            }
            self.open.pop();
        }
        done(match self.kind {
            b'>' => Reply::Push,
            b'-' => Reply::Error(self.error.get()),
            _ => Reply::Answer,
        });
    }
}

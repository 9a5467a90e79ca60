//! [`Opening`]: what is read of the text of a statement. Pure.

use super::path::{self, Path};

/// What a statement does to the notifications of its session. A statement that stands behind another one
/// is not recognized here: the server says what it was when it is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Says {
    /// Notifications come from now on, or may: it runs code of its own, or names what may listen.
    Listen,
    /// None come any more.
    Forget,
    /// Nothing that matters here.
    Other,
}

/// Room for a statement that is understood as a whole: one that sets a path for names.
const ROOM: usize = 128;

/// The first bytes of a statement's text, and which words stand anywhere in it.
#[derive(Debug)]
pub(super) struct Opening {
    /// A name comes first, and ends with a zero.
    in_name: bool,
    name: Name,
    text: [u8; ROOM],
    len: usize,
    /// There was no room for all of it.
    is_cut: bool,
    /// The text is over. What follows are numbers.
    is_over: bool,
    hash: u64,
    path: Word,
    listen: Word,
    unlisten: Word,
}

/// The name of a prepared statement. Those of the client library are an `s` and a number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Name {
    number: u64,
    len: usize,
    is_other: bool,
}

impl Name {
    pub(super) fn read(&mut self, byte: u8) {
        match byte {
            b's' if self.len == 0 => {}
            b'0'..=b'9' if (1..=18).contains(&self.len) => {
                self.number = self.number * 10 + u64::from(byte - b'0');
            }
            _ => self.is_other = true,
        }
        self.len += 1;
    }

    /// Its number, if the client library made it.
    pub(super) fn number(self) -> Option<u64> {
        (self.len > 1 && !self.is_other).then_some(self.number)
    }
}

/// Looks for a word, or the end of one, in bytes that come in pieces. Its first letter must not occur in
/// it again.
#[derive(Debug)]
struct Word {
    word: &'static [u8],
    have: usize,
    /// How often it was seen.
    times: usize,
}

/// Whether it may stand in a name.
fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

impl Word {
    fn new(word: &'static [u8]) -> Self {
        Self { word, have: 0, times: 0 }
    }

    fn read(&mut self, byte: u8) {
        let byte = byte.to_ascii_lowercase();
        self.times += usize::from(self.have == self.word.len() && !is_name(byte));
        if self.word.get(self.have) == Some(&byte) {
            self.have += 1;
        } else {
            self.have = usize::from(self.word[0] == byte);
        }
    }
}

impl Opening {
    /// Of the body of a Query.
    pub(super) fn of_query() -> Self {
        Self {
            in_name: false,
            name: Name::default(),
            text: [0; ROOM],
            len: 0,
            is_cut: false,
            is_over: false,
            hash: path::EMPTY,
            path: Word::new(b"search_path"),
            listen: Word::new(b"listen"),
            unlisten: Word::new(b"unlisten"),
        }
    }

    /// Of the body of a Parse.
    pub(super) fn of_parse() -> Self {
        Self { in_name: true, ..Self::of_query() }
    }

    pub(super) fn read(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if self.in_name {
                self.in_name = byte != 0;
                if self.in_name {
                    self.name.read(byte);
                }
                continue;
            }
            self.hash = path::hashed(self.hash, byte);
            if self.is_over {
                continue;
            }
            self.is_over = byte == 0;
            self.path.read(byte);
            self.listen.read(byte);
            self.unlisten.read(byte);
            // Space in front does not matter.
            if self.len == 0 && byte.is_ascii_whitespace() {
                continue;
            }
            match self.text.get_mut(self.len) {
                Some(place) => {
                    *place = byte;
                    self.len += 1;
                }
                None => self.is_cut = true,
            }
        }
    }

    /// The name of the statement that is prepared.
    pub(super) fn name(&self) -> Option<u64> {
        self.name.number()
    }

    /// Of the text, and the types of its parameters, as far as the client gave them. See
    /// [`path::of_statement`].
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn says(&self) -> Says {
        let text = self.text[..self.len].to_ascii_uppercase();
        let begins = |word: &[u8]| {
            text.strip_prefix(word).and_then(<[u8]>::first).is_some_and(|next| !is_name(*next))
        };
        let is_end = |byte: &u8| byte.is_ascii_whitespace() || *byte == b';' || *byte == 0;
        let words: Vec<_> = text.split(is_end).filter(|word| !word.is_empty()).take(3).collect();
        match words[..] {
            [b"UNLISTEN", b"*"] | [b"DISCARD", b"ALL"] if !self.is_cut => return Says::Forget,
            _ => {}
        }
        if self.listen.times > self.unlisten.times || begins(b"DO") || begins(b"CALL") {
            return Says::Listen;
        }
        Says::Other
    }

    /// What it does to the path on which names are looked for.
    pub(super) fn path(&self) -> Path {
        let text = self.text[..self.len].split(|byte| *byte == 0).next().unwrap_or_default();
        match Path::of(text) {
            Path::Other if self.path.times > 0 => Path::Unknown,
            Path::Sets { .. } if self.is_cut => Path::Unknown,
            path => path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Says::{Forget, Listen, Other};

    #[test]
    fn a_statement_is_known_by_its_first_words_and_what_may_listen_by_any() {
        let table: [(&[u8], Says); 20] = [
            (b"LISTEN jobs\0", Listen),
            (b"  \n\tlisten \"a very long name of a channel\"\0", Listen),
            (b"listen\"x\"\0", Listen),
            (b"/* a comment */ LISTEN x\0", Listen),
            (b"SELECT do_listen()\0", Listen),
            (b"DO $$ BEGIN PERFORM f(); END $$\0", Listen),
            (b"call subscribe()\0", Listen),
            (b"DOES\0", Other),
            (b"CALLED\0", Other),
            (b"SELECT list, en FROM listeners\0", Other),
            (b"UNLISTEN *\0", Forget),
            (b"unlisten  * ;\0", Forget),
            (b"DISCARD ALL\0", Forget),
            (b"UNLISTEN jobs\0", Other),
            (b"UNLISTEN *; LISTEN jobs\0", Listen),
            (b"UNLISTEN *;            ; LISTEN jobs\0", Listen),
            (b"SELECT 1\0", Other),
            (b"DISCARD PLANS\0", Other),
            (b"", Other),
            (b"SELECT lislisten\0", Listen),
        ];
        for (text, expected) in table {
            let mut query = Opening::of_query();
            query.read(text);
            assert_eq!(query.says(), expected, "{}", text.escape_ascii());

            let mut parse = Opening::of_parse();
            parse.read(b"s12\0");
            text.iter().for_each(|byte| parse.read(&[*byte]));
            assert_eq!(parse.says(), expected, "{}", text.escape_ascii());
            assert_eq!(parse.name(), Some(12));
        }
    }

    #[test]
    fn only_names_that_the_client_library_makes_are_known() {
        for (name, number) in [
            (&b"s0"[..], Some(0)),
            (b"s123456789012345678", Some(123_456_789_012_345_678)),
            (b"", None),
            (b"s", None),
            (b"x1", None),
            (b"s1x", None),
            (b"s12345678901234567890123", None),
        ] {
            let mut known = Name::default();
            name.iter().for_each(|byte| known.read(*byte));
            assert_eq!(known.number(), number, "{}", name.escape_ascii());
        }
    }

    #[test]
    fn a_text_says_what_it_does_to_the_path() {
        let path = |text: &str| {
            let mut query = Opening::of_query();
            text.bytes().chain([0]).for_each(|byte| query.read(&[byte]));
            query.path()
        };
        let long = format!("SET search_path = {}", "x".repeat(ROOM));
        assert!(matches!(path(" set search_path to ta"), Path::Sets { is_local: false, .. }));
        assert_eq!(path("SELECT 1"), Path::Other);
        assert_eq!(path("SET statement_timeout = 5; SET lock_timeout = 5"), Path::Other);
        for unknown in [
            "SELECT set_config('search_path', $1, false)",
            "BEGIN; SET LOCAL search_path = ta",
            "SET search_path = ta; SELECT 1",
            "RESET ALL",
            &long,
        ] {
            assert_eq!(path(unknown), Path::Unknown, "{unknown}");
        }
    }
}

//! [`Opening`]: how the text of a statement begins. Pure.

/// What a statement does to the notifications of its session. A statement that begins with a comment,
/// or stands behind another one, is not recognized
/// here: the server says what it was when it is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Says {
    /// Notifications come from now on.
    Listen,
    /// None come any more.
    Forget,
    /// Nothing that matters here.
    Other,
}

/// The first bytes of a statement's text.
#[derive(Debug)]
pub(super) struct Opening {
    /// A name comes first, and ends with a zero.
    in_name: bool,
    text: [u8; 24],
    len: usize,
    /// There was no room for all of it.
    is_cut: bool,
}

impl Opening {
    /// Of the body of a Query.
    pub(super) fn of_query() -> Self {
        Self { in_name: false, text: [0; 24], len: 0, is_cut: false }
    }

    /// Of the body of a Parse.
    pub(super) fn of_parse() -> Self {
        Self { in_name: true, ..Self::of_query() }
    }

    pub(super) fn read(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match byte {
                _ if self.is_cut => return,
                _ if self.in_name => self.in_name = byte != 0,
                // Space in front does not matter, and neither do the types that follow the zero
                // after the text of a Parse: nothing long is looked at to its end.
                _ if self.len == 0 && byte.is_ascii_whitespace() => {}
                _ => match self.text.get_mut(self.len) {
                    Some(place) => {
                        *place = byte;
                        self.len += 1;
                    }
                    None => self.is_cut = true,
                },
            }
        }
    }

    pub(super) fn says(&self) -> Says {
        let text = self.text[..self.len].to_ascii_uppercase();
        let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || *byte >= 0x80;
        if text.strip_prefix(b"LISTEN").and_then(<[u8]>::first).is_some_and(|next| !is_name(next)) {
            return Says::Listen;
        }
        let is_end = |byte: &u8| byte.is_ascii_whitespace() || *byte == b';' || *byte == 0;
        let words: Vec<_> = text.split(is_end).filter(|word| !word.is_empty()).collect();
        match words[..] {
            [b"UNLISTEN", b"*"] | [b"DISCARD", b"ALL"] if !self.is_cut => Says::Forget,
            _ => Says::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Says::{Forget, Listen, Other};

    #[test]
    fn a_statement_is_known_by_its_first_words() {
        let table: [(&[u8], Says); 12] = [
            (b"LISTEN jobs\0", Listen),
            (b"  \n\tlisten \"a very long name of a channel\"\0", Listen),
            (b"listen\"x\"\0", Listen),
            (b"LISTENER\0", Other),
            (b"LISTEN", Other),
            (b"UNLISTEN *\0", Forget),
            (b"unlisten  * ;\0", Forget),
            (b"DISCARD ALL\0", Forget),
            (b"UNLISTEN jobs\0", Other),
            (b"UNLISTEN *; LISTEN jobs\0", Other),
            (b"UNLISTEN *;            ; LISTEN jobs\0", Other),
            (b"", Other),
        ];
        for (text, expected) in table {
            let mut query = Opening::of_query();
            query.read(text);
            assert_eq!(query.says(), expected, "{}", text.escape_ascii());

            let mut parse = Opening::of_parse();
            parse.read(b"LISTEN \0");
            text.iter().for_each(|byte| parse.read(&[*byte]));
            assert_eq!(parse.says(), expected, "{}", text.escape_ascii());
        }
    }
}

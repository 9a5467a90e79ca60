//! [`StatementText`]: the parts of a statement's text by which its effect on the session is known.
//! Pure.

use super::reset::CLEAN;
use super::search_path::{self, PathEffect};

/// The words that are looked for anywhere in a text, and whether a name must end with them.
const KEYWORDS: [(&[u8], bool); 9] = [
    (b"search_path", true),
    (b"listen", true),
    (b"unlisten", true),
    (b"set_config", true),
    (b"advisory_lock", false),
    (b"temp", false),
    (b"create", true),
    (b"update", true),
    (b"pg_settings", true),
];
pub(super) const SEARCH_PATH: usize = 0;
pub(super) const LISTEN: usize = 1;
pub(super) const UNLISTEN: usize = 2;
pub(super) const SET_CONFIG: usize = 3;
pub(super) const ADVISORY_LOCK: usize = 4;
pub(super) const TEMP: usize = 5;
pub(super) const CREATE: usize = 6;
pub(super) const UPDATE: usize = 7;
pub(super) const PG_SETTINGS: usize = 8;

/// The part of each word that stands before the next byte, and the number of times that each came.
#[derive(Debug, Default)]
pub(super) struct KeywordCounts {
    have: [u8; KEYWORDS.len()],
    /// Whether a part of any of them stands there.
    has_begun: bool,
    times: [u32; KEYWORDS.len()],
}

/// Whether a byte may stand in a name.
pub(super) fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// Whether a byte may stand behind a statement's end.
fn is_end(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == b';' || byte == 0
}

impl KeywordCounts {
    pub(super) fn read(&mut self, byte: u8) {
        // Without going back: a first letter that does not come again cannot begin a second match.
        let byte = byte.to_ascii_lowercase();
        // Most bytes begin none and go on with none.
        if !self.has_begun && !KEYWORDS.iter().any(|(word, _)| word[0] == byte) {
            return;
        }
        self.has_begun = false;
        for (at, (word, ends_name)) in KEYWORDS.iter().enumerate() {
            let have = usize::from(self.have[at]);
            if have == 0 && byte != word[0] {
                continue;
            }
            if have == word.len() && !(*ends_name && is_name(byte)) {
                self.times[at] = self.times[at].saturating_add(1);
            }
            self.have[at] = if word.get(have) == Some(&byte) {
                self.have[at] + 1
            } else {
                u8::from(byte == word[0])
            };
            self.has_begun |= self.have[at] > 0;
        }
    }

    pub(super) fn has(&self, word: usize) -> bool {
        self.times[word] > 0
    }

    pub(super) fn times(&self, word: usize) -> u32 {
        self.times[word]
    }
}

/// The effect of a statement on the subscriptions of its session. A `LISTEN` behind another
/// statement of the same text is known from its CommandComplete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ListenEffect {
    /// Notifications may come: the text listens, runs code of its own, or names a function that may
    /// listen.
    Listen,
    /// The session ends all subscriptions.
    Forget,
    /// No effect on subscriptions.
    Other,
}

/// The properties of a text by which its CommandComplete tells whether state is left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LastingEffect {
    is_local: bool,
}

impl LastingEffect {
    /// The properties of either of two texts, one of which is answered next.
    pub(super) fn or(self, other: Self) -> Self {
        Self { is_local: self.is_local && other.is_local }
    }

    /// Whether a statement that ends with this tag leaves something in its session.
    pub(super) fn leaves_state(self, tag: &[u8]) -> bool {
        match tag {
            b"SET" => !self.is_local,
            b"PREPARE" | b"DECLARE CURSOR" | b"LOAD" => true,
            // They run code that no text tells of.
            b"DO" | b"CALL" => true,
            // They leave less: what a hook of the pool has set is gone.
            b"RESET" | b"DISCARD ALL" => true,
            _ => false,
        }
    }
}

/// The bytes of a text that are kept: enough for a statement that sets a path, which has to be
/// understood as a whole.
const MAX_TEXT: usize = 128;

/// The first bytes of a statement's text, and which words stand anywhere in it.
#[derive(Debug)]
pub(super) struct StatementText {
    /// Whether the statement's name is being read, which comes first in a Parse and ends with a
    /// zero.
    in_name: bool,
    name: StatementName,
    text: [u8; MAX_TEXT],
    len: usize,
    /// Whether the text was longer than its room.
    is_cut: bool,
    /// Whether a semicolon came, and whether another statement may stand behind it.
    has_semicolon: bool,
    is_several: bool,
    /// Whether the text is over. The object identifiers of parameter types follow it in a Parse.
    is_over: bool,
    hash: u64,
    words: KeywordCounts,
}

/// The name of a prepared statement. The client library's names are an `s` and a number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct StatementName {
    number: u64,
    len: usize,
    is_other: bool,
}

impl StatementName {
    pub(super) fn read(&mut self, byte: u8) {
        match byte {
            b's' if self.len == 0 => {}
            // 18 digits fit in 64 bits.
            b'0'..=b'9' if (1..=18).contains(&self.len) => {
                self.number = self.number * 10 + u64::from(byte - b'0');
            }
            _ => self.is_other = true,
        }
        self.len += 1;
    }

    /// The number in the name, if the client library made it.
    pub(super) fn number(self) -> Option<u64> {
        (self.len > 1 && !self.is_other).then_some(self.number)
    }
}

impl StatementText {
    /// A reader of the body of a Query.
    pub(super) fn of_query() -> Self {
        Self {
            in_name: false,
            name: StatementName::default(),
            text: [0; MAX_TEXT],
            len: 0,
            is_cut: false,
            has_semicolon: false,
            is_several: false,
            is_over: false,
            hash: search_path::EMPTY,
            words: KeywordCounts::default(),
        }
    }

    /// A reader of the body of a Parse.
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
            self.hash = search_path::hashed(self.hash, byte);
            if self.is_over {
                continue;
            }
            self.is_over = byte == 0;
            self.words.read(byte);
            self.is_several |= self.has_semicolon && !is_end(byte);
            self.has_semicolon |= byte == b';';
            // Space in front takes no room, so that the first words are always kept.
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

    /// The number in the name of the statement that is prepared.
    pub(super) fn name(&self) -> Option<u64> {
        self.name.number()
    }

    /// The hash of the text, and of the types of its parameters as far as the client gave them: see
    /// [`hash`](super::unclaimed::hash).
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    /// Whether the text begins with this word, and no longer one.
    fn begins(&self, word: &[u8]) -> bool {
        let (begin, rest) = self.text[..self.len].split_at(word.len().min(self.len));
        begin.eq_ignore_ascii_case(word) && rest.first().is_some_and(|next| !is_name(*next))
    }

    /// Whether it runs code that no text tells of.
    fn runs_code(&self) -> bool {
        self.begins(b"DO") || self.begins(b"CALL")
    }

    /// Whether the text is [`CLEAN`], which resets all of a session but its prepared statements.
    pub(super) fn is_clean(&self) -> bool {
        self.text[..self.len].starts_with(&CLEAN.as_bytes()[..CLEAN.len().min(MAX_TEXT)])
    }

    pub(super) fn listen_effect(&self) -> ListenEffect {
        let text = self.text[..self.len].to_ascii_uppercase();
        // Three, as behind the two that are compared there must be no other statement.
        let words: Vec<_> =
            text.split(|byte| is_end(*byte)).filter(|word| !word.is_empty()).take(3).collect();
        match words[..] {
            [b"UNLISTEN", b"*"] | [b"DISCARD", b"ALL"] if !self.is_cut => {
                return ListenEffect::Forget;
            }
            _ if self.is_clean() => return ListenEffect::Forget,
            _ => {}
        }
        // Each `unlisten` holds a `listen`.
        if self.words.times(LISTEN) > self.words.times(UNLISTEN) || self.runs_code() {
            return ListenEffect::Listen;
        }
        ListenEffect::Other
    }

    /// Whether the text may leave state in the session that no answer tells of: a setting or a lock
    /// that a function makes, or a temporary table, whose tag is that of a lasting one, or of the query
    /// that it is made of.
    pub(super) fn touches(&self) -> bool {
        let is_temporary = self.words.has(TEMP) && self.words.has(CREATE);
        // A rule of the view calls `set_config`.
        let sets_by_view = self.words.has(PG_SETTINGS) && self.words.has(UPDATE);
        self.words.has(SET_CONFIG)
            || sets_by_view
            || self.words.has(ADVISORY_LOCK)
            || is_temporary
            || self.runs_code()
    }

    /// The properties by which the answer tells whether the session is changed for longer than its
    /// transaction.
    pub(super) fn lasting_effect(&self) -> LastingEffect {
        // Also the one that begins a transaction with its properties.
        let is_local = self.begins(b"SET LOCAL") || self.begins(b"SET TRANSACTION");
        LastingEffect { is_local: is_local && !self.is_several }
    }

    /// A query that names a setting only reads it, unless it calls what sets one.
    fn only_reads(&self) -> bool {
        let is_query = [&b"SELECT"[..], b"SHOW", b"WITH"].iter().any(|word| self.begins(word));
        is_query && !self.words.has(SET_CONFIG)
    }

    /// The effect of the text on the path on which names are looked for.
    pub(super) fn path(&self) -> PathEffect {
        let text = self.text[..self.len].split(|byte| *byte == 0).next().unwrap_or_default();
        match PathEffect::of(text) {
            // What it was at the beginning.
            _ if self.is_clean() => PathEffect::Sets { to: 0, is_local: false },
            PathEffect::Other if self.words.has(SEARCH_PATH) && !self.only_reads() => {
                PathEffect::Unknown
            }
            PathEffect::Sets { .. } if self.is_cut => PathEffect::Unknown,
            path => path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ListenEffect::{Forget, Listen, Other};

    #[test]
    fn a_statement_is_known_by_its_first_words_and_what_may_listen_by_any() {
        let table: [(&[u8], ListenEffect); 20] = [
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
            let mut query = StatementText::of_query();
            query.read(text);
            assert_eq!(query.listen_effect(), expected, "{}", text.escape_ascii());

            let mut parse = StatementText::of_parse();
            parse.read(b"s12\0");
            text.iter().for_each(|byte| parse.read(&[*byte]));
            assert_eq!(parse.listen_effect(), expected, "{}", text.escape_ascii());
            assert_eq!(parse.name(), Some(12));
        }
    }

    #[test]
    fn what_lasts_is_known_by_its_words_or_by_its_answer() {
        let long = format!("SET LOCAL x = '{}'", "y".repeat(200));
        let table = [
            ("SELECT 1", "SELECT 1", false, false),
            ("SELECT temp FROM template", "SELECT 1", false, false),
            ("SET x = 1", "SET", false, true),
            ("SELECT 1; SET ROLE x", "SET", false, true),
            ("SET LOCAL x = 1", "SET", false, false),
            ("set transaction read only", "SET", false, false),
            ("CREATE TABLE t (a int)", "CREATE TABLE", false, false),
            ("CREATE TEMPORARY TABLE t (a int)", "CREATE TABLE", true, false),
            ("SELECT 1; CREATE TEMP TABLE t (a int)", "CREATE TABLE", true, false),
            ("PREPARE p AS SELECT 1", "PREPARE", false, true),
            ("SELECT set_config('a', 'b', false)", "SELECT 1", true, false),
            ("SELECT pg_try_advisory_lock(1)", "SELECT 1", true, false),
            ("SELECT pg_advisory_xact_lock(1)", "SELECT 1", false, false),
            ("DO $$ BEGIN END $$", "DO", true, true),
            // The answer does not tell.
            ("DROP TABLE t; CREATE TEMP TABLE t AS SELECT 1", "SELECT 1", true, false),
            ("/* x */ CREATE TEMP TABLE t AS SELECT 1", "SELECT 1", true, false),
            ("SELECT temp, created FROM template", "SELECT 1", false, false),
            ("/* x */ DO $$ BEGIN END $$", "DO", false, true),
            ("BEGIN; CALL p(); COMMIT", "CALL", false, true),
            ("call p()", "CALL", true, true),
            ("SET LOCAL x = 1;\n ", "SET", false, false),
            ("SET LOCAL x = 1; SET y = 1", "SET", false, true),
            ("SET TRANSACTION READ WRITE; SET ROLE x", "SET", false, true),
            // What a hook of the pool has set is gone.
            ("RESET ALL", "RESET", false, true),
            ("DISCARD ALL", "DISCARD ALL", false, true),
            // Longer than what is kept of a text.
            (&long, "SET", false, false),
            (&format!("{long}; "), "SET", false, false),
            (&format!("{long}; SET y = 1"), "SET", false, true),
            // A rule of the view calls `set_config`.
            ("UPDATE pg_settings SET setting = '1s'", "UPDATE 1", true, false),
            ("WITH a AS (SELECT 1) update pg_catalog.pg_settings SET ..", "UPDATE 1", true, false),
            ("SELECT setting FROM pg_settings", "SELECT 1", false, false),
        ];
        for (text, tag, touches, lasting_effect) in table {
            let mut query = StatementText::of_query();
            text.bytes().chain([0]).for_each(|byte| query.read(&[byte]));
            let found = (query.touches(), query.lasting_effect().leaves_state(tag.as_bytes()));
            assert_eq!(found, (touches, lasting_effect), "{text}");
        }
        let mut clean = StatementText::of_query();
        CLEAN.bytes().chain([0]).for_each(|byte| clean.read(&[byte]));
        // In this order. Servers before 16.5 and 15.9 lose the role that a login begins with without the second.
        assert!(CLEAN.contains("SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; RESET ALL"));
        assert_eq!((clean.is_clean(), clean.listen_effect()), (true, Forget));
        assert_eq!(clean.path(), PathEffect::Sets { to: 0, is_local: false });
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
            let mut known = StatementName::default();
            name.iter().for_each(|byte| known.read(*byte));
            assert_eq!(known.number(), number, "{}", name.escape_ascii());
        }
    }

    #[test]
    fn a_text_says_what_it_does_to_the_path() {
        let path = |text: &str| {
            let mut query = StatementText::of_query();
            text.bytes().chain([0]).for_each(|byte| query.read(&[byte]));
            query.path()
        };
        let long = format!("SET search_path = {}", "x".repeat(MAX_TEXT));
        assert!(matches!(path(" set search_path to ta"), PathEffect::Sets { is_local: false, .. }));
        assert_eq!(path("SELECT 1"), PathEffect::Other);
        assert_eq!(path("SELECT current_setting('search_path')"), PathEffect::Other);
        assert_eq!(path("SHOW search_path"), PathEffect::Other);
        assert_eq!(path("SET statement_timeout = 5; SET lock_timeout = 5"), PathEffect::Other);
        for unknown in [
            "SELECT set_config('search_path', $1, false)",
            "BEGIN; SET LOCAL search_path = ta",
            "SET search_path = ta; SELECT 1",
            "RESET ALL",
            &long,
        ] {
            assert_eq!(path(unknown), PathEffect::Unknown, "{unknown}");
        }
    }
}

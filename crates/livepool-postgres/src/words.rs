//! [`Words`]: which words stand anywhere in the text of a statement. Pure.

/// What is looked for anywhere in a text, and whether it ends a name. Its first letter must not occur in it
/// again.
const WORDS: [(&[u8], bool); 6] = [
    (b"search_path", true),
    (b"listen", true),
    (b"unlisten", true),
    (b"set_config", true),
    (b"advisory_lock", false),
    (b"temp", false),
];
pub(super) const SEARCH_PATH: usize = 0;
pub(super) const LISTEN: usize = 1;
pub(super) const UNLISTEN: usize = 2;
pub(super) const SET_CONFIG: usize = 3;
pub(super) const ADVISORY_LOCK: usize = 4;
pub(super) const TEMP: usize = 5;

/// How much of each word stands before the next byte, and how often each was seen.
#[derive(Debug, Default)]
pub(super) struct Words {
    have: [u8; WORDS.len()],
    times: [u32; WORDS.len()],
}

/// Whether it may stand in a name.
pub(super) fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

impl Words {
    pub(super) fn read(&mut self, byte: u8) {
        let byte = byte.to_ascii_lowercase();
        for (at, (word, ends)) in WORDS.iter().enumerate() {
            let have = usize::from(self.have[at]);
            if have == 0 && byte != word[0] {
                continue;
            }
            if have == word.len() && !(*ends && is_name(byte)) {
                self.times[at] = self.times[at].saturating_add(1);
            }
            self.have[at] = if word.get(have) == Some(&byte) {
                self.have[at] + 1
            } else {
                u8::from(byte == word[0])
            };
        }
    }

    pub(super) fn has(&self, word: usize) -> bool {
        self.times[word] > 0
    }

    pub(super) fn times(&self, word: usize) -> u32 {
        self.times[word]
    }
}

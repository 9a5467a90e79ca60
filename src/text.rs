//! Safe forms of texts that are not ours.
//!
//! Both rules stand here and nowhere else. [`redacted`]: a value that was given where an address
//! belongs is not repeated if it may be a secret, however it was mistyped. [`Escaped`]: the words
//! of a peer or of foreign code are escaped and cut before they reach a log line, an event or an
//! error.

use std::fmt::{self, Write};
use std::sync::Arc;

use crate::foreign;

/// The text in place of a value that is not shown.
const REDACTED: &str = "(not shown: it may hold a password)";

/// The schemes of URLs that people have at hand. An unknown scheme is not repeated: a password may
/// hold `://`.
const SCHEMES: [&str; 22] = [
    "amqp",
    "amqps",
    "file",
    "ftp",
    "http",
    "https",
    "mongodb",
    "mysql",
    "nats",
    "postgres",
    "postgresql",
    "redis",
    "redis+unix",
    "rediss",
    "ssl",
    "tcp",
    "tls",
    "unix",
    "valkey",
    "valkeys",
    "ws",
    "wss",
];

/// The scheme of this URL, if it is a usual one.
pub(crate) fn scheme(text: &str) -> Option<&'static str> {
    let (scheme, _) = text.split_once("://")?;
    SCHEMES.into_iter().find(|known| *known == scheme)
}

/// The form in which a value is shown that was given where an address belongs: in quotes if it has
/// the shape of an address and of nothing else, and not at all if it has another.
///
/// A password stands before an `@`, behind a `:`, in a query or in a path. So only hosts, ports
/// that are numbers, and paths of Unix sockets are shown, and the scheme of a URL in front of them.
pub(crate) fn redacted(text: &str) -> String {
    if may_be_shown(text) { format!("{text:?}") } else { REDACTED.to_owned() }
}

/// The same form as [`redacted`], without the quotes.
pub(crate) fn redacted_unquoted(text: &str) -> String {
    if may_be_shown(text) { Escaped(&text).to_string() } else { REDACTED.to_owned() }
}

/// These words with the URLs among them cut down to what [`redacted_unquoted`] shows of an address: a
/// URL may hold a password before its `@`, or a token in its path or query.
pub(crate) fn without_urls(words: &str) -> String {
    let shown = |word: &str| {
        let Some(at) = word.find("://") else { return word.to_owned() };
        let rest = &word[at + "://".len()..];
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = authority.rsplit('@').next().unwrap_or_default();
        let start = word[..at].rfind(|c: char| !c.is_ascii_alphanumeric() && c != '+');
        let scheme = &word[start.map_or(0, |start| start + 1)..at];
        format!("{scheme}://{}", if is_address(host) { host } else { "…" })
    };
    words.split(' ').map(shown).collect::<Vec<_>>().join(" ")
}

fn may_be_shown(text: &str) -> bool {
    let address = match scheme(text) {
        Some(scheme) => &text[scheme.len() + "://".len()..],
        None => text,
    };
    address.split(',').all(is_address)
}

/// Whether this is a host, perhaps with a port, or the path of a Unix socket.
fn is_address(text: &str) -> bool {
    if text.chars().any(|c| "@?#=%&;\"'\\{}<>|^`!$*+~()".contains(c)) {
        return false;
    }
    if let Some(path) = text.strip_prefix("unix:") {
        return path.is_empty() || (path.starts_with('/') && !path.contains(':'));
    }
    // The path of a URL, which may hold a token.
    if text.contains('/') {
        return false;
    }
    let is_of_ipv6 = |c: char| c.is_ascii_hexdigit() || "[]:.".contains(c);
    if text.matches(':').count() > 1 {
        return text.chars().all(is_of_ipv6);
    }
    match text.split_once(':') {
        Some((_, port)) => !port.is_empty() && port.chars().all(|c| c.is_ascii_digit()),
        // A word alone may be what was meant for another setting, a password say. Only lower-case
        // letters, dots and hyphens are taken for a host.
        None => {
            text.parse::<std::net::IpAddr>().is_ok()
                || text.chars().all(|c| c.is_ascii_lowercase() || ".-".contains(c))
        }
    }
}

/// The most characters of a text that a peer can bring into a log line or an error.
const MAX_CHARS: usize = 512;
/// The most characters of a code that a peer can bring into an event.
const MAX_CODE_CHARS: usize = 40;

/// A code that a peer gave, as [`Escaped`] shows it and no longer than 40 characters.
pub(crate) fn escaped_code(text: &str) -> Arc<str> {
    Escaped(&text).to_string().chars().take(MAX_CODE_CHARS).collect::<String>().into()
}

/// The words of a peer or of foreign code on one line, without characters that steer a terminal or
/// turn the direction of the text, and at most 512 characters of them.
///
/// ```
/// use livepool::protocol::Escaped;
///
/// assert_eq!(Escaped(&"no\nroom").to_string(), r"no\nroom");
/// ```
pub struct Escaped<'a>(pub &'a dyn fmt::Display);

impl fmt::Debug for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut writer = EscapingWriter { text: String::new(), left: MAX_CHARS };
        // Ends early when enough was said: whoever formats may never end.
        let said = foreign::call(|| write!(writer, "{}", self.0));
        // What was written before the panic or the end is shown as well.
        f.write_str(&writer.text)?;
        match said {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => f.write_str("…"),
            Err(foreign::Panicked) => f.write_str("(its text cannot be had)"),
        }
    }
}

struct EscapingWriter {
    text: String,
    left: usize,
}

impl Write for EscapingWriter {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            // Characters are counted before they are escaped: an escaped text is longer than that.
            self.left = self.left.checked_sub(1).ok_or(fmt::Error)?;
            if needs_escape(c) {
                self.text.extend(c.escape_default());
            } else {
                self.text.push(c);
            }
        }
        Ok(())
    }
}

/// Whether this is a control character, an end of a line or paragraph, a change of direction, or
/// invisible.
fn needs_escape(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_among_words_loses_all_that_may_be_secret() {
        for (words, shown) in [
            ("no room", "no room"),
            (
                "GET https://me:hunter2@vault.example:8200/v1/hunter2?token=hunter2 failed",
                "GET https://vault.example:8200 failed",
            ),
            ("(url=https://sts.example/?X=hunter2)", "https://sts.example"),
            ("https://hunter2!x", "https://…"),
        ] {
            assert_eq!(without_urls(words), shown);
        }
    }

    #[test]
    fn an_address_is_shown_as_it_was_given_and_what_may_hold_a_secret_is_not() {
        for shown in [
            "",
            "db",
            "db.internal",
            ":80",
            "db:0",
            "db:70000",
            "127.0.0.1:0",
            "::1:80",
            "[::1]",
            "[::1]:80",
            "300.1.2.3:80",
            "http://db:80",
            "postgres://db",
            "a b:80",
            "db\n:80",
            "a:1,b:2",
            "unix:",
            "unix:/run/db.sock",
            "10.0.0.1",
        ] {
            assert_eq!(redacted(shown), format!("{shown:?}"));
        }
        for hidden in [
            "me:hunter2",
            "hunter2@db:1",
            ":hunter2@db:1",
            "me:hunter2@db:1",
            "hunter2",
            "Hunter",
            "postgres://me:hunter2@db:1/x",
            "hunter2://db:80",
            "http://db:80/hunter2",
            "http://db/?token=hunter2",
            "db:80?token=hunter2",
            "host=db password=hunter2",
            "redis://:hunter2@h:1",
            "redis:me:hunter2@h",
            "//me:hunter2@h",
            "postgres:/me:hunter2@h",
            "me:hunter2,x:80",
            "unix:me:hunter2",
            "db:1#hunter2",
            "me:pass:80",
            "%68unter2:80",
        ] {
            assert_eq!(redacted(hidden), REDACTED, "{hidden}");
        }
    }

    #[test]
    fn what_a_peer_says_stays_on_its_line_and_ends() {
        assert_eq!(
            Escaped(&"no\nINFO root\x1b[2J\u{9b}\u{202e}x").to_string(),
            "no\\nINFO root\\u{1b}[2J\\u{9b}\\u{202e}x"
        );
        assert_eq!(Escaped(&"für Ärger: 日本").to_string(), "für Ärger: 日本");
        let long = Escaped(&"x".repeat(10_000)).to_string();
        assert_eq!((long.chars().count(), long.ends_with("x…")), (MAX_CHARS + 1, true));
        assert_eq!(Escaped(&"y".repeat(MAX_CHARS)).to_string().len(), MAX_CHARS);
    }

    #[test]
    fn a_text_that_never_ends_or_panics_is_a_text_all_the_same() {
        struct Endless;
        impl fmt::Display for Endless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                loop {
                    f.write_str("and so on, ")?;
                }
            }
        }
        struct Panics;
        impl fmt::Display for Panics {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("so far")?;
                panic!("on purpose");
            }
        }
        assert!(Escaped(&Endless).to_string().ends_with('…'));
        assert_eq!(Escaped(&Panics).to_string(), "so far(its text cannot be had)");
    }
}

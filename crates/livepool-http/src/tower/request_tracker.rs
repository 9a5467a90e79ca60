//! [`Asked`]: what the bytes that were written ask for. Pure.
//!
//! The read timeout may run while the peer owes an answer and has all that it needs for it. Nobody tells
//! this side of a connection what it carries, so it reads along: a request of HTTP/1 in the clear says
//! where it ends. Everything else, a WebSocket or a tunnel behind such a request too, owes nothing that
//! could be seen from here; but the first flight of TLS is answered.

/// The longest line of a head that is kept. hyper's URIs have at most 64 KiB.
const LONGEST_LINE: usize = 70 * 1024;

/// What is known of a conversation, by what was written so far.
#[derive(Debug, Default)]
pub(super) enum Asked {
    /// Nothing was written.
    #[default]
    Nothing,
    Requests(Request),
    /// A ClientHello, and nothing was heard since.
    Handshake,
    /// What cannot be seen through.
    Something,
}

/// What the peer is to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing, or nobody can tell.
    Nobodys,
    /// It is to answer, and has all that it needs for that.
    Peers,
}

/// A record of TLS that holds a handshake message (RFC 8446 section 5.1). No other protocol begins so.
pub(super) const TLS: u8 = 0x16;

impl Asked {
    /// This was written.
    pub(super) fn wrote(&mut self, mut bytes: &[u8]) {
        while let Some(first) = bytes.first() {
            match self {
                Self::Nothing if *first == TLS => *self = Self::Handshake,
                Self::Nothing => *self = Self::Requests(Request::default()),
                Self::Requests(request) => {
                    if request.at == At::End {
                        *request = Request {
                            line: std::mem::take(&mut request.line),
                            ..Request::default()
                        };
                        request.line.clear();
                    }
                    match request.takes(bytes) {
                        Some(taken) => bytes = &bytes[taken..],
                        None => *self = Self::Something,
                    }
                }
                Self::Handshake | Self::Something => return,
            }
        }
    }

    /// Something was read.
    pub(super) fn heard(&mut self) {
        match self {
            Self::Requests(request) => request.is_answered = true,
            Self::Handshake => *self = Self::Something,
            Self::Nothing | Self::Something => {}
        }
    }

    /// Who has to say something now.
    pub(super) fn turn(&self) -> Turn {
        match self {
            Self::Requests(Request { at: At::End, is_answered: false, .. }) | Self::Handshake => {
                Turn::Peers
            }
            _ => Turn::Nobodys,
        }
    }
}

/// How far a request of HTTP/1 has been written (RFC 9112).
#[derive(Debug, Default)]
pub(super) struct Request {
    at: At,
    /// Of a line that came in pieces, what came so far.
    line: Vec<u8>,
    /// What the head says of the body.
    length: u64,
    is_chunked: bool,
    /// Something was read since it began.
    is_answered: bool,
}

/// A place in a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum At {
    /// In the request line.
    #[default]
    Start,
    Fields,
    /// So much is left of the body.
    Body(u64),
    ChunkSize,
    /// So much is left of a chunk, its end of line included.
    Chunk(u64),
    Trailers,
    End,
}

impl Request {
    /// Takes in what belongs to one place of the request. Returns how much that was; `None`, if this is
    /// no request.
    fn takes(&mut self, bytes: &[u8]) -> Option<usize> {
        if let At::Body(left) | At::Chunk(left) = &mut self.at {
            let taken = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
            *left -= taken as u64;
            match self.at {
                At::Body(0) => self.at = At::End,
                At::Chunk(0) => self.at = At::ChunkSize,
                _ => {}
            }
            return Some(taken);
        }
        if self.at == At::Start && self.line.is_empty() && !is_of_token(bytes[0]) {
            return None;
        }
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
            self.keep(bytes)?;
            return Some(bytes.len());
        };
        if self.line.is_empty() && end <= LONGEST_LINE {
            self.reads(&bytes[..end])?;
        } else {
            self.keep(&bytes[..end])?;
            let line = std::mem::take(&mut self.line);
            self.reads(&line)?;
            // Its memory is used again.
            self.line = line;
            self.line.clear();
        }
        Some(end + 1)
    }

    fn keep(&mut self, bytes: &[u8]) -> Option<()> {
        let room = LONGEST_LINE - self.line.len();
        if room < bytes.len() && matches!(self.at, At::Start | At::ChunkSize) {
            return None;
        }
        // A field that is longer is none of those that matter here.
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Some(())
    }

    /// A whole line, without its end.
    fn reads(&mut self, line: &[u8]) -> Option<()> {
        let line = line.trim_ascii();
        self.at = match self.at {
            At::Start if is_request_line(line) => At::Fields,
            At::Fields if line.is_empty() => match (self.is_chunked, self.length) {
                (true, _) => At::ChunkSize,
                (false, 0) => At::End,
                (false, length) => At::Body(length),
            },
            At::Fields => {
                self.reads_field(line)?;
                At::Fields
            }
            At::ChunkSize => match chunk_size(line)? {
                0 => At::Trailers,
                size => At::Chunk(size.checked_add(2)?),
            },
            At::Trailers if line.is_empty() => At::End,
            At::Trailers => At::Trailers,
            _ => return None,
        };
        Some(())
    }

    fn reads_field(&mut self, line: &[u8]) -> Option<()> {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            self.length = std::str::from_utf8(value).ok()?.parse().ok()?;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            let last = value.rsplit(|byte| *byte == b',').next()?;
            self.is_chunked = last.trim_ascii().eq_ignore_ascii_case(b"chunked");
        }
        Some(())
    }
}

/// RFC 9110 section 5.6.2.
fn is_of_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// `GET / HTTP/1.1`. That of HTTP/2's preface has another version (RFC 9113 section 3.4).
fn is_request_line(line: &[u8]) -> bool {
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    method.is_some_and(|method| method.iter().all(|byte| is_of_token(*byte)))
        && target.is_some_and(|target| !target.is_empty())
        && version.is_some_and(|version| version == b"HTTP/1.1" || version == b"HTTP/1.0")
        && words.next().is_none()
}

fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| *byte == b';').next()?.trim_ascii();
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Turn::{Nobodys, Peers};

    /// Whose turn it is after this was written, all at once and byte by byte.
    fn after(text: &str) -> Turn {
        let (mut whole, mut pieces) = (Asked::default(), Asked::default());
        whole.wrote(text.as_bytes());
        for byte in text.as_bytes() {
            pieces.wrote(&[*byte]);
        }
        assert_eq!(whole.turn(), pieces.turn(), "{text:?}");
        whole.turn()
    }

    #[test]
    fn it_is_the_peers_turn_when_a_request_is_complete() {
        let get = "GET /a?b HTTP/1.1\r\nhost: x\r\n\r\n";
        let sized = "POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nfour";
        let chunked = "PUT / HTTP/1.1\r\ntransfer-encoding: gzip, Chunked\r\n\r\n\
                       2;a=b\r\nok\r\nA\r\n0123456789\r\n0\r\nx: y\r\n\r\n";
        let connect = "CONNECT example.org:443 HTTP/1.1\r\n\r\n";
        let bare = "GET / HTTP/1.0\n\n";
        for request in [get, sized, chunked, connect, bare] {
            for cut in 1..request.len() {
                assert_eq!(after(&request[..cut]), Nobodys, "{:?}", &request[..cut]);
            }
            assert_eq!(after(request), Peers, "{request:?}");
            assert_eq!(after(&format!("{request}{sized}")), Peers, "the next one: {request:?}");
            assert_eq!(after(&format!("{request}POST ")), Nobodys, "{request:?}");
        }
    }

    #[test]
    fn what_is_no_request_is_nobodys_turn_from_then_on() {
        let get = "GET / HTTP/1.1\r\n\r\n";
        for other in [
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "\u{1}\u{2}",
            "HELO there\r\n",
            "GET /\r\n",
            "GET / HTTP/1.1\r\nno field\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: many\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nx\r\n",
        ] {
            assert_eq!(after(other), Nobodys, "{other:?}");
            assert_eq!(after(&format!("{other}{get}")), Nobodys, "{other:?}");
            assert_eq!(after(&format!("{get}{other}")), Nobodys, "behind a request: {other:?}");
        }
        let long = "x".repeat(LONGEST_LINE);
        assert_eq!(after(&format!("GET /{long} HTTP/1.1\r\n\r\n")), Nobodys);
        assert_eq!(after(&format!("GET / HTTP/1.1\r\nx: {long}\r\n\r\n")), Peers);
    }

    #[test]
    fn an_answer_is_owed_until_its_first_bytes_and_only_if_none_came_before() {
        let mut asked = Asked::default();
        asked.wrote(b"POST / HTTP/1.1\r\ncontent-length: 4\r\n\r\n");
        asked.heard();
        asked.wrote(b"four");
        assert_eq!(asked.turn(), Nobodys, "it was answered before it was over");
        asked.wrote(b"GET / HTTP/1.1\r\n\r\n");
        assert_eq!(asked.turn(), Peers);
        asked.heard();
        assert_eq!(asked.turn(), Nobodys);
    }

    #[test]
    fn of_tls_the_first_flight_is_answered() {
        let mut asked = Asked::default();
        asked.wrote(&[TLS, 3, 1]);
        assert_eq!(asked.turn(), Peers);
        asked.heard();
        asked.wrote(&[TLS, 3, 3]);
        assert_eq!(asked.turn(), Nobodys);
    }
}

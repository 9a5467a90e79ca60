//! [`RequestTracker`]: what the bytes that were written ask for. Pure.
//!
//! The read timeout may run while the peer owes an answer and has all that it needs for it. Nobody tells
//! this side of a connection what it carries, so it reads along: a request of HTTP/1 in the clear says
//! where it ends. Everything else, a WebSocket or a tunnel behind such a request too, owes nothing that
//! could be seen from here; but the first flight of TLS is answered.

/// The longest line of a head that is kept. hyper's URIs have at most 64 KiB.
const MAX_LINE: usize = 70 * 1024;

/// What is known of a conversation, by what was written so far.
#[derive(Debug, Default)]
pub(super) enum RequestTracker {
    /// Nothing was written.
    #[default]
    Nothing,
    Requests(WrittenRequest),
    /// A ClientHello, and nothing was heard since.
    ClientHello,
    /// What cannot be seen through.
    Opaque,
}

/// A record of TLS that holds a handshake message (RFC 8446 section 5.1). No other protocol begins so.
pub(super) const TLS: u8 = 0x16;

impl RequestTracker {
    /// This was written.
    pub(super) fn note_write(&mut self, mut bytes: &[u8]) {
        while let Some(first) = bytes.first() {
            match self {
                Self::Nothing if *first == TLS => *self = Self::ClientHello,
                Self::Nothing => *self = Self::Requests(WrittenRequest::default()),
                Self::Requests(request) => {
                    if request.part == RequestPart::End {
                        *request = WrittenRequest {
                            line: std::mem::take(&mut request.line),
                            ..WrittenRequest::default()
                        };
                        request.line.clear();
                    }
                    match request.consume(bytes) {
                        Some(taken) => bytes = &bytes[taken..],
                        None => *self = Self::Opaque,
                    }
                }
                Self::ClientHello | Self::Opaque => return,
            }
        }
    }

    /// Something was read.
    pub(super) fn note_read(&mut self) {
        match self {
            Self::Requests(request) => request.is_answered = true,
            Self::ClientHello => *self = Self::Opaque,
            Self::Nothing | Self::Opaque => {}
        }
    }

    /// Whether the peer owes an answer and has all that it needs for that. `false` where nobody can tell.
    pub(super) fn is_reply_owed(&self) -> bool {
        match self {
            Self::Requests(request) => request.part == RequestPart::End && !request.is_answered,
            Self::ClientHello => true,
            Self::Nothing | Self::Opaque => false,
        }
    }
}

/// How far a request of HTTP/1 has been written (RFC 9112).
#[derive(Debug, Default)]
pub(super) struct WrittenRequest {
    part: RequestPart,
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
enum RequestPart {
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

impl WrittenRequest {
    /// Takes in what belongs to one place of the request. Returns how much that was; `None`, if this is
    /// no request.
    fn consume(&mut self, bytes: &[u8]) -> Option<usize> {
        if let RequestPart::Body(left) | RequestPart::Chunk(left) = &mut self.part {
            let taken = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
            *left -= taken as u64;
            match self.part {
                RequestPart::Body(0) => self.part = RequestPart::End,
                RequestPart::Chunk(0) => self.part = RequestPart::ChunkSize,
                _ => {}
            }
            return Some(taken);
        }
        if self.part == RequestPart::Start && self.line.is_empty() && !is_of_token(bytes[0]) {
            return None;
        }
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
            self.keep(bytes)?;
            return Some(bytes.len());
        };
        if self.line.is_empty() && end <= MAX_LINE {
            self.read_line(&bytes[..end])?;
        } else {
            self.keep(&bytes[..end])?;
            let line = std::mem::take(&mut self.line);
            self.read_line(&line)?;
            // Its memory is used again.
            self.line = line;
            self.line.clear();
        }
        Some(end + 1)
    }

    fn keep(&mut self, bytes: &[u8]) -> Option<()> {
        let room = MAX_LINE - self.line.len();
        if room < bytes.len() && matches!(self.part, RequestPart::Start | RequestPart::ChunkSize) {
            return None;
        }
        // A field that is longer is none of those that matter here.
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Some(())
    }

    /// A whole line, without its end.
    fn read_line(&mut self, line: &[u8]) -> Option<()> {
        let line = line.trim_ascii();
        self.part = match self.part {
            RequestPart::Start if is_request_line(line) => RequestPart::Fields,
            RequestPart::Fields if line.is_empty() => match (self.is_chunked, self.length) {
                (true, _) => RequestPart::ChunkSize,
                (false, 0) => RequestPart::End,
                (false, length) => RequestPart::Body(length),
            },
            RequestPart::Fields => {
                self.read_field(line)?;
                RequestPart::Fields
            }
            RequestPart::ChunkSize => match chunk_size(line)? {
                0 => RequestPart::Trailers,
                size => RequestPart::Chunk(size.checked_add(2)?),
            },
            RequestPart::Trailers if line.is_empty() => RequestPart::End,
            RequestPart::Trailers => RequestPart::Trailers,
            _ => return None,
        };
        Some(())
    }

    fn read_field(&mut self, line: &[u8]) -> Option<()> {
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

    /// Whose turn it is after this was written, all at once and byte by byte.
    fn after(text: &str) -> bool {
        let (mut whole, mut pieces) = (RequestTracker::default(), RequestTracker::default());
        whole.note_write(text.as_bytes());
        for byte in text.as_bytes() {
            pieces.note_write(&[*byte]);
        }
        assert_eq!(whole.is_reply_owed(), pieces.is_reply_owed(), "{text:?}");
        whole.is_reply_owed()
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
                assert!(!after(&request[..cut]), "{:?}", &request[..cut]);
            }
            assert!(after(request), "{request:?}");
            assert!(after(&format!("{request}{sized}")), "the next one: {request:?}");
            assert!(!after(&format!("{request}POST ")), "{request:?}");
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
            assert!(!after(other), "{other:?}");
            assert!(!after(&format!("{other}{get}")), "{other:?}");
            assert!(!after(&format!("{get}{other}")), "behind a request: {other:?}");
        }
        let long = "x".repeat(MAX_LINE);
        assert!(!after(&format!("GET /{long} HTTP/1.1\r\n\r\n")));
        assert!(after(&format!("GET / HTTP/1.1\r\nx: {long}\r\n\r\n")));
    }

    #[test]
    fn an_answer_is_owed_until_its_first_bytes_and_only_if_none_came_before() {
        let mut requests = RequestTracker::default();
        requests.note_write(b"POST / HTTP/1.1\r\ncontent-length: 4\r\n\r\n");
        requests.note_read();
        requests.note_write(b"four");
        assert!(!requests.is_reply_owed(), "it was answered before it was over");
        requests.note_write(b"GET / HTTP/1.1\r\n\r\n");
        assert!(requests.is_reply_owed());
        requests.note_read();
        assert!(!requests.is_reply_owed());
    }

    #[test]
    fn of_tls_the_first_flight_is_answered() {
        let mut requests = RequestTracker::default();
        requests.note_write(&[TLS, 3, 1]);
        assert!(requests.is_reply_owed());
        requests.note_read();
        requests.note_write(&[TLS, 3, 3]);
        assert!(!requests.is_reply_owed());
    }
}

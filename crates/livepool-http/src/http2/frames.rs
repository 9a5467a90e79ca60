//! [`FrameScanner`]: reads along with the frames of a connection (RFC 9113), and knows what the server has
//! said of its future. Pure.
//!
//! The library keeps to itself how many requests a server takes at a time, which of them a GOAWAY has cut
//! off, and which of them were written at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use livepool::protocol::{Scanner, Verdict};

/// RFC 9113 section 4.1: length, type, flags, stream.
const HEAD: usize = 9;
/// What a client says first (section 3.4), before its first frame.
const PREFACE: usize = 24;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
/// The last type of RFC 9113, CONTINUATION.
const LAST_TYPE: u8 = 9;

const ACK: u8 = 1;
/// SETTINGS_MAX_CONCURRENT_STREAMS.
const MAX_STREAMS: u16 = 3;

/// No stream has this number: they have 31 bits.
const NONE: u32 = u32::MAX;

/// More frames within a second than any server has to say that was asked nothing.
const FLOOD: u32 = 1000;
const SECOND: Duration = Duration::from_secs(1);

/// What a connection's frames have said so far.
#[derive(Debug)]
pub(super) struct Said {
    /// The server's first SETTINGS came.
    greeted: AtomicBool,
    /// The server's first bytes were those of an answer in HTTP/1.
    is_http1: AtomicBool,
    max_streams: AtomicU32,
    /// The last stream that a GOAWAY says was or will be processed.
    last_taken: AtomicU32,
    /// The last stream whose HEADERS were written.
    last_sent: AtomicU32,
    /// The library opens no more streams.
    is_spent: AtomicBool,
    /// A request had no answer in its time.
    was_late: AtomicBool,
}

impl Default for Said {
    fn default() -> Self {
        Self {
            greeted: AtomicBool::new(false),
            is_http1: AtomicBool::new(false),
            max_streams: AtomicU32::new(u32::MAX),
            last_taken: AtomicU32::new(NONE),
            last_sent: AtomicU32::new(0),
            is_spent: AtomicBool::new(false),
            was_late: AtomicBool::new(false),
        }
    }
}

impl Said {
    /// Whether the server has said that it speaks HTTP/2.
    pub(super) fn is_greeted(&self) -> bool {
        self.greeted.load(Ordering::Acquire)
    }

    /// Whether the server has answered in HTTP/1.
    pub(super) fn is_http1(&self) -> bool {
        self.is_http1.load(Ordering::Acquire)
    }

    /// The library has opened no stream: it has ended the connection, or has no numbers left.
    pub(super) fn spend(&self) {
        self.is_spent.store(true, Ordering::Release);
    }

    /// A request had no answer in its time: who is on the connection goes on, and then it is closed.
    pub(super) fn note_late(&self) {
        self.was_late.store(true, Ordering::Release);
    }

    pub(super) fn was_late(&self) -> bool {
        self.was_late.load(Ordering::Acquire)
    }

    /// How many requests may be on the connection at a time: what the server said last.
    pub(super) fn max_streams(&self) -> usize {
        if self.is_spent.load(Ordering::Acquire) {
            return 0;
        }
        self.max_streams.load(Ordering::Acquire) as usize
    }

    /// Whether nothing of this request was written.
    pub(super) fn was_not_sent(&self, stream: u32) -> bool {
        stream > self.last_sent.load(Ordering::Acquire)
    }

    /// Whether the server has done nothing of this request and never will: it said that it was too late
    /// (RFC 9113 section 6.8).
    pub(super) fn was_not_taken(&self, stream: u32) -> bool {
        let last_taken = self.last_taken.load(Ordering::Acquire);
        last_taken != NONE && stream > last_taken
    }
}

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    length: u32,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Head {
    fn of(bytes: &[u8; HEAD]) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = *bytes;
        Self {
            length: u32::from_be_bytes([0, a, b, c]),
            kind,
            flags,
            stream: u32::from_be_bytes(stream) & (NONE >> 1),
        }
    }
}

/// Cuts bytes, which come in pieces of any size, into frames.
#[derive(Debug, Default)]
struct Frames {
    /// Bytes before the next frame, or of the present one's payload, that are still to come.
    rest: usize,
    head: [u8; HEAD],
    has: usize,
    frame: Option<Head>,
}

impl Frames {
    fn after(preface: usize) -> Self {
        Self { rest: preface, ..Self::default() }
    }

    /// Tells `see` of each frame's head, with no payload, and of each piece of its payload.
    fn read(&mut self, mut bytes: &[u8], mut see: impl FnMut(Head, &[u8])) {
        while !bytes.is_empty() {
            if self.rest > 0 {
                let (payload, others) = bytes.split_at(self.rest.min(bytes.len()));
                self.rest -= payload.len();
                bytes = others;
                if let Some(head) = self.frame {
                    see(head, payload);
                }
                continue;
            }
            let (part, others) = bytes.split_at((HEAD - self.has).min(bytes.len()));
            self.head[self.has..self.has + part.len()].copy_from_slice(part);
            self.has += part.len();
            bytes = others;
            if self.has == HEAD {
                let head = Head::of(&self.head);
                (self.has, self.frame, self.rest) = (0, Some(head), head.length as usize);
                see(head, &[]);
            }
        }
    }
}

/// Reads along.
#[derive(Debug)]
pub(super) struct FrameScanner {
    said: Arc<Said>,
    sent: Frames,
    received: Frames,
    /// The beginning of a payload: one setting, or a GOAWAY.
    payload: Vec<u8>,
    /// What came first, until the server has greeted.
    first: Vec<u8>,
    /// The code of a GOAWAY, and whether it was reported.
    goaway: Option<(u32, bool)>,
    /// Frames that are no answer, since when, while nothing was asked.
    idle_frames: u32,
    idle_since: Option<Instant>,
}

impl FrameScanner {
    pub(super) fn new(said: &Arc<Said>) -> Self {
        Self {
            said: Arc::clone(said),
            sent: Frames::after(PREFACE),
            received: Frames::default(),
            payload: Vec::new(),
            first: Vec::new(),
            goaway: None,
            idle_frames: 0,
            idle_since: None,
        }
    }

    fn see(&mut self, head: Head, payload: &[u8]) {
        let Self { said, payload: seen, goaway, .. } = self;
        match head.kind {
            SETTINGS if head.flags & ACK == 0 => {
                if payload.is_empty() {
                    seen.clear();
                    said.greeted.store(true, Ordering::Release);
                }
                for byte in payload {
                    seen.push(*byte);
                    let [a, b, value @ ..] = &seen[..] else { continue };
                    let Ok(value) = <[u8; 4]>::try_from(value) else { continue };
                    if u16::from_be_bytes([*a, *b]) == MAX_STREAMS {
                        said.max_streams.store(u32::from_be_bytes(value), Ordering::Release);
                    }
                    seen.clear();
                }
            }
            GOAWAY => {
                if payload.is_empty() {
                    seen.clear();
                }
                let missing = 8_usize.saturating_sub(seen.len()).min(payload.len());
                if missing == 0 {
                    return;
                }
                seen.extend_from_slice(&payload[..missing]);
                let Some((last, code)) = seen.split_first_chunk() else { return };
                let Ok(code) = <[u8; 4]>::try_from(code) else { return };
                let last = u32::from_be_bytes(*last) & (NONE >> 1);
                // A second one can only take back.
                said.last_taken.fetch_min(last, Ordering::AcqRel);
                goaway.get_or_insert((u32::from_be_bytes(code), false));
            }
            _ => {}
        }
        match head.kind {
            // Answers, and what is said about requests.
            DATA | HEADERS | RST_STREAM | WINDOW_UPDATE => self.idle_since = None,
            _ if payload.is_empty() => self.count_idle(),
            _ => {}
        }
    }

    fn count_idle(&mut self) {
        let now = Instant::now();
        let is_recent = |since| now.saturating_duration_since(since) < SECOND;
        if !self.idle_since.is_some_and(is_recent) {
            (self.idle_since, self.idle_frames) = (Some(now), 0);
        }
        self.idle_frames += 1;
    }
}

impl Scanner for FrameScanner {
    fn sent(&mut self, bytes: &[u8]) {
        let said = &self.said;
        let mut has_asked = false;
        self.sent.read(bytes, |head, payload| {
            has_asked |= matches!(head.kind, DATA | HEADERS);
            if head.kind == HEADERS && payload.is_empty() {
                // Streams are opened in their order (RFC 9113 section 5.1.1); trailers come later.
                said.last_sent.fetch_max(head.stream, Ordering::AcqRel);
            }
        });
        if has_asked {
            self.idle_since = None;
        }
    }

    fn received(&mut self, bytes: &[u8]) {
        if !self.said.is_greeted() && self.first.len() < HTTP1.len() {
            let missing = HTTP1.len() - self.first.len();
            self.first.extend(bytes.iter().take(missing));
            if self.first == HTTP1 {
                self.said.is_http1.store(true, Ordering::Release);
            }
        }
        let mut frames = std::mem::take(&mut self.received);
        frames.read(bytes, |head, payload| self.see(head, payload));
        self.received = frames;
    }

    /// What is owed are answers to requests, and whoever waits for one says so.
    fn owed(&self) -> usize {
        0
    }

    fn verdict(&mut self) -> Verdict {
        match &mut self.goaway {
            Some((_, is_reported @ false)) => {
                *is_reported = true;
                Verdict::PeerCloses
            }
            _ if self.idle_since.is_some() && self.idle_frames > FLOOD => Verdict::Close,
            _ => Verdict::Keep,
        }
    }

    fn code(&self) -> Option<String> {
        let (code, _) = self.goaway?;
        Some(format!("{:?}", h2::Reason::from(code)))
    }

    /// A server pings, and changes its settings, when it likes.
    fn peer_may_speak(&self) -> bool {
        true
    }
}

const HTTP1: &[u8] = b"HTTP/1.";

/// What bytes mean that wait unread on a connection that nobody uses: a GOAWAY, or nothing.
pub(super) fn unread(bytes: &[u8]) -> Verdict {
    let mut rest = bytes;
    while let Some((head, after)) = rest.split_first_chunk::<HEAD>() {
        let head = Head::of(head);
        if head.kind == GOAWAY && head.stream == 0 && head.length >= 8 {
            return Verdict::PeerCloses;
        }
        // These may begin in the middle of a frame: then they are no frames.
        let Some(after) = after.get(head.length as usize..) else { break };
        if head.kind > LAST_TYPE {
            break;
        }
        rest = after;
    }
    Verdict::Keep
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags];
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
        let mut payload = Vec::new();
        for (name, value) in settings {
            payload.extend(name.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        frame(SETTINGS, 0, 0, &payload)
    }

    fn goaway(last: u32, code: u32) -> Vec<u8> {
        let mut payload = last.to_be_bytes().to_vec();
        payload.extend(code.to_be_bytes());
        payload.extend(b"too old");
        frame(GOAWAY, 0, 0, &payload)
    }

    /// What is known after these bytes, however they were cut.
    fn after(sent: &[u8], received: &[u8], check: impl Fn(&Said, &mut FrameScanner)) {
        for size in [1, 2, 5, 7, 64, 4096] {
            let said = Arc::new(Said::default());
            let mut scanner = FrameScanner::new(&said);
            sent.chunks(size).for_each(|piece| scanner.sent(piece));
            received.chunks(size).for_each(|piece| scanner.received(piece));
            check(&said, &mut scanner);
        }
    }

    #[test]
    fn the_settings_of_a_server_say_that_it_speaks_http2_and_how_much_it_takes() {
        after(&[], &settings(&[(4, 65535), (MAX_STREAMS, 7), (5, 16384)]), |said, _| {
            assert!(said.is_greeted());
            assert_eq!(said.max_streams(), 7);
        });
        let twice = [settings(&[(MAX_STREAMS, 7)]), settings(&[(1, 9)]), settings(&[(3, 0)])];
        after(&[], &twice.concat(), |said, _| assert_eq!(said.max_streams(), 0));
        after(&[], &frame(SETTINGS, ACK, 0, &[]), |said, _| assert!(!said.is_greeted()));
        after(&[], b"HTTP/1.1 400 Bad Request\r\n\r\n", |said, _| assert!(said.is_http1()));
    }

    #[test]
    fn a_goaway_says_which_requests_were_not_taken_and_once_that_the_peer_closes() {
        let mut sent = vec![0; PREFACE];
        for stream in [1, 3, 5] {
            sent.extend(frame(HEADERS, 4, stream, b"a head"));
            sent.extend(frame(DATA, 1, stream, b"data"));
        }
        let said = [settings(&[]), goaway(0x7fff_ffff, 0), goaway(3, 0)].concat();
        after(&sent, &said, |said, scanner| {
            assert!(!said.was_not_taken(1) && !said.was_not_taken(3) && said.was_not_taken(5));
            assert_eq!(scanner.code().unwrap(), "NO_ERROR");
            assert_eq!(scanner.verdict(), Verdict::PeerCloses);
            assert_eq!(scanner.verdict(), Verdict::Keep);
        });
        after(&sent, &settings(&[]), |said, _| {
            assert!(!said.was_not_taken(u32::MAX - 1));
            assert!(!said.was_not_sent(5) && said.was_not_sent(7));
        });
    }

    #[test]
    fn a_server_that_floods_a_connection_on_which_nothing_is_asked_loses_it() {
        let ping = frame(6, 0, 0, &[0; 8]);
        after(&[], &ping.repeat(FLOOD as usize), |_, scanner| {
            assert_eq!(scanner.verdict(), Verdict::Keep);
            scanner.received(&ping);
            assert_eq!(scanner.verdict(), Verdict::Close);
        });
    }

    #[test]
    fn of_what_waits_unread_only_a_goaway_speaks_against_the_connection() {
        let ping = frame(6, 0, 0, &[0; 8]);
        for (bytes, verdict) in [
            (Vec::new(), Verdict::Keep),
            (ping.clone(), Verdict::Keep),
            ([ping.clone(), goaway(1, 0)].concat(), Verdict::PeerCloses),
            ([frame(DATA, 0, 5, &[7; 100]), goaway(1, 0)].concat(), Verdict::PeerCloses),
            (frame(DATA, 0, 5, &goaway(1, 0)), Verdict::Keep),
            (goaway(1, 0)[..8].to_vec(), Verdict::Keep),
            ([vec![255; 20], goaway(1, 0)].concat(), Verdict::Keep),
        ] {
            assert_eq!(unread(&bytes), verdict, "{bytes:?}");
        }
    }
}

//! Settings of [`Http1`]: limits of a response and tolerance for its syntax, which are hyper's own,
//! and the longest pause of an upload that nobody waits for.

use std::time::Duration;

use super::Http1;
use crate::Error;

/// hyper's buffers are not smaller than this.
const MIN_BUF_SIZE: usize = 8192;
/// A `HeaderMap` of the crate `http` panics when it is to hold more than 24 576.
const MAX_HEADERS: usize = 24_000;

impl Http1 {
    /// The same with so many header fields of a response at most, and of its trailers. Default 100, for
    /// which hyper needs no memory of its own; any other number costs an allocation for each response.
    ///
    /// # Errors
    ///
    /// [`Failure::Setup`](crate::Failure::Setup), if that is more than 24 000.
    pub fn with_max_headers(mut self, most: usize) -> Result<Self, Error> {
        if most > MAX_HEADERS {
            return Err(Error::setup(format!("a head has {MAX_HEADERS} fields at most")));
        }
        self.hyper.max_headers(most);
        Ok(self)
    }

    /// The same with so many bytes of a response's head at most, and of its trailers. Default: what the
    /// [buffer](Self::with_max_buf_size) holds.
    #[must_use]
    pub fn with_max_head_size(mut self, bytes: usize) -> Self {
        self.hyper.max_header_size(bytes);
        self
    }

    /// The same with buffers of so many bytes at most: a head must fit into one, and a body is read and
    /// written in pieces of that size. Default about 400 kB.
    ///
    /// # Errors
    ///
    /// [`Failure::Setup`](crate::Failure::Setup), if that is less than 8192.
    pub fn with_max_buf_size(mut self, bytes: usize) -> Result<Self, Error> {
        if bytes < MIN_BUF_SIZE {
            return Err(Error::setup(format!("a buffer has {MIN_BUF_SIZE} bytes at least")));
        }
        self.hyper.max_buf_size(bytes);
        Ok(self)
    }

    /// The same with header fields of a response that go on in the next line, which must begin with a
    /// space (obs-fold, RFC 9112 section 5.2). Default off: such a response is
    /// [malformed](crate::Failure::Malformed).
    #[must_use]
    pub fn with_folded_headers(mut self, taken: bool) -> Self {
        self.hyper.allow_obsolete_multiline_headers_in_responses(taken);
        self
    }

    /// The same with spaces between the name of a response's header field and its colon, which RFC 9112
    /// section 5.1 forbids. Default off.
    #[must_use]
    pub fn with_spaces_after_header_names(mut self, taken: bool) -> Self {
        self.hyper.allow_spaces_after_header_name_in_responses(taken);
        self
    }

    /// The same with lines in a response's head that are no header fields: they are left out. Default
    /// off.
    #[must_use]
    pub fn with_invalid_headers_ignored(mut self, ignored: bool) -> Self {
        self.hyper.ignore_invalid_headers_in_responses(ignored);
        self
    }

    /// The same with answers that are nothing but a body, as those of HTTP/0.9 are. Default off:
    /// whatever is no HTTP would be one, with status 200.
    #[must_use]
    pub fn with_http09_responses(mut self, taken: bool) -> Self {
        self.hyper.http09_responses(taken);
        self
    }

    /// The same with the names of a request's header fields written `Like-This`, for servers that do not
    /// know that case does not matter. Default off: they are written in lower case.
    #[must_use]
    pub fn with_title_case_headers(mut self, written: bool) -> Self {
        self.hyper.title_case_headers(written);
        self
    }

    /// The same with the case of a response's header names kept, so that a proxy can pass them on as they
    /// came: hyper finds it in the extensions of what it writes. Default off.
    #[must_use]
    pub fn with_header_case_preserved(mut self, kept: bool) -> Self {
        self.hyper.preserve_header_case(kept);
        self
    }

    /// The same with writes of several buffers at once (`writev`), or of one that everything is copied
    /// into. Default: hyper decides.
    #[must_use]
    pub fn with_vectored_writes(mut self, used: bool) -> Self {
        self.hyper.writev(used);
        self
    }

    /// The same with this limit for a request that is still being sent when its response was [read
    /// or dropped](crate#when-the-answer-comes-before-the-request-is-over): if its source gives
    /// nothing, or the server takes nothing, for so long, the connection is closed. The pause may
    /// be of any length with `None`. Default 5 minutes, so that a source that is forgotten does not
    /// hold its place in the pool.
    #[must_use]
    pub fn with_longest_pause(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.longest_pause = limit.into();
        self
    }
}

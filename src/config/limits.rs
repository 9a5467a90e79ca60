//! [`Limits`]: bounds of the memory that a peer can make a client library hold.

/// Bounds of the memory that a peer can make a client library hold, per connection.
///
/// Client libraries collect a whole message before they hand out anything of it, and believe the
/// length that the peer announces. A message beyond a limit ends its connection with an error that
/// holds a [`TooLarge`](crate::TooLarge), and the reason `too_large`.
///
/// The limits concern protocols ([`Builder::protocol`](crate::Builder::protocol)). The bytes of a
/// bare stream go into its user's own buffers. The body of an HTTP response, the rows of a query
/// and the data of a `COPY`, which a client hands out in pieces, are not one message. How many rows
/// a call collects is for its caller to choose.
///
/// In a file: a number of bytes, or text with a unit (`"64 KiB"`, `"1 MiB"`, `"1 GiB"`), or
/// `"unlimited"` for `None`. A limit is from 1024 bytes to 2147483647.
///
/// ```
/// use livepool::{Config, Limits};
///
/// // No answer of this service is longer than 8 MiB.
/// let limits = Limits::default().with_message(8 << 20);
/// assert!(Config::new("db.internal:5432").with_limits(limits).check().is_ok());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields, default))]
#[non_exhaustive]
pub struct Limits {
    /// The longest message of a peer, as its protocol's [`Scanner`](crate::protocol::Scanner) knows it: a row
    /// of PostgreSQL, an answer of Redis, whose elements count for 64 bytes each beside their
    /// content. Default 256 MiB: more than any of these protocols is made for (MySQL's servers refuse
    /// 64 MiB, Kafka's clients take 100 MB), and less than what ends a process in a container of
    /// half a gigabyte. PostgreSQL can send 1 GiB in one row, and Redis 512 MiB in one value: raise
    /// it if yours do. A protocol without a scanner has none; hyper's own bounds apply to HTTP (about
    /// 400 KiB for a head).
    #[cfg_attr(feature = "serde", serde(with = "super::human::bytes_or_unlimited"))]
    pub message: Option<usize>,
    /// The bytes that a peer may send, all in all, before a connection's handshake is over, and
    /// before anybody knows who it is; as many again for the layer below the protocol (TLS).
    /// Default 64 KiB: PostgreSQL's and Redis' handshakes take less than 4 KiB. The limit holds for
    /// every protocol.
    #[cfg_attr(feature = "serde", serde(with = "super::human::bytes_or_unlimited"))]
    pub handshake: Option<usize>,
    /// The longest message, in either direction, after which a connection is kept. A client's
    /// buffers grow with a message and stay as large: after a longer one the connection is passed
    /// on to a caller who waits, and else closed, with reason `outgrown`. Default 4 MiB: ten idle
    /// connections keep tens of megabytes at most, and a connection is not made anew for what takes
    /// no longer to send than a handshake does.
    #[cfg_attr(feature = "serde", serde(with = "super::human::bytes_or_unlimited"))]
    pub retire_above: Option<usize>,
}

impl Limits {
    /// No limit at all.
    pub fn unlimited() -> Self {
        Self { message: None, handshake: None, retire_above: None }
    }

    setters! {
        with_message message: into Option<usize>;
        with_handshake handshake: into Option<usize>;
        with_retire_above retire_above: into Option<usize>;
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { message: Some(256 << 20), handshake: Some(64 << 10), retire_above: Some(4 << 20) }
    }
}

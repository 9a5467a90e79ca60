//! [`Limits`]: how much memory a peer can make a client library hold.

/// How much memory a peer can make a client library hold, per connection.
///
/// Client libraries collect a whole message before they hand out anything of it, and believe the
/// length that the peer announces. What goes beyond a limit ends its connection with an error that
/// holds a [`TooLarge`](crate::TooLarge), and the reason `too_large`.
///
/// The limits concern protocols ([`Builder::protocol`](crate::Builder::protocol)). The bytes of a
/// bare stream go into its user's own buffers. What a client hands out in pieces is not one message:
/// the body of an HTTP response, the rows of a query, the data of a `COPY`. How many rows a call
/// collects is for its caller to choose.
///
/// In a file: a number of bytes, or text with a unit (`"64 KiB"`, `"1 MiB"`, `"1 GiB"`), or
/// `"unlimited"` for `None`. Each is from 1024 bytes to 2147483647.
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
    /// What a peer may send, all in all, before a connection's handshake is over, and before anybody
    /// knows who it is; the same again for what is below the protocol (TLS). Default 64 KiB:
    /// PostgreSQL's and Redis' handshakes take less than 4 KiB. It holds for every protocol.
    #[cfg_attr(feature = "serde", serde(with = "super::human::bytes_or_unlimited"))]
    pub handshake: Option<usize>,
    /// A connection over which a longer message went, in either direction, is not kept: its client's
    /// buffers have grown with that message, and stay as large. When it comes back it is passed on to
    /// a caller who waits, and else closed, with reason `outgrown`. Default 4 MiB: ten idle
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
